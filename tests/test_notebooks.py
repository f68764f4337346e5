"""The notebooks: as committed, and executed from a fresh kernel."""

import json
import re

import nbformat
import pytest
from bs4 import BeautifulSoup

from helpers import __main__ as front
from helpers import pages

PATHS = sorted(front.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
EACH = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
LIMIT_MINUTES = 6  # the notebooks are made for 3 on two cores; a busy machine gets twice that
LIMIT_GIB = 4
LIMIT_BYTES = 1_500_000
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users)/\w|[A-Z]:\\Users\\")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def outputs(notebook, kind):
    return [
        output
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == kind
    ]


def stderr(notebook):
    """Texts on stderr, but for the warning that another Python has other help texts."""
    texts = [output.text for output in outputs(notebook, "stream") if output.name == "stderr"]
    return [text for text in texts if "help texts of Python" not in text]


def verdict_rows(notebook):
    """Every table row in the outputs, as a list of cell texts."""
    shown = outputs(notebook, "display_data") + outputs(notebook, "execute_result")
    pages = ["".join(output.data.get("text/html", "")) for output in shown]
    return [
        [cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])]
        for page in pages
        if "<tr" in page
        for row in BeautifulSoup(page, "html.parser").find_all("tr")
    ]


def shows(rows, claim):
    """Whether a table row names the claim and, in a cell of its own, its verdict."""
    verdict = claim["verdict"] or "not judged"
    return any(
        any(re.match(rf"{re.escape(claim['id'])}\b", cell) for cell in row)
        and any(re.fullmatch(rf"\W*{re.escape(verdict)}\W*", cell) for cell in row)
        for row in rows
    )


@EACH
def test_committed_notebook_is_complete_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    text = path.read_text(encoding="utf-8")
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    assert not outputs(notebook, "error")
    assert not stderr(notebook)
    assert "parameters" in notebook.cells[1].metadata.get("tags", [])
    assert len(text.encode()) < LIMIT_BYTES
    found = MACHINE_PATH.search(text)
    assert not found, f"a path of one machine: {text[found.start() : found.start() + 60]!r}"


@EACH
@pytest.mark.notebooks
@pytest.mark.weights
def test_notebook_runs_from_a_fresh_kernel(path, tmp_path, capsys):
    number = path.name[:2]
    card = front.BUILD / "scorecards" / f"{number}.json"
    card.unlink(missing_ok=True)
    before = path.read_bytes()
    result = front.execute(path)
    with capsys.disabled():
        minutes = result.seconds / 60
        print(f"\n{path.stem}: {minutes:.1f} minutes, peak {result.peak_gib:.1f} GiB ", end="")
    # Kept until pytest's next runs, so that a failure can be looked at.
    page = pages.page(result.notebook, path, result.error)
    (tmp_path / f"{path.stem}.html").write_text(page, encoding="utf-8")
    assert not result.error
    assert path.read_bytes() == before
    assert not stderr(result.notebook)
    assert minutes < LIMIT_MINUTES
    assert result.peak_gib < LIMIT_GIB
    assert card.exists(), "the notebook wrote no scorecard"
    rows = verdict_rows(nbformat.read(path, as_version=4))
    for claim in json.loads(card.read_text(encoding="utf-8"))["claims"]:
        assert shows(rows, claim), f"{claim['id']}: now {claim['verdict']!r}, not so as committed"
