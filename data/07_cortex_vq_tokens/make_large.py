"""Does the rule of the released code paint less with a larger codebook? large.json of notebook 07.

    python data/07_cortex_vq_tokens/make_large.py

About 3 minutes on one core, after `make_models.py large` (25 minutes), whose models it finds in the
cache folder.
"""

from pathlib import Path

import torch

from helpers import data, vision
from helpers.artefacts import versions, write

made = data.module("07", "make_models")
measured = data.module("07", "make_numbers")

HERE = Path(__file__).resolve().parent


def copies(bench):
    """Other places that carry the token of a random place: counted, and if places were independent.

    The second is 143 times the sum of the squared shares of the tokens in all test scenes.
    """
    one = vision.top(bench.at_random, 1)
    found = vision.same_tokens(bench.tokens, one).sum((1, 2)).float().mean() - 1
    counts, perplexity = vision.usage(bench.tokens, len(bench.tokenizer.codebook))
    shares = counts / counts.sum()
    return {
        "counted": round(float(found), 2),
        "if independent": round(float(143 * shares.square().sum()), 2),
        "tokens used": int((counts > 0).sum()),
        "perplexity": round(perplexity, 1),
    }


def tested(bench, reader):
    """Areas, and falls by importance minus falls of other choices, with 99.2 % intervals."""
    own = bench.importance(reader, bench.embedded, bench.labels)
    scores = {
        "TIS, own": own,
        "TIS, another": bench.importance(reader, bench.embedded, bench.another),
        "colours": measured.colour_distances(bench.shown),
        "random": bench.at_random,
    }
    falls, areas = {}, {}
    for way, maps in scores.items():
        falls[way], found = measured.falls_of(bench, maps)
        areas[way] = {measured.named(cell): round(area, 2) for cell, area in found.items()}
    cells = [cell for cell in falls["TIS, own"] if not cell[1].endswith("colour")]
    auc = float(measured.aucs(own, bench.mask).mean())
    return {
        "right of 240": made.accuracy(reader, bench.embedded, bench.labels), "auc": round(auc, 4),
        "areas": areas, "falls": measured.gaps(bench, falls, measured.CONTROLS, cells),
    }  # fmt: skip


def large():
    readers = {f"cnn-{k}": made.large_reader(k) for k in range(3)}
    bench, small = measured.Bench(made.large_tokenizer(), readers), measured.Bench(readers={})
    found = {
        str(len(own.tokenizer.codebook)): {
            "quality": made.quality(own.tokenizer, torch.from_numpy(own.test.images)),
            "copies": copies(own),
        }
        for own in (small, bench)
    }
    found["runs"] = {name: tested(bench, reader) for name, reader in readers.items()}
    write(HERE / "large.json", {**versions(), **found}, indent=None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    large()
