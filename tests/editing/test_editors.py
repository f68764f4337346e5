"""Edits by training and by a codebook on every family, what they say, and undoing them."""

import pytest
import torch
from families import (
    DECODERS,
    assert_unchanged,
    build,
    fingerprint,
    one_thread,  # noqa: F401
)
from hypothesis import given
from hypothesis import strategies as st
from one_edit import HALF_FAMILIES, HALVES, REQUEST, TOKENIZER, gain

from helpers import editing, lm, probing
from helpers.editing import editors


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


@HALVES
@HALF_FAMILIES
def test_training_in_half_precision_goes_as_far_as_in_float32(family, dtype):
    boxed = {"at_prompt_end": True, "box": 3e-3, "steps": 6}
    losses = {}
    for kind in (torch.float32, dtype):
        model = build(family).to(kind)
        before, was = fingerprint(model), gain(model)
        with editing.fine_tune(model, TOKENIZER, REQUEST, 2, lr=2e-2) as tuned:
            assert gain(model) == pytest.approx(-2 * tuned[-1], abs=1)
        _, module = editing.down_projection(model, 2)
        old = module.weight.detach().float().clone()
        with editing.fine_tune(model, TOKENIZER, REQUEST, 2, lr=2e-2, **boxed) as in_box:
            moved = (module.weight.float() - old).abs()
            assert 2e-3 < moved.max() <= 3e-3 + 1e-7 * (kind == torch.float32)
        book = editing.grace(model, TOKENIZER, REQUEST, 1, radius=1e-3, steps=20, lr=0.5)
        assert book.value.dtype == book.key.dtype == torch.float32
        assert gain(model, during=book.during) > was
        losses[kind] = [tuned[-1], in_box[-1], book.losses[-1]]
        assert_unchanged(model, before)
    assert losses[dtype] == pytest.approx(losses[torch.float32], rel=0.03, abs=0.03)


@given(
    st.sampled_from([torch.float16, torch.bfloat16]),
    st.floats(1e-4, 1e-1),
    st.floats(1e-3, 10),
    st.integers(0, 1000),
)
def test_no_rounding_leaves_the_box_and_no_room_is_wasted(dtype, box, scale, seed):
    g = torch.Generator().manual_seed(seed)
    before = (scale * torch.randn(50, generator=g)).to(dtype)
    wish = 3 * box * torch.randn(50, generator=g)
    room = editors._room(before.float(), dtype, box)
    rounded = (before.float() + wish.clamp(-room, room)).to(dtype)
    assert ((rounded.double() - before.double()).abs() <= box).all()
    farthest = (before.float() + room).to(dtype).double() - before.double()
    spacing = torch.finfo(dtype).eps * (before.double().abs() + box)
    assert (farthest >= box - spacing).all()
    assert editors._room(before.float(), torch.float32, box) == box


@pytest.mark.parametrize("family", DECODERS)
def test_a_codebook_answers_inside_its_ball_only(family):
    model = build(family)
    before, was = fingerprint(model), gain(model)
    book = editing.grace(model, TOKENIZER, REQUEST, 1, radius=1e-3, steps=20, lr=0.5)
    assert_unchanged(model, before)
    assert book.losses[-1] < book.losses[0]
    assert gain(model, during=book.during) > was
    other = {"prompts": ["Quite another text"], "targets": ["zK"]}
    far = [
        lm.score_targets(model, TOKENIZER, **other, during=e)["logprob"][0]
        for e in (None, book.during)
    ]
    assert far[0] == far[1]
    (said,) = lm.greedy(model, TOKENIZER, [REQUEST.prompt], max_new_tokens=1, during=book.during)
    ahead = editing.next_distributions(model, TOKENIZER, [REQUEST.prompt], during=book.during)
    assert said == TOKENIZER.decode(ahead[0].argmax(), skip_special_tokens=True)
    assert_unchanged(model, before)


def test_a_codebook_is_learned_with_gradient_checkpoints_too():
    model, options = build("gemma2"), {"steps": 4, "lr": 0.5}
    expected = editing.grace(model, TOKENIZER, REQUEST, 1, **options)
    model.train().activation_checkpointing_enable()
    found = editing.grace(model, TOKENIZER, REQUEST, 1, **options)
    assert torch.equal(found.value, expected.value) and found.losses == expected.losses
    assert model.is_activation_checkpointing


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (REQUEST._replace(subject="XYZ"), "'XYZ' does not occur"),
        (REQUEST._replace(target=""), "continuation is empty"),
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


# Adapters


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("adaptive", [False, True], ids=["lora", "adalora"])
def test_adapters_learn_the_target_and_leave_no_trace(family, adaptive):
    model = build(family)
    before, was = fingerprint(model), gain(model)
    modules, attributes = dict(model.named_modules()), set(vars(model))
    state = torch.random.get_rng_state()
    options = {"adaptive": adaptive, "lr": 2e-2, "steps": 8}
    with editing.low_rank(model, TOKENIZER, REQUEST, **options) as losses:
        assert losses[0] == pytest.approx(-was / 2, abs=1e-4) and losses[-1] < losses[0]
        assert gain(model) > was
        assert gain(model) == gain(model)  # dropout is off
    assert_unchanged(model, before)
    assert dict(model.named_modules()) == modules and set(vars(model)) == attributes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert gain(model) == was
    with pytest.raises(RuntimeError, match="in between"):  # noqa: SIM117
        with editing.low_rank(model, TOKENIZER, REQUEST, adaptive=adaptive, steps=1):
            raise RuntimeError("in between")
    assert_unchanged(model, before)
    assert dict(model.named_modules()) == modules


@HALVES
@HALF_FAMILIES
@pytest.mark.parametrize("adaptive", [False, True], ids=["lora", "adalora"])
def test_adapters_of_half_precision_models_are_float32(family, dtype, adaptive, monkeypatch):
    monkeypatch.setattr(editors, "DROPOUT", 0.0)
    options, losses = {"adaptive": adaptive, "lr": 5e-3, "steps": 10}, []
    for kind in (torch.float32, dtype):
        model = build(family).to(kind)
        before, was = fingerprint(model), gain(model)
        with editing.low_rank(model, TOKENIZER, REQUEST, **options) as found:
            adapters = {p.dtype for n, p in model.named_parameters() if "lora_" in n}
            assert adapters == {torch.float32} and gain(model) > was
        assert_unchanged(model, before)
        losses.append(found)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1][-1] < losses[1][0]


def test_seeds_of_adapters_matter_and_suffice():
    model, found = build("llama"), []
    for seed in (0, 0, 1):
        with editing.low_rank(model, TOKENIZER, REQUEST, lr=2e-2, steps=4, seed=seed) as losses:
            found.append((losses, gain(model)))
    assert found[0] == found[1] != found[2]


def test_adalora_takes_ranks_away():
    model = build("llama")
    with editing.low_rank(model, TOKENIZER, REQUEST, adaptive=True, steps=14, lr=2e-2):
        singular = [p for n, p in model.named_parameters() if "lora_E" in n]
        assert {len(p) for p in singular} == {12}
        left = sum(int((p != 0).sum()) for p in singular)
    assert left == 8 * len(singular)
    with editing.low_rank(model, TOKENIZER, REQUEST, adaptive=True, allocate=False, steps=14):
        singular = [p for n, p in model.named_parameters() if "lora_E" in n]
        assert all(bool((p != 0).all()) for p in singular)


def test_a_family_without_known_queries_is_refused():
    model = build("llama")
    for block in model.model.layers:
        attention = block.self_attn
        attention.add_module("query", attention._modules.pop("q_proj"))
        attention.add_module("value", attention._modules.pop("v_proj"))
    with pytest.raises(ValueError, match="no linear layer of the model is called one of"):  # noqa: SIM117
        with editing.low_rank(model, TOKENIZER, REQUEST):
            pass


# What an edit did

RECORD = editing.Edit(
    "1",
    "kind",
    REQUEST.prompt,
    REQUEST.subject,
    REQUEST.target,
    "q",
    ("ABC: Q is",),
    (editing.Probe("Q of DEF is", "zK", "other"),),
    (editing.Probe("Quite another", "zK", "far"), editing.Probe("One more", "q", "far")),
    "",
    "",
)


def test_a_report_has_the_four_demands():
    model = build("llama")
    before = editing.evaluate(model, TOKENIZER, RECORD)
    roles = ["edit", "rephrase", "portability", "locality", "locality"]
    assert before.scores["role"].tolist() == roles
    assert before.scores["logprob"][0] == pytest.approx(gain(model) / 2, abs=1e-5)
    assert before.ahead.exp().sum(1).tolist() == pytest.approx([1, 1], abs=1e-4)
    same = editing.evaluate(model, TOKENIZER, RECORD, before=before)
    assert same.scores["kept"].dropna().tolist() == [1, 1]
    assert same.scores["kl"].dropna().tolist() == pytest.approx([0, 0], abs=1e-6)
    with editing.fine_tune(model, TOKENIZER, REQUEST, 2, lr=2e-2, steps=60):
        after = editing.evaluate(model, TOKENIZER, RECORD, before=before)
    assert after.scores["exact"][0] and after.scores.loc[0, ["share", "prefix"]].tolist() == [1, 1]
    assert (after.scores["prefix"] <= after.scores["share"]).all()
    local = after.scores[after.scores["role"] == "locality"]
    assert (local["kl"] > 1e-4).all()
    told = editing.evaluate(model, TOKENIZER, RECORD, before=before, prefix="Q of ABC is zK. ")
    asked = ["Q of ABC is zK. " + REQUEST.prompt]
    own = lm.score_targets(model, TOKENIZER, asked, [REQUEST.target])
    assert told.scores["logprob"][0] == pytest.approx(own["logprob"][0] / 2, abs=1e-5)


def test_an_opened_model_is_not_evaluated():
    model = build("llama")
    with probing.bidirectional(model), pytest.raises(ValueError, match="opened attention"):
        editing.evaluate(model, TOKENIZER, RECORD)


def test_a_report_without_locality_has_none():
    report = editing.evaluate(build("llama"), TOKENIZER, RECORD._replace(locality=()))
    assert report.ahead.shape[0] == 0 and len(report.scores) == 3
