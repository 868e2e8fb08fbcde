"""Files of rows and images of SA-1B where the options say that they are."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from ...errors import LlavaZhError
from ...gates.counts import counted
from ...sa1b.access import ROOT_VARIABLE
from .findings import Finding, Findings, first_line


def files_in(data_dir: str) -> Findings:
    """The rows found in a folder: published files by their names, else whatever has rows."""
    from ... import list_datasets
    from ...catalog import row_files
    from ...files.data_files import local_files
    from ...load import dataset_facts

    try:
        files = local_files(data_dir, None)
    except LlavaZhError as error:
        yield Finding("failed", "folder", first_line(error))
        return
    everything = [dataset_facts(name) for name in list_datasets()]
    configs = [
        (facts.name, config)
        for facts in everything
        for name, config in facts.file_names.items()
        if any(row_files.is_named(file, name) for file in files)
    ]
    # Rows of no published name are found out from their columns, in the same way for all datasets of which that holds.
    detected = [(facts.name, facts.default_config) for facts in everything if not facts.file_names]
    for path, config in configs or detected[:1]:
        label = f"{path} {config}" if configs else "rows"
        try:
            yield Finding("ok", label, _first_row(path, config, data_dir))
        except LlavaZhError as error:
            yield Finding("failed", label, str(error))


def _first_row(path: str, config: str | None, data_dir: str) -> str:
    from ... import load_dataset_builder
    from ..show import image_size, images_of

    builder = load_dataset_builder(path, config, data_dir=data_dir)
    row = next(iter(builder.as_streaming_dataset(split="train").decode(False)), None)
    if row is None:
        return f"{builder.config.found}; no rows"
    image = next(images_of(row), None)
    if image is None or builder.FACTS.in_sa1b or not builder.config.images.decode:
        return f"{builder.config.found}; the first row reads"
    return f"{builder.config.found}; the first row reads, its image too ({image_size(image)})"


def sa1b_images(image_root: object) -> Findings:
    """What the SA-1B root holds, and one image out of it. No index is built: that takes a minute an archive."""
    import fsspec

    if image_root is None and not os.environ.get(ROOT_VARIABLE):
        advice = "give --image-root, or set SA1B_ROOT; without them rows come with image URLs that are not opened"
        yield Finding("missing", "root", "none given", advice)
        return
    try:
        filesystem = fsspec.filesystem("sa1b", fo=image_root) if image_root is not None else fsspec.filesystem("sa1b")
        held = filesystem.archives()
    except LlavaZhError as error:
        yield Finding("failed", "root", first_line(error))
        return
    for root in filesystem.roots:
        kinds = Counter(info.kind for info in held if info.root == root.name)
        detail = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no archive, no folder of images"
        yield Finding("ok" if kinds else "failed", root.name, detail)
    for info in [info for info in held if info.problem][:5]:
        yield Finding("failed", info.path, str(info.problem), "`llava-zh sa1b verify` tells what can be saved")
    unindexed = [info for info in held if not info.indexed and not info.problem]
    if unindexed:
        advice = "the first use of each indexes it; `llava-zh sa1b index` does so for all"
        yield Finding("", "index", f"{len(unindexed)} of {counted(len(held), 'archives')} have none yet", advice)
    if readable := next((info for info in held if info.indexed and not info.problem), None):
        yield _one_image(filesystem, readable)


def _one_image(filesystem: Any, info: Any) -> Finding:
    from ...gates import pictures

    try:
        if info.kind == "flat":
            path = f"sa_{info.ids[0]}.jpg"
        else:
            path = next(name for name in filesystem.ls(info.name, detail=False) if name.endswith(".jpg"))
        found = pictures.decodes(filesystem.cat_file(path), f"sa1b://{path}")
        return Finding("ok", f"sa1b://{path}", f"{found.width}×{found.height}, decodes")
    except StopIteration:
        return Finding("failed", info.path, "holds no .jpg")
    except (LlavaZhError, OSError) as error:
        return Finding("failed", info.path, first_line(error), "`llava-zh sa1b verify` checks all images")
