"""What lies in `data/`, and the papers' own data in their published formats."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from pydoc_data import topics
from types import ModuleType
from typing import Any, NamedTuple

DATA = Path(__file__).resolve().parent.parent / "data"

# long enough for a few hundred tokens each, and mostly prose
PROSE_TOPICS = (
    "assignment", "attribute-access", "compound", "customization", "debugger", "execmodel",
    "import", "specialnames",
)  # fmt: skip
REGISTRY = "artefacts.json"  # in a paper's folder: SHA-256 and command of every artefact
_checked: set[tuple[Path, int, int]] = set()  # path, size and time of change


class Prose(NamedTuple):
    """English texts of Python's standard library, their SHA-256, and the Python they are of."""

    texts: list[str]
    sha256: str
    python: str


def english_prose(topic_names: Iterable[str] = PROSE_TOPICS, *, sha256: str | None = None) -> Prose:
    """English text that every reader has: help topics of Python's standard library.

    Args:
        topic_names: keys of `pydoc_data.topics.topics`.
        sha256: hash of the text an artefact was made on; a different text gives a warning, as
            it changes between versions of Python.

    Raises:
        ValueError: no topics, or this Python has no topic of that name.
    """
    names = list(topic_names)
    missing = [name for name in names if name not in topics.topics]
    if missing or not names:
        raise ValueError(f"topic_names: no help topics {missing} in Python {_python()}")
    texts = [" ".join(topics.topics[name].split()) for name in names]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    if sha256 is not None and digest != sha256:
        warnings.warn(
            f"the help texts of Python {_python()} differ from those an artefact was made on: "
            "its numbers may differ from yours in the last digits",
            stacklevel=2,
        )
    return Prose(texts, digest, _python())


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def read_text(path: Path) -> str:
    """A text in UTF-8, with or without a byte order mark; a ValueError names a file of another."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} must be saved as UTF-8: {error}") from error


class Record(dict):
    """A JSON object, a dict in all but one thing: a missing key is named with its file."""

    __slots__ = ("where",)

    def __init__(self, content: Mapping, where: str):
        super().__init__(content)
        self.where = where

    def __getitem__(self, key):
        try:
            return super().__getitem__(key)
        except KeyError:
            has = ", ".join([*map(repr, self)][:8] + ["..."] * (len(self) > 8))
            raise KeyError(f"{key!r} is not in {self.where} (has {has})") from None


def read_json(path: Path | str) -> Any:
    """A JSON file, by path or by its name in `data/`, with `Record`s; an artefact is `verified`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON (cut off, for example), or not the artefact it should be; the
            file is named.
    """
    return _parsed(verified(path))


def _parsed(path: Path) -> Any:
    where = shown(path)
    try:
        return json.loads(read_text(path), object_hook=lambda own: Record(own, where))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error


def verified(path: Path | str) -> Path:
    """The path of an artefact whose bytes were compared, once a process, with its registered hash.

    Args:
        path: a file, or a folder of which every registered file is compared, by path or by its
            name in `data/`. Files outside of the papers' folders are not ours and pass.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file was damaged or edited, or is not registered; it is named, with the
            command that makes it anew.
    """
    path = DATA / path
    home = paper_folder(path)
    if home is not None:
        entries = registered(home)
        within = [file for file in entries if (home / file).is_relative_to(path)]
        for file in within or [path.relative_to(home).as_posix()]:
            _compare(home / file, entries.get(file))
    return path


def _compare(path: Path, entry: dict[str, str] | None) -> None:
    made = f"it is made by: {entry['made_by']}" if entry else f"{REGISTRY} there does not name it"
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)} is not here; {made}")
    state = (path, path.stat().st_size, path.stat().st_mtime_ns)
    if state in _checked:
        return
    if entry is None:
        raise ValueError(f"{shown(path)} is no artefact: {made}")
    if file_sha256(path) != entry["sha256"]:
        raise ValueError(
            f"{shown(path)} was damaged or edited: its SHA-256 is not that in {REGISTRY}. Get it "
            f"back (git checkout -- {shown(path)}) or make it anew; {made}"
        )
    _checked.add(state)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def registered(home: Path) -> dict[str, dict[str, str]]:
    """`sha256` and `made_by` of the artefacts in a paper's folder, by their names in it."""
    path = home / REGISTRY
    return _parsed(path) if path.is_file() else {}


def paper_folder(path: Path) -> Path | None:
    """The paper's folder in `data/` in which a path lies."""
    inside = path.relative_to(DATA).parts if path.is_relative_to(DATA) else ()
    return DATA / inside[0] if inside[1:] and re.match(r"\d\d_", inside[0]) else None


def shown(path: Path) -> str:
    """A file's name from the project's folder on, or just its name when it lies elsewhere."""
    return path.relative_to(DATA.parent).as_posix() if path.is_relative_to(DATA) else path.name


def folder(paper: str) -> Path:
    """The folder of one paper in `data/`, by its number ("03").

    Raises:
        ValueError: there is none, or more than one.
    """
    found = sorted(DATA.glob(f"{paper}_*/"))
    if len(found) != 1:
        raise ValueError(
            f"there must be one folder data/{paper}_*; found {[p.name for p in found]}"
        )
    return found[0]


def module(paper: str, name: str) -> ModuleType:
    """The Python file `name` in the folder of a paper, such as its loaders of released data."""
    path = folder(paper) / f"{name}.py"
    known = f"paper_{paper}_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, path)
        sys.modules[known] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[known])
        except BaseException:
            del sys.modules[known]
            raise
    return sys.modules[known]


def usable_field(record: Mapping, key: str, kind: type | tuple, where: str) -> Any:
    """A usable field of a record; a ValueError names it and `where`."""
    if key not in record:
        raise ValueError(f"{where}: field {key!r} is missing")
    if not isinstance(record[key], kind) or record[key] == "":
        raise ValueError(f"{where}: field {key!r} has the unusable value {record[key]!r}")
    return record[key]


def tutorials_data() -> Path:
    """The folder with the papers' own data, from the environment variable TUTORIALS_DATA.

    Raises:
        FileNotFoundError: the variable is not set, or names no folder.
    """
    value = os.environ.get("TUTORIALS_DATA", "")
    if not value or not Path(value).is_dir():
        raise FileNotFoundError(
            "the papers' own data are not here: set TUTORIALS_DATA to a folder that holds them "
            f"(now {value!r})"
        )
    return Path(value)
