"""Old texts beside new ones: out of a run that ended, one that goes on, and out of two sets of rows."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer

import llava_zh
from llava_zh.cli import main, text
from llava_zh.comparison.matched import Left, _key_of, matched
from llava_zh.comparison.words import Words, words_of
from llava_zh.curation.source import Row
from llava_zh.errors import BadArgument, BadRow, DataFileNotFound, RunConflict
from llava_zh.regenerate import regenerate

from .conftest import NEW, SAME, pairs_of, rows_in


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def row(image: str, question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"image": image, "conversations": turns, **more}


def test_the_measures_of_a_run_are_those_of_its_texts(run: Path, tmp_path: Path) -> None:
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    found = llava_zh.compare(run, sample=5, output_dir=tmp_path / "out")
    pairs = pairs_of(run)
    assert found.rows == len(pairs) == 12
    for side, at in (("old", 0), ("new", 1)):
        lengths = [len(pair[at]) for pair in pairs]
        told = found.characters[side]
        assert told["mean"] == round(statistics.mean(lengths), 2)
        assert (told["min"], told["max"]) == (min(lengths), max(lengths))
    same = sum(old == new for old, new in pairs)
    assert 0 < same < 12
    assert found.unchanged == {"count": same, "share": round(same / 12, 4)}
    lawn = next(word for word in found.words["gained"] if word["word"] == "草地")
    assert lawn == {"word": "草地", "old": 0, "new": sum(new == NEW for _, new in pairs)}
    assert {(sample["old"], sample["new"]) for sample in found.samples} <= set(pairs)
    assert llava_zh.compare(run, sample=5).samples == found.samples
    assert llava_zh.compare(run, sample=5, seed=1).samples != found.samples
    assert json.loads((tmp_path / "out" / "report.json").read_bytes()) == found.to_dict()
    assert len((tmp_path / "out" / "pairs.jsonl").read_bytes().splitlines()) == 5
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == before
    assert "characters, mean" in str(found) and "characters, mean" in found._repr_html_()


def test_faults_are_told_of_both_sides_by_the_checks_of_curation(tmp_path: Path) -> None:
    sides = [
        ("图中是一片草地。", "一片草地，" * 12),
        ("A meadow with a river.", "图中是一条河。"),
        ("根据您的描述，图中是一条河。", "抱歉，我无法提供帮助。"),
        ("图中有山。", "图中有山。"),
    ]
    rows = []
    for number, (old, new) in enumerate(sides):
        previous = [{"from": "human", "value": "<image>\n问"}, {"from": "gpt", "value": old}]
        made = {"prompt": "caption_zh", "previous": previous}
        rows.append(row(f"{number}.jpg", "问", new, config="single_zh", language="zh", regenerated=made))
    found = llava_zh.compare(write(tmp_path / "rows.jsonl", rows))
    assert found.findings["repetition"] == {"old": 0, "new": 1}
    assert found.findings["leak"] == {"old": 1, "new": 0}
    assert found.findings["language"] == {"old": 1, "new": 0}
    assert found.findings["refusal"] == {"old": 0, "new": 1}
    assert found.languages == {"en": {"old": 1, "new": 0}, "zh": {"old": 3, "new": 4}}
    assert llava_zh.compare(rows, language="en").findings["language"]["new"] == 4
    rows[0]["regenerated"]["previous"] = [{"from": "gpt"}]
    with pytest.raises(BadRow, match="row 0"):
        llava_zh.compare(rows)
    assert llava_zh.compare(rows, on_bad_row="skip").rows == 3


def test_two_sets_are_matched_by_image_then_by_question(tmp_path: Path) -> None:
    old = [row("a/1.jpg", "什么颜色？", "红色。"), row("a/1.jpg", "几只鸟？", "三只。"), row("2.jpg", "问", "旧二。")]
    old += [row("sa_000001/sa_77.jpg", "问", "旧山。"), row("only_old.jpg", "问", "无")]
    new = [row("sa_77.jpg", "另一问", "新山。"), row("a/1.jpg", "几只鸟？", "四只。"), row("2.jpg", "问", "新二。")]
    new += [row("a/1.jpg", "什么天气？", "晴。"), row("3.jpg", "问", "无")]
    found = llava_zh.compare(write(tmp_path / "new.jsonl", new), write(tmp_path / "old.jsonl", old))
    assert {(pair["old"], pair["new"]) for pair in found.samples} == {
        ("三只。", "四只。"), ("红色。", "晴。"), ("旧二。", "新二。"), ("旧山。", "新山。"),
    }  # fmt: skip
    assert found.unmatched == {"old": 1, "new": 1}
    assert sum("no match" in note for note in found.notes) == 2
    with pytest.raises(DataFileNotFound, match="no image in common: 1 row of the first and 5 of the second"):
        llava_zh.compare(new[4:], old)


def test_rows_of_text_alone_are_matched_by_question_and_what_is_left_of_an_image_in_order() -> None:
    def said(question: str, answer: str, image: list[str]) -> dict[str, Any]:
        return {"image": image, "conversations": row("", question, answer)["conversations"][:2]}

    old = [said("q1", "A", ["a.jpg"]), said("q2", "B", ["a.jpg"]), said("q1", "C", ["a.jpg"])]
    new = [said("other", text, ["a.jpg"]) for text in "abc"]
    found = llava_zh.compare(new, old, progress=False)
    assert {(pair["old"], pair["new"]) for pair in found.samples} == {("A", "a"), ("B", "b"), ("C", "c")}

    def alone(question: str, answer: str) -> Row:
        return Row({"image": []}, [("human", question), ("gpt", answer)], b"")

    left = Left()
    sides = [[alone("一", "旧一"), alone("二", "旧二")], [alone("二", "新二"), alone("三", "新三")]]
    together = [(old.turns[1][1], new.turns[1][1]) for old, new in matched(*sides, left, progress=False)]
    assert together == [("旧二", "新二")] and (left.old, left.new) == (1, 1)
    assert len({_key_of(row) for row in sides[0]}) == 2  # so that not all are in memory at once


def test_a_comparison_writes_over_nothing_of_anyone_and_into_no_rows(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    new = write(tmp_path / "new.jsonl", [row("1.jpg", "问", "新的文字。"), row("2.jpg", "问", "又一段新的文字。")])
    old = write(tmp_path / "old.jsonl", [row("1.jpg", "问", "旧的文字。")])
    llava_zh.curate(new, output_dir=tmp_path / "curated", length_quantiles=None, near_duplicates=None)
    before = {
        path: path.read_bytes() for top in (run, tmp_path / "curated") for path in top.rglob("*.*") if path.is_file()
    }
    caplog.clear()
    for compared, folder in ((run, run), (run, run / "judged"), (tmp_path / "curated", tmp_path / "curated")):
        with pytest.raises(RunConflict, match="output_dir"):
            llava_zh.compare(compared, old, output_dir=folder, progress=False)
    with pytest.raises(RunConflict, match="no comparison wrote"):
        llava_zh.compare("~/new.jsonl", "~/old.jsonl", output_dir=tmp_path / "curated", progress=False)
    found = llava_zh.compare("~/new.jsonl", "~/old.jsonl", output_dir="~/out", progress=False)
    assert llava_zh.compare(new, old, output_dir="~/out", progress=False).rows == found.rows == 1
    assert found.notes == ["1 new row with no match on the other side left out"] and "1 pair of" in found.title
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["pairs.jsonl", "report.json"]
    llava_zh.compare(run, output_dir=run / "compare", progress=False)
    with pytest.raises(DataFileNotFound):  # and what was made for it is gone
        llava_zh.compare(new, tmp_path / "nothing", output_dir=tmp_path / "empty", progress=False)
    assert not (tmp_path / "empty").exists()
    assert {path: path.read_bytes() for path in before} == before
    assert "image_root" not in caplog.text  # the texts alone were read


def test_a_run_is_expected_in_the_language_of_its_configuration_as_curation_expects_it(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_bytes())
    manifest["input"] |= {"dataset": "llava", "config": "en"}
    (run / "manifest.json").write_text(json.dumps(manifest))
    for path in (run / "data").glob("*.jsonl"):
        rows = [json.loads(line) | {"language": "zh"} for line in path.open("rb")]
        for made in rows:
            made["image"], made["regenerated"]["prompt"] = "picture.jpg", "original"
        write(path, rows)
    curated = llava_zh.curate(run, dry_run=True, length_quantiles=None, near_duplicates=None, exact_duplicates=False)
    wrong = llava_zh.compare(run, progress=False).findings["language"]["new"]
    assert wrong == curated.reasons["language"]["count"] == 12


def test_ctrl_c_without_a_judge_promises_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llava_zh.comparison.entry.Measures.add", interrupted)
    assert main(["compare", str(run), "--on-bad-row", "skip"]) == 130
    assert "goes on" not in capsys.readouterr().err


class Stops:
    """Rows whose source fails when the first few were asked about."""

    def __init__(self, rows: list[dict[str, Any]], server: ModelServer) -> None:
        self._rows, self._server = rows, server

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self._rows
        while self._server.calls < 20:
            time.sleep(0.01)
        time.sleep(0.3)
        raise OSError("the disk is gone")


def test_a_run_that_did_not_end_is_compared_as_far_as_it_has_come(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with ModelServer(answer=NEW) as server, pytest.raises(OSError, match="gone"):
        rows = Stops(rows_in(pictures, 32), server)
        regenerate(
            rows, "test_zh", output_dir=run, base_url=server.url, model="tiny-vlm", prompt="caption_zh", progress=False
        )
    assert list((run / "data").glob("*")) == []
    found = llava_zh.compare(run)
    assert 15 < found.rows <= 32
    assert found.notes == ["the run was stopped before its end; compared is what it had finished"]
    (run / "journal" / "owner.json").write_text('{"host": "elsewhere", "pid": 7, "token": "x"}')
    assert "has not ended" in llava_zh.compare(run).notes[0]


def test_what_cannot_be_compared_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = write(tmp_path / "bare.jsonl", [row("1.jpg", "问", "答")])
    with pytest.raises(DataFileNotFound, match="none of its 1 row holds the text that it replaced"):
        llava_zh.compare(bare)
    with pytest.raises(DataFileNotFound, match="no such folder or file"):
        llava_zh.compare(tmp_path / "nothing")
    with pytest.raises(BadArgument, match="itself"):
        llava_zh.compare(run, run)
    for path in (run / "data").glob("*"):
        path.unlink()
    with pytest.raises(DataFileNotFound, match="no finished row yet"):
        llava_zh.compare(run)
    assert main(["compare", str(bare)]) == 1
    assert "Name the older rows with --with" in capsys.readouterr().err
    assert main(["compare", str(bare), "--limit", "3"]) == 1
    assert "--limit: for a judge alone" in capsys.readouterr().err


def test_the_command_shows_a_summary_as_wide_as_the_terminal_and_one_json_document(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["compare", str(run), "--sample", "2", "--output", str(tmp_path / "report.json")]) == 0
    shown = capsys.readouterr().out
    assert max(map(text.width, shown.splitlines())) <= 62  # closing punctuation may hang
    assert "pair 2 of 2" in shown and "words gained" in shown
    assert main(["compare", str(run), "--sample", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "report.json").read_bytes())


def test_words_are_english_words_and_pairs_of_chinese_characters() -> None:
    assert words_of("The Dog's kennel, a RED-brick house") == {"dog's", "kennel", "red-brick", "house"}
    assert words_of("黑色的小狗在草地上") == {"黑色", "小狗", "草地"}


def test_rare_words_are_forgotten_where_there_would_be_too_many() -> None:
    words = Words(most=50)
    for number in range(200):
        words.add("meadow", f"meadow river word{'x' * (number % 60)}y")
    told = words.changed(2)
    assert told["gained"][0]["word"] == "river"
    assert 200 >= told["gained"][0]["new"] >= 200 - told["short_by"] > 0


def test_a_run_is_loaded_without_what_is_kept_beside_its_rows(run: Path, pictures: Path) -> None:
    for beside in ("compare/judge/data", "batch"):
        (run / beside).mkdir(parents=True)
        write(run / beside / "000000.jsonl", [row("1.jpg", "问", "not a row of the run")])
    rows = llava_zh.load_dataset("llava", split="train", streaming=True, data_dir=str(run), image_root=str(pictures))
    said = [row["conversations"][1]["value"] for row in rows]
    assert set(said) == {NEW, SAME} and len(said) == 12
