"""The exercises of notebook 07: right answers in several forms pass, named wrong ones do not."""

import numpy as np
import pytest
import torch
from answers import fails, passes
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from torch import nn

from helpers import data, vision

ROOM = data.module("07", "exercises")


@pytest.fixture(scope="module")
def page():
    """What the notebook has by then, at random: 24 pictures with squares, a tokenizer, readers."""
    rng = torch.Generator().manual_seed(0)
    truth = torch.zeros(24, 12, 12, dtype=torch.bool)
    for k in range(24):
        truth[k, k % 7 : k % 7 + 3, 4:8] = True
    tokens = torch.randint(128, (24, 12, 12), generator=rng)
    signs = torch.randint(0, 2, (24, 32, 1, 1), generator=rng) * 2.0 - 1
    # object places have larger numbers, mostly above 0, and each picture a level of its own
    gradients = torch.randn(24, 32, 12, 12, generator=rng) * (1 + 0.2 * truth[:, None])
    gradients += 0.05 * truth[:, None] + 2 * signs.mean(1, keepdim=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        tokenizer = vision.SmallVQ().eval()
        tokenizer.codebook.normal_()
        tokenizer.decode = lambda e: e[:, :3]
        reader, blank = vision.cnn(8).eval(), vision.resnet(8).eval()
    weights = torch.randn(48, 8, generator=rng)
    labels = torch.arange(24) % 8
    return {
        "truth": truth,
        "tokens": tokens,
        "gradients": gradients,
        "maps": gradients.amax(1),
        "tokenizer": tokenizer,
        "reader": reader,
        "judge": lambda x: nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) @ weights,
        "blank": blank,
        "audit": lambda e: torch.stack([e[:, 0].mean((1, 2)), e[:, 1].mean((1, 2))], 1),
        "labels": labels,
        "embedded": tokenizer.embed(tokens),
    }


def test_mean_auc(says, page):
    context = {name: page[name] for name in ("truth", "gradients")}
    scores = page["gradients"].mean(1)

    def auc(score):
        return [
            roc_auc_score(m.flatten(), s.flatten())
            for m, s in zip(page["truth"], score, strict=True)
        ]

    right = np.mean(auc(scores))
    ranks = [
        mannwhitneyu(s[m], s[~m]).statistic / (m.sum() * (~m).sum())
        for m, s in zip(page["truth"].numpy(), page["gradients"].sum(1).numpy(), strict=True)
    ]
    passes(says, 1, [right, float(right), torch.tensor([right]), np.mean(ranks)], **context)
    pooled = roc_auc_score(page["truth"].flatten(), scores.flatten())
    fails(
        says,
        1,
        [
            (np.mean(auc(page["maps"])), "signed maximum"),
            (np.mean(auc(page["gradients"].abs().mean(1))), "absolute values"),
            (pooled, "one AUC"),
            (np.mean(auc(scores)[:4]), "one number a place"),
            (auc(scores), "one number a place"),
            (0.5, ""),
        ],
        **context,
    )


def test_what_the_rule_paints(says, page):
    context = {name: page[name] for name in ("tokens", "maps")}
    mask = vision.top(page["maps"], 10)
    counts = vision.same_tokens(page["tokens"], mask).sum((1, 2))
    right = float(counts.float().mean())
    by_hand = np.mean(
        [
            np.isin(own, own[chosen]).sum()
            for own, chosen in zip(page["tokens"].numpy(), mask.numpy(), strict=True)
        ]
    )
    passes(says, 2, [right, by_hand, counts.float().mean(), right - 0.5], **context)
    fails(
        says,
        2,
        [
            (10, "all places that carry"),
            (int(counts.sum()), "sum over all"),
            (right / 144, "share of the picture"),
            (right - 5, "Choose the ten"),
            (counts, "Choose the ten"),
        ],
        **context,
    )


def loops(x, y):
    return sum((a > b) - (a < b) for a in x for b in y) / (len(x) * len(y))


def test_cliffs_delta(says):
    passes(
        says,
        3,
        [
            loops,
            lambda x, y: np.sign(np.subtract.outer(x, y)).mean(),
            lambda x, y: 2 * mannwhitneyu(x, y).statistic / (len(x) * len(y)) - 1,
            lambda x, y: np.sign(x[:, None] - y).mean(),  # arrays only
            lambda x, y: torch.sign(torch.tensor(x)[:, None] - torch.tensor(y)).mean(
                dtype=torch.double
            ),
        ],
    )
    fails(
        says,
        3,
        [
            (lambda x, y: loops(x, y) / 2, "half"),
            (lambda x, y: loops(y, x), "sign"),
            (lambda x, y: loops(x, y) / 2 + 0.5, "AUC"),
            (lambda x, y: np.greater.outer(x, y).mean(), "P(x > y) alone"),
            (lambda x, y: 2 * np.greater.outer(x, y).mean() - 1, "ties"),
            (lambda x, y: np.mean(x) - np.mean(y), "every x with every y"),
            (lambda x, y: np.sign(x[:2] - y[:2]).mean(), "every x with every y"),
            (0.5, "stopped with TypeError"),
        ],
    )


def test_selection_on_the_test(says, page):
    names = ("reader", "tokenizer", "judge", "tokens", "labels", "truth")
    context = {name: page[name] for name in names}
    beliefs = ROOM.course(**context)
    assert beliefs.shape == (5, 8)
    right = float(np.max(beliefs, 0).mean() - beliefs[-1].mean())
    first = float(np.max(beliefs, 0).mean() - beliefs[0].mean())
    one_step = beliefs.mean(1).max() - beliefs[-1].mean()
    assert right > one_step + 0.002
    passes(says, 4, [right, np.float32(right), torch.tensor([right]), right + 0.0005], **context)
    fails(
        says,
        4,
        [
            (one_step, "one step is kept"),
            (0, "not yet"),
            (0.3, "Keep the best"),
            (first, "the first step"),
            (beliefs.max(0).mean(), "belief itself"),
            (-right, "Keep the best"),
            (beliefs, "stopped with ValueError"),
        ],
        **context,
    )


def test_a_mended_map(says, page):
    context = {name: page[name] for name in ("blank", "embedded", "labels", "truth")}
    context |= {"noise": 0.45, "samples": 2}
    own = vision.gradient(
        page["blank"], page["embedded"], page["labels"], noise=0.45, samples=2
    ).amax(1)
    pattern = own.mean(0).view(3, 4, 3, 4).mean((0, 2)).repeat(3, 3)
    before, after, minus, whole = (
        ROOM.mean_auc(page["truth"], maps)
        for maps in (own, own / pattern, own - pattern, own / own.mean(0))
    )
    right = after - before
    shares = torch.stack([own[:, i::4, j::4].mean() for i in range(4) for j in range(4)])
    tiled = np.tile((shares / shares.mean()).view(4, 4), (3, 3))
    again = ROOM.mean_auc(page["truth"], own.numpy() / tiled) - before
    passes(says, 5, [right, torch.tensor(right), again], **context)
    fails(
        says,
        5,
        [
            (minus - before, "subtract"),
            (after / before - 1, "as a share"),
            (whole - before, "whole mean map"),
            (right + 0.009, ""),
            (after, ""),
        ],
        **context,
    )


def test_a_score_with_a_zero(says, page):
    audit, tokenizer = page["audit"], page["tokenizer"]
    many = torch.randint(128, (90, 12, 12), generator=torch.Generator().manual_seed(5))
    called_white = audit(tokenizer.embed(many)).argmax(1) == 0
    white, green = many[called_white], many[~called_white]
    pools = {0.5: torch.cat([white[:12], green[:8]]), 0.9: torch.cat([white[:17], green[:3]])}
    context = {"reader": audit, "tokenizer": tokenizer, "pools": pools}
    right = [0.6, 0.85]
    passes(says, 6, [right, tuple(right), torch.tensor(right), np.array(right)], **context)
    fails(
        says,
        6,
        [
            ([1 - share for share in right], "called green"),
            (right[::-1], "order"),
            ([20 * share for share in right], "counts"),
            ([0.5, 0.9], "For each pool"),
            (right[0], "For each pool"),
        ],
        **context,
    )
