"""The front door: executing notebooks, pages without a network, refusals."""

import base64
import io
import re
import socket
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)
from PIL import Image

from helpers import __main__ as front

PIXEL = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def save(folder, name, *cells):
    folder.mkdir(exist_ok=True)
    path = folder / name
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A project of its own, whose models are ready."""
    monkeypatch.setattr(front, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(front, "BUILD", tmp_path / "build")
    monkeypatch.setattr(front, "fetch_weights", lambda: None)
    return tmp_path


def good():
    return new_markdown_cell("# A *good* one"), new_code_cell("print(1)"), new_code_cell("2")


def bad():
    return new_code_cell("1"), new_code_cell("raise ValueError('first\\nlast')"), new_code_cell("3")


def addresses(page):
    """What a browser would load."""
    soup = BeautifulSoup(page, "html.parser")
    found = [element.get("src") for element in soup.select("[src]")]
    found += [element.get("href") for element in soup.select("link[href]")]
    found += re.findall(r"url\(\s*['\"]?([^)'\"]+)", " ".join(s.text for s in soup("style")))
    return [address for address in found if not address.startswith("data:")]


def test_a_page_loads_nothing_and_shows_pictures_instead_of_widgets(house):
    (house / "notebooks").mkdir()
    (house / "notebooks" / "local.png").write_bytes(b"picture")
    view = {"model_id": "0", "version_major": 2, "version_minor": 0}
    data = {"application/vnd.jupyter.widget-view+json": view, "image/png": PIXEL, "text/plain": "w"}
    script = {"text/html": '<b>kept</b><script src="https://example.org/a.js"></script>'}
    notebook = new_notebook(
        cells=[
            new_markdown_cell("$x_1*y_2*$ ![far](https://example.org/a.png) ![near](local.png)"),
            new_markdown_cell("<details><summary>S</summary>\n\nfolded $z$\n</details>\n\nafter"),
            new_code_cell("w", outputs=[new_output("display_data", data)]),
            new_code_cell("h", outputs=[new_output("display_data", script)]),
        ],
        metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": {"0": {}}}}},
    )
    page = front.page(notebook, "name", "what & why")
    soup = BeautifulSoup(page, "html.parser")
    assert addresses(page) == []
    near, picture = soup("img")
    assert near["alt"] == "near" and picture["src"].endswith(PIXEL)
    assert "folded" in soup.details.text and "after" not in soup.details.text
    assert "$x_1*y_2*$" in soup.text  # left whole for MathJax, which is in the page
    assert "window.MathJax" in page and len(page) > 2_000_000
    assert "kept" in soup.text and "what & why" in soup.text


def test_run_writes_pages_and_goes_on_after_an_error(house, capsys):
    first = save(house / "notebooks", "01_bad.ipynb", *bad())
    save(house / "notebooks", "02_good.ipynb", *good())
    before = first.read_bytes()
    assert front.main(["run"]) == 1
    output = capsys.readouterr()
    assert "01_bad.ipynb stopped in code cell 2: ValueError: last" in output.err
    assert "02_good" in output.out and (house / "build" / "index.html").as_uri() in output.out
    assert first.read_bytes() == before
    index = BeautifulSoup(
        (house / "build" / "index.html").read_text(encoding="utf-8"), "html.parser"
    )
    assert [link["href"] for link in index("a")] == ["01_bad.html", "02_good.html"]
    assert "A good one" in index.text and "no scorecard" in index.text
    assert "ValueError" in (house / "build" / "01_bad.html").read_text(encoding="utf-8")
    assert front.main(["run", "2"]) == 0


def test_refresh_keeps_the_old_file_when_a_cell_fails(house, capsys):
    good_path = save(house / "notebooks", "02_good.ipynb", *good())
    bad_path = save(house / "notebooks", "03_bad.ipynb", *bad())
    before = bad_path.read_bytes()
    assert front.main(["notebooks"]) == 1
    assert bad_path.read_bytes() == before
    notebook = nbformat.read(good_path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.cells[1].metadata == {}
    first = good_path.read_bytes()
    assert front.main(["notebooks", "02"]) == 0
    assert good_path.read_bytes() == first
    assert sorted(path.name for path in good_path.parent.iterdir()) == [
        "02_good.ipynb",
        "03_bad.ipynb",
    ]


def test_refusals_name_what_is_there(house):
    with pytest.raises(SystemExit, match="no notebook in notebooks/ yet"):
        front.main(["run"])
    save(house / "notebooks", "01_a.ipynb", *good())
    save(house / "notebooks", "04_b.ipynb", *good())
    with pytest.raises(SystemExit, match=r"no notebook '7'.*01, 04"):
        front.main(["run", "7"])


def test_a_kernel_that_ends_is_reported(house):
    path = save(house / "notebooks", "01_a.ipynb", new_code_cell("import os; os._exit(1)"))
    assert "stopped in code cell 1: its kernel ended" in front.execute(path).error


def test_peak_memory_counts_the_kernel(house):
    code = "import time; block = b'x' * 300_000_000; time.sleep(1)"
    path = save(house / "notebooks", "01_a.ipynb", new_code_cell(code))
    assert 0.28 < front.execute(path).peak_gib < 1


def test_kernels_are_this_python_without_a_network(house):
    code = (
        "import socket, sys; print(sys.executable); socket.create_connection(('192.0.2.1', 80), 1)"
    )
    path = save(house / "notebooks", "01_a.ipynb", new_code_cell(code))
    result = front.execute(path)
    assert result.notebook.cells[0].outputs[0].text.strip() == sys.executable
    assert "the tests run without a network" in result.error


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org"])
def test_the_tests_themselves_have_no_network(host):
    with pytest.raises(OSError, match="the tests run without a network"):
        socket.create_connection((host, 80), timeout=1)
    child = f"import socket; socket.create_connection(({host!r}, 80), timeout=1)"
    result = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
    assert "the tests run without a network" in result.stderr


def test_figures_are_kept_small_and_look_the_same():
    plt.figure()
    plt.plot(np.sin(np.arange(300)))
    buffer = io.BytesIO()
    plt.savefig(buffer, dpi=150)
    plt.close()
    png = base64.b64encode(buffer.getvalue()).decode()
    small = front.in_few_colours(png)
    old, new = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=int)
        for data in (png, small)
    )
    assert len(small) < 0.9 * len(png)
    assert np.abs(old - new).mean() < 1


def test_pictures_keep_their_colours():
    """A small green patch in a noisy picture of many colours would become grey in 256 of them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    pixels[50:60, 50:60] = (30, 200, 40)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    assert front.in_few_colours(png) == png
