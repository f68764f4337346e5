"""The weight quantisers of notebook 04 against closed forms."""

import numpy as np
import pytest
import torch
from families import build, one_thread, token_ids  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from helpers import data

SHAPES = {"bits": st.integers(2, 8), "group": st.sampled_from([2, 4, 8]), "seed": st.integers(0)}


@pytest.fixture(scope="module")
def recipe():
    return data.module("04", "make_quantisers")


def normal(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=shape), dtype=torch.float32)


def inputs(recipe, x):
    return recipe.Inputs(x.T @ x, x.abs().mean(0))


def correlated(n, d, seed=0, outlier=0):
    """n tokens of d channels that share causes; channel `outlier` is 20 times as large."""
    x = normal(n, d, seed=seed) @ normal(d, d, seed=seed + 1) + 3 * normal(n, 1, seed=seed + 2)
    x[:, outlier] *= 20
    return x


def test_rounding_to_nearest_by_hand(recipe):
    w = torch.tensor([[0.0, 0.4, 0.6, 3.0], [-1.0, 0.0, 0.9, 2.0]])
    by_hand = torch.tensor([[0.0, 0.0, 1.0, 3.0], [-1.0, 0.0, 1.0, 2.0]])  # steps of 1
    assert torch.equal(recipe.rtn(w, 2, 4), by_hand)
    pairs = recipe.rtn(w, 2, 2)  # ends of each pair lie on its own grid
    assert torch.allclose(pairs, w, atol=1e-6)


@given(**SHAPES)
def test_rounding_moves_no_weight_by_more_than_half_a_step(bits, group, seed):
    recipe = data.module("04", "make_quantisers")
    w = normal(3, 16, seed=seed)
    new = recipe.rtn(w, bits, group)
    groups = w.unflatten(1, (-1, group))
    step = (groups.amax(-1) - groups.amin(-1)) / (2**bits - 1)
    moved = (new - w).abs().unflatten(1, (-1, group)).amax(-1)
    assert (moved <= step / 2 + 1e-5).all()
    assert torch.allclose(recipe.rtn(new, bits, group), new, atol=1e-5)  # nothing left to round
    assert max(len(own.unique()) for own in new.unflatten(1, (-1, group)).flatten(0, 1)) <= 2**bits


@given(**SHAPES)
def test_gptq_is_rounding_to_nearest_where_inputs_are_independent(bits, group, seed):
    recipe = data.module("04", "make_quantisers")
    w = normal(5, 16, seed=seed)
    alone = recipe.Inputs(7 * torch.eye(16), torch.ones(16))
    assert torch.equal(recipe.gptq(w, bits, group, alone), recipe.rtn(w, bits, group))


def test_gptq_solves_two_columns_as_by_hand(recipe):
    """What the first column loses, the second makes good by least squares, before it is rounded."""
    w, x = normal(4, 2, seed=3), correlated(50, 2, seed=4, outlier=1)
    own = inputs(recipe, x)
    new = recipe.gptq(w, 2, 1, own)  # each column is its own group: a grid of one level
    assert torch.allclose(new[:, 0], w[:, 0])
    whole = recipe.gptq(w, 2, 2, own)
    damped = own.moment + recipe.DAMPING * own.moment.diagonal().mean() * torch.eye(2)
    target = w[:, 1] + (w[:, 0] - whole[:, 0]) * damped[0, 1] / damped[1, 1]
    low, step = recipe.grid(w, 2)
    nearest = recipe.on_grid(target[:, None], low, step, 2)
    assert torch.allclose(whole[:, 1:], nearest, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("method", ["AWQ", "GPTQ"])
def test_calibrated_quantisers_lose_less_of_the_outputs(recipe, method, bits):
    w, x = normal(24, 32), correlated(400, 32)
    own = inputs(recipe, x)
    error = {
        name: recipe.output_error(new - w, own.moment)
        for name, new in {
            method: recipe.CALIBRATED[method](w, bits, 16, own),
            "finer": recipe.CALIBRATED[method](w, bits + 1, 16, own),
            "RTN": recipe.rtn(w, bits, 16),
        }.items()
    }
    assert error["finer"] < error[method] < 0.8 * error["RTN"]


def test_the_order_of_blocked_updates_does_not_matter(recipe):
    """GPTQ as it stands in the paper: every column at once after each."""
    w, own = normal(6, 12), inputs(recipe, correlated(90, 12))
    h = own.moment.double()
    h = h + recipe.DAMPING * h.diagonal().mean() * torch.eye(12)
    rest, slow = w.double(), torch.empty(6, 12, dtype=torch.double)
    inverse = torch.linalg.inv(h)
    for i in range(12):
        if i % 4 == 0:
            low, step = recipe.grid(rest[:, i : i + 4], 3)
        slow[:, i] = recipe.on_grid(rest[:, i : i + 1], low, step, 3)[:, 0]
        error = (rest[:, i] - slow[:, i]) / inverse[i, i]
        rest = rest - torch.outer(error, inverse[i])
        # the column is fixed: eliminate it from the inverse (equation 3 of the paper)
        inverse = inverse - torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    assert torch.allclose(recipe.gptq(w, 3, 4, own).double(), slow, atol=1e-4)


def test_awq_without_stretch_is_rounding_to_nearest(recipe, monkeypatch):
    monkeypatch.setattr(recipe, "ALPHAS", [0.0])
    w, own = normal(24, 32), inputs(recipe, correlated(400, 32))
    assert torch.equal(recipe.awq(w, 3, 16, own), recipe.rtn(w, 3, 16))


def test_awq_protects_the_channel_with_large_inputs(recipe):
    w, own = normal(24, 32), inputs(recipe, correlated(400, 32, outlier=5))
    moved = (recipe.awq(w, 3, 16, own) - w).square().mean(0)
    plain = (recipe.rtn(w, 3, 16) - w).square().mean(0)
    assert moved[5] < 0.5 * plain[5]


def test_output_error_is_that_of_the_outputs(recipe):
    x, change = normal(40, 8), normal(3, 8, seed=1)
    expected = (x @ change.T).square().sum().item()
    assert recipe.output_error(change, x.T @ x) == pytest.approx(expected, rel=1e-4)


def test_blocks_one_by_one_are_the_model(recipe):
    model, ids = build("llama"), token_ids(2, 9)
    states, others = recipe.block_inputs(model, ids)
    with torch.no_grad():
        for block in model.model.layers:
            states = recipe.apply_block(block, states, others)
        expected = model.model(input_ids=ids).last_hidden_state
        assert torch.allclose(model.model.norm(states), expected, atol=1e-5)


def test_inputs_of_layers_are_what_they_multiply(recipe):
    model, ids = build("llama"), token_ids(2, 9)
    block = model.model.layers[0]
    states, others = recipe.block_inputs(model, ids)
    with torch.no_grad():
        seen = recipe.read_by(block, states, others)
        x = block.input_layernorm(states).flatten(0, 1)
    assert seen.keys() == recipe.linear_layers(block).keys() and len(seen) == 7
    assert torch.allclose(seen["self_attn.q_proj"].moment, x.T @ x, atol=1e-4)
    assert torch.allclose(seen["self_attn.v_proj"].size, x.abs().mean(0), atol=1e-6)


@pytest.mark.parametrize("method", ["RTN", "AWQ", "GPTQ"])
def test_a_whole_model_lies_on_grids_and_keeps_its_head(recipe, method):
    model, ids = build("llama"), token_ids(8, 40)
    before = {name: own.clone() for name, own in model.state_dict().items()}
    if method == "RTN":
        errors = recipe.round_to_nearest(model, 3, 8)
    else:
        errors = recipe.quantise(model, method, 3, 8, ids)
        assert 0 < errors["output"] < errors["output of RTN"]
    assert 0.05 < errors["weight"] < 0.5
    for name, own in model.state_dict().items():
        rounded = "layers" in name and "proj" in name
        assert torch.equal(own, before[name]) != rounded
        if rounded and method != "AWQ":  # whose levels are stretched by channel
            groups = own.unflatten(1, (-1, 8)).flatten(0, 1)
            assert max(len(row.unique()) for row in groups) <= 8


def test_the_group_is_chosen_by_the_loss_on_prose_alone(recipe):
    table = {"clean": [3.0, 0.0]}
    table |= {f"4 bit, group {g}": [3.0 + 0.001 * g, 0.1] for g in recipe.GROUPS}
    assert recipe.chosen(table) == 192

    def __call__(self, text, **_):
        return {"input_ids": [*text.encode()]}


def test_calibration_holds_nothing_of_what_is_scored(recipe, monkeypatch):
    monkeypatch.setattr(recipe.lm, "encode", lambda tokenizer, text: [*text.encode()])
    windows = recipe.calibration(None, 0)
    assert windows.shape == (recipe.WINDOWS, recipe.LENGTH)
    assert not torch.equal(windows, recipe.calibration(None, 1))
    scored = [text[:1000] for text in data.english_prose().texts[:4]]  # well over 128 tokens
    for row in windows.tolist():
        window = bytes(row).decode(errors="ignore")
        assert not any(window in text for text in scored)
