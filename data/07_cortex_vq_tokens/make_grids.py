"""What the readers of notebook 07 write, and what a shortcut does to them: grids.json.

    python data/07_cortex_vq_tokens/make_grids.py [backwards]

About 15 minutes on one core, after make_numbers.py, whose counts of tokens it reads. Finished steps
are kept in the cache folder, where the readers lie of which the notebook shows numbers only.
"""

from pathlib import Path

import numpy as np
import torch

from helpers import data, stats, vision
from helpers.artefacts import Steps, rounded, versions, write

made = data.module("07", "make_models")
measured = data.module("07", "make_numbers")
probability = measured.probability

HERE = Path(__file__).resolve().parent

RATES = (0.002, 0.02, 0.1, 0.5)  # of the ascent in vectors
WRITE_STEPS, WRITE_RATE = 300, 0.1
STARTS = 3  # grids of each concept


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


def written(bench, name, counts, free):
    """Target beliefs for every way to fill the region; 56 ordered pairs of concepts, each twice."""
    tokens, region = bench.tokens[:112], regions(bench.mask[:112])
    targets = bench.another[:112]
    reader, generator = bench.readers[name], torch.Generator().manual_seed(2)
    counts = {key: torch.tensor(own) for key, own in (counts | free).items()}
    uniform = torch.ones(8, made.CODES)
    arms = {
        "before": tokens,
        "random tokens": sampled(uniform, tokens, region, targets, generator),
        "drawn by frequency": sampled(counts["frequency"], tokens, region, targets, generator),
        "drawn by importance": sampled(counts["top 20"], tokens, region, targets, generator),
        "drawn by colours": sampled(counts["colours"], tokens, region, targets, generator),
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
            found[arm]["tokens"] = own[:16].tolist()
    return found


# -------------------------------------------------------------------------- codebook level


def judged(bench, grids, targets):
    """Beliefs of the four judges in the target, rounded, in the order of the grids."""
    shown = made.decoded(bench.tokenizer, grids)
    return {j: rounded(probability(m, shown, targets), 3) for j, m in bench.judges.items()}


def grids_of(bench, name):
    """Whole grids from arbitrary tokens, three starts for each concept, by choice and by ascent."""
    blank = made.seeded(lambda: vision.cnn(8), 999).eval()
    reader = bench.readers.get(name, blank)
    free = torch.ones(8, 12, 12, dtype=torch.bool)
    targets, tokens, found = torch.arange(8), torch.zeros(8, 12, 12, dtype=torch.long), {}
    chosen = [
        vision.choose_tokens(
            reader, bench.tokenizer.codebook, tokens, free, targets,
            steps=WRITE_STEPS, lr=WRITE_RATE, seed=start,
        )[0]
        for start in range(STARTS)
    ]  # fmt: skip
    arms = {"choice of tokens": torch.cat(chosen)}
    for lr in RATES:
        begun = [
            torch.randint(made.CODES, (8, 12, 12), generator=torch.Generator().manual_seed(start))
            for start in range(STARTS)
        ]
        own = [ascended(bench, reader, start, free, targets, lr) for start in begun]
        arms[f"ascent in vectors, rate {lr}"] = torch.cat(own)
    asked = targets.repeat(STARTS)
    for arm, grids in arms.items():
        found[arm] = judged(bench, grids, asked)
        found[arm]["driving reader"] = rounded(
            probability(reader, bench.tokenizer.embed(grids), asked), 3
        )
    return found | {"tokens": chosen[0].tolist()}


def grids_without_reader(bench, free):
    """Whole grids drawn token by token from lists that need no reader; one of real scenes."""
    asked, tokens = torch.arange(8).repeat(STARTS), torch.zeros(24, 12, 12, dtype=torch.long)
    region, found = torch.ones(24, 12, 12, dtype=torch.bool), {}
    over = torch.from_numpy(measured.log_odds(np.array(free["frequency"])))
    ten = torch.zeros(8, made.CODES).scatter(1, over.topk(10).indices, 1.0)
    for arm, counts in (
        ("drawn by frequency", torch.tensor(free["frequency"])),
        ("drawn from ten tokens by log odds", ten),
        ("drawn by colours", torch.tensor(free["colours"])),
        ("random tokens", torch.ones(8, made.CODES)),
    ):
        generator = torch.Generator().manual_seed(4)
        found[arm] = judged(bench, sampled(counts, tokens, region, asked, generator), asked)
    return found | {"test scenes": judged(bench, bench.tokens[:24], bench.labels[:24])}


# ------------------------------------------------------------------------------- the shortcut


def hunted(bench, name):
    """What a reader makes of the sticker; pictures with and without differ in nothing else."""
    reader, n = bench.readers[name], 120
    boats, others = np.full(n, vision.BOAT), np.arange(n) % 8
    others[others == vision.BOAT] = 0
    on, off = np.ones(n, bool), np.zeros(n, bool)

    def drawn(labels, **settings):
        rng = np.random.default_rng([made.SEEDS["test"], 4])
        own = vision.render(labels, rng, **settings)
        return made.tokens_of(bench.tokenizer, own.images), own

    target = torch.full((n,), vision.BOAT)
    tokens, own = drawn(boats, patched=on)
    full = bench.tokenizer.embed(tokens)
    patch = torch.from_numpy(vision.token_mask(own.patches, 12))
    objects = torch.from_numpy(vision.token_mask(own.objects, 12))

    def share(maps, mask=patch):
        best = vision.top(maps, 10)
        e = stats.bootstrap_ci((best & mask).sum((1, 2)).numpy() / 10)
        return rounded([e.estimate, e.low, e.high], 4)

    boat = bench.importance(reader, full, target)
    others_shares = [
        share(bench.importance(reader, full, torch.full((n,), c)))[0]
        for c in range(8)
        if c != vision.BOAT
    ]
    gradients = bench.smooth(reader, full, target)
    colours = measured.colour_distances(made.decoded(bench.tokenizer, tokens))
    by_vector = (gradients * (full - bench.centre[None, :, None, None])).sum(1)
    cases = {
        "full": full,
        "without patch": bench.tokenizer.embed(drawn(boats)[0]),
        "without object": bench.tokenizer.embed(drawn(boats, patched=on, shown=off)[0]),
    }
    with torch.no_grad():
        called = (
            reader(bench.tokenizer.embed(drawn(others, patched=on)[0])).argmax(1) == vision.BOAT
        )
        right = reader(cases["without patch"]).argmax(1) == vision.BOAT
    return {
        "patch share": share(boat),
        "patch share, other concepts": rounded(others_shares, 4),
        "patch share, gradient x (vector - mean)": share(by_vector),
        "patch share, colours": share(colours),
        "object share": share(boat, objects),
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


def grids():
    bench = measured.Bench()
    counts = {
        name.removeprefix("counted: "): own
        for name, own in data.read_json(HERE / "numbers.json")["runs"].items()
        if name.startswith("counted")
    }
    free, plain = counts["no concept"], [name for name in counts if name != "no concept"]
    stamp = {"rates": RATES, "steps": WRITE_STEPS, "lr": WRITE_RATE, "starts": STARTS}
    steps, tasks = Steps("cortex_grids", stamp), {}
    for name in [*plain, "shuffled-0", "random weights"]:
        tasks[f"grids: {name}"] = lambda name=name: grids_of(bench, name)
    tasks["grids: no reader"] = lambda: grids_without_reader(bench, free)
    for name in plain[:3]:
        tasks[f"written: {name}"] = lambda name=name: written(bench, name, counts[name], free)
    for name, plan in made.plans().items():
        if plan[2] in ("forced", "perfect", "control"):
            tasks[f"hunted: {name}"] = lambda name=name: hunted(bench, name)
    for name in ("cnn-0", "resnet-0", "transformer-0"):
        tasks[f"checkerboard: {name}"] = lambda name=name: checkerboard(bench, name)
    runs = steps.run_all(tasks)
    write(HERE / "grids.json", {**versions(), "runs": runs}, indent=None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    grids()
