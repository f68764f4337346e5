"""Words in sentences: the released data of the semantic probing paper, in their formats."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

from helpers import data
from helpers.probing import CONTEXT_PROBES

SENSES = (
    "Vision", "Hearing", "Olfaction", "Interoception", "Taste", "Touch", "Foot_leg",
    "Mouth_throat", "Torso", "Head", "Hand_arm",
)  # fmt: skip


class WordItem(NamedTuple):
    """A sentence as words, the place of the word that is asked about, and what is to be told."""

    words: tuple[str, ...]
    place: int
    value: float | tuple[float, ...]


def context_probes(folder: Path | str | None = None) -> dict[str, dict[str, list[WordItem]]]:
    """Sentences "the N V the N" with one label each, in their published format.

    Args:
        folder: with a folder for each of `CONTEXT_PROBES`; by default `semantic_probing` in
            TUTORIALS_DATA, as for the functions below.

    Returns:
        By label, then "train" and "test": items whose `place` is that of the labelled word.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unusable line; the file, the line and the field are named.

    Source: Feng et al. 2025, github.com/Zhaoxin-Feng/semantic-probing-2025, task 1.
    """
    folder = _folder(folder) / "Task1_Context-probes"
    found: dict[str, dict[str, list[WordItem]]] = {}
    for label, place in CONTEXT_PROBES.items():
        for part in ("train", "test"):
            items = found.setdefault(label, {}).setdefault(part, [])
            for where, (text, value) in _lines(folder / label / f"{part}.txt", ",", 2):
                words = tuple(text.split())
                if len(words) != 5:
                    raise ValueError(f"{where}: field 'sentence' has {len(words)} words, not 5")
                items.append(WordItem(words, place, _number(value, "label", where)))
    return found


def lexical_aspect(folder: Path | str | None = None) -> dict[str, list[WordItem]]:
    """Verbs in sentences, by "telicity" and "duration" (0 or 1), in the format of task 2.

    Where the place in the file is not that of the verb (46 released records), it is the verb's
    nearest one.

    Args, Raises: as `context_probes`.
    """
    folder = _folder(folder) / "Task2_Lexical_aspect_binary_classification"
    return {
        name: [
            _placed(text, place, value, where, verb)
            for where, (_, text, verb, place, value) in _lines(
                folder / f"{name}_train.txt", "\t", 5
            )
        ]
        for name in ("telicity", "duration")
    }


def concreteness(folder: Path | str | None = None) -> list[WordItem]:
    """Words in sentences with their mean concreteness, 1 to 7, in the format of task 3.

    Args, Raises: as `context_probes`.
    """
    path = _folder(folder) / "Task3_CONcreTEXT" / "CONcreTEXT_test_EN.txt"
    rows = list(_lines(path, "\t", 6))[1:]
    return [_placed(text, place, value, where) for where, (_, _, _, place, text, value) in rows]


def sensorimotor_norms(folder: Path | str | None = None) -> list[WordItem]:
    """Words in sentences with eleven mean ratings (`SENSES`), in the format of task 4.

    The file tells no places and gives words uninflected ("break": He broke the dish); it is the
    word of the sentence that begins most like it.

    Args, Raises: as `context_probes`.
    """
    folder = _folder(folder) / "Task4_Sensorimotor_norms"
    path = folder / "contextualized_sensorimotor_norms_with_ls.txt"
    found = []
    for i, row in enumerate(csv.DictReader(io.StringIO(data.read_text(path))), 1):
        where = f"{path.name}, record {i}"
        words = tuple(
            re.findall(r"[\w'-]+|[^\w\s]", data.usable_field(row, "sentence", str, where))
        )
        word = data.usable_field(row, "word", str, where).lower()
        alike = [_shared(own.lower(), word) for own in words]
        if not max(alike, default=0):
            raise ValueError(f"{where}: field 'word' {word!r} does not stand in its sentence")
        values = tuple(_number(row.get(f"{sense}.M"), f"{sense}.M", where) for sense in SENSES)
        found.append(WordItem(words, alike.index(max(alike)), values))
    return found


def word_in_context(folder: Path | str | None = None) -> list[tuple[WordItem, WordItem, bool]]:
    """Pairs of sentences with one word, and whether it has the same sense, in the format of task 5.

    Args, Raises: as `context_probes`.
    """
    folder = _folder(folder) / "Task5_Word-in-context"
    golds = list(_lines(folder / "test.gold.txt", "\t", 1))
    rows = list(_lines(folder / "test.data.txt", "\t", 5))
    if len(golds) != len(rows):
        raise ValueError(f"test.gold.txt has {len(golds)} lines, test.data.txt {len(rows)}")
    found = []
    for (where, (_, _, places, first, second)), (_, (gold,)) in zip(rows, golds, strict=True):
        if gold not in ("T", "F") or places.count("-") != 1:
            raise ValueError(f"{where}: field 'places' {places!r} or gold {gold!r} is unusable")
        pair = zip((first, second), places.split("-"), strict=True)
        a, b = (_placed(text, place, "0", where) for text, place in pair)
        found.append((a, b, gold == "T"))
    return found


def _folder(folder: Path | str | None) -> Path:
    return data.tutorials_data() / "semantic_probing" if folder is None else Path(folder)


def _lines(path: Path, separator: str, n_fields: int) -> list[tuple[str, list[str]]]:
    """(file and line, its fields) of a text file; the last fields may hold no separator."""
    found = []
    for i, line in enumerate(data.read_text(path).splitlines(), 1):
        fields = [field.strip() for field in line.split(separator)]
        if len(fields) != n_fields:
            raise ValueError(f"{path.name}, line {i}: {len(fields)} fields, not {n_fields}")
        found.append((f"{path.name}, line {i}", fields))
    if not found:
        raise ValueError(f"{path.name} is empty")
    return found


def _number(text: str | None, field: str, where: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if value != value:
        raise ValueError(f"{where}: field {field!r} is not a number but {text!r}")
    return value


def _placed(text: str, place: str, value: str, where: str, word: str | None = None) -> WordItem:
    words, at = tuple(text.split()), int(_number(place, "place", where))
    if word is not None:
        own = [i for i, other in enumerate(words) if other == word]
        at = min(own, key=lambda i: abs(i - at), default=-1)
    if not 0 <= at < len(words):
        raise ValueError(f"{where}: field 'place' {place!r} is not that of {word or 'a word'!r}")
    return WordItem(words, at, _number(value, "value", where))


def _shared(a: str, b: str) -> int:
    """Letters with which both begin."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
