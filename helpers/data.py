"""What lies in `data/`, and the papers' own data in their published formats."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from pydoc_data import topics
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
# types of CKnowEdit by the first word of a file's name, or as its logic file spells them
EDIT_TYPES = {
    "phonetic": "pinyin",
    "ancient": "ancient poetry",
    "classical": "classical Chinese",
    "idiom": "idiom",
    "proverb": "proverb",
    "geography": "geography",
    "history": "history",
    "Phonetic Misunderstand": "phonetic misunderstanding",
    "Reasoning Error": "reasoning",
    "Wordplay": "wordplay",
}
QUESTION_SETS = ("cities", "sports", "art", "celebrity", "technology")


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


def usable_field(record: Mapping, key: str, kind: type | tuple, where: str) -> Any:
    """A usable field of a record; a ValueError names it and `where`."""
    if key not in record:
        raise ValueError(f"{where}: field {key!r} is missing")
    if not isinstance(record[key], kind) or record[key] == "":
        raise ValueError(f"{where}: field {key!r} has the unusable value {record[key]!r}")
    return record[key]


class Item(NamedTuple):
    """One question: the prompt, its right answer, and the answers to choose from.

    `candidates` is empty where the answer is to be generated. Answers begin with the space
    that separates them from the prompt.
    """

    task: str
    prompt: str
    gold: str
    candidates: tuple[str, ...]


def task_items(path: Path | str) -> dict[str, list[Item]]:
    """Questions by task, from a file with `candidate_sets` and `items`.

    Args:
        path: a JSON file, by path or by its name in `data/`.

    Raises:
        ValueError: a record is unusable; the file, the record and the field are named.
    """
    name = Path(path).name
    content = read_json(path)
    sets = usable_field(content, "candidate_sets", dict, name)
    tasks: dict[str, list[Item]] = {}
    for i, record in enumerate(usable_field(content, "items", list, name)):
        where = f"{name}, item {i}"
        choice = (
            usable_field(record, "candidates", (list, str), where) if "candidates" in record else []
        )
        if isinstance(choice, str):
            choice = usable_field(sets, choice, list, f"{name}, candidate_sets")
        text = [usable_field(record, key, str, where) for key in ("task", "prompt", "gold")]
        if choice and text[2] not in choice:
            raise ValueError(f"{where}: field 'gold' {text[2]!r} is not among its candidates")
        tasks.setdefault(text[0], []).append(Item(*text, tuple(choice)))
    if not tasks:
        raise ValueError(f"{name}: field 'items' is empty")
    return tasks


class YesNo(NamedTuple):
    """A statement or question with its truth, and the subject it is about."""

    text: str
    answer: bool
    subject: str


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


def question_set(name: str, folder: Path | str | None = None) -> list[YesNo]:
    """One yes/no set of the massive-values paper, in its published format.

    Args:
        name: one of `QUESTION_SETS`.
        folder: where `cities.csv` and `*_qa.json` lie; by default the folder `massive_values`
            in TUTORIALS_DATA.

    Returns:
        Statements ("The city of X is in Y.", subject X) or questions (no subject).

    Raises:
        ValueError: unknown name, or an unusable record; the file and the field are named.
        FileNotFoundError: no such file.

    Source: Jin et al. 2025, the folder `datasets/` of their repository.
    """
    if name not in QUESTION_SETS:
        raise ValueError(f"name must be one of {QUESTION_SETS}, not {name!r}")
    folder = tutorials_data() / "massive_values" if folder is None else Path(folder)
    if name == "cities":
        return _cities(folder / "cities.csv")
    path = folder / f"{name}_qa.json"
    records = usable_field(read_json(path.resolve()), "data", list, path.name)
    return [
        YesNo(
            usable_field(record, "question", str, f"{path.name}, record {i}"),
            usable_field(record, "answer", bool, f"{path.name}, record {i}"),
            "",
        )
        for i, record in enumerate(records)
    ]


def published_audits(folder: Path | str | None = None) -> dict[str, dict[str, list[str]]]:
    """Answers that the authors of DBPA released, in their published format.

    Args:
        folder: where `roles_*.json` and `raw_*_prompt_robust_*.json` lie; by default the folder
            `dbpa` in TUTORIALS_DATA.

    Returns:
        "roles": answers by role, such as "doctor"; then for each file of rephrasings, by the name
        of its model, answers to "base" and to the rephrasings "0", "1", ...

    Raises:
        ValueError: an unusable record; the file and the place are named.
        FileNotFoundError: no such files.

    Source: Rauba et al. 2025, github.com/QiyaoWei/DBPA at e8e14389.
    """
    folder = tutorials_data() / "dbpa" if folder is None else Path(folder)
    roles = {
        path.stem.removeprefix("roles_Act_as_a_").rstrip("._").replace("_", " "): _answers(
            read_json(path.resolve()), path.name
        )
        for path in sorted(folder.glob("roles_Act_as_a_*.json"))
    }
    found = {"roles": roles} if roles else {}
    for path in sorted(folder.glob("raw_*_prompt_robust_*.json")):
        arms = read_json(path.resolve())
        if not isinstance(arms, dict) or "base" not in arms:
            raise ValueError(f"{path.name}: field 'base' is missing")
        name = path.stem.removeprefix("raw_").rpartition("_prompt_robust_")[0]
        found[name] = {
            arm: _answers(texts, f"{path.name}, arm {arm!r}") for arm, texts in arms.items()
        }
    if not found:
        raise FileNotFoundError(f"no published answers in {folder.name}")
    return found


def _answers(texts: Any, where: str) -> list[str]:
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"{where}: expected a list of answers")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{where}, record {i}: not a text but {text!r}")
    return texts


class Probe(NamedTuple):
    """A question around an edit with its right answer, and what it probes ("" if not told)."""

    prompt: str
    answer: str
    kind: str


class Edit(NamedTuple):
    """A piece of knowledge to edit, with what must change along and what must stay."""

    id: str
    type: str
    prompt: str
    subject: str
    target_new: str
    target_old: str
    rephrase: tuple[str, ...]
    portability: tuple[Probe, ...]
    locality: tuple[Probe, ...]
    gloss: str = ""
    split: str = ""
    question: str = ""  # the prompt as one would ask a chat model


def load_edits(path: Path | str = "chinese_edits.json") -> list[Edit]:
    """Records of knowledge to edit: ours, or CKnowEdit in its published format.

    Args:
        path: a file, also by its name in `data/`, or a folder whose JSON files are read in order.
            Published records have no subject of their own: it is the whole prompt, as in the
            released loader (zjunlp/EasyEdit at 0a1ef857), and their type follows from the file's
            name. `portability` and `locality` may be lists of {prompt, answer} or, as the
            documentation has them, flat fields `portability_prompt`, `portability_answer`.

    Raises:
        FileNotFoundError: no such file, or a folder without JSON files.
        ValueError: an unusable record; the file, the record and the field are named.

    Source: Fang et al. 2025 (CKnowEdit), the eight files of the data set `zjunlp/CKnowEdit`.
    """
    path = DATA / path
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"no JSON files in {path.name}")
    found = []
    for file in files:
        records = read_json(file)
        if not isinstance(records, list) or not records:
            raise ValueError(f"{file.name}: expected a list of records")
        for i, record in enumerate(records, 1):
            where = f"{file.name}, record {i}"
            if not isinstance(record, dict):
                raise ValueError(f"{where}: not a record but {record!r}")
            found.append(_edit(record, file.stem, f"{file.stem}-{i}", where))
    return found


def _edit(record: Mapping, stem: str, name: str, where: str) -> Edit:
    prompt = usable_field(record, "prompt", str, where)
    kind = record.get("type") or EDIT_TYPES.get(stem) or EDIT_TYPES.get(stem.split("_")[0])
    if not isinstance(kind, str):
        raise ValueError(f"{where}: field 'type' is missing, and the file's name tells none")
    subject = usable_field({"subject": prompt, **record}, "subject", str, where)
    if subject not in prompt:
        raise ValueError(f"{where}: field 'subject' {subject!r} does not occur in its prompt")
    rephrase = usable_field(record, "rephrase", list, where)
    for text in rephrase:
        usable_field({"rephrase": text}, "rephrase", str, where)
    return Edit(
        str(record.get("id", name)),
        EDIT_TYPES.get(kind, kind),
        prompt,
        subject,
        usable_field(record, "target_new", str, where),
        usable_field(record, "target_old", str, where),
        tuple(rephrase),
        _probes(record, "portability", where),
        _probes(record, "locality", where),
        *(str(record.get(key, "")) for key in ("gloss", "split", "prompt_qa")),
    )


def _probes(record: Mapping, field: str, where: str) -> tuple[Probe, ...]:
    """Questions of a record, nested or flat; a record may have none."""
    flat = (record.get(f"{field}_prompt") or [], record.get(f"{field}_answer") or [])
    flat = [[own] if isinstance(own, str) else own for own in flat]
    if len(flat[0]) != len(flat[1]):
        raise ValueError(f"{where}: fields '{field}_prompt' and '{field}_answer' differ in length")
    listed = [{"prompt": p, "answer": a} for p, a in zip(*flat, strict=True)]
    nested = usable_field({field: [], **record}, field, (list, type(None)), where) or []
    found = []
    for i, probe in enumerate([*nested, *listed], 1):
        here = f"{where}, {field} {i}"
        if not isinstance(probe, dict):
            raise ValueError(f"{here}: not a question but {probe!r}")
        text = [usable_field(probe, key, str, here) for key in ("prompt", "answer")]
        found.append(Probe(*text, str(probe.get("kind", ""))))
    return tuple(found)


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


def _cities(path: Path) -> list[YesNo]:
    found = []
    for i, row in enumerate(csv.DictReader(io.StringIO(read_text(path)))):
        where = f"{path.name}, record {i}"
        if row.get("label") not in ("0", "1"):
            raise ValueError(f"{where}: field 'label' must be 0 or 1, not {row.get('label')!r}")
        text, city = (usable_field(row, key, str, where) for key in ("statement", "city"))
        found.append(YesNo(text, row["label"] == "1", city))
    return found
