"""Rotations and permutations that a Llama cannot feel, and finding them again."""

import copy

import pytest
import torch
from families import build, one_thread  # noqa: F401

from helpers import data, training, transfer
from helpers.transfer import coordinates

RECIPE = data.module("06", "make_numbers")  # it cuts models down


@pytest.fixture(scope="module")
def trained():
    world = transfer.world(0)
    model = transfer.tiny_llama(seed=0, width=32, layers=2, ffn=48)
    list(training.training(model, *world["A"], steps=60, rng=0, lr=5e-3))
    return model, world["A"].prompts


@torch.no_grad()
def scores(model, prompts):
    return training.last_logits(model, prompts)


def test_a_twin_has_the_same_function_and_other_weights(trained):
    model, prompts = trained
    twin = transfer.in_coordinates(model, transfer.random_coordinates(model, 1))
    assert torch.allclose(scores(model, prompts), scores(twin, prompts), atol=1e-4)
    a, b = (dict(m.named_parameters()) for m in (model, twin))
    assert all(not torch.allclose(a[n], b[n], atol=1e-2) for n in a if "norm" not in n)


@pytest.mark.parametrize("part", ["residual", "heads", "units"])
def test_each_part_of_the_coordinates_alone_changes_no_score(trained, part):
    model, prompts = trained
    drawn = transfer.random_coordinates(model, 2)
    alone = transfer.identity(model)._replace(**{part: getattr(drawn, part)})
    twin = transfer.in_coordinates(model, alone)
    assert torch.allclose(scores(model, prompts), scores(twin, prompts), atol=1e-4)


def test_a_change_passes_through_the_same_coordinates_and_not_as_it_is(trained):
    model, prompts = trained
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


def test_coordinates_are_found_again_from_what_flows(trained):
    model, prompts = trained
    place = transfer.random_coordinates(model, 5)
    found = transfer.estimated(model, transfer.in_coordinates(model, place), prompts)
    assert torch.allclose(found.residual, place.residual, atol=1e-3)
    for own, true in zip(found.heads, place.heads, strict=True):
        assert torch.allclose(own, true, atol=1e-3)
    assert all(torch.equal(own, true) for own, true in zip(found.units, place.units, strict=True))


def test_a_path_begins_at_the_identity_keeps_the_function_and_goes_away(trained):
    model, prompts = trained
    here = transfer.rotation_path(model, 0.0, 6).residual
    assert torch.allclose(here, torch.eye(32), atol=1e-6)
    near, far = (transfer.rotation_path(model, angle, 6) for angle in (0.1, 1.0))
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


def test_heads_that_share_values_are_refused():
    model = build("llama")  # two query heads for a key head
    with pytest.raises(ValueError, match=r"v_proj.* values, not"):
        transfer.recoordinate(dict(model.named_parameters()), transfer.identity(model))


def test_an_unknown_parameter_is_named(trained):
    place = transfer.identity(trained[0])
    with pytest.raises(ValueError, match="c_attn"):
        transfer.recoordinate({"h.0.attn.c_attn.weight": torch.ones(2, 2)}, place)


def test_models_of_different_shapes_have_no_common_coordinates(trained):
    model, prompts = trained
    other = transfer.tiny_llama(seed=0, width=24, layers=2, ffn=48)
    with pytest.raises(ValueError, match="residual of the two models"):
        transfer.estimated(model, other, prompts)
