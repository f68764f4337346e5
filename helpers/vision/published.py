"""Frequent tokens of generated pictures, as the authors of CORTEX published them."""

from __future__ import annotations

from pathlib import Path
from statistics import mode

import numpy as np

from helpers.data import read_text


def read_frequencies(folder: Path | str, codes: int = 16384) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent tokens of each class and their counts, from `label_0.csv`, `label_1.csv`...

    Args:
        folder: holds one file a class: a line `Token,Count`, then tokens by falling count.
        codes: K, the size of the codebook.

    Returns:
        tokens and counts, both (classes, n) int64: row c is class c, n is 100 in the real files.

    Raises:
        FileNotFoundError: no such folder, or no such file in it.
        ValueError: a class between the others is missing; or a file has another header, a row that
            is not two whole numbers, a token outside of the codebook or for the second time, a
            count below 0 or above the one before, or more or fewer rows than most. It is named.

    Source: Yang et al. 2025, arXiv 2506.00698; files of the first author's development repository
    (not of the paper's final version), github.com/YangTianze009/Codebook-Explanation at 03da013,
    codebook_explanation_classification/results/Explanation/baseline_statistics.
    """
    folder = Path(folder)
    names = {path.name for path in folder.glob("label_*.csv")}
    if not names:
        raise FileNotFoundError(f"no files label_0.csv, label_1.csv, ... in {folder.name}")
    wanted = [f"label_{number}.csv" for number in range(len(names))]
    if missing := [name for name in wanted if name not in names]:
        other = min(names.difference(wanted))
        raise ValueError(f"{missing[0]} is missing in {folder.name}, but {other} is there")
    rows = [_rows(folder / name, codes) for name in wanted]
    usual = mode(map(len, rows))
    for name, own in zip(wanted, rows, strict=True):
        if len(own) != usual:
            raise ValueError(f"{name} has {len(own)} rows, most files have {usual}")
    tokens, counts = np.moveaxis(np.array(rows, dtype=np.int64), 2, 0)
    return tokens, counts


def _rows(path: Path, codes: int) -> list[tuple[int, int]]:
    head, *lines = read_text(path).splitlines() or [""]
    if head != "Token,Count" or not lines:
        raise ValueError(f"{path.name} must begin with 'Token,Count' and have rows; got {head!r}")
    found: dict[int, int] = {}
    for number, line in enumerate(lines, 2):
        where = f"{path.name}, line {number}"
        try:
            token, count = map(int, line.split(","))
        except ValueError:
            raise ValueError(f"{where}: two whole numbers are needed, not {line!r}") from None
        if not 0 <= token < codes or token in found:
            why = "stands there twice" if token in found else f"is not from 0 to {codes - 1}"
            raise ValueError(f"{where}: token {token} {why}")
        if not 0 <= count <= min(found.values(), default=count):
            raise ValueError(f"{where}: count {count} is negative or above the one before")
        found[token] = count
    return list(found.items())
