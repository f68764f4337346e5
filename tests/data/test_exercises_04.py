"""The exercises of notebook 04: right answers in several forms pass, named wrong ones do not."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from answers import fails, passes

from helpers import data

ROOM = data.module("04", "exercises")


# 1: Table 1, counted from chance


@pytest.fixture(scope="module")
def told():
    cells = pd.read_csv(data.folder("04") / "published_table.csv")
    return cells.pivot(index=["set", "family", "model"], columns="disrupted", values="accuracy")


def losses(told, family="parametric", own="massive", chance=50):
    """In percent of what lies above chance, cell by cell, in plain Python."""
    return [
        100 * (row["none"] - row[own]) / (row["none"] - chance)
        for (_, group, _), row in told.iterrows()
        if group == family
    ]


def test_counted_from_chance(says, told):
    right = np.mean(losses(told))
    rows = told.xs("parametric", level="family")
    assert right == pytest.approx(43.6, abs=0.05)
    by_set = 100 * (1 - (rows["massive"] - 50) / (rows["none"] - 50)).groupby("set").mean()
    answers = [right, float(right), torch.tensor(right), [right], by_set.mean(), round(right, 1)]
    passes(says, 1, answers, told=told)


def test_counted_from_chance_names_what_is_wrong(says, told):
    right = np.mean(losses(told))
    rows = told.xs("parametric", level="family")
    gone = rows["none"] - rows["massive"]
    everything = [*losses(told), *losses(told, "contextual", chance=0)]
    fails(
        says,
        1,
        [
            (44, "rounded"),
            (43.9, "rounded"),
            (100 * gone.mean() / (rows["none"].mean() - 50), "ratio of two means"),
            (43.7, "ratio of two means"),
            (np.mean(losses(told, chance=0)), "whole accuracy"),
            (100 * gone.sum() / rows["none"].sum(), "whole accuracy"),
            (20, "whole accuracy"),
            (gone.mean(), "in points"),
            (19, "in points"),
            (right / 100, "a fraction"),
            (0.44, "a fraction"),
            (100 - right, "what is kept"),
            (56, "what is kept"),
            (-right, "sign"),
            (np.mean(losses(told, "contextual", chance=0)), "contextual cells"),
            (91, "contextual cells"),
            (np.mean(losses(told, own="non-massive")), "the control"),
            (np.mean(everything), "all 33"),
            (np.mean([*losses(told), *losses(told, "contextual")]), "all 33"),
            (np.median(losses(told)), "median"),
            (100 * gone / (rows["none"] - 50), "One number"),
            (losses(told), "One number"),
            (min(losses(told)), "For each of"),
            (45, "For each of"),
            (float("nan"), "For each of"),
            ("about half", "stopped with ValueError"),
            ({}, "stopped with"),
        ],
        told=told,
    )


# 2: the pair whose wavelength is so many times the context


def massive_pair(base, dims, context, ratio):
    return dims / 2 * math.log(ratio * context / (2 * math.pi)) / math.log(base)


def between_whole_pairs(base, dims, context, ratio):
    """The same by looking at all wavelengths."""
    pairs = np.arange(dims // 2)
    waves = 2 * np.pi * base ** (2 * pairs / dims)
    return np.interp(np.log(ratio * context), np.log(waves), pairs)


def by_bisection(base, dims, context, ratio):
    low, high = 0.0, dims / 2
    for _ in range(40):
        middle = (low + high) / 2
        if 2 * np.pi * base ** (2 * middle / dims) < ratio * context:
            low = middle
        else:
            high = middle
    return low


def nearest(base, dims, context, ratio):
    waves = 2 * np.pi * base ** (2 * np.arange(dims // 2) / dims)
    return int(np.abs(waves - ratio * context).argmin())


def test_where_the_paper_shows_boxes_and_stripes():
    boxes = [ROOM.pair(10_000, 128, 4096, ratio) for ratio in (2, 4)]
    stripes = [ROOM.pair(10_000, 24, 2048, ratio) for ratio in (2, 4)]
    assert np.round([boxes, stripes], 1).tolist() == [[49.8, 54.7], [8.4, 9.3]]


def test_massive_pair(says):
    passes(
        says,
        2,
        [
            massive_pair,
            between_whole_pairs,
            by_bisection,
            lambda *model: np.array([massive_pair(*model)]),
            lambda *model: torch.tensor(massive_pair(*model)),
            lambda base, dims, context, ratio: (
                0.5 * dims * math.log(ratio * context / 2 / np.pi, base)
            ),
            lambda *model: round(massive_pair(*model), 1),
            lambda *model: round(massive_pair(*model), 2),
        ],
    )


def test_massive_pair_names_what_is_wrong(says):
    def changed(change):
        return lambda base, dims, context, ratio: change(
            massive_pair(base, dims, context, ratio), base, dims
        )

    fails(
        says,
        2,
        [
            (changed(lambda i, *_: int(i)), "rounding"),
            (changed(lambda i, *_: round(i)), "rounding"),
            (changed(lambda i, *_: math.ceil(i)), "rounding"),
            (nearest, "rounding"),
            (lambda b, d, c, r: d / 2 * np.log(r * c) / np.log(b), "frequency"),
            (lambda b, d, c, r: d * np.log(r * c / 2 / np.pi) / np.log(b), "twice too large"),
            (lambda b, d, c, r: d * np.log(r * c) / np.log(b), "twice too large"),
            (changed(lambda i, b, d: i + d / 2), "coordinate"),
            (lambda b, d, c, r: d / 2 * np.log(r * c / 2 / np.pi), "base of the logarithm"),
            (lambda b, d, c, r: d / 2 * np.log10(r * c / 2 / np.pi), "base of the logarithm"),
            (lambda b, d, c, r: d / 2 * np.log(r * c / 6.2832) / np.log10(b), "logarithm"),
            (lambda b, d, c, r: d / 2 * np.log(r * c / 6.2832) / np.log(1e4), "logarithm"),
            (lambda b, d, c, r: d / 2 * np.log(r * c / 6.2832) / b, "logarithm"),
            (lambda b, d, c, r: massive_pair(b, d, c, 1), "context itself"),
            (lambda b, d, c, r: massive_pair(b, d, c, 1 / r), "shorter than the context"),
            (changed(lambda i, *_: -i), "sign"),
            (lambda b, d, c, r: -d / 2 * np.log(r * c) / np.log(b), "sign"),
            (lambda b, d, c, r: -d / 2 * np.log(r * c * 2 * np.pi) / np.log(b), "sign"),
            (changed(lambda i, b, d: d / 2 - 1 - i), "slow end"),
            (changed(lambda i, *_: i + 1), "one pair off"),
            (lambda *model: 49.8, "Solve"),
            (lambda *model: massive_pair(*model) + 0.1, "Solve"),
            (lambda *model: None, "Solve"),
            (lambda b, d: d, "stopped with TypeError"),
            (49.8, "stopped with TypeError"),
        ],
    )


# 3: the mean everywhere but at the first token


def joined(x, mask):
    later = x[:, :, 1:]
    return torch.cat([x[:, :, :1], later.mean(2, keepdim=True).expand_as(later)], dim=2)


def on_a_copy(x, mask):
    new = x.clone()
    new[:, :, 1:] = x[:, :, 1:].mean(2, keepdim=True)
    return new


def by_where(x, mask):
    first = torch.arange(x.shape[2])[:, None] == 0
    return torch.where(first, x, x[:, :, 1:].mean(-2, keepdim=True))


def from_the_sum(x, mask):
    mean = (x.sum(2, keepdim=True) - x[:, :, :1]) / (x.shape[2] - 1)
    return torch.cat([x[:, :, :1], mean.repeat(1, 1, x.shape[2] - 1, 1)], 2)


def chosen_only(x, mask):
    """Writes into x, but where the mask is: in `disrupt` that is right."""
    x[:, :, 1:] = torch.where(mask, x[:, :, 1:].mean(2, keepdim=True), x[:, :, 1:])
    return x


def in_loops(x, mask):
    new = x.clone()
    for b in range(x.shape[0]):
        for h in range(x.shape[1]):
            for d in range(x.shape[3]):
                new[b, h, 1:, d] = sum(x[b, h, t, d] for t in range(1, x.shape[2])) / (
                    x.shape[2] - 1
                )
    return new


def through_numpy(x, mask):
    return torch.as_tensor(np.concatenate([x[:, :, :1].numpy(), x[:, :, 1:].numpy() * 0], 2)) + (
        torch.as_tensor(x.numpy()[:, :, 1:].mean(2, keepdims=True))
        * (torch.arange(x.shape[2])[:, None] > 0)
    )


def test_own_mean_but_first(says):
    passes(
        says,
        3,
        [joined, on_a_copy, by_where, from_the_sum, chosen_only, in_loops, through_numpy],
    )


def kept_first(mean):
    """A mean of x (and mask), put in everywhere but at the first token."""

    def value(x, mask):
        return torch.cat([x[:, :, :1], mean(x, mask).expand_as(x)[:, :, 1:]], dim=2)

    return value


def in_place(x, mask):
    x[:, :, 1:] = x[:, :, 1:].mean(2, keepdim=True)
    return x


def first_only(x, mask):
    new = x.clone()
    new[:, :, :1] = x[:, :, 1:].mean(2, keepdim=True)
    return new


def head_mean(x, mask):
    return (x * mask).sum((2, 3), keepdim=True) / (mask.sum((2, 3), keepdim=True) * x.shape[2])


WRONG_3 = {
    "all tokens": (lambda x, mask: x.mean(2, keepdim=True), "first token changes"),
    "all, expanded": (lambda x, mask: x.mean(2, keepdim=True).expand_as(x), "first token changes"),
    "all, mean of the later": (
        lambda x, mask: x[:, :, 1:].mean(2, keepdim=True),
        "first token changes",
    ),
    "mean with the first": (kept_first(lambda x, m: x.mean(2, keepdim=True)), "includes the first"),
    "head mean": (kept_first(head_mean), "one mean for all chosen"),
    "head mean of the later": (
        kept_first(lambda x, m: head_mean(x[:, :, 1:], m)),
        "one mean for all chosen",
    ),
    "head mean at all": (head_mean, "one mean for all chosen"),
    "first only": (first_only, "other way round"),
    "first only, zero": (lambda x, m: torch.cat([0 * x[:, :, :1], x[:, :, 1:]], 2), "way round"),
    "no axis": (lambda x, mask: x[:, :, 1:].mean(2), "token axis is gone"),
    "no axis, all": (lambda x, mask: x.mean(2), "token axis is gone"),
    "heads": (kept_first(lambda x, m: x[:, :, 1:].mean((1, 2), keepdim=True)), "items or heads"),
    "items": (kept_first(lambda x, m: x[:, :, 1:].mean((0, 2), keepdim=True)), "items or heads"),
    "both": (kept_first(lambda x, m: x.mean((0, 1, 2), keepdim=True)), "items or heads"),
    "dimensions": (kept_first(lambda x, m: x.mean(3, keepdim=True)), "over the dimensions"),
    "one number a head": (kept_first(lambda x, m: x.mean((2, 3), keepdim=True)), "the dimensions"),
    "in place": (in_place, "not chosen change"),
    "nothing": (lambda x, mask: x, "Nothing changes"),
    "first to zero": (
        lambda x, mask: torch.cat([0 * x[:, :, :1], joined(x, mask)[:, :, 1:]], 2),
        "does not keep its own",
    ),
    "median": (
        kept_first(lambda x, m: x[:, :, 1:].median(2, keepdim=True).values),
        "the result is x itself",
    ),
    "zero": (kept_first(lambda x, m: torch.zeros_like(x)), "the result is x itself"),
    "second skipped": (
        lambda x, m: torch.cat([x[:, :, :2], joined(x, m)[:, :, 2:]], 2),
        "the result is x itself",
    ),
    "without the first": (lambda x, m: joined(x, m)[:, :, 1:], "stopped with RuntimeError"),
    "NumPy": (lambda x, mask: joined(x, mask).numpy(), "needs a tensor"),
    "list": (lambda x, mask: joined(x, mask).tolist(), "needs a tensor"),
    "double": (lambda x, mask: joined(x.double(), mask), "another type"),
    "one argument": (lambda x: joined(x, None), "stopped with TypeError"),
    "a number": (5.0, "stopped with TypeError"),
}


@pytest.mark.parametrize("way", WRONG_3)
def test_own_mean_but_first_names_what_is_wrong(says, way):
    fails(says, 3, [WRONG_3[way]])


# 4: told, true or other

KINDS = ("told", "true", "other")


def classify(logprobs, told, true):
    choice = logprobs.argmax(1)
    found = {"told": (choice == told).sum(), "true": (choice == true).sum()}
    return found | {"other": len(choice) - sum(found.values())}


def by_counter(logprobs, told, true):
    found = Counter()
    for row, a, b in zip(logprobs, told, true, strict=True):
        best = max(range(len(row)), key=lambda c: row[c])
        found["told" if best == a else "true" if best == b else "other"] += 1
    return found


def by_largest(logprobs, told, true):
    """Without argmax: whether nobody is larger."""
    rows, best = np.arange(len(told)), logprobs.max(1)
    is_told, is_true = logprobs[rows, told] == best, logprobs[rows, true] == best
    return dict(zip(KINDS, map(np.sum, (is_told, is_true, ~is_told & ~is_true)), strict=True))


def in_torch(logprobs, told, true):
    choice = torch.as_tensor(logprobs).argmax(1)
    a, b = (choice == torch.as_tensor(index) for index in (told, true))
    return {"told": a.sum(), "true": b.sum(), "other": (~(a | b)).sum()}


def as_series(logprobs, told, true):
    choice = logprobs.argmax(1)
    return pd.Series(np.select([choice == told, choice == true], KINDS[:2], "other")).value_counts()


def as_list(*own):
    return list(classify(*own).values())


def as_array(*own):
    return np.array(as_list(*own), dtype=float)


def as_tuple(*own):
    return tuple(as_list(*own))


@pytest.mark.parametrize(
    "answer",
    [classify, by_counter, by_largest, in_torch, as_series, as_list, as_array, as_tuple],
)
def test_classify(says, answer):
    passes(says, 4, [answer])


def pairwise(logprobs, told, true):
    rows = np.arange(len(told))
    n = (logprobs[rows, told] > logprobs[rows, true]).sum()
    return {"told": n, "true": len(told) - n, "other": 0}


def pairwise_without_other(*own):
    return {kind: n for kind, n in pairwise(*own).items() if n}


def least(logprobs, told, true):
    return classify(-logprobs, told, true)


def swapped(logprobs, told, true):
    return classify(logprobs, true, told)


def fractions(*own):
    return {kind: n / len(own[0]) for kind, n in classify(*own).items()}


def not_told_is_true(*own):
    found = classify(*own)
    return found | {"true": found["true"] + found["other"], "other": 0}


def true_is_other(*own):
    found = classify(*own)
    return found | {"other": found["true"] + found["other"]}


def sums(logprobs, told, true):
    rows = np.arange(len(told))
    a, b = logprobs[rows, told].sum(), logprobs[rows, true].sum()
    return {"told": a, "true": b, "other": logprobs.sum() - a - b}


def probability(logprobs, told, true):
    p, rows = np.exp(logprobs), np.arange(len(told))
    a, b = p[rows, told].sum(), p[rows, true].sum()
    return {"told": a, "true": b, "other": p.sum() - a - b}


def others_added(logprobs, told, true):
    p, rows = np.exp(logprobs), np.arange(len(told))
    three = np.stack([p[rows, told], p[rows, true], 1 - p[rows, told] - p[rows, true]])
    return dict(zip(KINDS, np.bincount(three.argmax(0), minlength=3), strict=True))


def anywhere(logprobs, told, true):
    choice = logprobs.argmax(1)
    found = np.where(
        np.isin(choice, told), "told", np.where(np.isin(choice, true), "true", "other")
    )
    return Counter(found.tolist())


def one_each(logprobs, told, true):
    choice = logprobs.argmax(1)
    return np.select([choice == told, choice == true], KINDS[:2], "other")


def by_two_rules(logprobs, told, true):
    """Told and true by the pair, other by the argmax: some are counted twice."""
    return pairwise(logprobs, told, true) | {"other": classify(logprobs, told, true)["other"]}


def true_by_default(logprobs, told, true):
    """The true answer first, told before other: by the log-probability above the mean."""
    rows, mean = np.arange(len(told)), logprobs.mean(1)
    b = logprobs[rows, true] > mean
    a = ~b & (logprobs[rows, told] > mean)
    return {"told": a.sum(), "true": b.sum(), "other": (~a & ~b).sum()}


WRONG_4 = [
    (pairwise, "never say other"),
    (pairwise_without_other, "never say other"),
    (not_told_is_true, "nothing as other"),
    (true_is_other, "counted twice"),
    (least, "least probable"),
    (swapped, "wrong way round"),
    (fractions, "fractions"),
    (lambda *own: {k: 100 * x for k, x in fractions(*own).items()}, "percent"),
    (sums, "sums of the scores"),
    (probability, "sums of the scores"),
    (others_added, "add up all other"),
    (anywhere, "all questions"),
    (one_each, "one answer for each"),
    (lambda *own: one_each(*own).tolist(), "one answer for each"),
    (lambda *own: Counter(str(kind).upper() for kind in one_each(*own)), "keys are"),
    (by_two_rules, "do not add up"),
    (true_by_default, "choice of each question"),
    (lambda logprobs, told, true: classify(logprobs, told, true)["told"], "stopped with"),
    (lambda logprobs, told, true: {"told": 20, "true": 8, "other": 12}, "choice of each"),
    (lambda logprobs, told, true: logprobs.argmax(0) == told, "stopped with"),
    (lambda *own: None, "stopped with"),
    (lambda logprobs: {}, "stopped with TypeError"),
    (lambda *own: {}, "do not add up"),
    ({"told": 20, "true": 8, "other": 12}, "stopped with TypeError"),
]


@pytest.mark.parametrize(("answer", "kind"), WRONG_4)
def test_classify_names_what_is_wrong(says, answer, kind):
    fails(says, 4, [(answer, kind)])


# 5: as many random dimensions as change the pattern as much


def test_matched_change(says):
    context = {"change": [0.0, 0.1, 0.2, 0.2, 0.5, 0.6].__getitem__, "target": 0.3}
    passes(says, 5, [4, 4.0, np.int64(4), torch.tensor(4), [4]], **context)
    passes(says, 5, [4], **(context | {"target": 0.5}))  # as much is enough
    fails(
        says,
        5,
        [
            (3, "not change the pattern enough"),
            (0, "not change the pattern enough"),
            (5, "less is enough"),
            (4.5, "a whole number"),
            (0.5, "a whole number"),
            (-2, "a whole number"),
            (99, "stopped with IndexError"),
            (float("inf"), "stopped with OverflowError"),
            ("four", "stopped with ValueError"),
            (float("nan"), "stopped with ValueError"),
            ([3, 4], "stopped with ValueError"),
        ],
        **context,
    )


def test_the_smallest_is_asked_for_where_the_change_is_not_monotone(says):
    context = {"change": [0.0, 0.1, 0.4, 0.2, 0.5, 0.6].__getitem__, "target": 0.3}
    passes(says, 5, [2], **context)
    fails(says, 5, [(4, "right when"), (5, "less is enough"), (3, "enough yet")], **context)


def test_each_number_of_dimensions_is_run_once(says):
    runs = []

    def change(n):
        runs.append(n)
        return n / 10

    fails(says, 5, [(10**6, "less is enough")], change=change, target=0.3)
    passes(says, 5, [3], change=change, target=0.3)
    fails(says, 5, [(4, "less is enough"), (2, "not change")], change=change, target=0.3)
    assert len(runs) == len(set(runs))


# all of them


@pytest.mark.parametrize("answer", [..., None])
@pytest.mark.parametrize("id", ROOM.EXERCISES)
def test_an_untouched_stub_is_not_wrong(says, id, answer):
    assert says(id, answer) == (False, f"○ Exercise {id}: not answered yet.\n")
