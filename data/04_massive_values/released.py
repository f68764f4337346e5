"""Questions of notebook 04: ours, and the yes/no sets that the paper's authors released."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

from helpers.data import read_json, read_text, tutorials_data, usable_field

QUESTION_SETS = ("cities", "sports", "art", "celebrity", "technology")


class Item(NamedTuple):
    """One question: the prompt, its right answer, and the answers to choose from.

    `candidates` is empty where the answer is to be generated. Answers begin with the space
    that separates them from the prompt. `template` is the wording it is asked in. Where the prompt
    tells something false, `gold` is what it tells and `memory` what is true.
    """

    task: str
    prompt: str
    gold: str
    candidates: tuple[str, ...]
    template: int
    memory: str


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
        memory = usable_field(record, "memory", str, where) if "memory" in record else ""
        if memory and memory not in choice:
            raise ValueError(f"{where}: field 'memory' {memory!r} is not among its candidates")
        template = usable_field(record, "template", int, where)
        tasks.setdefault(text[0], []).append(Item(*text, tuple(choice), template, memory))
    if not tasks:
        raise ValueError(f"{name}: field 'items' is empty")
    return tasks


class YesNo(NamedTuple):
    """A statement or question with its truth, and the subject it is about."""

    text: str
    answer: bool
    subject: str


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


def _cities(path: Path) -> list[YesNo]:
    found = []
    for i, row in enumerate(csv.DictReader(io.StringIO(read_text(path)))):
        where = f"{path.name}, record {i}"
        if row.get("label") not in ("0", "1"):
            raise ValueError(f"{where}: field 'label' must be 0 or 1, not {row.get('label')!r}")
        text, city = (usable_field(row, key, str, where) for key in ("statement", "city"))
        found.append(YesNo(text, row["label"] == "1", city))
    return found
