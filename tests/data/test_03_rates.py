"""The recipe of notebook 03 that trains with layer-wise learning rates, and what it wrote."""

import numpy as np
import pytest
import torch
from families import one_thread  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from helpers import data, spectral

HERE = data.folder("03")

recipe = data.module("03", "make_rates")

ALPHAS = st.lists(st.floats(1.1, 50), min_size=2, max_size=8)


def test_the_linear_map_by_hand():
    np.testing.assert_allclose(0.1 * recipe.linear([2, 3, 4], 0.5, 1.5), [0.05, 0.10, 0.15])
    np.testing.assert_allclose(recipe.linear([4, 2], 0.1, 1.9), [1.9, 0.1])
    np.testing.assert_allclose(recipe.linear([3, 3, 3], 0.1, 1.9), 1)


@given(ALPHAS, st.floats(0.05, 0.9))
def test_the_linear_map_keeps_order_and_range(alphas, low):
    found = recipe.linear(alphas, low, 2 - low)
    if np.ptp(alphas):
        assert (found.min(), found.max()) == pytest.approx((low, 2 - low))
    assert (np.diff(found[np.argsort(alphas)]) >= -1e-12).all()


def test_the_sigmoid_by_hand():
    found = recipe.sigmoid([2, 3, 4])
    assert found[1] == 1  # at the mean exponent, exactly
    np.testing.assert_allclose(found[[0, 2]], [10**-0.5, 10**0.5], rtol=2e-4)
    np.testing.assert_allclose(recipe.sigmoid([3, 3, 3]), 1)
    # one tenth above the mean: phi = 1 / (1 + 1/e) - 1/2
    assert recipe.sigmoid([2.9, 3.1])[1] == pytest.approx(10 ** (1 / (1 + np.exp(-1)) - 0.5))
    assert recipe.sigmoid([2.9, 3.1], s=2)[1] == pytest.approx(10 ** (2 / (1 + np.exp(-1)) - 1))


@given(ALPHAS)
def test_the_sigmoid_stays_within_its_limits(alphas):
    found = recipe.sigmoid(alphas)
    assert (found >= 10**-0.5 - 1e-12).all() and (found <= 10**0.5 + 1e-12).all()
    assert (np.diff(found[np.argsort(alphas)]) >= -1e-12).all()


def test_the_median_rule_by_hand():
    # upper half of six: 4, 8, 16, so 1 + 3 / (0 + ln 2 + ln 4)
    eigs = np.array([[16.0, 1], [4, 2], [3, 8]])
    assert recipe.median_alpha(eigs) == pytest.approx(1 + 1 / np.log(2))


KERNEL = np.arange(24, dtype=float).reshape(2, 6, 1, 2)  # two slices of 2 x 6, entry 12 o + 2 i + j


def test_slices_of_a_kernel_are_turned():
    found = recipe.slices(KERNEL)
    assert found.shape == (2, 6, 2)  # turned: 6 rows, 2 columns
    assert found[0].tolist() == [[0, 12], [2, 14], [4, 16], [6, 18], [8, 20], [10, 22]]
    assert found[1].tolist() == (found[0] + 1).tolist()
    upright = KERNEL.swapaxes(0, 1)
    np.testing.assert_array_equal(recipe.slices(upright), found)


def test_square_blocks_of_a_kernel():
    found = recipe.square_blocks(KERNEL)
    assert found.shape == (3, 2, 2, 2)  # three blocks, two positions
    assert found[0].tolist() == [[[0, 12], [2, 14]], [[1, 13], [3, 15]]]
    assert found[2].tolist() == [[[8, 20], [10, 22]], [[9, 21], [11, 23]]]
    assert recipe.square_blocks(np.zeros((7, 3, 3, 3))).shape == (2, 9, 3, 3)  # a row is lost


def test_a_kernels_exponent_by_hand():
    """Diagonal blocks: eigenvalues are squared entries; each block has its own exponent."""
    roots = {0: [1, 2, 4, 8, 16, 32], 1: [1, 3, 9, 27, 81, 243]}  # block: singular values
    kernel = np.zeros((4, 2, 3, 1))  # two square blocks, three positions
    for block, own in roots.items():
        for position in range(3):
            for k in range(2):
                kernel[2 * block + k, k, position, 0] = own[2 * position + k]
    # each block's tail is its upper three: steps of 4 and of 9
    alphas = [1 + 3 / (3 * np.log(step)) for step in (4, 9)]
    assert recipe.farms_alpha(kernel) == pytest.approx(np.mean(alphas))
    turned = kernel.swapaxes(0, 1)
    assert recipe.farms_alpha(turned) == pytest.approx(np.mean(alphas))
    # without windows: slices of 4 x 2, pooled; columns are orthogonal
    pooled = sorted(
        float(np.square([roots[0][2 * p + k], roots[1][2 * p + k]]).sum())
        for p in range(3)
        for k in range(2)
    )
    expected = 1 + 3 / np.log(np.array(pooled[3:]) / pooled[3]).sum()
    assert recipe.full_alpha(kernel) == pytest.approx(expected)


def test_a_kernel_of_one_pixel_is_a_matrix():
    matrix = np.random.default_rng(0).normal(size=(20, 20))
    kernel = matrix[:, :, None, None]
    whole = spectral.fit_power_law(
        spectral.eigenvalues(matrix), spectral.median_starts(spectral.eigenvalues(matrix))
    )
    for own in (recipe.full_alpha, recipe.farms_alpha):
        assert own(kernel) == pytest.approx(whole.alpha)
        assert own(matrix) == pytest.approx(whole.alpha)  # and a window larger than it is all of it


def test_windows_over_a_dense_layer():
    matrix = np.random.default_rng(1).normal(size=(64, 48))
    grid = [matrix[r : r + 32, c : c + 32] for r in range(0, 33, 8) for c in range(0, 17, 4)]
    eigs = np.sort([np.linalg.svd(own, compute_uv=False) ** 2 for own in grid], axis=None)
    expected = 1 + 400 / np.log(eigs[400:] / eigs[400]).sum()
    assert len(eigs) == 800
    assert recipe.farms_alpha(matrix) == pytest.approx(expected)
    assert recipe.farms_alpha(matrix, ratio=0.5) != pytest.approx(expected)


@pytest.mark.parametrize("network", recipe.NETWORKS)
def test_networks(network):
    net = recipe.NETWORKS[network]()
    assert net(torch.zeros(3, 64)).shape == (3, 10)
    shapes = [tuple(layer.weight.shape[:2]) for layer in recipe.balanced(net)]
    expected = {
        "dense": [(256, 64), (64, 256), (512, 64), (64, 512)],
        "convolutional": [(48, 12), (24, 48), (24, 24)],
    }
    assert shapes == expected[network]
    owned = [own for layer in recipe.balanced(net) for own in layer.parameters()]
    every = {id(own) for own in net.parameters()}
    assert {id(own) for own in owned + recipe.unbalanced(net)} == every
    assert len(owned) + len(recipe.unbalanced(net)) == len(every)
    same, other = recipe.fresh(network, 5), recipe.fresh(network, 6)
    first = [next(iter(own.parameters())) for own in (recipe.fresh(network, 5), same, other)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


@pytest.mark.parametrize("network", recipe.NETWORKS)
def test_factors(network):
    weights = [
        layer.weight.detach().numpy() for layer in recipe.balanced(recipe.NETWORKS[network]())
    ]
    n = len(weights)
    assert (recipe.factors("uniform", weights, None)() == 1).all()
    draw = recipe.factors("random 0.1-1.9", weights, np.random.default_rng(0))
    assert draw().shape == (n,) and (draw() == draw()).all()
    assert (draw() >= 0.1).all() and (draw() <= 1.9).all()
    for method in recipe.MEASURED:
        found = recipe.factors(method, weights, None)()
        assert found.shape == (n,)
        if "-" in method:
            low, high = map(float, method.split()[1].split("-"))
            assert (found.min(), found.max()) == pytest.approx((low, high))


def test_digits_are_split_and_a_fifth_of_the_labels_is_drawn_anew():
    x, y, x_test, y_test = recipe.digits(100)
    assert x.shape == (600, 64) and x_test.shape == (1197, 64)
    images, labels = recipe.load_digits(return_X_y=True)
    order = np.random.default_rng([100, 1]).permutation(1797)
    np.testing.assert_allclose(x_test, images[order[600:]] / 16, atol=1e-6)
    np.testing.assert_array_equal(y_test, labels[order[600:]])
    wrong = (y.numpy() != labels[order[:600]]).mean()
    assert 0.1 < wrong < 0.25  # a tenth of the drawn labels is right
    again = recipe.digits(100)
    assert all(torch.equal(a, b) for a, b in zip((x, y, x_test, y_test), again, strict=True))


def test_rates_are_set_and_followed(monkeypatch):
    """One epoch with factors 0 for all balanced layers leaves them untouched."""
    monkeypatch.setattr(recipe, "EPOCHS", 1)
    kept = []
    monkeypatch.setitem(
        recipe.NETWORKS, "dense", lambda own=recipe.dense: kept.append(own()) or kept[-1]
    )
    monkeypatch.setattr(recipe, "factors", lambda method, weights, rng: lambda: 0 * np.ones(4))
    _, used, _, _ = recipe.train("dense", "uniform", 0.1, 3)
    assert used == 0
    with torch.random.fork_rng():
        torch.manual_seed(3)
        fresh = recipe.dense()
    for before, after in zip(fresh.parameters(), kept[0].parameters(), strict=True):
        assert torch.equal(before, after) == (before.shape[0] != 10)


@pytest.fixture(scope="module")
def stored():
    return data.read_json(HERE / "rates.json")


def test_rates_are_complete(stored):
    assert (HERE / "rates.json").stat().st_size < 150_000
    assert stored["seeds"] == [*recipe.SEEDS]
    cells = {
        (network, method, float(rate))
        for network, by_rate in stored["runs"].items()
        for rate, by_method in by_rate.items()
        for method in by_method
    }
    assert cells == set(recipe.plan())
    for network, method, rate in cells:
        runs = np.array(stored["runs"][network][str(rate)][method])
        assert runs.shape == (20, 4)
        accuracy, factor, alpha, spread = runs.T
        assert (accuracy > 0.05).all() and (accuracy < 1).all()
        assert (alpha > 1).all() and (spread > 0).all()
        if method == "uniform":
            assert (factor == 1).all()
        elif "-" in method:
            low, high = map(float, method.split(",")[0].split()[1].split("-"))
            assert (factor >= low).all() and (factor <= high).all()


def test_one_number_is_made_again(stored, one_thread):  # noqa: F811
    kept = stored["runs"]["dense"]["0.05"]["TB+FARMS 0.1-1.9"][0]
    live = recipe.train("dense", "TB+FARMS 0.1-1.9", 0.05, stored["seeds"][0])
    np.testing.assert_allclose(live, kept, atol=0.02)  # rounding grows over 300 steps
