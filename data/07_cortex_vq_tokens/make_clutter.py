"""Is it the toy, where the object is what has an unusual colour? clutter.json of notebook 07.

    python data/07_cortex_vq_tokens/make_clutter.py

About 6 minutes on one core. Scenes hold four to eight blobs in the colours of the concepts; judges
and three CNN readers are trained on such scenes anew, the tokenizer stays. Finished models are kept
in the cache folder.
"""

from pathlib import Path

import numpy as np
import torch

from helpers import data, vision
from helpers.artefacts import rounded, versions, write

made = data.module("07", "make_models")
measured = data.module("07", "make_numbers")

HERE = Path(__file__).resolve().parent


def cluttered(labels, seed):
    return vision.render(labels, np.random.default_rng([seed, 8]), cluttered=True)


def drawn(n, seed):
    return cluttered(np.random.default_rng([seed, 9]).integers(8, size=n), seed)


def load(name, model, make):
    made.kept(f"clutter_{name}", make)
    return vision.load(made.kept_file(f"clutter_{name}"), model, f"clutter_{name}")


def new_judge(tokenizer, seed, name):
    """A judge that knows black squares, of drawn and of decoded cluttered scenes."""
    model = made.seeded(lambda: vision.judge(8, pooled=name.startswith("pooled")), seed)

    def make():
        own = drawn(6000, made.SEEDS["judges"])
        seen = made.decoded(tokenizer, made.tokens_of(tokenizer, own.images))
        inputs = torch.cat([torch.from_numpy(own.images), seen])
        labels = torch.from_numpy(np.tile(own.labels, 2))
        return made.fitted(model, inputs, labels, seed, epochs=8, change=made.erased)

    return load(f"judge_{seed}", model, make)


def new_reader(tokenizer, k):
    model = made.seeded(lambda: vision.cnn(8), 100 + k)

    def make():
        own = drawn(6000, made.SEEDS["readers"])
        vectors = tokenizer.embed(made.tokens_of(tokenizer, own.images))
        labels = torch.from_numpy(own.labels)
        return made.fitted(model, vectors, labels, 100 + k, epochs=10, lr=1e-3)

    return load(f"reader_{k}", model, make)


class Cluttered(measured.Bench):
    """As the bench of make_numbers.py, with 240 cluttered test scenes."""

    def __init__(self):
        super().__init__(readers={})
        self.judges = {
            name: new_judge(self.tokenizer, seed, name)
            for seed, name in enumerate(measured.ERASING)
        }
        self.readers = {f"cnn-{k}": new_reader(self.tokenizer, k) for k in range(3)}
        self.test = cluttered(np.arange(240) % 8, made.SEEDS["test"])
        self.tokens = made.tokens_of(self.tokenizer, self.test.images)
        self.embedded = self.tokenizer.embed(self.tokens)
        self.shown = made.decoded(self.tokenizer, self.tokens)
        self.mask = torch.from_numpy(vision.token_mask(self.test.objects, 12))


@torch.no_grad()
def right(model, inputs, labels):
    return round(float((model(inputs).argmax(1) == labels).float().mean()), 4)


def compared(bench, reader):
    """Scores, and falls of the own concept minus others at n = 5, 10, 20, 99.2 % intervals."""
    maps = measured.maps_of(bench, reader) | {
        "colours": measured.colour_distances(bench.shown),
        "random": bench.at_random,
    }
    falls = {way: measured.falls_of(bench, own)[0] for way, own in maps.items()}
    cells, level = [(j, "places", n) for j in bench.judges for n in measured.COUNTS], 1 - 0.05 / 6
    differences = {
        f"TIS, own - {versus}": {
            measured.named(cell): rounded(
                measured.stats_of(bench, falls["TIS, own"][cell] - falls[way][cell], level), 4
            )
            for cell in cells
        }
        for versus, way in (
            ("another", "TIS, another"), ("colours", "colours"), ("random", "random")
        )
    }  # fmt: skip
    shares = {
        f"{way} | {j} | {n}": rounded(
            measured.share_of_concept(
                bench,
                *(falls[which][j, "places", n] for which in (f"{way}, own", f"{way}, another")),
                falls["random"][j, "places", n],
            ),
            4,
        )
        for way in ("TIS", "gradient x (vector - mean)", "occlusion")
        for j in bench.judges
        for n in measured.COUNTS
    }
    aucs = {
        way: round(float(measured.aucs(own, bench.mask).mean()), 4) for way, own in maps.items()
    }
    pointing = {
        way: round(float(measured.pointing(own, bench.mask).mean()), 4) for way, own in maps.items()
    }
    return {
        "right of 240": right(reader, bench.embedded, bench.labels), "auc": aucs,
        "pointing": pointing, "falls": differences, "shares": shares,
    }  # fmt: skip


def clutter():
    bench = Cluttered()
    found = {
        "judges, right of 240": {
            j: right(model, bench.shown, bench.labels) for j, model in bench.judges.items()
        },
        "runs": {name: compared(bench, reader) for name, reader in bench.readers.items()},
    }
    write(HERE / "clutter.json", {**versions(), **found}, indent=None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    clutter()
