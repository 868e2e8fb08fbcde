"""A run is bound to its settings by the first row it finishes; before that nothing locks its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from model_server import ModelServer

from llava_zh.errors import (
    BadArgument,
    BadImage,
    ImageNotFound,
    LlavaZhError,
    RootNotFound,
    RunConflict,
    ServerError,
)
from llava_zh.regenerate import read_batch, regenerate, write_batch
from llava_zh.regenerate.ledger import Ledger
from llava_zh.regenerate.manifest import FORMAT
from llava_zh.regenerate.plan import Selection

from .archives import stem, write_archive, write_rows
from .conftest import lines_of, output_of, positions_of
from .test_batch import answered
from .test_ledger import begin, end, place, row_at

Rows = Callable[[int], list[dict[str, Any]]]
NOBODY = "http://127.0.0.1:9/v1"  # nothing listens: whoever asks it first says so


def run(rows: Any, out: Path, server: ModelServer, **changes: Any) -> Any:
    given = {"output_dir": out, "base_url": server.url, "model": "tiny-vlm", "concurrency": 4, "progress": False}
    return regenerate(rows, changes.pop("name", "test_zh"), **{**given, **changes})


def published(tmp_path: Path, out: Path, **changes: Any) -> Any:
    given: dict[str, Any] = {"data_dir": tmp_path / "rows", "output_dir": out, "model": "tiny-vlm", "progress": False}
    return regenerate("internvl-sa-1b-caption", "single_zh", **{**given, **changes})


def test_settings_change_until_a_row_is_finished_and_never_after(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    with pytest.raises(ServerError, match="does not serve the model 'tiny-vml'"):
        run(make_rows(12), tmp_path, server, model="tiny-vml", unit_rows=5)
    server.faults = {"422": 1.0}
    report = run(make_rows(12), tmp_path, server, unit_rows=5, parameters={"temperature": 9})
    assert report.failed == {"HTTP 422": 12}
    note = "no row was finished yet, so the run begins anew with what is given now: "
    assert report.notes == [f'{note}model "tiny-vlm" (was "tiny-vml"), parameters']
    asked = server.calls
    # The same again gives the rows up no second time; what is given differently forgets that they were.
    assert run(make_rows(12), tmp_path, server, unit_rows=5, parameters={"temperature": 9}).notes == []
    assert server.calls == asked
    server.faults = {}
    report = run(make_rows(12), tmp_path, server, unit_rows=4, prompt="caption_en", limit=6)
    assert report.notes == [f'{note}prompts "caption_en" (was "caption_zh"), parameters, unit_rows 4 (was 5)']
    assert (report.rows, report.failed, lines_of(tmp_path / "failed.jsonl")) == (6, {}, [])
    assert json.loads((tmp_path / "manifest.json").read_bytes())["unit_rows"] == 4
    for change in ({"model": "tiny-vml"}, {"prompt": "caption_zh"}, {"unit_rows": 5}, {"seed": 1}):
        with pytest.raises(RunConflict, match="holds another run"):
            run(make_rows(12), tmp_path, server, **{"unit_rows": 4, "prompt": "caption_en", **change})
    run(make_rows(12), tmp_path, server, unit_rows=4, prompt="caption_en")
    assert positions_of(tmp_path) == list(range(12))


def test_the_first_finished_row_binds_also_while_its_unit_is_open(tmp_path: Path) -> None:
    manifest = {"format": FORMAT, "model": "m", "prompts": {}}
    ledger = Ledger(tmp_path, 5, manifest)
    ledger.select(Selection(0))
    begin(ledger, 0)
    ledger.failed(place(1), "HTTP 422", {"message": "no"})
    ledger.close()
    copy = tmp_path.with_name("copy")
    shutil.copytree(tmp_path, copy)
    Ledger(copy, 5, {**manifest, "model": "other"}).close()  # a row that was given up binds nothing
    ledger = Ledger(tmp_path, 5, manifest)
    ledger.done(place(0), row_at(0))
    ledger.close()
    with pytest.raises(RunConflict, match='model: "m" in the run, "other" now'):
        Ledger(tmp_path, 5, {**manifest, "model": "other"})
    log = max((tmp_path / "journal").glob("*.a*.log"))
    log.write_bytes(log.read_bytes()[:-20])  # as a power cut leaves it: the row is not finished after all
    Ledger(tmp_path, 5, {**manifest, "model": "other"}).close()


def test_a_crash_while_the_run_begins_anew_leaves_a_folder_that_either_settings_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"format": FORMAT, "model": "m", "prompts": {}}
    now = {**before, "model": "other"}
    out = tmp_path / "out"
    for unit in (0, 1):  # of two sessions, so that there are two segments of the plan
        ledger = Ledger(out, 5, before)
        if not unit:
            ledger.select(Selection(0))
        begin(ledger, unit)
        for position in range(5 * unit, 5 * unit + (5 if not unit else 2)):
            ledger.failed(place(position), "HTTP 422", {"message": "no"})
        if not unit:
            end(ledger, unit)
        ledger.close()
    unlink = Path.unlink
    removed = 0
    for crash_after in range(9):
        folder = tmp_path / str(crash_after)
        shutil.copytree(out, folder)
        removed = 0

        def limited(path: Path, missing_ok: bool = False, most: int = crash_after) -> None:
            nonlocal removed
            if path.parent.name == "journal" and path.name != "owner.json":
                if removed == most:
                    raise KeyboardInterrupt
                removed += 1
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", limited)
            try:
                Ledger(folder, 5, now).close()
            except KeyboardInterrupt:
                crashed = True
            else:
                crashed = False
        for settings in (before, now):
            again = tmp_path / f"{crash_after}-{settings['model']}"
            shutil.copytree(folder, again)
            ledger = Ledger(again, 5, settings)
            if not ledger.plan.selections:
                ledger.select(Selection(0))
            assert ledger.tally.rows == 0
            if 0 not in ledger.plan.units:
                begin(ledger, 0)
            if 0 not in ledger.finished:
                for position in range(5):
                    if not ledger.is_known(place(position)):
                        ledger.done(place(position), row_at(position))
                if ledger.plan.units[0].rows is None:
                    end(ledger, 0)
            ledger.close()
            Ledger(again, 5, settings).close()
    assert not crashed
    assert removed >= 5  # a commit, what belongs to it, a journal and two segments


def test_the_rows_that_archives_mean_are_settled_by_the_first_finished_row(server: ModelServer, tmp_path: Path) -> None:
    images = write_rows(tmp_path / "rows", 4)
    for archive in (0, 1):
        write_archive(tmp_path / "sa1b", archive)
    given: dict[str, Any] = {"image_root": tmp_path / "sa1b", "base_url": server.url}
    server.faults = {"422": 1.0}
    published(tmp_path, tmp_path / "out", archives="available", limit=3, **given)
    write_archive(tmp_path / "sa1b", 2)
    report = published(tmp_path, tmp_path / "out", archives="available", limit=3, **given)
    assert report.notes == [
        "no row was finished yet, so the run begins anew with the archives and images that are there now"
    ]
    server.faults = {}
    report = published(tmp_path, tmp_path / "out", archives=[0, 2], **given)
    assert "begins anew" in report.notes[0] and "archives" in report.notes[0]
    assert [row["image"] for row in output_of(tmp_path / "out")] == [
        image for image in images if image.split("/")[0] in (stem(0), stem(2))
    ]
    with pytest.raises(RunConflict, match="archives: 2 archives"):
        published(tmp_path, tmp_path / "out", archives=[0], **given)


def test_images_are_looked_at_before_a_server_is_asked_and_a_wrong_place_locks_nothing(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SA1B_ROOT", raising=False)
    write_rows(tmp_path / "rows", 2)
    write_archive(tmp_path / "sa1b", 0)
    write_archive(tmp_path / "sa1b", 1)
    write_archive(tmp_path / "other", 7)
    (tmp_path / "empty").mkdir()
    wrong: list[tuple[dict[str, Any], type[LlavaZhError], str]] = [
        ({}, RootNotFound, "No SA-1B root. Pass image_root="),
        ({"image_root": tmp_path / "empty"}, RootNotFound, "is empty"),
        ({"image_root": tmp_path / "nowhere"}, LlavaZhError, "nowhere"),
        (
            {"image_root": tmp_path / "other"},
            ImageNotFound,
            r"No image of the first 16 rows can be read, so no model was asked\. The first: No image .*"
            r"archives=.* Pass the place of SA-1B as image_root=; `llava-zh sa1b status` .* sa1b download`",
        ),
    ]
    for given, kind, says in wrong:
        for asked in ({"base_url": NOBODY}, {"serve": "vllm"}):
            with pytest.raises(kind, match=says):
                published(tmp_path, tmp_path / "out", **given, **asked)
        with pytest.raises(kind, match=says):
            write_batch(
                "internvl-sa-1b-caption", "single_zh", data_dir=tmp_path / "rows", output_dir=tmp_path / "batch",
                model="tiny-vlm", **given,
            )  # fmt: skip
    assert list((tmp_path / "out" / "journal").glob("0*")) == []  # no row was given up for it
    with pytest.raises(ServerError, match="Nothing usable answers"):
        published(tmp_path, tmp_path / "out", image_root=tmp_path / "sa1b", base_url=NOBODY)
    report = published(tmp_path, tmp_path / "out", image_root=tmp_path / "sa1b", base_url=server.url)
    assert (report.rows, report.failed, report.notes) == (16, {}, [])


def test_rows_given_without_a_readable_image_are_refused_and_a_single_bad_one_is_not(
    server: ModelServer, tmp_path: Path, images: list[str]
) -> None:
    (tmp_path / "cut.jpg").write_bytes(Path(images[0]).read_bytes()[:-40])
    fsspec.filesystem("memory").pipe("/look/a.jpg", Path(images[0]).read_bytes())
    bad = [str(tmp_path / "cut.jpg"), str(tmp_path / "missing.jpg")]
    with pytest.raises(BadImage, match=r"No image of the first 2 rows can be read, .*cut.jpg"):
        run(bad, tmp_path / "out", server, base_url=NOBODY)
    with pytest.raises(BadArgument, match="send_paths needs images that are local files"):
        run([{"image": "memory://look/a.jpg"}], tmp_path / "out", server, base_url=NOBODY, send_paths=True)
    report = run([*bad, images[0]], tmp_path / "out", server)
    assert report.failed == {"BadImage": 1, "ImageNotFound": 1}
    report = run([*bad, images[0]], tmp_path / "out", server, retry_failed=True)  # they are all that is left
    assert report.failed == {"BadImage": 1, "ImageNotFound": 1}


def test_requests_that_were_handed_out_bind_until_their_folder_is_deleted(
    server: ModelServer, tmp_path: Path, make_rows: Rows
) -> None:
    given: dict[str, Any] = {"output_dir": tmp_path / "out", "model": "mistyped"}
    files = write_batch(make_rows(4), "test_zh", **given)
    results = answered(files, server, tmp_path / "r.jsonl")
    for call in (lambda **more: write_batch(make_rows(4), "test_zh", **more),
                 lambda **more: read_batch(make_rows(4), "test_zh", results=[results], **more)):  # fmt: skip
        with pytest.raises(RunConflict, match=r"(?s)model: .*/batch; if they were sent nowhere, delete that folder"):
            call(**{**given, "model": "tiny-vlm"})
    shutil.rmtree(tmp_path / "out" / "batch")
    files = write_batch(make_rows(4), "test_zh", **{**given, "model": "tiny-vlm"})
    assert lines_of(files[0])[0]["body"]["model"] == "tiny-vlm"
    results = answered(files, server, tmp_path / "r.jsonl")
    assert read_batch(make_rows(4), "test_zh", results=[results], **{**given, "model": "tiny-vlm"}).rows == 4


def test_a_row_format_has_no_meaning_for_a_run_and_is_refused(server: ModelServer, tmp_path: Path) -> None:
    for given, says in (
        ({"row_format": "parts"}, "row_format='parts': a model is asked about rows as published"),
        ({"row_format": "nonsense"}, "Unknown row format 'nonsense'"),
        ({"options": {"regenerated": True}}, "options: regenerated is for loading what a run has written"),
    ):
        with pytest.raises(LlavaZhError, match=says):
            published(tmp_path, tmp_path / "out", base_url=NOBODY, **given)
    assert not (tmp_path / "out").exists()
