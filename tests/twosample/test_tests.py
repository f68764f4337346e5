"""Two-sample tests against closed forms, brute force and theory."""

from itertools import combinations
from math import comb, log, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats
from scipy.spatial.distance import jensenshannon, pdist, squareform
from test_stats import covered

from helpers.stats import mean_ci
from helpers.twosample import (
    energy_coefficient,
    energy_statistics,
    energy_test,
    jackknife_ci,
    label_matrix,
    pair_histograms,
    permutation_pvalue,
    permutation_test,
    similarity_statistics,
    similarity_test,
)

REAL = st.floats(-1e3, 1e3, allow_subnormal=False)


def distance_matrix(z, metric="euclidean"):
    return squareform(pdist(z, metric))


def coefficient_ci(d, n_x, level=0.95):
    """The energy coefficient with its jackknife interval over answers."""
    return jackknife_ci(
        lambda keep: energy_coefficient(d[np.ix_(keep, keep)], np.count_nonzero(keep < n_x)),
        np.arange(len(d)) < n_x,
        level,
    )


def test_jackknife_of_means_is_students():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=12), generator.normal(2, 3, size=7)
    both = np.concatenate([x, y])
    one = jackknife_ci(lambda keep: x[keep].mean(), np.zeros(12))
    np.testing.assert_allclose(one, mean_ci(x), rtol=1e-10)
    two = jackknife_ci(
        lambda keep: both[keep[keep >= 12]].mean() - both[keep[keep < 12]].mean(),
        ["x"] * 12 + ["y"] * 7,
    )
    assert two.estimate == pytest.approx(y.mean() - x.mean())
    half = scipy_stats.t.ppf(0.975, 17) * sqrt(x.var(ddof=1) / 12 + y.var(ddof=1) / 7)
    assert two.high - two.estimate == pytest.approx(half)


def test_coverage_of_the_energy_coefficient():
    """Of its own mean at this number of answers, for a clear effect."""

    def interval(generator):
        z = generator.normal(size=(40, 3))
        z[20:, 0] += 1.5
        return coefficient_ci(distance_matrix(z), 20)

    generator = np.random.default_rng(1)
    truth = np.mean([interval(generator).estimate for _ in range(200)])
    assert 0.91 <= covered(interval, truth, n_trials=300) <= 0.98


ANSWERS = arrays(float, st.tuples(st.integers(4, 9), st.integers(1, 4)), elements=REAL)
LINE = distance_matrix([[0], [1], [3], [5]])  # X = {0, 1}, Y = {3, 5}
ORACLE = [5.5, 1.5, 1.5, 1.5, 1.5, 5.5]


def test_label_matrix_observed_first_and_uniform():
    labels = label_matrix(12, 20, 100_000)
    assert labels.shape == (100_001, 32) and labels.dtype == bool
    np.testing.assert_array_equal(labels[0], np.arange(32) < 12)
    np.testing.assert_array_equal(labels.sum(axis=1), 12)
    np.testing.assert_allclose(labels.mean(axis=0), 12 / 32, atol=0.01)
    small = label_matrix(2, 3, 8, rng=1)[1:]  # 8 of 10 relabellings, at random
    many = np.concatenate([label_matrix(2, 3, 8, rng=seed)[1:] for seed in range(500)])
    assert small.shape == (8, 5)
    _, counts = np.unique(many, axis=0, return_counts=True)
    assert len(counts) == 10 and scipy_stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(("n_x", "n_y"), [(1, 1), (2, 2), (3, 5), (6, 2)])
def test_label_matrix_enumerates_all_when_they_are_few(n_x, n_y):
    count = comb(n_x + n_y, n_x)
    for n_permutations in (count - 1, count, 10_000):
        labels = label_matrix(n_x, n_y, n_permutations)
        assert len(labels) == count == len(np.unique(labels, axis=0))
        np.testing.assert_array_equal(labels[0], np.arange(n_x + n_y) < n_x)
        np.testing.assert_array_equal(labels.sum(axis=1), n_x)
    if count > 2:
        assert len(label_matrix(n_x, n_y, count - 2)) == count - 1


def test_memory_blocks_change_nothing(monkeypatch):
    d = distance_matrix(np.random.default_rng(0).normal(size=(20, 3)))
    whole = [
        label_matrix(8, 12),
        energy_statistics(d, label_matrix(8, 12)),
        similarity_statistics(d, label_matrix(8, 12)),
    ]
    monkeypatch.setattr("helpers.twosample.tests._BYTES_AT_ONCE", 3000)
    parts = [
        label_matrix(8, 12),
        energy_statistics(d, label_matrix(8, 12)),
        similarity_statistics(d, label_matrix(8, 12)),
    ]
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-14)


def test_seed_and_generator_of_tests():
    d = distance_matrix(np.random.default_rng(0).normal(size=(20, 3)))
    one, two = (energy_test(d, 10, rng=rng) for rng in (3, np.random.default_rng(3)))
    np.testing.assert_array_equal(one.null_distribution, two.null_distribution)
    assert (energy_test(d, 10, rng=4).null_distribution != one.null_distribution).any()


# Two-sample tests: energy and MMD


def energy_by_hand(d, x, y):
    return 2 * d[np.ix_(x, y)].mean() - d[np.ix_(x, x)].mean() - d[np.ix_(y, y)].mean()


def splits(n, n_x):
    """All first arms with what is left."""
    for x in combinations(range(n), n_x):
        yield list(x), [i for i in range(n) if i not in x]


def test_energy_on_a_line():
    assert energy_by_hand(LINE, [0, 1], [2, 3]) == 5.5
    np.testing.assert_allclose(energy_statistics(LINE, label_matrix(2, 2)), ORACLE)
    result = energy_test(LINE, 2)
    assert result.exact and result.n_permutations == 6
    assert (result.statistic, result.pvalue) == (pytest.approx(5.5), pytest.approx(1 / 3))
    assert result.z == pytest.approx((5.5 - np.mean(ORACLE)) / np.std(ORACLE))
    assert energy_coefficient(LINE, 2) == pytest.approx(5.5 / (2 * 3.5))
    assert "array" not in repr(result)


def test_energy_of_single_answers_and_equal_arms():
    d = distance_matrix([[0.0, 0], [3, 4]])
    assert energy_statistics(d, label_matrix(1, 1))[0] == pytest.approx(10)
    assert energy_coefficient(d, 1) == 1
    z = np.random.default_rng(0).normal(size=(5, 3))
    d = distance_matrix(np.concatenate([z, z[::-1]]))
    assert energy_statistics(d, label_matrix(5, 5))[0] == pytest.approx(0, abs=1e-14)
    assert energy_test(d, 5).pvalue == 1


@pytest.mark.parametrize("test", [energy_test, similarity_test])
def test_constant_answers_are_no_evidence(test):
    for d in (np.zeros((12, 12)), 1 - np.eye(12)):  # one answer twelve times; all equally far
        result = test(d, 5)
        assert (result.pvalue, result.z) == (1, 0)
    assert energy_coefficient(np.zeros((4, 4)), 2) == 0


@given(ANSWERS, st.data())
def test_all_relabellings_as_by_brute_force(z, data):
    n, d = len(z), distance_matrix(z)
    n_x = data.draw(st.integers(2, n - 2))
    brute = [energy_by_hand(d, x, y) for x, y in splits(n, n_x)]
    result = energy_test(d, n_x)
    np.testing.assert_allclose(result.null_distribution, brute, atol=1e-10)
    tolerance = 1e-9 * np.abs(brute).max()
    assert result.pvalue == pytest.approx(np.mean(np.array(brute) >= brute[0] - tolerance))
    assert result.exact and result.n_permutations == comb(n, n_x)


@given(ANSWERS, st.floats(0.01, 100), st.data())
def test_energy_invariances(z, scale, data):
    n, n_x = len(z), data.draw(st.integers(1, len(z) - 1))
    d, labels = distance_matrix(z), label_matrix(n_x, n - n_x, 50)
    energies, most = energy_statistics(d, labels), d.max()
    assert energies.min() >= -1e-12 * most
    np.testing.assert_allclose(energy_statistics(d, ~labels), energies, atol=1e-12 * most)
    np.testing.assert_allclose(energy_statistics(scale * d, labels) / scale, energies, atol=1e-9)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(z.shape[1],) * 2))[0]
    turned = energy_statistics(distance_matrix(z @ turn + 1), labels)
    np.testing.assert_allclose(turned, energies, atol=1e-8)
    order = data.draw(st.permutations(range(n_x)))
    order += data.draw(st.permutations(range(n_x, n)))
    shuffled = d[np.ix_(order, order)]
    assert energy_statistics(shuffled, labels)[0] == pytest.approx(energies[0], abs=1e-12 * most)
    h = energy_coefficient(d, n_x)
    assert -1e-12 <= h <= 1
    assert energy_coefficient(shuffled, n_x) == pytest.approx(h, abs=1e-9)
    if most > 0:
        across = d[:n_x, n_x:].mean()
        assert 2 * across * h == pytest.approx(energies[0], abs=1e-12 * most)


@given(ANSWERS, st.data())
def test_cosine_energy_is_the_distance_of_centroids(z, data):
    assume((np.abs(z).max(axis=1) > 1e-3).all())
    n_x = data.draw(st.integers(1, len(z) - 1))
    units = z / np.linalg.norm(z, axis=1, keepdims=True)
    energy = energy_statistics(distance_matrix(z, "cosine"), np.arange(len(z))[None] < n_x)[0]
    gap = units[:n_x].mean(axis=0) - units[n_x:].mean(axis=0)
    assert energy == pytest.approx(gap @ gap, abs=1e-9)


def sphere(generator, *shape):
    z = generator.normal(size=(*shape, 3))
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def test_mean_energy_of_the_brief():
    """Two equal arms: 2 E[d] / k, so H is about 1 / k; a sphere against a point: 4/3 (1 + 1/k)."""
    generator, k, energies, ratios, points = np.random.default_rng(0), 32, [], [], []
    observed = np.arange(2 * k)[None] < k
    for z in sphere(generator, 300, 2 * k):
        d = distance_matrix(z)
        energies.append(energy_statistics(d, observed)[0])
        ratios.append(energy_coefficient(d, k))
        z[k:] = [0, 0, 1]
        points.append([energy_statistics(distance_matrix(z, m), observed)[0] for m in METRICS])
    assert np.mean(energies) == pytest.approx(2 * (4 / 3) / k, rel=0.05)
    assert np.mean(ratios) == pytest.approx(0.031, abs=0.002)
    np.testing.assert_allclose(np.mean(points, axis=0), [4 / 3 * (1 + 1 / k), 1 + 1 / k], rtol=0.02)


METRICS = ("euclidean", "cosine")


@pytest.mark.parametrize(("k", "p"), [(3, 0.1), (4, 0.02857), (5, 0.00794)])
def test_smallest_p_with_all_relabellings(k, p):
    z = np.concatenate([np.arange(k), 1000 + np.arange(k) ** 1.5])[:, None]
    assert energy_test(distance_matrix(z), k).pvalue == pytest.approx(p, abs=5e-6)
    assert energy_test(distance_matrix(z), k, alpha=p + 1e-5).exact
    with pytest.raises(ValueError, match=r"`n_x` = . against . answers .* draw more answers"):
        energy_test(distance_matrix(z), k, alpha=p - 1e-5)
    # A statistic that tells the arms apart and has no ties reaches half of it.
    weights = 2.0 ** np.arange(2 * k)[::-1]
    half = permutation_test(lambda labels: labels @ weights, 2 * k, k)
    assert half.pvalue == pytest.approx(p / 2, abs=5e-6)
    permutation_test(lambda labels: labels @ weights, 2 * k, k, alpha=p / 2 + 1e-5)


def test_pvalues_count_ties_and_never_vanish():
    assert permutation_pvalue([1, *np.zeros(99)]) == 0.01
    assert permutation_pvalue([0.3, 0.1 + 0.2, 0.3 - 1e-12, 0.2]) == 0.75
    assert permutation_pvalue([0, 0]) == permutation_pvalue([-5, -5]) == 1
    assert permutation_pvalue([-2, -1, -3, -2]) == 0.75
    for stats in ([1], [[1, 2]], 3.0):
        with pytest.raises(ValueError, match=r"`stats` must"):
            permutation_pvalue(stats)
    with pytest.raises(ValueError, match=r"`stats` holds 1 NaN"):
        permutation_pvalue([1, np.nan])


# Two-sample tests: Algorithm 1


def algorithm_1(s, labels, n_bins=30):
    """The paper's loop with common bins, as a notebook would write it."""
    edges = np.linspace(*np.quantile(s[np.triu_indices(len(s), 1)], [0, 1]), n_bins + 1)
    found = []
    for own in labels:
        within = s[np.ix_(own, own)][np.triu_indices(own.sum(), 1)]
        across = s[np.ix_(own, ~own)].ravel()
        found.append((np.histogram(within, edges)[0], np.histogram(across, edges)[0]))
    return map(np.array, zip(*found, strict=True))


@pytest.mark.parametrize(("n_x", "n_y"), [(2, 2), (2, 6), (7, 3), (20, 20)])
def test_algorithm_1_as_a_plain_loop(n_x, n_y):
    s = 1 - distance_matrix(np.random.default_rng(0).normal(size=(n_x + n_y, 4)), "cosine")
    labels = label_matrix(n_x, n_y, 199)
    within, across = algorithm_1(s, labels)
    for ours, plain in zip(pair_histograms(s, labels), (within, across), strict=True):
        np.testing.assert_array_equal(ours, plain)
    assert within[0].sum() == n_x * (n_x - 1) / 2 and across[0].sum() == n_x * n_y
    omegas = np.array([jensenshannon(*pair) for pair in zip(within, across, strict=True)])
    np.testing.assert_allclose(similarity_statistics(s, labels), omegas, atol=1e-12)
    result = similarity_test(s, n_x, n_permutations=199)
    assert result.pvalue == permutation_pvalue(omegas)
    assert result.exact == (comb(n_x + n_y, n_x) <= 200)
    if n_x == n_y == 20:  # the statistic is not symmetric in the arms
        assert np.abs(similarity_statistics(s, ~labels) - omegas).max() > 0.01
        assert (within[0].sum(), across[0].sum()) == (190, 400)


@given(ANSWERS, st.sampled_from([0.25, 1, 8]), st.data())
def test_algorithm_1_invariances(z, scale, data):
    n, s = len(z), np.round(distance_matrix(z))
    n_x = data.draw(st.integers(2, n - 1))
    labels = label_matrix(n_x, n - n_x, 30)
    omegas = similarity_statistics(s, labels)
    assert omegas.min() >= 0 and omegas.max() <= sqrt(log(2)) + 1e-12
    np.testing.assert_array_equal(similarity_statistics(scale * s, labels), omegas)
    order = data.draw(st.permutations(range(n_x))) + data.draw(st.permutations(range(n_x, n)))
    shuffled = similarity_statistics(s[np.ix_(order, order)], labels[:1])
    np.testing.assert_array_equal(shuffled, omegas[:1])
    on_the_diagonal = s + np.diag(np.arange(n) * s.max())
    np.testing.assert_array_equal(similarity_statistics(on_the_diagonal, labels), omegas)


def test_js_distance_of_disjoint_equal_and_unbinned():
    tight = np.zeros((8, 8))
    tight[:4, 4:] = tight[4:, :4] = 1  # all pairs within are alike, all across too
    assert similarity_test(tight, 4).statistic == pytest.approx(0.832555, abs=1e-6)
    assert similarity_test(np.ones((8, 8)), 4).statistic == 0
    # Every similarity in a bin of its own: the literal reading, under which nothing is rejected.
    generator, n_pairs = np.random.default_rng(0), 12 * 11 // 2
    ranks, places = np.zeros((12, 12)), np.triu_indices(12, 1)
    ranks[places] = generator.permutation(n_pairs)
    result = similarity_test(ranks + ranks.T, 6, n_bins=n_pairs)
    np.testing.assert_allclose(result.null_distribution, sqrt(log(2)))
    assert result.pvalue == 1


# Two-sample tests: size and power


def cluster(generator, n, spread=0.35, shift=0.0, uneven=0.0):
    """Unit vectors around the first axis of 20 dimensions, like embedded answers.

    When `uneven`, some answers are far more typical than others, so that similarities of one
    answer are strongly correlated: shuffled similarities reject a true null in every other case.
    """
    z = spread * generator.normal(size=(n, 20)) * np.exp(uneven * generator.normal(size=(n, 1)))
    z[:, :2] += [1, shift]
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def by_energy(z, k, rng):
    return energy_test(distance_matrix(z), k, n_permutations=99, rng=rng)


def by_similarity(z, k, rng):
    return similarity_test(z @ z.T, k, n_permutations=99, rng=rng)


def pvalues(test, generator, n, k, m, both=None, **second):
    """p-values of `n` pairs of arms, the second one drawn with other settings."""
    both, found = both or {}, []
    for _ in range(n):
        x, y = cluster(generator, k, **both), cluster(generator, m, **both, **second)
        found.append(test(np.concatenate([x, y]), k, generator).pvalue)
    return np.array(found)


EACH_TEST = pytest.mark.parametrize("test", [by_energy, by_similarity])


@EACH_TEST
@pytest.mark.parametrize(("k", "m"), [(20, 20), (8, 14)])
def test_size(test, k, m):
    n = 2500
    found = pvalues(test, np.random.default_rng([k, m]), n, k, m, both={"uneven": 1.0})
    for alpha in (0.05, 0.2):
        low, high = scipy_stats.binom.interval(0.99, n, alpha)
        assert low <= np.count_nonzero(found <= alpha + 1e-12) <= high
    deciles = np.bincount(np.ceil(found * 10 - 1e-9).astype(int) - 1, minlength=10)
    assert scipy_stats.chisquare(deciles).pvalue > 0.001  # uniform


def test_power_against_a_shift():
    # The brief measured .97 for energy and .08 for Algorithm 1, which this shift escapes.
    generator = np.random.default_rng(0)
    assert (pvalues(by_energy, generator, 200, 20, 20, shift=0.6) <= 0.05).mean() > 0.85


def test_power_of_algorithm_1_against_another_spread():
    generator = np.random.default_rng(0)
    assert (pvalues(by_similarity, generator, 100, 20, 20, spread=0.7) <= 0.05).mean() > 0.6
    assert (pvalues(by_similarity, generator, 100, 20, 20, shift=8) <= 0.05).mean() > 0.9
    assert (pvalues(by_similarity, generator, 100, 20, 20, shift=0.6) <= 0.05).mean() < 0.3


def test_random_and_all_relabellings_agree():
    z = cluster(np.random.default_rng(3), 12, shift=0.2)
    z[6:] += 0.1
    for test, matrix in ((energy_test, distance_matrix(z)), (similarity_test, z @ z.T)):
        every = test(matrix, 6)
        some = test(matrix, 6, n_permutations=900)
        assert every.exact and every.n_permutations == 924 and not some.exact
        assert some.statistic == every.statistic
        error = sqrt(every.pvalue * (1 - every.pvalue) / 900)
        assert abs(some.pvalue - every.pvalue) <= 4 * error + 1 / 900


# Two-sample tests: what they refuse


def with_entry(value, at=(0, 1)):
    d = LINE.copy()
    d[at] = d[at[::-1]] = value
    return d


EVERY_MATRIX = [
    (np.zeros((3, 4)), r"must have shape \(N, N\)"),
    ([[0.0]], "N at least 2"),
    ([], "must have 2 dimension"),
    ([[0, 1], [1]], "rows of one length"),
    (with_entry(np.nan), r"holds 2 NaN or infinite value\(s\)"),
    (LINE + np.triu(LINE), "is not symmetric"),
]


@pytest.mark.parametrize(("matrix", "says"), EVERY_MATRIX)
def test_tests_refuse_matrices(matrix, says):
    for name, call in (
        ("d", energy_test),
        ("d", energy_coefficient),
        ("s", similarity_test),
    ):
        with pytest.raises(ValueError, match=f"`{name}` .*{says}"):
            call(matrix, 2)


BIG = distance_matrix(np.random.default_rng(0).normal(size=(20, 2)))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: energy_test(with_entry(-0.1), 2), "`d` holds negative distances, down to -0.1"),
        (lambda: energy_test(with_entry(0.1, (2, 2)), 2), "`d` is not 0 on its diagonal"),
        (lambda: energy_test(LINE, 1), "`n_x` must be a whole number, at least 2; got 1"),
        (lambda: energy_test(LINE, 3), "`n_x` = 3 of 4 answers"),
        (lambda: similarity_test(LINE, 2.0), "`n_x` must be a whole number"),
        (lambda: energy_coefficient(LINE, 4), "`n_x` = 4 leaves nothing"),
        (lambda: energy_test(LINE, 2, n_permutations=0), "`n_permutations`"),
        (lambda: energy_test(BIG, 10, alpha=0), "`alpha` must lie"),
        (lambda: similarity_test(BIG, 10, alpha=1), "`alpha` must lie"),
        (lambda: energy_test(BIG, 10, alpha=np.nan), "`alpha` must lie"),
        (lambda: energy_test(BIG, 10, alpha=0.05, n_tests=0), "`n_tests`"),
        (lambda: similarity_test(BIG, 10, n_bins=0), "`n_bins`"),
        (lambda: similarity_statistics(BIG, np.eye(20, dtype=bool)), "2 to 19"),
        (lambda: energy_statistics(BIG, np.ones((1, 20), dtype=bool)), "got 20 to 20"),
        (lambda: energy_statistics(BIG, np.tri(3, 20) > 0), "got 1 to 3"),
        (lambda: energy_statistics(BIG, np.eye(20)), "`labels` must be booleans"),
        (lambda: energy_statistics(BIG, np.eye(19, dtype=bool)), r"shape \(R, 20\)"),
        (lambda: label_matrix(0, 3), "`n_x`"),
        (lambda: label_matrix(3, True), "`n_y`"),
    ],
)
def test_two_sample_tests_refuse(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_too_few_permutations_for_the_level():
    """B >= m / alpha - 1: 16 tests need 319, the paper's table of 72 cells 1439."""
    for n_tests, needed in ((1, 19), (16, 319), (72, 1439)):
        energy_test(BIG, 10, alpha=0.05, n_tests=n_tests, n_permutations=needed)
        with pytest.raises(ValueError, match=f"`n_permutations` .* take at least {needed}"):
            energy_test(BIG, 10, alpha=0.05, n_tests=n_tests, n_permutations=needed - 1)


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_a_common_factor_changes_no_test(scale):
    z = np.random.default_rng(0).normal(size=(20, 4))
    z[:10] += 0.7
    d = distance_matrix(z)
    plain, scaled = energy_test(d, 10), energy_test(d * scale, 10)
    assert plain.pvalue == scaled.pvalue < 0.9
    assert plain.z == pytest.approx(scaled.z) != 0
    assert energy_coefficient(d * scale, 10) == pytest.approx(energy_coefficient(d, 10))
