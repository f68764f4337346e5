"""The exercises of notebook 05: references, known wrong answers and their hints."""

import inspect
import math
from contextlib import ExitStack, suppress
from unittest import mock

import numpy as np
from scipy import stats

from helpers import twosample
from helpers.lesson import Exercise, Mistake, equals

# Exercise 1: [energy, Algorithm 1], smallest p-values of 3 against 3

SPLITS = math.comb(6, 3)


def parts(energy, omega, of=SPLITS):
    """p-values with so many of all splits of 3 against 3 that are as extreme as the best."""
    return equals(lambda: [energy / of, omega / of], within=1e-4)


def either(*tests):
    return lambda answer, **context: any(test(answer, **context) for test in tests)


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
        Mistake(
            either(parts(2, 1, of=1), parts(1, 1, of=1)),
            "Those are numbers of splits.",
            "p is their share of all 20.",
        ),
        Mistake(
            either(parts(2, 1, of=SPLITS / 100), parts(1, 1, of=SPLITS / 100)),
            "That is in percent.",
            "A p-value lies between 0 and 1.",
        ),
        Mistake(
            either(*(parts(*own, of=SPLITS + 1) for own in ((2, 1), (1, 1), (3, 2), (2, 2)))),
            "The true split is counted twice.",
            "All 20 splits are here, the true one among them; 1 is added for random shuffles only.",
        ),
        Mistake(
            lambda answer: min(np.asarray(answer, dtype=float)) <= 0,
            "p is never 0.",
            "The true split is one of the 20 and is as extreme as itself.",
        ),
    ],
)


# Exercise 2: size of the test that shuffles similarities, k = 30


def share_of_single_answers(s):
    """ρ: how much of the similarities' variance belongs to single answers."""
    off = s - np.diag(np.diag(s))
    n, sums, squares = len(s), off.sum(1), (off**2).sum(1)
    mean, second = off.sum() / (n * (n - 1)), squares.sum() / (n * (n - 1))
    triples = (sums**2 - squares).sum() / (n * (n - 1) * (n - 2))
    return (triples - mean**2) / (second - mean**2)


def exact_inflation(k, rho):
    pairs = 2 / (k * (k - 1)) + 1 / k**2
    single = 4 * (k - 2) / (k * (k - 1)) + 2 * (k - 1) / k**2 - 4 / k
    return 1 + single / pairs * rho


def size_at(k, rho=share_of_single_answers, inflation=exact_inflation, times=1):
    return lambda s: times * 2 * stats.norm.cdf(-1.96 / np.sqrt(inflation(k, rho(s))))


def gives(*args, within=1e-4, **kwargs):
    return equals(size_at(*args, **kwargs), within=within)


TWO = Exercise(
    gives(30),
    "The formula gives another number for k = 30 and these answers.",
    "Which two numbers does predicted_size need? The second is ρ of the pool, `rho`.",
    [
        Mistake(
            gives(30, rho=lambda s: 0.0, within=1e-3),
            "That is the level: as if pairs were independent.",
            "ρ is not 0 here: it is `rho`.",
        ),
        Mistake(
            either(*(gives(k) for k in (10, 20, 50, 60, 100))),
            "That is the size at another k.",
            "k = 30 goes in as the first argument of predicted_size.",
        ),
        Mistake(
            gives(30, times=100, within=0.6),
            "That is in percent.",
            "A share between 0 and 1 is asked for.",
        ),
        Mistake(gives(30, times=0.5), "That is one tail.", "The test is two-sided: 2 Φ(...)."),
        Mistake(
            gives(30, inflation=lambda k, rho: 1 + 2 * k * rho / 3),
            "That is the short form of φ.",
            "1 + 2kρ/3 holds for large k; `inflation` has the exact form.",
        ),
        Mistake(
            gives(30, within=0.006),
            "That is rounded, simulated, or of another ρ.",
            "Hand in what predicted_size returns, with the `rho` of the pool.",
        ),
        Mistake(
            gives(30, within=0.08),
            "Near, but not the formula's number: a simulation or a guess is off by this much.",
            "400 draws have a standard error of 0.025. predicted_size gives the number itself.",
        ),
    ],
)


# Exercise 3: p-values of Algorithm 1


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
    (similarities(seed, k, apart), k) for seed, k, apart in ((18, 3, 1.5), (0, 4, 0), (12, 4, 0.7))
]
LEAST = (similarities(0, 3, 0), 3)  # no split has a smaller ω than the true one: p is 1
CHANGED = (similarities(0, 30, 8), 30)  # p is as small as the number of shuffles allows
CALLS = 16
SLACK = 4 * 0.5 / np.sqrt(99 * CALLS)  # four standard errors at most


def takes_n(method):
    with suppress(TypeError, ValueError):
        return "n" in inspect.signature(method).parameters
    return False


@np.errstate(invalid="ignore", divide="ignore")  # histograms that a wrong answer leaves empty
def ps(method, s, k, calls=CALLS):
    """p-values of as many seeds, with 99 shuffles where the number can be chosen."""
    n = {"n": 99} if takes_n(method) else {}
    return np.array(
        [float(method(s.copy(), k, np.random.default_rng(i), **n)) for i in range(calls)]
    )


def largest(method):
    return ps(method, *LEAST, calls=4)


def smallest(method):
    return ps(method, *CHANGED, calls=1)[0]


@np.errstate(invalid="ignore", divide="ignore")
def smallest_by_default(method):
    s, k = CHANGED
    return float(method(s.copy(), k, np.random.default_rng(0)))


def gaps(method):
    return [ps(method, s, k).mean() - exact(s, k) for s, k in SMALL]


@np.errstate(invalid="ignore", divide="ignore")
def calls_helper(method):
    """Whether a test of `twosample` is asked, by whatever name."""
    called = []

    def spy(*args, **kwargs):
        called.append(True)
        raise RuntimeError("this exercise does without twosample's tests")

    with ExitStack() as patched:
        for room in (twosample, inspect.getmodule(twosample.PermutationResult)):
            for name in vars(room):
                if name.endswith(("_test", "_statistics", "_histograms", "_labels")):
                    patched.enter_context(mock.patch.object(room, name, spy))
        with suppress(Exception):
            method(LEAST[0].copy(), LEAST[1], np.random.default_rng(0))
    return bool(called)


def permutes_answers(method):
    # with n shuffles beside the true labels p is on average (1 + n exact) / (1 + n), n >= 99
    if calls_helper(method) or not np.allclose(largest(method), 1, rtol=0, atol=1e-9):
        return False
    p, found = (smallest(method), smallest_by_default(method)), gaps(method)
    enough = min(p) > 0 and max(p) <= 0.01 and (not takes_n(method) or p[0] >= 0.01 - 1e-12)
    return enough and min(found) >= -SLACK and max(found) <= 0.01 + SLACK


def needs_own_pairs(method):
    """Whether the similarity of an answer with itself moves p: a permutation never meets it."""
    found, s = [], np.zeros((6, 6))
    s[0, 4] = s[4, 0] = 1
    for own in (0, 0.5):
        np.fill_diagonal(s, own)
        found.append(ps(method, s, 3).mean())
    return abs(found[0] - found[1]) > 0.2


def ignores_second_arm(method):
    """Whether p is the same whatever the similarities within the second arm: pairs move alone."""
    found = []
    for level in (0.25, 0.75):
        s, k = SMALL[1][0].copy(), SMALL[1][1]
        s[k:, k:] = np.quantile(s[:k], level)
        np.fill_diagonal(s, 1)
        found.append(ps(method, s, k, calls=8))
    return len({*found[0]}) > 1 and np.allclose(*found, rtol=0, atol=1e-12)


def never_moves(method):
    return all((ps(method, s, k, calls=2) == 1).all() for s, k in (CHANGED, *SMALL))


THREE = Exercise(
    permutes_answers,
    "On small examples, where all splits can be counted, the p-values are others.",
    "Shuffle the 2k rows and columns of s together (s[np.ix_(order, order)]), then split it again "
    "into P0 and P1; keep the edges; count `>=`, and the true labelling itself.",
    [
        Mistake(
            calls_helper,
            "That asks twosample for the answer.",
            "Write the loop yourself, with js_distance and split alone.",
        ),
        Mistake(
            lambda method: min(smallest(method), smallest_by_default(method)) <= 0,
            "p can be 0: the true labelling is not counted.",
            "(1 + hits) / (1 + n), as in the function above.",
        ),
        Mistake(
            lambda method: largest(method).max() > 1 + 1e-9,
            "p can be above 1.",
            "(1 + hits) / (1 + n): the true labelling counts above and below.",
        ),
        Mistake(
            never_moves,
            "In each shuffle ω is that of the true labels.",
            "Answers must change arms: shuffle all 2k of them, not those of one arm.",
        ),
        Mistake(
            lambda method: max(smallest(method), smallest_by_default(method)) > 0.01,
            "For arms that cannot be more different p does not fall to 0.01.",
            "At least 99 shuffles, of answers; (1 + hits) / (1 + n).",
        ),
        Mistake(
            ignores_second_arm,
            "Pairs are shuffled still.",
            "When an answer of the second arm becomes one of the base, it brings the pairs within "
            "its own arm, and your p does not depend on those: s[np.ix_(order, order)].",
        ),
        Mistake(
            needs_own_pairs,
            "The similarity of an answer with itself counts: answers were drawn with replacement.",
            "That is a bootstrap. Each answer must be used once: rng.permutation(2 * k).",
        ),
        Mistake(
            lambda method: (
                0.8 < largest(method).min() < 1 - 1e-9
            ),  # one split of 20 is the true one
            "Ties are not counted.",
            "A shuffle as extreme as the true labels counts: `>=`.",
        ),
        Mistake(
            lambda method: takes_n(method) and smallest(method) < 0.01 - 1e-12,
            "With 99 shuffles p falls below 1/100.",
            "The number of shuffles is n: (1 + hits) / (1 + n).",
        ),
        Mistake(
            lambda method: min(gaps(method)) < -SLACK,
            "The p-values are too small.",
            "Pairs that share an answer move together: shuffle answers. And ties count: `>=`.",
        ),
    ],
)


# Exercise 4: (controls, targets) by the definition of the paper's section 4.2

EDITS = {  # edit -> what it changes
    "same prompt": "nothing",
    "height 181": "covariate",
    "no question mark": "mark",
    "medical practitioner": "role",
    "nurse": "role",
    "lawyer": "role",
    "child": "role",
    "comedian": "role",
    "natural paraphrase": "wording",
    "telegraphic paraphrase": "wording",
    "never smoked": "fact",
    "itchy rash": "complaint",
    "cracked phone": "request",
    "Jonh": "name",
    "Peter": "name",
    "Mary": "name",
}
LISTS = ("controls", "targets")
MUST = {"controls": ("Peter", "height 181"), "targets": ("never smoked",)}
NO_CONTROL = {  # what it changes -> why it is not in that list
    "fact": "is a clinical fact moved to another class: a target",
    "complaint": "should matter: it is a target, or left out",
    "request": "should matter, so it is no control",
    "role": "is whom the model plays: neither a name nor a covariate of the patient",
    "wording": "words the whole question anew: it changes neither a name nor a covariate",
}
NO_TARGET = {
    "nothing": "changes nothing, so nothing should move: it is no target",
    "covariate": "is a covariate that should not matter: a control",
    "mark": "changes no fact about the patient: it is no target",
    "name": "is the patient's name: a control",
    "request": "takes the complaint away; no clinical fact moves to another class",
    "role": "is whom the model plays: it changes no clinical fact of the patient",
    "wording": "words the whole question anew: it changes no clinical fact",
}
DEFINITION = (
    "Section 4.2: a control changes the patient's name, or a covariate that should not matter; a "
    "target moves a clinical fact to another class. What is neither is left out."
)


def sorted_out(answer):
    """list -> names of edits, as they stand in EDITS."""
    if len(answer) != 2 or any(isinstance(names, str) for names in answer):
        raise ValueError("two lists of names are asked for: controls, targets")
    known, own = {name.casefold(): name for name in EDITS}, {}
    for which, names in zip(LISTS, answer, strict=True):
        for name in names:
            if str(name).strip().casefold() not in known:
                raise ValueError(f"{str(name)!r} is not one of the 16 EDITS")
        own[which] = [known[str(name).strip().casefold()] for name in names]
    return own


def by_the_definition(answer):
    controls, targets = (own := sorted_out(answer)).values()
    return (
        len({*controls, *targets}) == len(controls) + len(targets)
        and all({*MUST[which]} <= {*own[which]} for which in LISTS)
        and not any(EDITS[name] in NO_CONTROL for name in controls)
        and not any(EDITS[name] in NO_TARGET for name in targets)
    )


def stands_in(name, which):
    return lambda answer: name in sorted_out(answer)[which]


def appears_twice(name):
    return lambda answer: sum(own.count(name) for own in sorted_out(answer).values()) > 1


FOUR = Exercise(
    by_the_definition,
    "These are not controls and targets by the paper's definition.",
    DEFINITION,
    [
        Mistake(
            lambda answer: by_the_definition((answer[1], answer[0])),
            "The two lists are the wrong way round.",
            "Controls should not matter, targets should.",
        ),
        *(
            Mistake(
                appears_twice(name), f"{name!r} appears twice.", "Each edit has one place at most."
            )
            for name in EDITS
        ),
        *(
            Mistake(
                stands_in(name, which),
                f"Among your {which}: {name!r} {reasons[changes]}.",
                DEFINITION,
            )
            for which, reasons in zip(LISTS, (NO_CONTROL, NO_TARGET), strict=True)
            for name, changes in EDITS.items()
            if changes in reasons
        ),
        *(
            Mistake(
                lambda answer, name=name, which=which: not stands_in(name, which)(answer),
                f"{name!r} is missing among your {which}.",
                DEFINITION,
            )
            for which in LISTS
            for name in MUST[which]
        ),
    ],
)


# Exercise 5: the wealth after each pair


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
    c = np.median(np.abs(past))
    return np.tanh(2 * now / c) if c > 0 else 0.0


def arms(seed, n):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)), rng.normal(size=(n, 5)) + 0.4


def plays(*methods, look=lambda wealth: wealth):
    """A test: whether the answer has the wealth of one of these methods, up to rounding.

    With `look`, whether it has what that makes of the wealth.
    """
    pairs = [arms(seed, n) for seed, n in ((0, 30), (1, 64))]

    def same(answer, method):
        found = [np.asarray(answer(x.copy(), y.copy()), dtype=float) for x, y in pairs]
        wanted = [look(method(x, y)) for x, y in pairs]
        return all(
            a.shape == np.shape(b) and np.allclose(a, b, rtol=1e-6, atol=1e-12)
            for a, b in zip(found, wanted, strict=True)
        )

    return lambda answer, **_: any(same(answer, method) for method in methods)


def stops(method, x, y):
    rich = np.flatnonzero(np.asarray(method(x, y)) >= 20)
    return rich[0] + 1 if rich.size else np.inf


def sign_bets(answer, z, pool, base, others):
    if not plays(wealth(sign))(answer):
        return False
    z = z.astype(float)
    for name, method in (("sign", answer), ("tanh", wealth(tanh))):
        rng = np.random.default_rng(3)  # the same games for both
        null = [rng.permutation(pool) for _ in range(300)]
        false = np.mean([stops(method, z[d[:64]], z[d[64:128]]) < np.inf for d in null])
        found = {
            arm: np.median(
                [
                    stops(method, z[rng.permutation(base)[:64]], z[rng.permutation(rows)[:64]])
                    for _ in range(40)
                ]
            )
            for arm, rows in others.items()
        }
        halts = ", ".join(f"{arm} {at:.0f}" for arm, at in found.items())
        print(f"  {name}: false alarms {false:.3f}; median stop after so many pairs: {halts}")
    return True


FIVE = Exercise(
    sign_bets,
    "On random pairs the wealth is another one.",
    "Start from `bet` above and change the line with tanh only; w may use earlier pairs only, bets "
    "begin after 4 pairs, the mean over all five stakes counts.",
    [
        Mistake(
            plays(wealth(tanh)),
            "That is `bet` as it was: the payoff is still tanh.",
            "np.sign(gaps[t] @ w); the median is not needed any more.",
        ),
        Mistake(
            plays(*(wealth(sign, stakes=(own,)) for own in (0.1, 0.3, 0.5, 0.7, 0.9, 1))),
            "One stake plays alone.",
            "All five play side by side; their mean is the wealth.",
        ),
        Mistake(
            plays(*(wealth(payoff, leak=own) for payoff in (sign, tanh) for own in (1, 99))),
            "w knows the pair that is bet on: such a gambler always wins.",
            "gaps[:t] is the past of pair t; gaps[:t + 1], or all pairs, is not.",
        ),
        Mistake(
            plays(*(wealth(sign, start=own) for own in (1, 2, 3, 5))),
            "The bets begin at another pair.",
            "The first four pairs are only looked at: range(4, len(x)).",
        ),
        Mistake(
            plays(wealth(lambda past, now: -np.sign(now))),
            "The gambler bets against the past.",
            "x and y come in the same order in the past and in the pair that is bet on.",
        ),
        Mistake(
            plays(wealth(sign), look=lambda own: own[-1]),
            "That is the last wealth alone.",
            "Wealth after each pair is asked for, (T,): whoever may stop needs all of it.",
        ),
        Mistake(
            plays(wealth(sign), look=np.log),
            "That is the logarithm of the wealth.",
            "Ville's inequality is about the wealth itself.",
        ),
    ],
)


# Exercise 6: two worlds


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
    blind, far = omega < 0.15, energy > 0.25
    print(
        f"  400 answers of either arm: all lengths 1: {'yes' if length else 'NO'}; "
        f"ω = {omega:.3f}, below 0.15: {'yes' if blind else 'NO'}; "
        f"E = {energy:.3f}, above 0.25: {'yes' if far else 'NO'}"
    )
    return bool(length and blind and far)


def other_way(worlds):
    return lambda rng, n: worlds(rng, n)[::-1]


def is_right_turned_round(worlds):
    length, omega, energy = seen(other_way(worlds))
    return length and omega < 0.15 and energy > 0.25


SIX = Exercise(
    blind_pair,
    "One of the conditions does not hold.",
    "Seen from any of its points, or from any other point, a uniform sphere looks the same.",
    [
        Mistake(
            lambda worlds: not seen(worlds)[0],
            "Not all vectors have length 1.",
            "unit(z) divides rows by their lengths.",
        ),
        Mistake(
            is_right_turned_round,
            "P0 and P1 differ; with the arms swapped they would not.",
            "The base comes first: only its own pairs are in P0.",
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
            "Half a sphere is not enough. Let the changed arm be far narrower: a point, or two.",
        ),
    ],
)

EXERCISES = {1: ONE, 2: TWO, 3: THREE, 4: FOUR, 5: FIVE, 6: SIX}
