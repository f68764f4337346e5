"""Pieces of knowledge to edit, ours and in the published format of CKnowEdit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from helpers.data import DATA, read_json, usable_field

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


def load_edits(path: Path | str) -> list[Edit]:
    """Records of knowledge to edit: ours, or CKnowEdit in its published format.

    Published records have no subject of their own: it is the whole prompt, as in the released
    loader (zjunlp/EasyEdit at 0a1ef857), and their type follows from the file's name.
    `portability` and `locality` may be lists of {prompt, answer} or, as the documentation has
    them, flat fields `portability_prompt`, `portability_answer`.

    Args:
        path: a file, also by its name in `data/`, or a folder whose JSON files are read in order.

    Raises:
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
