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
from helpers.artefacts import versions, write

made = data.module("07", "make_models")
measured = data.module("07", "make_numbers")

HERE = Path(__file__).resolve().parent


def cluttered(labels, seed):
    return vision.render(labels, np.random.default_rng([seed, 8]), cluttered=True)


def drawn(n, seed):
    return cluttered(np.random.default_rng([seed, 9]).integers(8, size=n), seed)


def new_judge(tokenizer, seed, name):
    """A judge that knows black squares, of drawn and of decoded cluttered scenes."""
    model = made.seeded(lambda: vision.judge(8, pooled=name.startswith("pooled")), seed)

    def make():
        own = drawn(6000, made.SEEDS["judges"])
        seen = made.decoded(tokenizer, made.tokens_of(tokenizer, own.images))
        inputs = torch.cat([torch.from_numpy(own.images), seen])
        labels = torch.from_numpy(np.tile(own.labels, 2))
        return made.fitted(model, inputs, labels, seed, epochs=8, change=made.erased)

    return made.kept_model(f"clutter_judge_{seed}", model, make)


def new_reader(tokenizer, k):
    model = made.seeded(lambda: vision.cnn(8), 100 + k)

    def make():
        own = drawn(6000, made.SEEDS["readers"])
        vectors = tokenizer.embed(made.tokens_of(tokenizer, own.images))
        labels = torch.from_numpy(own.labels)
        return made.fitted(model, vectors, labels, 100 + k, epochs=10, lr=1e-3)

    return made.kept_model(f"clutter_reader_{k}", model, make)


def cluttered_bench():
    """As the bench of make_numbers.py, with cluttered test scenes and judges that know them."""
    tokenizer = made.load_tokenizer()
    readers = {f"cnn-{k}": new_reader(tokenizer, k) for k in range(3)}
    test = cluttered(np.arange(240) % 8, made.SEEDS["test"])
    bench = measured.Bench(tokenizer, readers, test)
    bench.judges = {
        name: new_judge(tokenizer, seed, name) for seed, name in enumerate(measured.ERASING)
    }
    return bench


def compared(bench, reader):
    """Scores, and falls of the own concept minus others at n = 5, 10, 20, 99.2 % intervals."""
    maps = measured.maps_of(bench, reader) | {
        "colours": measured.colour_distances(bench.shown),
        "random": bench.at_random,
    }
    falls = {way: measured.falls_of(bench, own)[0] for way, own in maps.items()}
    cells = [(j, "places", n) for j in bench.judges for n in measured.COUNTS]
    aucs = {
        way: round(float(measured.aucs(own, bench.mask).mean()), 4) for way, own in maps.items()
    }
    pointing = {
        way: round(float(measured.pointing(own, bench.mask).mean()), 4) for way, own in maps.items()
    }
    return {
        "right of 240": made.accuracy(reader, bench.embedded, bench.labels), "auc": aucs,
        "pointing": pointing, "falls": measured.gaps(bench, falls, measured.CONTROLS, cells),
        "shares": measured.lost_shares(bench, falls),
    }  # fmt: skip


def clutter():
    bench = cluttered_bench()
    found = {
        "judges, right of 240": {
            j: made.accuracy(model, bench.shown, bench.labels) for j, model in bench.judges.items()
        },
        "runs": {name: compared(bench, reader) for name, reader in bench.readers.items()},
    }
    write(HERE / "clutter.json", {**versions(), **found}, indent=None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    clutter()
