"""Measures the models that make_models.py trained: numbers.json of notebook 07.

    python data/07_cortex_vq_tokens/make_numbers.py [backwards]

About 6 minutes on one core. Finished steps are kept in the cache folder, where the readers lie of
which the notebook shows numbers only.
"""

from pathlib import Path

import numpy as np
import quantus
import torch
from torch import nn

from helpers import data, stats, vision
from helpers.artefacts import Steps, rounded, versions, write

made = data.module("07", "make_models")

HERE = Path(__file__).resolve().parent

NOISE, SAMPLES = 0.2, 20  # of SmoothGrad: share of the codebook's range, copies
RATES = (0.002, 0.02, 0.1, 0.5)  # of the ascent in vectors
WRITE_STEPS, WRITE_RATE = 300, 0.1


def without_patch(n, seed):
    return vision.render(np.arange(n) % 8, np.random.default_rng([seed, 3]))


class Bench:
    """Tokenizer, readers and judges, and test scenes with their tokens."""

    def __init__(self):
        self.tokenizer = made.load_tokenizer()
        self.readers = {
            name: vision.load(
                made.kept_file(f"reader_{name}"), made.new_reader(name), f"reader_{name}"
            )
            for name in made.plans()
        }
        self.judges = made.load_judges()
        self.noise = NOISE * float(self.tokenizer.codebook.max() - self.tokenizer.codebook.min())
        self.test = without_patch(240, made.SEEDS["test"])
        self.labels = torch.from_numpy(self.test.labels)
        self.tokens = made.tokens_of(self.tokenizer, self.test.images)
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
    other_ids = torch.randperm(made.CODES, generator=generator)
    swapped = bench.tokenizer.embed(other_ids[bench.tokens])
    blank = made.seeded(lambda: vision.cnn(8), 999).eval()
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
    shown = made.decoded(bench.tokenizer, bench.tokens)
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
    drawn = without_patch(960, made.SEEDS["readers"])
    tokens = made.tokens_of(bench.tokenizer, drawn.images)
    labels = torch.from_numpy(drawn.labels)
    maps = bench.importance(bench.readers[name], bench.tokenizer.embed(tokens), labels)
    objects = torch.from_numpy(vision.token_mask(drawn.objects, 12))
    everywhere = torch.ones_like(objects)
    masks = {"all": everywhere, "object": objects} | {
        f"top {n}": vision.top(maps, n) for n in (5, 10, 20)
    }
    return {
        which: [
            torch.bincount(tokens[labels == c][mask[labels == c]], minlength=made.CODES).tolist()
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
    uniform = torch.ones(8, made.CODES)
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
        shown = made.decoded(bench.tokenizer, own)
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
        rng = np.random.default_rng([made.SEEDS["test"], 4])
        own = vision.render(labels, rng, **settings)
        return bench.tokenizer.embed(made.tokens_of(bench.tokenizer, own.images)), own

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
        ("random weights", made.seeded(lambda: made.new_reader(name), 7).eval()),
    ):
        maps = bench.importance(reader, bench.embedded, bench.labels)
        cells = maps.view(-1, 3, 4, 3, 4).mean((0, 1, 3))
        found[which] = [rounded(row, 3) for row in cells / cells.mean()]
    return found


@torch.no_grad()
def accuracies(bench):
    """Right answers of 800 other scenes, by reader of eight concepts; those of judges, decoded."""
    drawn = made.mixed(800, made.SEEDS["test"] + 10)
    tokens = made.tokens_of(bench.tokenizer, drawn.images)
    embedded, shown = bench.tokenizer.embed(tokens), made.decoded(bench.tokenizer, tokens)
    labels = torch.from_numpy(drawn.labels)
    readers_of_8 = {
        k: m for k, m in bench.readers.items() if made.plans()[k][2] in ("plain", "shuffled")
    }
    images = torch.from_numpy(drawn.images)
    cases = {name: (model, embedded) for name, model in readers_of_8.items()}
    for name, model in bench.judges.items():
        cases |= {
            f"judge, decoded: {name}": (model, shown),
            f"judge, drawn: {name}": (model, images),
        }
    right = {k: int((m(x).argmax(1) == labels).sum()) for k, (m, x) in cases.items()}
    return {"n": 800, "right": right, "tokenizer": made.quality(bench.tokenizer, images)}


def numbers():
    bench, steps = Bench(), Steps("cortex_numbers", {"rates": RATES, "noise": NOISE})
    plain = [name for name, plan in made.plans().items() if plan[2] == "plain"]
    cnns = [f"cnn-{k}" for k in range(3)]
    tasks = {"accuracies": lambda: accuracies(bench)}
    for name in [*plain, "shuffled-0"]:
        tasks[f"located: {name}"] = lambda name=name: located(bench, name)
    tasks["rolled: cnn-0"] = lambda: rolled(bench, "cnn-0")
    for name in plain:
        tasks[f"masked: {name}"] = lambda name=name: masked(bench, name)
        tasks[f"checkerboard: {name}"] = lambda name=name: checkerboard(bench, name)
    for name, plan in made.plans().items():
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
    numbers()
