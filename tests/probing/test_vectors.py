"""Cosines and dimensions of word vectors against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import probing

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 5))


def test_mean_cosine_by_hand():
    e = np.eye(3)
    for rows, expected in (
        (e, 0),
        ([e[0]] * 3, 1),
        ([e[0], e[1], -e[0], -e[1]], -1 / 3),
        ([e[0], e[0], e[0], -e[0]], 0),
    ):
        assert probing.mean_cosine(rows) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 1000))
def test_mean_cosine_is_that_of_all_pairs(seed):
    rows = np.random.default_rng(seed).normal(size=(7, 4))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = (unit @ unit.T)[np.triu_indices(7, 1)]
    assert probing.mean_cosine(rows * 3) == pytest.approx(pairs.mean(), abs=1e-12)


def test_participation_ratio_by_hand():
    rows = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]) * np.sqrt([[3, 1]])
    assert probing.participation_ratio(rows) == pytest.approx(1.6)
    k = 5
    equal = np.concatenate([np.eye(k), -np.eye(k)])
    assert probing.participation_ratio(equal) == pytest.approx(k)
    assert probing.participation_ratio(equal + 7) == pytest.approx(k)
    wide = np.random.default_rng(0).normal(size=(6, 40))
    values = np.linalg.eigvalsh(np.cov(wide.T))
    expected = values.sum() ** 2 / (values**2).sum()
    assert probing.participation_ratio(wide) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [probing.mean_cosine, probing.participation_ratio])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_geometry_does_not_feel_a_factor(measure, scale):
    rows = RNG.normal(size=(9, 5))
    assert measure(rows * scale) == pytest.approx(measure(rows), rel=1e-12)
    if measure is probing.mean_cosine:
        assert measure(rows * np.geomspace(1, scale, 9)[:, None]) == pytest.approx(measure(rows))


@given(st.floats(-1e6, 1e6), st.integers(2, 300), st.integers(1, 300), st.integers(0, 10_000))
def test_participation_ratio_of_equal_rows_is_refused(value, n, d, seed):
    rows = np.tile(value * (1 + np.random.default_rng(seed).random(d)), (n, 1))
    with pytest.raises(ValueError, match="equal rows only"):
        probing.participation_ratio(rows)


@pytest.mark.parametrize("measure", [probing.mean_cosine, probing.participation_ratio])
def test_geometry_of_nothing_is_refused(measure):
    for rows in (np.ones((1, 3)), np.zeros((4, 3)), np.full((4, 3), np.nan)):
        with pytest.raises(ValueError, match="`vectors`"):
            measure(rows)
