"""WebDataset shards: tars whose members make a sample where their names are the same up to the first dot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import BadFile, BadRow
from ..gates import pictures
from ..gates.limits import LINE, SAMPLE_BYTES, SAMPLE_IMAGES, Limit
from ..rows import records
from ..rows.columns import USUAL, Columns, no_image
from ..rows.records import Place
from ..sa1b.tar_header import safe_name
from . import jsonl
from .data_files import DataFile
from .file_streams import whole
from .tar_stream import TarFile, tar_files

# Bytes of samples that lack their text or their picture, and wait for it, where members of a sample stand apart.
HELD_BYTES = 256 << 20
Key = tuple[str, str]


def samples(
    file: DataFile, token: Any, columns: Columns = USUAL, *, text_only: bool = False
) -> Iterator[Mapping[str, Any] | BadRow]:
    """The samples of a shard as records, or what is wrong with them.

    A member with the ending ``.txt`` is read where `columns` have a field of the name ``txt``.

    Args:
        text_only: A sample may have no picture. One whose ``.json`` says so (``"image": null``) comes in its place; one
            that says nothing of an image comes at the end of the shard, since its picture may until then.

    Raises:
        BadFile: When all samples that are there were given: the shard is damaged, cut short, or goes on after its end.
    """
    texts = (".json", ".txt") if "txt" in columns.known else (".json",)
    grouped = _Grouped(file.label, texts, columns, text_only)
    damage = None
    try:
        for member in tar_files(whole(file, token), file.label, partial(_is_wanted, texts)):
            if not _is_ballast(member.name):
                yield from grouped.add(member)
    except BadFile as error:
        damage = error
    # Where the shard is damaged, a sample that lacks something is part of that.
    yield from grouped.rest(whole=damage is None)
    if damage is not None:
        raise damage


def _is_wanted(texts: tuple[str, ...], name: str, size: int) -> bool:
    suffix = _suffix(name)
    if _is_ballast(name):
        return False
    if suffix.endswith(texts):
        return size <= LINE.value
    return suffix.endswith(pictures.SUFFIXES) and size <= SAMPLE_BYTES.value


def _is_ballast(name: str) -> bool:
    """Whether a member is what macOS adds to archives: halves of files that it has beside each other."""
    parts = name.split("/")
    return parts[-1].startswith("._") or parts[-1] == ".DS_Store" or "__MACOSX" in parts


def _suffix(name: str) -> str:
    return "." + name.rpartition("/")[2].partition(".")[2].lower()


@dataclass
class _Sample:
    """A sample under way; images are by name, as the last of several members with one name is the one that counts."""

    fields: dict[str, Any] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    bad: BadRow | None = None
    text: bool = False
    size: int = 0
    elsewhere: dict[str, Any] = field(default_factory=dict)  # where the record says that its pictures are
    text_only: bool | None = None  # whether the record says that it has none; None where it says nothing

    @property
    def whole(self) -> bool:
        return self.bad is not None or (self.text and bool(self.images or self.elsewhere or self.text_only))

    def record(self) -> Mapping[str, Any] | BadRow | None:
        """What it is as a record; None where no member was text or a picture."""
        if self.bad is not None:
            return self.bad
        images = [{"bytes": data, "path": path} for path, data in self.images.items()]
        if not images:
            return {**self.elsewhere, **self.fields} if self.text else None
        return {"image": images[0] if len(images) == 1 else images, **self.fields}


class _Grouped:
    """Members put together to samples. Nearly always those of a sample follow each other.

    A sample that lacks something when the next one begins is held for a while, as in tars sorted by ending. One that
    was given and comes up again is an error, so that no sample ever becomes two rows.
    """

    def __init__(self, label: str, texts: tuple[str, ...], columns: Columns, text_only: bool) -> None:
        self._label, self._texts, self._columns, self._text_only = label, texts, columns, text_only
        self._key: Key | None = None
        self._sample = _Sample()
        self._held: dict[Key, _Sample] = {}
        self._held_bytes = 0
        self._given: set[Key] = set()

    def add(self, member: TarFile) -> Iterator[Mapping[str, Any] | BadRow]:
        """Take a member in; what it completes is given."""
        folder, _, base = member.name.rpartition("/")
        key = (folder, base.partition(".")[0])
        if key != self._key:
            yield from self._done()
            self._key, self._sample = key, self._held.pop(key, _Sample())
            self._held_bytes -= self._sample.size
            if key in self._given and (member.data is not None or not _is_other(member, self._texts)):
                self._sample.bad = self._apart(member)
        _add(self._sample, self._label, member, self._texts, self._columns)
        if not self._text_only:
            self._sample.text_only = False

    def rest(self, whole: bool) -> Iterator[Mapping[str, Any] | BadRow]:
        """The samples that are under way at the end of the shard.

        A sample that lacks something is a bad row if the shard is `whole`. In one that is cut short, what the sample
        lacks may have been behind the end.
        """
        self._held |= {self._key: self._sample} if self._key is not None else {}
        for key, sample in self._held.items():
            if sample.whole:
                record = sample.record()
                assert record is not None
                yield record
            elif whole and sample.text and not sample.images and sample.text_only is None:
                yield sample.fields
            elif whole and (sample.fields or sample.images):
                yield self._incomplete(key, sample)
        self._held, self._key = {}, None

    def _incomplete(self, key: Key, sample: _Sample) -> BadRow:
        place = Place(f"{self._label}, sample {_shown(key)}", byte=0)
        missing = "picture" if not sample.images else ".json"
        return records.bad_row(place, "sample", "a .json and a picture", f"no {missing}", "Is the shard whole?")

    def _done(self) -> Iterator[Mapping[str, Any] | BadRow]:
        key, sample = self._key, self._sample
        if key is None:
            return
        if sample.whole:
            self._given.add(key)
            record = sample.record()
            assert record is not None
            yield record
        elif sample.fields or sample.images:
            self._held[key] = sample
            self._held_bytes += sample.size
            if self._held_bytes > HELD_BYTES:
                self._key = None
                first, others = _shown(next(iter(self._held))), len(self._held) - 1
                raise BadFile(
                    f"{self._label}: the members of a sample do not follow each other: {first!r} and {others} more "
                    "still lack their .json or their picture. Write the shard in the order of names (tar --sort=name)"
                    + (', and "image": null into the .json of samples without one.' if self._text_only else ".")
                )

    def _apart(self, member: TarFile) -> BadRow:
        key = _shown(member.name)
        return records.bad_row(
            Place(f"{self._label}, member {key}", byte=member.offset),
            "sample",
            "the members of a sample after one another",
            "more of a sample that was complete, with others between",
            "Is the shard two in one? Give samples names of their own, and write them in the order of names.",
        )


def _is_other(member: TarFile, texts: tuple[str, ...]) -> bool:
    return not _suffix(member.name).endswith((*pictures.SUFFIXES, *texts))


def _add(sample: _Sample, label: str, member: TarFile, texts: tuple[str, ...], columns: Columns) -> None:
    suffix = _suffix(member.name)
    name = _shown(member.name)
    place = Place(f"{label}, member {name}", byte=0)
    sample.size += len(member.data or b"")
    if _is_other(member, texts):
        return
    if sample.size > SAMPLE_BYTES.value or (member.data is None and not suffix.endswith(texts)):
        _refuse(sample, place, SAMPLE_BYTES)
    elif member.data is None:
        _refuse(sample, place, LINE)
    elif suffix.endswith(pictures.SUFFIXES):
        sample.images.pop(name, None)
        sample.images[name] = member.data
        if len(sample.images) > SAMPLE_IMAGES.value:
            _refuse(sample, place, SAMPLE_IMAGES)
    elif suffix.endswith(".txt"):
        try:
            sample.fields["txt"], sample.text = member.data.decode("utf-8-sig").strip(), True
        except UnicodeDecodeError as error:
            sample.bad = sample.bad or records.bad_row(place, "txt", "text in UTF-8", str(error))
    else:
        fields = jsonl.decode_line(place, member.data)
        if isinstance(fields, BadRow):
            sample.bad = sample.bad or fields
        else:
            sample.text = True
            # The picture itself wins over the name that the record has for it.
            names = columns.names["image"]
            sample.fields |= _without(fields, names)
            sample.elsewhere = {k: v for k, v in fields.items() if k in names and _is_place(v)}
            if columns.has_image(fields):
                sample.text_only = False
            elif any(no_image(fields[name]) for name in names if name in fields):
                sample.text_only = True


def _without(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """`fields` without those of `names`, also where a name with a dot is a key in one that holds others."""
    kept = {name: value for name, value in fields.items() if name not in names}
    for first, _, rest in (name.partition(".") for name in names):
        if rest and isinstance(inner := kept.get(first), Mapping):
            kept[first] = _without(inner, (rest,))
    return kept


def _is_place(image: Any) -> bool:
    """Whether a record names images by URLs or absolute paths, as our exports without pictures do: none follow."""
    images = image if isinstance(image, list) else [image]
    return bool(images) and all(isinstance(one, str) and ("://" in one or one.startswith("/")) for one in images)


def _refuse(sample: _Sample, place: Place, limit: Limit) -> None:
    """Let `sample` be bad, and its pictures go."""
    expected = f"at most {limit.value:,} {limit.unit}"
    sample.bad = sample.bad or records.bad_row(place, "sample", expected, "more", limit.exceeded())
    sample.images, sample.size = {}, 0


def _shown(name: str | Key) -> str:
    """A member's name as a row has it: relative, and UTF-8."""
    text = "/".join(filter(None, name)) if isinstance(name, tuple) else name
    text = safe_name(text) or text.rpartition("/")[2]
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
