"""The exercises of notebook 05: references, known wrong answers and their hints."""

import math

import numpy as np
from scipy import stats

from helpers import twosample
from helpers.lesson import Exercise, Mistake, equals

# Exercise 1: [energy, Algorithm 1], smallest p-values of 3 against 3


def parts(energy, omega):
    """p-values with so many of all splits of 3 against 3 that are as extreme as the best."""
    splits = math.comb(6, 3)
    return equals(lambda: [energy / splits, omega / splits], within=1e-4)


ONE = Exercise(
    parts(2, 1),
    "Neither statistic can be more extreme than in its best split, and that one is counted.",
    "There are C(6, 3) = 20 splits. Which statistic does not notice when the arms swap names?",
    [
        Mistake(
            parts(1, 2),
            "The two are the wrong way round.",
            "The order is [energy, Algorithm 1]; energy is the one that looks at both arms alike.",
        ),
        Mistake(
            parts(1, 1),
            "One of the two has the same value for a split and for its mirror image.",
            "Swap the names of the arms: E stays as it is, so its best value comes twice.",
        ),
        Mistake(
            parts(2, 2),
            "One of the two has another value for the mirror image.",
            "ω takes pairs within the base only, so swapping the arms changes it.",
        ),
    ],
)


# Exercise 2: energy of cosine distances from the two centres


def cosine_energy(x, y):
    """2 mean d(x, y) - mean d(x, x') - mean d(y, y') with d = 1 - cosine, pair by pair."""
    return 2 * (1 - x @ y.T).mean() - (1 - x @ x.T).mean() - (1 - y @ y.T).mean()


def unit_vectors(seed, n, d):
    z = np.random.default_rng(seed).normal(size=(n, d)) + 0.5
    return z / np.linalg.norm(z, axis=1, keepdims=True)


PAIRS = [
    (unit_vectors(0, 5, 3), unit_vectors(1, 5, 3)),
    (unit_vectors(2, 6, 8), -unit_vectors(3, 9, 8)),  # arms of different size
]


def turned(change):
    """A test: whether the answer is the right number, changed."""
    return equals(lambda: lambda x, y: change(cosine_energy(x, y), x.shape[1]), probes=PAIRS)


TWO = Exercise(
    equals(lambda: cosine_energy, probes=PAIRS),
    "On random unit vectors this is not the energy of their cosine distances.",
    "Average the rows of either arm, subtract, square, add up.",
    [
        Mistake(
            turned(lambda energy, d: math.sqrt(energy)),
            "That is the distance of the centres, not yet the energy.",
            "The formula has the square of the norm.",
        ),
        Mistake(
            turned(lambda energy, d: energy / d),
            "That is a mean over coordinates.",
            "A squared norm is a sum over coordinates: .sum(), not .mean().",
        ),
    ],
)


# Exercise 3: size of the test that shuffles similarities, k = 30


def share_of_single_answers(s):
    """ρ: how much of the similarities' variance belongs to single answers."""
    off = s - np.diag(np.diag(s))
    n, sums, squares = len(s), off.sum(1), (off**2).sum(1)
    mean, second = off.sum() / (n * (n - 1)), squares.sum() / (n * (n - 1))
    triples = (sums**2 - squares).sum() / (n * (n - 1) * (n - 2))
    return (triples - mean**2) / (second - mean**2)


def size_at(k, rho=share_of_single_answers):
    def wanted(s):
        pairs = 2 / (k * (k - 1)) + 1 / k**2
        single = 4 * (k - 2) / (k * (k - 1)) + 2 * (k - 1) / k**2 - 4 / k
        return 2 * stats.norm.cdf(-1.96 / np.sqrt(1 + single / pairs * rho(s)))

    return wanted


THREE = Exercise(
    equals(size_at(30), within=0.001),
    "The formula gives another number for k = 30 and these answers.",
    "Which two numbers does predicted_size need? The second is typicality_share of the pool's "
    "similarities.",
    [
        Mistake(
            equals(size_at(30, rho=lambda s: 0.0), within=0.001),
            "That is the level: as if pairs were independent.",
            "ρ is not 0 here: typicality_share(S[np.ix_(pool, pool)]).",
        ),
        Mistake(
            lambda answer, s: any(
                equals(size_at(k), within=0.001)(answer, s=s) for k in (10, 20, 50, 100)
            ),
            "That is the size at another k.",
            "k = 30 goes in as the first argument of predicted_size.",
        ),
        Mistake(
            equals(size_at(30), within=0.08),
            "Near, but not the formula's number: a simulation or a guess is off by this much.",
            "400 draws have a standard error of 0.025. predicted_size gives the number itself.",
        ),
    ],
)


# Exercise 4: p-values of Algorithm 1


def similarities(seed, k, apart):
    """(2k, 2k) of unit vectors, two clusters whose centres lie apart."""
    z = 0.4 * np.random.default_rng(seed).normal(size=(2 * k, 4))
    z[:, 0] += 1
    z[k:, 1] += apart
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return np.clip(z @ z.T, -1, 1)


def exact(s, k):
    """p over all splits."""
    values = twosample.similarity_statistics(s, twosample.label_matrix(k, k))
    return (values >= values[0] - 1e-12).mean()


# (seed, k, apart) for which no other split has the ω of the true one up to rounding
SMALL = [
    (similarities(seed, k, apart), k) for seed, k, apart in ((22, 3, 1.5), (0, 4, 0), (28, 4, 0.7))
]
CHANGED = (similarities(0, 12, 8), 12)  # p is as small as the number of shuffles allows
CALLS = 60


@np.errstate(invalid="ignore")  # histograms that a wrong answer leaves empty
def mean_p(method, s, k):
    return np.mean([method(s.copy(), k, np.random.default_rng(i)) for i in range(CALLS)])


def smallest_p(method):
    s, k = CHANGED
    return float(method(s.copy(), k, np.random.default_rng(0)))


def gaps(method):
    return [mean_p(method, s, k) - exact(s, k) for s, k in SMALL]


SLACK = 4 * 0.5 / np.sqrt(99 * CALLS)  # four standard errors at most


def permutes_answers(method):
    # with n shuffles beside the true labels p is on average (1 + n exact) / (1 + n), n >= 99
    found = gaps(method)
    return min(found) >= -SLACK and max(found) <= 0.01 + SLACK and 0 < smallest_p(method) <= 0.01


def with_replacement(method):
    """Whether answers are drawn with replacement: a pair of an answer with itself has 1."""
    seen = []

    class Spy(np.random.Generator):
        def integers(self, *args, **kwargs):
            seen.append(True)
            return super().integers(*args, **kwargs)

        def choice(self, a, size=None, replace=True, **kwargs):
            seen.append(replace)
            return super().choice(a, size, replace, **kwargs)

    method(SMALL[0][0].copy(), SMALL[0][1], Spy(np.random.PCG64(0)))
    return any(seen)


FOUR = Exercise(
    permutes_answers,
    "On small examples, where all splits can be counted, the p-values are others.",
    "Shuffle the 2k rows and columns of s together (s[np.ix_(order, order)]), then split it again "
    "into P0 and P1; count `>=`, and the true labelling itself.",
    [
        Mistake(
            with_replacement,
            "Answers are drawn with replacement: a bootstrap, no permutation.",
            "Every answer must be used once: rng.permutation(2 * k).",
        ),
        Mistake(
            lambda method: smallest_p(method) == 0,
            "p can be 0: the true labelling is not counted.",
            "(1 + hits) / (1 + n), as in section 3.",
        ),
        Mistake(
            lambda method: smallest_p(method) > 0.01,
            "For arms that cannot be more different p does not fall to 0.01.",
            "At least 99 shuffles, of answers; (1 + hits) / (1 + n).",
        ),
        Mistake(
            lambda method: min(gaps(method)) < -SLACK,
            "The p-values are too small.",
            "Pairs that share an answer move together: shuffle answers. And ties count: `>=`.",
        ),
    ],
)


# Exercise 5: two worlds


def seen(worlds):
    """(lengths are 1, ω, E) of 400 answers of either arm."""
    x, y = (np.asarray(arm, dtype=float) for arm in worlds(np.random.default_rng(1), 400))
    if x.shape[0] != 400 or y.shape != x.shape:
        raise ValueError(f"two arrays of n = 400 rows are asked for; got {x.shape} and {y.shape}")
    z = np.concatenate([x, y])
    one, s = twosample.label_matrix(400, 400, 1)[:1], np.clip(z @ z.T, -1, 1)
    d = np.sqrt(2 - 2 * s)
    np.fill_diagonal(d, 0)
    omega, energy = (
        twosample.similarity_statistics(s, one)[0],
        twosample.energy_statistics(d, one)[0],
    )
    return bool(np.allclose(np.linalg.norm(z, axis=1), 1)), omega, energy


def blind_pair(worlds):
    length, omega, energy = seen(worlds)
    print(f"  400 answers of either arm: ω = {omega:.3f}, E = {energy:.3f}")
    return length and omega < 0.15 and energy > 0.25


FIVE = Exercise(
    blind_pair,
    "One of the conditions does not hold.",
    "Section 12, the world 'collapsed': seen from any point, a uniform sphere looks the same.",
    [
        Mistake(
            lambda worlds: not seen(worlds)[0],
            "Not all vectors have length 1.",
            "unit(z) divides rows by their lengths.",
        ),
        Mistake(
            lambda worlds: seen(worlds)[1] >= 0.15,
            "P0 and P1 differ: ω must be below 0.15.",
            "Similarities across must be distributed like those within the base. What does a "
            "single point see of a uniform sphere?",
        ),
        Mistake(
            lambda worlds: seen(worlds)[2] <= 0.25,
            "P0 and P1 cannot be told apart, but the arms are too alike: E must be above 0.25.",
            "Let the changed arm be far narrower than the base: one point, or two.",
        ),
    ],
)


# Exercise 6: the wealth after each pair


def wealth(payoff, stakes=(0.1, 0.3, 0.5, 0.7, 0.9), start=4, leak=0):
    """A betting function; `payoff` maps (x_s - y_s) · w, past and now, to what a unit pays."""

    def method(x, y):
        gaps, pays = x - y, np.zeros(len(x))
        for t in range(start, len(x)):
            w = gaps[: t + leak].mean(0)
            pays[t] = payoff(gaps[:t] @ w, gaps[t] @ w)
        return np.mean([np.cumprod(1 + stake * pays) for stake in stakes], axis=0)

    return method


def sign(past, now):
    return np.sign(now)


def tanh(past, now):
    return np.tanh(2 * now / np.median(np.abs(past)))


def arms(seed, n):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)), rng.normal(size=(n, 5)) + 0.4


def plays(method):
    """A test: whether the answer has the wealth of this method, up to rounding."""

    def test(answer, **_):
        pairs = [arms(seed, n) for seed, n in ((0, 30), (1, 64))]
        found = [np.asarray(answer(x.copy(), y.copy()), dtype=float) for x, y in pairs]
        wanted = [method(x, y) for x, y in pairs]
        return all(
            a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=1e-12)
            for a, b in zip(found, wanted, strict=True)
        )

    return test


def stops(method, x, y):
    rich = np.flatnonzero(np.asarray(method(x, y)) >= 20)
    return rich[0] + 1 if rich.size else np.inf


def sign_bets(answer, z, pool, base, other):
    if not plays(wealth(sign))(answer):
        return False
    rng, z = np.random.default_rng(3), z.astype(float)
    null = [rng.permutation(pool) for _ in range(300)]
    false = np.mean([stops(answer, z[d[:64]], z[d[64:128]]) < np.inf for d in null])
    found = [stops(answer, z[rng.permutation(base)[:64]], z[other[:64]]) for _ in range(40)]
    print(f"  false alarms {false:.3f}; median stop for Mary: {np.median(found):.0f} pairs")
    return True


def plays_any(*methods):
    return lambda answer, **_: any(plays(method)(answer) for method in methods)


SIX = Exercise(
    sign_bets,
    "On random pairs the wealth is another one.",
    "Start from `bet` in section 14 and change the line with tanh only; w may use earlier pairs "
    "only, bets begin after 4 pairs, the mean over all five stakes counts.",
    [
        Mistake(
            plays(wealth(tanh)),
            "That is `bet` as it was: the payoff is still tanh.",
            "np.sign((x[t] - y[t]) @ w); the median is not needed any more.",
        ),
        Mistake(
            plays_any(*(wealth(sign, stakes=(own,)) for own in (0.1, 0.3, 0.5, 0.7, 0.9))),
            "One stake plays alone.",
            "All five play side by side; their mean is the wealth.",
        ),
        Mistake(
            plays_any(wealth(sign, leak=1), wealth(tanh, leak=1)),
            "w knows the pair that is bet on: such a gambler always wins.",
            "x[:t] and y[:t] are the past of pair t; x[:t + 1] is not.",
        ),
        Mistake(
            plays_any(*(wealth(sign, start=own) for own in (1, 2, 3, 5))),
            "The bets begin at another pair.",
            "The first four pairs are only looked at: range(4, len(x)).",
        ),
    ],
)


# Exercise 7: [stars by chance among the medical cells, cells that may survive Bonferroni]


def counted(medical, stars):
    """A test; `stars` a cell must have to survive."""

    def wanted(table):
        cells = 0.05 * table.shape[0] * (4 if medical else table.shape[1])
        return [cells, int(table.map(lambda cell: cell.endswith(stars)).to_numpy().sum())]

    return equals(wanted, within=0.01)


SEVEN = Exercise(
    counted(medical=True, stars="***"),
    "One of the two numbers is another.",
    "A star is p < 0.05, and there are 36 medical cells. Bonferroni asks for p < 0.05 / 72 = "
    "0.0007: only *** can pass.",
    [
        Mistake(
            counted(medical=False, stars="***"),
            "The first number counts all 72 cells.",
            "Four of the eight roles are medical: 36 cells.",
        ),
        Mistake(
            lambda answer, table: any(
                counted(True, own)(answer, table=table) for own in ("*", "**")
            ),
            "The second number counts cells that cannot pass.",
            "0.05 / 72 is 0.0007; * is below 0.05 and ** below 0.01, which is not enough.",
        ),
    ],
)

EXERCISES = {1: ONE, 2: TWO, 3: THREE, 4: FOUR, 5: FIVE, 6: SIX, 7: SEVEN}
