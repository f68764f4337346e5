"""The exercises of notebook 04: right answers in several forms pass, named wrong ones do not."""

from functools import partial

import numpy as np
import pytest
import torch
from answers import fails, passes

from helpers import attention, data

ROOM = data.module("04", "exercises")


@pytest.fixture(scope="module")
def norms():
    """M of 2 texts, 3 layers: a massive entry in most heads, of several sizes; heads differ."""
    rng = np.random.default_rng(0)
    found = {}
    for part, massive, heads in (("q", 0.5, 4), ("k", 0.9, 2), ("v", 0.01, 2)):
        level = rng.uniform(1, 3, (2, 3, heads, 1))
        m = level * rng.uniform(0.5, 1.5, (2, 3, heads, 64))
        m[..., 5] += level[..., 0] * 8 * (rng.random((2, 3, heads)) < massive)
        found[part] = m
    found["v"][0, 0, 0, 3] = 60
    return found


@pytest.mark.parametrize("part", "qv")
def test_share_of_massive_entries(says, norms, part):
    id, m = f"1, {part.upper()}", norms[part]
    right = 100 * (m > 5 * m.mean(-1, keepdims=True)).mean()
    loops = 100 * np.mean([(row > 5 * row.mean()).mean() for row in m.reshape(-1, 64)])
    passes(says, id, [right, float(right), torch.tensor([right]), loops], norms=norms)
    other = norms["k"]
    fails(
        says,
        id,
        [
            (right / 100, "fraction"),
            (0, "Compare each entry"),
            (100 * (other > 5 * other.mean(-1, keepdims=True)).mean(), "share of K"),
            (100 * (m > 3 * m.mean(-1, keepdims=True)).mean() + 1, "Compare each entry"),
        ],
        norms=norms,
    )


def test_one_mean_of_everything_is_named(says, norms):
    m = norms["q"]
    fails(says, "1, Q", [(100 * (m > 5 * m.mean()).mean(), "one mean of everything")], norms=norms)


def test_pair_norms_before_and_after(says):
    rng = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 4, 16, 32, generator=rng)
    turned = attention.apply_rope(x, torch.arange(16), 1e4)
    # one number for each coordinate and head, as M is
    before, after = (m[:, :, 3].numpy() for m in (x, turned))
    context = {"before": before, "after": after}
    a, b = attention.pair_norm(before), attention.pair_norm(after)
    right = np.abs(a / b - 1).max()
    passes(says, 2, [right, np.abs(b / a - 1).max(), (np.abs(a - b) / b).max()], **context)
    fails(
        says,
        2,
        [
            (0, "Fold both"),
            (0.0, "Fold both"),
            (np.abs(before / after - 1).max(), "coordinates"),
            (1e-5, "Fold both"),
            (np.abs(a - b).max(), "absolute difference"),
        ],
        **context,
    )
    passes(says, 2, [0, 1e-7], before=before, after=before)  # a model without rotation


def test_the_predicted_pair(says):
    def pair(r):
        return 64 * np.log(r * 32768 / (2 * np.pi)) / np.log(1e6)

    passes(says, 3, [pair(2), pair(3), 44, 45, 46, np.array([pair(4)]), pair(6), round(pair(6))])
    fails(
        says,
        3,
        [
            (pair(1), "context itself"),
            (2 * pair(3), "twice too large"),
            (64 + pair(3), "coordinate"),
            (64 * np.log(3 * 32768) / np.log(1e6), "frequency"),
            (64 * np.log(3 * 32768 / (2 * np.pi)) / np.log(1e4), "Solve wavelength"),
            (63, "Solve wavelength"),
            ("pair 45", "stopped with ValueError"),
        ],
    )


def with_the_mask(x, mask):
    return (x * mask).sum(2, keepdim=True) / x.shape[2]


def test_dim_mean(says):
    passes(
        says,
        4,
        [
            lambda x, mask: x.mean(2, keepdim=True),
            lambda x, *_: x.mean(-2)[:, :, None],
            lambda x, mask: x.mean(2, keepdim=True).expand_as(x),
            with_the_mask,
            lambda x, mask: np.mean(x.numpy(), 2, keepdims=True),
        ],
    )
    fails(
        says,
        4,
        [
            (lambda x, mask: x.mean(2), "token axis is gone"),
            (lambda x, mask: x.mean((0, 1, 2)), "items and heads"),
            (ROOM.head_mean, "head_mean"),
            (lambda x, mask: x.mean(3, keepdim=True), "dimensions of each token"),
            (lambda x, mask: x.mean((1, 2), keepdim=True), "One number for each"),
            (lambda x, mask: x.median(2, keepdim=True).values, "One number for each"),
            (lambda x, mask: torch.zeros_like(x), "One number for each"),
            (lambda x: x.mean(2, keepdim=True), "stopped with TypeError"),
            (5.0, "stopped with TypeError"),
        ],
    )


def test_how_many_layers(says):
    def level(n):
        return [0.9, 0.9, 0.8, 0.2, 0.1, 0.0][n]

    passes(says, 5, [4, 4.0, np.int64(4), torch.tensor(4)], level=level)
    fails(
        says,
        5,
        [(3, "still 0.2 or more"), (5, "One layer less"), (4.5, "stopped with TypeError")],
        level=level,
    )


# a smaller toy than the notebook's, with the same parts
WIDTH, DIM, LENGTH = 24, 16, 16


def attend(weights, queries, context, rope):
    q, k = (queries @ weights[0])[:, None, None], (context @ weights[1])[:, None]
    if rope:
        q = attention.apply_rope(q, torch.tensor([LENGTH]), 1e4)
        k = attention.apply_rope(k, torch.arange(LENGTH), 1e4)
    return (q @ k.mT / DIM**0.5)[:, :, 0].softmax(-1), q, k


def train(batch, loss_of, rope, seed, steps):
    rng = torch.Generator().manual_seed(seed)
    weights = [
        (torch.randn(WIDTH, DIM, generator=rng) * WIDTH**-0.5).requires_grad_() for _ in "qk"
    ]
    optimiser = torch.optim.Adam(weights, lr=5e-3)
    for _ in range(steps):
        queries, context, target = batch(rng)
        loss = loss_of(attend(weights, queries, context, rope)[0].mean(1), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return [w.detach() for w in weights]


def point_at(p, target):
    return -p.gather(1, target[:, None]).log().mean()


def test_the_previous_token(says):
    symbols = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1))
    constant = torch.zeros(WIDTH).index_fill(0, torch.tensor([0]), 6.0)
    context = {
        "train": train,
        "attend": attend,
        "loss": point_at,
        "symbols": symbols,
        "constant": constant,
        "length": LENGTH,
        "seed": 0,
    }

    def answer(seed=0, rope=True, constant=constant):
        def previous(rng, size=64):
            words = symbols[torch.randint(40, (size, LENGTH + 1), generator=rng)] + constant
            return words[:, -1], words[:, :-1], torch.full((size,), LENGTH - 1)

        weights = train(previous, point_at, rope, seed, 300)
        q = attend(weights, *previous(torch.Generator().manual_seed(7), 256)[:2], rope)[1]
        energy = attention.pair_norm(q).square().mean((0, 1, 2)).numpy()
        return energy[DIM // 4 :].sum() / energy.sum()

    right, without = answer(), answer(constant=0)
    assert abs(right - without) > 0.06
    passes(says, 6, [right, float(right), torch.tensor(right)], **context)
    check = partial(fails, says, 6, **context)
    check([(without, "without the constant"), (1 - right, "fast half")])
    check([(answer(rope=False), "without RoPE"), (0.0, ""), (right + 0.05, "")])
