"""The checks of notebook 05: every form of a right answer passes, wrong ones are named."""

import functools
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.utils
import torch
from scipy.spatial import distance

from helpers import data, twosample

ROOM = data.module("05", "exercises")
EXERCISES = ROOM.EXERCISES


def kinds(id):
    return [EXERCISES[id].kind, *(mistake.kind for mistake in EXERCISES[id].mistakes)]


def refuses(says, id, kind, answer, **context):
    """Whether an answer is refused with the one kind of mistake that begins like this."""
    (whole,) = [own for own in kinds(id) if own.startswith(kind)]
    right, text = says(id, answer, **context)
    assert not right and f"not yet. {whole}" in text.replace("\\'", "'")


@pytest.mark.parametrize("id", EXERCISES)
def test_an_untouched_stub_and_nonsense_are_no_answers(says, id):
    untouched = (..., ...) if id == 4 else ...
    assert says(id, untouched) == (False, f"○ Exercise {id}: not answered yet.\n")
    assert not says(id, object())[0]


# Exercise 1


@pytest.mark.parametrize(
    "answer", [[0.1, 0.05], (2 / 20, 1 / 20), np.array([0.1, 0.05]), [Fraction(1, 10), 0.05]]
)
def test_1(says, answer):
    assert says(1, answer) == (True, "✔ Exercise 1: right.\n")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ([0.05, 0.1], "The two are the wrong way round"),
        ([0.05, 0.05], "One of the two has the same value"),
        ([0.1, 0.1], "One of the two has another value"),
        ([2, 1], "Those are numbers of splits"),
        ([10, 5], "That is in percent"),
        ([2 / 21, 1 / 21], "The true split is counted twice"),
        ([3 / 21, 2 / 21], "The true split is counted twice"),
        ([0.1, 0], "p is never 0"),
        ([0.2, 0.1], "Neither statistic"),
    ],
)
def test_1_names_what_is_wrong(says, answer, kind):
    refuses(says, 1, kind, answer)


# Exercise 2


@pytest.fixture(scope="module")
def pooled():
    """Similarities of 80 answers, some more typical than others."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(80, 6)) + rng.normal(size=(80, 1)) + 1
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return z @ z.T


@functools.cache
def rho_of(pooled_bytes, n):
    """As on the page, ρ by all triples of different answers."""
    s = np.frombuffer(pooled_bytes).reshape(n, n)
    upper = s[np.triu_indices(n, 1)]
    triples = [
        s[i, j] * s[i, m]
        for i in range(n)
        for j in range(n)
        for m in range(n)
        if len({i, j, m}) == 3
    ]
    return (np.mean(triples) - upper.mean() ** 2) / upper.var()


def two_tails(phi):
    return 2 * torch.distributions.Normal(0, 1).cdf(torch.tensor(-1.96 / phi**0.5)).item()


def predicted(k, s):
    pairs = 2 / (k * (k - 1)) + 1 / k**2
    single = 4 * (k - 2) / (k * (k - 1)) + 2 * (k - 1) / k**2 - 4 / k
    return two_tails(1 + single / pairs * rho_of(s.tobytes(), len(s)))


def test_2(says, pooled):
    size = predicted(30, pooled)
    assert 0.1 < size < 0.9
    for answer in (size, np.float32(size), torch.tensor([size]), [size], round(size, 4)):
        assert says(2, answer, s=pooled)[0]


def test_2_names_what_is_wrong(says, pooled):
    size, rho = predicted(30, pooled), rho_of(pooled.tobytes(), 80)
    for answer, kind in [
        (0.05, "That is the level"),
        (predicted(20, pooled), "That is the size at another k"),
        (predicted(60, pooled), "That is the size at another k"),
        (100 * size, "That is in percent"),
        (size / 2, "That is one tail"),
        (two_tails(1 + 20 * rho), "That is the short form"),
        (round(size, 2), "That is rounded"),
        ((np.round(400 * size) + 1) / 400, "That is rounded"),  # a lucky simulation of 400 draws
        (size + 0.025, "Near, but not"),
        (size + 0.2, "The formula gives another number"),
    ]:
        refuses(says, 2, kind, answer, s=pooled)


# Exercise 3

BINS = 30


def js_distance(p0, p1, edges):
    p, q = (np.histogram(values, edges)[0] / len(values) for values in (p0, p1))
    return distance.jensenshannon(p, q)


def split(s, k):
    return s[:k, :k][np.triu_indices(k, 1)], s[:k, k:].ravel()


def edges_of(s):
    pooled = s[np.triu_indices(len(s), 1)]
    return np.linspace(pooled.min(), pooled.max(), BINS + 1)


def method(order, pvalue=lambda hits, n: (1 + hits) / (1 + n), n=99, at_least=np.greater_equal):
    """Algorithm 1 with this order of the answers in each shuffle; n is fixed."""

    def run(s, k, rng):
        edges = edges_of(s)
        observed, hits = js_distance(*split(s, k), edges), 0
        for _ in range(n):
            rows = order(rng, k)
            hits += at_least(js_distance(*split(s[np.ix_(rows, rows)], k), edges), observed)
        return pvalue(hits, n)

    return run


def answers_permuted(rng, k):
    return rng.permutation(2 * k)


def as_on_the_page(s, k, rng, n=99):
    return method(answers_permuted, n=n)(s, k, rng)


def shuffled(rng, k):
    rows = np.arange(2 * k)
    rng.shuffle(rows)
    return rows


def by_hand(rng, k):
    """Fisher and Yates, one random number at a time."""
    rows = list(range(2 * k))
    for i in reversed(range(1, 2 * k)):
        j = rng.integers(i + 1)
        rows[i], rows[j] = rows[j], rows[i]
    return rows


def subset(rng, k):
    first = rng.choice(2 * k, k, replace=False)
    return np.r_[first, np.setdiff1d(np.arange(2 * k), first)]


def by_scipy(s, k, rng, n=99):
    edges = edges_of(s)

    def omega(a, b):
        rows = np.r_[a, b].astype(int)
        return js_distance(*split(s[np.ix_(rows, rows)], k), edges)

    arms = np.arange(k), np.arange(k, 2 * k)
    return scipy.stats.permutation_test(
        arms, omega, n_resamples=n, alternative="greater", rng=rng
    ).pvalue


def by_labels(s, k, rng, n=99):
    """Booleans as of the helper's label_matrix, each ω by the page's own functions."""
    labels, edges = twosample.label_matrix(k, k, n, rng), edges_of(s)
    values = []
    for first in labels:
        within = s[np.ix_(first, first)]
        across = s[np.ix_(first, ~first)]
        values.append(js_distance(within[np.triu_indices(k, 1)], across.ravel(), edges))
    return np.mean(np.array(values) >= values[0])


class Whole:
    """As a callable object, whose signature is not that of a plain function."""

    def __call__(self, s, k, rng, *rest):
        return np.float32(as_on_the_page(s, k, rng))


RIGHT_3 = {
    "as on the page": as_on_the_page,
    "more shuffles": method(answers_permuted, n=199),
    "more by default": lambda s, k, rng, n=999: as_on_the_page(s, k, rng, n),
    "partial": functools.partial(as_on_the_page, n=199),
    "shuffle": method(shuffled),
    "argsort": method(lambda rng, k: rng.random(2 * k).argsort()),
    "choice": method(lambda rng, k: rng.choice(2 * k, 2 * k, replace=False)),
    "subset": method(subset),
    "by hand": method(by_hand),
    "numpy's global": method(lambda rng, k: np.random.permutation(2 * k)),
    "torch": method(lambda rng, k: torch.randperm(2 * k).numpy()),
    "sklearn": method(lambda rng, k: sklearn.utils.shuffle(np.arange(2 * k))),
    "resample without": method(
        lambda rng, k: sklearn.utils.resample(np.arange(2 * k), replace=False)
    ),
    "scipy": by_scipy,
    "labels": by_labels,
    "object": Whole(),
    "tolerant": method(answers_permuted, at_least=lambda a, b: a >= b - 1e-12),
}


@pytest.mark.parametrize("way", RIGHT_3)
def test_3(says, way):
    assert says(3, RIGHT_3[way])[0]


def pairs_shuffled(draw=lambda rng, pairs: rng.permutation(pairs), n=99):
    """The function that the exercise begins with."""

    def run(s, k, rng):
        edges, (p0, p1) = edges_of(s), split(s, k)
        observed, both_sets, hits = js_distance(p0, p1, edges), np.concatenate([p0, p1]), 0
        for _ in range(n):
            own = draw(rng, both_sets)
            hits += js_distance(own[: len(p0)], own[len(p0) :], edges) >= observed
        return (1 + hits) / (1 + n)

    return run


def one_arm(rng, k):
    return np.r_[np.arange(k), k + rng.permutation(k)]


def rows_alone(s, k, rng, n=99):
    edges = edges_of(s)
    observed, hits = js_distance(*split(s, k), edges), 0
    for _ in range(n):
        hits += js_distance(*split(s[rng.permutation(2 * k)], k), edges) >= observed
    return (1 + hits) / (1 + n)


def no_n(s, k, rng, n=99):
    return method(answers_permuted, n=199)(s, k, rng)


similarity_test, similarity_statistics = (
    twosample.similarity_test,
    twosample.similarity_statistics,
)


def caught(s, k, rng):
    try:
        return similarity_test(s, k, n_permutations=99, rng=rng).pvalue
    except RuntimeError:
        return as_on_the_page(s, k, rng)


HELPER, BOOTSTRAP = "That asks twosample", "The similarity of an answer with itself"
ZERO, PAIRS, FEW = "p can be 0", "Pairs are shuffled still", "For arms that cannot be more"
WRONG_3 = {
    "bootstrap": (method(lambda rng, k: rng.integers(0, 2 * k, 2 * k)), BOOTSTRAP),
    "bootstrap by choice": (method(lambda rng, k: rng.choice(2 * k, 2 * k)), BOOTSTRAP),
    "bootstrap by floats": (
        method(lambda rng, k: (rng.random(2 * k) * 2 * k).astype(int)),
        BOOTSTRAP,
    ),
    "bootstrap one by one": (
        method(lambda rng, k: [rng.integers(2 * k) for _ in range(2 * k)]),
        BOOTSTRAP,
    ),
    "bootstrap, numpy's global": (
        method(lambda rng, k: np.random.randint(0, 2 * k, 2 * k)),
        BOOTSTRAP,
    ),
    "bootstrap, global choice": (method(lambda rng, k: np.random.choice(2 * k, 2 * k)), BOOTSTRAP),
    "bootstrap, own generator": (
        method(lambda rng, k: np.random.default_rng().integers(0, 2 * k, 2 * k)),
        BOOTSTRAP,
    ),
    "bootstrap, sklearn": (
        method(lambda rng, k: sklearn.utils.resample(np.arange(2 * k))),
        BOOTSTRAP,
    ),
    "bootstrap, torch": (
        method(lambda rng, k: torch.randint(0, 2 * k, (2 * k,)).numpy()),
        BOOTSTRAP,
    ),
    "bootstrap, more": (method(lambda rng, k: rng.integers(0, 2 * k, 2 * k), n=199), BOOTSTRAP),
    "hits / n": (method(answers_permuted, lambda hits, n: hits / n), ZERO),
    "hits / (1 + n)": (method(answers_permuted, lambda hits, n: hits / (1 + n)), ZERO),
    "(1 + hits) / n": (
        method(answers_permuted, lambda hits, n: (1 + hits) / n, n=199),
        "p can be above 1",
    ),
    "bootstrap, hits / n": (
        method(lambda rng, k: rng.integers(0, 2 * k, 2 * k), lambda hits, n: hits / n),
        ZERO,
    ),
    "helper": (lambda s, k, rng: twosample.similarity_test(s, k, rng=rng).pvalue, HELPER),
    "helper, kept": (lambda s, k, rng: similarity_test(s, k, rng=rng).pvalue, HELPER),
    "helper, caught": (caught, HELPER),
    "helper's statistics": (
        lambda s, k, rng: twosample.permutation_pvalue(
            similarity_statistics(s, twosample.label_matrix(k, k, 99, rng))
        ),
        HELPER,
    ),
    "helper, any statistic": (
        lambda s, k, rng: (
            twosample.permutation_test(
                lambda labels: np.array(
                    [js_distance(s[np.ix_(a, a)], s[np.ix_(a, ~a)], edges_of(s)) for a in labels]
                ),
                2 * k,
                k,
                rng=rng,
            ).pvalue
        ),
        HELPER,
    ),
    "few shuffles": (method(answers_permuted, n=19), FEW),
    "98 shuffles": (method(answers_permuted, n=98), FEW),
    "few by default": (lambda s, k, rng, n=50: as_on_the_page(s, k, rng, n), FEW),
    "one arm only": (method(one_arm), "In each shuffle ω is that"),
    "nothing moves": (method(lambda rng, k: np.arange(2 * k)), "In each shuffle ω is that"),
    "unchanged": (pairs_shuffled(), PAIRS),
    "pairs drawn": (pairs_shuffled(lambda rng, p: rng.choice(p, len(p))), PAIRS),
    "ties not counted": (method(answers_permuted, at_least=np.greater), "Ties are not counted"),
    "less and equal": (method(answers_permuted, at_least=np.less_equal), None),
    "rows alone": (rows_alone, None),
    "n unused": (no_n, "With 99 shuffles p falls below 1/100"),
    "constant": (lambda s, k, rng: 0.01, "The p-values are too small"),
    "another constant": (lambda s, k, rng: 1.0, "In each shuffle ω is that"),
    "no number": (lambda s, k, rng: (0.1, 0.01), None),
}


@pytest.mark.parametrize("way", WRONG_3)
def test_3_names_what_is_wrong(says, way):
    answer, named = WRONG_3[way]
    if named is None:
        assert not says(3, answer)[0]
    else:
        refuses(says, 3, named, answer)


def test_3_leaves_the_helper_as_it_was(says):
    before = {name: own for name, own in vars(twosample).items() if callable(own)}
    says(3, WRONG_3["helper"][0])
    assert {name: own for name, own in vars(twosample).items() if callable(own)} == before
    s, k = ROOM.SMALL[0]
    assert twosample.similarity_test(s, k).exact


@pytest.mark.parametrize("example", range(4))
def test_3_knows_p_over_all_splits(example):
    """By plain enumeration; at k = 3 over 20 splits."""
    s, k = [*ROOM.SMALL, ROOM.LEAST][example]
    labels, edges = twosample.label_matrix(k, k), edges_of(s)
    rows = [np.r_[np.flatnonzero(first), np.flatnonzero(~first)] for first in labels]
    values = np.array([js_distance(*split(s[np.ix_(own, own)], k), edges) for own in rows])
    assert len(values) == {3: 20, 4: 70}[k]
    assert ROOM.exact(s, k) == pytest.approx((values >= values[0] - 1e-12).mean())
    assert np.abs(values[1:] - values[0]).min() > 1e-3  # no tie that rounding could decide
    assert example < 3 or values.min() == values[0]


# Exercise 4

NAMED = ["Jonh", "Mary"]
MAY = ["same prompt", "no question mark", *NAMED]


def test_4_knows_the_edits_of_the_bank():
    edits = data.module("05", "make_answers").EDITS
    assert [*ROOM.EDITS] == [*edits]
    kinds_of = {name: kind for name, (kind, _) in edits.items()}
    names = {name for name, kind in kinds_of.items() if kind == "name"}
    assert {name for name, changes in ROOM.EDITS.items() if changes == "name"} == names
    roles = {name for name, kind in kinds_of.items() if kind.endswith("role")}
    assert {name for name, changes in ROOM.EDITS.items() if changes == "role"} == roles


@pytest.mark.parametrize("targets", [["never smoked"], ["itchy rash", "never smoked"]])
@pytest.mark.parametrize("also", range(16))
def test_4(says, also, targets):
    controls = [name for i, name in enumerate(MAY) if also >> i & 1] + ["height 181", "Peter"]
    assert says(4, (controls, targets))[0]


@pytest.mark.parametrize(
    "form", [tuple, set, np.array, pd.Index, lambda names: dict.fromkeys(names, 1)]
)
def test_4_takes_names_in_many_forms(says, form):
    assert says(4, (form(["Peter", "height 181", *MAY]), form(["never smoked"])))[0]


def test_4_takes_names_in_any_case(says):
    assert says(4, (["peter", "Height 181 "], ["Never smoked"]))[0]


CALM = ["same prompt", "height 181", "medical practitioner", "nurse"]
MATTERS = ["Mary", "itchy rash", "cracked phone", "child", "comedian"]


@pytest.mark.parametrize(
    ("controls", "targets", "named"),
    [
        (["never smoked"], ["Peter", "height 181"], "The two lists are the wrong way round"),
        (["Peter", "height 181", "Peter"], ["never smoked"], "'Peter' appears twice"),
        (["Peter", "height 181", "Mary"], ["never smoked", "Mary"], "'Mary' appears twice"),
        (["Peter", "height 181", "nurse"], ["never smoked"], "Among your controls: 'nurse'"),
        (["Peter", "height 181", "child"], ["never smoked"], "Among your controls: 'child'"),
        (
            ["Peter", "height 181", "natural paraphrase"],
            ["never smoked"],
            "Among your controls: 'natural paraphrase'",
        ),
        (["Peter", "height 181", "itchy rash"], ["never smoked"], "Among your controls: 'itchy"),
        (["Peter", "height 181", "never smoked"], ["itchy rash"], "Among your controls: 'never"),
        (["Peter", "height 181"], ["never smoked", "Mary"], "Among your targets: 'Mary'"),
        (["Peter", "height 181"], ["never smoked", "Jonh"], "Among your targets: 'Jonh'"),
        (["height 181"], ["never smoked", "Peter"], "Among your targets: 'Peter'"),
        (["Peter"], ["never smoked", "height 181"], "Among your targets: 'height 181'"),
        (["Peter", "height 181"], ["never smoked", "same prompt"], "Among your targets: 'same"),
        (["Peter", "height 181"], ["never smoked", "cracked phone"], "Among your targets: 'crac"),
        (["Peter", "height 181"], ["never smoked", "comedian"], "Among your targets: 'comedian'"),
        (["Peter", "height 181"], ["never smoked", "lawyer"], "Among your targets: 'lawyer'"),
        (
            ["Peter", "height 181"],
            ["never smoked", "telegraphic paraphrase"],
            "Among your targets: 'telegraphic paraphrase'",
        ),
        (CALM, MATTERS, "Among your controls: 'medical practitioner'"),  # the first edition's
        (CALM[:2], MATTERS, "Among your targets: 'child'"),
        (["height 181", *NAMED], ["never smoked"], "'Peter' is missing among your controls"),
        (["Peter", *MAY], ["never smoked"], "'height 181' is missing among your controls"),
        (["Peter", "height 181"], ["itchy rash"], "'never smoked' is missing among your targets"),
        (["Peter", "height 181"], [], "'never smoked' is missing among your targets"),
        ([], [], "'Peter' is missing among your controls"),
    ],
)
def test_4_names_the_culprit(says, controls, targets, named):
    refuses(says, 4, named, (controls, targets))


def test_4_names_what_it_does_not_know(says):
    assert "'Petr' is not one of the 16 EDITS" in says(4, (["Petr"], ["never smoked"]))[1]
    assert "two lists of names" in says(4, ("Peter", ["never smoked"]))[1]
    assert says(4, (["Peter"], ...)) == (False, "○ Exercise 4: not answered yet.\n")


# Exercise 5

STAKES = (0.1, 0.3, 0.5, 0.7, 0.9)


def bets(payoff, stakes=STAKES, start=4, leak=0):
    def run(x, y):
        payoffs = np.zeros(len(x))
        for t in range(start, len(x)):
            w = (x[: t + leak] - y[: t + leak]).mean(0)
            payoffs[t] = payoff(x[t] - y[t], x[:t] - y[:t], w)
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
    others = {"far": rows[300:364], "same": rows[:64]}
    return {"z": z, "pool": rows[:300], "base": rows[:256], "others": others}


def in_one_product(x, y):
    gaps = x - y
    dots = np.cumsum(gaps @ gaps.T, axis=0)
    pays = np.r_[np.zeros(4), np.sign([dots[t - 1, t] for t in range(4, len(x))])]
    return torch.tensor(1 + np.outer(STAKES, pays)).cumprod(1).mean(0)


def by_unit_direction(gap, past, w):
    return np.sign(np.tanh(gap @ w / np.linalg.norm(w)))


@pytest.mark.parametrize(
    "answer",
    [bets(by_sign), in_one_product, bets(by_unit_direction), lambda x, y: bets(by_sign)(y, x)],
)
def test_5(says, games, answer):
    right, text = says(5, answer, **games)
    assert right and "sign: false alarms 0.0" in text and "tanh: false alarms 0.0" in text
    sign, tanh = (line for line in text.splitlines() if "false alarms" in line)
    for line in (sign, tanh):
        far = float(line.split("far ")[1].split(",")[0])
        assert 4 < far < 30 and line.endswith("same inf")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (bets(by_tanh), "That is `bet` as it was"),
        (bets(by_sign, stakes=(0.5,)), "One stake plays alone"),
        (bets(by_sign, stakes=(0.9,)), "One stake plays alone"),
        (bets(by_sign, leak=1), "w knows the pair"),
        (bets(by_tanh, leak=1), "w knows the pair"),
        (bets(by_sign, leak=1000), "w knows the pair"),
        (bets(by_sign, start=2), "The bets begin at another pair"),
        (bets(by_sign, start=5), "The bets begin at another pair"),
        (bets(lambda *known: -by_sign(*known)), "The gambler bets against"),
        (lambda x, y: bets(by_sign)(x, y)[-1], "That is the last wealth"),
        (lambda x, y: np.log(bets(by_sign)(x, y)), "That is the logarithm"),
        (lambda x, y: bets(by_sign)(y, x) * 2, "On random pairs"),
        (bets(by_sign, stakes=STAKES[:4]), "On random pairs"),
        (bets(lambda gap, past, w: np.clip(gap @ w, -1, 1)), "On random pairs"),
    ],
)
def test_5_names_what_is_wrong(says, games, answer, kind):
    refuses(says, 5, kind, answer, **games)


def test_5_answers_may_be_equal():
    """Then the median is 0, and tanh pays nothing."""
    x = np.ones((8, 3))
    assert (ROOM.wealth(ROOM.tanh)(x, x) == 1).all()
    assert (ROOM.wealth(ROOM.sign)(x, x) == 1).all()


# Exercise 6


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def sphere(rng, n, d=3):
    return unit(rng.normal(size=(n, d)))


def point(n, d=3):
    return np.tile(np.eye(d)[0], (n, 1))


def poles(rng, n):
    return rng.choice([-1.0, 1.0], n)[:, None] * np.eye(3)[:1]


def part(rng, n, above):
    """A part of the sphere: the first coordinate is above a number."""
    height = rng.uniform(above, 1, n)
    turn = rng.uniform(0, 2 * np.pi, n)
    around = np.sqrt(1 - height**2)[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    return np.column_stack([height, around])


RIGHT_6 = {
    "sphere and point": lambda rng, n: (sphere(rng, n), point(n)),
    "circle and point": lambda rng, n: (sphere(rng, n, 2), point(n, 2)),
    "ten dimensions": lambda rng, n: (sphere(rng, n, 10), point(n, 10)),
    "poles": lambda rng, n: (sphere(rng, n), poles(rng, n)),
    "poles and one of them": lambda rng, n: (poles(rng, n), point(n)),
    "cap": lambda rng, n: (sphere(rng, n), part(rng, n, 0.5)),
    "tensors": lambda rng, n: tuple(map(torch.tensor, (sphere(rng, n), point(n)))),
    "a list of lists": lambda rng, n: [sphere(rng, n).tolist(), point(n).tolist()],
}


@pytest.mark.parametrize("way", RIGHT_6)
def test_6(says, way):
    right, text = says(6, RIGHT_6[way])
    assert right and "ω = " in text and "E = " in text and "NO" not in text


@pytest.mark.parametrize(
    ("answer", "kind", "seen"),
    [
        (lambda rng, n: (1.01 * sphere(rng, n), point(n)), "Not all vectors", "lengths 1: NO"),
        (lambda rng, n: (sphere(rng, n), 1.001 * point(n)), "Not all vectors", "lengths 1: NO"),
        (lambda rng, n: (point(n), sphere(rng, n)), "P0 and P1 differ; with", "below 0.15: NO"),
        (lambda rng, n: (point(n), -point(n)), "P0 and P1 differ: ω", "below 0.15: NO"),
        (lambda rng, n: (part(rng, n, 0.5), -point(n)), "P0 and P1 differ: ω", "0.15: NO"),
        (lambda rng, n: (sphere(rng, n), sphere(rng, n)), "P0 and P1 cannot", "above 0.25: NO"),
        (lambda rng, n: (sphere(rng, n), part(rng, n, 0)), "P0 and P1 cannot", "0.25: NO"),
    ],
)
def test_6_names_the_condition_that_failed(says, answer, kind, seen):
    refuses(says, 6, kind, answer)
    _, text = says(6, answer)
    assert seen in text and text.count("NO") == 1


def test_6_asks_for_n_rows(says):
    assert "two arrays of n = 400 rows" in says(6, lambda rng, n: (sphere(rng, 9), point(9)))[1]
    assert "two arrays of n = 400 rows" in says(6, lambda rng, n: (sphere(rng, n), point(n, 4)))[1]
