"""Cosines of word vectors against closed forms."""

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


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_cosine_does_not_feel_a_factor(scale):
    rows = RNG.normal(size=(9, 5))
    cosine = probing.mean_cosine(rows)
    assert probing.mean_cosine(rows * scale) == pytest.approx(cosine, rel=1e-12)
    assert probing.mean_cosine(rows * np.geomspace(1, scale, 9)[:, None]) == pytest.approx(cosine)


def test_a_cosine_of_nothing_is_refused():
    for rows in (np.ones((1, 3)), np.zeros((4, 3)), np.full((4, 3), np.nan)):
        with pytest.raises(ValueError, match="`vectors`"):
            probing.mean_cosine(rows)
