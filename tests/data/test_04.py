"""The recipes of notebook 04 and what they wrote."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from families import build, one_thread, tiny_tokenizer, token_ids  # noqa: F401

from helpers import attention, data, models

HERE = data.folder("04")


@pytest.fixture(scope="module")
def recipe():
    return data.module("04", "make_numbers")


M = torch.tensor([[[100.0, 50, 30, 20, 1]]]).sqrt()  # one item, one head, five dimensions
ORDER = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4]])


@pytest.mark.parametrize(
    ("which", "k", "chosen"),
    [("top", 2, [0, 1]), ("smallest", 2, [3, 4]), ("random", 2, [2, 3]), ("energy", 1, [1, 2, 3])],
)
def test_dimensions_are_selected_as_by_hand(recipe, which, k, chosen):
    mask = recipe.select(M, which, k, ORDER)
    assert mask[0, 0].nonzero()[:, 0].tolist() == chosen


def test_energy_matched_never_takes_the_top_and_removes_as_much(recipe):
    rng = np.random.default_rng(0)
    m = torch.tensor(rng.random((7, 3, 16)))
    order = torch.tensor(rng.random((3, 16)))
    mask = recipe.select(m, "energy", 1, order)
    energy = m.square()
    assert not mask.gather(-1, m.argmax(-1, keepdim=True)).any()
    removed, goal = (energy * mask).sum(-1), energy.amax(-1)
    assert (removed >= goal).all()
    smallest_taken = energy.masked_fill(~mask, 9).amin(-1)
    assert (removed - smallest_taken < goal + energy.amax(-1)).all()


def test_replacements(recipe):
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    mask = torch.tensor([True, False, False, True]).reshape(1, 1, 1, 4)
    assert recipe.replacement(x, mask, "mean").item() == pytest.approx((0 + 4 + 8 + 3 + 7 + 11) / 6)
    assert recipe.replacement(x, mask, "own mean").flatten().tolist() == [6, 7, 8, 9]  # later ones
    assert torch.equal(recipe.replacement(x, mask, 0.5), x / 2)


def test_only_the_prompt_is_overwritten(recipe):
    x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    new = recipe.overwrite(x, 0, "q", recipe.Edit(), n_prompt=4)
    assert torch.equal(new[:, :, 4:], x[:, :, 4:])
    top = x[:, :, :4].square().sum(2).argmax(-1)
    assert (new[:, :, :4].gather(-1, top[:, :, None, None].expand(2, 3, 4, 1)) == 0).all()
    assert (new != x).sum() == 2 * 3 * 4


def test_the_first_token_and_the_others_are_overwritten_apart(recipe):
    x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))

    def edited(tokens):
        return recipe.overwrite(x, 0, "q", recipe.Edit(value="own mean", tokens=tokens), n_prompt=6)

    every, first, rest = map(edited, ("all", "first", "rest"))
    assert torch.equal(first[:, :, 1:], x[:, :, 1:]) and torch.equal(rest[:, :, :1], x[:, :, :1])
    assert torch.equal(first[:, :, :1], every[:, :, :1])
    assert torch.equal(rest[:, :, 1:], every[:, :, 1:])
    top = x.square().sum(2).argmax(-1)[:, :, None, None].expand(2, 3, 6, 1)
    own = every.gather(-1, top)[..., 0]
    later = x.gather(-1, top)[..., 0][:, :, 1:].mean(-1, keepdim=True)
    assert torch.allclose(own, later.expand_as(own), atol=1e-6)


def test_answers_tell_the_told_from_the_true(recipe, monkeypatch):
    def item(gold, memory):
        return recipe.released.Item("context", "a", gold, (" a", " b", " c"), 0, memory)

    items = [item(" a", " b"), item(" a", " b"), item(" a", " b"), item(" a", "")]
    table = pd.DataFrame(
        {"correct": [True, False, False, False], "choice": [" a", " b", " c", " b"]}
    )
    monkeypatch.setattr(recipe.attention, "rank_candidates", lambda *_, during: table)
    assert recipe.answers(None, None, "context", items, None) == "1m00"


def test_rounding(recipe):
    x = torch.tensor([-1.0, 0.5, 0.25])
    assert torch.allclose(recipe.grid(x, 3, torch.tensor(1.0)), torch.tensor([-1, 2 / 3, 1 / 3]))
    y = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    plain = recipe.quantise(y, 0, "k", recipe.Quantise(bits=8))
    assert (plain - y).abs().max() <= y.abs().max() / 127 / 2 + 1e-6
    kept = recipe.quantise(y, 0, "k", recipe.Quantise("top", bits=2))
    top = y.square().sum(2).topk(2).indices[:, :, None].expand(1, 2, 9, 2)
    assert torch.equal(kept.gather(-1, top), y.gather(-1, top))


def test_smoothing_changes_no_product_before_it_rounds(recipe):
    generator = torch.Generator().manual_seed(2)
    q, k = (torch.randn(1, h, 5, 8, generator=generator) for h in (4, 2))
    smooth_q, smooth_k = recipe.smooth(q, k, bits=16)
    products = smooth_q @ smooth_k.repeat_interleave(2, 1).mT
    assert torch.allclose(products, q @ k.repeat_interleave(2, 1).mT, atol=0.2)


def test_finished_steps_survive_and_a_changed_input_starts_anew(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)
    steps = recipe.Steps("run", stamp="a")
    assert steps.run("one", lambda: 1) == 1
    with pytest.raises(KeyboardInterrupt):
        steps.run("two", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    again = recipe.Steps("run", stamp="a")
    assert again.run("one", lambda: 99) == 1
    assert "two" not in again.done
    assert recipe.Steps("run", stamp="b").done == {}
    assert json.loads((tmp_path / "recipes" / "run.json").read_text())["stamp"] == "a"


def test_the_questions_are_what_their_recipe_writes(tmp_path, monkeypatch):
    items = data.module("04", "make_items")
    monkeypatch.setattr(items, "OUT", tmp_path / "items.json")
    items.main()
    assert (tmp_path / "items.json").read_bytes() == (HERE / "items.json").read_bytes()


def test_the_papers_table_has_the_known_means():
    """Checked against means that were computed apart when the picture was read."""
    table = pd.read_csv(data.verified(HERE / "published_table.csv"))
    wide = table.pivot(index=["family", "model", "set"], columns="disrupted", values="accuracy")
    assert len(table) == 99 and not wide.isna().any(axis=None)
    loss = wide["none"] - wide["massive"]
    assert [len(own) for _, own in loss.groupby("family")] == [18, 15]
    np.testing.assert_allclose(loss.groupby("family").mean(), [82.5, 18.8], atol=0.05)
    relative = (loss / wide["none"]).groupby("family").mean()
    np.testing.assert_allclose(relative, [0.91, 0.20], atol=0.005)
    above_chance = (loss / (wide["none"] - 50)).loc["parametric"]
    found = [above_chance.mean(), above_chance.min(), above_chance.max()]
    np.testing.assert_allclose(found, [0.44, 0.23, 0.68], atol=0.005)
    change = wide["non-massive"] - wide["none"]
    np.testing.assert_allclose([change.min(), change.max()], [-1.2, 2.7], atol=1e-9)


@pytest.fixture(scope="module")
def byte_recipe():
    return data.module("04", "make_bytes")


def test_partial_rotary_turns_the_first_dimensions_and_leaves_the_others_alone(byte_recipe):
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(3))
    places = torch.arange(5)
    turned = byte_recipe.turn_first(x, 4, places)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.equal(turned[:, :, 0], x[:, :, 0])  # the first token is at position 0
    assert (turned[:, :, 1:, :4] != x[:, :, 1:, :4]).any(-1).all()
    before, after = (attention.pair_norm(y[..., :4]) for y in (x, turned))
    assert torch.allclose(before, after, atol=1e-6)
    assert torch.equal(byte_recipe.turn_first(x, 0, places), x)
    whole = attention.apply_rope(x, places, byte_recipe.BASE)
    assert torch.equal(byte_recipe.turn_first(x, 8, places), whole)


def test_pairs_are_folded_and_measured_as_by_hand(byte_recipe):
    m = torch.tensor([[3.0, 1, 4, 0, 5, 0, 12, 2]])  # turning: (3, 4), (1, 0); the rest: (5, 12) ..
    assert byte_recipe.folded(m, 4)[0].tolist() == [5, 1, 13, 2]
    assert byte_recipe.folded(m, 0)[0].tolist() == pytest.approx([34**0.5, 1, 160**0.5, 2])
    x = m[None, :, None].expand(2, 1, 7, 8) / 14**0.5  # so that its M is m
    found = byte_recipe.measures(x, 4)
    assert found["pair_energy"] == pytest.approx([e / 199 for e in (25, 1, 169, 4)], abs=1e-5)
    assert found["top_pairs"] == [2]
    assert found["pair_peak"] == pytest.approx(13 / 3.5, abs=1e-4)
    assert found["coordinate_peak"] == pytest.approx(12 / 2.5, abs=1e-4)


def test_byte_models_differ_in_their_positions_alone(byte_recipe):
    def weights(positions):
        torch.manual_seed(5)
        return byte_recipe.ByteModel(positions).state_dict()

    rope, partial, none, learned = map(weights, ("rope", "partial", "none", "learned"))
    assert all(torch.equal(rope[key], own[key]) for own in (partial, none) for key in rope)
    assert learned.keys() - rope.keys() == {"places.weight"}


def test_what_is_stored_of_byte_models_is_complete(byte_recipe):
    found = data.read_json(HERE / "bytes.json")
    assert found["runs"].keys() == byte_recipe.TURNING.keys() == found["turning_dimensions"].keys()
    for runs in found["runs"].values():
        assert len(runs) == byte_recipe.SEEDS
        for looks in runs:
            assert [int(step) for step in looks] == [*byte_recipe.LOOKS]
            for own in (look[part] for look in looks.values() for part in "qkv"):
                np.testing.assert_allclose(np.sum(own["pair_energy"], -1), 1, atol=1e-4)
                assert np.shape(own["top_pairs"]) == (byte_recipe.LAYERS, byte_recipe.HEADS)
                assert np.min(own["pair_peak"]) >= 1 and np.min(own["coordinate_peak"]) >= 1
