"""Which datasets there are: those built in, those of installed packages, and those that a user registers.

A name becomes facts here and nowhere else. Built-in datasets are modules of ``llava_zh.builders``; an installed package
names its own under the entry point group ``llava_zh.datasets``; :func:`register` takes any; and a Python file that
defines ``FACTS``, or calls ``register``, is read where its path is given as a name.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.abc import InspectLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import BadArgument, DataFileNotFound, UnknownName
from ..files.data_files import ABOUT_HUBS
from ..forks import RLock
from ..gates.safe_text import get_logger
from .facts import ConfigFacts, DatasetFacts, facts_of

logger = get_logger(__name__)

#: Modules of ``llava_zh.builders`` by the name of the dataset that each has.
BUILT_IN = {
    "internvl-sa-1b-caption": "internvl_sa1b_caption",
    "llava-instruct-zh-600k": "llava_instruct_zh_600k",
    "llava-instruct-150k": "llava_instruct_150k",
    "llava": "llava",
    "sa1b-captions": "sa1b_captions",
}
ENTRY_POINTS = "llava_zh.datasets"
#: How a repository on a hub is written: ``hf:owner/name``, with a revision and files in it if need be.
_HUBS = {called: name for name, about in ABOUT_HUBS.items() for called in (name, about.short)}
_HUB_ID = re.compile(
    rf"(?P<hub>{'|'.join(_HUBS)}):(?P<repo>[^/@:]+/[^/@]+)"
    r"(@(?P<revision>refs/(pr|convert|heads|tags)/[^/]+|[^/]+))?/?(?P<files>(?<=/).+)?"
)
#: How the names of modules begin that Python files are read as; no other process can import them.
SCRIPTS = "llava_zh_dataset_"

_registered: dict[str, DatasetFacts] = {}
_origins: dict[str, str] = {}
_scripts: dict[str, tuple[tuple[int, int], DatasetFacts]] = {}
_current: list[str] = []  # the file that is being read
_entry_points_read = False


def _read_anew() -> None:
    """In a child, which does not have the thread that was reading a file or entry points, take it as not begun."""
    global _entry_points_read
    _current.clear()
    _entry_points_read = False


_lock = RLock(_read_anew)


def register(facts: DatasetFacts | Mapping[str, Any]) -> DatasetFacts:
    """Make a dataset known to every call and command of this process, by its name and by its ids on the hubs.

    Args:
        facts: A :class:`~llava_zh.catalog.facts.DatasetFacts`, or a mapping with its fields.

    Raises:
        BadArgument, UnknownName: A field is missing, unknown or of a wrong type, or another dataset has the name.
    """
    with _lock:
        return _add(facts_of(facts, "register"), _current[-1] if _current else "register()")


def names() -> list[str]:
    """The names of all datasets, those built in first."""
    _read_entry_points()
    return [*BUILT_IN, *(name for name in _registered if name not in BUILT_IN)]


def everything() -> Iterator[DatasetFacts]:
    """The facts of all datasets, those built in first."""
    for name in names():
        known = _known(name)
        assert known is not None
        yield known


def is_registered(name: str) -> bool:
    """Whether somebody registered the dataset of that name, and it is neither built in nor merely a repository."""
    return name in _registered


def configs_called(name: str) -> Iterator[tuple[DatasetFacts, ConfigFacts]]:
    """The configurations of this name, of all datasets; for rows that say no more than that."""
    return ((facts, config) for facts in everything() for config in facts.configs if config.name == name)


def find(path: str | os.PathLike[str]) -> tuple[DatasetFacts, str | None]:
    """The facts of a dataset, and the hub that `path` is an id of where only one of them has it.

    Args:
        path: A name; an id on a hub of a dataset that is known; ``hf:owner/name`` or ``modelscope:owner/name`` for any
            repository with rows in a form that the library reads; or the path of a Python file that registers one.

    Raises:
        UnknownName: There is no such dataset; names the nearest.
        DataFileNotFound: There is no such Python file.
        BadArgument: It is no text; or the Python file defines no dataset.
    """
    given = as_text(path)
    if (found := named(given)) is None:
        raise UnknownName.of("dataset", given, names())
    return found


def as_text(path: Any) -> str:
    """What a dataset is asked for by, as text.

    Raises:
        BadArgument: It is something else.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(given := os.fspath(path), str):
        raise BadArgument(
            f"Expected the name of a dataset, as text, or the path of its rows or of a Python file; found "
            f"{type(path).__name__} {path!r:.100}. Known: {', '.join(names())}."
        )
    return given


def named(given: str) -> tuple[DatasetFacts, str | None] | None:
    """As :func:`find`; None where no dataset has that name. Rows on this machine are for :mod:`.paths` to find."""
    wanted = given.strip().strip("/").lower()
    known = _known(wanted)
    if known is not None:
        return known, None
    if given.endswith(".py"):
        return _of_script(given), None
    place = hub_place(given)
    for facts in everything():
        hubs = [hub for hub, repo in facts.repos.items() if repo.lower() == wanted]
        if hubs:
            return facts, hubs[0] if len(hubs) == 1 else None
        if place is not None and facts.repos.get(place["hub"], "").lower() == place["repo"].lower():
            return facts, place["hub"]
    if place is not None:
        return _any_repository(place), place["hub"]
    return None


def _known(name: str) -> DatasetFacts | None:
    """The dataset of that name, whatever its case."""
    if name in BUILT_IN:
        return _built_in(f"llava_zh.builders.{BUILT_IN[name]}")
    with _lock:
        found = next((facts for known, facts in _registered.items() if known.lower() == name.lower()), None)
    if found is None and not _entry_points_read and "/" not in name:
        _read_entry_points()
        return _known(name)
    return found


@functools.cache
def _built_in(module: str) -> DatasetFacts:
    """The FACTS of a builder's file. Its class is not made, as that imports `datasets`, which takes seconds."""
    facts: DatasetFacts
    if module in sys.modules:
        facts = sys.modules[module].FACTS
        return facts
    spec = importlib.util.find_spec(module)
    source = spec.loader.get_source(module) if spec is not None and isinstance(spec.loader, InspectLoader) else None
    if source is None:
        facts = importlib.import_module(module).FACTS
        return facts
    kept = [
        part
        for part in ast.parse(source).body
        if not isinstance(part, ast.ClassDef)
        and not (isinstance(part, ast.ImportFrom) and (part.module or "").startswith("llava_zh.streams"))
    ]
    names: dict[str, Any] = {"__name__": module}
    exec(compile(ast.Module(kept, []), f"{module} (facts)", "exec"), names)
    facts = names["FACTS"]
    return facts


def _add(facts: DatasetFacts, origin: str) -> DatasetFacts:
    """Take in `facts`; the same dataset from the same place again takes its own place."""
    other = next((name for name in (*BUILT_IN, *_registered) if name.lower() == facts.name.lower()), None)
    if other is not None and (other in BUILT_IN or (_origins[other] != origin and _registered[other] != facts)):
        where = "built in" if other in BUILT_IN else f"from {_origins[other]}"
        raise BadArgument(
            f"Two datasets are called {facts.name!r}: one {where}, one from {origin}. Give yours another name."
        )
    if other is not None:
        _registered.pop(other)
    _registered[facts.name], _origins[facts.name] = facts, origin
    return facts


# -- repositories that nobody registered ---------------------------------------------------------------------


def hub_place(text: Any) -> dict[str, Any] | None:
    """The hub, repository, revision and files of ``hf:owner/name@revision/files``; None for any other text."""
    match = _HUB_ID.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        return None
    return {**match.groupdict(), "hub": _HUBS[match["hub"]]}


def _any_repository(place: Mapping[str, Any]) -> DatasetFacts:
    """Facts of a repository whose rows are in a usual form: those of ``llava``, at another place."""
    usual, repo = find("llava")[0], place["repo"]
    return replace(
        usual,
        name=re.sub(r"[^A-Za-z0-9._-]", "-", repo.replace("/", "--")),
        title=repo,
        description=f"The repository {repo}, whose rows are in a usual form.",
        homepage=f"{ABOUT_HUBS[place['hub']].page}/datasets/{repo}",
        repos={place["hub"]: repo},
        revisions={place["hub"]: place["revision"]} if place["revision"] else {},
        licence="see the dataset's page",
        image_licence="see the dataset's page",
        configs=tuple(replace(config, files=(place["files"],) if place["files"] else ()) for config in usual.configs),
    )


# -- Python files ----------------------------------------------------------------------------------------------


def _of_script(given: str) -> DatasetFacts:
    """The dataset that a Python file defines; the file is read again when it was changed."""
    path = Path(given).expanduser().absolute()
    try:
        status = path.stat()
    except OSError:
        raise DataFileNotFound(
            f"There is no Python file {given!r}. A name that ends in .py is the path of a file that defines a dataset."
        ) from None
    origin, state = str(path), (status.st_mtime_ns, status.st_size)
    with _lock:
        if (
            origin in _scripts
            and _scripts[origin][0] == state
            and _registered.get(_scripts[origin][1].name) is not None
        ):
            return _scripts[origin][1]
        if origin in _current:
            raise BadArgument(
                f"{given} loads itself while it is read, without end. Put what it does beside defining its dataset "
                'under `if __name__ == "__main__":`.'
            )
        before = set(_registered)
        _current.append(origin)
        try:
            module = _executed(path)
        finally:
            _current.pop()
        facts = _of_module(module, origin)
        if facts is None:
            mine = [name for name in _registered if _origins[name] == origin]
            fresh = [name for name in mine if name not in before] or mine
            if len(fresh) != 1:
                found = "none" if not fresh else f"{len(fresh)}: {', '.join(fresh)}"
                raise BadArgument(
                    f"{given}: expected one dataset, found {found}. Let the file define FACTS = DatasetFacts(...), or "
                    "call llava_zh.register once."
                )
            facts = _registered[fresh[0]]
        _scripts[origin] = state, facts
        return facts


def _executed(path: Path) -> ModuleType:
    name = f"{SCRIPTS}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look modules up by their names
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _of_module(module: ModuleType, origin: str) -> DatasetFacts | None:
    given = getattr(module, "FACTS", None)
    if given is None:
        return None
    return _of_built_in(given) or _add(facts_of(given, f"{origin}: FACTS"), origin)


def _of_built_in(given: Any) -> DatasetFacts | None:
    """A built-in dataset whose own file is given as a script."""
    known = _known(given.name) if isinstance(given, DatasetFacts) and given.name in BUILT_IN else None
    return known if known == given else None


# -- installed packages ----------------------------------------------------------------------------------------


def _read_entry_points() -> None:
    """Take in the datasets of installed packages, once; one that fails is told of and does not stop the others."""
    global _entry_points_read
    with _lock:
        if _entry_points_read:
            return
        _entry_points_read = True
        for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
            origin = f"the entry point {point.name} = {point.value}"
            _current.append(origin)
            try:
                loaded = point.load()
                for given in _given_by(loaded):
                    _add(facts_of(given, origin), origin)
            except Exception as error:
                logger.warning(
                    "%s, which names a dataset, failed and was left out: %s: %s", origin, type(error).__name__, error
                )
            finally:
                _current.pop()


def _given_by(loaded: Any) -> Iterable[Any]:
    """The facts that an entry point names: facts, a list of them, or a module that has or registers them."""
    if isinstance(loaded, ModuleType):
        loaded = getattr(loaded, "FACTS", [])
    return loaded if isinstance(loaded, list | tuple) else [loaded]
