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


farms, released = data.module("03", "make_numbers"), data.module("03", "released")


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


def test_tempbalance_map_by_hand():
    np.testing.assert_allclose(0.1 * farms.tempbalance([2, 3, 4]), [0.05, 0.10, 0.15])
    np.testing.assert_allclose(farms.tempbalance([3, 3, 3]), 1)
    np.testing.assert_allclose(farms.tempbalance([4, 2], 0.1, 1.9), [1.9, 0.1])


@pytest.mark.parametrize("method", farms.METHODS)
def test_rate_factors(method):
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((256, 64), (64, 256), (512, 64), (64, 512))]
    factors = farms.multipliers(method, weights, rng)
    assert factors.shape == (4,) and (factors > 0).all()
    if method == "uniform" or method.endswith("mean 1"):
        assert factors.mean() == pytest.approx(1, abs=1e-12)
    else:
        assert ((factors >= 0.5) & (factors <= 1.5)).all()
    if method in ("TB", "TB+FARMS"):
        assert (factors.min(), factors.max()) == (0.5, 1.5)


def passages(topics, n_words=20):
    found = set()
    for text in data.english_prose(topics).texts:
        words = text.split()
        found |= {tuple(words[i : i + n_words]) for i in range(len(words) - n_words + 1)}
    return found


def test_calibration_and_evaluation_share_no_passage():
    calibration, evaluation = passages(farms.CALIBRATION), passages(farms.EVALUATION)
    assert len(calibration) > 1000 and len(evaluation) > 1000
    assert not calibration & evaluation


def test_a_stamp_may_hold_tuples(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)
    stamp = {"topics": ("a", "b"), "sizes": (1, (2, 3)), "eps": 0.2}
    assert farms.Steps("run", stamp).run("one", lambda: (1, 2)) == (1, 2)
    again = farms.Steps("run", stamp)
    assert list(again.run("one", lambda: 1 / 0)) == [1, 2]
    assert farms.Steps("run", {**stamp, "topics": ("a", "c")}).done == {}


def test_wikitext_is_read_as_plain_text_or_parquet(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="WikiText-2 is not here"):
        released.wikitext(tmp_path)
    other = tmp_path / "another-set" / "test-00000-of-00001.parquet"
    other.parent.mkdir()
    other.write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="WikiText-2 is not here"):
        released.wikitext(tmp_path)
    inner = tmp_path / "wikitext-2-raw-v1"
    inner.mkdir()
    parquet = inner / "test-00000-of-00001.parquet"
    parquet.write_bytes(b"")
    rows = [" = Title = \n", "", "A text .\n"]
    monkeypatch.setattr(
        released.pd, "read_parquet", lambda path: released.pd.DataFrame({"text": rows})
    )
    assert released.wikitext(tmp_path) == "".join(rows)
    monkeypatch.setattr(
        released.pd, "read_parquet", lambda path: released.pd.DataFrame({"words": rows})
    )
    with pytest.raises(ValueError, match=r"parquet: column 'text'"):
        released.wikitext(tmp_path)
    (inner / "wiki.test.raw").write_text("Łódź .\n", encoding="utf-8-sig")
    monkeypatch.setenv("TUTORIALS_DATA", str(tmp_path))
    assert released.wikitext() == "Łódź .\n"
