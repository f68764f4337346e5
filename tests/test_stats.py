"""Intervals cover what they promise, concentration measures meet their closed forms."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from helpers.stats import (
    Estimate,
    bootstrap_ci,
    exceed_share,
    gini,
    max_over_median,
    mean_ci,
    paired_bootstrap,
)

REAL = st.floats(-1e3, 1e3, allow_subnormal=False)
MAGNITUDE = st.floats(0, 1e6, allow_subnormal=False)
SAMPLES = arrays(float, st.integers(2, 30), elements=REAL)
ROWS = arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 20)), elements=MAGNITUDE)


def test_estimate_prints_its_interval():
    estimate = Estimate(0.5, 0.336, 0.664)
    assert str(estimate) == f"{estimate}" == "0.50 [0.34, 0.66]"
    assert f"{estimate:.3f}" == "0.500 [0.336, 0.664]"
    assert str(Estimate(-0.001, -0.2, 0.1)) == "0.00 [-0.20, 0.10]"
    assert estimate == (0.5, 0.336, 0.664)


# Concentration


@pytest.mark.parametrize(
    ("x", "expected"), [([1, 1, 1, 1], 0), ([0, 0, 0, 1], 0.75), ([1, 2, 3, 4], 0.25), ([7], 0)]
)
def test_gini_by_hand(x, expected):
    assert gini(x) == pytest.approx(expected, abs=1e-15)


def test_other_concentration_measures_by_hand():
    assert max_over_median([1, 2, 3, 10]) == 4.0
    assert exceed_share([1, 1, 1, 1, 6], 2) == pytest.approx(0.2)
    assert exceed_share([1, 1, 1, 3], 2) == 0  # 3 is not larger than twice the mean of 1.5


@given(arrays(float, st.integers(1, 20), elements=MAGNITUDE))
def test_gini_is_half_the_relative_mean_difference(x):
    assume(x.max() > 0)
    n = len(x)
    differences = np.abs(x[:, None] / x.max() - x / x.max()).sum()
    expected = differences / (2 * n * (x / x.max()).sum())
    assert gini(x) == pytest.approx(expected, abs=1e-12)
    assert -1e-12 <= gini(x) <= (n - 1) / n + 1e-12


@given(ROWS, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_measures_are_free_of_scale_and_order(x, scale, random):
    assume((np.median(x, axis=1) > 0).all())
    order = random.sample(range(x.shape[1]), x.shape[1])
    for measure in (gini, max_over_median):
        assert measure(x).shape == x.shape[:1]
        np.testing.assert_allclose(measure(scale * x[:, order]), measure(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(exceed_share(x, 3)[:, None] <= 1 / 3, True)  # Markov


@pytest.mark.parametrize("measure", [gini, max_over_median, lambda x, **k: exceed_share(x, 2, **k)])
def test_measures_along_an_axis(measure):
    x = np.random.default_rng(0).exponential(size=(3, 5, 7))
    for axis in (0, 1, 2, -1, -2):
        result = measure(x, axis=axis)
        by_hand = np.apply_along_axis(measure, axis, x)
        np.testing.assert_allclose(result, by_hand, rtol=1e-12)
    assert isinstance(measure(x[0, 0]), float)
    with pytest.raises(ValueError, match=r"`axis` 3 does not exist"):
        measure(x, axis=3)


@pytest.mark.parametrize("measure", [gini, max_over_median, lambda x: exceed_share(x, 2)])
@pytest.mark.parametrize(
    ("x", "says"),
    [
        ([], "`x` is empty"),
        ([1, np.nan, np.inf], "2 NaN or infinite"),
        ([1, -1], "negative"),
        (["a"], "real numbers"),
        ([[1, 2], [3]], "rectangular"),
    ],
)
def test_measures_refuse(measure, x, says):
    with pytest.raises(ValueError, match=says):
        measure(x)


def test_measures_refuse_where_they_are_not_defined():
    with pytest.raises(ValueError, match="all zero"):
        gini([[1, 2], [0, 0]])
    with pytest.raises(ValueError, match="median is zero"):
        max_over_median([0, 0, 1])
    assert exceed_share([0, 0], 2) == 0  # nothing exceeds, whatever the unit
    for factor in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="`factor`"):
            exceed_share([1, 2], factor)


# Intervals


@given(SAMPLES, st.floats(-50, 50))
def test_bootstrap_moves_with_its_data(values, shift):
    one = bootstrap_ci(values, n_resamples=200)
    two = bootstrap_ci(values + shift, n_resamples=200)
    np.testing.assert_allclose(np.array(one) + shift, two, atol=1e-9)
    np.testing.assert_allclose(
        np.array(bootstrap_ci(-values, n_resamples=200)),
        [-one.estimate, -one.high, -one.low],
        atol=1e-9,
    )
    assert values.min() - 1e-9 <= one.low <= one.high <= values.max() + 1e-9


@given(st.floats(-1e3, 1e3), st.integers(2, 12))
def test_constant_data_has_no_width(value, n):
    values, groups = np.full(n, value), np.arange(n) // 2 if n > 2 else None
    for estimate in (bootstrap_ci(values), bootstrap_ci(values, groups=groups), mean_ci(values)):
        np.testing.assert_allclose(estimate, [value] * 3, rtol=1e-12)


def test_equal_pairs_differ_by_nothing():
    a = np.random.default_rng(0).normal(size=20)
    assert paired_bootstrap(a, a) == (0, 0, 0)
    assert paired_bootstrap([True, False, True], [True, False, True]) == (0, 0, 0)


def test_bootstrap_approaches_theory():
    values = np.random.default_rng(0).normal(size=2000)
    ours, student = bootstrap_ci(values, n_resamples=10_000), mean_ci(values)
    np.testing.assert_allclose(ours, student, atol=2e-3)
    scipys = scipy_stats.t.interval(0.95, 1999, values.mean(), scipy_stats.sem(values))
    np.testing.assert_allclose(student, [values.mean(), *scipys])


def test_the_fast_mean_agrees_with_the_general_way():
    generator = np.random.default_rng(0)
    values, groups = generator.normal(size=30), generator.integers(0, 6, 30)
    for labels in ({}, {"groups": groups}, {"strata": groups}):
        fast = bootstrap_ci(values, **labels)
        slow = bootstrap_ci(values, statistic=lambda own: own.mean(), **labels)
        np.testing.assert_allclose(fast, slow, atol=1e-12)
    table = generator.normal(size=(30, 3))
    np.testing.assert_allclose(bootstrap_ci(table), bootstrap_ci(table.mean(axis=1)), atol=1e-12)


def test_memory_blocks_change_no_distribution(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap_ci(values, n_resamples=3000), bootstrap_ci(values, groups=np.arange(50) // 5)
    monkeypatch.setattr("helpers.stats._CELLS_AT_ONCE", 120)  # two resamples at a time
    parts = bootstrap_ci(values, n_resamples=3000), bootstrap_ci(values, groups=np.arange(50) // 5)
    np.testing.assert_allclose(whole, parts, atol=0.03)


def test_rows_stay_in_their_stratum():
    values = np.concatenate([np.arange(8.0), 100 + np.arange(32.0)])
    small = np.arange(40) < 8

    def gap(own):
        assert own[small].max() < 50 < own[~small].min()
        return own[~small].mean() - own[small].mean()

    estimate = bootstrap_ci(values, statistic=gap, strata=small, n_resamples=500)
    assert estimate.low < estimate.estimate == 112 < estimate.high


def test_whole_groups_are_drawn():
    values, groups = np.arange(12.0), np.repeat(["a", "b", "c"], 4)

    def whole(own):
        _, counts = np.unique(own, return_counts=True)
        assert len(own) == 12 and (counts.reshape(-1, 4) == counts[::4, None]).all()
        return own.mean()

    bootstrap_ci(values, statistic=whole, groups=groups, n_resamples=300)


def test_generator_and_seed():
    values = np.random.default_rng(1).normal(size=20)
    assert bootstrap_ci(values, rng=3) == bootstrap_ci(values, rng=np.random.default_rng(3))
    assert bootstrap_ci(values, rng=3) != bootstrap_ci(values, rng=4)
    narrow, wide = bootstrap_ci(values, level=0.5), bootstrap_ci(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def covered(interval, truth, n_trials=400, seed=0):
    """Share of simulated intervals that hold the truth."""
    generator = np.random.default_rng(seed)
    found = [interval(generator) for _ in range(n_trials)]
    return np.mean([low <= truth <= high for _, low, high in found])


def test_coverage_of_the_mean():
    # 400 trials at 95 % have a standard error of 1.1 points.
    assert 0.92 <= covered(lambda g: mean_ci(g.normal(2, 3, 12)), 2) <= 0.98
    assert 0.91 <= covered(lambda g: bootstrap_ci(g.normal(2, 3, 60), n_resamples=500), 2) <= 0.98
    eighty = covered(lambda g: mean_ci(g.normal(2, 3, 12), level=0.8), 2)
    assert 0.74 <= eighty <= 0.86


def clustered(generator):
    """25 groups of 8 values that share most of their noise; mean 0."""
    groups = np.repeat(np.arange(25), 8)
    return generator.normal(size=25)[groups] + 0.3 * generator.normal(size=200), groups


def test_coverage_with_clusters():
    def right(generator):
        values, groups = clustered(generator)
        return bootstrap_ci(values, groups=groups, n_resamples=400)

    def naive(generator):
        return bootstrap_ci(clustered(generator)[0], n_resamples=400)

    assert 0.88 <= covered(right, 0) <= 0.98  # the percentile interval is a little short here
    assert covered(naive, 0) < 0.7
    values, groups = clustered(np.random.default_rng(5))
    wide = paired_bootstrap(values, 0 * values, groups=groups)
    narrow = paired_bootstrap(values, 0 * values)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bootstrap_ci([]), "`values` is empty"),
        (lambda: bootstrap_ci([1, np.nan, 3]), "`values` holds 1 NaN or infinite"),
        (lambda: bootstrap_ci([1.0]), "single item"),
        (lambda: bootstrap_ci([1, 2], level=95), "`level`"),
        (lambda: bootstrap_ci([1, 2], n_resamples=0), "`n_resamples`"),
        (lambda: bootstrap_ci([1, 2], groups=[1]), r"`groups` must have shape \(2,\)"),
        (lambda: bootstrap_ci([1, 2], groups=[1, 1]), "`groups` names a single group"),
        (lambda: bootstrap_ci([1, 2], groups=[1, np.nan]), "`groups` lacks 1 label"),
        (lambda: bootstrap_ci([1, 2], groups=["a", None]), "`groups` lacks 1 label"),
        (lambda: bootstrap_ci([1, 2, 3], strata=[1, 1, 2]), "`strata` has a single item"),
        (lambda: bootstrap_ci([1, 2], strata=[1, 1], groups=[1, 2]), "not both"),
        (lambda: bootstrap_ci([0, 1], statistic=lambda v: v.mean() / v.max()), "`statistic` is"),
        (lambda: paired_bootstrap([1, 2], [1]), "`a` and `b`"),
        (lambda: paired_bootstrap([[1, 2]], [[1, 2]]), "`a` and `b`"),
        (lambda: paired_bootstrap([1, 2], [1, np.inf]), "`b` holds 1"),
        (lambda: mean_ci([1]), "`values` must have shape"),
        (lambda: mean_ci([[1, 2], [3, 4]]), "`values` must have shape"),
        (lambda: mean_ci([1, 2], level=0), "`level`"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_intervals_refuse(call, says):
    with pytest.raises(ValueError, match=says):
        call()
