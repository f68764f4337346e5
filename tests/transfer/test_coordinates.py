"""Rotations and permutations that a Llama cannot feel, and finding them again."""

import copy
import itertools
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from families import (  # noqa: F401
    CONFIGS,
    assert_unchanged,
    build,
    fingerprint,
    one_thread,
    token_ids,
)
from hypothesis import given
from torch import nn
from transformers import LlamaForCausalLM

from helpers import data, training, transfer
from helpers.transfer import coordinates

RECIPE = data.module("06", "make_numbers")  # it cuts models down


@pytest.fixture(scope="module")
def trained():
    world = transfer.world(0)
    model = transfer.tiny_llama(seed=0, width=32, layers=2, ffn=48)
    list(training.training(model, *world["A"], steps=60, rng=0, lr=5e-3))
    return model, world["A"].prompts


def llama(**changes):
    """A tiny Llama, two query heads for a key head, with norms whose weights are far from 1."""
    config = CONFIGS["llama"]()
    config.update(changes)
    model, generator = LlamaForCausalLM(config).eval(), torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(weight, 0.4, 2, generator=generator)
        else:
            nn.init.normal_(weight, std=0.3, generator=generator)
    return model


@pytest.fixture(scope="module")
def grouped():
    return transfer.folded(llama()), token_ids(16)


@pytest.fixture(params=["trained", "grouped"])
def known(request):
    """A model and prompts: heads with values of their own, or pairs of heads that share them."""
    return request.getfixturevalue(request.param)


@torch.no_grad()
def scores(model, prompts):
    return training.last_logits(model, prompts)


@pytest.mark.parametrize("tied", [False, True])
def test_a_folded_llama_has_the_same_function_and_norms_of_one(tied):
    model, prompts = llama(tie_word_embeddings=tied), token_ids()
    before = fingerprint(model)
    found = transfer.folded(model)
    with torch.no_grad():
        expected, logits = (m(input_ids=prompts).logits for m in (model, found))
    assert expected.std() > 1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    weights = dict(found.named_parameters())
    norms = [weight for name, weight in weights.items() if "norm" in name]
    assert len(norms) == 7 and all((own == 1).all() for own in norms)
    assert not found.config.tie_word_embeddings and "lm_head.weight" in weights
    nn.init.zeros_(found.lm_head.weight)
    assert found.model.embed_tokens.weight.any()
    for weight in weights.values():
        nn.init.zeros_(weight)
    assert_unchanged(model, before)
    assert model.config.tie_word_embeddings == tied


def test_what_is_folded_already_stays_as_it_is(grouped):
    model, _ = grouped
    again = transfer.folded(model).state_dict()
    assert all(torch.equal(again[name], own) for name, own in model.state_dict().items())


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gpt2", "GPT2LMHeadModel"),
        ("gemma3", "Gemma3ForCausalLM"),  # multiplies by 1 + weight, behind each part as well
        ("qwen3", "Qwen3ForCausalLM"),  # norms inside the heads
    ],
)
def test_other_families_cannot_be_folded(family, name):
    with pytest.raises(ValueError, match=name):
        transfer.folded(build(family))


@pytest.mark.parametrize("bias", ["attention_bias", "mlp_bias"])
def test_a_llama_with_biases_cannot_be_folded(bias):
    with pytest.raises(ValueError, match=r"without biases .* LlamaForCausalLM"):
        transfer.folded(llama(**{bias: True}))


def test_a_twin_has_the_same_function_and_other_weights(known):
    model, prompts = known
    twin = transfer.in_coordinates(model, transfer.random_coordinates(model, 1))
    assert torch.allclose(scores(model, prompts), scores(twin, prompts), atol=1e-4)
    a, b = (dict(m.named_parameters()) for m in (model, twin))
    assert all(not torch.allclose(a[n], b[n], atol=1e-2) for n in a if "norm" not in n)


@pytest.mark.parametrize("part", coordinates.Coordinates._fields)
def test_each_part_of_the_coordinates_alone_changes_weights_and_no_score(known, part):
    model, prompts = known
    drawn = transfer.random_coordinates(model, 2)
    alone = transfer.identity(model)._replace(**{part: getattr(drawn, part)})
    twin = transfer.in_coordinates(model, alone)
    assert torch.allclose(scores(model, prompts), scores(twin, prompts), atol=1e-4)
    moved = [
        transfer.layer_and_kind(name)[1]
        for name, own in twin.named_parameters()
        if not torch.equal(own, model.get_parameter(name))
    ]
    expected = {
        "residual": {*coordinates.READS, *coordinates.WRITES},
        "heads": {"v_proj", "o_proj"},
        "units": {"gate_proj", "up_proj", "down_proj"},
        "order": {"q_proj", "k_proj", "v_proj", "o_proj"},
    }
    assert set(moved) == expected[part]


def test_a_change_passes_through_the_same_coordinates_and_not_as_it_is(known):
    model, prompts = known
    taught = copy.deepcopy(model)
    with torch.no_grad():
        for weight in transfer.changed_weights(taught).values():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    delta = transfer.difference(taught, model)
    place = transfer.random_coordinates(model, 4)
    twin = transfer.in_coordinates(model, place)
    mapped = transfer.apply_delta(twin, transfer.recoordinate(delta, place))
    assert torch.allclose(scores(mapped, prompts), scores(taught, prompts), atol=1e-3)
    raw = transfer.apply_delta(twin, delta)
    assert not torch.allclose(scores(raw, prompts), scores(taught, prompts), atol=0.1)


def test_coordinates_are_found_again_from_what_flows(known):
    model, prompts = known
    place = transfer.random_coordinates(model, 5)
    found = transfer.estimated(model, transfer.in_coordinates(model, place), prompts)
    assert torch.allclose(found.residual, place.residual, atol=1e-3)
    for own, true in zip(found.heads, place.heads, strict=True):
        assert torch.allclose(own, true, atol=1e-3)
    for part in ("units", "order"):
        pairs = zip(getattr(found, part), getattr(place, part), strict=True)
        assert all(torch.equal(own, true) for own, true in pairs)


def of_shape(n_shared, size, layers=1):
    """All of a model that random coordinates need."""
    config = {
        "hidden_size": 2,
        "intermediate_size": 2,
        "head_dim": 2,
        "num_hidden_layers": layers,
        "num_attention_heads": n_shared * size,
        "num_key_value_heads": n_shared,
    }
    return SimpleNamespace(config=SimpleNamespace(**config))


def allowed(n_shared, size):
    """All orders of heads that keep together what shares values."""
    inside = list(itertools.permutations(range(size)))
    return {
        tuple(group * size + head for group, own in zip(groups, heads, strict=True) for head in own)
        for groups in itertools.permutations(range(n_shared))
        for heads in itertools.product(inside, repeat=n_shared)
    }


@given(n_shared=st.integers(1, 5), size=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_a_random_order_keeps_heads_together_that_share_values(n_shared, size, seed):
    (order,) = transfer.random_coordinates(of_shape(n_shared, size), seed).order
    assert sorted(order.tolist()) == list(range(n_shared * size))
    groups = order.view(n_shared, size) // size
    assert (groups == groups[:, :1]).all()


def test_every_order_that_keeps_groups_together_is_drawn():
    drawn = transfer.random_coordinates(of_shape(2, 2, layers=150), 0).order
    assert {tuple(own.tolist()) for own in drawn} == allowed(2, 2)


def by_heads(n, n_heads, seed):
    """(N, H, 5) values of independent heads, the last the largest."""
    drawn = torch.randn(n, n_heads, 5, generator=torch.Generator().manual_seed(seed))
    return drawn * torch.arange(1, n_heads + 1)[:, None]


@pytest.mark.parametrize("order", [[4, 5, 1, 0, 2, 3], [3, 2, 4, 5, 0, 1]])
def test_heads_are_matched_whatever_their_rotation_and_scale(order):
    x = by_heads(60, 6, 0)
    turns = torch.linalg.qr(by_heads(5, 6, 1).transpose(0, 1))[0]
    y = torch.einsum("nhd,hde->nhe", x[:, order], turns) / torch.arange(1, 7)[:, None]
    found = coordinates.match_heads(x.flatten(1), y.flatten(1), 6, 3)
    assert found.tolist() == order


@pytest.mark.parametrize(("n_shared", "size"), [(3, 2), (2, 3), (4, 1), (1, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_unrelated_heads_get_the_best_of_all_orders_that_keep_groups_together(n_shared, size, seed):
    n_heads = n_shared * size
    x, y = (by_heads(30, n_heads, 2 * seed + side) for side in (0, 1))
    lengths = torch.cat([x.norm(dim=-1), y.norm(dim=-1)], 1).T
    likeness = torch.corrcoef(lengths)[:n_heads, n_heads:]
    found = coordinates.match_heads(x.flatten(1), y.flatten(1), n_heads, n_shared)
    best = max(allowed(n_shared, size), key=lambda order: likeness[order, range(n_heads)].sum())
    assert tuple(found.tolist()) == best


def test_a_path_begins_at_the_identity_keeps_the_function_and_goes_away(trained):
    model, prompts = trained
    here = RECIPE.rotation_path(model, 0.0, 6).residual
    assert torch.allclose(here, torch.eye(32), atol=1e-6)
    near, far = (RECIPE.rotation_path(model, angle, 6) for angle in (0.1, 1.0))
    assert (near.residual - here).norm() < (far.residual - here).norm()
    ends = torch.linalg.eigvals(far.residual).angle().abs().max()
    assert ends == pytest.approx(torch.pi, abs=1e-3)
    twin = transfer.in_coordinates(model, far)
    assert torch.allclose(scores(model, prompts), scores(twin, prompts), atol=1e-4)


def test_procrustes_finds_a_reflection():
    generator = torch.Generator().manual_seed(0)
    x, q = torch.randn(50, 4, generator=generator), torch.diag(torch.tensor([1.0, 1, 1, -1]))
    assert torch.allclose(coordinates.procrustes(x, x @ q), q, atol=1e-5)


def test_units_are_matched_whatever_their_scale():
    generator = torch.Generator().manual_seed(0)
    x, order = torch.randn(60, 7, generator=generator), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    y = x[:, order] * torch.arange(1, 8)
    assert torch.equal(coordinates.match_units(x, y), order)


def test_dropping_what_is_not_used_changes_nothing(trained):
    """Units that write nothing, directions in which nothing flows."""
    model, prompts = trained
    quiet = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in quiet.named_parameters():
            if "down_proj" in name:
                weight[:, 40:] = 0
    child = transfer.in_coordinates(quiet, RECIPE.largest_units(quiet, prompts, 40))
    assert child.config.intermediate_size == 40
    assert torch.allclose(scores(child, prompts), scores(quiet, prompts), atol=1e-4)
    kept = RECIPE.principal_directions(model, prompts, 32).residual
    assert torch.allclose(kept.T @ kept, torch.eye(32), atol=1e-5)
    wide = transfer.in_coordinates(model, transfer.identity(model)._replace(residual=kept))
    assert torch.allclose(scores(wide, prompts), scores(model, prompts), atol=1e-4)
    narrow = RECIPE.principal_directions(model, prompts, 24)
    assert transfer.in_coordinates(model, narrow).config.hidden_size == 24
    assert torch.allclose(narrow.residual, kept[:, :24], atol=1e-5)  # the largest ones first


def test_a_norm_with_weights_is_refused(trained):
    model = copy.deepcopy(trained[0])
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[3] = 2
    with pytest.raises(ValueError, match=r"layers\.1\.input_layernorm"):
        transfer.in_coordinates(model, transfer.identity(model))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"num_attention_heads": 8, "head_dim": 8}, r"layers\.0\.self_attn\.q_proj"),
        ({"num_key_value_heads": 4}, r"layers\.0\.self_attn\.k_proj"),
    ],
)
def test_coordinates_for_another_number_of_heads_are_refused(grouped, changes, name):
    model, _ = grouped
    place = transfer.random_coordinates(llama(**changes), 0)
    with pytest.raises(ValueError, match=f"{name}.* values, not"):
        transfer.recoordinate(dict(model.named_parameters()), place)


def test_an_order_of_another_number_of_heads_is_refused(grouped):
    model, _ = grouped
    place = transfer.identity(model)
    longer = place._replace(order=[torch.arange(6) for _ in place.order])
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj.* 32 values, not 6 heads"):
        transfer.in_coordinates(model, longer)


def test_an_unknown_parameter_is_named(trained):
    place = transfer.identity(trained[0])
    with pytest.raises(ValueError, match="c_attn"):
        transfer.recoordinate({"h.0.attn.c_attn.weight": torch.ones(2, 2)}, place)


def test_models_of_different_shapes_have_no_common_coordinates(trained):
    model, prompts = trained
    other = transfer.tiny_llama(seed=0, width=24, layers=2, ffn=48)
    with pytest.raises(ValueError, match="residual of the two models"):
        transfer.estimated(model, other, prompts)


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 1, 1, 3], [0, 1, 2, 4]])
def test_an_order_that_parts_a_group_or_repeats_a_head_is_refused(grouped, order):
    model, _ = grouped
    place = transfer.identity(model)
    place = place._replace(order=[torch.tensor(order) for _ in place.order])
    with pytest.raises(ValueError, match=r"q_proj.* must keep 2 groups together"):
        transfer.in_coordinates(model, place)


def test_tied_embeddings_have_no_twin_before_they_are_folded():
    model = llama(tie_word_embeddings=True)
    with pytest.raises(ValueError, match="use `folded` first"):
        transfer.in_coordinates(model, transfer.identity(model))


def test_models_whose_heads_share_values_otherwise_have_no_common_coordinates(grouped):
    model, prompts = grouped
    other = transfer.folded(llama(num_key_value_heads=4))
    with pytest.raises(ValueError, match=r"\(4, 4\) heads"):
        transfer.estimated(model, other, prompts)


def test_norms_of_a_folded_model_are_not_trained(grouped):
    model, _ = grouped
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "norm" not in name}
