"""The exercises of notebook 03: what is right, and the wrong answers that have a name."""

import inspect
from contextlib import suppress
from unittest import mock

import numpy as np

from helpers import spectral
from helpers.checks import as_array
from helpers.lesson import Exercise, Mistake


def exercise(*parts):
    """Of tests, each with its words "kind | how to mend it" behind; the first is what is right."""
    pairs = zip(parts[::2], parts[1::2], strict=True)
    right, *mistakes = [Mistake(test, *words.split(" | ")) for test, words in pairs]
    return Exercise(*right, mistakes)


def numbers(answer):
    """A flat array; parts may be arrays or tensors of one number."""
    return np.array([float(as_array(own).reshape(())) for own in answer])


def median_alpha(eigs):
    return spectral.fit_power_law(eigs, spectral.median_starts(eigs)).alpha


def not_callable(answer):
    return not callable(answer)


# 1: noise of 512 x 100: [whole, square windows, windows of Q* = 0.5, of the matrix's own ratio]
RATIOS = (5.12, 1, 2, 5.12)
WITHIN = (0.25, 0.1, 0.15, 0.3)  # wide enough for one simulated matrix


def near(*wanted):
    return lambda answer: (
        len(given := numbers(answer)) == 4 and bool((np.abs(given - wanted) <= WITHIN).all())
    )


def of_noise(*ratios, tail=0.5):
    return near(*(spectral.mp_alpha(q, tail) for q in ratios))


# 2: the average of the windows' distributions


def ladder(*sizes):
    """Ascending spectra, and points of which some are eigenvalues."""
    rng = np.random.default_rng(sizes)
    spectra = [np.sort(rng.integers(1, 30, n) + 3.0 * i) for i, n in enumerate(sizes)]
    return spectra, np.array([12.5, *spectra[0][1:3], 3, *spectra[-1][:2], 100, 20.5])


EQUAL, UNEQUAL = ladder(6, 6, 6), ladder(3, 40, 8)


def shares(spectra, points):
    """(windows, points): share of each window's eigenvalues up to each point."""
    return np.array([(own <= points[:, None]).mean(1) for own in spectra])


def averages(rule, probes=(EQUAL, UNEQUAL), times=1):
    def same(answer, spectra, points):
        given = as_array(answer([own.copy() for own in spectra], points.copy())).astype(float)
        wanted = times * np.asarray(rule(spectra, points))
        return given.shape == wanted.shape and np.abs(given - wanted).max() < 1e-5 * times

    return lambda answer: all(same(answer, *probe) for probe in probes)


def average(spectra, points):
    return shares(spectra, points).mean(0)


def one_number(answer):
    spectra, points = EQUAL
    return np.size(as_array(answer([own.copy() for own in spectra], points.copy()))) == 1


# 3: the peak rule as it seems to be meant: starts from 0.95 to 1.5 times the peak


def between(eigs, bins, edge=0, natural=False, low=0.95, high=1.5):
    """Starts from `low` to `high` times the peak."""
    counts, edges = np.histogram(eigs if natural else np.log10(eigs), bins)
    peak = edges[counts.argmax() + edge]
    peak = peak if natural else 10**peak
    return np.flatnonzero((eigs >= low * peak) & (eigs <= high * peak))


def tail(eigs, start, gap="below", less=0):
    """(D, alpha) of the tail; D against the share below each value, up to it, or both."""
    logs = np.log(eigs[start:] / eigs[start])
    alpha = 1 + (len(logs) - less) / logs.sum()
    fitted, steps = 1 - np.exp((1 - alpha) * logs), np.arange(len(logs) + 1) / len(logs)
    gaps = {"below": fitted - steps[:-1], "up to": fitted - steps[1:]}
    own = np.concatenate(list(gaps.values())) if gap == "both" else gaps[gap]
    return np.abs(own).max(), alpha


def by_peak(eigs, bins, choose=min, gap="below", less=0, **starts):
    tails = [tail(eigs, i, gap, less) for i in between(eigs, bins, **starts) if i < len(eigs) - 1]
    return choose(tails)[1]


def first(tails):
    return tails[0]


def last(tails):
    return tails[-1]


def smallest_alpha(tails):
    return min(tails, key=last)


def strict_at_the_end(eigs, bins):
    """The start is counted in the search, but not in what is returned."""
    i = min(between(eigs, bins), key=lambda i: tail(eigs, i)[0])
    return tail(eigs, i, less=1)[1]


def mixture(seed, n):
    """Eigenvalues of noise with a heavy tail, on a scale of their own."""
    rng = np.random.default_rng([seed, n])
    eigs = spectral.eigenvalues(rng.normal(size=(n, 2 * n))) * rng.uniform(0.2, 2)
    return np.sort(np.append(eigs, np.median(eigs) * (1 + rng.pareto(1.5, n // 3))))


# Here the start does not hang on which share D is taken against.
SPECTRA = [(mixture(19, 40), 30), (mixture(39, 60), 30), (mixture(3, 60), 100)]
SPECTRA += [(mixture(51, 60), 100)]


def of_spectra(*rules, **how):
    """A test: all exponents are those of one of these rules."""
    rules = rules or [lambda eigs, bins: by_peak(eigs, bins, **how)]

    def test(answer):
        given = [as_array(answer(eigs.copy(), bins)) for eigs, bins in SPECTRA]
        return any(
            all(
                own.size == 1 and abs(float(own.reshape(())) - rule(*probe)) < 1e-3
                for own, probe in zip(given, SPECTRA, strict=True)
            )
            for rule in rules
        )

    return test


def fitted_by_helper(answer):
    """Whether the search of helpers.spectral is asked, by whatever name."""
    room, spy = inspect.getmodule(spectral.fit_power_law), mock.Mock(side_effect=RuntimeError)
    names = dict.fromkeys(("fit_power_law", "peak_starts"), spy)
    inside = mock.patch.multiple(room, _bounds=spy, **names)
    with inside, mock.patch.multiple(spectral, **names), suppress(Exception):
        answer(SPECTRA[0][0].copy(), 100)
    return spy.called


def more_than_alpha(answer):
    return np.size(as_array(answer(SPECTRA[0][0].copy(), 100))) != 1


# 4: a matrix that FARMS gets wrong
TRUTHS = np.array([2.5, 3.0, 3.5])


def matrices(answer):
    return [as_array(answer(float(alpha))).astype(float) for alpha in TRUTHS]


def whole(answer):
    return np.array([median_alpha(spectral.eigenvalues(own)) for own in matrices(answer)])


def of_windows(answer):
    grids = [spectral.windows(own, 64, ops=5) for own in matrices(answer)]
    return np.array([median_alpha(np.sort(spectral.eigenvalues(own), axis=None)) for own in grids])


def have(wanted=TRUTHS):
    """A test: the full matrices have these exponents."""
    return lambda answer: bool((np.abs(whole(answer) - wanted) <= 0.2).all())


def misses(answer):
    return bool((np.abs(of_windows(answer) - TRUTHS) >= 0.3).all())


def other_shape(answer):
    return any(own.shape not in ((128, 512), (512, 128)) for own in matrices(answer))


def without_exponent(answer):
    """Whether the full matrices are right, and most eigenvalues of the windows are 0."""
    try:
        of_windows(answer)
    except ValueError:
        return have()(answer)
    return False


# 5: [textbook, real scatter] of alpha by the median rule, over fresh spectra
N = 200


def noise(rng):
    return spectral.eigenvalues(rng.normal(size=(48, 48)))


def sample(rng):
    """Independent draws of a power law, alpha = 2.5."""
    return np.sort(1 + rng.pareto(1.5, 400))


# (alpha - 1) / sqrt(tail) and the scatter, of 4,000 exponents
ERRORS = {noise: (0.2392, 0.0712), sample: (0.1073, 0.1090)}


def errors(wanted=lambda book, real: (book, real)):
    """A test: both within a factor of 1.28, five standard errors of a scatter of 200 numbers."""

    def test(answer):
        pairs = {make: numbers(answer(make, N, 0)) for make in ERRORS}
        return all(
            given.shape == (2,)
            and given.min() > 0
            and np.abs(np.log(given / wanted(*ERRORS[make]))).max() < 0.25
            for make, given in pairs.items()
        )

    return test


def draws_too_few(answer):
    spy = mock.Mock(side_effect=noise)
    answer(spy, 30, 0)
    return spy.call_count < 30


def never_varies(answer):
    return all(abs(numbers(answer(make, 30, 0))[1]) < 1e-9 for make in ERRORS)


def not_two(answer):
    return np.size(as_array(answer(noise, 30, 0))) != 2


# 6: spare one block


def blocks(seed, n, S, eps, sizes=None):
    """(cost, sizes, S, eps); some costs are negative, and the first block is not the costliest."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(200, 2000, n) if sizes is None else np.full(n, sizes)
    return rng.normal(0.05, 0.1, n), sizes, S, eps


PRUNINGS = [blocks(1, 30, 0.6, 0.2, 3500), blocks(4, 12, 0.5, 0.3), blocks(5, 7, 0.6, 0.1)]


def costliest(cost, sizes):
    return int(np.argmax(cost))


def mean_kept(own, S, eps, part, n):
    """What the others get if the weighted mean is S; the spared block holds `part` of all."""
    return (S - own * part) / (1 - part)


def spared(pick=costliest, own=lambda S, eps: (1 - eps) * S, others=mean_kept):
    def rule(cost, sizes, S, eps):
        block = pick(cost, sizes)
        share = np.full(
            len(cost), others(own(S, eps), S, eps, sizes[block] / sizes.sum(), len(cost))
        )
        share[block] = own(S, eps)
        return block, share

    return rule


def allots(turn=1, parts=(0, 1), **how):
    rule = spared(**how)

    def same(answer, cost, sizes, S, eps):
        found = [as_array(part) for part in answer(cost.copy(), sizes.copy(), S, eps)][::turn]
        block, share = rule(cost, sizes, S, eps)
        right = found[0].size == 1 and found[0].reshape(()) == block
        even = found[1].shape == share.shape and np.abs(found[1] - share).max() < 1e-4
        return len(found) == 2 and all((right, even)[part] for part in parts)

    return lambda answer: all(same(answer, *probe) for probe in PRUNINGS)


def not_a_pair(answer):
    found = answer(*PRUNINGS[0])
    return np.isscalar(found) or len(found) != 2


EXERCISES = {
    1: exercise(
        of_noise(*RATIOS),
        "These are not the four exponents. | A spectrum of noise knows only its Q, the longer side "
        "over the shorter: of the matrix where it is whole, else of the window.",
        lambda answer: len(numbers(answer)) != 4,
        "Four numbers are asked for. | [whole, square, half, own], in this order.",
        lambda answer: not np.isfinite(numbers(answer)).all(),
        "One of them is no number: a Q below 1? | Q is the longer side over the shorter, also "
        "where Q*, columns over rows, is below 1.",
        near(*RATIOS),
        "Those are the aspect ratios. | Put each into alpha_mp.",
        of_noise(*RATIOS, tail=0.25),
        "That is the upper quarter of the spectrum. | The median rule takes the upper half.",
        of_noise(5.12, 2, 1, 5.12),
        "Square and half have changed places. | 64 x 64 has Q = 1, 64 x 32 has Q = 2.",
        lambda answer: numbers(answer)[0] < 2.7,
        "The whole matrix is not so light. | 512 x 100 has Q = 5.12: the longer, the larger α.",
        of_noise(*[5.12] * 4),
        "You gave the matrix's α to all windows. | A window has the α of its own Q.",
        of_noise(5.12, 1, 2, 1),
        "Cutting alone does not remove the bias. | Windows in the matrix's ratio keep its Q.",
        lambda answer: any(of_noise(5.12, 1, 1, own)(answer) for own in (1, 5.12)),
        "The tall windows are taken for squares. | 32 columns and 64 rows: Q = 64 / 32.",
        of_noise(5.12, 1, 2.56, 5.12),
        "Q* is not half of the matrix's Q. | 32 columns and 64 rows: Q = 64 / 32.",
    ),
    2: exercise(
        averages(average),
        "On small spectra the averages are others. | For each window the share of its eigenvalues "
        "that are at most the point; then the mean over windows, for each point.",
        not_callable,
        "That is no function. | def average_esd(spectra, points): ...",
        one_number,
        "One number comes back. | A share for each point is asked for; the mean of the α's of the "
        "windows is something else.",
        averages(
            lambda *probe: (
                np.searchsorted(np.sort(np.concatenate(probe[0])), probe[1], "right")
                / sum(map(len, probe[0]))
            )
        ),
        "That is the pooled list. | It is the same for windows of one size; here some are larger, "
        "and a pooled list gives them more weight. Each window counts once.",
        averages(lambda spectra, points: shares([np.mean(spectra, 0)], points)[0], [EQUAL]),
        "You averaged the eigenvalues, rank by rank. | Average the distributions: shares at a "
        "point.",
        averages(shares),
        "The mean over windows is missing. | .mean(axis=0) leaves one share for each point.",
        averages(lambda *probe: shares(*probe).sum(0)),
        "The shares are summed. | Divide by the number of windows.",
        averages(lambda *probe: 1 - average(*probe)),
        "Those are the shares above the points. | At most the point: <=.",
        averages(lambda spectra, points: average(spectra, points - 1e-9)),
        "An eigenvalue that equals the point is not counted. | <=, not <; or side='right'.",
        averages(average, times=100),
        "That is in percent. | Shares between 0 and 1.",
        averages(lambda *probe: np.median(shares(*probe), 0)),
        "That is the median over windows. | The mean is asked for.",
        averages(lambda *probe: shares(*probe)[0]),
        "Only the first window counts. | Take the mean over all of them.",
    ),
    3: exercise(
        lambda answer: not fitted_by_helper(answer) and of_spectra()(answer),
        "On four spectra the exponents are others. | Histogram of log10; the left edge of the "
        "fullest bin; each start from 0.95 to 1.5 times that; α and D of each; α of the smallest "
        "D.",
        not_callable,
        "That is no function. | def my_peak(eigs, bins=100): ...",
        fitted_by_helper,
        "That asks the search of helpers.spectral. | Write it yourself: one loop over starts.",
        more_than_alpha,
        "More than α comes back. | Return the exponent alone.",
        of_spectra(low=0),
        "Starts below 0.95 λ_peak are tried, too. | That is the rule as it is coded; leave out "
        "the starts below.",
        of_spectra(high=np.inf),
        "Starts above 1.5 λ_peak are tried, too. | Leave them out.",
        of_spectra(edge=1),
        "That is the right edge of the fullest bin. | np.histogram returns edges, the left one of "
        "bin i is edges[i].",
        of_spectra(natural=True),
        "The bins are even in λ. | Histogram np.log10(eigs), and raise 10 to the edge.",
        of_spectra(strict_at_the_end, lambda *probe: by_peak(*probe, less=1)),
        "The start is not counted. | n is the whole tail, its start included, as in section 2.",
        of_spectra(choose=first),
        "That is α at the first start. | Try all starts and keep that of the smallest D.",
        of_spectra(choose=last),
        "That is α at the last start. | Try all starts and keep that of the smallest D.",
        of_spectra(choose=max),
        "That is the start of the largest D. | The smallest distance fits best.",
        of_spectra(choose=smallest_alpha),
        "That is the smallest α. | Of all starts that of the smallest D.",
        of_spectra(lambda eigs, bins: by_peak(eigs, 100)),
        "There are always 100 bins. | `bins` is an argument.",
    ),
    4: exercise(
        lambda answer: not other_shape(answer) and have()(answer) and misses(answer),
        "The full matrix's α is not the one that was asked for. | Plant 128 even quantiles of the "
        "power law (random draws scatter too much) and turn them by matrices that keep lengths.",
        not_callable,
        "That is no function. | broken(alpha) returns a matrix: we ask for several α.",
        other_shape,
        "The matrix has another shape. | 128 x 512: else noise of a fitting shape would do.",
        have(np.full(3, spectral.mp_alpha(4))),
        "That is noise: its α is 3.45, whatever is asked for. | Plant eigenvalues.",
        lambda answer: np.ptp(whole(answer)) < 0.1,
        "The full matrix has the same α, whatever is asked for. | `alpha` is an argument; and "
        "Gaussian factors are no rotations: they bring the spectrum of noise along.",
        have(TRUTHS + 1),
        "The full matrix's α is too large by 1. | The share above λ falls with alpha - 1.",
        have((TRUTHS + 1) / 2),
        "You planted singular values. | Eigenvalues are their squares: take the root.",
        without_exponent,
        "Most eigenvalues of the windows are 0, so that FARMS gives no α at all. | That breaks it, "
        "but openly. Spread the spectrum over all entries: turn it from both sides.",
        have(),
        "FARMS is not far enough from the truth. | Turn the spectrum from both sides.",
    ),
    5: exercise(
        lambda answer: not draws_too_few(answer) and errors()(answer),
        "These are not the two errors. | α by the median rule for each of n spectra; (α - 1) / "
        "sqrt(eigenvalues in the tail), α the mean; and the standard deviation of the α's.",
        not_callable,
        "That is no function. | def two_errors(make, n, seed): ...",
        not_two,
        "Two numbers are asked for. | [textbook, real].",
        never_varies,
        "The real error is 0: you drew the same spectrum each time. | One generator, made before "
        "the loop.",
        draws_too_few,
        "Fewer than n spectra are drawn. | make(rng), n times, gives a new one each time.",
        errors(lambda book, real: (real, book)),
        "The order is turned. | First the textbook's, then the real one.",
        errors(lambda book, real: (book, book)),
        "Both are the textbook's. | The real one is the scatter of n exponents.",
        errors(lambda book, real: (book / 2**0.5, real)),
        "All eigenvalues are counted. | The tail is the upper half of them: `n_tail` of the fit.",
        errors(lambda book, real: (book / N**0.5, real)),
        "The textbook's error is divided by sqrt(n). | It is that of one spectrum.",
        errors(lambda book, real: (book, real / N**0.5)),
        "That is the error of the mean. | How much does one α scatter? The standard deviation.",
        errors(lambda book, real: (book, real**2)),
        "That is the variance. | Take its root.",
        errors(lambda book, real: (book, 1.96 * real)),
        "That is half an interval. | The standard deviation is asked for.",
    ),
    6: exercise(
        allots(),
        "On other costs and sizes it is not the block and its sparsities. | The costliest block "
        "gets (1 - eps) S; all others the same, so that the mean, weighted by sizes, is S.",
        not_callable,
        "That is no function. | spare(cost, sizes, S, eps) returns block and sparsities.",
        not_a_pair,
        "Two things are asked for. | return block, sparsities",
        allots(turn=-1),
        "The order is turned. | First the block, then the sparsities.",
        allots(pick=lambda cost, sizes: int(np.argmin(cost))),
        "You spare the cheapest block. | Its cost is what its pruning adds to the loss.",
        allots(pick=lambda cost, sizes: 0),
        "You spare block 0, whatever it costs. | Look for the largest cost.",
        allots(pick=lambda cost, sizes: int(np.argmax(cost / sizes))),
        "You spare the block that is costliest per weight. | The cost itself decides.",
        allots(own=lambda S, eps: (1 + eps) * S),
        "The costliest block is pruned more than the others. | Spare it: (1 - eps) S.",
        allots(own=lambda S, eps: S - eps),
        "eps is taken off as it is. | It is a share of S: (1 - eps) S.",
        allots(own=lambda S, eps: 0.0),
        "The block is not pruned at all. | It gets (1 - eps) S.",
        allots(others=lambda own, S, eps, part, n: S),
        "The mean is below S. | What one block is spared the others must bear.",
        allots(others=lambda own, S, eps, part, n: (1 + eps) * S),
        "The others get (1 + eps) S, and the mean is above S. | Solve for the mean.",
        allots(others=lambda own, S, eps, part, n: (n * S - own) / (n - 1)),
        "The mean is not weighted. | A large block counts more: use the sizes.",
        allots(parts=(0,)),
        "The block is right, the sparsities are not. | The mean, weighted by sizes, is S.",
        allots(parts=(1,)),
        "The sparsities are right, the block is not. | Return its number.",
    ),
}
