"""Spectra meet their closed forms, fits their brute-force search and other people's packages."""

import logging
import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import powerlaw
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize

from helpers import hooks
from helpers.spectral import (
    eigenvalues,
    fit_power_law,
    fits,
    median_starts,
    mp_alpha,
    mp_pdf,
    mp_quantile,
    mp_support,
    peak_starts,
    tail_alpha,
    windows,
)

SEEDS = st.integers(0, 10_000)
COUNTED = np.arange(1.0, 11)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def orthogonal(n, seed=0):
    return np.linalg.qr(gaussian(n, n, seed=seed))[0]


def by_svd(matrix):
    return np.sort(np.linalg.svd(matrix.astype(float), compute_uv=False) ** 2)


def median_alpha(matrix):
    eigs = eigenvalues(matrix)
    return tail_alpha(eigs, median_starts(eigs)[0])


def farms_alpha(matrix, height, ops=3, ratio=1.0):
    pooled = np.sort(eigenvalues(windows(matrix, height, ops=ops, ratio=ratio)), axis=None)
    return tail_alpha(pooled, len(pooled) // 2)


# Eigenvalues


def test_eigenvalues_of_a_padded_diagonal():
    matrix = np.zeros((3, 7))
    matrix[:, :3] = np.diag([1, 2, 3])
    for own in (matrix, matrix.T, matrix[:, ::-1], matrix.astype(np.float16)):
        np.testing.assert_allclose(eigenvalues(own), [1, 4, 9], rtol=1e-14)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 5), (4, 9), (9, 4)])
def test_a_stack_has_the_eigenvalues_of_its_matrices(shape):
    stack = gaussian(2, 3, *shape)
    found = eigenvalues(stack)
    assert found.shape == (2, 3, min(shape)) and found.dtype == np.float64
    for at in np.ndindex(2, 3):
        np.testing.assert_allclose(found[at], by_svd(stack[at]), rtol=1e-9)
        np.testing.assert_allclose(found[at], eigenvalues(stack[at]), rtol=1e-12)


def test_blocks_of_memory_change_nothing(monkeypatch):
    stack = windows(gaussian(20, 30), 8, ops=4, ratio=1.5)
    whole = eigenvalues(stack)
    monkeypatch.setattr(fits, "_BYTES_AT_ONCE", 1)
    np.testing.assert_allclose(eigenvalues(stack), whole, rtol=1e-12)
    monkeypatch.setattr(fits, "_BYTES_AT_ONCE", 8 * (8 * 8 + 8 * 12) * 5)  # 16 = 5 + 5 + 5 + 1
    np.testing.assert_allclose(eigenvalues(stack), whole, rtol=1e-12)


def test_float32_is_lifted_before_the_gram_matrix():
    values = np.logspace(0, -5, 48)
    single = (orthogonal(48, 1) * values @ orthogonal(48, 2)).astype(np.float32)
    exact = by_svd(single)
    np.testing.assert_allclose(eigenvalues(single), exact, rtol=1e-4)
    np.testing.assert_array_equal(eigenvalues(single), eigenvalues(single.astype(float)))
    careless = np.linalg.eigvalsh(single @ single.T)
    assert (np.abs(careless[:3] / exact[:3] - 1) > 10).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_are_matrices_too(dtype):
    weight = torch.nn.Parameter(torch.from_numpy(gaussian(6, 9)).to(dtype))
    plain = weight.detach().double().numpy()
    np.testing.assert_array_equal(eigenvalues(weight), eigenvalues(plain))
    grid = windows(weight, 4, ops=2)
    np.testing.assert_array_equal(grid, windows(plain, 4, ops=2))
    fit = fit_power_law(torch.from_numpy(eigenvalues(weight)).requires_grad_())
    assert fit == fit_power_law(eigenvalues(plain))
    with pytest.raises(ValueError, match="`matrices` must be floating-point"):
        eigenvalues((weight * 100).to(torch.int8))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(SEEDS, st.integers(4, 40), st.integers(0, 30), st.data())
def test_a_lost_rank_gives_zeros(dtype, seed, r, more, data):
    """Also of weights that were rounded when stored, as long as two ranks are lost."""
    lost = data.draw(st.integers(1 if dtype == np.float64 else 2, r - 1))
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(r, r - lost)) @ rng.normal(size=(r - lost, r + more))
    found, exact = eigenvalues(matrix.astype(dtype)), by_svd(matrix)
    assert (found[:lost] == 0).all()
    np.testing.assert_allclose(found[lost:], exact[lost:], rtol=1e-4, atol=1e-6 * exact[-1])


def test_a_lost_rank_gives_one_refusal_whatever_the_order():
    for dtype in (np.float64, np.float32):
        low = (gaussian(64, 8) @ gaussian(8, 64, seed=1)).astype(dtype)
        for own in (*changes(low, 3).values(), low * dtype(1.1)):
            eigs = eigenvalues(own.astype(dtype))
            with pytest.raises(ValueError, match="no start with a positive eigenvalue"):
                fit_power_law(eigs, median_starts(eigs))
            assert fit_power_law(eigs).alpha == pytest.approx(fit_power_law(by_svd(low)[-8:]).alpha)


def test_one_small_eigenvalue_of_a_full_matrix_is_kept():
    values = np.array([1e-8, 0.5, 0.6, 0.8, 0.9, 1])  # 1e-16: half of what rounds in its square
    for seed in range(20):
        matrix = orthogonal(6, seed) * values @ orthogonal(6, seed + 50)
        np.testing.assert_allclose(eigenvalues(matrix), values**2, rtol=1e-6)
    square = np.stack([gaussian(24, 24, seed=seed) for seed in range(300)])
    np.testing.assert_allclose(eigenvalues(square)[:, 0], [by_svd(x)[0] for x in square], rtol=1e-6)


def test_zeros_have_zero_eigenvalues():
    assert (eigenvalues(np.zeros((3, 5))) == 0).all()
    stack = np.stack([np.zeros((3, 5)), np.ones((3, 5))])
    np.testing.assert_allclose(eigenvalues(stack), [[0, 0, 0], [0, 0, 15]], atol=1e-13)
    low_rank = gaussian(9, 2) @ gaussian(2, 9, seed=1)
    assert (eigenvalues(low_rank) >= 0).all()


def test_eigenvalues_leave_their_input_alone():
    matrix = gaussian(4, 6)
    before = matrix.copy()
    matrix.flags.writeable = False
    eigenvalues(matrix)
    np.testing.assert_array_equal(matrix, before)


def with_entry(value):
    matrix = gaussian(3, 4)
    matrix[1, 2] = value
    return matrix


@pytest.mark.parametrize(
    ("matrices", "says"),
    [
        (with_entry(np.nan), "`matrices` holds 1 NaN"),
        (with_entry(-np.inf), "`matrices` holds 1 NaN or infinite"),
        (np.stack([gaussian(3, 4), with_entry(np.nan)]), "`matrices` holds 1 NaN"),
        (np.empty((0, 3)), "`matrices` must be floating-point"),
        (np.empty((0, 3, 3)), "`matrices` must be floating-point"),
        (np.ones(4), "`matrices` must be floating-point"),
        (1.0, "`matrices` must be floating-point"),
        (np.ones((3, 4), dtype=int), "`matrices` must be floating-point"),
        (np.ones((3, 4), dtype=bool), "`matrices` must be floating-point"),
        (np.ones((3, 4), dtype=complex), "`matrices` must be floating-point"),
    ],
)
def test_eigenvalues_refuse(matrices, says):
    with pytest.raises(ValueError, match=says):
        eigenvalues(matrices)


# Windows


def starts_of(shape, height, **settings):
    """Row and column starts, from matrices (of no memory) whose entries name their place."""
    rows = np.broadcast_to(np.arange(shape[0])[:, None], shape)
    columns = np.broadcast_to(np.arange(shape[1]), shape)
    down, across = (windows(own, height, **settings) for own in (rows, columns))
    assert (down[..., 0, 0] == down[:, :1, 0, 0]).all()
    assert (across[..., 0, 0] == across[:1, :, 0, 0]).all()
    return down[:, 0, 0, 0].tolist(), across[0, :, 0, 0].tolist()


@pytest.mark.parametrize(
    ("shape", "height", "ops", "ratio", "rows", "columns"),
    [
        ((576, 1536), 192, 5, 1, range(0, 385, 96), range(0, 1345, 336)),
        ((192, 576), 192, 5, 1, [0], range(0, 385, 96)),
        ((576, 576), 192, 5, 1, range(0, 385, 96), range(0, 385, 96)),
        ((192, 192), 192, 5, 1, [0], [0]),
        ((11008, 4096), 2000, 15, 1, range(0, 643 * 15, 643), range(0, 149 * 15, 149)),
        ((7, 9), 4, 1, 1, [0], [0]),
        ((7, 9), 4, 3, 2, [0, 1, 2], [0, 1]),  # less room than positions: a step of 1
        ((7, 9), 4, 2, 0.5, [0, 3], [0, 7]),
        ((10, 12), 3, 4, 1.5, [0, 2, 4, 6], [0, 2, 4, 6]),  # ⌊3 · 1.5⌋ = 4 columns
    ],
)
def test_windows_begin_where_the_grid_says(shape, height, ops, ratio, rows, columns):
    assert starts_of(shape, height, ops=ops, ratio=ratio) == (list(rows), list(columns))


def test_windows_of_the_large_model_take_no_memory():
    matrix = np.broadcast_to(np.float16(1), (11008, 4096))
    assert windows(matrix, 2000, ops=15).shape == (15, 15, 2000, 2000)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from([0.5, 1, 2]),
)
def test_windows_are_blocks_of_their_matrix(shape, height, ops, ratio):
    matrix, width = np.arange(np.prod(shape)).reshape(shape), int(height * ratio)
    if height > shape[0] or not 1 <= width <= shape[1]:
        with pytest.raises(ValueError, match="does not fit"):
            windows(matrix, height, ops=ops, ratio=ratio)
        return
    grid = windows(matrix, height, ops=ops, ratio=ratio)
    rows, columns = starts_of(shape, height, ops=ops, ratio=ratio)
    assert grid.shape == (len(rows), len(columns), height, width)
    assert len(rows) == min(ops, shape[0] - height + 1)
    assert len(columns) == min(ops, shape[1] - width + 1)
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            block = matrix[top : top + height, left : left + width]
            np.testing.assert_array_equal(grid[i, j], block)


def test_windows_are_a_view_that_cannot_be_written():
    matrix = gaussian(9, 9)
    grid = windows(matrix, 4, ops=3)
    assert np.shares_memory(grid, matrix) and not grid.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        grid[0, 0, 0, 0] = 1
    matrix[0, 0] = 7
    assert grid[0, 0, 0, 0] == 7


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (partial(windows, np.ones(5), 2, ops=2), "`matrix`"),
        (partial(windows, np.ones((2, 5, 5)), 2, ops=2), "`matrix`"),
        (partial(windows, np.ones((5, 9)), 6, ops=2), "`height`: a window of 6 x 6"),
        (partial(windows, np.ones((5, 9)), 0, ops=2), "`height`"),
        (partial(windows, np.ones((5, 9)), -2, ops=2), "`height`"),
        (partial(windows, np.ones((576, 576)), 576, ops=5, ratio=2), "`ratio`: .* 576 x 1152"),
        (partial(windows, np.ones((5, 9)), 2, ops=2, ratio=0.4), "`ratio`: a window of 2 x 0"),
        (partial(windows, np.ones((5, 9)), 2, ops=0), "`ops`"),
        (partial(windows, np.ones((5, 9)), 2, ops=-1), "`ops`"),
        *[
            (partial(windows, np.ones((5, 9)), 2, ops=2, ratio=ratio), "`ratio`")
            for ratio in (0, -1, np.nan, np.inf)
        ],
    ],
)
def test_windows_refuse(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# Marchenko-Pastur


def mp_mean(function, gamma, low=0.0, high=np.pi):
    """Integral of a function of λ under the law between two angles.

    λ = 1 + γ - 2 √γ cos t turns the density into (2 / π) sin² t / λ, smooth also for γ = 1.
    """
    root = np.sqrt(gamma)

    def integrand(t):
        # 1 + γ - 2 √γ cos t without its cancellation at the lower end
        x = (1 - root) ** 2 + 4 * root * np.sin(t / 2) ** 2
        return function(x) * 2 / np.pi * np.sin(t) ** 2 / x

    return integrate.quad(integrand, low, high, epsabs=1e-13, epsrel=1e-13, limit=200)[0]


def mp_value(t, gamma):
    return (1 - np.sqrt(gamma)) ** 2 + 4 * np.sqrt(gamma) * np.sin(t / 2) ** 2


def alpha_by_quadrature(q, tail=0.5):
    """The exponent and the start of the tail, with no function of `helpers.spectral`."""
    gamma = 1 / q
    angle = optimize.brentq(
        lambda t: mp_mean(np.ones_like, gamma, t) - tail, 1e-6, np.pi - 1e-6, xtol=1e-14
    )
    start = mp_value(angle, gamma)
    return 1 + tail / mp_mean(lambda x: np.log(x / start), gamma, angle), start


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (1, 2.12168028),
        (1.5, 2.4492),
        (2, 2.7058),
        (8 / 3, 2.9910),
        (3, 3.1175),
        (4, 3.4546),
        (6, 4.0089),
        (8, 4.4699),
        (16, 5.8775),
        (5.12, 3.780),
    ],
)
def test_exponents_of_noise(q, expected):
    assert mp_alpha(q) == pytest.approx(expected, abs=1e-4 if q != 5.12 else 2e-4)
    alpha, start = alpha_by_quadrature(q)
    assert mp_alpha(q) == pytest.approx(alpha, abs=1e-9)
    assert mp_quantile(0.5, 1 / q) == pytest.approx(start, abs=1e-10)


@pytest.mark.parametrize("tail", [0.01, 0.25, 0.9, 0.99])
@pytest.mark.parametrize("q", [1, 2, 8])
def test_exponents_of_other_tails_of_noise(q, tail):
    assert mp_alpha(q, tail) == pytest.approx(alpha_by_quadrature(q, tail)[0], rel=1e-7)


@pytest.mark.parametrize(
    ("q", "expected"),
    [(1, 0.6528), (1.5, 0.7724), (2, 0.8305), (3, 0.8877), (4, 0.9160), (8, 0.9582)],
)
def test_medians_of_noise(q, expected):
    assert mp_quantile(0.5, 1 / q) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("gamma", [1, 2 / 3, 0.5, 0.25, 1 / 16])
def test_moments_of_noise(gamma):
    low, high = mp_support(gamma)
    middle, half = (low + high) / 2, (high - low) / 2

    def moment(power):
        def integrand(t):
            x = middle - half * np.cos(t)
            return x**power * mp_pdf(x, gamma) * half * np.sin(t)

        return integrate.quad(integrand, 1e-12, np.pi, epsabs=1e-12, limit=200)[0]

    assert moment(0) == pytest.approx(1, abs=1e-6)
    assert moment(1) == pytest.approx(1, abs=1e-6)
    assert moment(2) == pytest.approx(1 + gamma, abs=1e-6)


@pytest.mark.parametrize("gamma", [1, 0.9, 0.5, 0.1])
def test_the_quantile_inverts_the_integral_of_the_density(gamma):
    for t in np.linspace(0.1, 3, 9):
        mass = mp_mean(np.ones_like, gamma, 0, t)
        assert mp_quantile(mass, gamma) == pytest.approx(mp_value(t, gamma), rel=1e-7)


@given(st.floats(0.01, 1), st.floats(0, 1))
def test_quantiles_lie_in_the_support(gamma, p):
    low, high = mp_support(gamma)
    assert low <= mp_quantile(p, gamma) <= high


@pytest.mark.parametrize("gamma", [1, 0.9, 2 / 3, 0.5, 1 / 3, 0.1, 0.001])
def test_the_extreme_quantiles_are_the_ends_of_the_support(gamma):
    low, high = mp_support(gamma)
    assert mp_quantile(0, gamma) == pytest.approx(low, rel=1e-9, abs=1e-9)
    assert mp_quantile(1, gamma) == pytest.approx(high, rel=1e-9)


def test_the_support_and_what_lies_outside():
    assert mp_support(0.25) == (0.25, 2.25)
    assert mp_support(1) == (0, 4)
    np.testing.assert_array_equal(mp_pdf([-1, 0, 0.2, 2.3], 0.25), 0)
    np.testing.assert_array_equal(mp_pdf([-1e-9, 0, 4, 5], 1), [0, np.inf, 0, 0])
    assert mp_pdf(np.ones((2, 3)), 0.5).shape == (2, 3)


def test_a_large_gaussian_matrix_has_the_exponent_of_noise():
    matrix = gaussian(2048, 1024)
    eigs = eigenvalues(matrix)
    assert tail_alpha(eigs, 512) == pytest.approx(2.7058, abs=0.03)
    for p in (0.1, 0.5, 0.9):
        assert np.quantile(eigs / 2048, p) == pytest.approx(mp_quantile(p, 0.5), abs=0.01)


@pytest.mark.parametrize("function", [mp_support, partial(mp_pdf, 1.0)])
@pytest.mark.parametrize("gamma", [0, -0.5, 1.01, np.nan, np.inf])
def test_the_law_refuses_a_gamma_out_of_range(function, gamma):
    with pytest.raises(ValueError, match="`gamma`"):
        function(gamma)
    with pytest.raises(ValueError, match="`gamma`"):
        mp_quantile(0.5, gamma)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        *[(partial(mp_quantile, p, 0.5), "`p`") for p in (-0.1, 1.1, np.nan)],
        *[(partial(mp_alpha, q), "`q`") for q in (0.99, 0, -2, np.nan, np.inf)],
        *[(partial(mp_alpha, 2, tail), "`tail`") for tail in (0, 1, -0.5, 1.5, np.nan)],
    ],
)
def test_the_law_refuses(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# Tail exponents


def test_the_convention_counts_the_start():
    assert tail_alpha(COUNTED, 5) == pytest.approx(4.681550358521, abs=1e-12)
    logs = np.log(COUNTED[6:] / 6).sum()
    assert 1 + 5 / logs == pytest.approx(4.681550358521, abs=1e-12)
    # not the textbook Hill form, nor the paper's formula with its start below the tail
    assert 1 + 4 / logs == pytest.approx(3.945240286817, abs=1e-12)
    assert 1 + 5 / np.log(COUNTED[5:] / 5).sum() == pytest.approx(3.202903960580, abs=1e-12)


def test_geometric_eigenvalues():
    assert tail_alpha(2 ** np.arange(9), 4) == pytest.approx(1.721347520444, abs=1e-12)


def pareto(n, alpha=2.5):
    return (1 - (np.arange(n) + 0.5) / n) ** (-1 / (alpha - 1))


def test_exact_pareto_quantiles():
    eigs = pareto(1000)
    assert tail_alpha(eigs, 500) == pytest.approx(2.502544530385, abs=1e-11)
    assert fit_power_law(eigs, median_starts(eigs)).alpha == pytest.approx(2.502544530385, abs=1e-9)
    fit = fit_power_law(eigs)
    assert fit.alpha == pytest.approx(2.501271061601, abs=1e-11)
    np.testing.assert_allclose(fit.D, 0.000672606, atol=1e-9)
    assert (fit.start, fit.n_tail, fit.xmin) == (0, 1000, eigs[0])


@pytest.mark.parametrize("alpha", [1.3, 2, 3.5, 8])
def test_a_pareto_sample_gives_its_exponent_back(alpha):
    eigs = np.sort(np.random.default_rng(0).random(20_000) ** (-1 / (alpha - 1)))
    fit = fit_power_law(eigs, (0, 2000))
    # three standard errors
    assert fit.alpha == pytest.approx(alpha, abs=3 * (alpha - 1) / np.sqrt(fit.n_tail))
    assert tail_alpha(eigs, 0) == pytest.approx(alpha, abs=3 * (alpha - 1) / np.sqrt(20_000))


BAD_SPECTRA = [
    ([1, 2, np.nan, 4, 5], "`eigs` holds 1 NaN"),
    ([1, 2, 3, 4, np.inf], "`eigs` holds 1 NaN or infinite"),
    ([], "`eigs` must have 1 dimension"),
    ([1, 2, 3, 4], "`eigs` has 4 value"),
    ([[1, 2, 3, 4, 5]], "`eigs` must have 1 dimension"),
    ([1, 2, 3, 4, 5j], "`eigs` must be real numbers"),
    (["a"] * 5, "`eigs` must be real numbers"),
    ([2, 2, 2, 2, 2], "`eigs` are all equal"),
    ([0, 0, 0, 0, 0], "`eigs` are all equal"),
    ([1, 3, 2, 4, 5], "`eigs` must be non-negative and sorted"),
    ([5, 4, 3, 2, 1], "`eigs` must be non-negative and sorted"),
    ([-1, 2, 3, 4, 5], "`eigs` must be non-negative"),
]


@pytest.mark.parametrize(
    "function", [partial(tail_alpha, start=0), fit_power_law, median_starts, peak_starts]
)
@pytest.mark.parametrize(("eigs", "says"), BAD_SPECTRA)
def test_unusable_spectra_are_refused(function, eigs, says):
    with pytest.raises(ValueError, match=says):
        function(eigs)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tail_alpha(COUNTED, -1), "`start`"),
        (lambda: tail_alpha(COUNTED, 9), "`start`"),
        (lambda: tail_alpha([0, 0, 1, 2, 3], 1), "`start` 1"),
        (lambda: tail_alpha([1, 2, 3, 3, 3], 2), "`start` 2"),
        (lambda: fit_power_law(COUNTED, (-1, 3)), "`starts`"),
        (lambda: fit_power_law(COUNTED, (3, 3)), "`starts`"),
        (lambda: fit_power_law(COUNTED, (4, 3)), "`starts`"),
        (lambda: fit_power_law(COUNTED, (0, 11)), "`starts`"),
        (lambda: fit_power_law(COUNTED, (9, 10)), "`starts`"),
        (lambda: fit_power_law([0, 0, 1, 2, 3], (0, 2)), "`starts`"),
        (lambda: fit_power_law([1, 2, 3, 3, 3], (2, 5)), "`starts`"),
        (lambda: fit_power_law([0, 0, 0, 0, 3]), "`starts`"),
        (lambda: peak_starts([0, 1, 2, 3, 4]), "`eigs` holds zeros"),
        (lambda: peak_starts(COUNTED, bins=0), "`bins`"),
        (lambda: peak_starts(COUNTED, bins=-3), "`bins`"),
    ],
)
def test_unusable_starts_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_eigenvalues_that_differ_by_rounding_alone_give_no_fit():
    """Their logarithms may coincide, and the exponent is infinite or a refusal, never NaN."""
    eigs = np.array([1e10] * 4 + [np.nextafter(1e10, np.inf)])
    assert tail_alpha(eigs, 0) > 1e9
    try:
        fit = fit_power_law(eigs)
    except ValueError as error:
        assert "`eigs`" in str(error) or "`starts`" in str(error)
    else:
        assert fit.alpha > 1e9 and 0 <= fit.start < 4 and fit.D <= 1


# The search


def brute_distances(eigs):
    """D of every start, from the paper's formulae; infinite where there is no exponent.

    Of equal eigenvalues the first is a start, and the first has the height of the distribution.
    """
    distances, alphas = np.full(len(eigs), np.inf), np.full(len(eigs), np.nan)
    for start in range(len(eigs) - 1):
        tail = eigs[start:]
        if tail[0] == 0 or tail[0] == tail[-1] or tail[0] in eigs[:start]:
            continue
        n = len(tail)
        alphas[start] = 1 + n / sum(np.log(x / tail[0]) for x in tail)
        fitted = 1 - (tail / tail[0]) ** (1 - alphas[start])
        distances[start] = abs(fitted - (tail < tail[:, None]).sum(1) / n).max()
    return distances, alphas


LAWS = {
    "pareto": lambda rng, n: rng.pareto(1.5, n) + 1,
    "steep pareto": lambda rng, n: rng.pareto(6, n) + 1,
    "lognormal": lambda rng, n: rng.lognormal(sigma=2, size=n),
    "uniform": lambda rng, n: rng.random(n),
    "exponential": lambda rng, n: rng.exponential(size=n) * 1e-9,
    "noise": lambda rng, n: eigenvalues(rng.normal(size=(n, n + 20))),
    "whole numbers": lambda rng, n: rng.integers(1, 40, n).astype(float),
    "powers of two": lambda rng, n: 2.0 ** rng.integers(-9, 9, n),
    "with zeros": lambda rng, n: rng.pareto(2, n) * (rng.random(n) < 0.7),
    "with twins": lambda rng, n: np.repeat(rng.pareto(2, (n + 1) // 2), 2)[:n],
}


@pytest.mark.parametrize("law", LAWS)
def test_the_search_is_the_brute_force_search(law):
    for seed in range(20):
        rng = np.random.default_rng([seed, 3])
        eigs = np.sort(LAWS[law](rng, int(rng.integers(8, 300) if seed else 5)))
        if len(np.unique(eigs[eigs > 0])) < 2:
            continue
        distances, alphas = brute_distances(eigs)
        fit = fit_power_law(eigs)
        # starts as good as the best, up to rounding; the first of them is the answer
        best = int(np.flatnonzero(distances <= distances.min() + 1e-14)[0])
        assert fit.start == best
        assert fit.alpha == pytest.approx(alphas[best], abs=1e-10, rel=1e-10)
        np.testing.assert_allclose(fit.D, distances[best], atol=1e-12)
        assert fit.xmin == eigs[best] and fit.n_tail == len(eigs) - best
        assert fit.alpha == tail_alpha(eigs, best)


@given(SEEDS, st.integers(5, 40), st.data())
def test_only_the_given_starts_are_searched(seed, n, data):
    eigs = np.sort(np.random.default_rng(seed).lognormal(size=n))
    lo = data.draw(st.integers(0, n - 2))
    hi = data.draw(st.integers(lo + 1, n))
    distances, _ = brute_distances(eigs)
    fit = fit_power_law(eigs, (lo, hi))
    assert lo <= fit.start < hi
    assert fit.start == lo + int(distances[lo:hi].argmin())


def test_of_equal_distances_the_first_wins():
    # both tails are furthest off where their eigenvalues double for the second time: e^(-4/3), 1/2
    eigs = np.array([2, 2, 2, 4, 8, 8, 16, 32.0])
    distances, _ = brute_distances(eigs)
    assert distances[[0, 4]] == pytest.approx(0.5 - np.exp(-4 / 3), abs=1e-15)
    assert distances.min() == pytest.approx(distances[0], abs=1e-15)
    assert fit_power_law(eigs).start == 0
    assert fit_power_law(eigs, (3, 8)).start == 4
    assert fit_power_law(eigs, (1, 8)).start == 0  # a range that begins among equals


def tied(seed):
    rng = np.random.default_rng(seed)
    return np.sort(np.round((1 - rng.random(80)) ** -0.7)), rng


@given(SEEDS)
def test_a_tail_holds_all_that_equals_its_start(seed):
    eigs, rng = tied(seed)
    lo = int(rng.integers(0, 60))
    for starts in (None, median_starts(eigs), (lo, lo + 9)):
        fit = fit_power_law(eigs, starts)
        above = eigs[eigs >= fit.xmin]
        assert fit.n_tail == len(above) and eigs[fit.start] == fit.xmin
        assert fit.alpha == pytest.approx(1 + len(above) / np.log(above / fit.xmin).sum())
        for at in np.flatnonzero(eigs == fit.xmin):
            assert tail_alpha(eigs, int(at)) == fit.alpha


@pytest.mark.filterwarnings("ignore")
def test_ties_are_fitted_as_powerlaw_does():
    for seed in range(20):
        eigs, _ = tied(seed)
        theirs = powerlaw.Fit(eigs, parameter_ranges={"alpha": [1, 100]}, verbose=0)
        ours = fit_power_law(eigs)
        assert (ours.xmin, ours.n_tail) == (theirs.xmin, theirs.n_tail)
        assert (ours.alpha, ours.D) == pytest.approx((theirs.alpha, theirs.D), abs=1e-6)


def test_whole_numbers_are_eigenvalues_too():
    assert fit_power_law(list(range(1, 11))) == fit_power_law(COUNTED)


# Start rules


@pytest.mark.parametrize("n", [5, 6, 7, 100, 101])
def test_the_median_rule_begins_at_the_middle(n):
    eigs = np.arange(1.0, n + 1)
    assert median_starts(eigs) == (n // 2, n // 2 + 1)
    assert fit_power_law(eigs, median_starts(eigs)).start == n // 2


def peak_rule(eigs, bins=100, as_intended=False):
    """Starts of the peak rule in the words of the rule."""
    logs = np.log10(eigs)
    edges = np.linspace(logs.min(), logs.max(), bins + 1)
    counts = [
        sum(1 for x in logs if left <= x and (x < right or right == edges[-1]))
        for left, right in pairwise(edges)
    ]
    peak = 10 ** edges[int(np.argmax(counts))]
    low = 0.95 * peak if as_intended else np.log10(0.95 * peak)
    return [i for i, x in enumerate(eigs) if low <= x <= 1.5 * peak]


def test_the_peak_rule_by_hand():
    # ten bins of a fifth of a decade from 1 to 100; the fullest begins at 10
    eigs = np.array([1, 1.2, 2, 3, 5, 8, 10.5, 11, 12, 13, 14.5, 16, 20, 60, 100])
    # as it is coded from log10(9.5) = 0.98, as it seems to be intended from 9.5; both to 15
    assert peak_starts(eigs, bins=10) == (0, 11)
    assert peak_starts(eigs, bins=10, as_intended=True) == (6, 11)


def test_the_coded_bound_can_bind_after_all():
    # the peak is at 1000, log10(950) = 2.98: what lies below that is no start
    eigs = np.array([1, 2, 3, 100, *np.linspace(1001, 1010, 9), 5000, 1e6])
    assert peak_starts(eigs, bins=12) == (2, 13)
    assert peak_starts(eigs, bins=12, as_intended=True) == (4, 13)


@pytest.mark.parametrize("as_intended", [False, True])
@pytest.mark.parametrize("bins", [20, 100])
def test_the_peak_rule_is_as_described(bins, as_intended):
    for seed, scale in enumerate((1, 1e-3, 50, 1e4) * 4):
        rng = np.random.default_rng(seed)
        eigs = scale * np.sort(rng.lognormal(sigma=1 + seed % 3, size=20 + 9 * seed))
        expected = peak_rule(eigs, bins, as_intended)
        lo, hi = peak_starts(eigs, bins=bins, as_intended=as_intended)
        assert list(range(lo, hi)) == expected


def test_the_peak_rule_always_leaves_a_start():
    eigs = np.array([1, 1, 1, 1, 1, 50.0])
    for as_intended in (False, True):
        lo, hi = peak_starts(eigs, as_intended=as_intended)
        assert 0 <= lo < hi <= 6
        assert lo <= fit_power_law(eigs, (lo, hi)).start < hi


# Invariances


def changes(matrix, seed):
    """What may be done to a matrix without a change of its spectrum's shape."""
    rng = np.random.default_rng(seed)
    r, c = matrix.shape
    return {
        "scale": 37.5 * matrix,
        "sign": -matrix,
        "transpose": matrix.T,
        "left": orthogonal(r, seed) @ matrix,
        "right": matrix @ orthogonal(c, seed + 1),
        "rows": matrix[rng.permutation(r)],
        "columns": matrix[:, rng.permutation(c)],
    }


@settings(max_examples=25)
@given(SEEDS, st.integers(5, 14), st.integers(4, 14))
def test_exponents_of_whole_matrices_are_invariant(seed, r, more):
    matrix = gaussian(r, r + more, seed=seed)
    eigs = eigenvalues(matrix)
    fit = fit_power_law(eigs)
    for name, changed in changes(matrix, seed).items():
        assert median_alpha(changed) == pytest.approx(median_alpha(matrix), rel=1e-8), name
        again = fit_power_law(eigenvalues(changed))
        assert again.alpha == pytest.approx(fit.alpha, rel=1e-8), name
        assert again.start == fit.start, name


@settings(max_examples=25)
@given(SEEDS, st.integers(8, 14), st.integers(8, 20))
def test_farms_is_invariant_to_scale_and_transposition_only(seed, r, c):
    matrix = gaussian(r, c, seed=seed)
    own, changed = farms_alpha(matrix, 6), changes(matrix, seed)
    for name in ("scale", "sign", "transpose"):
        assert farms_alpha(changed[name], 6) == pytest.approx(own, rel=1e-8), name
    for name in ("left", "right"):
        assert abs(farms_alpha(changed[name], 6) - own) > 1e-6, name


def test_farms_of_another_ratio_changes_with_transposition():
    matrix = gaussian(16, 24)
    turned = farms_alpha(matrix.T, 8, ratio=2)
    assert abs(farms_alpha(matrix, 8, ratio=2) - turned) > 1e-3


def test_rotating_a_matrix_with_structure_moves_farms_far():
    block = np.zeros((32, 32))
    block[:8, :8] = gaussian(8, 8)
    matrix = block + 0.01 * gaussian(32, 32, seed=1)
    turned = orthogonal(32, 2) @ matrix @ orthogonal(32, 3)
    assert median_alpha(turned) == pytest.approx(median_alpha(matrix), rel=1e-8)
    assert abs(farms_alpha(turned, 16) - farms_alpha(matrix, 16)) > 0.05


# Other people's packages


def spectra():
    rng = np.random.default_rng(7)
    heavy = rng.pareto(2.2, size=(60, 90))
    return {
        "pareto": np.sort(rng.pareto(1.2, 300) + 1),
        "shallow pareto": np.sort(rng.pareto(0.7, 150) + 1),
        "lognormal": np.sort(rng.lognormal(sigma=1.5, size=200)),
        "heavy entries": eigenvalues(heavy),
        "square noise": eigenvalues(gaussian(120, 120)),
        "low rank": eigenvalues(gaussian(80, 5) @ gaussian(5, 80, seed=1) + gaussian(80, 80)),
    }


@pytest.fixture(scope="module")
def watcher_fit():
    """WeightWatcher's fit; importing it sets up the root logger and switches off all warnings."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with warnings.catch_warnings():
        from weightwatcher.WW_powerlaw import WWFit
    root.handlers[:] = handlers
    root.setLevel(level)
    return WWFit


def assert_same_fit(ours, theirs):
    assert ours.alpha == pytest.approx(theirs.alpha, abs=1e-9)
    assert ours.start == int(np.argmin(theirs.Ds))
    np.testing.assert_allclose(ours.D, theirs.D, atol=1e-9)


@pytest.mark.parametrize("name", spectra())
def test_agrees_with_weightwatcher(name, watcher_fit):
    assert_same_fit(fit_power_law(spectra()[name]), watcher_fit(spectra()[name]))


@pytest.mark.parametrize("name", spectra())
@pytest.mark.filterwarnings("ignore")
def test_agrees_with_powerlaw(name):
    # its default admits no exponent above 3
    theirs = powerlaw.Fit(spectra()[name], parameter_ranges={"alpha": [1, 100]}, verbose=0)
    ours = fit_power_law(spectra()[name])
    assert ours.alpha == pytest.approx(theirs.alpha, abs=1e-6)
    assert ours.xmin == pytest.approx(theirs.xmin)


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_all_layers_of_real_models_agree_with_both(model, watcher_fit, request):
    layers = hooks.linear_layers(request.getfixturevalue(model).model)
    spectra = {n: eigenvalues(layer.weight.detach().numpy()) for n, layer in layers.items()}
    fits = {name: fit_power_law(eigs) for name, eigs in spectra.items()}
    for name, eigs in spectra.items():
        assert_same_fit(fits[name], watcher_fit(eigs))
    free = [name for name, fit in fits.items() if fit.alpha < 3]  # where powerlaw's range ends
    assert len(free) > 15
    for name in free:
        assert fits[name].alpha == pytest.approx(powerlaw.Fit(spectra[name], verbose=0).alpha)
