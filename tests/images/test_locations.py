"""Where images are: URLs from published paths, and which of them are there without opening one."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from PIL import Image

from llava_zh.demo import DemoPaths
from llava_zh.errors import ImageNotFound, RootNotFound
from llava_zh.images.locations import ArchivedImages, EmbeddedImages, FolderImages, Sa1bImages, UnresolvedImages
from llava_zh.images.prefixed import Part, PrefixedImages


def jpeg(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 2)).save(buffer, "jpeg")
    return buffer.getvalue()


def paths(*names: str | None) -> pa.Array:
    return pa.array(names, pa.string())


def archive(folder: Path, name: str, members: dict[str, bytes], mode: str = "w") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / name, mode) as tar:  # type: ignore[call-overload]
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def opened(url: str) -> bytes:
    with fsspec.open(url) as handle:
        return bytes(handle.read())


def test_sa1b_urls_name_every_root_and_null_stays_null(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Sa1bImages(("/nvme/sa1b", "hf://datasets/u/sa1b"))
    urls = images.urls(paths("sa_000000/sa_1.jpg", None)).to_pylist()
    assert urls == ["sa1b://sa_000000/sa_1.jpg::/nvme/sa1b::hf://datasets/u/sa1b", None]
    assert images.decode
    assert Sa1bImages(None).urls(paths("sa_000000/sa_1.jpg")).to_pylist() == ["sa1b://sa_000000/sa_1.jpg"]
    assert not Sa1bImages(None).decode
    monkeypatch.setenv("SA1B_ROOT", "/nvme/sa1b")
    assert Sa1bImages(None).decode


def test_sa1b_images_are_looked_up_in_all_roots_at_once(demo: DemoPaths, tmp_path: Path) -> None:
    (tmp_path / "sa_000009").mkdir()
    (tmp_path / "sa_000009" / "sa_99.jpg").write_bytes(jpeg(3))
    images = Sa1bImages((str(tmp_path), str(demo.sa1b)))
    found = images.present(paths("sa_000000/sa_1.jpg", "sa_000009/sa_99.jpg", "sa_000009/sa_98.jpg", None))
    assert found.tolist() == [True, True, False, False]


def test_without_any_root_looking_up_says_what_to_set() -> None:
    with pytest.raises(RootNotFound, match="SA1B_ROOT"):
        Sa1bImages(None).present(paths("sa_000000/sa_1.jpg"))


@pytest.mark.parametrize("name", ["plain", "with, comma", "图像"])
def test_files_below_a_folder_are_listed_once_a_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "1.jpg").write_bytes(jpeg(4))
    images = FolderImages(str(folder))
    assert images.present(paths("a/b/1.jpg", "a/b/2.jpg", "c/1.jpg", None)).tolist() == [True, False, False, False]
    (url, null) = images.urls(paths("a/b/1.jpg", None)).to_pylist()
    assert (opened(url), null) == (jpeg(4), None)


@pytest.mark.parametrize("name", ["plain", "with, comma", "图像"])
def test_images_are_found_in_whichever_archive_of_a_folder_holds_them(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    archive(folder, "one.tar", {"images/1.jpg": jpeg(1), "images/2.jpg": jpeg(2)})
    archive(folder, "two.tar.gz", {"./deep/images/3.jpg": jpeg(3)}, "w:gz")
    images = ArchivedImages(str(folder))
    asked = paths("images/2.jpg", "images/3.jpg", "images/9.jpg", None)
    assert images.present(asked).tolist() == [True, True, False, False]
    urls = images.urls(asked).to_pylist()
    assert [opened(url) for url in urls[:2]] == [jpeg(2), jpeg(3)]
    assert urls[3] is None
    with pytest.raises(ImageNotFound, match=r"images/9\.jpg"):
        opened(urls[2])


def test_an_embedded_image_without_its_bytes_is_missing_and_an_unresolved_one_too() -> None:
    names = paths("a.jpg", None)
    assert not EmbeddedImages().present(names).any()
    assert EmbeddedImages().decode
    url, null = EmbeddedImages().urls(names).to_pylist()
    assert null is None
    with pytest.raises(ImageNotFound, match=r"no bytes for its image 'a\.jpg'"):
        opened(url)
    assert not UnresolvedImages().present(names).any()
    assert not UnresolvedImages().decode
    assert UnresolvedImages().urls(names).to_pylist() == ["a.jpg", None]


def test_places_of_images_tell_themselves_apart_and_travel_to_workers() -> None:
    places = [
        Sa1bImages(None),
        Sa1bImages(("/a",)),
        Sa1bImages(("/a", "/b")),
        ArchivedImages("/a"),
        FolderImages("/a"),
        EmbeddedImages(),
        UnresolvedImages(),
    ]
    assert len({place.identity for place in places}) == len(places)
    assert [pickle.loads(pickle.dumps(place)) for place in places] == places


def test_every_place_says_which_archives_it_holds_and_what_lies_outside_of_them(tmp_path: Path) -> None:
    archive(tmp_path / "sa1b", "sa_000003.tar", {"sa_1.jpg": b"1"})
    (tmp_path / "own").mkdir()
    sa1b, own = Sa1bImages((str(tmp_path / "sa1b"),)), FolderImages(str(tmp_path / "own"))
    before = own.held()
    (tmp_path / "own" / "1.jpg").write_bytes(b"1")
    assert sa1b.held()[0] == ("sa_000003",)
    assert own.held()[0] is None is before[0]
    assert own.held() != before
    assert EmbeddedImages().held() == UnresolvedImages().held() == (None, "")
    parts = (Part("sam/", sa1b), Part("own/", own), Part("", None))
    assert PrefixedImages(parts).held() == (("sa_000003",), f"{sa1b.held()[1]} {own.held()[1]}")
