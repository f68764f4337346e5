"""Edits: the rank-one algebra in closed form, every editor on every family, and undoing them."""

import re

import pytest
import torch
from families import DECODERS, build, one_thread, tiny_tokenizer, token_ids  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from helpers import editing, hooks, lm

TOKENIZER = tiny_tokenizer(start=True)
REQUEST = editing.Request("Q of ABC is", "ABC", "zK")  # near the end: windows are short


def fingerprint(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_unchanged(model, before):
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name
        assert p.requires_grad and p.grad is None, name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def gain(model, **kwargs):
    scores = lm.score_targets(model, TOKENIZER, [REQUEST.prompt], [REQUEST.target], **kwargs)
    return float(scores["logprob"][0])


# Algebra

W, K, V = torch.eye(2), torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.0])


def test_rank_one_update_by_hand():
    plain = editing.rank_one_update(W, K, V, K)
    assert torch.allclose(plain, torch.tensor([[1.0, 1.0], [0, 0]]))
    c = torch.diag(torch.tensor([4.0, 1.0]))
    u = torch.linalg.solve(c, K)
    white = editing.rank_one_update(W, K, V, u)
    assert torch.allclose(white, torch.tensor([[0.4, 1.6], [0, 0]]))
    assert torch.trace(white @ c @ white.T) == pytest.approx(3.2, rel=1e-5)
    assert torch.trace(plain @ c @ plain.T) == pytest.approx(5, rel=1e-5)
    p = editing.null_projector(torch.diag(torch.tensor([1.0, 0.0])), 1e-6)
    free = editing.rank_one_update(W, K, V, p @ K)
    assert torch.allclose(free, torch.tensor([[0.0, 2.0], [0, 0]]))
    assert torch.allclose(free @ torch.tensor([1.0, 0.0]), torch.zeros(2))


@given(st.integers(0, 10_000))
def test_any_update_writes_the_value_and_white_ones_disturb_least(seed):
    g = torch.Generator().manual_seed(seed)
    w, k, v = (torch.randn(s, generator=g) for s in ((5, 7), (7,), (5,)))
    keys = torch.randn(40, 7, generator=g) * torch.linspace(0.3, 3, 7)
    c = keys.T @ keys / 40
    white = torch.linalg.solve(c.double(), k.double()).float()
    costs = []
    for u in (white, 7 * white, k + 0.1 * white):
        delta = editing.rank_one_update(w, k, v, u)
        assert torch.allclose((w + delta) @ k, v, atol=1e-3)
        assert torch.linalg.matrix_rank(delta) == 1
        costs.append(float(torch.trace(delta @ c @ delta.T)))
    assert costs[0] == pytest.approx(costs[1], rel=1e-3)
    assert costs[0] <= costs[2] * (1 + 1e-4)


@pytest.mark.parametrize(
    ("key", "value", "direction", "message"),
    [
        (torch.ones(3), V, K, r"\(2,\), \(2,\), \(2,\); got \(3,\)"),
        (K, V, torch.tensor([1.0, -1.0]), "orthogonal"),
        (K, V, torch.tensor([float("nan"), 1.0]), "not finite"),
    ],
)
def test_updates_that_cannot_be(key, value, direction, message):
    with pytest.raises(ValueError, match=message):
        editing.rank_one_update(W, key, value, direction)


def test_whitening_tends_to_the_inverse_and_to_the_key():
    c = torch.diag(torch.tensor([4.0, 1.0]))
    assert torch.allclose(editing.whiten(c, K, 1e-9), torch.tensor([0.25, 1.0]), atol=1e-5)
    far = editing.whiten(c, K, 1e6)
    assert far[0] / far[1] == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="`ridge` must be a positive"):
        editing.whiten(c, K, 0)
    with pytest.raises(ValueError, match="not positive"):
        editing.whiten(torch.diag(torch.tensor([-4.0, 1.0])), K, 0.01)
    with pytest.raises(ValueError, match=r"no eigenvalue lies below 0.5; the least is 1"):
        editing.null_projector(c, 0.5)


# Where


def test_the_subject_ends_where_its_last_character_is():
    prompt = "The ABC of Q is"
    at = editing.subject_position(TOKENIZER, prompt, "ABC")
    ids = lm.encode(TOKENIZER, prompt)
    assert TOKENIZER.decode([ids[at]]) == "C"
    bare = tiny_tokenizer(start=False)
    assert editing.subject_position(bare, prompt, "ABC") == at - 1
    merged = "see ab is"  # one token for both letters
    ids = lm.encode(TOKENIZER, merged)
    assert TOKENIZER.decode([ids[editing.subject_position(TOKENIZER, merged, "a")]]) == "ab"
    for subject in ("", "XYZ"):
        with pytest.raises(ValueError, match=re.escape(repr(subject))):
            editing.subject_position(TOKENIZER, prompt, subject)


@pytest.mark.parametrize("family", DECODERS)
def test_second_moment_is_that_of_captured_keys(family):
    model, ids = build(family), token_ids(5, 9)
    name, _ = editing.down_projection(model, 1)
    with torch.no_grad(), hooks.capture(model, name, of="input") as seen:
        model(ids)
    c, n = editing.second_moment(model, 1, ids, batch_size=2)
    flat = seen[name].reshape(45, -1)
    assert n == 45 and torch.allclose(c, flat.T @ flat / 45, rtol=1e-4, atol=1e-6)
    ids[:, 0] = 1
    _, n = editing.second_moment(model, 1, ids, start=1)
    assert n == 40
    with pytest.raises(ValueError, match=r"`layer` must lie in 0..2; got 3"):
        editing.second_moment(model, 3, ids)
    with pytest.raises(ValueError, match="holds no keys"):
        editing.second_moment(model, 1, ids[:, :1], start=1)


# Editors


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("whitened", [False, True], ids=["plain", "white"])
def test_rome_writes_its_value_and_leaves_no_trace(family, whitened):
    model = build(family)
    before, was = fingerprint(model), gain(model)
    memory = editing.find_memory(model, TOKENIZER, REQUEST, 1, prefixes=["", "a. "], steps=8)
    assert_unchanged(model, before)
    assert memory.losses[-1] < memory.losses[0]
    assert (memory.new - memory.old).norm() <= 4.0001 * memory.old.norm()
    c, _ = editing.second_moment(model, 1, token_ids(8, 20))
    direction = (lambda k: editing.whiten(c, k)) if whitened else None
    _, module = editing.down_projection(model, 1)
    with editing.rome(model, 1, memory, direction) as delta:
        assert torch.linalg.matrix_rank(delta) == 1
        assert torch.allclose(module(memory.key[None])[0], memory.new, atol=1e-3)
        assert gain(model) != was
    assert_unchanged(model, before)
    assert gain(model) == was
    with pytest.raises(RuntimeError, match="in between"):  # noqa: SIM117
        with editing.rome(model, 1, memory, direction):
            raise RuntimeError("in between")
    assert_unchanged(model, before)


@pytest.mark.parametrize("family", DECODERS)
def test_fine_tuning_learns_the_target_and_leaves_no_trace(family):
    model = build(family)
    before, was = fingerprint(model), gain(model)
    with editing.fine_tune(model, TOKENIZER, REQUEST, 2, lr=2e-2) as losses:
        assert losses[0] == pytest.approx(-was / 2, abs=1e-4) and losses[-1] < losses[0]
        assert gain(model) > was
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert changed == {f"{editing.down_projection(model, 2)[0]}.weight"}
    assert_unchanged(model, before)


def test_ft_l_stays_in_its_box_and_scores_all_tokens_at_the_prompts_end():
    model = build("llama")
    _, module = editing.down_projection(model, 2)
    old = module.weight.detach().clone()
    options = {"lr": 2e-2, "at_prompt_end": True, "box": 3e-3, "steps": 6}
    with editing.fine_tune(model, TOKENIZER, REQUEST, 2, **options) as losses:
        assert (module.weight - old).abs().max() <= 3e-3 + 1e-7
    ids = torch.tensor([lm.encode(TOKENIZER, REQUEST.prompt)])
    logprobs = model(ids).logits[0, -1].detach().log_softmax(-1)
    targets = TOKENIZER(REQUEST.target, add_special_tokens=False)["input_ids"]
    assert losses[0] == pytest.approx(-float(logprobs[targets].mean()), abs=1e-4)


@pytest.mark.parametrize("family", DECODERS)
def test_a_codebook_answers_inside_its_ball_only(family):
    model = build(family)
    before, was = fingerprint(model), gain(model)
    book = editing.grace(model, TOKENIZER, REQUEST, 1, radius=1e-3, steps=8, lr=0.3)
    assert_unchanged(model, before)
    assert book.losses[-1] < book.losses[0]
    assert gain(model, editing=book.editing) > was
    other = {"prompts": ["Quite another text"], "targets": ["zK"]}
    far = [
        lm.score_targets(model, TOKENIZER, **other, editing=e)["logprob"][0]
        for e in (None, book.editing)
    ]
    assert far[0] == far[1]
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (REQUEST._replace(subject="XYZ"), "'XYZ' does not occur"),
        (REQUEST._replace(target=""), "adds no tokens"),
    ],
)
def test_requests_that_cannot_be(request_, message):
    model = build("llama")
    before = fingerprint(model)
    for editor in (editing.find_memory, editing.grace):
        with pytest.raises(ValueError, match=message):
            editor(model, TOKENIZER, request_, 1)
    with pytest.raises(ValueError, match=message):  # noqa: SIM117
        with editing.fine_tune(model, TOKENIZER, request_, 1):
            pass
    assert_unchanged(model, before)


def test_a_delta_of_another_shape_is_refused():
    model = build("gpt2")
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r"`delta` must have shape \(32, 128\); got \(128, 32\)"):  # noqa: SIM117
        with editing.apply_delta(model, 0, torch.zeros(128, 32)):
            pass
    assert_unchanged(model, before)
