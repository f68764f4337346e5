"""Representation and parameter similarity against closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import transfer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 5))


def rotation(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


@pytest.mark.parametrize("debiased", [False, True])
@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_cka_does_not_feel_rotations_factors_and_shifts(debiased, seed, factor, shift):
    other = X @ rotation(5, seed) * factor + shift
    assert transfer.linear_cka(X, other, debiased=debiased) == pytest.approx(1, abs=1e-9)


def test_cka_of_uncorrelated_columns_is_0():
    x, y = np.array([[1.0], [-1], [1], [-1]]), np.array([[1.0], [1], [-1], [-1]])
    assert transfer.linear_cka(x, y) == pytest.approx(0, abs=1e-15)


def test_cka_is_the_ratio_of_cross_covariances():
    y = RNG.normal(size=(12, 3))
    a, b = X - X.mean(0), y - y.mean(0)
    expected = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert transfer.linear_cka(X, y) == pytest.approx(expected)


def test_debiased_cka_is_the_ratio_of_unbiased_covariances():
    """Song et al. 2012, equation 5, term by term."""
    y = RNG.normal(size=(12, 3))

    def hsic(k, m):
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        total = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * k.sum(0) @ m.sum(1) / (n - 2)
        return (np.trace(k @ m) + total) / (n * (n - 3))

    k, m = X @ X.T, y @ y.T
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert transfer.linear_cka(X, y, debiased=True) == pytest.approx(expected)


def test_wide_noise_looks_alike_to_the_plain_estimate_only():
    rng = np.random.default_rng(1)
    draws = [(rng.normal(size=(20, 200)), rng.normal(size=(20, 200))) for _ in range(200)]
    plain = [transfer.linear_cka(a, b) for a, b in draws]
    fair = [transfer.linear_cka(a, b, debiased=True) for a, b in draws]
    assert np.mean(plain) == pytest.approx(0.910, abs=0.01)
    assert abs(np.mean(fair)) < 0.02 and min(fair) < 0 < min(plain)


def test_a_matrix_of_ckas_is_its_single_ones():
    xs, ys = [X, X**2], [X[:, :1], np.abs(X), X**3]
    found = transfer.cka_matrix(xs, ys, debiased=True)
    assert found.shape == (2, 3)
    assert found[1, 2] == pytest.approx(transfer.linear_cka(xs[1], ys[2], debiased=True))


def test_neighbours():
    assert transfer.mutual_knn(X, X, 3) == 1
    assert transfer.mutual_knn(X, X @ rotation(5, 1) * 7, 3) == 1
    line = np.array([[1.0, 0.0], [1, 0.1], [0, 1], [0.1, 1]])
    assert transfer.mutual_knn(line, line[[0, 2, 1, 3]], 1) == 0
    assert transfer.mutual_knn(line, line[[1, 0, 3, 2]], 1) == 1


def test_neighbours_of_strangers_are_shared_by_chance():
    rng = np.random.default_rng(2)
    found = [
        transfer.mutual_knn(rng.normal(size=(160, 8)), rng.normal(size=(160, 8)), 10)
        for _ in range(40)
    ]
    assert np.mean(found) == pytest.approx(10 / 159, abs=0.005)


def test_flat_cosine():
    assert transfer.flat_cosine([[1, 0], [0, 1]], [[1, 0], [0, 0]]) == pytest.approx(0.5**0.5)
    assert transfer.flat_cosine(X, -2 * X) == pytest.approx(-1)


FACTORS = st.sampled_from([1e-30, 1e-7, 1e7, 1e30])


@pytest.mark.parametrize("debiased", [False, True])
@given(FACTORS, FACTORS)
def test_common_factors_change_nothing(debiased, one, other):
    y = X**2 + X[:, ::-1]
    for measure in (
        lambda a, b: transfer.linear_cka(a, b, debiased=debiased),
        transfer.flat_cosine,
        lambda a, b: transfer.mutual_knn(a, b, 3),
    ):
        assert measure(X * one, y * other) == pytest.approx(measure(X, y), rel=1e-12)


@given(st.floats(-1e6, 1e6), st.integers(4, 300), st.integers(1, 60), st.integers(0, 10_000))
def test_features_that_differ_by_rounding_alone_are_equal(value, n, width, seed):
    rng = np.random.default_rng(seed)
    flat = np.tile(value * (1 + rng.random(width)), (n, 1))
    rounded = np.where(rng.random(flat.shape) < 0.5, flat, np.nextafter(flat, np.inf))
    for own in (flat, rounded) if abs(value) > 1e-100 else (flat,):
        with pytest.raises(ValueError, match=r"all rows of `xs\[0\]` are equal"):
            transfer.linear_cka(own, rng.normal(size=(n, 3)))


def test_small_differences_far_from_0_are_differences():
    y = RNG.normal(size=(12, 3))
    found = transfer.linear_cka(X + 1e7, y)
    assert found == pytest.approx(transfer.linear_cka(X, y), abs=1e-6)


@pytest.mark.parametrize("points", [np.eye(6), np.eye(6) * 1e-9 + 3])
def test_points_equally_far_apart_have_no_debiased_cka(points):
    assert transfer.linear_cka(points, points) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"`ys\[0\]` are equally far apart"):
        transfer.linear_cka(X[:6], points, debiased=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_are_arrays_too(dtype):
    x = torch.nn.Parameter(torch.from_numpy(X).to(dtype))
    y = torch.from_numpy(X**2).to(dtype)
    a, b = x.detach().double().numpy(), y.double().numpy()
    assert transfer.linear_cka(x, y) == transfer.linear_cka(a, b)
    assert transfer.mutual_knn(x, y, 3) == transfer.mutual_knn(a, b, 3)
    assert transfer.flat_cosine(x, y) == transfer.flat_cosine(a, b)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transfer.linear_cka(X, np.full((12, 2), np.nan)), r"`ys\[0\]` holds 24 NaN"),
        (lambda: transfer.linear_cka(X, np.ones((12, 2))), r"rows of `ys\[0\]` are equal"),
        (lambda: transfer.linear_cka(X, X[:-1]), "same number of rows"),
        (lambda: transfer.linear_cka(X[:3], X[:3], debiased=True), r"`xs\[0\]` has 3 rows"),
        (lambda: transfer.linear_cka(X[0], X[0]), r"`xs\[0\]` must have 2 dimension"),
        (lambda: transfer.mutual_knn(X, X, 12), "k = 12"),
        (lambda: transfer.mutual_knn(X, X[:5], 2), "12 and 5 rows"),
        (lambda: transfer.mutual_knn(X, X * 0, 2), "`y` holds a row of zeros"),
        (lambda: transfer.flat_cosine(X, X.T), "one shape"),
        (lambda: transfer.flat_cosine(X, X * 0), "not 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# One set of vectors
