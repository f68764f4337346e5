"""The checks of notebook 05: every form of a right answer passes, wrong ones are named."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial import distance

from helpers import data, twosample

EXERCISES = data.module("05", "exercises").EXERCISES


def kind(id, number):
    return EXERCISES[id].kind if number is None else EXERCISES[id].mistakes[number].kind


def refuses(says, id, number, answer, **context):
    right, text = says(id, answer, **context)
    assert not right and kind(id, number) in text


# Exercise 1


@pytest.mark.parametrize(
    "answer", [[0.1, 0.05], (2 / 20, 1 / 20), np.array([0.1, 0.05]), [Fraction(1, 10), 0.05]]
)
def test_1(says, answer):
    assert says(1, answer) == (True, "✔ Exercise 1: right.\n")


@pytest.mark.parametrize(
    ("answer", "number"),
    [([0.05, 0.1], 0), ([0.05, 0.05], 1), ([0.1, 0.1], 2), ([2 / 21, 1 / 21], None)],
)
def test_1_names_what_is_wrong(says, answer, number):
    refuses(says, 1, number, answer)


# Exercise 2

RIGHT_2 = {
    "centres": lambda x, y: ((x.mean(0) - y.mean(0)) ** 2).sum(),
    "norm": lambda x, y: np.linalg.norm(x.mean(0) - y.mean(0)) ** 2,
    "products": lambda x, y: (x @ x.T).mean() + (y @ y.T).mean() - 2 * (x @ y.T).mean(),
    "tensors": lambda x, y: (torch.tensor(x).mean(0) - torch.tensor(y).mean(0)).square().sum(),
}


@pytest.mark.parametrize("way", RIGHT_2)
def test_2(says, way):
    assert says(2, RIGHT_2[way])[0]


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (lambda x, y: np.linalg.norm(x.mean(0) - y.mean(0)), 0),
        (lambda x, y: ((x.mean(0) - y.mean(0)) ** 2).mean(), 1),
        (lambda x, y: ((x.mean(0) + y.mean(0)) ** 2).sum(), None),
        (lambda x, y: 1 - (x @ y.T).mean(), None),
    ],
)
def test_2_names_what_is_wrong(says, answer, number):
    refuses(says, 2, number, answer)


# Exercise 3


@pytest.fixture(scope="module")
def pooled():
    """Similarities of 80 answers, some more typical than others."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(80, 6)) + rng.normal(size=(80, 1)) + 1
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return z @ z.T


def predicted(k, s):
    """As on the page, ρ by all triples of different answers."""
    n = len(s)
    upper = s[np.triu_indices(n, 1)]
    triples = [
        s[i, j] * s[i, m]
        for i in range(n)
        for j in range(n)
        for m in range(n)
        if len({i, j, m}) == 3
    ]
    rho = (np.mean(triples) - upper.mean() ** 2) / upper.var()
    pairs = 2 / (k * (k - 1)) + 1 / k**2
    phi = 1 + (4 * (k - 2) / (k * (k - 1)) + 2 * (k - 1) / k**2 - 4 / k) / pairs * rho
    return torch.distributions.Normal(0, 1).cdf(torch.tensor(-1.96 / phi**0.5)).item() * 2


def test_3(says, pooled):
    size = predicted(30, pooled)
    assert 0.1 < size < 0.9
    for answer in (size, np.float32(size), torch.tensor([size]), round(size, 3)):
        assert says(3, answer, s=pooled)[0]
    refuses(says, 3, 0, 0.05, s=pooled)
    refuses(says, 3, 1, predicted(20, pooled), s=pooled)
    refuses(says, 3, 2, size + 0.025, s=pooled)  # a simulation of 400 draws
    refuses(says, 3, 2, size - 0.004, s=pooled)  # typed
    refuses(says, 3, None, size + 0.2, s=pooled)


# Exercise 4

BINS = 30


def js_distance(p0, p1, edges):
    p, q = (np.histogram(values, edges)[0] / len(values) for values in (p0, p1))
    return distance.jensenshannon(p, q)


def split(s, k):
    return s[:k, :k][np.triu_indices(k, 1)], s[:k, k:].ravel()


def method(order, pvalue=lambda hits, n: (1 + hits) / (1 + n), n=99, at_least=np.greater_equal):
    """Algorithm 1 with this order of the answers in each shuffle."""

    def run(s, k, rng):
        pooled = s[np.triu_indices(2 * k, 1)]
        edges = np.linspace(pooled.min(), pooled.max(), BINS + 1)
        observed, hits = js_distance(*split(s, k), edges), 0
        for _ in range(n):
            rows = order(rng, k)
            hits += at_least(js_distance(*split(s[np.ix_(rows, rows)], k), edges), observed)
        return pvalue(hits, n)

    return run


def answers_permuted(rng, k):
    return rng.permutation(2 * k)


def shuffled(rng, k):
    rows = np.arange(2 * k)
    rng.shuffle(rows)
    return rows


def helper(s, k, rng):
    return twosample.similarity_test(s, k, n_permutations=199, rng=rng).pvalue


RIGHT_4 = {
    "permutation": method(answers_permuted),
    "more shuffles": method(answers_permuted, n=299),
    "shuffle": method(shuffled),
    "argsort": method(lambda rng, k: rng.random(2 * k).argsort()),
    "choice": method(lambda rng, k: rng.choice(2 * k, 2 * k, replace=False)),
    "helper": helper,
}


@pytest.mark.parametrize("way", RIGHT_4)
def test_4(says, way):
    assert says(4, RIGHT_4[way])[0]


def pairs_shuffled(s, k, rng, n=99):
    pooled = s[np.triu_indices(2 * k, 1)]
    edges = np.linspace(pooled.min(), pooled.max(), BINS + 1)
    p0, p1 = split(s, k)
    observed, both_sets, hits = js_distance(p0, p1, edges), np.concatenate([p0, p1]), 0
    for _ in range(n):
        own = rng.permutation(both_sets)
        hits += js_distance(own[: len(p0)], own[len(p0) :], edges) >= observed
    return (1 + hits) / (1 + n)


def one_arm(rng, k):
    return np.r_[np.arange(k), k + rng.permutation(k)]


WRONG_4 = {
    "bootstrap": (method(lambda rng, k: rng.integers(0, 2 * k, 2 * k)), 0),
    "bootstrap by choice": (method(lambda rng, k: rng.choice(2 * k, 2 * k)), 0),
    "bootstrap by floats": (method(lambda rng, k: (rng.random(2 * k) * 2 * k).astype(int)), None),
    "hits / n": (method(answers_permuted, lambda hits, n: hits / n), 1),
    "hits / (1 + n)": (method(answers_permuted, lambda hits, n: hits / (1 + n)), 1),
    "few shuffles": (method(answers_permuted, n=19), 2),
    "one arm only": (method(one_arm), 2),
    "unchanged": (pairs_shuffled, None),
    "ties not counted": (method(answers_permuted, at_least=np.greater), 3),
    "constant": (lambda s, k, rng: 0.01, None),
}


@pytest.mark.parametrize("way", WRONG_4)
def test_4_names_what_is_wrong(says, way):
    answer, number = WRONG_4[way]
    right, text = says(4, answer)
    assert not right
    if number is not None:
        assert kind(4, number) in text


# Exercise 5


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def sphere(rng, n, d=3):
    return unit(rng.normal(size=(n, d)))


def point(n, d=3):
    return np.tile(np.eye(d)[0], (n, 1))


def poles(rng, n):
    return rng.choice([-1.0, 1.0], n)[:, None] * np.eye(3)[:1]


RIGHT_5 = {
    "sphere and point": lambda rng, n: (sphere(rng, n), point(n)),
    "circle and point": lambda rng, n: (sphere(rng, n, 2), point(n, 2)),
    "ten dimensions": lambda rng, n: (sphere(rng, n, 10), point(n, 10)),
    "poles": lambda rng, n: (sphere(rng, n), poles(rng, n)),
    "tensors": lambda rng, n: tuple(map(torch.tensor, (sphere(rng, n), point(n)))),
}


@pytest.mark.parametrize("way", RIGHT_5)
def test_5(says, way):
    right, text = says(5, RIGHT_5[way])
    assert right and "ω = " in text and "E = " in text


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (lambda rng, n: (2 * sphere(rng, n), point(n)), 0),
        (lambda rng, n: (point(n), sphere(rng, n)), 1),
        (lambda rng, n: (sphere(rng, n), sphere(rng, n)), 2),
        (lambda rng, n: (sphere(rng, n), sphere(rng, n) * [1, 1, 0.9]), 0),
    ],
)
def test_5_names_what_is_wrong(says, answer, number):
    refuses(says, 5, number, answer)


def test_5_asks_for_n_rows(says):
    assert "two arrays of n = 400 rows" in says(5, lambda rng, n: (sphere(rng, 9), point(9)))[1]


# Exercise 6

STAKES = (0.1, 0.3, 0.5, 0.7, 0.9)


def bets(payoff, stakes=STAKES, start=4, leak=0):
    def run(x, y):
        payoffs = np.zeros(len(x))
        for t in range(start, len(x)):
            past = x[: t + leak] - y[: t + leak]
            payoffs[t] = payoff(x[t] - y[t], past, past.mean(0))
        return np.mean([np.cumprod(1 + stake * payoffs) for stake in stakes], axis=0)

    return run


def by_sign(gap, past, w):
    return np.sign(gap @ w)


def by_tanh(gap, past, w):
    return np.tanh(2 * gap @ w / np.median(np.abs(past @ w)))


@pytest.fixture(scope="module")
def games():
    z = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    z[300:, 0] += 2
    rows = np.arange(400)
    return {"z": z, "pool": rows[:300], "base": rows[:256], "other": rows[300:364]}


def in_one_product(x, y):
    gaps = x - y
    dots = np.cumsum(gaps @ gaps.T, axis=0)
    pays = np.r_[np.zeros(4), np.sign([dots[t - 1, t] for t in range(4, len(x))])]
    return torch.tensor(1 + np.outer(STAKES, pays)).cumprod(1).mean(0)


@pytest.mark.parametrize("answer", [bets(by_sign), in_one_product])
def test_6(says, games, answer):
    right, text = says(6, answer, **games)
    assert right and "false alarms 0.0" in text and "median stop" in text


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (bets(by_tanh), 0),
        (bets(by_sign, stakes=(0.5,)), 1),
        (bets(by_sign, leak=1), 2),
        (bets(by_sign, start=2), 3),
        (lambda x, y: bets(by_sign)(x, y)[-1], None),
        (lambda x, y: bets(by_sign)(y, x) * 2, None),
    ],
)
def test_6_names_what_is_wrong(says, games, answer, number):
    refuses(says, 6, number, answer, **games)


# Exercise 7

TABLE = pd.DataFrame(
    [[".3***", ".2*"] + [".1"] * 6, [".2**"] + [".1"] * 6 + [".3***"]] + [[".1"] * 8] * 7
)


@pytest.mark.parametrize("answer", [[1.8, 2], (36 * 0.05, np.int64(2)), np.array([1.8, 2.0])])
def test_7(says, answer):
    assert says(7, answer, table=TABLE)[0]


@pytest.mark.parametrize(
    ("answer", "number"), [([3.6, 2], 0), ([1.8, 4], 1), ([1.8, 3], 1), ([2, 2], None)]
)
def test_7_names_what_is_wrong(says, answer, number):
    refuses(says, 7, number, answer, table=TABLE)
