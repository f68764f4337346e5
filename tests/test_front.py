"""The front door: executing notebooks, pages without a network, refusals."""

import base64
import contextlib
import errno
import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

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
from helpers import pages, plots

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
    page = pages.page(notebook, house / "notebooks" / "name.ipynb", "what & why")
    soup = BeautifulSoup(page, "html.parser")
    assert addresses(page) == []
    near, picture = soup("img")
    assert near["alt"] == "near" and picture["src"].endswith(PIXEL)
    assert "folded" in soup.details.text and "after" not in soup.details.text
    assert "$x_1*y_2*$" in soup.text  # left whole for MathJax, which is in the page
    assert "window.MathJax" in page and len(page) > 2_000_000
    assert "kept" in soup.text and "what & why" in soup.text


E = "https://example.org/"
ACTIVE = {
    "scripts": f"<script src='{E}'></script><svg><script>f()</script></svg>",
    "frames": f"<iframe src='{E}'></iframe><iframe srcdoc='<img src={E}>'></iframe>",
    "objects": f"<object data='{E}'><object data='{E}'></object></object><embed src='{E}'>",
    "media": f"<video src='{E}' poster='{E}'></video><audio src='{E}'></audio>",
    "sources": f"<picture><source srcset='{E}'><img srcset='{E} 2x' src='data:image/gif;base64,'>",
    "forms": f"<form action='{E}'><button formaction='{E}'>x</button></form><input src='{E}'>",
    "heads": f"<base href='{E}'><link rel=preload imagesrcset='{E}'><meta http-equiv=refresh "
    f"content='0;url={E}'>",
    "events": "<b onclick='f()' ONMOUSEOVER='f()'>x</b><details open ontoggle=f()>x</details>",
    "addresses": "<a href='javascript:f()'>x</a><a href=' j\tava&#10;script:f()'>x</a><a "
    "href='vbscript:f()'>x</a><a href='data:text/html,x'>x</a><svg><a xlink:href='javascript:f()'>",
    "pings": f"<a ping='{E}' href='#x'>x</a><table background='{E}'><td background='{E}'>",
    "styles": f"<p style='background:url({E})'><p style='background:u\\72l({E})'><p style='"
    f'background:url( "{E}")\'><p style=\'content:image-set("{E}" 1x)\'>',
    "style sheets": f"<style>@import '{E}';</style><style>p {{ background: url({E}) }}</style>"
    f"<style>p {{ background: \\75 rl({E}) }}</style>",
    "drawings": f"<svg><image href='{E}'/><use xlink:href='{E}#a'/><rect fill='url({E}#a)'/>"
    f"<foreignObject><img src='{E}'></foreignObject><set attributeName=href to='{E}'/></svg>",
    "other readings": f"<!--><img src='{E}'>--><![CDATA[><img src='{E}'>]]><?x ><img src='{E}'>?>"
    f"<svg><style><img src='{E}'></style></svg><noscript><p title='</noscript><img src={E}>'>",
    "behind the end": f"</div></main></body></html><img src='{E}'><p style='mask:url({E})'>"
    f"<style>p {{ mask: url({E}) }}</style><b onclick='f()'>x</b>",
}


@pytest.mark.parametrize("inside", ACTIVE.values(), ids=ACTIVE)
@pytest.mark.parametrize("kind", ["text/html", "text/markdown", "cell"])
def test_nothing_in_a_page_runs_or_loads(house, inside, kind):
    text = f"{inside}\n\n<b id='kept'>kept</b>"
    data = {"text/html": "<i></i>"} if kind == "cell" else {kind: text}
    output = new_output("display_data", {**data, "text/plain": "x"})
    cells = [new_markdown_cell(text if kind == "cell" else ""), new_code_cell("", outputs=[output])]
    body = pages.page(new_notebook(cells=cells), Path("name.ipynb")).split("<body", 1)[1]
    soup = BeautifulSoup(body, "html.parser")
    attributes = str([own.attrs | {"title": ""} for own in soup.find_all(True)])
    styles = " ".join(style.text for style in soup("style"))
    for what in (E, "f()", "javascript:"):
        assert what not in attributes + styles
    assert "<!--" not in body and "<![" not in body and f"<img src='{E}" not in body
    assert not soup.select("script, iframe, object, embed, video, audio, source, base, form, meta")
    assert soup.find(id="kept").text == "kept"


def test_what_readers_need_stays_in_a_page(house):
    inside = (
        "<a href='https://e.org/a?b=c:d#e'>1</a><a href='mailto:a@e.org'>2</a><a href='#f'>3</a>"
        "<a href='02_x.ipynb'>4</a><details open><summary>S</summary>folded</details>"
        "<style>p > b { color: red }</style><table border='1'><td style='color: red; background: "
        "linear-gradient(90deg, red 5%, blue)' colspan='2'>x</td></table>"
        "<svg viewBox='0 0 1 1'><defs><g id='p'/></defs><use xlink:href='#p'/><rect "
        "clip-path='url(#p)' style='fill: url(#p)'/><image href='data:image/png;base64,'/></svg>"
        "<img alt='a \\alpha' src='data:image/png;base64,AA'>"
    )
    output = new_output("display_data", {"text/html": inside, "text/plain": "x"})
    cell = new_code_cell("", outputs=[output])
    page = BeautifulSoup(pages.page(new_notebook(cells=[cell]), Path("name.ipynb")), "html.parser")
    policy, *rest = page.head("meta")
    assert policy["content"] == "default-src data: 'unsafe-inline'; script-src 'nonce-own'"
    assert [own["charset"] for own in rest if "charset" in own.attrs] == ["utf-8"]
    assert [script["nonce"] for script in page("script")] == ["own"]
    assert page.select_one(".jp-RenderedHTML style")
    for before in BeautifulSoup(inside, "html.parser").find_all(True):
        assert before.attrs in [own.attrs for own in page.main(before.name)], before


def test_code_of_cells_that_only_draw_is_folded(house):
    cells = [new_code_cell("shown = 1"), new_code_cell("drawn = 2")]
    cells[1].metadata.tags = ["hide-input"]
    page = BeautifulSoup(pages.page(new_notebook(cells=cells), Path("name.ipynb")), "html.parser")
    (folded,) = page.select("details")
    assert "drawn" in folded.text and "shown" in page.main.text and not folded.has_attr("open")


def test_descriptions_of_figures_reach_the_page_and_the_committed_file(house):
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    bundle = {"image/png": png, "text/html": "<img src=''>", "text/plain": "Figure: a < b"}
    output = new_output("display_data", bundle, metadata={"image/png": {"alt": "a < b"}})
    notebook = new_notebook(cells=[new_code_cell("", outputs=[output])])
    for kept in (notebook, pages.tidy(notebook)):
        page = BeautifulSoup(pages.page(kept, Path("name.ipynb")), "html.parser")
        assert page.main.img["alt"] == "a < b" and page.main.img["src"].startswith("data:image/png")
    assert set(output.data) == {"image/png", "text/plain"}
    assert output.metadata["image/png"]["alt"] == "a < b"


def test_dollars_are_money_but_in_markdown_and_latex(house):
    kinds = ("text/html", "text/plain", "text/markdown", "text/latex")
    outputs = [new_output("display_data", {kind: "$5 or $10"}) for kind in kinds]
    outputs += [new_output("stream", text="$5 or $10")]
    notebook = new_notebook(cells=[new_markdown_cell("$x$"), new_code_cell("", outputs=outputs)])
    page = pages.page(notebook, Path("name.ipynb"), "stopped: $5 or $10")
    soup = BeautifulSoup(page, "html.parser")
    ignored = ["mathjax_ignore" in own["class"] for own in soup.select(".jp-OutputArea-output")]
    assert ignored == [True, True, False, False, True]
    assert "mathjax_ignore" in soup.select_one(".failure")["class"]
    assert not soup.select(
        ".mathjax_ignore .jp-RenderedMarkdown, .jp-MarkdownOutput.mathjax_ignore"
    )
    assert 'ignoreHtmlClass: "mathjax_ignore"' in page


@pytest.mark.parametrize("address", [E + 5000 * "a", "a" * 5000 + ".png", "a\0b.png", "x" * 300])
def test_odd_addresses_of_pictures_give_their_text(house, address):
    html = f"<img src='{address}' alt='a picture'>"
    output = new_output("display_data", {"text/html": html, "text/plain": "x"})
    page = pages.page(new_notebook(cells=[new_code_cell("", outputs=[output])]), Path("name.ipynb"))
    soup = BeautifulSoup(page, "html.parser")
    assert not soup.main("img") and "a picture" in soup.main.text


@pytest.mark.parametrize("where", ["../{}", "{root}/{}", "link.png", "link/{}", "sub/../../{}"])
def test_only_pictures_below_the_notebooks_get_into_a_page(house, where):
    folder, content = house / "notebooks", b"\x89PNG nobody may read this"
    (folder / "sub").mkdir(parents=True)
    (house / "secret.png").write_bytes(content)
    (house / "secret").write_bytes(content)
    (folder / "own.txt").write_bytes(content)
    (folder / "sub" / "own.png").write_bytes(content)
    (folder / "link.png").symlink_to(house / "secret.png")
    (folder / "link").symlink_to(house)
    names = [where.format(own, root=house) for own in ("secret.png", "secret")]
    outputs = [
        new_output("display_data", {"text/html": f"<img alt='its text' src='{own}'>"})
        for own in (*names, "own.txt")
    ]
    cells = [new_markdown_cell(f"![x]({names[1]})"), new_code_cell("", outputs=outputs)]
    page = pages.page(new_notebook(cells=cells), folder / "name.ipynb")
    assert base64.b64encode(content).decode() not in page
    assert page.count("its text") == 3 and not BeautifulSoup(page, "html.parser").main("img")
    cells[0] = new_markdown_cell("![x](sub/own.png)")
    page = pages.page(new_notebook(cells=cells), folder / "name.ipynb")
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    assert BeautifulSoup(page, "html.parser").main.img["src"] == source


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


UNREADABLE = {
    "merge conflict": "<<<<<<< HEAD\n{}",
    "cut off": '{"cells": [',
    "empty": "",
    "a list": "[]",
    "no cells": '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_notebook_costs_only_itself(house, capsys, text):
    bad_path, good_path = (house / "notebooks" / name for name in ("01_bad.ipynb", "02_good.ipynb"))
    save(house / "notebooks", good_path.name, *good())
    bad_path.write_text(text, encoding="utf-8")
    assert front.main(["run"]) == 1
    output = capsys.readouterr()
    says = "01_bad.ipynb cannot be read as a notebook"
    assert output.err.startswith(says) and output.err.count("\n") == 1
    index = BeautifulSoup((house / "build/index.html").read_text("utf-8"), "html.parser")
    (bad_row, good_row) = index.tbody("tr")
    assert says in bad_row.text and "A good one" in good_row.text
    assert "01_bad " in output.out and "02_good" in output.out
    assert says in (house / "build" / "01_bad.html").read_text(encoding="utf-8")
    assert front.main(["notebooks"]) == 1
    assert bad_path.read_text(encoding="utf-8") == text
    assert nbformat.read(good_path, as_version=4).cells[1].execution_count == 1


def test_a_byte_order_mark_does_not_make_a_notebook_unreadable(house):
    path = save(house / "notebooks", "01_a.ipynb", *good())
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert front.read(path).cells[0].source == "# A *good* one"


def test_kernels_that_do_not_start_are_reported(house, capfd, monkeypatch):
    for name in ("01_a.ipynb", "02_b.ipynb"):
        save(house / "notebooks", name, *good())
    spec = front.ThisPython.get_kernel_spec
    for argv, says in (
        ([sys.executable, "-c", "0", "{connection_file}"], "Kernel died before replying"),
        (["/no/such/python", "{connection_file}"], "No such file"),
    ):
        broken = front.KernelSpec(argv=argv, name="python3", language="python")
        monkeypatch.setattr(front.ThisPython, "get_kernel_spec", lambda *_, own=broken: own)
        assert front.main(["run"]) == 1
        output = capfd.readouterr()
        assert re.search(rf"01_a\.ipynb did not start: .*{says}", output.err)
        assert re.search(rf"02_b\.ipynb did not start: .*{says}", output.out)
    monkeypatch.setattr(front.ThisPython, "get_kernel_spec", spec)
    assert front.main(["run"]) == 0


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "gbk", "utf-8"])
def test_any_error_can_be_printed_anywhere(house, encoding):
    save(house / "notebooks", "01_a.ipynb", new_code_cell("raise ValueError('中文 é')"))
    half = new_notebook(cells=[new_markdown_cell("half an emoji: \ud83d")])
    pages.write(house / "notebooks" / "02_b.ipynb", nbformat.writes(half))
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert front.run(None) == 1
    for stream in (out, err):
        stream.seek(0)
        assert "01_a.ipynb stopped in code cell 1: ValueError: " in stream.read()
    assert "\\ud83d" in (house / "build" / "02_b.html").read_text(encoding="utf-8")
    again = nbformat.read(house / "build" / "02_b.ipynb", as_version=4)
    assert again.cells[0].source == "half an emoji: \ud83d"


def test_leftovers_in_build_do_not_stop_the_index(house):
    names = ["01_good", "02_no_run", "03_cut", "04_card", "05_edited", "06_folder"]
    build = house / "build"
    (build / "scorecards").mkdir(parents=True)
    whole = {"metadata": {"run": {"minutes": 1.5, "peak_gib": 2.5, "error": ""}}}
    for name in names:
        save(house / "notebooks", f"{name}.ipynb", *good())
        settings = {} if name == "02_no_run" else whole
        if name == "05_edited":
            settings = {"metadata": {"run": {"minutes": "many", "peak_gib": 1, "error": ""}}}
        nbformat.write(new_notebook(cells=list(good()), **settings), build / f"{name}.ipynb")
    (build / "03_cut.ipynb").write_text('{"cells": [', encoding="utf-8")
    (build / "scorecards" / "06.json").mkdir()
    (build / "scorecards" / "04.json").write_text('{"claims": [{"ver', encoding="utf-8")
    card = {"claims": [{"verdict": "partly"}, {"verdict": None}, {"verdict": "partly"}]}
    (build / "scorecards" / "01.json").write_text(json.dumps(card), encoding="utf-8")
    lost = "no record of a run; run it again"
    assert front.write_index() == [
        ("01_good", 1.5, 2.5, "2 partly, 1 not judged"),
        ("02_no_run", 0, 0, lost),
        ("03_cut", 0, 0, lost),
        ("04_card", 1.5, 2.5, unread := "a scorecard that cannot be read; run it again"),
        ("05_edited", 0, 0, lost),
        ("06_folder", 1.5, 2.5, unread),
    ]
    index = BeautifulSoup((build / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert [link["href"] for link in index("a")] == [f"{name}.html" for name in names]


def in_the_way(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file", encoding="utf-8")


OBSTACLES = {
    "build": in_the_way,
    "build/scorecards": in_the_way,
    "build/scorecards/01.json": Path.mkdir,
    "build/01_a.html": Path.mkdir,
    "build/01_a.ipynb": Path.mkdir,
    "build/index.html": Path.mkdir,
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_a_damaged_build_folder_is_refused_before_anything_runs(house, monkeypatch, name):
    save(house / "notebooks", "01_a.ipynb", *good())
    if OBSTACLES[name] is Path.mkdir:
        (house / name).parent.mkdir(parents=True)
    OBSTACLES[name](house / name)
    monkeypatch.setattr(front, "fetch_weights", lambda: pytest.fail("work has begun"))
    with pytest.raises(SystemExit, match=r"build.* cannot be written: .*make clean"):
        front.main(["run"])
    assert not [*house.rglob("*.tmp")]


@pytest.mark.parametrize("command", ["run", "notebooks"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_disk_or_a_folder_without_rights_is_a_sentence(house, monkeypatch, command, code):
    path = save(house / "notebooks", "01_a.ipynb", *good())
    before = path.read_bytes()

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(front, "fetch_weights", lambda: pytest.fail("work has begun"))
    with monkeypatch.context() as early:
        early.setattr(Path, "write_text", refuse)
        with pytest.raises(SystemExit, match=rf"cannot be written: {os.strerror(code)}"):
            front.main([command])
    # or while the notebooks run
    monkeypatch.setattr(front, "fetch_weights", lambda: None)
    monkeypatch.setattr(
        front, "execute", lambda path, **_: front.Execution(new_notebook(), 1, 1, "")
    )
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(SystemExit, match=rf"01_a.* cannot be written: {os.strerror(code)}"):
        front.main([command])
    assert path.read_bytes() == before and not [*house.rglob("*.tmp")]


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


def test_parameters_are_replaced_for_one_run(house):
    cell = new_code_cell("SEED, N = 0, 5", metadata={"tags": ["parameters"]})
    path = save(house / "notebooks", "01_a.ipynb", cell, new_code_cell("print(SEED, N)"))
    before = path.read_bytes()
    result = front.execute(path, parameters={"SEED": "a 'b'"})
    assert result.notebook.cells[1].outputs[0].text == "a 'b' 5\n"
    assert path.read_bytes() == before


SETTINGS = {
    "ipython/profile_default/startup/00.py": "print('of the user')",
    "ipython/profile_default/ipython_config.py": "c.InteractiveShellApp.exec_lines = ['raise 1']",
    "ipython/profile_default/ipython_kernel_config.py": "c.InlineBackend.figure_formats = {'svg'}",
    "startup.py": "raise SystemExit",
    "matplotlib/matplotlibrc": "text.usetex: True\nno.such.key: 1\nfont.size: 33",
}


def test_kernels_start_from_the_defaults_not_from_the_users_settings(house, monkeypatch):
    for name, text in SETTINGS.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("IPYTHONDIR", str(house / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(house / "startup.py"))
    monkeypatch.setenv("MPLCONFIGDIR", str(house / "matplotlib"))
    monkeypatch.setenv("MATPLOTLIBRC", str(house / "matplotlib"))
    code = "import matplotlib.pyplot as plt; plt.plot([0]); plt.rcParams['font.size']"
    path = save(house / "notebooks", "01_a.ipynb", new_code_cell(code))
    result = front.execute(path)
    size, figure = result.notebook.cells[0].outputs
    assert not result.error and "image/png" in figure.data
    assert size.data["text/plain"] == "10.0"


def test_the_collections_look_starts_from_the_defaults():
    with plt.rc_context({"text.usetex": True, "axes.grid": True}):
        plots.use_style()
        assert not plt.rcParams["text.usetex"] and not plt.rcParams["axes.grid"]
        assert plt.rcParams["font.size"] == 12


def test_an_error_of_a_figure_is_an_error_of_the_run(house, capsys):
    code = "import matplotlib.pyplot as plt\nplt.gca().set_title('$\\\\no_such_command$')"
    save(house / "notebooks", "01_a.ipynb", new_code_cell("1"), new_code_cell(code))
    assert front.main(["run"]) == 1
    output = capsys.readouterr()
    assert re.match(r"01_a\.ipynb stopped in code cell 2: \w+: .*\n$", output.err)
    assert "stopped in code cell 2" in (house / "build" / "01_a.html").read_text(encoding="utf-8")


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
    small = pages.in_few_colours(png)
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
    assert pages.in_few_colours(png) == png
