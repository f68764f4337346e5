"""Run every benchmark in this folder and print one table of ratios: `make bench`.

A benchmark is a file bench_*.py with a function `run()`. It returns rows, each a dict with
`benchmark`, `ours`, `peer`, `ratio` (ours to peer, None where the peer is not installed), `unit`
and `note`; a figure it draws goes to the folder `build/`.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
COLUMNS = ("benchmark", "ours", "peer", "unit", "ratio", "note")


def show(value) -> str:
    """A cell of the table; numbers with three significant digits, nothing where there is none."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(rows: list[dict]) -> str:
    """Rows as text in aligned columns."""
    lines = [COLUMNS, *(tuple(show(row.get(column)) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main() -> int:
    """Run all; a benchmark that fails is named and the others go on. Returns the exit status."""
    # Peers look for models on the network unless they are told not to; ours come from the cache.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="Agg")
    sys.path.insert(0, str(HERE.parent))  # the model families of the tests
    BUILD.mkdir(exist_ok=True)
    rows, failed = [], []
    for path in sorted(HERE.glob("bench_*.py")):
        print(f"{path.stem} ...", file=sys.stderr, flush=True)
        try:
            rows += importlib.import_module(path.stem).run()
        except Exception:
            traceback.print_exc()
            failed.append(path.stem)
    (BUILD / "benchmarks.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(table(rows) if rows else "There is no benchmark yet.")
    print(f"\nAlso written to {(BUILD / 'benchmarks.json').relative_to(HERE.parents[1])}")
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
