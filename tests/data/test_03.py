"""The recipes of notebook 03 and what they wrote."""

import numpy as np
import pytest
import torch
from families import build, one_thread, tiny_tokenizer, token_ids  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import data, hooks, models, spectral

HERE = data.folder("03")


farms = data.module("03", "make_numbers")


@pytest.mark.parametrize(
    ("scores", "sizes", "sparsity", "eps", "expected"),
    [
        ([1, 2, 3], [1, 1, 1], 0.5, 0.2, [0.4, 0.5, 0.6]),
        ([1, 2, 3], [1, 1, 2], 0.5, 0.2, [0.380952, 0.476190, 0.571429]),
        ([0, 1], [1, 1], 0.9, 0.3, [0.8, 1.0]),  # 0.63 and 1.17 before the surplus moves
        ([2, 2, 2], [1, 5, 2], 0.7, 0.2, [0.7, 0.7, 0.7]),
    ],
)
def test_allocation_by_hand(scores, sizes, sparsity, eps, expected):
    share = farms.allocate(scores, sizes, sparsity, eps)
    np.testing.assert_allclose(share, expected, atol=1e-6)
    assert np.average(share, weights=sizes) == pytest.approx(sparsity, abs=1e-12)


UNITS = st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 10**6)), min_size=1, max_size=12)


@given(UNITS, st.floats(0, 0.999), st.floats(0, 0.9))
def test_allocation_keeps_its_mean_its_order_and_its_range(units, sparsity, eps):
    scores, sizes = map(np.array, zip(*units, strict=True))
    share = farms.allocate(scores, sizes, sparsity, eps)
    assert np.average(share, weights=sizes) == pytest.approx(sparsity, abs=1e-9)
    assert (share >= 0).all() and (share <= 1).all()
    order = np.argsort(scores)
    assert (np.diff(share[order]) >= -1e-12).all()
    equal = np.diff(scores[order]) == 0
    np.testing.assert_allclose(np.diff(share[order])[equal], 0, atol=1e-12)


def test_everything_pruned_is_an_allocation_too():
    with np.errstate(all="raise"):
        np.testing.assert_allclose(farms.allocate([1, 2, 4], [3, 1, 2], 1.0), 1, rtol=1e-12)


def test_block_scores_are_means():
    scores, blocks = np.array([1, 3, 10, 20, 30.0]), np.array([0, 0, 1, 1, 1])
    np.testing.assert_allclose(farms.by_block(scores, blocks), [2, 20])
    assert farms.block_of("model.layers.12.mlp.down_proj") == 12


def test_ranks():
    values = torch.tensor([[3.0, 1, 2], [5, 5, 4]])
    assert farms.ranks(values).tolist() == [[2, 0, 1], [1, 2, 0]]  # of twins the first is smaller
    assert farms.ranks(values[:1]).tolist() == [[2, 0, 1]]
    many = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(farms.ranks(many), many.argsort(-1).argsort(-1))


@pytest.fixture
def one_layer(monkeypatch):
    """The matrix in a model of one layer, with its pruner."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    monkeypatch.setattr(farms.hooks, "linear_layers", lambda model: {"0": model[0]})
    return layer, farms.Pruner(nn.Sequential(layer))


def test_wanda_and_magnitude_by_hand(one_layer):
    layer, pruner = one_layer
    pruner.rank_by({"0": torch.tensor([1.0, 10.0])})
    pruner.prune([0.5])
    assert layer.weight.tolist() == [[0, -2], [0, 0.5]]
    pruner.rank_by()
    pruner.prune([0.5])  # from the original weights, not from the pruned ones
    assert layer.weight.tolist() == [[0, -2], [3, 0]]
    pruner.prune([0.0])
    assert layer.weight.tolist() == [[1, -2], [3, 0.5]]
    pruner.prune([1.0])
    assert not layer.weight.any()
    pruner.restore()
    assert layer.weight.tolist() == [[1, -2], [3, 0.5]]


@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
def test_pruner_prunes_as_much_as_asked_and_restores_every_bit(criterion):
    model = build("llama")
    pruner, names = farms.Pruner(model), list(hooks.linear_layers(model))
    before = {n: p.detach().view(torch.int32).clone() for n, p in model.named_parameters()}
    wanda = criterion == "wanda"
    pruner.rank_by(spectral.input_norms(model, names, [token_ids()]) if wanda else None)
    shares = np.linspace(0.1, 0.9, len(names))
    pruner.prune(shares)
    for name, share in zip(names, shares, strict=True):
        zeros = model.get_submodule(name).weight == 0
        if wanda:
            assert (zeros.sum(1) == round(share * zeros.shape[1])).all()
        else:
            assert zeros.sum() == round(share * zeros.numel())
    pruner.restore()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.detach().view(torch.int32), before[name])
    with pytest.raises(ValueError):
        pruner.prune(shares[:-1])


def test_magnitude_pruning_keeps_the_largest():
    model = build("llama")
    pruner = farms.Pruner(model)
    pruner.rank_by()
    pruner.prune([0.6] * len(pruner.layers))
    for name, layer in pruner.layers.items():
        size, gone = pruner.originals[name].abs(), layer.weight == 0
        assert size[gone].max() <= size[~gone].min()
        assert torch.equal(layer.weight[~gone], pruner.originals[name][~gone])


def passages(topics, n_words=20):
    found = set()
    for text in data.english_prose(topics).texts:
        words = text.split()
        found |= {tuple(words[i : i + n_words]) for i in range(len(words) - n_words + 1)}
    return found


def test_no_two_documents_share_a_passage():
    documents = [passages([topic]) for topic in farms.CALIBRATION + farms.EVALUATION]
    assert len(farms.EVALUATION) == 40 and min(map(len, documents)) > 30
    assert len(set.union(*documents)) == sum(map(len, documents))


def test_a_window_of_the_own_ratio_has_as_many_entries():
    rng = np.random.default_rng(0)
    for shape, height in (((576, 1536), 192), ((1536, 576), 192), ((192, 576), 192), ((40, 40), 8)):
        matrix = rng.normal(size=shape)
        ours = farms.own_ratio(matrix, height)
        rows = round(height * np.sqrt(shape[0] / shape[1]))
        columns = int(round(rows * shape[1] / shape[0], 9))
        assert rows * columns == pytest.approx(height**2, rel=0.02)
        assert len(ours) % min(rows, columns) == 0 and (np.diff(ours) >= 0).all()
    square = rng.normal(size=(40, 40))
    np.testing.assert_allclose(farms.own_ratio(square, 8), farms.pooled(square, 8))


def test_a_second_rounding_has_the_levels_of_the_first():
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(6, 96))
    first = farms.rounded_again(weight, 0)
    np.testing.assert_allclose(farms.rounded_again(first, 0), first, atol=1e-12)  # nothing is new
    assert max(len(np.unique(row)) for row in first.reshape(-1, 32)) <= 16
    grouped = weight.reshape(-1, 32)
    step = np.ptp(grouped, axis=1) / 15
    assert (abs(first - weight).reshape(-1, 32).max(1) <= step / 2 + 1e-12).all()
    again = farms.rounded_again(first, 8)  # the error of a second one is of the size of the first
    assert 0.5 < (again - first).std() / (first - weight).std() < 1.5
    by_hand = farms.rounded_again(np.roll(weight, 8, axis=1), 8)  # groups begin 8 columns later
    np.testing.assert_allclose(by_hand, np.roll(first, 8, axis=1))
    flat = np.ones((2, 32))
    np.testing.assert_array_equal(farms.rounded_again(flat, 8), flat)


def test_another_sparsity_for_block_0_keeps_the_mean():
    share, sizes = np.array([0.48, 0.6, 0.72]), np.array([1.0, 2.0, 1.0])
    moved = farms.with_first(share, sizes, 0.6, 0.6)
    assert np.average(moved, weights=sizes) == pytest.approx(0.6)
    assert moved[0] == 0.6 and moved[2] / moved[1] == pytest.approx(1.2)


@pytest.mark.parametrize("name", farms.HEIGHT)
def test_every_allocation_reaches_the_target(name):
    _, blocks, sizes = farms.layer_scores(name)
    for sparsity in (0.4, 0.6):
        found = farms.allocations(name, sparsity)
        for share in found.values():
            assert np.average(share, weights=sizes) == pytest.approx(sparsity)
        even, spared = found["uniform"], found["uniform, block 0 as in the ramp"]
        assert spared[0] == found["ramp"][0] < sparsity and np.ptp(spared[blocks > 0]) < 1e-12
        assert found["ramp, block 0 as in uniform"][0] == sparsity == even[0]
    by_rank = found["peak, FARMS, by rank"]
    assert not np.allclose(by_rank, found["peak, FARMS"])


def test_zeros_are_left_out_of_a_peak():
    eigs = np.sort(np.random.default_rng(2).pareto(1.5, 200) + 1)
    padded = np.concatenate([np.zeros(20), eigs])
    assert farms.tail(padded, "peak").alpha == farms.tail(eigs, "peak").alpha


@pytest.mark.parametrize("name", farms.HEIGHT)
def test_stored_grids_hold_what_the_recipe_says(name):
    grid = data.read_json(HERE / f"pruning_{name}.json")
    assert list(grid["cells"]) == [f"{own} {share}" for own, share in farms.CELLS[name]]
    for cell, by_allocation in grid["cells"].items():
        for allocation in farms.allocations(name, 0.5):
            own, many = by_allocation[allocation], "wanda" in cell
            many &= allocation not in farms.ONE_SEED
            assert list(own) == [str(s) for s in farms.SEEDS[name][: None if many else 1]]
            assert {len(losses) for losses in own.values()} == {len(farms.EVALUATION)}
    alone = data.read_json(HERE / f"blocks_{name}.json")["losses"]
    assert len(alone) == farms.layer_scores(name)[1].max() + 1


def test_a_stamp_may_hold_tuples(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)
    stamp = {"topics": ("a", "b"), "sizes": (1, (2, 3)), "eps": 0.2}
    assert farms.Steps("run", stamp).run("one", lambda: (1, 2)) == (1, 2)
    again = farms.Steps("run", stamp)
    assert list(again.run("one", lambda: 1 / 0)) == [1, 2]
    assert farms.Steps("run", {**stamp, "topics": ("a", "c")}).done == {}
