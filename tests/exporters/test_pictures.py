"""Pictures in exports: each row its own, whatever they are called; whole ones only; and nothing but pictures."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from exported_rows import LLAVA, lines, tree
from picture_files import noise, picture, png_of
from PIL import Image

from llava_zh import export
from llava_zh.errors import BadImage, ImageNotFound, LlavaZhError, NothingLeft, OutputError, RunConflict, UnsafeName
from llava_zh.exporters import files, run
from llava_zh.exporters.card import _code, _fenced

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)
TURNS = [{"from": "human", "value": "<image>\n颜色?"}, {"from": "gpt", "value": "红"}]


def embedded(path: Path, pictures: list[tuple[str | None, bytes | None]]) -> None:
    """A Parquet file of rows that embed their pictures under the given names; a row's id is its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": data, "path": name} for name, data in pictures]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    turn = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    table = {
        "id": [f"{path.stem}-{i}" for i in range(len(images))],
        "image": pa.array(images, kind),
        "conversations": pa.array([TURNS] * len(images), turn),
    }
    pq.write_table(pa.table(table), path)


def named(folder: Path, files: Mapping[str, bytes]) -> None:
    """JSON Lines whose rows name these files beside them; a row's id is its image's name."""
    rows = [{"id": name, "image": name, "conversations": TURNS} for name in files]
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def colours(folder: Path) -> dict[str, tuple[int, ...]]:
    """The colour that each row's picture has in an export for LLaMA-Factory, by the row's id."""
    return {row["id"]: Image.open(folder / row["images"][0]).convert("RGB").getpixel((0, 0)) for row in lines(folder)}


def arguments(folder: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {"to": "llama-factory", "data_dir": folder, "output_dir": out, **more}


# -- a picture is its bytes --------------------------------------------------------------------------------


def test_pictures_that_share_a_name_stay_each_row_its_own(tmp_path: Path) -> None:
    embedded(
        tmp_path / "in" / "a.parquet", [("0.jpg", picture(RED)), ("0.jpg", picture(GREEN)), ("A.png", picture(RED))]
    )
    embedded(
        tmp_path / "in" / "b.parquet", [("0.jpg", picture(BLUE)), ("0.jpg", picture(RED)), ("a.png", picture(GREEN))]
    )
    summary = export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out"))
    expected = {"a-0": RED, "a-1": GREEN, "a-2": RED, "b-0": BLUE, "b-1": RED, "b-2": GREEN}
    assert colours(tmp_path / "out") == expected
    found = {row["id"]: row["images"][0] for row in lines(tmp_path / "out")}
    assert found["a-0"] == found["b-1"]  # the same picture under the same name is one file
    assert summary.image_files == 5 == len({name.lower() for name in found.values()})
    assert all(name.startswith("images/0-") for id_, name in found.items() if not id_.endswith("2"))


def test_a_data_uri_says_what_the_picture_is_whatever_it_is_called(tmp_path: Path) -> None:
    kinds = {"a.tif": "TIFF", "b.PNG": "PNG", "c.jpg": "PNG", "d.png": "JPEG", "e.jpg": "JPEG", "f.webp": "WEBP"}
    named(tmp_path / "in", {name: picture(RED, kind) for name, kind in kinds.items()})
    export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out", to="jsonl", images="embed"))
    found = {row["id"]: row["image"].partition(";")[0] for row in lines(tmp_path / "out")}
    assert found == {name: f"data:image/{kind.lower()}" for name, kind in kinds.items()}


def test_webdataset_shards_that_begin_again_at_zero_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for shard, colour in (("a", RED), ("b", GREEN)):
        with tarfile.open(tmp_path / "in" / f"{shard}.tar", "w") as tar:
            row = json.dumps({"id": shard, "conversations": TURNS}).encode()
            for name, data in (("00000000.jpg", picture(colour)), ("00000000.json", row)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out"))
    assert colours(tmp_path / "out") == {"a": RED, "b": GREEN}


def test_names_that_become_alike_once_they_are_made_safe_stay_apart(tmp_path: Path) -> None:
    alike = {"aa:b.png": RED, "aa_b.png": GREEN, "x /1.png": BLUE, "x_/1.png": RED, "2.png": RED, "2.jpg": GREEN}
    named(tmp_path / "in", {name: picture(colour) for name, colour in alike.items()})
    export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out"))
    assert colours(tmp_path / "out") == alike
    found = {row["id"]: row["images"][0] for row in lines(tmp_path / "out")}
    assert found["aa_b.png"] == "images/aa_b.png" and found["aa:b.png"].startswith("images/aa_b-")
    assert found["2.png"] == "images/2.png" and found["2.jpg"].startswith("images/2-")  # it holds a PNG


def test_a_name_that_another_picture_has_taken_is_not_taken_for_it(tmp_path: Path) -> None:
    """As where a file system makes no difference between a.png and A.png, or the source changed between two runs."""
    named(tmp_path / "in", {"a.png": picture(RED)})
    (tmp_path / "out" / ".export").mkdir(parents=True)
    (tmp_path / "out" / "images").mkdir()
    (tmp_path / "out" / "images" / "a.png").write_bytes(picture(GREEN))
    export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out"))
    assert colours(tmp_path / "out") == {"a.png": RED}
    (tmp_path / "out" / "images" / lines(tmp_path / "out")[0]["images"][0].rpartition("/")[2]).write_bytes(b"damaged")
    (tmp_path / "out" / "data" / "default-00000-of-00001.jsonl").unlink()
    export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out"))
    assert colours(tmp_path / "out") == {"a.png": RED}


@pytest.mark.parametrize("links", [True, False])
def test_of_two_processes_that_write_one_name_only_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:  # as on exFAT

        def refused(*_: Any) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
    exists = Path.exists
    raced = []

    def racing(path: Path, **more: Any) -> bool:
        """The other process's file comes just after this one has looked for it."""
        found = exists(path, **more)
        if path.name == "a.png" and not raced:
            raced.append(path)
            path.write_bytes(b"the other's")
        return found

    monkeypatch.setattr(Path, "exists", racing)
    assert not files.add_bytes(tmp_path / "a.png", b"ours", tmp_path)
    assert (tmp_path / "a.png").read_bytes() == b"the other's"
    assert files.add_bytes(tmp_path / "b.png", b"ours", tmp_path) and (tmp_path / "b.png").read_bytes() == b"ours"


@pytest.mark.parametrize("num_proc", [1, 2])
def test_the_names_do_not_depend_on_processes_and_runs(tmp_path: Path, num_proc: int) -> None:
    for file in range(4):
        embedded(
            tmp_path / "in" / f"{file}.parquet", [(f"{i % 2}.jpg", picture((file * 60, i * 30, 0))) for i in range(6)]
        )
    once = arguments(tmp_path / "in", tmp_path / "out", num_shards=4)
    export(LLAVA, **once)
    before = tree(tmp_path / "out")
    assert len(set(colours(tmp_path / "out").values())) == 24
    (tmp_path / "out" / "data" / "default-00001-of-00004.jsonl").unlink()
    for path in sorted((tmp_path / "out" / "images").iterdir())[::2]:
        path.unlink()
    for path in (tmp_path / "out" / ".export" / "finished").iterdir():
        path.unlink()
    export(LLAVA, **once, num_proc=num_proc)
    assert tree(tmp_path / "out") == before


# -- only pictures, and only whole ones --------------------------------------------------------------------


def bad_pictures() -> dict[str, bytes]:
    return {
        "page.jpg": b"<html>404</html>",
        "half.jpg": noise()[:900],
        "empty.jpg": b"",
        "drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        "cut.png": picture(RED, size=(64, 64))[:-20],
        "secret.jpg": b"root:x:0:0:root:/root:/bin/bash\n",
        "huge.png": png_of(20_000, 10_000),
    }


def test_what_is_no_whole_picture_is_named_with_its_row(tmp_path: Path) -> None:
    for name, data in bad_pictures().items():
        named(tmp_path / name, {name: data})
        with pytest.raises(BadImage, match=rf"row '{name}': {name}: "):
            export(LLAVA, **arguments(tmp_path / name, tmp_path / "out" / name))
        assert not list((tmp_path / "out" / name).glob("[di]*/*"))


@pytest.mark.parametrize(("to", "max_side"), [("llama-factory", None), ("parquet", None), ("webdataset", 4)])
def test_rows_without_a_whole_picture_are_left_out_and_counted_on_request(
    tmp_path: Path, to: str, max_side: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    bad = bad_pictures()
    named(tmp_path / "in", {"good.png": picture(RED), **bad, "fine.jpg": noise()})
    more: dict[str, Any] = {"to": to, "max_side": max_side, "on_bad_image": "skip"}
    more |= {} if to == "llama-factory" else {"images": "embed"}
    summary = export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out") | more)
    assert (summary.rows, summary.images, summary.left_out) == (2, 2, len(bad))
    assert f"{len(bad)} rows with a bad or missing picture left out" in str(summary)
    assert "row 'page.jpg'" in caplog.text and "an HTML page" in caplog.text
    again = export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out") | more)
    assert (again.written, again.left_out) == (0, len(bad))
    written = b"".join(tree(tmp_path / "out").values())
    assert b"<html>" not in written and b"root:x" not in written and b"%!PS" not in written


class InTrouble(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        good = self.path == "/good.png"
        self.send_response(200 if good else 503)
        self.send_header("Content-Length", str(len(picture(RED)) if good else 0))
        self.end_headers()
        if good and self.command == "GET":
            self.wfile.write(picture(RED))

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None: ...


def test_a_server_in_trouble_ends_an_export_and_leaves_out_no_row(tmp_path: Path) -> None:
    named(tmp_path / "in", {"good.png": picture(RED), "late.png": picture(GREEN)})
    (tmp_path / "in" / "good.png").unlink()
    (tmp_path / "in" / "late.png").unlink()
    with ThreadingHTTPServer(("127.0.0.1", 0), InTrouble) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        more = {"image_root": f"http://127.0.0.1:{server.server_port}", "on_bad_image": "skip"}
        with pytest.raises(BadImage, match=r"late\.png.*503"):
            export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out", **more))
        server.shutdown()


def test_an_export_all_of_whose_pictures_are_bad_says_so(tmp_path: Path) -> None:
    named(tmp_path / "in", {"page.jpg": b"<html>"})
    with pytest.raises(NothingLeft, match=r"whole pictures, missing in 1 row\."):
        export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out", on_bad_image="skip"))


def test_bad_pictures_within_rows_are_left_out_too_and_sizes_stay_with_their_rows(tmp_path: Path) -> None:
    pictures = [("0", picture(RED, size=(20, 10))), ("1", b"<html>"), ("2", picture(GREEN, size=(10, 30)))]
    embedded(tmp_path / "in" / "a.parquet", pictures)
    more = {"to": "parquet", "images": "embed", "max_side": 6, "on_bad_image": "skip"}
    export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out") | more)
    (path,) = (tmp_path / "out" / "data").iterdir()
    table = pq.read_table(path).to_pylist()
    assert [row["id"] for row in table] == ["a-0", "a-2"]
    assert [Image.open(io.BytesIO(row["image"]["bytes"])).size for row in table] == [(6, 3), (2, 6)]


# -- a row never chooses what is opened --------------------------------------------------------------------


def test_the_path_of_an_embedded_picture_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "private.png").write_bytes(picture(GREEN))
    monkeypatch.chdir(tmp_path / "here")
    target = str(tmp_path / "here" / "private.png")
    for name in ("private.png", target, f"file://{target}", "../here/private.png"):
        folder = tmp_path / str(abs(hash(name)))
        embedded(folder / "in" / "a.parquet", [(name, picture(RED))])
        export(LLAVA, **arguments(folder / "in", folder / "out"))
        assert colours(folder / "out") == {"a-0": RED}
        embedded(folder / "none" / "a.parquet", [("0", picture(RED)), (name, None)])
        with pytest.raises(Exception, match=r"row") as caught:
            export(LLAVA, **arguments(folder / "none", folder / "no"))
        assert isinstance(caught.value, ImageNotFound | ValueError)
        assert picture(GREEN) not in tree(folder / "no").values()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "private.png").write_bytes(picture(GREEN))
    named(tmp_path / "in", {"a.png": picture(RED), "b.png": picture(RED)})
    (tmp_path / "in" / "b.png").unlink()
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "elsewhere" / "private.png")
    for images in ("files", "url"):
        with pytest.raises(LlavaZhError, match="symbolic link that leads out of"):
            export(LLAVA, **arguments(tmp_path / "in", tmp_path / images, images=images))
        assert picture(GREEN) not in tree(tmp_path / images).values()


def test_no_password_or_signature_is_written_into_rows(tmp_path: Path) -> None:
    named(tmp_path / "in", {"a.png": picture(RED)})
    for number, root in enumerate(("https://user:hunter22@host/x", "https://host/x?X-Amz-Signature=0123456789abcdef")):
        more = {"to": "jsonl", "images": "url", "image_root": root}
        export(LLAVA, **arguments(tmp_path / "in", tmp_path / str(number)) | more)
        assert [row["image"] for row in lines(tmp_path / str(number))] == ["sa1b://a.png::https://host/x"]
        whole = [path.read_bytes() for path in (tmp_path / str(number)).rglob("*") if path.is_file()]
        assert not any(b"hunter22" in data or b"0123456789abcdef" in data for data in whole)


# -- what an export keeps of itself ------------------------------------------------------------------------

PLANTED = [b"", b"[]", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'"x"', b"1e999", b"{}"]


@pytest.mark.parametrize("name", [run.REQUEST, run.SELECTION, "finished/default-00000-of-00001.jsonl.json"])
def test_a_planted_or_damaged_file_of_an_export_is_named_or_made_anew(tmp_path: Path, name: str) -> None:
    named(tmp_path / "in", {"a.png": picture(RED), "b.png": picture(GREEN)})
    once = arguments(tmp_path / "in", tmp_path / "out", limit=2)
    export(LLAVA, **once)
    before, path = tree(tmp_path / "out"), tmp_path / "out" / ".export" / name
    whole = path.read_bytes()
    for content in PLANTED:
        path.write_bytes(content)
        if name.startswith("finished"):
            assert export(LLAVA, **once).written == 1
        else:
            with pytest.raises(RunConflict, match=path.stem):
                export(LLAVA, **once)
            path.write_bytes(whole)
        assert tree(tmp_path / "out") == before


def test_a_planted_record_leads_to_no_other_file(tmp_path: Path) -> None:
    named(tmp_path / "in", {"a.png": picture(RED)})
    export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out"))
    record = tmp_path / "out" / ".export" / "finished" / "default-00000-of-00001.jsonl.json"
    planted = json.loads(record.read_bytes())
    for file in ({"path": "/etc/passwd"}, {"path": "data/../../x"}, {"config": "`<script>"}, {"rows": -1}):
        changed = {**planted, "file": planted["file"] | file}
        record.write_text(json.dumps(changed))
        assert export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out")).written == 1
        assert json.loads(record.read_bytes()) == planted | {"image_files": 0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [run.REQUEST, run.SELECTION, "finished/default-00000-of-00001.jsonl.json", "pictures"], ids=str
)
def test_a_pipe_among_what_an_export_keeps_is_named_and_not_waited_for(tmp_path: Path, name: str) -> None:
    named(tmp_path / "in", {"a.png": picture(RED)})
    once = arguments(tmp_path / "in", tmp_path / "out", limit=1)
    export(LLAVA, **once)
    path = tmp_path / "out" / ".export" / name
    path = next(path.iterdir()) if path.is_dir() else path
    path.unlink()
    os.mkfifo(path)
    command = [sys.executable, "-c", f"import llava_zh; llava_zh.export({LLAVA!r}, **{_texts(once)!r})"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "RunConflict" in result.stderr and f"{path} is a pipe" in result.stderr


def _texts(keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in keywords.items()}


@pytest.mark.parametrize("lost", ["all pictures", "a picture", "part of a picture", "bytes of the data"])
def test_an_export_that_lost_something_is_not_called_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    named(tmp_path / "in", {"a.png": picture(RED), "b.png": picture(GREEN)})
    once, out = arguments(tmp_path / "in", tmp_path / "out"), tmp_path / "out"
    export(LLAVA, **once)
    before, data = tree(out), out / "data" / "default-00000-of-00001.jsonl"
    if lost == "all pictures":
        shutil.rmtree(out / "images")
    elif lost == "a picture":
        (out / "images" / "a.png").unlink()
    elif lost == "part of a picture":
        os.truncate(out / "images" / "a.png", 20)
    else:
        data.write_bytes(data.read_bytes()[::-1])
    again = export(LLAVA, **once)
    assert (again.written, again.found) == (1, 0) and "written again" in caplog.text
    assert colours(out) == {"a.png": RED, "b.png": GREEN}
    assert lost == "part of a picture" or tree(out) == before  # else the damaged file is left, and not named
    assert export(LLAVA, **once).found == 1


def test_a_link_at_the_name_of_an_unfinished_file_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    for write in (files.write_bytes, files.add_bytes):
        target = tmp_path / write.__name__
        files._part(target, tmp_path).symlink_to(tmp_path / "victim")
        write(target, b"ours", tmp_path)
        assert target.read_bytes() == b"ours" and not target.is_symlink()
        assert (tmp_path / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "link", ["lock", run.REQUEST, "finished", "unfinished", "../images", "../data", "../README.md"]
)
def test_a_planted_link_is_not_written_through(tmp_path: Path, link: str) -> None:
    named(tmp_path / "in", {"a.png": picture(RED)})
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("precious")
    (tmp_path / "out" / ".export").mkdir(parents=True)
    target = tmp_path / "victim" / ("file" if "." in Path(link).name or link == "lock" else "")
    (tmp_path / "out" / ".export" / link).symlink_to(target)
    with pytest.raises((RunConflict, OutputError, UnsafeName), match=Path(link).name):
        export(LLAVA, **arguments(tmp_path / "in", tmp_path / "out"))
    assert tree(tmp_path / "victim") == {"file": b"precious"}


# -- the card ----------------------------------------------------------------------------------------------


def test_text_in_a_card_is_neither_markdown_nor_html_nor_yaml(tmp_path: Path) -> None:
    named(tmp_path / "in", {"a.png": picture(RED)})
    evil = "</script><img src=x onerror=alert(1)> `` ` ``` [x](javascript:1)\n---\nlicense: none\n# Title\x1b]0;x\x07"
    export(
        LLAVA,
        **arguments(tmp_path / "in", tmp_path / "out", options={"system": evil}, bad_images=["`b`.jpg", "<b>.jpg"]),
    )
    text = (tmp_path / "out" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["license"] != "none"
    assert "\x1b" not in text and "\n# Title" not in body and "\nlicense: none" not in body
    (line,) = [line for line in body.splitlines() if line.startswith("- options: ")]
    assert line.startswith("- options: ````") and line.endswith("````") and line.count("````") == 2


@pytest.mark.parametrize("value", ["`", "``a`", "<b>", "a\nb", {"a": "`" * 9}, ["x"], 3, "parts"])
def test_a_value_in_a_card_cannot_end_its_code(value: Any) -> None:
    code = _code(value)
    fence = code[: len(code) - len(code.lstrip("`"))]
    inner = code.strip("`") if fence else code
    assert "\n" not in code and (not fence or fence not in inner)
    assert _fenced("a```b")[0] == "````"


def test_a_folder_whose_name_is_no_utf_8_is_no_traceback(tmp_path: Path) -> None:
    named(tmp_path / "in", {"a.png": picture(RED)})
    out = tmp_path / "o\udcff"
    export(LLAVA, **arguments(tmp_path / "in", out))
    assert colours(out) == {"a.png": RED}
    assert np.asarray(Image.open(out / "images" / "a.png")).shape == (8, 8, 3)
