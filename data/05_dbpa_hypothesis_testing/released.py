"""Answers that the authors of DBPA released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.data import read_json, tutorials_data


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
