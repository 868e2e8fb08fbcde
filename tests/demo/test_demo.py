"""The miniature: published form, and pictures that are what their captions say."""

from __future__ import annotations

import io
import json
import random
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from llava_zh.demo import DemoPaths, captions, dialogues, draw, scenes, write, write_demo
from llava_zh.errors import BadArgument

THIRDS_EN = {"left": 0, "middle": 1, "right": 2, "centre": 1}
THIRDS_ZH = {"左": 0, "中": 1, "右": 2}
GROUP_EN = re.compile(
    r"(?:On|In|At) the (upper |top )?(left|middle|right|centre) there (?:is|are) (\w+) (\w+) ([\w -]+)\."
)
GROUP_ZH = re.compile(r"(左|中间|右)?(上方|边)?(中间)?有([一两三四五])(.)(.色)的(\w+)。")
SIGN_EN = re.compile(r"(?:On|In) the (left|middle|right) stands a (\w+) sign with the white text “([^”]+)”")
SIGN_ZH = re.compile(r"(左|中|右)[边间]立着一块(.色)的牌子,上面用白字写着“([^”]+)”")
ENGLISH_COLOURS = {colour.zh: name for name, colour in scenes.COLOURS.items()}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> DemoPaths:
    return write_demo(tmp_path_factory.mktemp("demo"))


def rows_of(paths: DemoPaths, name: str) -> list[dict]:
    return [json.loads(line) for line in (paths.internvl / name).read_text(encoding="utf-8").splitlines()]


def images_of(paths: DemoPaths) -> dict[str, bytes]:
    """Every JPEG of the SA-1B root by the path that captions name it with."""
    images = {}
    for file in sorted(paths.sa1b.iterdir()):
        with tarfile.open(file, "r:gz") as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    images[f"{file.stem}/{member.name[2:]}"] = archive.extractfile(member).read()
    return images


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)), dtype=np.int16)


def of_colour(pixels: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels - rgb).max(axis=2) < 40


def blobs(mask: np.ndarray) -> list[tuple[float, float]]:
    """Centres (x, y) of the connected patches of a mask, specks of JPEG noise left out."""
    parents: list[int] = []
    sums: list[np.ndarray] = []

    def root(label: int) -> int:
        while parents[label] != label:
            label = parents[label]
        return label

    changes = np.argwhere(np.diff(mask, axis=1, prepend=False, append=False)).reshape(-1, 2, 2).tolist()
    rows: dict[int, list[tuple[int, int, int]]] = {}
    for label, ((y, start), (_, stop)) in enumerate(changes):
        parents.append(label)
        size = stop - start
        sums.append(np.array([size, size * (start + stop - 1) / 2, size * y]))
        for other_start, other_stop, other in rows.get(y - 1, ()):
            if other_start < stop and start < other_stop and root(other) != root(label):
                sums[root(label)] += sums[root(other)]
                parents[root(other)] = root(label)
        rows.setdefault(y, []).append((start, stop, label))
    found = [sums[label] for label in range(len(parents)) if parents[label] == label]
    return [(x / size, y / size) for size, x, y in found if size > 40]


def check_groups(pixels: np.ndarray, stated: list[tuple[str, int, int, bool]], board: str | None) -> None:
    """The picture has the stated (colour, count, third, in the sky) groups, and nothing else that is coloured."""
    assert stated
    pixels = pixels[::2, ::2]  # Every other pixel tells patches apart just as well, and sooner.
    height, width, _ = pixels.shape
    for name, colour in scenes.COLOURS.items():
        if name == board:
            continue
        found = blobs(of_colour(pixels, colour.rgb))
        wanted = [group for group in stated if group[0] == name]
        assert len(found) == sum(count for _, count, _, _ in wanted), name
        for _, _, third, in_sky in wanted:
            assert {int(x * 3 / width) for x, _ in found} == {third}
            assert {y < height / 2 for _, y in found} == {in_sky}


def check_sign(pixels: np.ndarray, third: int, colour: str, text: str) -> None:
    """The board stands in that third, and of all sign texts the one claimed fits its white pixels best."""
    ys, xs = np.nonzero(of_colour(pixels, scenes.COLOURS[colour].rgb))
    assert int(xs.mean() * 3 / pixels.shape[1]) == third
    # Percentiles, because single pixels on the edges of other things may come out in the board's colour.
    (top, bottom), (left, right) = np.percentile(ys, (1, 99)).astype(int), np.percentile(xs, (1, 99)).astype(int)
    board = pixels[top:bottom, left:right]
    written = fitted(Image.fromarray(board.min(axis=2).astype(np.uint8)))
    errors = {sign.zh: np.abs(fitted(lettering(sign.zh)) - written).mean() for sign in scenes.SIGNS}
    assert min(errors, key=errors.get) == text


def lettering(text: str) -> Image.Image:
    image = Image.new("L", (600, 140))
    ImageDraw.Draw(image).text((10, 10), text, fill=255, font=draw.font(90))
    return image


def fitted(image: Image.Image) -> np.ndarray:
    """The bright part of an image, stretched to a common size."""
    part = image.crop(image.point(lambda value: 255 * (value > 127)).getbbox())
    return np.asarray(part.resize((240, 48), Image.Resampling.BOX), dtype=np.float32)


def check_english(text: str, data: bytes) -> None:
    sign = SIGN_EN.search(text)
    groups = [
        (colour, captions.NUMBERS_EN.index(number), THIRDS_EN[place], bool(sky))
        for sky, place, number, colour, _ in GROUP_EN.findall(text)
    ]
    assert len(groups) == text.count(" there ")
    check_groups(pixels_of(data), groups, sign and sign[2])
    if sign:
        check_sign(pixels_of(data), THIRDS_EN[sign[1]], sign[2], sign[3])


def check_chinese(text: str, data: bytes) -> None:
    sign = SIGN_ZH.search(text)
    groups = [
        (ENGLISH_COLOURS[colour], captions.NUMBERS_ZH.index(number), THIRDS_ZH[(side or centre)[0]], above == "上方")
        for side, above, centre, number, _, colour, _ in GROUP_ZH.findall(text)
    ]
    assert len(groups) == text.count("有")
    check_groups(pixels_of(data), groups, sign and ENGLISH_COLOURS[sign[2]])
    if sign:
        check_sign(pixels_of(data), THIRDS_ZH[sign[1]], ENGLISH_COLOURS[sign[2]], sign[3])


# -- captions are true -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_english_captions_state_the_counts_colours_places_and_sign_of_their_pictures(paths: DemoPaths) -> None:
    images = images_of(paths)
    for row in rows_of(paths, write.SINGLE["en"]):
        check_english(row["conversations"][1]["value"], images[row["image"]])


@pytest.mark.slow
def test_chinese_captions_state_the_counts_colours_places_and_sign_of_their_pictures(paths: DemoPaths) -> None:
    images = images_of(paths)
    for row in rows_of(paths, write.SINGLE["zh"]):
        check_chinese(row["conversations"][1]["value"], images[row["image"]])


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_multi_image_answers_describe_their_images_and_name_the_fullest(paths: DemoPaths, language: str) -> None:
    images = images_of(paths)
    mark, check = {"en": ("Image-", check_english), "zh": ("图", check_chinese)}[language]
    numbers = {"en": captions.NUMBERS_EN, "zh": captions.NUMBERS_ZH}[language]
    for row in rows_of(paths, write.MULTI[language])[:6]:
        text = row["conversations"][1]["value"]
        parts = re.split(rf"{mark}\d[::] ?", text)[1:]
        parts[-1] = re.split(r" The images |这些图的地面", parts[-1])[0]
        totals = []
        for part, image in zip(parts, row["image"], strict=True):
            check(part, images[image])
            groups = GROUP_EN.findall(part) if language == "en" else GROUP_ZH.findall(part)
            totals.append(sum(numbers.index(group[2 if language == "en" else 3]) for group in groups))
        claim = re.search(r"most things are in (.+), with (\d+)|物体最多的是(.+?),各?有(\d+)个", text)
        named = {int(number) for number in re.findall(r"\d+", claim[1] or claim[3])}
        assert int(claim[2] or claim[4]) == max(totals)
        assert named == {number for number, total in enumerate(totals, 1) if total == max(totals)}


def test_descriptions_of_llava_match_their_pictures(paths: DemoPaths) -> None:
    for row in pq.read_table(next(paths.llava.glob("*.parquet"))).to_pylist():
        if row["type"] == "描述图片":
            text = row["conversations"][1]["value"].split("除牌子外")[0]
            check_chinese(text, (paths.llava / row["image"]).read_bytes())


def test_a_dialogue_asks_about_what_is_there_and_what_is_not() -> None:
    rng = random.Random(5)
    for _ in range(200):
        scene = scenes.random_scene(rng, with_board=True)
        answers = [answer for _, answer in dialogues.rounds("日常对话", scene, rng)]
        shown = {captions.things(group, "zh"): captions.place(group, "zh") for group in scene.groups}
        thing, place = re.fullmatch(r"图里有(.+),在画面的(.+)。", answers[1]).groups()
        assert shown[thing] == place
        absent = re.fullmatch(r"没有,图里看不到(.+)。", answers[3])[1]
        assert absent not in {scenes.KINDS[group.kind].zh for group in scene.groups}


def test_things_in_a_scene_stay_inside_the_picture_and_apart() -> None:
    rng = random.Random(7)
    for _ in range(100):
        scene = scenes.random_scene(rng)
        image, sprites = draw.picture(scene)
        taken = np.zeros((image.height, image.width), dtype=int)
        for sprite in sprites:
            assert sprite.x >= 0 and sprite.y >= 0
            assert sprite.x + sprite.image.width <= image.width and sprite.y + sprite.image.height <= image.height
            taken[sprite.y : sprite.y + sprite.image.height, sprite.x : sprite.x + sprite.image.width] += 1
        assert taken.max() == 1


def test_the_font_has_every_character_that_signs_use() -> None:
    missing = bytes(draw.font(40).getmask("\U0010fffe"))
    for character in {character for sign in scenes.SIGNS for character in sign.zh if character != " "}:
        mask = bytes(draw.font(40).getmask(character))
        assert any(mask) and mask != missing


# -- the published form ------------------------------------------------------------------------------------


def test_the_configs_have_the_rows_asked_for(paths: DemoPaths) -> None:
    counts = [len(rows_of(paths, name)) for name in (*write.SINGLE.values(), *write.MULTI.values())]
    assert counts == [80, 80, 20, 20]
    types = pq.read_table(next(paths.llava.glob("*.parquet")))["type"].to_pylist()
    assert len(types) == 40 and all(types.count(task) >= 12 for task in dialogues.TASKS)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_single_image_lines_have_the_published_form(paths: DemoPaths, language: str) -> None:
    images = images_of(paths)
    rows = rows_of(paths, write.SINGLE[language])
    for row in rows:
        assert list(row) == ["id", "image", "width", "height", "conversations"]
        assert Image.open(io.BytesIO(images[row["image"]])).size == (row["width"], row["height"])
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"]
        assert row["conversations"][0]["value"] == f"<image>\n{write.SINGLE_PROMPTS[language]}"
        assert "\n" not in row["conversations"][1]["value"]
    assert len({row["image"] for row in rows}) == len(rows)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_multi_image_lines_have_a_mark_for_each_of_their_2_to_4_images(paths: DemoPaths, language: str) -> None:
    images = images_of(paths)
    rows = rows_of(paths, write.MULTI[language])
    for row in rows:
        question = row["conversations"][0]["value"]
        marks = "".join(f"Image-{number}: <image>\n" for number in range(1, len(row["image"]) + 1))
        assert question.startswith(marks) and question.count("<image>") == len(row["image"])
        sizes = [Image.open(io.BytesIO(images[image])).size for image in row["image"]]
        assert sizes == list(zip(row["width_list"], row["height_list"], strict=True))
    assert {len(row["image"]) for row in rows} == {2, 3, 4}
    assert any(len({image.split("/")[0] for image in row["image"]}) > 1 for row in rows)


@pytest.mark.slow
def test_chinese_is_written_as_itself(paths: DemoPaths) -> None:
    assert "生成基于给定图像" in (paths.internvl / write.SINGLE["zh"]).read_text(encoding="utf-8")


def test_llava_rows_have_distinct_images_and_the_rounds_of_their_task(paths: DemoPaths) -> None:
    rows = pq.read_table(next(paths.llava.glob("*.parquet"))).to_pylist()
    for row in rows:
        assert len(row["conversations"]) == (10 if row["type"] == "日常对话" else 2)
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"] * (len(row["conversations"]) // 2)
        assert "".join(turn["value"] for turn in row["conversations"]).count("<image>") == 1
    assert {row["image"] for row in rows} == {f"images/{file.name}" for file in (paths.llava / "images").iterdir()}
    assert len({file.read_bytes() for file in (paths.llava / "images").iterdir()}) == len(rows)


def test_archives_are_gzip_streams_named_tar_with_unsorted_flat_members(paths: DemoPaths) -> None:
    files = sorted(paths.sa1b.iterdir())
    assert [file.name for file in files] == ["sa_000000.tar", "sa_000001.tar", "sa_000002.tar"]
    last = 0
    for file in files:
        assert file.read_bytes()[:3] == b"\x1f\x8b\x08"
        with tarfile.open(file, "r:gz") as archive:
            members = archive.getmembers()
        names = [member.name for member in members]
        ids = [int(name[len("./sa_") : -len(".jpg")]) for name in names if name.endswith(".jpg")]
        assert sorted(names) == sorted(f"./sa_{id}.{end}" for id in ids for end in ("jpg", "json"))
        assert names != sorted(names) and ids != sorted(ids)
        assert last < min(ids)
        last = max(ids)
        assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}


def test_jpegs_are_baseline_with_three_channels(paths: DemoPaths) -> None:
    data = images_of(paths)["sa_000000/sa_1.jpg"]
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("JPEG", "RGB") and not image.info.get("progressive")


def test_masks_cover_the_things_that_are_drawn(paths: DemoPaths) -> None:
    with tarfile.open(paths.sa1b / "sa_000001.tar", "r:gz") as archive:
        contents = {member.name[2:]: archive.extractfile(member).read() for member in archive}
    for name in [name for name in contents if name.endswith(".json")][:10]:
        masks = json.loads(contents[name])
        image = masks["image"]
        assert image["file_name"] == name.replace(".json", ".jpg") == f"sa_{image['image_id']}.jpg"
        pixels = pixels_of(contents[image["file_name"]])
        assert pixels.shape == (image["height"], image["width"], 3)
        covered = np.zeros(pixels.shape[:2], dtype=bool)
        for annotation in masks["annotations"]:
            mask = decoded(annotation["segmentation"])
            ys, xs = np.nonzero(mask)
            assert annotation["area"] == mask.sum()
            box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            assert annotation["bbox"] == box
            assert all(mask[y, x] for x, y in annotation["point_coords"])
            covered |= mask
        for colour in scenes.COLOURS.values():
            assert (of_colour(pixels, colour.rgb) & ~covered).mean() < 0.001


def test_run_lengths_are_those_that_pycocotools_writes() -> None:
    assert write.coco_rle(np.array([[1, 0, 0], [1, 1, 0]], dtype=bool)) == "021O1"
    block = np.pad(np.ones((100, 37), dtype=bool), ((7, 13), (300, 5)))
    assert write.coco_rle(block) == "WUS1T3d0" + "0" * 71 + "ab0"


def decoded(segmentation: dict) -> np.ndarray:
    """A mask from COCO's compressed run lengths, written after pycocotools' ``rleFrString``."""
    height, width = segmentation["size"]
    runs: list[int] = []
    codes = iter(segmentation["counts"].encode())
    for code in codes:
        value, shift = 0, 0
        while True:
            value |= (code - 48 & 31) << shift
            shift += 5
            if not code - 48 & 32:
                break
            code = next(codes)
        if code - 48 & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape((height, width), order="F")


# -- writing -----------------------------------------------------------------------------------------------


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(paths: DemoPaths, tmp_path: Path) -> None:
    assert everything(write_demo(tmp_path / "again").root) == everything(paths.root)
    other = write_demo(tmp_path / "other", seed=1)
    assert (other.sa1b / "sa_000000.tar").read_bytes() != (paths.sa1b / "sa_000000.tar").read_bytes()


def test_a_whole_folder_is_left_as_it_is(paths: DemoPaths) -> None:
    before = {file: file.stat().st_mtime_ns for file in paths.root.rglob("*")}
    assert write_demo(paths.root) == paths
    assert {file: file.stat().st_mtime_ns for file in paths.root.rglob("*")} == before


@pytest.mark.slow
def test_a_damaged_folder_is_made_whole_and_files_of_others_stay(paths: DemoPaths, tmp_path: Path) -> None:
    write_demo(tmp_path, rows=300)
    archive = tmp_path / "sa1b" / "sa_000001.tar"
    archive.write_bytes(archive.read_bytes()[:-100])
    (tmp_path / "notes.txt").write_text("mine")
    write_demo(tmp_path)
    assert everything(tmp_path) == everything(paths.root) | {"notes.txt": b"mine"}


@pytest.mark.slow
def test_files_of_others_under_the_published_names_are_never_written_over(tmp_path: Path) -> None:
    for name in ("sa1b/sa_000000.tar", "internvl/internvl_sa1b_caption_1m_single_image_zh.jsonl"):
        mine = tmp_path / name.replace("/", "-") / name
        mine.parent.mkdir(parents=True)
        mine.write_text("from Meta")
        with pytest.raises(BadArgument, match=rf"{mine.name} is there already.*another folder"):
            write_demo(mine.parents[1])
        assert everything(mine.parents[1]) == {name: b"from Meta"}


def test_a_call_that_was_killed_is_finished_by_the_next(paths: DemoPaths, tmp_path: Path) -> None:
    for name in ("demo.json", "sa1b/sa_000000.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((paths.root / name).read_bytes())
    write_demo(tmp_path)
    assert everything(tmp_path) == everything(paths.root)


@pytest.mark.slow
def test_a_manifest_that_names_files_outside_the_folder_deletes_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "keep.txt"
    outside.write_text("keep")
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "demo.json").write_text('{"files": {"../keep.txt": ""}}')
    write_demo(folder)
    assert outside.read_text() == "keep"


def test_a_manifest_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", "null", '{"files": 3}', '{"files": ["x"]}', '{"files": {"\\u0000": ""}}', "\xff"):
        (tmp_path / "demo.json").write_text(text, encoding="latin-1")
        assert write._manifest(tmp_path) == {}


@pytest.mark.parametrize("rows", [0, 199, 10_001])
def test_a_number_of_rows_that_makes_no_miniature_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(BadArgument, match=str(rows)):
        write_demo(tmp_path, rows=rows)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("not a folder")
    with pytest.raises(BadArgument, match="is a file"):
        write_demo(tmp_path / "demo")
