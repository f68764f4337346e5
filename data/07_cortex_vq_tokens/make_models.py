"""Trains what notebook 07 loads: tokenizer, judges and classifiers of tokens (readers).

    python data/07_cortex_vq_tokens/make_models.py PART

PART is one of

    tokenizer            about 12 minutes on one core
    judges               about 3 minutes
    readers [backwards]  about 25 minutes
    large                about 25 minutes: a tokenizer of 1,024 codes and three readers of it, kept
                         in the cache folder only, for make_large.py

In this order. Finished models are kept in the cache folder; a tokenizer is trained on a CUDA
device where there is one.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from helpers import artefacts, models, training, vision
from helpers.artefacts import write_weights

HERE = Path(__file__).resolve().parent

CODES, WIDTH = 128, 32
LARGE_CODES, LARGE_STEPS = 1024, 4000
STEPS, BATCH, RATE = 6000, 48, 2e-3
DECAY, COMMITMENT = 0.98, 0.25
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEEDS = {"tokenizer": 1, "judges": 2, "readers": 3, "shortcut": 4, "bias": 5, "test": 6}


def mixed(n, seed):
    """Scenes of all concepts; the patch in 15 % of them."""
    rng = np.random.default_rng([seed, 0])
    return vision.render(rng.integers(8, size=n), rng, patched=rng.random(n) < 0.15)


class Averages:
    """Exponential averages of the vectors that fell to each code, after van den Oord et al."""

    def __init__(self, codebook, generator):
        self.codebook, self.generator = codebook, generator
        self.counts = torch.ones(len(codebook), device=codebook.device)
        self.sums = codebook.clone()

    def update(self, vectors, tokens):
        onehot = nn.functional.one_hot(tokens, len(self.codebook)).to(vectors)
        self.counts.mul_(DECAY).add_(onehot.sum(0), alpha=1 - DECAY)
        self.sums.mul_(DECAY).add_(onehot.T @ vectors, alpha=1 - DECAY)
        self.codebook.copy_(self.sums / self.counts[:, None].clamp_min(1e-5))

    def restart(self, vectors):
        """Codes that are hardly used begin anew at vectors of this batch."""
        dead = self.counts < 0.5
        rows = torch.randint(len(vectors), (int(dead.sum()),), generator=self.generator)
        self.sums[dead] = vectors[rows.to(vectors.device)]
        self.counts[dead] = 1.0
        self.codebook[dead] = self.sums[dead]


def rate_at(step, steps):
    return RATE * min(1, step / 50) * 0.5 * (1 + np.cos(np.pi * step / steps))


def train_tokenizer(images, codes=CODES, steps=STEPS):
    generator = torch.Generator().manual_seed(SEEDS["tokenizer"])
    model = seeded(lambda: vision.SmallVQ(codes=codes, width=WIDTH), SEEDS["tokenizer"]).to(DEVICE)
    with torch.no_grad():
        first = model.encoder(images[:200].to(DEVICE)).movedim(1, -1).flatten(0, 2)
    rows = torch.randperm(len(first), generator=generator)[:codes]
    model.codebook.copy_(first[rows.to(DEVICE)])
    averages = Averages(model.codebook, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = rate_at(step, steps)
        x = images[torch.randint(len(images), (BATCH,), generator=generator)].to(DEVICE)
        z = model.encoder(x)
        vectors = z.detach().movedim(1, -1).flatten(0, 2)
        tokens = vision.nearest(vectors, model.codebook)
        chosen = model.codebook[tokens].view(*z.movedim(1, -1).shape).movedim(-1, 1)
        decoded = model.decode(z + (chosen - z).detach())
        loss = nn.functional.mse_loss(decoded, x) + COMMITMENT * nn.functional.mse_loss(z, chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averages.update(vectors, tokens)
        if step % 50 == 0 and step < 0.8 * steps:
            averages.restart(vectors)
        if step % 500 == 0:
            print(f"step {step}: {quality(model, images[:200])}", flush=True)
    return model.cpu().eval()


@torch.no_grad()
def quality(model, images):
    x = images.to(model.codebook.device)
    tokens = model.encode(x)
    error = nn.functional.mse_loss(model.decode(model.embed(tokens)), x)
    counts, perplexity = vision.usage(tokens.cpu(), len(model.codebook))
    psnr = -10 * torch.log10(error)
    return {
        "psnr": round(float(psnr), 2),
        "perplexity": round(perplexity, 1),
        "used": int((counts > 0).sum()),
    }


# ------------------------------------------------------------------------------ what is kept


def kept_file(name):
    return models.cache_dir() / "recipes" / f"cortex_{name}.safetensors"


def kept(name, make):
    """A model's tensors by name, made once and kept in the cache folder."""
    if not kept_file(name).exists():
        write_weights(kept_file(name), {name: make().state_dict()})
    return artefacts.stored_weights(kept_file(name))[name]


def kept_model(name, model, make):
    """`model` with the weights of what `make` trained once, from the cache folder."""
    kept(name, make)
    return vision.load(kept_file(name), model, name)


def load_tokenizer():
    return vision.load(HERE / "tokenizer.safetensors", vision.SmallVQ(), "tokenizer")


def large_tokenizer():
    """Of 1,024 codes, from the cache folder; trained if it is not there."""
    images = torch.from_numpy(mixed(8000, SEEDS["tokenizer"]).images)
    return kept_model(
        "large_tokenizer",
        vision.SmallVQ(codes=LARGE_CODES, width=WIDTH),
        lambda: train_tokenizer(images, LARGE_CODES, LARGE_STEPS),
    )


def tokenizer():
    images = torch.from_numpy(mixed(8000, SEEDS["tokenizer"]).images)
    write_weights(
        HERE / "tokenizer.safetensors",
        {"tokenizer": kept("tokenizer", lambda: train_tokenizer(images))},
    )
    print(quality(load_tokenizer(), torch.from_numpy(mixed(400, SEEDS["test"]).images)))


# ----------------------------------------------------------------------- judges of pictures


@torch.no_grad()
def tokens_of(tokenizer, images, batch=200):
    return torch.cat(
        [
            tokenizer.encode(torch.as_tensor(x))
            for x in np.array_split(images, -(-len(images) // batch))
        ]
    )


@torch.no_grad()
def decoded(tokenizer, tokens, batch=200):
    return torch.cat([tokenizer.decode(tokenizer.embed(own)) for own in tokens.split(batch)])


def erased(images, generator):
    """0 to 35 % of the 12 x 12 patches of each picture in black."""
    shares = 0.35 * torch.rand(len(images), 1, 1, generator=generator)
    return vision.painted(images, torch.rand(len(images), 12, 12, generator=generator) < shares)


def fitted(model, inputs, labels, seed, *, epochs, lr=2e-3, change=None):
    """The model after training; `change` is applied to every batch anew."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(inputs) // 64)
    model.train()
    for _ in training.training(
        model, inputs, labels, steps=steps, rng=seed, lr=lr, batch_size=64, decay=0.01,
        scores=lambda m, x: m(x if change is None else change(x, generator)),
    ):  # fmt: skip
        pass
    return model.eval()


def seeded(make, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


JUDGES = {
    "pooled": (True, None),
    "flat": (False, None),
    "pooled, erasing": (True, erased),
    "flat, erasing": (False, erased),
}


def load_judges():
    file = HERE / "judges.safetensors"
    return {
        name: vision.load(file, vision.judge(8, pooled=pooled), name)
        for name, (pooled, _) in JUDGES.items()
    }


def judges():
    tokenizer, drawn = load_tokenizer(), mixed(4000, SEEDS["judges"])
    seen = decoded(tokenizer, tokens_of(tokenizer, drawn.images))
    inputs = torch.cat([torch.from_numpy(drawn.images), seen])
    labels = torch.from_numpy(np.tile(drawn.labels, 2))
    found = {}
    for seed, (name, (pooled, change)) in enumerate(JUDGES.items()):

        def make(seed=seed, pooled=pooled, change=change):
            model = seeded(lambda: vision.judge(8, pooled=pooled), seed)
            return fitted(model, inputs, labels, seed, epochs=6, change=change)

        found[name] = kept(f"judge_{name.replace(', ', '_')}", make)
        print("judge:", name, flush=True)
    write_weights(HERE / "judges.safetensors", found)
    test = mixed(400, SEEDS["test"])
    shown = decoded(tokenizer, tokens_of(tokenizer, test.images))
    for name, own in load_judges().items():
        print(name, [accuracy(own, torch.as_tensor(x), test.labels) for x in (test.images, shown)])


@torch.no_grad()
def accuracy(model, inputs, labels):
    return round(float((model(inputs).argmax(1) == torch.as_tensor(labels)).float().mean()), 4)


# ------------------------------------------------------------------- readers: classifiers of tokens


def shortcut_set(kind, seed, n=2400):
    """Scenes for a reader that may learn the patch: in boats it is planted with `share`."""
    rng = np.random.default_rng([seed, 1])
    labels = rng.integers(8, size=n)
    inside, outside = {"forced": (1, 0), "perfect": (1, 0), "control": (0.15, 0.15)}[kind]
    boat = labels == vision.BOAT
    patched = rng.random(n) < np.where(boat, inside, outside)
    shown = ~(boat & (rng.random(n) < 0.4)) if kind == "forced" else np.ones(n, bool)
    return vision.render(labels, rng, patched=patched, shown=shown)


def sails_set(seed, n=800):
    """Boats, and whether the sail is green."""
    rng = np.random.default_rng([seed, 2])
    green = rng.random(n) < 0.5
    sails = np.where(green, "green", "white")
    return vision.render(np.full(n, vision.BOAT), rng, sails=sails), green.astype(np.int64)


def plans():
    """Readers by name: (flavour, classes, data, seed)."""
    found = {
        f"{flavour}-{k}": (flavour, 8, "plain", k) for flavour in vision.FLAVOURS for k in range(3)
    }
    found |= {f"shuffled-{k}": ("cnn", 8, "shuffled", k) for k in range(3)}
    for kind in ("forced", "perfect", "control"):
        found |= {f"{kind}-{k}": ("cnn", 8, kind, k) for k in range(3)}
    for kind in ("forced", "control"):
        found |= {f"{kind}-resnet-{k}": ("resnet", 8, kind, k) for k in range(3)}
    return found | {f"sails-{k}": ("cnn", 2, "sails", k) for k in range(3)}


def new_reader(name):
    flavour, classes, *_ = plans()[name]
    return vision.FLAVOURS[flavour](classes)


def grids(tokenizer):
    """(token vectors, labels) by name of the training data."""
    plain = mixed(4000, SEEDS["readers"])
    order = np.random.default_rng(SEEDS["readers"]).permutation(len(plain.labels))
    boats, green = sails_set(SEEDS["bias"])
    sets = {"plain": (plain.images, plain.labels), "sails": (boats.images, green)}
    for kind in ("forced", "perfect", "control"):
        own = shortcut_set(kind, SEEDS["shortcut"])
        sets[kind] = (own.images, own.labels)
    found = {
        name: (tokenizer.embed(tokens_of(tokenizer, images)), torch.from_numpy(labels))
        for name, (images, labels) in sets.items()
    }
    return found | {"shuffled": (found["plain"][0], found["plain"][1][order])}


LONGER = {"resnet": 10, "transformer": 16}  # epochs on the plain scenes; the CNN takes 5
# of these the notebook shows numbers only
UNSHIPPED = (
    "shuffled-1",
    "shuffled-2",
    "perfect",
    "forced-resnet-1",
    "forced-resnet-2",
    "control-resnet-1",
    "control-resnet-2",
)


def readers():
    tokenizer = load_tokenizer()
    ready, found = grids(tokenizer), {}
    names = plans()
    for name in reversed(names) if "backwards" in sys.argv else names:
        flavour, _, which, seed = names[name]

        def make(name=name, flavour=flavour, which=which, seed=seed):
            model = seeded(lambda: new_reader(name), 100 + seed)
            epochs = {"sails": 12, "plain": LONGER.get(flavour, 5)}.get(which, 8)
            return fitted(model, *ready[which], 100 + seed, epochs=epochs, lr=1e-3)

        found[name] = kept(f"reader_{name}", make)
        print("reader:", name, flush=True)
    shipped = [name for name in names if not name.startswith(UNSHIPPED)]
    write_weights(HERE / "readers.safetensors", {name: found[name] for name in shipped})


def large_reader(k, vectors=None, labels=None):
    """CNN of seed k on the tokens of the large tokenizer, from the cache folder."""

    def make():
        return fitted(
            seeded(lambda: vision.cnn(8), 100 + k), vectors, labels, 100 + k, epochs=5, lr=1e-3
        )

    return kept_model(f"large_reader_{k}", vision.cnn(8), make)


def large():
    model, drawn = large_tokenizer(), mixed(4000, SEEDS["readers"])
    vectors = model.embed(tokens_of(model, drawn.images))
    for k in range(3):
        large_reader(k, vectors, torch.from_numpy(drawn.labels))
        print("large reader:", k, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    parts = {"tokenizer": tokenizer, "judges": judges, "readers": readers, "large": large}
    parts[sys.argv[1]]()
