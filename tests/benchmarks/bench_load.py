"""Loading a registered model against reading its GGUF through transformers each time.

Ours is `models.load` with everything in the cache and in memory (the second and later load). The
peer does what a reader without a cache does: model and tokenizer from the GGUF, as float32. Both
are timed in a fresh process (imports included) and again in the same process; medians in seconds.
Each run also compares the logits of the two: they must be identical.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("smollm2-135m", "gemma3-270m")
REPEATS = {"ours": 5, "peer": 3}

# The process prints its seconds: imports and first load, and then a second load.
TIMED = """
import sys, time
begin = time.perf_counter()
import torch
{imports}
def load(place):
    {load}
model, tokenizer = load(sys.argv[1])
first = time.perf_counter()
load(sys.argv[1])
again = time.perf_counter()
with torch.no_grad():
    logits = model.eval()(torch.arange(100, 140)[None]).logits
check = logits.view(torch.int32).double().sum().item()
import json
print(json.dumps([first - begin, again - first, check]))
"""
OURS = TIMED.format(imports="from helpers import models", load="return models.load(place)")
PEER = TIMED.format(
    imports="from transformers import AutoModelForCausalLM, AutoTokenizer",
    load="folder, file = place.rsplit('/', 1)\n"
    "    origin = {'pretrained_model_name_or_path': folder, 'gguf_file': file}\n"
    "    model = AutoModelForCausalLM.from_pretrained(**origin, dtype=torch.float32)\n"
    "    return model, AutoTokenizer.from_pretrained(**origin)",
)


def fetch_gguf(name: str, folder: Path) -> Path:
    """The GGUF of a registered model, fetched again (the cache does not keep it)."""
    from helpers import models

    downloads, work = folder / "downloads", folder / "work"
    downloads.mkdir(parents=True)
    work.mkdir()
    with contextlib.redirect_stdout(sys.stderr):
        raw = models._collect(name, models.REGISTRY[name], work, downloads)
    return next(raw.glob("*.gguf"))


def measure(script: str, place: str, repeats: int) -> tuple[float, float, float]:
    """Median seconds of the first (with imports) and the second load, and the logits' checksum."""
    results = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", script, place],
            capture_output=True,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        results.append(json.loads(done.stdout.splitlines()[-1]))
    first, again, checks = zip(*results, strict=True)
    assert len(set(checks)) == 1
    return statistics.median(first), statistics.median(again), checks[0]


def run() -> list[dict]:
    """Rows: seconds of ours and of the peer, and how many times faster ours is."""
    from helpers import models

    rows = []
    models.prefetch(NAMES)
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            gguf = fetch_gguf(name, Path(folder))
            measure(OURS, name, 1)  # fills the page cache
            ours = measure(OURS, name, REPEATS["ours"])
            peer = measure(PEER, str(gguf), REPEATS["peer"])
        if ours[2] != peer[2]:
            raise AssertionError(f"{name}: the converted model's logits differ from the GGUF's")
        for kind, i in {"fresh process": 0, "same process": 1}.items():
            rows.append(
                {
                    "benchmark": f"load {name}, {kind}",
                    "ours": ours[i],
                    "peer": peer[i],
                    "ratio": peer[i] / ours[i],
                    "unit": "s",
                    "note": "peer: transformers reads the GGUF; ratio: times faster; equal logits",
                }
            )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
