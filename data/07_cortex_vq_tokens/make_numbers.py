"""Measures the models that make_models.py trained: numbers.json of notebook 07.

    python data/07_cortex_vq_tokens/make_numbers.py [backwards]

About 25 minutes on one core. Finished steps are kept in the cache folder, where the readers lie of
which the notebook shows numbers only.
"""

from pathlib import Path

import numpy as np
import torch

from helpers import data, stats, vision
from helpers.artefacts import Steps, rounded, versions, write

made = data.module("07", "make_models")

HERE = Path(__file__).resolve().parent

NOISE, SAMPLES = 0.2, 20  # of SmoothGrad: share of the codebook's range, copies
COUNTS = (5, 10, 20)  # places that are painted
LISTS = (1, 5, 10, 20)  # tokens of a concept
ERASING = ("pooled, erasing", "flat, erasing")
RULES = ("places", "all places of their tokens", "places, mean colour")
WAYS = ("TIS", "gradient x (vector - mean)", "occlusion")
CONTROLS = {  # what stands beside TIS of the own concept in the two smaller recipes
    "TIS, own - another": ("TIS, own", "TIS, another"),
    "TIS, own - colours": ("TIS, own", "colours"),
    "TIS, own - random": ("TIS, own", "random"),
}
LEVEL = 1 - 0.05 / 6  # of differences of falls: two judges and three counts at once


def without_patch(n, seed):
    return vision.render(np.arange(n) % 8, np.random.default_rng([*np.atleast_1d(seed), 3]))


def another_concept(labels):
    """A class that is not in the picture: all ordered pairs about equally often."""
    return (labels + 1 + (torch.arange(len(labels)) // 8) % 7) % 8


def colour_distances(shown):
    """(B, 12, 12): squared distance of a square's mean colour from the picture's median colour."""
    squares = shown.view(-1, 3, 12, 4, 12, 4).mean((3, 5))
    return (squares - squares.flatten(2).median(-1).values[:, :, None, None]).square().sum(1)


class Bench:
    """Tokenizer, readers and judges, and test scenes with their tokens."""

    def __init__(self, tokenizer=None, readers=None, test=None):
        self.tokenizer = tokenizer or made.load_tokenizer()
        if readers is None:
            readers = {
                name: vision.load(
                    made.kept_file(f"reader_{name}"), made.new_reader(name), f"reader_{name}"
                )
                for name in made.plans()
            }
        self.readers = readers
        self.judges = made.load_judges()
        codebook = self.tokenizer.codebook
        self.centre, self.noise = codebook.mean(0), NOISE * float(codebook.max() - codebook.min())
        self.test = test or without_patch(240, made.SEEDS["test"])
        self.labels = torch.from_numpy(self.test.labels)
        self.another = another_concept(self.labels)
        self.tokens = made.tokens_of(self.tokenizer, self.test.images)
        self.embedded = self.tokenizer.embed(self.tokens)
        self.shown = made.decoded(self.tokenizer, self.tokens)
        self.mask = torch.from_numpy(vision.token_mask(self.test.objects, 12))
        self.at_random = torch.rand(
            self.mask.shape, generator=torch.Generator().manual_seed(made.SEEDS["test"])
        )

    def smooth(self, reader, embedded, labels):
        """(B, d, h, w): mean gradient over noisy copies."""
        return vision.gradient(reader, embedded, labels, noise=self.noise, samples=SAMPLES)

    def importance(self, reader, embedded, labels):
        return self.smooth(reader, embedded, labels).amax(1)


# ----------------------------------------------------------------------- where is the object?


def aucs(maps, mask):
    """(B,) ROC AUC of each map against its mask: ties count a half."""
    return np.array(
        [
            stats.cliffs_delta(own[m].numpy(), own[~m].numpy()) / 2 + 0.5
            for own, m in zip(maps, mask, strict=True)
        ]
    )


def pointing(maps, mask):
    """(B,) whether the best place is on the object."""
    return mask.flatten(1).gather(1, maps.flatten(1).argmax(1, keepdim=True))[:, 0].numpy() * 1.0


@torch.no_grad()
def probability(model, inputs, labels):
    return model(inputs).softmax(1).gather(1, labels[:, None])[:, 0]


@torch.no_grad()
def occluded(bench, reader, *targets, embedded=None):
    """For each of several targets (B,): (B, h, w) falls of its logit without one place."""
    embedded = bench.embedded if embedded is None else embedded
    both = torch.stack(targets, 1)
    before = reader(embedded).gather(1, both)
    falls = torch.empty(*both.shape, 12, 12)
    for row, column in np.ndindex(12, 12):
        changed = embedded.clone()
        changed[:, :, row, column] = bench.centre
        falls[:, :, row, column] = before - reader(changed).gather(1, both)
    return falls.unbind(1)


def maps_of(bench, reader):
    """Three scores of a reader, each for the picture's own concept and for another one."""
    e, found = bench.embedded, {}
    for asked, y in (("own", bench.labels), ("another", bench.another)):
        g = bench.smooth(reader, e, y)
        found[f"TIS, {asked}"] = g.amax(1)
        found[f"gradient x (vector - mean), {asked}"] = (
            g * (e - bench.centre[None, :, None, None])
        ).sum(1)
    pair = occluded(bench, reader, bench.labels, bench.another)
    return found | dict(zip(("occlusion, own", "occlusion, another"), pair, strict=True))


def controls_of(bench):
    """Scores that know no concept: without a model, at random weights, with shuffled labels."""
    blank = made.seeded(lambda: vision.cnn(8), 999).eval()
    found = {
        "colours": colour_distances(bench.shown),
        "random": bench.at_random,
        "random weights": bench.importance(blank, bench.embedded, bench.labels),
    }
    for k in range(3):
        reader = bench.readers[f"shuffled-{k}"]
        found[f"shuffled {k}"] = bench.importance(reader, bench.embedded, bench.labels)
    return found


def other_readings(bench):
    """Of the first CNN: other ways to read the gradient, and a map whose ids are permuted."""
    reader, e, y = bench.readers["cnn-0"], bench.embedded, bench.labels
    smooth, plain = bench.smooth(reader, e, y), vision.gradient(reader, e, y)
    generator = torch.Generator().manual_seed(0)
    swapped = torch.randperm(made.CODES, generator=generator)[bench.tokens]
    return {
        "largest absolute value": smooth.abs().amax(1),
        "negative of the smallest": -smooth.amin(1),
        "length": smooth.norm(dim=1),
        "mean over channels": smooth.mean(1),
        "plain gradient, signed maximum": plain.amax(1),
        "gradient x vector": (smooth * e).sum(1),
        "ids permuted": bench.importance(reader, bench.tokenizer.embed(swapped), y),
    }


def falls_of(bench, maps):
    """{(judge, rule, n): (240,) falls of the true class}, {(rule, n): mean painted squares}."""
    before = {j: probability(m, bench.shown, bench.labels) for j, m in bench.judges.items()}
    falls, areas = {}, {}
    for rule in RULES:
        fill = bench.shown.mean((2, 3), keepdim=True) if rule.endswith("colour") else 0.0
        for n in COUNTS:
            mask = vision.top(maps, n)
            if rule.startswith("all"):
                mask = vision.same_tokens(bench.tokens, mask)
            areas[rule, n] = float(mask.sum((1, 2)).float().mean())
            images = vision.painted(bench.shown, mask, fill)
            for j, model in bench.judges.items():
                after = probability(model, images, bench.labels)
                falls[j, rule, n] = (before[j] - after).numpy()
    return falls, areas


def named(cell):
    return " | ".join(map(str, cell))


def scored(bench, maps):
    """What is stored of a score, and what comparisons need of it."""
    falls, areas = falls_of(bench, maps)
    raw = {"auc": aucs(maps, bench.mask), "pointing": pointing(maps, bench.mask), "falls": falls}
    kept = {
        "auc": rounded(stats_of(bench, raw["auc"]), 4),
        "pointing": rounded(stats_of(bench, raw["pointing"]), 4),
        "falls": {named(cell): rounded([own.mean()], 4)[0] for cell, own in falls.items()},
        "areas": {named(cell): round(area, 2) for cell, area in areas.items()},
    }
    return kept, raw


def stats_of(bench, values, level=0.95):
    """[estimate, low, high] of a mean over scenes; every concept keeps its 30."""
    e = stats.bootstrap_ci(values, strata=bench.test.labels, level=level)
    return [e.estimate, e.low, e.high]


def share_of_concept(bench, own, another, random):
    """(own - another) / (own - random): the part of an effect that is lost by asking otherwise."""
    rows = np.stack([own, another, random], 1)

    def share(sample):
        means = sample.mean(1)
        return (means[:, 0] - means[:, 1]) / (means[:, 0] - means[:, 2])

    e = stats.bootstrap_ci(rows, statistic=share, strata=bench.test.labels)
    return [e.estimate, e.low, e.high]


def gaps(bench, falls, pairs, cells):
    """Falls by one score minus falls by another in each cell; `pairs`: name -> two scores."""
    return {
        pair: {
            named(cell): rounded(stats_of(bench, falls[a][cell] - falls[b][cell], LEVEL), 4)
            for cell in cells
        }
        for pair, (a, b) in pairs.items()
    }


def lost_shares(bench, falls):
    """By way, erasing judge and n: what is lost by asking for another concept, equal areas."""
    return {
        f"{way} | {j} | {n}": rounded(
            share_of_concept(
                bench,
                *(
                    falls[which][j, "places", n]
                    for which in (f"{way}, own", f"{way}, another", "random")
                ),
            ),
            4,
        )
        for way in WAYS
        for j in ERASING
        for n in COUNTS
    }


def compared(bench, name):
    """One reader's scores and their paired differences with the controls, by judge, rule, n."""
    maps, free = maps_of(bench, bench.readers[name]), controls_of(bench)
    if name == "cnn-0":
        free = free | other_readings(bench)
    kept, raw = {}, {}
    for way, own in (maps | free).items():
        if way in maps or name == "cnn-0" or way in ("colours", "random", "shuffled 0"):
            kept[way], raw[way] = scored(bench, own)
    # the first CNN alone stores the controls, which do not depend on the reader
    stored = {way: own for way, own in kept.items() if way in maps or name == "cnn-0"}
    pairs = {
        f"{way}, own - {versus}": (f"{way}, own", versus.replace("another", f"{way}, another"))
        for way in WAYS
        for versus in ("another", "random", "colours", "shuffled 0")
    }
    falls = {way: own["falls"] for way, own in raw.items()}
    cells = [(j, r, n) for r in RULES for n in COUNTS for j in bench.judges]
    of_aucs = {
        pair: rounded(stats_of(bench, raw[a]["auc"] - raw[b]["auc"]), 4)
        for pair, (a, b) in pairs.items()
    }
    ranks = {
        way: round(float(np.mean(correlations(maps[f"{way}, own"], maps[f"{way}, another"]))), 3)
        for way in WAYS
    }
    return {
        "scores": stored, "falls": gaps(bench, falls, pairs, cells), "aucs": of_aucs,
        "shares": lost_shares(bench, falls),
        "rank correlation of own and another": ranks,
    }  # fmt: skip


def correlations(a, b):
    """(B,) Spearman correlations of maps without ties."""
    a, b = (own.flatten(1).argsort(1).argsort(1).double() for own in (a, b))
    a, b = (own - own.mean(1, keepdim=True) for own in (a, b))
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).numpy()


# -------------------------------------------------------------------------------- two objects


def pairs_of_scenes(repeats=4, seed=made.SEEDS["test"]):
    """Pictures whose left half shows one concept and whose right half another one.

    Returns images (N, 3, 48, 48), labels (N, 2) of the left and of the right object, and masks
    (N, 2, 12, 12) of either; N is 56 times `repeats`, each ordered pair equally often.
    """
    drawn = without_patch(8000, [seed, 7])
    masks = vision.token_mask(drawn.objects, 12)
    sides = [~masks[:, :, 6:].any((1, 2)), ~masks[:, :, :6].any((1, 2))]
    waiting = [
        {c: list(np.flatnonzero(side & (drawn.labels == c))) for c in range(8)} for side in sides
    ]
    pairs = [(a, b) for a in range(8) for b in range(8) if a != b] * repeats
    rows = np.array([[waiting[0][a].pop(), waiting[1][b].pop()] for a, b in pairs])
    left, right = drawn.images[rows[:, 0]], drawn.images[rows[:, 1]]
    images = np.concatenate([left[..., :24], right[..., 24:]], -1)
    return images, torch.tensor(pairs), torch.from_numpy(masks[rows])


def two_objects(bench, name):
    """By score: of the best places on either object, the share on the one asked for, and counts.

    Each picture is asked for both of its concepts; the unit of the interval is the picture.
    """
    images, labels, masks = pairs_of_scenes()
    tokens = made.tokens_of(bench.tokenizer, images)
    e, reader = bench.tokenizer.embed(tokens), bench.readers[name]
    centre = bench.centre[None, :, None, None]
    found = {}
    for asked in (0, 1):
        g = bench.smooth(reader, e, labels[:, asked])
        found["TIS", asked] = g.amax(1)
        found["gradient x (vector - mean)", asked] = (g * (e - centre)).sum(1)
    for asked, own in enumerate(occluded(bench, reader, *labels.unbind(1), embedded=e)):
        found["occlusion", asked] = own
    with torch.no_grad():
        called = reader(e).argmax(1)
    result = {
        "called one of both": round(float((called[:, None] == labels).any(1).float().mean()), 4)
    }
    for way in WAYS:
        hits = np.array(
            [
                [pointing(found[way, asked], masks[:, which]) for which in (asked, 1 - asked)]
                for asked in (0, 1)
            ]
        ).sum(0)  # (asked for or the other, N): 0, 1 or 2 of both questions

        def share(sample):
            return sample[:, :, 0].sum(1) / sample.sum((1, 2))

        interval = stats.bootstrap_ci(hits.T, statistic=share)
        result[way] = {
            "share": rounded([interval.estimate, interval.low, interval.high], 4),
            "hits": hits.sum(1).astype(int).tolist(),
        }
    return result


# ------------------------------------------------------------------------ tokens of a concept


class Lists:
    """960 training scenes, from which the tokens of a concept are counted."""

    def __init__(self, bench):
        drawn = without_patch(960, made.SEEDS["readers"])
        self.tokens = made.tokens_of(bench.tokenizer, drawn.images)
        self.embedded = bench.tokenizer.embed(self.tokens)
        self.labels = torch.from_numpy(drawn.labels)
        self.another = another_concept(self.labels)
        self.objects = torch.from_numpy(vision.token_mask(drawn.objects, 12))
        self.colours = colour_distances(made.decoded(bench.tokenizer, self.tokens))

    def counts(self, mask):
        """(8, K): how often each concept has each token at its chosen places."""
        return np.stack(
            [
                np.bincount(
                    self.tokens[self.labels == c][mask[self.labels == c]], minlength=made.CODES
                )
                for c in range(8)
            ]
        )


def counted(bench, name):
    """Counts of one reader's list: top n places by its own and by another concept's importance."""
    lists, reader = Lists(bench), bench.readers[name]
    own = bench.importance(reader, lists.embedded, lists.labels)
    found = {f"top {n}": lists.counts(vision.top(own, n)).tolist() for n in (5, 11, 20)}
    other = bench.importance(reader, lists.embedded, lists.another)
    return found | {"another, top 20": lists.counts(vision.top(other, 20)).tolist()}


def counted_without_concept(bench):
    lists = Lists(bench)
    everywhere = torch.ones_like(lists.objects)
    blind = bench.importance(bench.readers["shuffled-0"], lists.embedded, lists.labels)
    masks = {
        "frequency": everywhere,
        "truth": lists.objects,
        "colours": vision.top(lists.colours, 20),
        "shuffled labels": vision.top(blind, 20),
    }
    return {which: lists.counts(mask).tolist() for which, mask in masks.items()}


def log_odds(everywhere):
    """(8, K) z-values of a token's log odds in a concept against the seven others."""
    own, others = everywhere + 0.5, everywhere.sum(0) - everywhere + 0.5
    odds, of_others = (np.log(c / (c.sum(1, keepdims=True) - c)) for c in (own, others))
    return (odds - of_others) / np.sqrt(1 / own + 1 / others)


def best_tokens(ranking, m):
    """(8, m) tokens of each concept, in order; equal ones by their number."""
    return torch.from_numpy(np.argsort(-np.asarray(ranking), axis=1, kind="stable")[:, :m].copy())


def carried(bench, lists):
    """(240, 12, 12): places that carry a token of their own concept's list (8, m)."""
    own = lists[bench.labels]
    return (bench.tokens.flatten(1)[:, :, None] == own[:, None, :]).any(-1).view(-1, 12, 12)


def ten_places(mask, seed=0):
    """At most ten of the masked places, drawn at random."""
    noise = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed))
    return vision.top(torch.where(mask, noise, noise - 2), 10) & mask


def painted_lists(bench, name, counts, free):
    """Falls of a reader's list minus those of other lists; the unit is the concept (8)."""
    rankings = {
        "importance": counts["top 20"],
        "importance, n = 11": counts["top 11"],
        "importance of another": counts["another, top 20"],
        **free,
        "log odds": log_odds(np.array(free["frequency"])),
        "random": np.random.default_rng(0).random((8, made.CODES)),
    }
    before = {j: probability(m, bench.shown, bench.labels) for j, m in bench.judges.items()}
    cells, areas, found = {}, {}, {}
    for m in LISTS:
        for ranking, values in rankings.items():
            everywhere = carried(bench, best_tokens(values, m))
            for rule, mask in (("ten places", ten_places(everywhere)), ("all", everywhere)):
                areas[f"{ranking} | {rule} | {m}"] = round(float(mask.sum()) / len(mask), 2)
                images = vision.painted(bench.shown, mask)
                for j, model in bench.judges.items():
                    after = probability(model, images, bench.labels)
                    cells[ranking, j, rule, m] = (before[j] - after).numpy()
            if name == "cnn-0" or ranking.startswith("importance"):
                hit = (everywhere & bench.mask).sum((1, 2)).float()
                found[f"{ranking} | {m}"] = rounded(
                    [
                        (hit / everywhere.sum((1, 2)).clamp_min(1)).mean(),
                        (hit / bench.mask.sum((1, 2))).mean(),
                    ],
                    4,
                )
    differences = {
        named(cell): over_concepts(cells[("importance", *cell[1:])] - falls)
        for cell, falls in cells.items()
        if cell[0] != "importance"
    }
    own = best_tokens(rankings["importance"], 10)
    return {
        "falls": {
            named(cell): round(float(falls.mean()), 4)
            for cell, falls in cells.items()
            if name == "cnn-0" or cell[0].startswith("importance")
        },
        "differences": differences,
        "areas": areas,
        "found": found,
        "same of ten": {
            which: in_common(own, best_tokens(values, 10)) for which, values in rankings.items()
        },
    }


def over_concepts(gaps):
    """[mean, low, high] at 99.4 %: of eight concepts, thirty scenes each."""
    means = gaps.reshape(-1, 8).mean(0)  # scenes go through the concepts in turn
    e = stats.bootstrap_ci(means, level=1 - 0.05 / 8)
    return rounded([e.estimate, e.low, e.high], 4)


def in_common(a, b):
    """Mean number of tokens that two lists (8, m) share."""
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    return round(float(np.mean([len({*x} & {*y}) for x, y in pairs])), 2)


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
    bench = Bench()
    steps = Steps("cortex_numbers_2", {"noise": NOISE, "samples": SAMPLES})
    plain = [name for name, plan in made.plans().items() if plan[2] == "plain"]
    tasks = {
        "accuracies": lambda: accuracies(bench),
        "counted: no concept": lambda: counted_without_concept(bench),
    }
    for name in plain:
        tasks[f"compared: {name}"] = lambda name=name: compared(bench, name)
        tasks[f"two objects: {name}"] = lambda name=name: two_objects(bench, name)
        tasks[f"counted: {name}"] = lambda name=name: counted(bench, name)

        def with_lists(name=name):
            lists = (f"counted: {which}" for which in (name, "no concept"))
            return painted_lists(bench, name, *(steps.run(own, tasks[own]) for own in lists))

        tasks[f"painted lists: {name}"] = with_lists
    runs = steps.run_all(tasks)
    write(HERE / "numbers.json", {**versions(), "noise": bench.noise, "runs": runs}, indent=None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    numbers()
