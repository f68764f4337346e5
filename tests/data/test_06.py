"""The recipes of notebook 06 and what they wrote."""

import pytest
import torch
from families import build, one_thread, tiny_tokenizer, token_ids  # noqa: F401
from safetensors.torch import save_file

from helpers import data, training, transfer

HERE = data.folder("06")


@pytest.fixture(scope="module")
def incompatibility_recipe():
    return data.module("06", "make_numbers")


@pytest.fixture(scope="module")
def incompatibility():
    return data.read_json(HERE / "numbers.json")


def test_artefacts_of_notebook_06_are_complete(incompatibility_recipe, incompatibility):
    recipe = incompatibility_recipe
    assert set(incompatibility["seeds"]) == {str(seed) for seed in recipe.SEEDS}
    assert not set(incompatibility["tuning"]) & set(incompatibility["seeds"])
    for own in incompatibility["seeds"].values():
        assert set(own["ladder"]) == set(own["ladder, small start"])
        assert len(own["ladder"]) == 13
        assert set(own["drift"]) == {"0", *(str(steps) for steps in recipe.DRIFT)}
        assert [len(x["by scale"]) for x in own["drift"].values()] == [len(recipe.SCALES)] * 5
        assert len(own["path"]) == len(recipe.ANGLES)
        assert {tuple(arm) for arm in own["after injection"].values()} == {
            tuple(str(steps) for steps in recipe.LOOKS)
        }
        assert [len(own["before injection"][x]["losses"]) for x in ("T1", "T0", "noise")] == [
            recipe.ALIGN_STEPS
        ] * 3


@pytest.mark.parametrize("seed", range(10, 15))
def test_stored_models_of_notebook_06_know_what_is_written_of_them(seed, incompatibility):
    kept = transfer.load(HERE / "models" / f"{seed}.safetensors")
    written = incompatibility["seeds"][str(seed)]
    world = transfer.world(seed)
    assert set(kept) == set(written["models"])
    for name, model in kept.items():
        for part in "ABR":
            found = transfer.accuracy(model, world[part])
            assert found == pytest.approx(written["models"][name][part], abs=0.02)


def test_an_injected_difference_survives_saving(tmp_path):
    """An attribute beside the weight would not (notebook 06, section 12)."""
    model = transfer.tiny_llama(seed=1)
    name = "model.layers.0.mlp.up_proj.weight"
    changed = transfer.apply_delta(model, {name: torch.ones(160, 64)})
    tensors = {f"changed/{key}": x.clone() for key, x in changed.state_dict().items()}
    save_file(tensors, tmp_path / "saved.safetensors")
    again = transfer.load(tmp_path / "saved.safetensors")["changed"].state_dict()
    assert torch.allclose(again[name] - model.state_dict()[name], torch.ones(160, 64))


def test_the_arms_of_notebook_06_start_from_the_same_function(incompatibility_recipe):
    seed, recipe = 5, incompatibility_recipe
    world = transfer.world(seed)
    t0, t1 = transfer.tiny_llama(seed=1), transfer.tiny_llama(seed=2)
    small = transfer.tiny_llama(seed=3, width=48, layers=3, ffn=112)
    models = recipe.Family(world, t0, t1, small, t0, t0)
    prompts = world["A"].prompts[:20]
    starts = recipe.starts(models, transfer.split(world, seed), seed)
    assert len(starts) == 5
    for factors in starts.values():
        started = transfer.with_lora(small, recipe.RANK, seed, factors)
        torch.testing.assert_close(
            training.last_logits(started, prompts),
            training.last_logits(small, prompts),
            atol=1e-4,
            rtol=0,
        )
    sizes = [starts[arm] for arm in ("Seeking, T1", "random, same spectrum")]
    for name in sizes[0]:
        products = [torch.linalg.svdvals(b @ a)[: recipe.RANK] for b, a in (x[name] for x in sizes)]
        torch.testing.assert_close(*products, atol=1e-4, rtol=1e-4)
