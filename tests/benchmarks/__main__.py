"""Run the benchmarks in this folder, each part in a process of its own: `make bench`.

A benchmark is a file bench_*.py with a dict `PARTS` of names and functions. A function returns
rows, each a dict with `benchmark`, `ours`, `peer`, `ratio` (None where there is none), `unit` and
`note`. Rows are printed and kept in build/benchmarks.jsonl as parts end, so that a run that was
stopped goes on with the next part; what a part prints goes to build/benchmarks/. A part that takes
more memory or time than allowed is ended and named, and the others go on.
"""

import ast
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
LIMIT_GIB, LIMIT_SECONDS = 6, 600
WIDTHS = {"benchmark": 58, "ours": 9, "peer": 9, "unit": 12, "ratio": 7}


def part_names(path: Path) -> list[str]:
    """Keys of PARTS, without importing the file and all that it needs."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PARTS":
            return [ast.literal_eval(key) for key in node.value.keys]
    raise SystemExit(f"{path.name} has no dict PARTS")


def show(value) -> str:
    """A cell of the table; numbers with three significant digits, nothing where there is none."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def line(row: dict) -> str:
    """A row in aligned columns, its note on the next line."""
    cells = (show(row.get(name)).ljust(width) for name, width in WIDTHS.items())
    note = row.get("note")
    return "  ".join(cells).rstrip() + (f"\n    {note}" if note else "")


def run_part(path: Path, name: str) -> tuple[list[dict], str]:
    """Rows of a part, and why it failed (empty where it did not)."""
    log, rows = BUILD / "benchmarks" / f"{path.stem}-{name}.log", BUILD / "benchmarks" / "rows.json"
    log.parent.mkdir(parents=True, exist_ok=True)
    rows.unlink(missing_ok=True)
    # Peers look for models on the network unless they are told not to; ours come from the cache.
    settings = dict(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="Agg")
    with log.open("w", encoding="utf-8") as out:
        child = subprocess.Popen(
            [sys.executable, str(HERE), path.stem, name, str(rows)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | settings | {"BENCH_FOLDER": str(path.parent)},
        )
        why = watch(child)
    if not why and child.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
        why = f"ended with status {child.returncode}: {last[-1]}"
    return ([] if why else json.loads(rows.read_text(encoding="utf-8"))), why


def watch(child: subprocess.Popen) -> str:
    """Wait for a process; end it, and say why, where it takes too much memory or time."""
    begin = time.monotonic()
    while child.poll() is None:
        time.sleep(0.2)
        try:
            process = psutil.Process(child.pid)
            family = [process, *process.children(recursive=True)]
            used = sum(member.memory_info().rss for member in family) / 2**30
        except psutil.Error:  # it ended between listing and reading
            continue
        over = used > LIMIT_GIB and f"more than {LIMIT_GIB} GiB of memory"
        over = over or (time.monotonic() - begin > LIMIT_SECONDS and f"{LIMIT_SECONDS} seconds")
        if over:
            for member in family:
                member.kill()
            child.wait()
            return f"ended: it took {over}"
    return ""


def main(folder: Path = HERE) -> int:
    """Run what is left to run; returns the exit status."""
    jobs = [(path, n) for path in sorted(folder.glob("bench_*.py")) for n in part_names(path)]
    kept, done, failed = BUILD / "benchmarks.jsonl", set(), []
    kept.parent.mkdir(exist_ok=True)
    if kept.exists():
        text = kept.read_text(encoding="utf-8").splitlines()
        done = {json.loads(own)["part"] for own in text if own.endswith("}")}
    if done >= {f"{path.stem} {name}" for path, name in jobs}:  # a whole run: begin another
        kept.unlink(missing_ok=True)
        done = set()
    print(line({name: name for name in WIDTHS}))
    for path, name in jobs:
        part = f"{path.stem} {name}"
        if part in done:
            continue
        rows, why = run_part(path, name)
        if why:
            failed.append(f"{part} {why}")
            print(failed[-1], file=sys.stderr, flush=True)
            continue
        for row in rows:
            print(line(row), flush=True)
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": part, "rows": rows}) + "\n")
    print(f"\nAll rows: build/{kept.name}" + (f"; {len(failed)} part(s) failed" if failed else ""))
    return int(bool(failed))


def run_here(stem: str, name: str, rows: str) -> None:
    """The child's work: one part of one benchmark."""
    folder = Path(os.environ["BENCH_FOLDER"])
    sys.path[:0] = [str(folder), str(HERE.parent)]  # its siblings, the model families of the tests
    found = importlib.import_module(stem).PARTS[name]()
    Path(rows).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:]:
        run_here(*sys.argv[1:])
    else:
        sys.exit(main())
