"""The shape of a lesson of the second edition: what a group works through in 75 minutes."""

import re

import nbformat
import pytest

from helpers import __main__ as front

SECOND_EDITION = ["03", "04", "05", "06", "07"]
EACH = pytest.mark.parametrize("number", SECOND_EDITION)
LIMIT_WORDS, LIMIT_LINES, LIMIT_CELLS = 3_000, 400, 60
LIMIT_SIGHT = 25  # lines of a cell in sight
ROW_OF_CODE = 3  # code cells in sight without a sentence between them


def cells_of(number):
    """Cells of Part I and of Part II."""
    (path,) = front.NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    start = next(i for i, cell in enumerate(cells) if cell.source.startswith("# Part II"))
    return cells[:start], cells[start:]


def in_sight(cell):
    return cell.cell_type == "code" and not cell.metadata.get("jupyter", {}).get("source_hidden")


@EACH
def test_part_one_fits_into_a_meeting(number):
    first, _ = cells_of(number)
    texts = [cell.source for cell in first if cell.cell_type == "markdown"]
    prose = [re.sub(r"<details>.*?</details>", "", text, flags=re.S) for text in texts]
    assert sum(len(text.split()) for text in prose) <= LIMIT_WORDS
    assert sum(len(cell.source.splitlines()) for cell in first if in_sight(cell)) <= LIMIT_LINES
    assert len(first) <= LIMIT_CELLS


@EACH
def test_cells_can_be_read_on_a_wall(number):
    row = 0
    for cell in [cell for part in cells_of(number) for cell in part]:
        row = 0 if cell.cell_type == "markdown" else row + in_sight(cell)
        assert row <= ROW_OF_CODE, cell.source
        if in_sight(cell):
            assert len(cell.source.splitlines()) <= LIMIT_SIGHT, cell.source
            assert max(map(len, cell.source.splitlines())) <= 100, cell.source


@EACH
def test_every_figure_has_an_alternative_text(number):
    pictures = [
        output.metadata.get("image/png", {}).get("alt", "")
        for part in cells_of(number)
        for cell in part
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 5 and min(len(text.split()) for text in pictures) >= 10


@EACH
def test_the_laboratory_is_closed_when_the_page_opens(number):
    _, second = cells_of(number)
    heads = [cell for cell in second if re.match("## Laboratory", cell.source)]
    assert heads and all(cell.metadata.get("jp-MarkdownHeadingCollapsed") for cell in heads)
