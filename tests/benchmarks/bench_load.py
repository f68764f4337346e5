"""Loading a registered model against reading its GGUF through transformers each time.

Ours is `models.load` with everything in the cache and in memory (the second and later load). The
peer does what a reader without a cache does: model and tokenizer from the GGUF, as float32. Both
are timed in fresh processes: with the imports of torch and transformers, which take seconds and are
the same for both; the first load after them; and another load. Medians of several processes.
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

KINDS = ("imports and first load", "first load", "later load")

# The process prints its seconds, one number for each kind.
TIMED = """
import sys, time
begin = time.perf_counter()
import torch, transformers.modeling_utils
{imports}
imported = time.perf_counter()
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
print(json.dumps([[first - begin, first - imported, again - first], check]))
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
    from helpers import weights

    downloads, work = folder / "downloads", folder / "work"
    downloads.mkdir(parents=True)
    work.mkdir()
    with contextlib.redirect_stdout(sys.stderr):
        raw = weights._collect(name, weights.REGISTRY[name], work, downloads)
    return next(raw.glob("*.gguf"))


def measure(script: str, place: str, repeats: int) -> tuple[list[float], float]:
    """Median seconds of each kind, and the checksum of the logits."""
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
    seconds, checks = zip(*results, strict=True)
    assert len(set(checks)) == 1
    return [statistics.median(values) for values in zip(*seconds, strict=True)], checks[0]


def run() -> list[dict]:
    """Rows: seconds of ours and of the peer, and how many times faster ours is."""
    from helpers import models

    rows = []
    models.prefetch(NAMES)
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            gguf = fetch_gguf(name, Path(folder))
            measure(OURS, name, 1)  # fills the page cache
            ours, our_logits = measure(OURS, name, REPEATS["ours"])
            peer, peer_logits = measure(PEER, str(gguf), REPEATS["peer"])
        if our_logits != peer_logits:
            raise AssertionError(f"{name}: the converted model's logits differ from the GGUF's")
        for kind, our, their in zip(KINDS, ours, peer, strict=True):
            rows.append(
                {
                    "benchmark": f"load {name}: {kind}",
                    "ours": our,
                    "peer": their,
                    "ratio": their / our,
                    "unit": "s",
                    "note": "peer: transformers reads the GGUF; ratio: times faster; equal logits",
                }
            )
    return rows


PARTS = {"loading": run}
