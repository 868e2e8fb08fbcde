"""What a person asks for: one frozen :class:`Request`, which every call and command hands on as it is.

A field is declared once: its default, its check, what it decides, how a message shows it, and its option on the command
line. From that follow the cache folder of a prepared dataset, what the manifests of runs and exports hold, the words of
messages, and the options of the commands. A field that says nothing of itself counts as one that decides the rows.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Self

from ..errors import BadArgument, UnknownArgument, known_name
from ..files.data_files import SOURCES
from ..gates import limits, sizes
from ..gates.counts import counted
from ..sa1b.access import public
from ..sa1b.urls import SA_NAME, SHARD_NAME, archive_names, normalize
from . import place_checks

if TYPE_CHECKING:
    from ..files.data_files import DataFile
    from ..images.locations import Images
    from ..rows.formats import RowOptions
    from .facts import DatasetFacts

# Names of archives that a message lists; of more it says how many.
SHOWN_NAMES = 12
ON_BAD_ROW = ("raise", "skip")
ON_MISSING_IMAGE = ("raise", "skip", "null")


class Decides(Enum):
    """What a field of a request decides."""

    PLACE = "where the rows and images are; what is found there is told apart, not how it was asked for"
    ACCESS = "who may read them; never written down"
    FORM = "what the rows look like"
    READING = "which rows the files hold"
    CHOICE = "which rows are taken; a run of regeneration may be widened to more"
    CUTS = "how the files are cut into shards, on which no row depends"


#: What tells apart the rows that come out, in caches and exports.
_ROWS = (Decides.FORM, Decides.READING, Decides.CHOICE)


@dataclass(frozen=True)
class Option:
    """The option of the command line that gives a field; its name is the field's.

    Args:
        help: What `--help` says; ``{more}`` stands for the choices after the first two.
        group: Under which heading it says so: ``where``, ``which`` or ``shards``.
        parse: From the text that was typed to the value. Raises: BadArgument.
    """

    help: str
    group: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    parse: Callable[[str], Any] | None = None
    several: bool = False


@dataclass(frozen=True)
class About:
    """What is declared of a field beside its name, type and default.

    Args:
        check: The value as it is kept, from the value that was given. Raises: BadArgument, UnknownName.
        shown: The words for a value that is not the default.
        always: Whether caches and manifests hold it by its default too. Those of version 0.1 do, for its fields; a
            field that came later is told only where it is set, so that what was made before it is found again.
    """

    decides: Decides = Decides.READING
    check: Callable[[Any], Any] = lambda given: given
    shown: Callable[[Any], str] | None = None
    option: Option | None = None
    always: bool = False


def _about(decides: Decides, option: Option | None = None, **more: Any) -> dict[str, About]:
    return {"about": About(decides, option=option, always=True, **more)}


def _source(given: Any) -> Any:
    return known_name("source", given, SOURCES) if given else None


def _row_format(given: Any) -> Any:
    from ..rows.formats import ROW_FORMATS  # brings numpy and pyarrow, which the command line does without

    return known_name("row format", given, ROW_FORMATS)


def _options(given: Any) -> RowOptions:
    from ..rows.formats import RowOptions

    return RowOptions.of(given)


def _path(given: Any) -> Any:
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def _dataset(given: Any) -> Any:
    """The name or path of a dataset. A relative `Path` gets ``./`` in front, so that it is never taken for a name."""
    path = _path(given)
    if path is given or not isinstance(path, str) or os.path.isabs(path) or path.startswith(("~", ".")):  # noqa: PTH117
        return path
    return os.path.join(".", path)  # noqa: PTH118 (Path would take the dot away again)


def _archives(given: Any) -> frozenset[str] | Literal["available"] | None:
    """``range(45)`` or names as names of SA-1B archives; ``"available"`` and None as they are."""
    if given is None:
        return None
    if isinstance(given, str) and given == "available":
        return "available"
    names = frozenset(archive_names(given))
    if not names:
        raise BadArgument("archives: an empty list chooses no row. Leave it out (None) for the rows of all archives.")
    return names


def archive_list(text: str) -> str | list[int | str]:
    """``"0-44,60,sa_000099"`` as numbers and names; ``"available"`` as it is."""
    if text == "available":
        return text
    archives: list[int | str] = []
    for part in text.split(","):
        if span := re.fullmatch(r"([0-9]{1,6})-([0-9]{1,6})", part):
            archives += range(int(span[1]), int(span[2]) + 1)
        elif part.isascii() and part.isdigit() and len(part) <= 6:
            archives.append(int(part))
        elif SHARD_NAME.fullmatch(part):
            archives.append(part)
        else:
            raise BadArgument(f"expected 0-44, 3,5,sa_000007 or available, found {part!r}")
    return archives


def image_roots(text: str) -> str | dict[str, str]:
    """``"sam/=ROOT,coco/=ROOT"`` as a mapping from the beginning of published paths; any other text as it is."""
    parts = [re.fullmatch(r"([^=:,]*/)=(.+)", part) for part in text.split(",")]
    return {part[1]: part[2] for part in parts if part is not None} if all(parts) else text


def _shown_archives(archives: Any) -> str:
    shown = archives if isinstance(archives, str) else sorted(archives)
    return f"archives={shown!r}" if len(shown) <= SHOWN_NAMES else f"{counted(len(shown), 'archives')}"


def _bad_images(given: Any) -> Any:
    """The path of a list, or the entries of one; an iterator is read, since a request is used more than once."""
    if given is None:
        return frozenset()
    if isinstance(given, str | os.PathLike | frozenset):
        return _path(given)
    return tuple(given)


def _bytes(given: Any) -> int:
    size = sizes.parse(given)
    if not size:
        raise BadArgument(
            f"chunk_size: {given!r} is no number of bytes; expected for example 32000000, '32MB' or '16MiB'."
        )
    return size


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which rows are wanted, and what they look like: the arguments of :func:`llava_zh.load_dataset` that say so.

    Values are checked and kept in one form. What depends on the dataset is checked when the request is :meth:`settled`.

    Raises:
        UnknownName: An unknown source, row format, or treatment of bad rows or missing images.
        BadArgument: What is no list of archives, no number of bytes, and the like.
    """

    path: str = field(metadata=_about(Decides.PLACE, check=_dataset))
    name: str | None = field(default=None, metadata=_about(Decides.PLACE))
    data_dir: str | None = field(
        default=None,
        metadata=_about(
            Decides.PLACE,
            Option("folder with the published files; no hub is asked", "where", "DIR"),
            check=place_checks.folder,
        ),
    )
    data_files: Any = field(
        default=None,
        metadata=_about(
            Decides.PLACE,
            Option("files or patterns, relative to --data-dir", "where", "FILE", several=True),
            check=place_checks.data_files,
        ),
    )
    source: str | None = field(
        default=None,
        metadata=_about(
            Decides.PLACE,
            Option("the hub (default: LLAVA_ZH_SOURCE if set, else huggingface)", "where", choices=SOURCES),
            check=_source,
        ),
    )
    revision: str | None = field(
        default=None,
        metadata=_about(
            Decides.PLACE, Option("branch, tag or commit (default: the one this version is made for)", "where", "REV")
        ),
    )
    token: bool | str | None = field(default=None, repr=False, metadata=_about(Decides.ACCESS))
    storage_options: Any = field(
        default=None, repr=False, metadata=_about(Decides.ACCESS, check=place_checks.storage_options)
    )
    image_root: Any = field(
        default=None,
        metadata=_about(
            Decides.PLACE,
            Option(
                "folder or URL of SA-1B, several with commas (default: SA1B_ROOT), or of other images; "
                "sam/=ROOT,coco/=ROOT by how paths begin",
                "where",
                "ROOT",
                parse=image_roots,
            ),
            check=place_checks.image_root,
        ),
    )
    row_format: str = field(
        default="llava",
        metadata=_about(
            Decides.FORM,
            Option("llava (default), sharegpt, messages or parts", "which", "FORMAT"),
            check=_row_format,
        ),
    )
    options: Any = field(default=None, metadata=_about(Decides.FORM, check=_options))
    on_bad_row: str = field(
        default="raise",
        metadata=_about(
            Decides.READING,
            Option("stop at a broken row (default) or leave it out", "which", choices=ON_BAD_ROW),
            check=lambda given: known_name("on_bad_row", given, ON_BAD_ROW),
        ),
    )
    on_missing_image: str = field(
        default="raise",
        metadata=_about(
            Decides.CHOICE,
            Option(
                "an image that is not there: fail when it is opened (default), leave the row out{more}",
                "which",
                choices=ON_MISSING_IMAGE,
            ),
            check=lambda given: known_name("on_missing_image", given, ON_MISSING_IMAGE),
        ),
    )
    archives: Any = field(
        default=None,
        metadata=_about(
            Decides.CHOICE,
            Option(
                "only rows with images in these SA-1B archives: 0-44, 3,5,sa_000007, or available",
                "which",
                "LIST",
                parse=archive_list,
            ),
            check=_archives,
            shown=_shown_archives,
        ),
    )
    bad_images: Any = field(
        default=None,
        metadata=_about(
            Decides.CHOICE,
            Option("leave out rows with these images (from `llava-zh sa1b verify`)", "which", "FILE"),
            check=_bad_images,
            shown=lambda entries: f"bad_images= of {counted(len(entries), 'entries')}",
        ),
    )
    chunk_size: Any = field(
        default="32MB",
        metadata=_about(
            Decides.CUTS, Option("bytes a shard, such as 8MB (default: 32MB)", "shards", "BYTES"), check=_bytes
        ),
    )
    num_shards: int | None = field(
        default=None,
        metadata=_about(Decides.CUTS, Option("exactly this many shards", "shards", "N", parse=int)),
    )

    def __post_init__(self) -> None:
        for name, about in declared(type(self)).items():
            object.__setattr__(self, name, about.check(getattr(self, name)))

    # -- from arguments, and for a dataset -------------------------------------------------------------------

    @classmethod
    def among(cls, arguments: Mapping[str, Any], **instead: Any) -> Self:
        """The request in the arguments of a public function, which has others besides: its ``locals()``.

        Args:
            instead: Values that take the place of those among the arguments.
        """
        return cls(**{name: arguments[name] for name in declared(cls) if name in arguments} | instead)

    @classmethod
    def of(cls, path: str | os.PathLike[str], name: str | None, given: Mapping[str, Any], caller: str) -> Self:
        """The request for a dataset with what else was given to the function `caller` for its loading.

        Raises:
            UnknownArgument: Something was given that is no field.
        """
        for argument in given:
            if argument not in declared(cls) or argument in ("path", "name"):
                raise UnknownArgument.of(caller, argument, declared(cls))
        return cls(path=_dataset(path), name=name, **given)

    def settled(self, facts: DatasetFacts, **instead: Any) -> Self:
        """The request as a dataset understands it: images by the names it has for them, and without what gives access.

        Args:
            instead: What was found to be meant, such as the name of the default configuration.

        Raises:
            BadArgument: Archives are chosen of a dataset whose images are in none; an entry of bad images is no image.
        """
        sa1b = facts.in_sa1b
        if self.archives is not None and not sa1b:
            raise BadArgument(f"archives= chooses SA-1B archives; the images of {facts.name} are not from SA-1B.")
        names = image_names(self.bad_images, sa1b)
        return dataclasses.replace(self, bad_images=names, token=None, storage_options=None, **instead)

    def given(self) -> set[str]:
        """The names of what was asked beside the path: the fields that are not by their default."""
        return {name for name in declared(type(self)) if name != "path" and not self._is_default(name)}

    # -- what it means ---------------------------------------------------------------------------------------

    @property
    def looks_for_images(self) -> bool:
        """Whether the rows depend on which images are there."""
        return self.archives == "available" or self.on_missing_image != "raise"

    def identity(self, files: Iterable[DataFile], images: Images) -> list[str]:
        """Texts that tell apart any two settled requests that give other rows.

        Args:
            files, images: What the request was found to mean. Two ways to ask for the same are the same.
        """
        parts = [file.identity for file in files] + [images.identity]
        for name, value, about in self._told(_ROWS):
            parts += _texts(value) if about.always else [f"{name}={_plain(value)!r}"]
            if name == "archives" and self.looks_for_images:
                parts.append(images.contents())
        return parts + (limits.changed() if self.on_bad_row == "skip" else [])

    def for_export(self) -> dict[str, Any]:
        """What the manifest of an export holds of a settled request: all that decides the rows, and no place."""
        return {name: _plain(value) for name, value, _ in self._told(_ROWS)}

    def for_run(self, planned: Container[str]) -> dict[str, Any]:
        """What the manifest of a run holds of it: what must stay for a place in the files to mean the same row.

        Args:
            planned: What is chosen by the run's plan, which knows it by itself and may be widened.
        """
        told = self._told((Decides.READING, Decides.CHOICE, Decides.CUTS))
        return {name: _plain(value) for name, value, _ in told if name not in planned}

    def selection(self) -> str:
        """What leaves out rows, in the words of the arguments; an empty text for all rows."""
        return ", ".join(
            about.shown(value) if about.shown is not None else f"{name}={value!r}"
            for name, value, about in self._told((Decides.READING, Decides.CHOICE))
            if not self._is_default(name)
        )

    def to_dict(self) -> dict[str, Any]:
        """What was asked for, as JSON can hold it, without defaults; never the token, nor a password in a URL."""
        return {
            name: _public(_plain(getattr(self, name)))
            for name, about in declared(type(self)).items()
            if about.decides is not Decides.ACCESS and not self._is_default(name)
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        """The request that :meth:`to_dict` wrote.

        Raises:
            UnknownArgument: It holds something that is no field, as one of a later version may.
        """
        given = {argument: value for argument, value in written.items() if argument not in ("path", "name")}
        return cls.of(str(written.get("path", "")), written.get("name"), given, "This version's request")

    def _told(self, kinds: tuple[Decides, ...]) -> Iterator[tuple[str, Any, About]]:
        for name, about in declared(type(self)).items():
            if about.decides in kinds and (about.always or not self._is_default(name)):
                yield name, getattr(self, name), about

    def _is_default(self, name: str) -> bool:
        each = type(self).__dataclass_fields__[name]
        if each.default is dataclasses.MISSING:
            return False
        return bool(getattr(self, name) == _declaration(each).check(each.default))


def declared(cls: type[Request]) -> dict[str, About]:
    """What each field of a request declares of itself, in their order."""
    return {each.name: _declaration(each) for each in dataclasses.fields(cls)}


def _declaration(each: dataclasses.Field[Any]) -> About:
    about: About = each.metadata.get("about", About())
    return about


def _texts(value: Any) -> list[str]:
    """A value in an identity, as it stood there in version 0.1."""
    if isinstance(value, frozenset):
        return sorted(value)
    return [str(getattr(value, "identity", value))]


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; None for a set of nothing."""
    if isinstance(value, frozenset):
        return sorted(value) or None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: each for name, each in dataclasses.asdict(value).items() if each is not None}
    return value


def _public(value: Any) -> Any:
    """A plain value without the users, passwords and signatures of URLs in it."""
    if isinstance(value, str):
        return ",".join(public(part) for part in value.split(",")) if "://" in value else value
    if isinstance(value, dict):
        return {name: _public(each) for name, each in value.items()}
    return [_public(each) for each in value] if isinstance(value, list) else value


def image_names(entries: Any, sa1b: bool) -> frozenset[str]:
    """The images of a list, or of a text file with one a line, in every form that the library shows an image by.

    Published paths, with or without ``./``; the URL or the ``{"path": …}`` that rows have; a bare file name, which is
    that image in any folder. An image of SA-1B is known by its number, in whatever folder or archive.
    """
    if isinstance(entries, str | os.PathLike):
        from ..sa1b.lists import read_image_list

        entries = read_image_list(entries)
    return frozenset(_image_name(entry, sa1b) for entry in entries)


def _image_name(entry: Any, sa1b: bool) -> str:
    name = entry.get("path") if isinstance(entry, Mapping) else _path(entry)
    if not isinstance(name, str) or not name:
        raise BadArgument(
            f"bad_images: expected paths or URLs of images as rows have them, or a file of them; found {entry!r:.100}."
        )
    if name.startswith("sa1b://") and sa1b:
        name = normalize(name)
    base = name.replace("\\", "/").rpartition("/")[2]
    if sa1b and SA_NAME.fullmatch(base):
        return base
    return name if "://" in name or name.startswith("/") else posixpath.normpath(name.replace("\\", "/"))
