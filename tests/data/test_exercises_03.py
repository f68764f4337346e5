"""The checks of notebook 03: every form of a right answer passes, wrong ones are named."""

import numpy as np
import pandas as pd
import pytest
import torch
from answers import fails, passes
from scipy import stats

from helpers import data, spectral

ROOM = data.module("03", "exercises")
RIGHT = "✔ Exercise {}: right.\n"


@pytest.mark.parametrize("id", range(1, 7))
def test_an_untouched_stub_and_nonsense_are_no_answers(says, id):
    assert says(id, ...) == (False, f"○ Exercise {id}: not answered yet.\n")
    nonsense = (object(), 0.5, [], [[]], "noise", {}, np.zeros(3), lambda *_: None)
    vacuous = (lambda *args: args[0], lambda *_: 0, lambda *_: [], lambda *_: np.eye(128, 512))
    for own in (*nonsense, *vacuous, lambda *_: [0, 0], lambda: 1, int, np.sort):
        assert not says(id, own)[0], own


def test_words_are_complete():
    for exercise in ROOM.EXERCISES.values():
        assert all(len(own) > 10 for own in (exercise.kind, exercise.how))
        assert all(mistake.kind and mistake.how for mistake in exercise.mistakes)


# 1: noise


def simulated(height=None, ratio=1.0):
    w = np.random.default_rng(1).normal(size=(512, 100))
    whole = spectral.eigenvalues(w)
    eigs = whole if height is None else pooled(w, height, ratio)
    return ROOM.median_alpha(eigs)


def pooled(w, height, ratio=1.0):
    return np.sort(spectral.eigenvalues(spectral.windows(w, height, ops=5, ratio=ratio)), axis=None)


def test_1(says):
    right = [spectral.mp_alpha(q) for q in (5.12, 1, 2, 5.12)]
    measured = [simulated(), simulated(64), simulated(64, 0.5), simulated(256, 50 / 256)]
    several = [right, tuple(right), np.array(right), torch.tensor(right), pd.Series(right)]
    several += [[3.78, 2.12, 2.71, 3.78], measured, [np.array([own]) for own in right]]
    passes(says, 1, [*several, [torch.tensor(own) for own in right]])
    quarter = [spectral.mp_alpha(q, 0.25) for q in (5.12, 1, 2, 5.12)]
    fails(
        says,
        1,
        [
            (right[:3], "Four numbers"),
            ([3.78, 2.12, np.nan, np.nan], "is no number"),
            ([5.12, 1, 2, 5.12], "Those are the aspect ratios"),
            (quarter, "That is the upper quarter"),
            ([3.78, 2.71, 2.12, 3.78], "Square and half have changed"),
            ([2.12, 3.78, 2.71, 2.12], "The whole matrix is not so light"),
            ([2.12] * 4, "The whole matrix is not so light"),
            ([3.78] * 4, "matrix's α to all windows"),
            ([3.78, 2.12, 2.71, 2.12], "Cutting alone"),
            ([3.78, 2.12, 2.12, 2.12], "taken for squares"),
            ([3.78, 2.12, 2.12, 3.78], "taken for squares"),
            ([3.78, 2.12, spectral.mp_alpha(2.56), 3.78], "Q* is not half"),
            ([3.78, 2.5, 2.71, 3.78], "These are not the four exponents"),
            ([2.75, 0, 0, 0], "These are not the four exponents"),
            (3.78, "stopped with TypeError"),
            ("noise", "stopped with ValueError"),
        ],
    )


# 2: averages


def by_search(spectra, points):
    return sum(np.searchsorted(own, points, "right") / len(own) for own in spectra) / len(spectra)


def by_loops(spectra, points):
    found = []
    for x in points:
        found.append(sum(sum(e <= x for e in own) / len(own) for own in spectra) / len(spectra))
    return found


def by_ecdf(spectra, points):
    return np.mean([stats.ecdf(own).cdf.evaluate(points) for own in spectra], 0)


def by_torch(spectra, points):
    points = torch.tensor(points)
    rows = [(torch.tensor(own)[:, None] <= points).float().mean(0) for own in spectra]
    return torch.stack(rows).mean(0)


def by_weights(windows, at):
    """Pools, each eigenvalue with the weight 1 / (windows x size)."""
    weights = np.concatenate([np.full(len(own), 1 / len(own) / len(windows)) for own in windows])
    return pd.Series([weights[np.concatenate(windows) <= x].sum() for x in at])


def spoiling(spectra, points):
    found = by_search(spectra, points)
    points *= 0
    for own in spectra:
        own *= 0
    return found


def test_2(says):
    passes(says, 2, [by_search, by_loops, by_ecdf, by_torch, by_weights, spoiling])


def in_one_list(spectra, points):
    eigs = np.sort(np.concatenate(spectra))
    return np.searchsorted(eigs, points, "right") / len(eigs)


def test_2_names_what_is_wrong(says):
    fails(
        says,
        2,
        [
            (0.5, "That is no function"),
            (in_one_list, "That is the pooled list"),
            (
                lambda s, p: np.average([by_search([own], p) for own in s], 0, [*map(len, s)]),
                "pool",
            ),
            (lambda s, p: by_search([np.mean(s, 0)], p), "rank by rank"),
            (lambda s, p: [by_search([own], p) for own in s], "The mean over windows is missing"),
            (lambda s, p: len(s) * by_search(s, p), "The shares are summed"),
            (lambda s, p: 1 - by_search(s, p), "the shares above the points"),
            (lambda s, p: np.mean([np.searchsorted(e, p) / len(e) for e in s], 0), "equals the"),
            (lambda s, p: 100 * by_search(s, p), "That is in percent"),
            (lambda s, p: np.median([by_search([e], p) for e in s], 0), "median over windows"),
            (lambda s, p: by_search(s[:1], p), "Only the first window"),
            (lambda s, p: np.mean([ROOM.median_alpha(e) for e in s]), "One number comes back"),
            (lambda s, p: np.zeros(len(p)), "On small spectra"),
            (lambda s, p: np.ones(len(p)), "On small spectra"),
            (lambda s, p: p, "On small spectra"),
            (lambda s, p: by_search(s, np.sort(p)), "On small spectra"),
            (lambda spectra: 0, "stopped with TypeError"),
        ],
    )


def test_2_pooling_is_averaging_where_windows_are_equal():
    equal, unequal = (
        np.abs(in_one_list(*p) - by_search(*p)).max() for p in (ROOM.EQUAL, ROOM.UNEQUAL)
    )
    assert equal < 1e-12 and unequal > 0.05


# 3: the peak rule


def written(edge=0, low=0.95, high=1.5, less=0, pick=min, log=np.log10, up=lambda p: 10**p):
    """The loop, with parts to put in."""

    def my_peak(eigs, bins=100):
        counts, edges = np.histogram(log(eigs), bins)
        peak, found = up(edges[counts.argmax() + edge]), []
        for start in range(len(eigs) - 1):
            if low * peak <= eigs[start] <= high * peak:
                ratio = eigs[start:] / eigs[start]
                alpha = 1 + (len(ratio) - less) / np.log(ratio).sum()
                below = np.arange(len(ratio)) / len(ratio)
                found.append((np.abs(1 - ratio ** (1 - alpha) - below).max(), alpha))
        return pick(found)[1]

    return my_peak


def by_kstest(eigs, bins):
    """SciPy's distance, against both edges of each step."""
    counts, edges = np.histogram(np.log10(eigs), bins=bins)
    peak = 10.0 ** edges[np.argmax(counts)]
    best = None
    for xmin in eigs[(eigs > 0.95 * peak) & (eigs < 1.5 * peak)]:
        own = eigs[eigs >= xmin]
        alpha = 1 + len(own) / np.sum(np.log(own / xmin))
        gap = stats.kstest(own, stats.pareto(alpha - 1, scale=xmin).cdf).statistic
        best = (gap, alpha) if best is None or gap < best[0] else best
    return torch.tensor(best[1])


def in_single(eigs, bins=100):
    return np.array([written()(eigs.astype(np.float32), bins)])


def with_tail_alpha(eigs, bins=100):
    counts, edges = np.histogram(np.log10(eigs), bins)
    peak, best = 10 ** edges[counts.argmax()], {}
    starts = range(*np.searchsorted(eigs, [0.95 * peak, 1.5 * peak]))
    for start in starts:
        alpha = spectral.tail_alpha(eigs, start)
        fitted = 1 - (eigs[start:] / eigs[start]) ** (1 - alpha)
        best[np.abs(fitted - np.linspace(0, 1, len(fitted), endpoint=False)).max()] = alpha
    return float(best[min(best)])


@pytest.mark.parametrize("way", [written(), by_kstest, in_single, with_tail_alpha])
def test_3(says, way):
    assert says(3, way) == (True, RIGHT.format(3))


def by_helper(eigs, bins=100):
    starts = spectral.peak_starts(eigs, bins=bins, as_intended=True)
    return spectral.fit_power_law(eigs, starts).alpha


def kept(eigs, bins=100, fit=spectral.fit_power_law, starts=spectral.peak_starts):
    return fit(eigs, starts(eigs, bins=bins)).alpha


def values_below(eigs, bins):
    """k over the value below them: the formula as the text has it."""
    counts, edges = np.histogram(np.log10(eigs), bins)
    start = np.searchsorted(eigs, 10 ** edges[counts.argmax()])
    return 1 + (len(eigs) - start) / np.log(eigs[start:] / eigs[start - 1]).sum()


def at_the_end(eigs, bins):
    """Counts the start in the search, not in what it returns."""
    counts, edges = np.histogram(np.log10(eigs), bins)
    starts = 10 ** edges[counts.argmax()] * np.array([0.95, 1.5])
    found = {i: ROOM.tail(eigs, i) for i in range(*np.searchsorted(eigs, starts))}
    start = min(found, key=found.get)
    n = len(eigs) - start
    return 1 + (found[start][1] - 1) * (n - 1) / n


WRONG_3 = {
    "number": (3.2, "That is no function"),
    "helper": (by_helper, "That asks the search"),
    "helper, kept": (kept, "That asks the search"),
    "as coded": (written(low=0), "Starts below 0.95"),
    "no end": (written(high=np.inf), "Starts above 1.5"),
    "right edge": (written(edge=1), "right edge of the fullest"),
    "natural": (written(log=np.asarray, up=float), "The bins are even in λ"),
    "strict": (written(less=1), "The start is not counted"),
    "strict at the end": (at_the_end, "The start is not counted"),
    "first": (written(pick=lambda found: found[0]), "α at the first start"),
    "last": (written(pick=lambda found: found[-1]), "α at the last start"),
    "largest": (written(pick=max), "the start of the largest D"),
    "smallest": (written(pick=lambda f: min(f, key=lambda own: own[1])), "the smallest α"),
    "no bins": (lambda eigs, bins: written()(eigs), "There are always 100 bins"),
    "pair": (written(pick=lambda found: (0, min(found))), "More than α comes back"),
    "text": (values_below, "On four spectra the exponents"),
    "best fit": (written(low=0, high=np.inf), "On four spectra the exponents"),
    "ln": (written(log=np.log), "stopped with"),
    "constant": (lambda eigs, bins: 2.5, "On four spectra the exponents"),
    "median": (lambda eigs, bins: spectral.tail_alpha(eigs, len(eigs) // 2), "On four spectra"),
    "words": (lambda eigs, bins: "2.6", "On four spectra"),
}


@pytest.mark.parametrize("way", WRONG_3)
def test_3_names_what_is_wrong(says, way):
    fails(says, 3, [WRONG_3[way]])


def test_3_leaves_the_helper_as_it_was(says):
    before = spectral.fit_power_law, spectral.peak_starts
    says(3, kept)
    assert (spectral.fit_power_law, spectral.peak_starts) == before
    assert spectral.fit_power_law(np.arange(1.0, 20)).alpha > 1


def test_3_has_probes_of_one_best_start():
    for eigs, bins in ROOM.SPECTRA:
        own = [ROOM.by_peak(eigs, bins, gap=gap) for gap in ("below", "up to", "both")]
        coded = kept(eigs, bins)
        assert np.allclose(own, by_helper(eigs, bins)) and (np.diff(eigs) > 0).all()
        assert np.isclose(ROOM.by_peak(eigs, bins, low=0), coded) and abs(coded - own[0]) > 0.01


# 4: a matrix that FARMS gets wrong


def turn(rng, n, k):
    return np.linalg.qr(rng.normal(size=(n, k)))[0]


def even(n=128):
    return (np.arange(n) + 0.5) / n


def made(u=even, power=lambda alpha: 1 / (alpha - 1), root=np.sqrt, left=turn, right=turn):
    def broken(alpha):
        rng = np.random.default_rng(0)
        spectrum = root((1 - u()) ** -power(alpha))
        return left(rng, 128, 128) * spectrum @ right(rng, 512, 128).T

    return broken


def eye(rng, n, k):
    return np.eye(n, k)


def reshaped(alpha):
    """The singular values of noise, replaced by others."""
    u, _, v = np.linalg.svd(np.random.default_rng(5).normal(size=(128, 512)), full_matrices=False)
    return u * even() ** (-0.5 / (alpha - 1)) @ v


def in_torch(alpha):
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 128, generator=generator))[0] for n in (128, 512))
    return (u * torch.tensor(even()).float() ** (-0.5 / (alpha - 1))) @ v.T


def not_seeded(alpha):
    return (
        turn(np.random.default_rng(), 128, 128) * even() ** (-0.5 / (alpha - 1)) @ np.eye(128, 512)
    )


RIGHT_4 = {
    "as on the page": made(),
    "turned": lambda alpha: made()(alpha).T,
    "scaled": lambda alpha: 1e-3 * made()(alpha),
    "noise's": reshaped,
    "torch": in_torch,
    "other quantiles": made(lambda: np.arange(1, 129) / 129),
    "from 0": made(lambda: np.arange(128) / 128),
    "rows": made(left=eye),
    "list": lambda alpha: made()(alpha).tolist(),
}


@pytest.mark.parametrize("way", RIGHT_4)
def test_4(says, way):
    assert says(4, RIGHT_4[way]) == (True, RIGHT.format(4))


def gauss(rng, n, k):
    return rng.normal(size=(n, k)) / np.sqrt(n)


def tall(alpha):
    """Noise of the ratio that has this exponent."""
    ratios = np.linspace(1, 6, 200)
    q = ratios[np.argmin([abs(spectral.mp_alpha(own) - alpha) for own in ratios])]
    return np.random.default_rng(0).normal(size=(128, int(128 * q)))


WRONG_4 = {
    "one matrix": (made()(2.5), "That is no function"),
    "noise": (lambda alpha: np.random.default_rng(0).normal(size=(128, 512)), "That is noise"),
    "noise of a ratio": (tall, "The matrix has another shape"),
    "small": (lambda alpha: made()(alpha)[:64, :64], "The matrix has another shape"),
    "row": (lambda alpha: made()(alpha)[0], "The matrix has another shape"),
    "always 2.5": (lambda alpha: made()(2.5), "the same α, whatever"),
    "exponent": (made(power=lambda alpha: 1 / alpha), "is too large by 1"),
    "no root": (made(root=np.asarray), "You planted singular values"),
    "diagonal": (made(left=eye, right=eye), "Most eigenvalues of the windows are 0"),
    "from the left": (made(right=eye), "Most eigenvalues of the windows are 0"),
    "Gaussian": (made(left=gauss, right=gauss), "the same α, whatever"),
    "half Gaussian": (made(right=gauss), "is not the one that was asked for"),
    "scattered": (made(lambda: np.random.default_rng(3).random(128)), "is not the one"),
    "zeros": (lambda alpha: np.zeros((128, 512)), "stopped with ValueError"),
    "ones": (lambda alpha: np.ones((128, 512)), "stopped with ValueError"),
    "identity": (lambda alpha: np.eye(128, 512), "stopped with ValueError"),
    "alpha": (lambda alpha: alpha, "The matrix has another shape"),
}


@pytest.mark.parametrize("way", WRONG_4)
def test_4_names_what_is_wrong(says, way):
    fails(says, 4, [WRONG_4[way]])


def test_4_a_matrix_that_farms_gets_right_is_none(says):
    def blockwise(alpha):
        """Eight 64 x 64 blocks, each a power law: the windows on the diagonal see the truth."""
        one = np.diag(even(64) ** (-0.5 / (alpha - 1)))
        return np.tile(one, (2, 8)) + 1e-3 * np.random.default_rng(0).normal(size=(128, 512))

    assert not says(4, blockwise)[0]


# 5: two errors


def alphas_of(make, rngs):
    fits = []
    for rng in rngs:
        eigs = make(rng)
        fits.append(spectral.fit_power_law(eigs, spectral.median_starts(eigs)))
    return np.array([own.alpha for own in fits]), fits[0].n_tail


def measured(change=lambda book, real, n: [book, real], draws=lambda n: n, tail=lambda n: n):
    def two_errors(make, n, seed):
        rng = np.random.default_rng(seed)
        alphas, n_tail = alphas_of(make, [rng] * draws(n))
        return change((alphas.mean() - 1) / tail(n_tail) ** 0.5, alphas.std(ddof=1), n)

    return two_errors


def seeds(make, n, seed):
    """Another generator for each, the first α, no correction of the scatter; tensors."""
    alphas, n_tail = alphas_of(make, [np.random.default_rng([seed, k]) for k in range(n)])
    return torch.tensor([(alphas[0] - 1) / n_tail**0.5, alphas.std()])


def by_hand(make, n, seed):
    rng, alphas, books = np.random.default_rng(seed), [], []
    for _ in range(n):
        eigs = make(rng)
        top = eigs[len(eigs) // 2 :]
        alphas.append(1 + len(top) / np.log(top / top[0]).sum())
        books.append((alphas[-1] - 1) / len(top) ** 0.5)
    return np.mean(books), pd.Series(alphas).std()


def not_repeated(make, n, seed):
    return measured()(make, n, None)


RIGHT_5 = {"page": measured(), "seeds": seeds, "by hand": by_hand, "not seeded": not_repeated}
RIGHT_5 |= {"array": measured(lambda book, real, n: np.array([book, real]))}
RIGHT_5 |= {"arrays": measured(lambda book, real, n: [np.array([book]), torch.tensor(real)])}


@pytest.mark.parametrize("way", RIGHT_5)
def test_5(says, way):
    assert says(5, RIGHT_5[way]) == (True, RIGHT.format(5))


@pytest.mark.parametrize("seed", range(1, 4))
def test_5_leaves_room_for_chance(seed):
    for make, wanted in ROOM.ERRORS.items():
        gaps = np.abs(np.log(np.divide(measured()(make, ROOM.N, seed), wanted)))
        assert gaps.max() < 0.17


def same_each_time(make, n, seed):
    alphas, n_tail = alphas_of(make, [np.random.default_rng(seed) for _ in range(n)])
    return [(alphas[0] - 1) / n_tail**0.5, alphas.std()]


def from_one(make, n, seed):
    alphas, n_tail = alphas_of(make, [np.random.default_rng(seed)])
    return [(alphas[0] - 1) / n_tail**0.5] * 2


def own_noise(make, n, seed):
    for _ in range(n):
        make(np.random.default_rng(seed))
    return measured()(ROOM.noise, n, seed)


WRONG_5 = {
    "numbers": ([0.023, 0.005], "That is no function"),
    "one": (measured(lambda book, real, n: real), "Two numbers are asked for"),
    "three": (measured(lambda book, real, n: [book, real, n]), "Two numbers are asked for"),
    "the same": (same_each_time, "you drew the same spectrum"),
    "too few": (measured(draws=lambda n: 20), "Fewer than n spectra"),
    "from one": (from_one, "Fewer than n spectra"),
    "turned": (measured(lambda book, real, n: [real, book]), "The order is turned"),
    "book twice": (measured(lambda book, real, n: [book, book]), "Both are the textbook's"),
    "all": (measured(tail=lambda n: 2 * n), "All eigenvalues are counted"),
    "pooled": (measured(lambda book, real, n: [book / n**0.5, real]), "divided by sqrt(n)"),
    "mean": (measured(lambda book, real, n: [book, real / n**0.5]), "the error of the mean"),
    "variance": (measured(lambda book, real, n: [book, real**2]), "That is the variance"),
    "interval": (measured(lambda book, real, n: [book, 1.96 * real]), "half an interval"),
    "own noise": (own_noise, "These are not the two errors"),
    "infinite": (measured(lambda book, real, n: [np.inf, np.nan]), "These are not the two errors"),
    "minus": (measured(lambda book, real, n: [-book, real]), "These are not the two errors"),
}


@pytest.mark.parametrize("way", WRONG_5)
def test_5_names_what_is_wrong(says, way):
    fails(says, 5, [WRONG_5[way]])


# 6: spare one block


def spares(
    pick=lambda cost, sizes: cost.argmax(),
    own=lambda S, eps: (1 - eps) * S,
    rest=lambda own, S, eps, part: (S - own * part) / (1 - part),
):
    def spare(cost, sizes, S, eps):
        block = pick(cost, sizes)
        share = np.full(len(cost), rest(own(S, eps), S, eps, sizes[block] / sizes.sum()))
        share[block] = own(S, eps)
        return block, share

    return spare


def step_by_step(cost, sizes, S, eps):
    """Takes off, and hands out what is left; lists."""
    block = max(range(len(cost)), key=lambda i: cost[i])
    share = [S] * len(cost)
    freed = eps * S * sizes[block]
    share[block] -= eps * S
    others = sum(size for i, size in enumerate(sizes) if i != block)
    return [block, [s + freed / others if i != block else s for i, s in enumerate(share)]]


def scaled(cost, sizes, S, eps):
    """Keeps the mean by a factor of all others; tensors."""
    share = torch.full((len(cost),), S, dtype=torch.float64)
    block = torch.tensor(cost).argmax()
    share[block] *= 1 - eps
    free, sizes = torch.arange(len(cost)) != block, torch.tensor(sizes)
    wanted = S * sizes.sum() - (share * sizes)[block]
    share[free] *= wanted / (share * sizes)[free].sum()
    return block, share


def spoiled(cost, sizes, S, eps):
    found = spares()(cost.copy(), sizes.copy(), S, eps)
    cost *= 0
    sizes *= 0
    return np.array([found[0]]), pd.Series(found[1])


@pytest.mark.parametrize("way", [spares(), step_by_step, scaled, spoiled])
def test_6(says, way):
    assert says(6, way) == (True, RIGHT.format(6))


def uniform(cost, sizes, S, eps):
    return cost.argmax(), np.full(len(cost), S)


def unweighted(cost, sizes, S, eps):
    block, n = cost.argmax(), len(cost)
    share = np.full(n, (n * S - (1 - eps) * S) / (n - 1))
    share[block] = (1 - eps) * S
    return block, share


WRONG_6 = {
    "typed": ((0, np.full(30, 0.6)), "That is no function"),
    "only shares": (lambda *args: spares()(*args)[1], "Two things are asked for"),
    "only the block": (lambda *args: spares()(*args)[0], "Two things are asked for"),
    "turned": (lambda *args: spares()(*args)[::-1], "The order is turned"),
    "cheapest": (spares(lambda cost, _: cost.argmin()), "You spare the cheapest block"),
    "block 0": (spares(lambda *_: 0), "You spare block 0"),
    "per weight": (spares(lambda cost, sizes: (cost / sizes).argmax()), "costliest per weight"),
    "largest": (spares(lambda cost, sizes: sizes.argmax()), "On other costs and sizes"),
    "absolute": (spares(lambda cost, _: np.abs(cost).argmax()), "On other costs and sizes"),
    "more": (spares(own=lambda S, eps: (1 + eps) * S), "pruned more than the others"),
    "eps off": (spares(own=lambda S, eps: S - eps), "eps is taken off as it is"),
    "not pruned": (spares(own=lambda S, eps: 0.0), "The block is not pruned at all"),
    "mean below": (spares(rest=lambda own, S, *_: S), "The mean is below S"),
    "mean above": (spares(rest=lambda own, S, eps, _: (1 + eps) * S), "the mean is above S"),
    "unweighted": (unweighted, "The mean is not weighted"),
    "uniform": (uniform, "The block is right, the sparsities are not"),
    "all": (
        lambda c, s, S, eps: (c.argmax(), np.full(len(c), (1 - eps) * S)),
        "The block is right",
    ),
    "scalar": (lambda c, s, S, eps: (c.argmax(), (1 - eps) * S), "The block is right"),
    "counted from 1": (lambda *a: (spares()(*a)[0] + 1, spares()(*a)[1]), "the block is not"),
}


@pytest.mark.parametrize("way", WRONG_6)
def test_6_names_what_is_wrong(says, way):
    fails(says, 6, [WRONG_6[way]])


def test_6_keeps_the_mean_and_is_the_control_of_section_8():
    for cost, sizes, S, eps in ROOM.PRUNINGS:
        block, share = ROOM.spared()(cost, sizes, S, eps)
        assert block > 0 and np.average(share, weights=sizes) == pytest.approx(S)
        assert share.min() == share[block] == pytest.approx((1 - eps) * S)
        assert S < share.max() < 1
