"""LLaMA's exponents as the authors released them, and WikiText-2, on which they evaluate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from helpers.data import read_text, tutorials_data

# many sets on the hub have a file of the last name, so its folder must be named
WIKITEXT_FILES = ("wiki.test.raw", "wikitext-2-raw-v1/test-00000-of-00001.parquet")

LLAMAS = {"LLaMA-7B": ("llama-7b-hf", 32), "LLaMA-13B": ("llama-13b-hf", 40)}  # folder, blocks
KINDS = ("q", "k", "v", "o", "gate", "up", "down")
ATTENTION = 4  # the first kinds: square matrices, the others are 2.7 times as long as wide


def exponents(
    model: str, positions: int | None = None, folder: Path | str | None = None
) -> np.ndarray:
    """Exponents alpha of every linear layer of a LLaMA, by the peak rule, as the authors ship them.

    A file holds one float64 a layer, without names. The code collects them in the order in which a
    block registers its layers, which is that of `KINDS` in the transformers 4.35.2 of the README
    (before 4.31 `down` came before `up`). The files do not say which version wrote them. Nothing
    published here relies on more than "four of attention, then three of the MLP".

    Args:
        model: "LLaMA-7B" or "LLaMA-13B".
        positions: of FARMS's windows of 2000 x 2000 along each axis: 10 (7B alone) or 15; by
            default exponents of the full matrix.
        folder: holds `llama-7b-hf` and `llama-13b-hf`; by default `farms` in TUTORIALS_DATA.

    Returns:
        (blocks, 7), the layers of each block.

    Raises:
        FileNotFoundError: no such file; it is named.
        ValueError: an unknown model; or a file that is no NumPy file of plain numbers (pickled,
            cut off, a Git LFS pointer), has another length or type, or holds what no fit returns
            (NaN, infinity, 1 or less). It is named.

    Source: Hu et al. 2025, github.com/HUST-AI-HYZ/FARMS at 834612b, LLM_Pruning/metric_cache. The
    folder of the windows, `alpha_peak_tbv3`, has an older name of the metric that the code now
    calls `alpha_peak_farms`; what it holds is told by the names of its files.
    """
    if model not in LLAMAS:
        raise ValueError(f"model: {model!r} is none of {', '.join(LLAMAS)}")
    folder = tutorials_data() / "farms" if folder is None else Path(folder)
    name, blocks = LLAMAS[model]
    inside = "alpha_peak.npy"
    if positions is not None:
        last = f"usesldTrue_numrow2000_Q1.0_step{positions}_ops{positions}.npy"
        inside = f"alpha_peak_tbv3/{last}"
    path, where = folder / name / inside, f"{name}/{inside}"
    if not path.is_file():
        raise FileNotFoundError(f"{where} is not in {folder.name}")
    try:
        alphas = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{where} is no NumPy file of plain numbers: {error}") from error
    if not isinstance(alphas, np.ndarray) or alphas.dtype.kind != "f":
        raise ValueError(f"{where} must hold one array of floating-point numbers")
    if alphas.shape != (blocks * len(KINDS),):
        raise ValueError(
            f"{where} has shape {alphas.shape}; {blocks} blocks of {len(KINDS)} layers need "
            f"({blocks * len(KINDS)},)"
        )
    if not (np.isfinite(alphas) & (alphas > 1)).all():
        raise ValueError(f"{where} holds exponents that are not numbers above 1")
    return alphas.reshape(blocks, len(KINDS)).astype(np.float64)


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
