"""A miniature of both datasets and of the SA-1B archives behind them, in the form they are published in."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BadArgument
from ..storage.atomic import atomic
from . import dialogues
from .captions import caption, comparison
from .draw import Sprite, jpeg, picture
from .scenes import Scene, random_scene

MIN_ROWS, MAX_ROWS = 200, 10_000
MANIFEST = "demo.json"
# Goes up when the same `rows` and `seed` give other files than before.
FORMAT = 1

SINGLE = {
    "en": "internvl_sa1b_caption_11m_single_image_en.jsonl",
    "zh": "internvl_sa1b_caption_1m_single_image_zh.jsonl",
}
MULTI = {
    "en": "internvl_sa1b_caption_77k_multi_image_en.jsonl",
    "zh": "internvl_sa1b_caption_77k_multi_image_zh.jsonl",
}
# The prompts on the dataset's card.
SINGLE_PROMPTS = {
    "en": "Generate an accurate, single-paragraph description based on the given image. Do not use multiple paragraphs "
    "or line breaks. Avoid generating speculative content. Ensure that the description is based on clearly visible "
    "information in the image and avoid any over-speculation.",
    "zh": "生成基于给定图像的准确单段描述。请勿使用多段或换行。避免生成带有推测性质的内容。"
    "确保描述基于图像中清晰可见的信息,避免过度推测。",
}
MULTI_PROMPTS = {"en": "Describe each image, then compare them.", "zh": "请依次描述每张图像,并对它们进行比较。"}

# First and last image id of each archive. Like the real ones they ascend, are disjoint and have gaps between them.
ARCHIVES = {"sa_000000": (1, 11186), "sa_000001": (11190, 22375), "sa_000002": (22381, 33566)}


@dataclass(frozen=True)
class DemoPaths:
    """Where a miniature is: `internvl` and `llava` are for `data_dir`, `sa1b` is for `image_root`."""

    root: Path
    internvl: Path
    llava: Path
    sa1b: Path


@dataclass(frozen=True)
class _Shot:
    """One drawn image of the SA-1B miniature."""

    archive: str
    id: int
    scene: Scene

    @property
    def path(self) -> str:
        return f"{self.archive}/sa_{self.id}.jpg"


def write_demo(folder: str | Path, *, rows: int = 240, seed: int = 0) -> DemoPaths:
    """Write the miniature of both datasets under `folder`; no network is used.

    It holds about `rows` rows: a third each in ``single_en`` and ``single_zh``, a twelfth each in ``multi_en`` and
    ``multi_zh``, a sixth in llava-instruct-zh-600k. The images are drawn scenes whose captions describe them
    truly. The same `rows` and `seed` give the same bytes; a folder that holds them already is left as it is,
    and what is damaged or from another call is written anew.

    Raises:
        BadArgument: `rows` is not between 200 and 10,000, `folder` is a file, or holds a file of somebody else's under
            a name that the miniature has.
    """
    if not MIN_ROWS <= rows <= MAX_ROWS:
        raise BadArgument(f"rows={rows} does not make a miniature; give {MIN_ROWS} to {MAX_ROWS}.")
    root = Path(folder).expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise BadArgument(f"{root} is a file; the demo needs a folder (it may exist already). Give another path.")
    paths = DemoPaths(root, root / "internvl", root / "llava", root / "sa1b")
    request = {"format": FORMAT, "rows": rows, "seed": seed}
    before = _manifest(root)
    if all(before.get(key) == value for key, value in request.items()) and _intact(root, before["files"]):
        return paths
    rng = random.Random(seed)
    files: dict[str, bytes] = {}
    shots = _shots(rng, rows * 5 // 12)
    files |= {f"sa1b/{name}": data for name, data in _sa1b_files(rng, shots).items()}
    files |= {f"internvl/{name}": data for name, data in _internvl_files(rng, shots, rows).items()}
    files |= {f"llava/{name}": data for name, data in _llava_files(rng, max(36, rows // 6)).items()}
    known: dict[str, str] = before.get("files", {})
    for name in files:
        if name not in known and os.path.lexists(root / name):
            raise BadArgument(
                f"{root / name} is there already and is not of an earlier demo, whose files have the published names. "
                "Nothing was written. Give another folder."
            )
    for name in known.keys() - files.keys():
        if _intact(root, {name: known[name]}):
            (root / name).unlink()
    # First, so that a call that is killed leaves files that the next one knows as its own.
    manifest = {**request, "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
    _write(root / MANIFEST, json.dumps(manifest, indent=1).encode())
    for name, data in files.items():
        _write(root / name, data)
    return paths


# -- what is there already ---------------------------------------------------------------------------------


def _manifest(root: Path) -> dict[str, Any]:
    """The manifest of an earlier call, or nothing if there is none that can be read and stays inside `root`."""
    try:
        manifest = json.loads((root / MANIFEST).read_bytes())
        files = dict(manifest["files"])
        inside = all((root / name).resolve().is_relative_to(root.resolve()) for name in files)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {**manifest, "files": files} if inside else {}


def _intact(root: Path, files: dict[str, str]) -> bool:
    """Whether every file is there with the SHA-256 it was written with."""
    try:
        return all(hashlib.sha256((root / name).read_bytes()).hexdigest() == digest for name, digest in files.items())
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees either all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path, path.with_name(f".{path.name}.{os.getpid()}.tmp"), sync_name=False) as file:
        file.write(data)


# -- SA-1B -------------------------------------------------------------------------------------------------


def _shots(rng: random.Random, count: int) -> list[_Shot]:
    """`count` images spread over the archives; each archive has the first and the last id of its range."""
    shots = []
    for number, (archive, (first, last)) in enumerate(ARCHIVES.items()):
        share = len(range(number, count, len(ARCHIVES)))
        ids = [first, last, *rng.sample(range(first + 1, last), share - 2)]
        shots += [_Shot(archive, id, random_scene(rng)) for id in sorted(ids)]
    return shots


def _sa1b_files(rng: random.Random, shots: Iterable[_Shot]) -> dict[str, bytes]:
    """The archives by name: gzip streams despite ``.tar``, with the members in no order, as Meta publishes them."""
    members: dict[str, list[tuple[str, bytes]]] = {archive: [] for archive in ARCHIVES}
    for shot in shots:
        image, sprites = picture(shot.scene)
        members[shot.archive] += [
            (f"./sa_{shot.id}.jpg", jpeg(image)),
            (f"./sa_{shot.id}.json", json.dumps(_masks(rng, shot, sprites)).encode()),
        ]
    for pairs in members.values():
        rng.shuffle(pairs)
    return {f"{archive}.tar": _gzip_tar(pairs) for archive, pairs in members.items()}


def _gzip_tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, data in members:
            # A fresh TarInfo has mtime, uid and gid 0 and no user name: nothing of the moment or the machine.
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    return buffer.getvalue()


def _masks(rng: random.Random, shot: _Shot, sprites: Sequence[Sprite]) -> dict[str, Any]:
    """The mask file beside an image, with the fields SA-1B documents; boxes are x, y, width, height in pixels."""
    scene = shot.scene
    annotations = []
    for number, sprite in enumerate(sprites):
        mask = np.zeros((scene.height, scene.width), dtype=bool)
        alpha = np.asarray(sprite.image.getchannel("A"))
        mask[sprite.y : sprite.y + alpha.shape[0], sprite.x : sprite.x + alpha.shape[1]] = alpha > 127
        ys, xs = np.nonzero(mask)
        left, top, middle = int(xs.min()), int(ys.min()), len(xs) // 2
        annotations.append(
            {
                "id": shot.id * 1000 + number,
                "segmentation": {"size": [scene.height, scene.width], "counts": coco_rle(mask)},
                "bbox": [left, top, int(xs.max()) - left + 1, int(ys.max()) - top + 1],
                "area": len(xs),
                "predicted_iou": round(rng.uniform(0.88, 1.0), 4),
                "stability_score": round(rng.uniform(0.92, 1.0), 4),
                "crop_box": [0, 0, scene.width, scene.height],
                "point_coords": [[int(xs[middle]), int(ys[middle])]],
            }
        )
    image = {"image_id": shot.id, "width": scene.width, "height": scene.height, "file_name": f"sa_{shot.id}.jpg"}
    return {"image": image, "annotations": annotations}


def coco_rle(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    """COCO's compressed run-length code of a mask of shape (height, width), as pycocotools' ``rleToString`` has it."""
    flat = np.concatenate(([False], mask.ravel(order="F")))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate(([0], edges, [mask.size]))).tolist()
    text = []
    for position, run in enumerate(runs):
        # From the fourth run on, the difference from the run before last; in 5-bit groups, the sign in the last one.
        value = run - runs[position - 2] if position > 2 else run
        more = True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            text.append(chr((group | 32 if more else group) + 48))
    return "".join(text)


# -- InternVL-SA-1B-Caption --------------------------------------------------------------------------------


def _internvl_files(rng: random.Random, shots: Sequence[_Shot], rows: int) -> dict[str, bytes]:
    files = {}
    for language, name in SINGLE.items():
        chosen = rng.sample(shots, rows // 3)
        files[name] = _json_lines(_single_row(number, shot, language) for number, shot in enumerate(chosen))
    for language, name in MULTI.items():
        several = [rng.sample(shots, rng.randint(2, 4)) for _ in range(rows // 12)]
        files[name] = _json_lines(_multi_row(number, chosen, language) for number, chosen in enumerate(several))
    return files


def _single_row(number: int, shot: _Shot, language: str) -> dict[str, Any]:
    return {
        "id": number,
        "image": shot.path,
        "width": shot.scene.width,
        "height": shot.scene.height,
        "conversations": _turns([(f"<image>\n{SINGLE_PROMPTS[language]}", caption(shot.scene, language))]),
    }


def _multi_row(number: int, shots: Sequence[_Shot], language: str) -> dict[str, Any]:
    marks = "".join(f"Image-{position}: <image>\n" for position in range(1, len(shots) + 1))
    answer = comparison([shot.scene for shot in shots], language)
    return {
        "id": number,
        "image": [shot.path for shot in shots],
        "width_list": [shot.scene.width for shot in shots],
        "height_list": [shot.scene.height for shot in shots],
        "conversations": _turns([(marks + MULTI_PROMPTS[language], answer)]),
    }


def _turns(rounds: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"from": role, "value": text} for round in rounds for role, text in zip(("human", "gpt"), round, strict=True)
    ]


def _json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


# -- llava-instruct-zh-600k --------------------------------------------------------------------------------


def _llava_files(rng: random.Random, rows: int) -> dict[str, bytes]:
    """A Parquet file and the images it names; the tasks take turns."""
    files: dict[str, bytes] = {}
    table: list[dict[str, Any]] = []
    for number in range(rows):
        scene = random_scene(rng, with_board=True)
        task = dialogues.TASKS[number % len(dialogues.TASKS)]
        (question, answer), *later = dialogues.rounds(task, scene, rng)
        image = f"images/{number + 1:06}.jpg"
        files[image] = jpeg(picture(scene)[0])
        turns = _turns([(f"<image>\n{question}", answer), *later])
        table.append({"type": task, "image": image, "conversations": turns})
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist(table), buffer)
    files["train-00000-of-00001.parquet"] = buffer.getvalue()
    return files
