"""Intervals cover what they promise, tests reject as often as they may, closed forms are met.

Also the two-sample tests of `helpers.twosample`.
"""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from helpers.stats import (
    Estimate,
    bootstrap_ci,
    cliffs_delta,
    mean_ci,
    paired_bootstrap,
    proportion_ci,
)
from helpers.twosample import (
    jackknife_ci,
)

REAL = st.floats(-1e3, 1e3, allow_subnormal=False)
SAMPLES = arrays(float, st.integers(2, 30), elements=REAL)


def test_estimate_prints_its_interval():
    estimate = Estimate(0.5, 0.336, 0.664)
    assert str(estimate) == repr(estimate) == f"{estimate}" == "0.50 [0.34, 0.66]"
    assert f"{estimate:.3f}" == "0.500 [0.336, 0.664]"
    assert str(Estimate(-0.001, -0.2, 0.1)) == "0.00 [-0.20, 0.10]"


def test_estimates_unpack_stack_and_fill_tables():
    estimate = Estimate(0.5, 0.336, 0.664)
    assert tuple(estimate) == (0.5, 0.336, 0.664)
    assert np.asarray([estimate, estimate]).shape == (2, 3)
    mixed = np.array([estimate, (np.nan,) * 3])
    assert mixed.shape == (2, 3) and mixed.dtype == float
    table = pd.DataFrame({"a": {"x": estimate}, "b": [estimate]}, index=["x"])
    for shown in (table.to_string(), table.to_html()):
        assert shown.count("0.50 [0.34, 0.66]") == 2


# Intervals


@pytest.mark.parametrize(("hits", "n"), [(0, 8), (8, 8), (1, 1), (30, 48), (265, 1319)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_proportions_as_statsmodels(hits, n, level):
    estimate = proportion_ci(hits, n, level)
    low, high = proportion_confint(hits, n, alpha=1 - level, method="wilson")
    np.testing.assert_allclose(estimate, [hits / n, low, high], atol=1e-12)
    assert estimate.low < estimate.high  # 0 of n and n of n are no certainty
    assert proportion_ci(np.arange(n) < hits, level=level) == estimate


@given(SAMPLES, st.floats(-50, 50))
@example(np.full(19, -1.9), 0.0)
def test_bootstrap_moves_with_its_data(values, shift):
    one = bootstrap_ci(values, n_resamples=200)
    two = bootstrap_ci(values + shift, n_resamples=200)
    np.testing.assert_allclose(np.array(one) + shift, two, atol=1e-9)
    mirrored = [-one.estimate, -one.high, -one.low]
    np.testing.assert_allclose(bootstrap_ci(-values, n_resamples=200), mirrored, atol=1e-9)
    assert values.min() - 1e-9 <= one.low <= one.high <= values.max() + 1e-9


@given(st.floats(-1e3, 1e3), st.integers(2, 12))
def test_constant_data_has_no_width(value, n):
    values, groups = np.full(n, value), np.arange(n) // 2 if n > 2 else None
    for estimate in (bootstrap_ci(values), bootstrap_ci(values, groups=groups), mean_ci(values)):
        np.testing.assert_allclose(estimate, [value] * 3, rtol=1e-12)


def test_equal_pairs_differ_by_nothing():
    a = np.random.default_rng(0).normal(size=20)
    for own in (a, [True, False, True]):
        assert paired_bootstrap(own, own) == Estimate(0, 0, 0)


def test_bootstrap_approaches_theory():
    values = np.random.default_rng(0).normal(size=2000)
    ours, student = bootstrap_ci(values, n_resamples=10_000), mean_ci(values)
    np.testing.assert_allclose(ours, student, atol=2e-3)
    scipys = scipy_stats.t.interval(0.95, 1999, values.mean(), scipy_stats.sem(values))
    np.testing.assert_allclose(student, [values.mean(), *scipys])


def test_the_interval_is_that_of_a_plain_loop():
    values = np.random.default_rng(0).normal(size=(25, 2))
    generator = np.random.default_rng(7)
    plain = [np.median(values[generator.integers(0, 25, 25)]) for _ in range(500)]
    ours = bootstrap_ci(values, statistic=lambda t: np.median(t, (1, 2)), n_resamples=500, rng=7)
    np.testing.assert_allclose(ours, [np.median(values), *np.quantile(plain, [0.025, 0.975])])


def test_the_fast_mean_agrees_with_the_general_way():
    generator = np.random.default_rng(0)
    values, groups = generator.normal(size=30), generator.integers(0, 6, 30)
    for labels in ({}, {"groups": groups}, {"strata": groups}):
        fast = bootstrap_ci(values, **labels)
        slow = bootstrap_ci(values, statistic=lambda own: own.mean(1), **labels)
        np.testing.assert_allclose(fast, slow, atol=1e-12)
    table = generator.normal(size=(30, 3))
    np.testing.assert_allclose(bootstrap_ci(table), bootstrap_ci(table.mean(axis=1)), atol=1e-12)


def test_memory_blocks_change_nothing_of_the_bootstrap(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap_ci(values), bootstrap_ci(values, groups=np.arange(50) // 5)
    monkeypatch.setattr("helpers.stats._CELLS_AT_ONCE", 120)  # two resamples at a time
    parts = bootstrap_ci(values), bootstrap_ci(values, groups=np.arange(50) // 5)
    np.testing.assert_allclose(whole, parts)


def test_rows_stay_in_their_stratum():
    values = np.concatenate([np.arange(8.0), 100 + np.arange(32.0)])
    small = np.arange(40) < 8

    def gap(own):
        assert own[:, small].max() < 50 < own[:, ~small].min()
        return own[:, ~small].mean(1) - own[:, small].mean(1)

    estimate = bootstrap_ci(values, statistic=gap, strata=small, n_resamples=500)
    assert estimate.low < estimate.estimate == 112 < estimate.high


def test_whole_groups_are_drawn():
    values, groups = np.arange(12.0), np.repeat(["a", "b", "c"], 4)

    def whole(batch):
        (own,) = batch
        _, counts = np.unique(own, return_counts=True)
        assert len(own) == 12 and (counts.reshape(-1, 4) == counts[::4, None]).all()
        return [own.mean()]

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
        (lambda: bootstrap_ci([]), "`values` must have entries"),
        (lambda: bootstrap_ci([[1, 2], [3]]), "`values` must be real numbers, rows of one length"),
        (lambda: bootstrap_ci([1, 2j]), "`values` must be real numbers"),
        (lambda: bootstrap_ci([1, np.nan, 3]), "`values` holds 1 NaN or infinite"),
        (lambda: bootstrap_ci([1.0]), "two or more observations"),
        (lambda: bootstrap_ci([1, 2], level=95), "`level`"),
        (lambda: bootstrap_ci([1, 2], n_resamples=0), "must be positive"),
        (lambda: bootstrap_ci([1, 2], groups=[1]), r"`groups` must have shape \(2,\)"),
        (lambda: bootstrap_ci([1, 2], groups=[1, 1]), "two or more observations"),
        (lambda: bootstrap_ci([1, 2], groups=[1, np.nan]), "`groups` lacks 1 label"),
        (lambda: bootstrap_ci([1, 2], groups=["a", None]), "`groups` lacks 1 label"),
        (lambda: bootstrap_ci([1, 2, 3], strata=[1, 1, 2]), "two or more observations"),
        (lambda: bootstrap_ci([1, 2], strata=[1, 1], groups=[1, 2]), "not both"),
        (lambda: bootstrap_ci([0, 1], statistic=lambda v: v.mean(1) / v.max(1)), "`statistic` is"),
        (lambda: paired_bootstrap([1, 2], [1]), "`a` and `b`"),
        (lambda: paired_bootstrap([[1, 2]], [[1, 2]]), "`a` must have 1 dimension"),
        (lambda: paired_bootstrap([1, 2], [1, np.inf]), "`b` holds 1"),
        (lambda: mean_ci([1]), "`values` must have shape"),
        (lambda: mean_ci([[1, 2], [3, 4]]), "`values` must have 1 dimension"),
        (lambda: mean_ci([1, 2], level=0), "`level`"),
        (lambda: proportion_ci([0, 2]), "`hits` must be 0 or 1"),
        (lambda: proportion_ci([]), "`hits` must have 1 dimension"),
        (lambda: proportion_ci(0.5, 2), "`hits` must be a whole number"),
        (lambda: proportion_ci(3, 2), "`hits` must be at most"),
        (lambda: proportion_ci(0, 0), "`n` must be a whole number"),
        (lambda: proportion_ci(1, 2, level=95), "`level`"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_intervals_refuse(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# Effect sizes


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ((1, 2, 3), (0, 0, 0), 1),
        ((1, 2), (2, 3), -0.75),
        ((3, 5, 8, 2), (4, 4, 1, 7), 0.125),
        ((4, 4), (4,), 0),
    ],
)
def test_cliffs_delta_of_the_brief(x, y, expected):
    assert cliffs_delta(x, y) == pytest.approx(expected, abs=1e-12)


@given(arrays(float, st.integers(1, 20), elements=REAL), SAMPLES)
def test_cliffs_delta_counts_pairs(x, y):
    expected = np.sign(x[:, None] - y).mean()
    assert cliffs_delta(x, y) == pytest.approx(expected, abs=1e-12)
    assert cliffs_delta(y, x) == pytest.approx(-expected, abs=1e-12)
    both = cliffs_delta(np.stack([x, -x]), np.stack([y, -y]))  # samples along the last axis
    np.testing.assert_allclose(both, [expected, -expected], atol=1e-12)


def test_mean_ci_of_the_brief():
    estimate = mean_ci([1, 2, 3, 4, 5])
    np.testing.assert_allclose(estimate, [3, 3 - 1.963243, 3 + 1.963243], atol=5e-7)
    own = scipy_stats.ttest_1samp([1, 2, 3, 4, 5], 0).confidence_interval(0.8)
    np.testing.assert_allclose(mean_ci([1, 2, 3, 4, 5], 0.8), [3, *own])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cliffs_delta([], [1]), "`x` must have entries"),
        (lambda: cliffs_delta([1], [np.nan]), "`y` holds 1 NaN"),
        (lambda: jackknife_ci(np.mean, [0, 0, 1]), "`arms`"),
        (lambda: jackknife_ci(np.mean, []), "`arms`"),
        (lambda: jackknife_ci(lambda keep: np.nan, [0, 0]), "`statistic`"),
        (lambda: jackknife_ci(np.mean, [0, 0], level=1), "`level`"),
    ],
)
def test_effect_sizes_refuse(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# Two-sample tests: matrices and labels
