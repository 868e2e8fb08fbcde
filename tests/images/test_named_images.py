"""A row never chooses what is opened: only the image that it names, below the place where images are."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hunting import hunt
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_zh import load_dataset
from llava_zh.errors import BadArgument, ImageNotFound, LlavaZhError
from llava_zh.images.locations import FolderImages, Sa1bImages
from llava_zh.sa1b import filesystem, image_url
from llava_zh.sa1b.published import checked, image_urls, name_of

NAME = "llava-instruct-zh-600k"
TURNS = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]


def jpeg(color: str | tuple[int, int, int] = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "JPEG")
    return buffer.getvalue()


def color_of(image: Any) -> str:
    red, green, blue = image.convert("RGB").getpixel((0, 0))
    return "red" if red > 150 else "green" if green > 100 else "blue" if blue > 150 else "black"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SA1B_ROOT", raising=False)
    monkeypatch.delenv("LLAVA_ZH_FOLLOW_LINKS", raising=False)
    filesystem._roots.clear()
    filesystem.Sa1bFileSystem.clear_instance_cache()
    yield


def write_rows(folder: Path, *images: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": str(n), "image": image, "conversations": TURNS} for n, image in enumerate(images)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def stream(folder: Path, **options: Any) -> Any:
    return load_dataset(NAME, split="train", streaming=True, data_dir=folder, **options)


def colors(folder: Path, **options: Any) -> list[str | None]:
    """What each row's picture shows; the name of the error for one that cannot be opened."""
    found: list[str | None] = []
    for row in stream(folder, **options).decode(False):
        try:
            image = row["image"]
            data = image["bytes"] or fsspec.open(image["path"]).open().read()
            found.append(color_of(Image.open(io.BytesIO(data))))
        except (LlavaZhError, OSError) as error:
            found.append(type(error).__name__)
    return found


# -- the picture that the row means ------------------------------------------------------------------------


def test_of_pictures_with_one_name_each_row_has_its_own_and_one_that_no_archive_holds_is_missing(
    tmp_path: Path,
) -> None:
    folder = write_rows(tmp_path / "d", "coco/train2017/1.jpg", "gqa/images/1.jpg", "vg/VG_100K/1.jpg")
    write_zip(folder / "train2017.zip", {"train2017/1.jpg": jpeg("red")})
    write_zip(folder / "images.zip", {"images/1.jpg": jpeg("green")})
    assert colors(folder) == ["red", "green", "ImageNotFound"]
    assert colors(folder, on_missing_image="skip") == ["red", "green"]
    with pytest.raises(
        ImageNotFound, match=r"vg/VG_100K/1\.jpg .*images/images/1\.jpg.*another picture.*on_missing_im"
    ):
        list(stream(folder).skip(2))


def test_archives_of_one_name_are_told_apart_by_the_folders_they_are_in(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "d", "gqa/images/1.jpg", "ocr/images/1.jpg", "text/images/1.jpg", "images/1.jpg")
    write_zip(folder / "gqa" / "images.zip", {"images/1.jpg": jpeg("red")})
    write_zip(folder / "ocr" / "images.zip", {"1.jpg": jpeg("green")})
    assert colors(folder) == ["red", "green", "ImageNotFound", "ImageNotFound"]


def test_an_archives_name_counts_as_the_folder_above_its_members(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "d", "coco/train2017/1.jpg", "1.jpg", "x/1.jpg")
    write_zip(folder / "train2017.zip", {"1.jpg": jpeg("red")})
    assert colors(folder) == ["red", "red", "ImageNotFound"]  # a name without folders is one that a single member has
    write_zip(folder / "val2017.zip", {"1.jpg": jpeg("green")})
    assert colors(folder) == ["red", "ImageNotFound", "ImageNotFound"]


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_members_with_equal_bytes_are_one_picture_and_those_that_differ_are_none(tmp_path: Path, write: Any) -> None:
    folder = write_rows(tmp_path / "d", "1.jpg", "x/images/2.jpg", "images/3.jpg")
    other = bytearray(jpeg("green"))
    other[-3] ^= 1  # as long, and another picture
    end = "zip" if write is write_zip else "tar"
    for name, third in (("a", jpeg("green")), ("b", bytes(other))):
        members = {"images/1.jpg": jpeg("red"), "images/2.jpg": jpeg("green"), "images/3.jpg": third}
        write(folder / f"{name}.{end}", members)
    assert colors(folder) == ["red", "green", "ImageNotFound"]


def test_an_archive_that_comes_later_is_looked_into(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "d", "a/1.jpg", "b/1.jpg")
    write_zip(folder / "a.zip", {"1.jpg": jpeg("red")})
    assert colors(folder) == ["red", "ImageNotFound"]
    write_zip(folder / "b.zip", {"1.jpg": jpeg("green")})
    assert colors(folder) == ["red", "green"]


FOLDER = st.sampled_from(["coco", "gqa", "images", "train2017", "vg"])
MEMBER = st.lists(FOLDER, max_size=2).map(lambda folders: "/".join([*folders, "1.jpg"]))


@hunt(15)
@given(
    st.dictionaries(st.lists(FOLDER, min_size=1, max_size=2).map("/".join), MEMBER, min_size=1, max_size=4),
    st.lists(st.lists(FOLDER, max_size=3).map(lambda folders: "/".join([*folders, "1.jpg"])), min_size=1, max_size=5),
)
def test_a_picture_found_has_more_of_the_rows_path_than_any_other(
    tmp_path_factory: pytest.TempPathFactory, archives: dict[str, str], wanted: list[str]
) -> None:
    root = tmp_path_factory.mktemp("root")
    for number, (name, member) in enumerate(archives.items()):
        write_zip(root / f"{name}.zip", {member: bytes([number])})

    def common(full: str, path: str) -> int:
        pairs = zip(reversed(full.split("/")), reversed(path.split("/")), strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(full.count("/"), path.count("/")) + 1)

    fs = filesystem.Sa1bFileSystem(fo=[str(root)], skip_instance_cache=True)
    for path, found in zip(wanted, fs.find_members(wanted), strict=True):
        scores = [
            max(common(f"{name.rpartition('/')[0]}/{member}".lstrip("/"), path), common(f"{name}/{member}", path))
            for name, member in archives.items()
        ]
        best = [number for number, score in enumerate(scores) if score == max(scores)]
        if len(best) > 1 or max(scores) < min(2, path.count("/") + 1):
            assert found is None, path
        else:
            assert found is not None and fs.cat_file(found) == bytes(best), path


# -- names that would choose what is opened ----------------------------------------------------------------


def test_a_member_named_like_a_chained_url_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "victim" / "docs").mkdir(parents=True)
    (tmp_path / "victim" / "docs" / "id_rsa").write_bytes(jpeg("green"))
    folder = write_rows(tmp_path / "d", "other.jpg", "victim")
    write_tar(folder / "docs.tar", {"other.jpg": jpeg("red"), f"id_rsa::{tmp_path}/victim": b"x"})
    assert colors(folder) == ["red", "ImageNotFound"]
    write_tar(folder / f"x::{str(tmp_path).replace('/', ':')}.tar", {"a/3.jpg": jpeg("red")})
    assert colors(folder) == ["red", "ImageNotFound"]


def test_a_row_without_bytes_among_embedded_ones_is_a_missing_image_and_no_file_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    images = [{"bytes": jpeg("red"), "path": "a.jpg"}, {"bytes": None, "path": "private.jpg"}]
    images.append({"bytes": jpeg("green"), "path": "/etc/passwd"})
    rows = [{"id": str(n), "image": image, "conversations": TURNS} for n, image in enumerate(images)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    (tmp_path / "private.jpg").write_bytes(jpeg("blue"))
    (folder / "private.jpg").write_bytes(jpeg("blue"))
    monkeypatch.chdir(tmp_path)
    assert colors(folder) == ["red", "ImageNotFound", "green"]
    assert colors(folder, on_missing_image="skip") == ["red", "green"]
    nulls = list(stream(folder, on_missing_image="null"))
    assert [row["image"] is None for row in nulls] == [False, True, False]
    with pytest.raises(ImageNotFound, match="no bytes for its image 'private.jpg'"):
        list(stream(folder))
    # What stands beside bytes is no path that anything could open in their place.
    assert [row["image"]["path"] for row in stream(folder).decode(False)][2] == "etc/passwd"


@pytest.mark.parametrize("name", ["50%25.jpg", "what?.jpg", "a#b.jpg", "[odd]*.jpg", "*.jpg", "图 像.jpg", "~"])
def test_a_name_with_characters_that_urls_or_shells_know_is_that_file_and_no_other(tmp_path: Path, name: str) -> None:
    folder = write_rows(tmp_path / "files", "i/first.jpg", f"i/{name}")
    (folder / "i").mkdir()
    (folder / "i" / "first.jpg").write_bytes(jpeg("red"))
    assert colors(folder) == ["red", "ImageNotFound"]
    (folder / "i" / name).write_bytes(jpeg("green"))
    assert colors(folder) == ["red", "green"]
    other = write_rows(tmp_path / "zip", "i/first.jpg", f"i/{name}")
    write_zip(other / "i.zip", {"first.jpg": jpeg("red")})
    assert colors(other) == ["red", "ImageNotFound"]
    with pytest.raises(ImageNotFound):
        list(stream(other))  # by the opener that `datasets` uses, which expands wildcards
    (other / "i.zip").unlink()
    write_zip(other / "i.zip", {"first.jpg": jpeg("red"), name: jpeg("green")})
    assert [color_of(row["image"]) for row in stream(other)] == ["red", "green"]


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "y/" * 3000 + "1.jpg", "é" * 200 + ".jpg"])
def test_a_name_that_no_file_can_have_is_a_missing_image(tmp_path: Path, name: str) -> None:
    folder = write_rows(tmp_path / "files", "first.jpg", name)
    (folder / "first.jpg").write_bytes(jpeg("red"))
    assert colors(folder) == ["red", "ImageNotFound"]
    assert colors(folder, on_missing_image="skip") == ["red"]
    assert colors(folder, image_root=folder, on_missing_image="skip") == ["red"]
    assert Sa1bImages((str(folder),)).present(pa.array([name])).tolist() == [False]


def test_a_backslash_in_a_path_is_a_slash_wherever_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(jpeg("red"))
    for images in (FolderImages(str(tmp_path)), FolderImages(str(tmp_path), within=str(tmp_path))):
        paths = pa.array(["images\\1.jpg", "..\\..\\x.jpg"])
        assert images.present(paths).tolist() == [True, False]
        assert images.urls(paths).to_pylist()[0] == f"{tmp_path}/images/1.jpg"
        assert images.urls(paths).to_pylist()[1].startswith("sa1b://!refused/")


def test_a_folder_beside_the_one_that_was_named_is_not_reached(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "home" / "clone", "private/1.jpg")
    (tmp_path / "home" / "private").mkdir()
    (tmp_path / "home" / "private" / "1.jpg").write_bytes(jpeg("blue"))
    assert [row["image"] for row in stream(folder)] == [{"bytes": None, "path": "private/1.jpg"}]


def test_images_that_are_not_found_are_told_of_with_what_was_looked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    list(stream(write_rows(tmp_path / "d", "images/1.jpg")))
    [record] = [record for record in caplog.records if "undecoded" in record.getMessage()]
    assert "no file images/1.jpg in any of" in record.getMessage() and "image_root=" in record.getMessage()


@pytest.mark.parametrize("path", ["a::/etc/passwd", "../a", "zip://a", "file:///etc/passwd", "a\0b", "c:\\x", ""])
def test_no_url_is_made_of_a_path_that_would_choose_what_is_opened(path: str) -> None:
    with pytest.raises(BadArgument, match="no URL can be made of it"):
        image_url(path, "/data")
    [url] = image_urls(pa.array([path or "/"]), "::/data").to_pylist()
    assert url.startswith("sa1b://!refused/") and url.count("::") == 1 and ".." not in url


# -- symbolic links ----------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A clone with a link inside, one that leads out, a folder that leads out, and a file of its own."""
    outside = tmp_path / "home"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(jpeg("blue"))
    write_zip(outside / "secret.zip", {"secret/9.jpg": jpeg("blue")})
    folder = write_rows(tmp_path / "clone", "i/own.jpg", "i/inside.jpg", "i/out.jpg", "out/secret.jpg")
    (folder / "i").mkdir()
    (folder / "i" / "own.jpg").write_bytes(jpeg("red"))
    (folder / "raw.jpg").write_bytes(jpeg("green"))
    (folder / "i" / "inside.jpg").symlink_to("../raw.jpg")
    (folder / "i" / "out.jpg").symlink_to(outside / "secret.jpg")
    (folder / "out").symlink_to(outside)
    return folder


def test_a_link_that_leads_out_of_a_data_folder_is_not_followed(linked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert colors(linked) == ["red", "green", "ImageNotFound", "ImageNotFound"]
    assert colors(linked, on_missing_image="skip") == ["red", "green"]
    with pytest.raises(ImageNotFound, match="symbolic link that leads out.*LLAVA_ZH_FOLLOW_LINKS=1"):
        list(stream(linked).skip(2))
    assert colors(linked, image_root=linked) == ["red", "green", "blue", "blue"]
    monkeypatch.setenv("LLAVA_ZH_FOLLOW_LINKS", "1")
    assert colors(linked) == ["red", "green", "blue", "blue"]


def test_no_archive_and_no_file_is_reached_by_a_link_out_of_a_folder_of_archives(linked: Path, tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "zips", "a/1.jpg", "secret/9.jpg", "out/secret.jpg", "b/9.jpg")
    write_zip(folder / "a.zip", {"1.jpg": jpeg("red")})
    (folder / "b.zip").symlink_to(tmp_path / "home" / "secret.zip")
    (folder / "out").symlink_to(tmp_path / "home")
    assert colors(folder) == ["red", "ImageNotFound", "ImageNotFound", "ImageNotFound"]


def test_the_links_of_the_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    cache = tmp_path / "datasets--u--r"
    folder = write_rows(cache / "snapshots" / "0123", "i/1.jpg")
    (cache / "blobs").mkdir()
    (cache / "blobs" / "ab").write_bytes(jpeg("red"))
    (folder / "i").mkdir()
    (folder / "i" / "1.jpg").symlink_to("../../../blobs/ab")
    assert colors(folder) == ["red"]


# -- the hunts ---------------------------------------------------------------------------------------------

NASTY = st.lists(
    st.sampled_from(
        [
            "..",
            ".",
            "",
            "a",
            "x.jpg",
            "victim",
            "home",
            "~",
            "C:",
            "file:",
            "zip:",
            "sa1b:",
            "::",
            "%2e%2e",
            "?",
            "#",
            "*",
        ]
    )
    | st.text(max_size=4),
    min_size=1,
    max_size=6,
).flatmap(lambda parts: st.sampled_from(["/", "::", "\\", "://", "::/"]).map(lambda by: by.join(parts)))


@hunt(200)
@given(st.lists(NASTY, min_size=1, max_size=4))
@example(["id_rsa::/home/victim"])
@example(["%2e%2e/%2e%2e/admin?x=1"])
def test_a_url_has_the_path_of_the_row_or_none_and_the_root_that_was_given(paths: list[str]) -> None:
    paths = [path.encode("utf-8", "replace").decode() for path in paths]
    for url, path in zip(image_urls(pa.array(paths), "::/pictures").to_pylist(), paths, strict=True):
        body = url.removeprefix("sa1b://")
        assert body.endswith("::/pictures") and body.count("::") == 1
        chain = fsspec.core._un_chain(url, {})
        assert [hop[1] for hop in chain] == ["sa1b", "file"] and chain[1][0] == "/pictures"
        assert ".." not in chain[0][0].split("/") and "*" not in chain[0][0]
        inner = name_of(url)
        assert (
            body.startswith(("!refused/", "!name/")) or inner == path or os.path.normpath(path) == inner or "\\" in path
        )
    marked = checked(pa.array(paths)).to_pylist()
    assert [url is None for url in marked] == [False] * len(paths)
    base = FolderImages("/pictures").urls(pa.array(paths)).to_pylist()
    for url in base:
        assert url.startswith("sa1b://!refused/") or os.path.normpath(url + "_").startswith("/pictures/")


AUDITED = """
import io, json, os, sys
folder, allowed = sys.argv[1:]
import datasets, fsspec, PIL.JpegImagePlugin, llava_zh, llava_zh.sa1b.filesystem, zipfile, fsspec.implementations.local
from llava_zh import load_dataset
datasets.utils.logging.disable_progress_bar()
datasets.config.STREAMING_OPEN_MAX_RETRIES = 1
armed, seen = False, []
code = tuple({os.path.realpath(p) for p in (*sys.path, sys.prefix, sys.base_prefix) if p})
fine = (os.path.realpath(allowed) + "/", "/dev/", "/proc/", "/sys/", "/etc/localtime", "/usr/share/zoneinfo")
def audit(event, args):
    if not armed or event not in ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo"):
        return
    what = args[0]
    if event.startswith("socket"):
        seen.append(f"{event} {args}")
    elif isinstance(what, (str, bytes)):
        path = os.path.realpath(os.fsdecode(what))
        if not (path + "/").startswith(fine) and not path.startswith(code):
            seen.append(f"{event} {path}")
sys.addaudithook(audit)
list(load_dataset("llava-instruct-zh-600k", split="train", streaming=True, data_dir=folder + "/warm"))
armed = True
opened = 0
for options in ({}, {"on_missing_image": "skip"}, {"image_root": folder + "/root"}):
    for case in sorted(os.listdir(folder + "/cases")):
        try:
            rows = load_dataset("llava-instruct-zh-600k", split="train", streaming=True,
                                data_dir=f"{folder}/cases/{case}", on_bad_row="skip", **options)
            for row in rows.decode(False):
                image = row["image"]
                try:
                    if image["bytes"] is None:
                        datasets.Image().decode_example(image)
                    opened += 1
                except (OSError, llava_zh.errors.LlavaZhError):
                    pass
        except llava_zh.errors.LlavaZhError:
            pass
print(json.dumps([opened, sorted(set(seen))]))
"""

PARTS = "a|1.jpg|victim|secret.jpg|..|~|docs|%2e%2e|file:|http:|sa1b:|x y|*|?|\\|::".split("|")


@pytest.mark.slow
@pytest.mark.hunt
# Each example is a process of its own, some seconds long: a few of them a run, and no shrinking.
@settings(max_examples=4 if os.environ.get("LLAVA_ZH_HUNT") else 1, phases=(Phase.explicit, Phase.generate))
@given(st.integers(0, 1 << 32))
@example(0)
def test_nothing_outside_of_the_folder_is_opened_whatever_rows_members_and_archives_are_called(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    victim = tmp_path_factory.mktemp("victim")
    for name in ("secret.jpg", "1.jpg", "a/1.jpg", "docs/1.jpg"):
        (victim / name).parent.mkdir(exist_ok=True)
        (victim / name).write_bytes(jpeg("blue"))
    write_zip(victim / "a.zip", {"1.jpg": jpeg("blue")})
    write_rows(scratch / "warm", "1.jpg")
    (scratch / "warm" / "1.jpg").write_bytes(jpeg())
    (scratch / "root").mkdir()
    (scratch / "root" / "1.jpg").write_bytes(jpeg())
    random = Random(seed)

    def name() -> str:
        parts = [random.choice([*PARTS, str(victim)]) for _ in range(random.randint(1, 5))]
        return random.choice(["/", "::", "\\"]).join(parts)

    for number in range(8):
        folder = scratch / "cases" / f"{number}"
        names = [name() for _ in range(8)]
        write_rows(folder, "a/1.jpg", *names, *(one.rpartition("/")[2] for one in names))
        members = {one.lstrip("/"): jpeg() for one in ["1.jpg", *(name() for _ in range(4))]}
        archive = random.choice(["a.tar", "docs.tar", "a::b.tar", "x:.tar", "%2e.tar", "a*.tar"])
        write_tar(folder / archive, {one: content for one, content in members.items() if one})
        for link in random.sample(["out", "a", "b.zip", "1.jpg"], 2):
            (folder / link).symlink_to(victim / {"b.zip": "a.zip", "1.jpg": "1.jpg"}.get(link, ""))
    caches = {name: str(scratch / "hf") for name in ("LLAVA_ZH_CACHE", "HF_HOME", "HF_DATASETS_CACHE")}
    environment = {**os.environ, **caches, "HOME": str(victim)}
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, str(scratch), str(scratch)],
        capture_output=True, text=True, check=False, timeout=120, cwd=victim, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    opened, outside = json.loads(done.stdout.splitlines()[-1])
    assert outside == [] and opened
