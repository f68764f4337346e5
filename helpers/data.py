"""What lies in `data/`, and the papers' own data in their published formats."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from pydoc_data import topics
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd

DATA = Path(__file__).resolve().parent.parent / "data"

# long enough for a few hundred tokens each, and mostly prose
PROSE_TOPICS = (
    "assignment", "attribute-access", "compound", "customization", "debugger", "execmodel",
    "import", "specialnames",
)  # fmt: skip
# many sets on the hub have a file of the last name, so its folder must be named
WIKITEXT_FILES = ("wiki.test.raw", "wikitext-2-raw-v1/test-00000-of-00001.parquet")


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


def read_json(path: Path | str) -> Any:
    """A JSON file, by path or by its name in `data/`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON (cut off, for example); the file and the place are named.
    """
    path = DATA / path
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}") from error


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


def wikitext(folder: Path | str | None = None) -> str:
    """Test text of WikiText-2 in one of its published formats: plain text or the hub's parquet.

    Args:
        folder: where to look for `wiki.test.raw` or the hub's folder `wikitext-2-raw-v1`, also in
            its folders; by default TUTORIALS_DATA.

    Raises:
        FileNotFoundError: no file of one of the published names.
        ValueError: the parquet file has no column of texts.
        ImportError: the file is parquet, and no package reads that (`pip install pyarrow`).

    Source: Merity et al. 2016; `wikitext-2-raw-v1` on the hub.
    """
    folder = tutorials_data() if folder is None else Path(folder)
    for name in WIKITEXT_FILES:
        for path in sorted(folder.rglob(name)):
            if path.suffix != ".parquet":
                return read_text(path)
            table = pd.read_parquet(path)
            if "text" not in table or not all(isinstance(row, str) for row in table["text"]):
                raise ValueError(f"{path.name}: column 'text' is missing or holds other things")
            return "".join(table["text"])
    raise FileNotFoundError(f"WikiText-2 is not here: none of {WIKITEXT_FILES} in {folder.name}")
