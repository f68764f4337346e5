"""The toy world, its models and its training loop."""

import numpy as np
import pytest
import torch
from families import one_thread  # noqa: F401
from safetensors.torch import save_file
from torch import nn

from helpers import training, transfer
from helpers.transfer.world import VOCABULARY


def test_a_world_has_its_sets_and_no_prompt_twice():
    found = transfer.world(0)
    assert {name: len(facts) for name, facts in found.items()} == {
        "A": 332, "B": 180, "R": 256, "C": 256
    }  # fmt: skip
    everything = transfer.joined(*found.values())
    assert len({tuple(row) for row in everything.prompts.tolist()}) == len(everything) == 1024
    assert everything.prompts.max() < transfer.VALUE <= everything.values.min()
    assert everything.values.max() < VOCABULARY


def test_values_of_the_rule_depend_on_the_last_name_alone_and_tell_it():
    rule = transfer.world(3)["R"]
    table = dict(zip(rule.prompts[:, 2].tolist(), rule.values.tolist(), strict=True))
    assert all(
        table[p] == v
        for p, v in zip(rule.prompts[:, 2].tolist(), rule.values.tolist(), strict=True)
    )
    assert len(set(table.values())) == len(table) == 16


def test_worlds_are_told_apart_by_their_seed():
    a, same, other = transfer.world(1), transfer.world(1), transfer.world(2)
    assert torch.equal(a["B"].values, same["B"].values)
    assert not torch.equal(a["B"].prompts, other["B"].prompts)


def test_a_split_holds_out_what_it_does_not_train_on():
    world = transfer.world(4)
    split = transfer.split(world, 4)
    keys = {name: {tuple(row) for row in own.prompts.tolist()} for name, own in split.items()}
    sizes = {"train": 190, "extract": 20, "align": 80, "B": 90, "R": 156}
    assert {name: len(own) for name, own in keys.items()} == sizes
    assert keys["extract"] | keys["align"] < keys["train"]
    assert not keys["extract"] & keys["align"]
    assert not keys["train"] & (keys["B"] | keys["R"])
    assert keys["B"] < {tuple(row) for row in world["B"].prompts.tolist()}


def test_models_are_read_back_in_their_own_shapes(tmp_path):
    kept = {
        "large": transfer.tiny_llama(seed=1),
        "small": transfer.tiny_llama(seed=2, width=48, layers=2),
    }
    tensors = {
        f"{name}/{key}": x for name, model in kept.items() for key, x in model.state_dict().items()
    }
    save_file(tensors, tmp_path / "models.safetensors")
    found = transfer.load(tmp_path / "models.safetensors")
    prompts = transfer.world(0)["A"].prompts[:5]
    for name, model in kept.items():
        assert torch.equal(
            training.last_logits(found[name], prompts), training.last_logits(model, prompts)
        )


@pytest.mark.parametrize("content", [None, b"half"])
def test_models_that_cannot_be_read_are_named(tmp_path, content):
    file = tmp_path / "broken.safetensors"
    if content:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.safetensors"):
        transfer.load(file)


def test_a_fact_is_not_told_by_its_neighbours():
    """The most frequent value of a name or a relation in A is right in B by chance."""
    right, n = 0, 0
    for seed in range(20):
        world = transfer.world(seed)
        for column in (1, 2, 3):
            prompts, values = world["A"]
            for prompt, value in zip(*world["B"], strict=True):
                own = values[prompts[:, column] == prompt[column]]
                right += int(own.mode().values == value)
                n += 1
    assert abs(right / n - 1 / 24) < 0.01


def test_a_tiny_llama_is_made_from_its_seed_and_keeps_its_norms():
    a, same, other = (transfer.tiny_llama(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(a.lm_head.weight, other.lm_head.weight)
    norms = [w for name, w in a.named_parameters() if "norm" in name]
    assert len(norms) == 9 and not any(w.requires_grad for w in norms)
    assert all((w == 1).all() for w in norms)


def test_making_a_model_leaves_the_global_seed_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    transfer.tiny_llama(seed=0)
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture
def small():
    model = transfer.tiny_llama(seed=0, width=32, layers=2, ffn=64)
    facts = transfer.world(0)["A"]
    return model, transfer.Facts(facts.prompts[:40], facts.values[:40])


def test_training_learns_stops_when_it_is_enough_and_says_so_step_by_step(small):
    model, facts = small
    steps = list(training.training(model, *facts, steps=400, rng=0, lr=5e-3, enough=0.05))
    assert transfer.accuracy(model, facts) == 1.0
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1)) and len(steps) < 400


def test_only_the_chosen_weights_are_trained(small):
    model, facts = small
    before = {name: w.clone() for name, w in model.named_parameters()}
    chosen = [w for name, w in model.named_parameters() if "up_proj" in name]
    list(training.training(model, *facts, steps=3, rng=0, weights=chosen))
    changed = {name for name, w in model.named_parameters() if not torch.equal(w, before[name])}
    assert changed == {name for name in before if "up_proj" in name}


def test_training_draws_every_example_once_before_any_twice():
    seen = []

    def scores(model, rows):
        seen.append(rows.flatten().tolist())
        return model(rows)

    model, x = nn.Linear(1, 2), torch.arange(6.0)[:, None]
    list(
        training.training(
            model, x, torch.zeros(6, dtype=torch.long), steps=6, rng=0, batch_size=2, scores=scores
        )
    )
    passes = [[i for batch in part for i in batch] for part in (seen[:3], seen[3:])]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(6))
    assert seen[:3] != seen[3:]


def test_soft_targets_and_a_penalty():
    model, x = nn.Linear(1, 2, bias=False), torch.ones(4, 1)
    soft = torch.tensor([[0.25, 0.75]]).repeat(4, 1)

    def scores(model, rows):
        return model(rows)

    settings = {"steps": 500, "rng": 0, "lr": 0.05, "decay": 0, "scores": scores}
    list(training.training(model, x, soft, **settings))
    assert torch.allclose(model(x[:1]).softmax(-1), soft[:1], atol=1e-3)

    def pull():
        return 100 * model.weight.square().sum()

    list(
        training.training(
            model, x, soft, steps=500, rng=0, lr=0.05, decay=0, scores=scores, penalty=pull
        )
    )
    assert torch.allclose(model(x[:1]).softmax(-1), torch.full((1, 2), 0.5), atol=5e-3)


def test_training_refuses_what_it_cannot_train(small):
    model, facts = small
    with pytest.raises(ValueError, match="0 inputs"):
        next(training.training(model, facts.prompts[:0], facts.values[:0], steps=1, rng=0))
    with pytest.raises(ValueError, match="39 targets"):
        next(training.training(model, facts.prompts, facts.values[1:], steps=1, rng=0))
    with pytest.raises(ValueError, match="0 weights"):
        next(training.training(model, *facts, steps=1, rng=0, weights=[]))


def test_a_loss_that_is_not_finite_is_named(small):
    model, facts = small
    with torch.no_grad():
        model.lm_head.weight[0] = np.nan
    with pytest.raises(FloatingPointError, match="step 1"):
        next(training.training(model, *facts, steps=1, rng=0))
