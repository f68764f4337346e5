"""Makes what notebook 07 loads: tokenizer, judges, classifiers of tokens (readers), and numbers.

    python data/07_cortex_vq_tokens/make_numbers.py PART

PART is one of

    tokenizer            about 12 minutes on one core
    judges               about 3 minutes
    readers [backwards]  about 25 minutes
    numbers [backwards]  about 6 minutes

In this order. Finished models and steps are kept in the cache folder; the tokenizer is trained on a
CUDA device where there is one.
"""

import sys
from pathlib import Path

import numpy as np
import quantus
import torch
from torch import nn

from helpers import artefacts, models, stats, training, vision
from helpers.artefacts import Steps, rounded, versions, write, write_weights

HERE = Path(__file__).resolve().parent

CODES, WIDTH = 128, 32
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


def rate_at(step):
    return RATE * min(1, step / 50) * 0.5 * (1 + np.cos(np.pi * step / STEPS))


def train_tokenizer(images):
    generator = torch.Generator().manual_seed(SEEDS["tokenizer"])
    model = seeded(lambda: vision.SmallVQ(codes=CODES, width=WIDTH), SEEDS["tokenizer"]).to(DEVICE)
    with torch.no_grad():
        first = model.encoder(images[:200].to(DEVICE)).movedim(1, -1).flatten(0, 2)
    rows = torch.randperm(len(first), generator=generator)[:CODES]
    model.codebook.copy_(first[rows.to(DEVICE)])
    averages = Averages(model.codebook, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for step in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = rate_at(step)
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
        if step % 50 == 0 and step < 0.8 * STEPS:
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


def load_tokenizer():
    return vision.load(HERE / "tokenizer.safetensors", vision.SmallVQ(), "tokenizer")


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
    found["shuffled-0"] = ("cnn", 8, "shuffled", 0)
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


# -------------------------------------------------------------------------------------- numbers

NOISE, SAMPLES = 0.2, 20  # of SmoothGrad: share of the codebook's range, copies
RATES = (0.002, 0.02, 0.1, 0.5)  # of the ascent in vectors
WRITE_STEPS, WRITE_RATE = 300, 0.1


def without_patch(n, seed):
    return vision.render(np.arange(n) % 8, np.random.default_rng([seed, 3]))


class Bench:
    """Tokenizer, readers and judges, and test scenes with their tokens."""

    def __init__(self):
        self.tokenizer = load_tokenizer()
        self.readers = {
            name: vision.load(kept_file(f"reader_{name}"), new_reader(name), f"reader_{name}")
            for name in plans()
        }
        self.judges = load_judges()
        self.noise = NOISE * float(self.tokenizer.codebook.max() - self.tokenizer.codebook.min())
        self.test = without_patch(240, SEEDS["test"])
        self.labels = torch.from_numpy(self.test.labels)
        self.tokens = tokens_of(self.tokenizer, self.test.images)
        self.embedded = self.tokenizer.embed(self.tokens)
        self.mask = torch.from_numpy(vision.token_mask(self.test.objects, 12))

    def importance(self, reader, embedded, labels):
        settings = {"noise": self.noise, "samples": SAMPLES}
        return vision.gradient(reader, embedded, labels, **settings).amax(1)


def scored(maps, mask):
    """Per picture: AUC, pointing game and rank accuracy of score maps against token masks."""
    arrays = {"a_batch": maps.numpy()[:, None], "s_batch": mask.numpy()[:, None]}
    blank = np.zeros((len(maps), 1, 12, 12), np.float32)
    found = {}
    metrics = {
        "auc": quantus.AUC,
        "pointing": quantus.PointingGame,
        "rank": quantus.RelevanceRankAccuracy,
    }
    for name, metric in metrics.items():
        own = metric(disable_warnings=True, display_progressbar=False)
        values = own(
            model=nn.Identity(),
            x_batch=blank,
            y_batch=np.zeros(len(maps), int),
            device="cpu",
            **arrays,
        )
        found[name] = rounded(values, 3)
    return found


def maps_of(bench, name):
    """Score maps of one reader; of the first also every other way to read its gradient."""
    reader, e, y = bench.readers[name], bench.embedded, bench.labels
    smooth = vision.gradient(reader, e, y, noise=bench.noise, samples=SAMPLES)
    found = {"token importance": smooth.amax(1)}
    if name != "cnn-0":
        return found
    plain, centre = vision.gradient(reader, e, y), bench.tokenizer.codebook.mean(0)
    generator = torch.Generator().manual_seed(0)
    other_ids = torch.randperm(CODES, generator=generator)
    swapped = bench.tokenizer.embed(other_ids[bench.tokens])
    blank = seeded(lambda: vision.cnn(8), 999).eval()
    return found | {
        "largest absolute value": smooth.abs().amax(1),
        "length": smooth.norm(dim=1),
        "mean over channels": smooth.mean(1),
        "plain gradient, signed maximum": plain.amax(1),
        "gradient x vector": (smooth * e).sum(1),
        "gradient x (vector - mean)": (smooth * (e - centre[None, :, None, None])).sum(1),
        "occlusion": vision.occlude(reader, e, y, centre),
        "random weights": bench.importance(blank, e, y),
        "ids permuted": bench.importance(reader, swapped, y),
        "random": torch.rand(bench.mask.shape, generator=generator),
    }


def located(bench, name):
    return {way: scored(own, bench.mask) for way, own in maps_of(bench, name).items()}


def rolled(bench, name):
    """The token map moved cyclically by (4, 5): does the importance move along?"""
    moved = torch.roll(bench.tokens, (4, 5), (1, 2))
    maps = bench.importance(bench.readers[name], bench.tokenizer.embed(moved), bench.labels)
    return scored(maps, torch.roll(bench.mask, (4, 5), (1, 2)))


@torch.no_grad()
def probability(model, inputs, labels):
    return model(inputs).softmax(1).gather(1, labels[:, None])[:, 0]


def masked(bench, name):
    """By judge, rule and n: falls of the true class, importance and random, and masked areas."""
    maps = bench.importance(bench.readers[name], bench.embedded, bench.labels)
    noise = torch.rand(maps.shape, generator=torch.Generator().manual_seed(1))
    shown = decoded(bench.tokenizer, bench.tokens)
    fills = {
        "positions": 0.0,
        "tokens": 0.0,
        "positions, mean colour": shown.mean((2, 3), keepdim=True),
    }
    found = {}
    for n in (5, 10, 20):
        for rule, fill in fills.items():
            masks = [vision.top(own, n) for own in (maps, noise)]
            if rule == "tokens":
                masks = [vision.same_tokens(bench.tokens, own) for own in masks]
            pictures = [vision.painted(shown, own, fill) for own in masks]
            areas = [round(float(own.sum((1, 2)).float().mean()), 1) for own in masks]
            for judge, model in bench.judges.items():
                before = probability(model, shown, bench.labels)
                falls = [
                    (before - probability(model, own, bench.labels)).numpy() for own in pictures
                ]
                e = stats.paired_bootstrap(*falls)
                found[f"{judge} | {rule} | {n}"] = {
                    "before": round(float(before.mean()), 4),
                    "falls": rounded([own.mean() for own in falls]),
                    "difference": rounded([e.estimate, e.low, e.high]),
                    "areas": areas,
                }
    return found


def counted(bench, name):
    """Counts (8, K) of tokens among the n most important positions of 960 training scenes."""
    drawn = without_patch(960, SEEDS["readers"])
    tokens = tokens_of(bench.tokenizer, drawn.images)
    labels = torch.from_numpy(drawn.labels)
    maps = bench.importance(bench.readers[name], bench.tokenizer.embed(tokens), labels)
    objects = torch.from_numpy(vision.token_mask(drawn.objects, 12))
    everywhere = torch.ones_like(objects)
    masks = {"all": everywhere, "object": objects} | {
        f"top {n}": vision.top(maps, n) for n in (5, 10, 20)
    }
    return {
        which: [
            torch.bincount(tokens[labels == c][mask[labels == c]], minlength=CODES).tolist()
            for c in range(8)
        ]
        for which, mask in masks.items()
    }


# ------------------------------------------------------------------- writing with the reader


def regions(mask):
    """The smallest rectangle of tokens around each object."""
    found = torch.zeros_like(mask)
    for own, out in zip(mask, found, strict=True):
        rows, columns = own.any(1).nonzero(), own.any(0).nonzero()
        out[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return found


def ascended(bench, reader, tokens, region, targets, lr):
    """The baseline: gradient ascent on the region's vectors, then the nearest codes."""
    start = bench.tokenizer.embed(tokens)
    free = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=lr)
    inside = region[:, None].to(start)
    for _ in range(WRITE_STEPS):
        e = inside * free + (1 - inside) * start
        score = reader(e).gather(1, targets[:, None]).sum()
        free.grad = torch.autograd.grad(-score, free)[0]
        optimizer.step()
    snapped = vision.nearest(free.detach().movedim(1, -1), bench.tokenizer.codebook)
    return torch.where(region, snapped, tokens)


def sampled(counts, tokens, region, targets, generator):
    """Tokens drawn from each target's counts, place by place."""
    shares = counts[targets].float() + 1e-9
    drawn = torch.multinomial(shares, 144, replacement=True, generator=generator)
    return torch.where(region, drawn.view(-1, 12, 12), tokens)


def pasted(bench, tokens, region, targets):
    """Tokens of the middle of a real object of the target class, cut to the region."""
    found = tokens.clone()
    for i, target in enumerate(targets.tolist()):
        own = region[i].nonzero()
        height, width = (own.max(0).values - own.min(0).values + 1).tolist()
        top, left = own.min(0).values.tolist()
        donors = (bench.labels == target).nonzero()[:, 0].tolist()
        donor = next(j for j in donors if j >= len(tokens))  # not among the edited pictures
        place = bench.mask[donor].nonzero().float().mean(0).round().long()
        r = int((place[0] - height // 2).clamp(0, 12 - height))
        c = int((place[1] - width // 2).clamp(0, 12 - width))
        found[i, top : top + height, left : left + width] = bench.tokens[
            donor, r : r + height, c : c + width
        ]
    return found


def written(bench, name, counts):
    """Target probabilities of 40 pictures by judge and reader, for every way to fill the region."""
    tokens, region = bench.tokens[:40], regions(bench.mask[:40])
    targets = 7 - bench.labels[:40]
    reader, generator = bench.readers[name], torch.Generator().manual_seed(2)
    counts = {key: torch.tensor(own) for key, own in counts.items()}
    uniform = torch.ones(8, CODES)
    arms = {
        "before": tokens,
        "random tokens": sampled(uniform, tokens, region, targets, generator),
        "drawn by frequency": sampled(counts["all"], tokens, region, targets, generator),
        "drawn by importance": sampled(counts["top 20"], tokens, region, targets, generator),
        "pasted from a real object": pasted(bench, tokens, region, targets),
    }
    for lr in RATES:
        arms[f"ascent in vectors, rate {lr}"] = ascended(bench, reader, tokens, region, targets, lr)
    settings = {"steps": WRITE_STEPS, "lr": WRITE_RATE, "seed": 3}
    arms["choice of tokens"] = vision.choose_tokens(
        reader, bench.tokenizer.codebook, tokens, region, targets, **settings
    )[0]
    witness = bench.readers["transformer-0"]
    found = {}
    for arm, own in arms.items():
        embedded = bench.tokenizer.embed(own)
        shown = decoded(bench.tokenizer, own)
        found[arm] = {
            j: rounded(probability(m, shown, targets), 3) for j, m in bench.judges.items()
        }
        found[arm]["driving reader"] = rounded(probability(reader, embedded, targets), 3)
        found[arm]["other reader"] = rounded(probability(witness, embedded, targets), 3)
        if arm == "choice of tokens":
            found[arm]["tokens"] = own.tolist()
    return found


# ------------------------------------------------------------------------------- the shortcut


def hunted(bench, name):
    """What a reader makes of the patch; pictures with and without differ in nothing else."""
    reader, n = bench.readers[name], 120
    boats, others = np.full(n, vision.BOAT), np.arange(n) % 8
    others[others == vision.BOAT] = 0
    on, off = np.ones(n, bool), np.zeros(n, bool)

    def drawn(labels, **settings):
        rng = np.random.default_rng([SEEDS["test"], 4])
        own = vision.render(labels, rng, **settings)
        return bench.tokenizer.embed(tokens_of(bench.tokenizer, own.images)), own

    target = torch.full((n,), vision.BOAT)
    full, own = drawn(boats, patched=on)
    maps = bench.importance(reader, full, target)
    patch = torch.from_numpy(vision.token_mask(own.patches, 12))
    objects = torch.from_numpy(vision.token_mask(own.objects, 12))
    best = vision.top(maps, 10)
    cases = {
        "full": full,
        "without patch": drawn(boats)[0],
        "without object": drawn(boats, patched=on, shown=off)[0],
    }
    with torch.no_grad():
        called = reader(drawn(others, patched=on)[0]).argmax(1) == vision.BOAT
        right = reader(cases["without patch"]).argmax(1) == vision.BOAT
    return {
        "patch share": round(float((best & patch).sum() / best.sum()), 4),
        "object share": round(float((best & objects).sum() / best.sum()), 4),
        "boat": {
            case: round(float(probability(reader, e, target).mean()), 4)
            for case, e in cases.items()
        },
        "boats without patch": round(float(right.float().mean()), 4),
        "others with patch called boat": round(float(called.float().mean()), 4),
    }


def checkerboard(bench, name):
    """Mean importance by position modulo 4, relative to the mean, also at random weights."""
    found = {}
    for which, reader in (
        ("trained", bench.readers[name]),
        ("random weights", seeded(lambda: new_reader(name), 7).eval()),
    ):
        maps = bench.importance(reader, bench.embedded, bench.labels)
        cells = maps.view(-1, 3, 4, 3, 4).mean((0, 1, 3))
        found[which] = [rounded(row, 3) for row in cells / cells.mean()]
    return found


@torch.no_grad()
def accuracies(bench):
    """Right answers of 800 other scenes, by reader of eight concepts; those of judges, decoded."""
    drawn = mixed(800, SEEDS["test"] + 10)
    tokens = tokens_of(bench.tokenizer, drawn.images)
    embedded, shown = bench.tokenizer.embed(tokens), decoded(bench.tokenizer, tokens)
    labels = torch.from_numpy(drawn.labels)
    readers_of_8 = {
        k: m for k, m in bench.readers.items() if plans()[k][2] in ("plain", "shuffled")
    }
    images = torch.from_numpy(drawn.images)
    cases = {name: (model, embedded) for name, model in readers_of_8.items()}
    for name, model in bench.judges.items():
        cases |= {
            f"judge, decoded: {name}": (model, shown),
            f"judge, drawn: {name}": (model, images),
        }
    right = {k: int((m(x).argmax(1) == labels).sum()) for k, (m, x) in cases.items()}
    return {"n": 800, "right": right, "tokenizer": quality(bench.tokenizer, images)}


def numbers():
    bench, steps = Bench(), Steps("cortex_numbers", {"rates": RATES, "noise": NOISE})
    plain = [name for name, plan in plans().items() if plan[2] == "plain"]
    cnns = [f"cnn-{k}" for k in range(3)]
    tasks = {"accuracies": lambda: accuracies(bench)}
    for name in [*plain, "shuffled-0"]:
        tasks[f"located: {name}"] = lambda name=name: located(bench, name)
    tasks["rolled: cnn-0"] = lambda: rolled(bench, "cnn-0")
    for name in plain:
        tasks[f"masked: {name}"] = lambda name=name: masked(bench, name)
        tasks[f"checkerboard: {name}"] = lambda name=name: checkerboard(bench, name)
    for name, plan in plans().items():
        if plan[2] in ("forced", "perfect", "control"):
            tasks[f"hunted: {name}"] = lambda name=name: hunted(bench, name)
    for name in cnns:
        tasks[f"counted: {name}"] = lambda name=name: counted(bench, name)

        def with_counts(name=name):
            return written(bench, name, steps.run(f"counted: {name}", tasks[f"counted: {name}"]))

        tasks[f"written: {name}"] = with_counts
    runs = steps.run_all(tasks)
    write(HERE / "numbers.json", {**versions(), "noise": bench.noise, "runs": runs}, indent=None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    globals()[sys.argv[1]]()
