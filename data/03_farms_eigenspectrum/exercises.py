"""References of the exercises of notebook 03, and the wrong answers that have a name."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from helpers import data, spectral, stats
from helpers.checks import as_array
from helpers.lesson import Exercise, Mistake, equals

allocate = data.module("03", "make_numbers").allocate


# 1: the exponent of noise


def pair(first, second):
    """A test of two exponents; wide enough for one simulated matrix."""
    tests = (equals(lambda: first, within=0.2), equals(lambda: second, within=0.1))
    return lambda answer: all(test(own) for test, own in zip(tests, answer, strict=True))


LONG, SQUARE = spectral.mp_alpha(5.12), spectral.mp_alpha(1)
NOISE = Exercise(
    pair(LONG, SQUARE),
    "These are not the exponents that pure noise has at these two shapes.",
    "Q is the longer side over the shorter; the closed form of section 2 needs nothing else.",
    [
        Mistake(
            pair(SQUARE, LONG),
            "The two have changed places.",
            "The longer the matrix, the larger α.",
        ),
        Mistake(
            pair(spectral.mp_alpha(5.12, 0.25), spectral.mp_alpha(1, 0.25)),
            "That is the upper quarter of the spectrum.",
            "The median rule takes the upper half: tail=0.5.",
        ),
        Mistake(
            lambda answer: abs(answer[0] - answer[1]) < 0.1,
            "Both shapes have the same exponent here.",
            "Q is 5.12 for the first and 1 for the square.",
        ),
    ],
)


# 2: what α does not depend on


def change_under(*moves, largest: Callable = max):
    def largest_change(alpha, w):
        return largest(abs(alpha(move(w)) - alpha(w)) for move in moves)

    return largest_change


def tenfold(w):
    return 10 * w


def turned(w):
    return w.T


def median_alpha(w):
    eigs = spectral.eigenvalues(w)
    return spectral.fit_power_law(eigs, spectral.median_starts(eigs)).alpha


# "exponents" that do depend on scale or shape, so that a change left out is seen, and a real one
CHANGES = [
    (lambda w: float(w[0].sum()), np.arange(1.0, 55).reshape(6, 9) ** 1.5),
    (lambda w: w.shape[0], np.random.default_rng(1).normal(size=(6, 10))),
    (lambda w: -float(w.max()), np.random.default_rng(2).normal(size=(7, 7))),
    (median_alpha, np.random.default_rng(3).normal(size=(20, 30))),
]


def changes(wanted):
    return equals(lambda: wanted, probes=CHANGES, within=1e-2)  # float32 is near enough


INVARIANCE = Exercise(
    changes(change_under(tenfold, turned)),
    "Some change is missed: we tried your function with measures that do depend on scale or on "
    "orientation.",
    "Take the absolute differences alpha(10 * w) - alpha(w) and alpha(w.T) - alpha(w), and return "
    "the larger.",
    [
        Mistake(
            lambda answer: not callable(answer),
            "That is a number, typed or measured once; asked for is the function that measures.",
            "def largest_change(alpha, w): ... return the larger of two absolute differences.",
        ),
        Mistake(
            changes(change_under(tenfold)),
            "Only 10 W is tried.",
            "Compare alpha(w.T) with alpha(w) as well.",
        ),
        Mistake(
            changes(change_under(turned)),
            "Only the transposed matrix is tried.",
            "Compare alpha(10 * w) with alpha(w) as well.",
        ),
        Mistake(
            lambda answer: any(np.size(as_array(answer(*probe))) != 1 for probe in CHANGES),
            "It returns more than one number.",
            "Return the largest of them.",
        ),
    ],
)


# 3: where the windows start


def window_starts(shape, h, ops, ratio):
    size = (h, int(h * ratio))
    if size[0] > shape[0] or size[1] > shape[1]:
        raise ValueError(f"a window of {size} does not fit in {shape}")
    steps = [max(1, (n - w) // max(1, ops - 1)) for n, w in zip(shape, size, strict=True)]
    rows, columns = (
        range(0, n - w + 1, s)[:ops] for n, w, s in zip(shape, size, steps, strict=True)
    )
    return [(r, c) for r in rows for c in columns]


# the room is a multiple of the steps, so that every even grid is the same one
EVEN = [
    ((576, 1536), 192, 5, 2),
    ((192, 576), 192, 5, 1),
    ((192, 192), 192, 5, 1),
    ((400, 900), 200, 1, 2),
    ((640, 450), 100, 4, 1.5),
    ((90, 75), 30, 3, 0.5),
]
UNEVEN = [((199, 300), 192, 5, 1), ((66, 131), 64, 5, 2), ((130, 77), 31, 4, 1)]
TOO_LARGE = [((576, 576), 576, 5, 2), ((100, 400), 128, 5, 1), ((300, 200), 128, 3, 2)]


def listed(starts):
    return sorted((float(row), float(column)) for row, column in starts)


def even(wanted=window_starts):
    return lambda answer: all(listed(answer(*p)) == listed(wanted(*p)) for p in EVEN)


def as_many(answer):
    """On uneven grids: from 0, inside, no place twice, as many places as the reference."""
    for (r, c), h, ops, ratio in UNEVEN:
        found = listed(answer((r, c), h, ops, ratio))
        rows, columns = ({own[axis] for own in found} for axis in (0, 1))
        grid = [(row, column) for row in sorted(rows) for column in sorted(columns)]
        inside = min(rows) == min(columns) == 0 and max(rows) <= r - h
        inside &= max(columns) <= c - int(h * ratio)
        if not inside or found != grid or len(grid) != len(window_starts((r, c), h, ops, ratio)):
            return False
    return True


def refuses(answer):
    for probe in TOO_LARGE:
        try:
            answer(*probe)
        except ValueError:
            continue
        return False
    return True


def too_many(answer):
    return any(len(list(answer(*p))) > len(window_starts(*p)) for p in EVEN + UNEVEN)


WINDOWS = Exercise(
    lambda answer: even()(answer) and as_many(answer) and refuses(answer),
    "Some windows are missing, or stand elsewhere.",
    "Along each axis the step is max(1, room // max(1, ops - 1)), with room the number of rows or "
    "columns less those of a window; the first start is 0.",
    [
        Mistake(
            lambda answer: not callable(answer),
            "That is no function.",
            "def window_starts(shape, h, ops, ratio): ... return a list of (row, column).",
        ),
        Mistake(
            lambda answer: not refuses(answer),
            "A window that does not fit must be refused.",
            "Compare h with the rows and int(h * ratio) with the columns first, and raise "
            "ValueError if one is larger.",
        ),
        Mistake(
            even(lambda *probe: [(c, r) for r, c in window_starts(*probe)]),
            "Rows and columns have changed places.",
            "A start is (row, column).",
        ),
        Mistake(
            even(lambda shape, h, ops, ratio: window_starts(shape, h, ops, 1)),
            "The windows are taken for squares.",
            "A window has int(h * ratio) columns.",
        ),
        Mistake(
            too_many,
            "There are more windows than asked for, or one stands twice.",
            "Cut both ranges to their first `ops` places; think of ops = 1, and of a room of 7 "
            "with ops = 5.",
        ),
    ],
)


# 4: a smaller tail


def slope(ratios, tail=0.25, log=np.log2):
    return np.polyfit(log(ratios), [spectral.mp_alpha(q, tail) for q in ratios], 1)


def is_slope(**options):
    return equals(lambda ratios: slope(ratios, **options)[0], within=0.01)


QUARTER = Exercise(
    is_slope(),
    "That is not the slope for the upper quarter.",
    "α of noise at each of the ratios with tail=0.25, then the least-squares slope against log2 Q.",
    [
        Mistake(
            lambda answer, ratios: np.size(as_array(answer)) == 2,
            "That is slope and intercept.",
            "np.polyfit(x, y, 1) gives both, the slope first.",
        ),
        Mistake(
            is_slope(tail=0.5), "That is the slope for the upper half.", "Give tail=0.25 along."
        ),
        Mistake(
            is_slope(tail=0.75),
            "That is the slope for the upper three quarters.",
            "`tail` is the share that the fit uses.",
        ),
        Mistake(
            is_slope(log=np.log),
            "That is a slope against ln Q.",
            "Per doubling means against log2 Q.",
        ),
    ],
)


# 5 and 6: differences with their intervals


def same_interval(answer, wanted):
    """Whether two Estimates agree, however the interval was made (bootstrap or t)."""
    given = [getattr(answer, name) for name in ("estimate", "low", "high")]
    gap = np.abs(np.subtract(given, [wanted.estimate, wanted.low, wanted.high]))
    width = wanted.high - wanted.low + 1e-6
    return bool(gap[0] <= 0.1 * width and gap[1:].max() <= 0.25 * width)


def turned_round(wanted):
    return stats.Estimate(-wanted.estimate, -wanted.high, -wanted.low)


def sparsities(table, rule):
    sizes = [r * c for r, c in table["shape"]]
    return allocate(table[rule], sizes, 0.6)


def by_block(table):
    scores = table.groupby("block")["med/MP"].transform("mean")
    sizes = np.bincount(table["block"], [r * c for r, c in table["shape"]])
    first = ~table["block"].duplicated()
    return allocate(scores[first], sizes, 0.6)[table["block"]]


def is_shared(wanted):
    """A test of the first part of an answer: sparsities, in the order of the matrices."""

    def test(answer, table, losses):
        first = answer[0]
        listed = [*first.values()] if isinstance(first, dict) else first
        return equals(lambda: wanted(table), within=1e-3)(listed)

    return test


def divided(table):
    return sparsities(table, "med/MP")


@cache  # two prunings
def pruning_gain(losses):
    return stats.paired_bootstrap(losses("med/MP:m"), losses("med:m"))


MATRIXWISE = Exercise(
    lambda answer, table, losses: (
        is_shared(divided)(answer, table, losses) and same_interval(answer[1], pruning_gain(losses))
    ),
    "The sparsities are right, the interval is not that of the difference, segment by segment.",
    "Prune twice, by `med/MP:m` and by `med:m`, and bootstrap the differences of the losses.",
    [
        Mistake(
            lambda answer, table, losses: np.size(as_array(answer[0])) == 1,
            "That is one number: the target, which every allocation reaches.",
            "Give the sparsity of each matrix, as many as the model has matrices.",
        ),
        Mistake(
            is_shared(lambda table: sparsities(table, "med")),
            "These sparsities come from `med`, not divided.",
            "The scores are those of `med/MP`.",
        ),
        Mistake(
            is_shared(by_block),
            "These sparsities are those of blocks.",
            "By matrix: every matrix has its own score, `:m`.",
        ),
        Mistake(
            lambda answer, table, losses: not is_shared(divided)(answer, table, losses),
            "The sparsities are not those of `med/MP`, matrix by matrix, at 60 %.",
            "allocate(scores, sizes, 0.6), one score and one size a matrix; or `shares`.",
        ),
        Mistake(
            lambda answer, table, losses: same_interval(
                answer[1], turned_round(pruning_gain(losses))
            ),
            "The sign of the difference is turned round.",
            "The first loss less the second: below 0, dividing is better.",
        ),
    ],
)


@cache  # twelve trainings
def rescaling_gain(train: Callable, seeds: tuple):
    gains = [train("TB", 0.03, s, mean_one=True) - train("TB", 0.03, s) for s in seeds]
    return stats.mean_ci(gains)


def is_gain(test):
    def own(answer, train, seeds: Sequence[int]):
        return test(answer, rescaling_gain(train, tuple(seeds)))

    return own


RESCALED = Exercise(
    is_gain(same_interval),
    "That is not the interval of the six paired differences at rate 0.03.",
    "Train with mean_one=True and without, with the same six seeds, and give stats.mean_ci of the "
    "differences.",
    [
        Mistake(
            is_gain(lambda answer, wanted: same_interval(answer, turned_round(wanted))),
            "The sign is turned round.",
            "The accuracy with rescaled factors less the one without.",
        ),
        Mistake(
            is_gain(
                lambda answer, wanted: (
                    abs(answer.estimate - wanted.estimate) < 0.1 * (wanted.high - wanted.low)
                )
            ),
            "The mean is right, its interval is not.",
            "The runs are paired by seed: take the differences first, then their interval.",
        ),
    ],
)

EXERCISES = {1: NOISE, 2: INVARIANCE, 3: WINDOWS, 4: QUARTER, 5: MATRIXWISE, 6: RESCALED}
