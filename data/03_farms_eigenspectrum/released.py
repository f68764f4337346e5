"""WikiText-2, on which the released scripts evaluate."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from helpers.data import read_text, tutorials_data

# many sets on the hub have a file of the last name, so its folder must be named
WIKITEXT_FILES = ("wiki.test.raw", "wikitext-2-raw-v1/test-00000-of-00001.parquet")


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
