"""attention: q, k, v before and after rotation, in every family, and the rotary oracles."""

from __future__ import annotations

import copy
import math
import re
import sys
import threading
import weakref
from contextlib import nullcontext

import more_families
import numpy as np
import pytest
import torch
import transformers as tf
from families import (
    DECODERS,
    FAMILIES,
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    LAYERS,
    ROTARY,
    WINDOW,
    build,
    one_thread,  # noqa: F401
    token_ids,
)
from hypothesis import given
from hypothesis import strategies as st
from test_hooks import forward, hook_count, no_compiled_code, plain_hooks  # noqa: F401
from torch import nn

from helpers import attention, hooks
from helpers.attention import STAGES, capture_qkv, edit_qkv, qkv

# Gemma 2 caps its attention logits, which SDPA cannot: transformers refuses the pair
RUNS = [
    (family, kind)
    for family in FAMILIES
    for kind in ("sdpa", "eager")
    if (family, kind) != ("gemma2", "sdpa")
]
PADDING = {  # attention masks for 2 sequences of 12 tokens
    "none": None,
    "left": torch.tensor([[0] * 5 + [1] * 7, [1] * 12]),
    "right": torch.tensor([[1] * 12, [1] * 9 + [0] * 3]),
}


def same(_layer, q, k, v):
    """The identity, but with new tensors wherever an edit can return some."""
    return q.clone(), k.clone(), None if v is None else v.clone()


def state(model: nn.Module) -> tuple:
    """Everything that a tap touches while it is open."""
    file = sys.modules[type(next(iter(hooks.attentions(model).values()))).__module__]
    return (
        hook_count(model),
        model.config._attn_implementation,
        {module.config._attn_implementation for module in hooks.attentions(model).values()},
        getattr(file, "apply_rotary_pos_emb", None),
        dict(qkv._edits),
    )


def attended(model: nn.Module, ids: torch.Tensor, **inputs) -> list[torch.Tensor]:
    """What each layer's attention hands to its output projection, (B, T, H * D)."""
    names = list(hooks.attentions(model))
    if "bert" in type(model).__name__.lower():  # its projection is another module
        with hooks.capture(model, names) as seen:
            forward(model, ids, **inputs)
        return [seen[name] for name in names]
    leaves = {"c_proj", "out_proj", "o_proj", "dense"}
    ends = [
        f"{n}.{leaf}" for n in names for leaf in leaves if hasattr(model.get_submodule(n), leaf)
    ]
    with hooks.capture(model, ends, of="input") as seen:
        forward(model, ids, **inputs)
    return [seen[name] for name in ends]


def window_of(model: nn.Module, layer: int) -> int | None:
    kinds = getattr(model.config, "layer_types", None)
    if model.config.model_type == "mistral" or (kinds and kinds[layer] == "sliding_attention"):
        return WINDOW
    return None


def allowed(model: nn.Module, layer: int, mask: torch.Tensor) -> torch.Tensor:
    """Which keys each query may see, (B, T, T): written down from the papers, not the code."""
    steps = torch.arange(mask.shape[1])
    back = steps[:, None] - steps[None]
    seen = torch.ones_like(back, dtype=torch.bool)
    if model.config.model_type != "bert":
        seen = back >= 0
    if window_of(model, layer):
        seen = seen & (back < WINDOW)
    return seen & mask[:, None].bool()


def per_query_head(x: torch.Tensor) -> torch.Tensor:
    """(B, G, T, D) -> (B, H, T, D)."""
    return x.repeat_interleave(HEADS // x.shape[1], dim=1)


# --- edits that change nothing ---------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), RUNS)
def test_identity_edits_change_no_logit(family, kind):
    model, ids = build(family, attention=kind), token_ids()
    before = state(model)
    assert model.config._attn_implementation == kind
    for mask in PADDING.values():
        plain = forward(model, ids, attention_mask=mask)
        for stage in STAGES:
            calls = []
            with edit_qkv(model, lambda *a, c=calls: c.append(a[0]) or same(*a), stage=stage):
                assert torch.equal(forward(model, ids, attention_mask=mask), plain)
            assert calls == [0, 1, 2]
        assert torch.equal(forward(model, ids, attention_mask=mask), plain)
    assert state(model) == before


@pytest.mark.parametrize(("family", "kind"), [run for run in RUNS if run[0] != "bert"])
def test_identity_edits_change_no_generated_token(family, kind):
    model, ids = build(family, attention=kind), token_ids()
    # left padding, and more steps than the sliding window is wide
    how = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    how |= {"attention_mask": PADDING["left"], "output_scores": True}
    how |= {"return_dict_in_generate": True}
    plain = model.generate(ids, **how)
    for stage in STAGES:
        lengths = []
        with edit_qkv(
            model, lambda *a, c=lengths: c.append(a[1].shape[2]) or same(*a), stage=stage
        ):
            again = model.generate(ids, **how)
        assert torch.equal(again.sequences, plain.sequences)
        assert all(map(torch.equal, again.scores, plain.scores))
        assert lengths == [12] * LAYERS + [1] * LAYERS * 7


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_train_mode_bfloat16_and_attention_maps(family):
    model, ids = build(family), token_ids()
    for module in hooks.attentions(model).values():
        module.attention_dropout = 0.3
    model.train()
    draws = []
    for fn in (lambda _layer, *states: states, same):
        with torch.random.fork_rng(), edit_qkv(model, fn):
            torch.manual_seed(0)
            draws.append(forward(model, ids))
    assert torch.equal(*draws) and model.training
    assert not torch.equal(draws[0], forward(model.eval(), ids))  # dropout was there
    model.to(torch.bfloat16)
    plain = forward(model, ids)
    for stage in STAGES:
        with edit_qkv(model, same, stage=stage):
            assert torch.equal(forward(model, ids), plain)
        assert capture_qkv(model, ids, stage=stage)["q"][0].dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_maps_come_out_of_an_edited_pass(family):
    model, ids = build(family, attention="eager"), token_ids()
    plain = model(ids, output_attentions=True, output_hidden_states=True)
    for stage in STAGES:
        with edit_qkv(model, same, stage=stage):
            again = model(ids, output_attentions=True, output_hidden_states=True)
        assert all(map(torch.equal, again.attentions, plain.attentions))
        assert all(map(torch.equal, again.hidden_states, plain.hidden_states))
    # an early stop in such a pass leaves nothing of transformers' own collecting behind
    capture_qkv(model, ids, layers=[0], output_attentions=True, output_hidden_states=True)
    after = model(ids, output_attentions=True)
    assert len(after.attentions) == LAYERS and after.hidden_states is None


# --- edits with a closed form ----------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize(("family", "kind"), RUNS)
def test_zero_queries_give_uniform_attention(family, kind, padding):
    model, ids = build(family, attention=kind), token_ids()
    given = PADDING[padding]
    mask = torch.ones_like(ids) if given is None else given
    inputs = {"attention_mask": given, "position_ids": hooks.left_padded_positions(given)}
    for stage in STAGES:
        # BERT, GPT-2 and OPT have no rotation, and the rest turns zero into zero
        with edit_qkv(model, lambda _layer, q, k, v: (torch.zeros_like(q), k, v), stage=stage):
            out = attended(model, ids, **inputs)
            values = capture_qkv(model, ids, attention_mask=given)["v"]
        for layer in range(LAYERS):
            seen = allowed(model, layer, mask).float()
            real = seen.sum(-1) > 0  # queries that have no key at all are pads
            weights = seen / seen.sum(-1, keepdim=True).clamp(min=1)
            mean = weights[:, None] @ per_query_head(values[layer])
            expected = mean.transpose(1, 2).flatten(2)
            torch.testing.assert_close(out[layer][real], expected[real], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_zero_queries_give_the_running_mean_of_the_values(family):
    """Row t of the attention map is 1 / (t + 1)."""
    model, ids = build(family, attention="eager"), token_ids(1, WINDOW)
    with edit_qkv(model, lambda _layer, q, k, v: (0 * q, k, v)):
        maps = model(ids, output_attentions=True).attentions
    rows = torch.tril(torch.ones(WINDOW, WINDOW)) / torch.arange(1, WINDOW + 1)[:, None]
    for layer in maps:
        torch.testing.assert_close(layer, rows.expand_as(layer))


@pytest.mark.parametrize(("family", "kind"), RUNS)
def test_zero_values_silence_attention(family, kind):
    model, ids = build(family, attention=kind), token_ids()
    name = list(hooks.attentions(model))[1]
    with edit_qkv(model, lambda _layer, q, k, v: (q, k, 0 * v), layers=[1]):
        out = attended(model, ids)
        with hooks.capture(model, name) as seen:
            forward(model, ids)
    assert not out[1].any() and out[0].any() and out[2].any()
    end = [
        getattr(model.get_submodule(name), leaf, None) for leaf in ("c_proj", "out_proj", "dense")
    ]
    bias = next((module.bias for module in end if module is not None), None)
    if family == "bert" or bias is None:
        assert not seen[name].any()
    else:
        assert torch.equal(seen[name], bias.expand_as(seen[name]))


def test_soft_capping_is_passed_on():
    model, ids = build("gemma2"), token_ids()
    states = capture_qkv(model, ids)
    with edit_qkv(model, same):
        maps = model(ids, output_attentions=True).attentions
    for layer in range(LAYERS):
        q, k = states["q"][layer], per_query_head(states["k"][layer])
        capped = 2 * torch.tanh(q @ k.mT / math.sqrt(16) / 2)
        hidden = ~allowed(model, layer, torch.ones_like(ids))[:, None]
        expected = capped.masked_fill(hidden, -math.inf).softmax(-1)
        torch.testing.assert_close(maps[layer], expected, atol=1e-6, rtol=1e-5)
    assert (q @ k.mT / 4).abs().max() > 3  # so that the cap of 2 was at work


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_tensors_are_what_attention_multiplies(family):
    if family == "gemma2":
        pytest.skip("soft-capping has its own test")
    model, ids = build(family), token_ids()
    mask = PADDING["right"]
    states, out = (
        capture_qkv(model, ids, attention_mask=mask),
        attended(model, ids, attention_mask=mask),
    )
    # OPT divides its queries beforehand; Gemma's 16 is its head_dim too
    scale = 1 if family == "opt" else HEAD_DIM[family] ** -0.5
    for layer in range(LAYERS):
        q, k, v = (per_query_head(states[name][layer]) for name in "qkv")
        hidden = ~allowed(model, layer, mask)[:, None]
        weights = (q @ k.mT * scale).masked_fill(hidden, -math.inf).softmax(-1)
        expected = (weights @ v).transpose(1, 2).flatten(2)
        torch.testing.assert_close(out[layer], expected, atol=2e-5, rtol=1e-4)


# --- what is captured ------------------------------------------------------------------------


def projected(model: nn.Module, ids: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """q, k, v before rotation from plain PyTorch hooks, layer by layer, in (B, heads, T, D)."""
    family, d = model.config.model_type, model.config.hidden_size
    size = HEAD_DIM[{"gemma3_text": "gemma3", "gpt_neox": "neox"}.get(family, family)]
    with plain_hooks(dict(model.named_modules())) as seen:
        forward(model, ids)
    split = lambda x: x.unflatten(-1, (-1, size)).transpose(1, 2)  # noqa: E731
    layers = []
    for name in hooks.attentions(model):
        out = {n.removeprefix(f"{name}."): seen[n][2] for n in seen if n.startswith(f"{name}.")}
        if "c_attn" in out:
            parts = out["c_attn"].split(d, dim=-1)
        elif "qkv_proj" in out:
            parts = out["qkv_proj"].split([4 * size, 2 * size, 2 * size], dim=-1)
        elif "query_key_value" in out:  # per head: its q, its k, its v
            heads = out["query_key_value"].unflatten(-1, (-1, 3 * size)).transpose(1, 2)
            layers.append(dict(zip("qkv", heads.chunk(3, dim=-1), strict=True)))
            continue
        elif "query" in out:
            parts = out["query"], out["key"], out["value"]
        else:
            parts = out["q_proj"], out["k_proj"], out["v_proj"]
        found = {n: split(part) for n, part in zip("qkv", parts, strict=True)}
        for which in "qk":
            if f"{which}_norm" in out:  # Gemma 3 normalises after it has transposed
                normed = out[f"{which}_norm"]
                found[which] = normed if family == "gemma3_text" else normed.transpose(1, 2)
        if family == "opt":
            found["q"] = found["q"] * size**-0.5
        layers.append(found)
    return layers


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_values_are_those_of_plain_hooks(family):
    model, ids = build(family), token_ids()
    expected = projected(model, ids)
    before = capture_qkv(model, ids, stage="pre_rope")
    after = capture_qkv(model, ids, stage="post_rope")
    for layer in range(LAYERS):
        for name in "qkv":
            heads = HEADS if name == "q" else KV_HEADS[family]
            assert before[name][layer].shape == (2, heads, 12, HEAD_DIM[family])
            assert torch.equal(before[name][layer], expected[layer][name])
            if family not in ROTARY or name == "v":
                assert torch.equal(after[name][layer], before[name][layer])
            else:
                assert not torch.equal(after[name][layer], before[name][layer])


@pytest.mark.parametrize("family", ROTARY)
def test_rotation_turns_pre_rope_into_post_rope(family):
    model, ids = build(family), token_ids(2, 40)
    before, after = (capture_qkv(model, ids, stage=stage) for stage in ("pre_rope", "post_rope"))
    for layer in range(LAYERS):
        table = attention.rope_table(model, layer)
        turned = 2 * len(table.inv_freq)  # GPT-NeoX rotates a part of each head only
        assert turned == (4 if family == "neox" else HEAD_DIM[family])
        for name in "qk":
            x, y = before[name][layer], after[name][layer]
            expected = attention.apply_rope(x[..., :turned], torch.arange(40), table.base)
            torch.testing.assert_close(y[..., :turned], expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(x[..., turned:], y[..., turned:])
            norms = [attention.pair_norm(t[..., :turned]) for t in (x, y)]
            torch.testing.assert_close(*norms, atol=1e-5, rtol=1e-5)


def test_positions_are_the_models_own():
    model, ids = build("llama"), token_ids(1, 8)
    where = torch.arange(8)[None] * 3 + 5
    before = capture_qkv(model, ids, stage="pre_rope", layers=[0], position_ids=where)
    after = capture_qkv(model, ids, layers=[0], position_ids=where)
    expected = attention.apply_rope(before["k"][0], where[0], 1e4)
    torch.testing.assert_close(after["k"][0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, "bigcode", "qwen3next", "falconh1"])
def test_padding_on_the_left_is_not_counted(family):
    """What the real tokens give is what they give alone."""
    model = (build if family in FAMILIES else more_families.build)(family)
    ids = token_ids()
    mask = PADDING["left"]
    padded, alone = capture_qkv(model, ids, attention_mask=mask), capture_qkv(model, ids[:1, 5:])
    other = capture_qkv(model, ids[1:])
    for name in "qkv":
        for x, y, z in zip(padded[name], alone[name], other[name], strict=True):
            if name != "v" and family not in ("gpt2", "opt", "bert", "bigcode"):
                x, y, z = (t.norm(dim=-1) for t in (x, y, z))  # turned to other angles
            torch.testing.assert_close(x[:1, :, 5:], y, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(x[1:], z, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_positions_of_a_left_padded_step_with_a_cache(family):
    model, ids, mask = build(family), token_ids(), PADDING["left"]
    places = hooks.left_padded_positions(mask)
    assert places[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
    assert places[1].tolist() == list(range(12))
    assert hooks.left_padded_positions(PADDING["right"]) is None  # nothing is changed there
    cache = tf.DynamicCache(config=model.config)
    start = {"attention_mask": mask[:, :9], "position_ids": places[:, :9]}
    forward(model, ids[:, :9], past_key_values=cache, **start)
    step = capture_qkv(model, ids[:, 9:], attention_mask=mask, past_key_values=cache)
    full = capture_qkv(model, ids, attention_mask=mask)
    for layer in range(LAYERS):
        torch.testing.assert_close(step["q"][layer], full["q"][layer][:, :, 9:], atol=1e-4, rtol=0)
        real = (slice(None), slice(None), slice(5, None))
        torch.testing.assert_close(
            step["k"][layer][real], full["k"][layer][real], atol=1e-4, rtol=0
        )
    other = capture_qkv(model, ids, attention_mask=mask, position_ids=3 * places, layers=[0])["k"][
        0
    ]
    assert not torch.equal(other, full["k"][0])  # the caller's own positions stay


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_reduce_and_early_stop(family, stage):
    model, ids = build(family), token_ids()
    names, everything = list(hooks.attentions(model)), capture_qkv(model, ids, stage=stage)
    reduced = []

    def norms(x):
        reduced.append(x.shape)
        return x.square().sum(2)

    some = capture_qkv(model, ids, stage=stage, layers=[1, 0], reduce=norms)
    for name in "qkv":
        assert len(everything[name]) == LAYERS and len(some[name]) == 2
        for got, layer in zip(some[name], (1, 0), strict=True):
            assert torch.equal(got, norms(everything[name][layer]))
    assert len(reduced) == 6 + 6
    # no layer after the last one asked for, not even its own feed-forward part, and no head
    with plain_hooks(dict(model.named_modules())) as ran:
        capture_qkv(model, ids, stage=stage, layers=[1])
    assert names[0] in ran and not any(n.startswith(names[2]) for n in ran)
    assert list(hooks.down_projections(model))[1] not in ran and "lm_head" not in ran
    with plain_hooks(dict(model.named_modules())) as ran:
        capture_qkv(model, ids, stage=stage)
    assert names[1] in ran and names[2] not in ran and "lm_head" not in ran


def test_reduced_tensors_are_not_held():
    """Memory stays small: when a layer is reduced, those before it are gone."""
    model, ids, held = build("llama"), token_ids(), []

    def norms(x):
        assert sum(ref() is not None for ref in held) <= 3  # this layer's own q, k, v
        held.append(weakref.ref(x.untyped_storage()))
        return x.square().sum(2)

    capture_qkv(model, ids, reduce=norms)
    assert len(held) == 3 * LAYERS


def test_captured_tensors_are_not_the_cache():
    model, ids = build("llama"), token_ids()
    cache = filled_cache(model, ids[:, :-1])
    step = capture_qkv(model, ids[:, -1:], layers=iter([0]), past_key_values=cache)
    before = keys_of(cache)
    for x in (step["k"][0], step["v"][0]):
        x.zero_()
    assert all(map(torch.equal, keys_of(cache), before))


def test_capture_does_not_keep_the_graph_nor_change_the_mode():
    model, ids = build("llama"), token_ids()
    states = capture_qkv(model, ids)
    assert not any(x.requires_grad for xs in states.values() for x in xs)
    assert torch.is_grad_enabled() and model(ids).logits.requires_grad


# --- cached decoding -------------------------------------------------------------------------


def filled_cache(model: nn.Module, ids: torch.Tensor) -> tf.DynamicCache:
    cache = tf.DynamicCache(config=model.config)
    forward(model, ids, past_key_values=cache)
    return cache


def keys_of(cache: tf.DynamicCache) -> list[torch.Tensor]:
    return [layer.keys.clone() for layer in cache.layers]


@pytest.mark.parametrize("family", DECODERS)
def test_decoding_sees_the_new_query_and_the_whole_cache(family):
    model, ids = build(family), token_ids()
    cache = filled_cache(model, ids[:, :-1])
    step = capture_qkv(model, ids[:, -1:], past_key_values=copy.deepcopy(cache))
    new = capture_qkv(model, ids[:, -1:], stage="pre_rope", past_key_values=copy.deepcopy(cache))
    full = capture_qkv(model, ids)
    for layer in range(LAYERS):
        length = window_of(model, layer) or 12
        assert step["q"][layer].shape == (2, HEADS, 1, HEAD_DIM[family])
        assert step["k"][layer].shape == (2, KV_HEADS[family], length, HEAD_DIM[family])
        rotary = family in ROTARY
        assert new["k"][layer].shape[2] == (1 if rotary else 12)
        assert new["v"][layer].shape[2] == length
        for name, start in (("q", -1), ("k", -length), ("v", -length)):
            expected = full[name][layer][:, :, start:]
            torch.testing.assert_close(step[name][layer], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", DECODERS)
def test_a_post_rope_edit_leaves_the_cache_alone(family):
    model, ids = build(family), token_ids()
    plain = keys_of(filled_cache(model, ids))
    noise = lambda _layer, q, k, v: (q, k + 1, v - 1)  # noqa: E731
    with edit_qkv(model, noise, layers=[LAYERS - 1]):
        changed = forward(model, ids)
        cache = filled_cache(model, ids)
        assert all(map(torch.equal, keys_of(cache), plain))
        length = cache.get_seq_length()
        step = forward(model, ids[:, :1], past_key_values=cache)
    assert cache.get_seq_length() == length + 1
    # the edit was real, in prefill and in the step
    assert not torch.equal(changed, forward(model, ids))
    clean = forward(model, ids[:, :1], past_key_values=filled_cache(model, ids))
    assert not torch.equal(step, clean)


@pytest.mark.parametrize("family", ROTARY)
def test_a_pre_rope_edit_enters_the_cache(family):
    model, ids = build(family), token_ids()
    with edit_qkv(model, lambda _layer, q, k, v: (q, 0 * k, v), stage="pre_rope"):
        cache = filled_cache(model, ids)
    assert not any(keys.any() for keys in keys_of(cache))


@pytest.mark.parametrize("family", DECODERS)
def test_prefill_only_edits_reach_later_steps(family):
    """Editing the prompt's queries and keys at every step equals editing all of them at once."""
    model, ids = build(family), token_ids(1, 9)
    scale = lambda _layer, q, k, v: (0.5 * q, 2 * k, v)  # noqa: E731
    with edit_qkv(model, scale):
        at_once = forward(model, ids)[:, -1]
        cache = filled_cache(model, ids[:, :-1])
        in_steps = forward(model, ids[:, -1:], past_key_values=cache)[:, -1]
    torch.testing.assert_close(at_once, in_steps, atol=1e-4, rtol=1e-4)


def write_in_place(_layer, q, k, v):
    q.mul_(0.5)
    k.add_(1)
    return q, k, v if v is None else v.sub_(1)


def change(_layer, q, k, v):
    return 0.5 * q, k + 1, v if v is None else v - 1


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "neox", "phi3"])
def test_an_edit_may_write_in_place(family, stage):
    """As if it made new tensors: for logits, gradients and the cache."""
    model, ids = build(family), token_ids()
    results = []
    for fn in (change, write_in_place):
        with edit_qkv(model, fn, stage=stage):
            cache = filled_cache(model, ids)
            step = forward(model, ids[:, :1], past_key_values=cache)
            loss = model(ids).logits.square().mean()
        loss.backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        results.append([step, loss, *keys_of(cache), *grads])
    assert all(map(torch.equal, *results))


# --- contexts: order, nesting, cleaning up, gradients ------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_nested_edits_run_outermost_first_and_capture_sees_them(family, stage):
    model, ids = build(family), token_ids()
    plain, before = capture_qkv(model, ids, stage=stage, layers=[0])["q"][0], state(model)
    add = lambda _layer, q, k, v: (q + 1, k, v)  # noqa: E731
    double = lambda _layer, q, k, v: (2 * q, k, v)  # noqa: E731
    with edit_qkv(model, add, stage=stage):
        with edit_qkv(model, double, stage=stage):
            both = capture_qkv(model, ids, stage=stage, layers=[0])["q"][0]
        one = capture_qkv(model, ids, stage=stage, layers=[0])["q"][0]
        with edit_qkv(model, double, stage=stage):
            again = capture_qkv(model, ids, stage=stage, layers=[0])["q"][0]
    assert torch.equal(both, 2 * (plain + 1)) and torch.equal(again, both)
    assert torch.equal(one, plain + 1)
    assert state(model) == before


def test_stages_nest_either_way():
    model, ids = build("llama"), token_ids()
    base = attention.rope_table(model, 0).base
    plain = capture_qkv(model, ids, stage="pre_rope", layers=[0])["q"][0]
    pre = lambda _layer, q, k, v: (q + 1, k, v)  # noqa: E731
    post = lambda _layer, q, k, v: (3 * q, k, v)  # noqa: E731
    expected = 3 * attention.apply_rope(plain + 1, torch.arange(12), base)
    before = state(model)
    for first, second in (("pre_rope", "post_rope"), ("post_rope", "pre_rope")):
        fns = {"pre_rope": pre, "post_rope": post}
        with (
            edit_qkv(model, fns[first], stage=first),
            edit_qkv(model, fns[second], stage=second),
        ):
            got = capture_qkv(model, ids, layers=[0])["q"][0]
            early = capture_qkv(model, ids, stage="pre_rope", layers=[0])["q"][0]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(early, plain + 1)
    assert state(model) == before


def test_hooks_and_taps_nest():
    model, ids = build("qwen3"), token_ids()
    name = "model.layers.0.self_attn.q_norm"
    with (
        hooks.edit(model, name, lambda _name, x: 2 * x),
        hooks.capture(model, name) as seen,
        edit_qkv(model, lambda _layer, q, k, v: (q + 1, k, v), stage="pre_rope"),
    ):
        got = capture_qkv(model, ids, stage="pre_rope", layers=[0])["q"][0]
    assert torch.equal(got, seen[name].transpose(1, 2) + 1)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt2", "neox", "phi3", "bert"])
def test_nothing_is_left_behind_after_exceptions(family):
    model, ids = build(family), token_ids()
    plain, before = forward(model, ids), state(model)

    def fail(layer, q, k, v):
        if layer == 1:
            raise RuntimeError("inside fn")
        return q, k, v

    def bad_reduce(_x):
        raise RuntimeError("inside reduce")

    for stage in STAGES:
        with (
            pytest.raises(RuntimeError, match="inside fn"),
            edit_qkv(model, same),
            edit_qkv(model, fail, stage=stage),
        ):
            forward(model, ids)
        with pytest.raises(RuntimeError, match="inside reduce"):
            capture_qkv(model, ids, stage=stage, reduce=bad_reduce)
        with pytest.raises(IndexError):
            capture_qkv(model, torch.full((1, 3), 10_000), stage=stage)
        with pytest.raises(KeyboardInterrupt), edit_qkv(model, same, stage=stage):
            raise KeyboardInterrupt
        # the context survives a failed pass: the next one is edited as before
        seen = []
        with edit_qkv(model, lambda *a, c=seen: c.append(a[0]) or same(*a), stage=stage):
            with pytest.raises(RuntimeError), edit_qkv(model, fail, stage=stage):
                forward(model, ids)
            seen.clear()
            assert torch.equal(forward(model, ids), plain) and seen == [0, 1, 2]
    assert state(model) == before and torch.equal(forward(model, ids), plain)


@pytest.mark.parametrize("stage", STAGES)
def test_two_models_do_not_meet(stage):
    """Not even of one family, with one config object, when a pass of the other one failed."""
    ids = token_ids()
    first = build("llama", seed=1)
    shared = tf.LlamaForCausalLM(first.config).eval()
    other_file = build("qwen2")
    assert shared.config is first.config
    others = [build("llama", seed=2), shared, other_file]
    plain = [forward(model, ids) for model in others]
    calls = []

    def zero(layer, q, k, v):
        calls.append(layer)
        return 0 * q, k, v

    def fail(_layer, q, k, v):
        raise RuntimeError("inside fn")

    with edit_qkv(first, zero, stage=stage):
        edited = forward(first, ids)
        with pytest.raises(RuntimeError), edit_qkv(first, fail, stage=stage):
            forward(first, ids)
        del calls[:]
        assert all(
            torch.equal(forward(model, ids), x) for model, x in zip(others, plain, strict=True)
        )
        assert not calls
        with edit_qkv(shared, same, stage=stage), edit_qkv(other_file, same, stage=stage):
            assert torch.equal(forward(first, ids), edited)
            assert torch.equal(forward(shared, ids), plain[1])
    assert not torch.equal(forward(first, ids), edited)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_contexts_may_be_left_in_any_order(family, stage):
    model, ids = build(family), token_ids()
    plain, before = forward(model, ids), state(model)
    zero = lambda _layer, q, k, v: (0 * q, k, v)  # noqa: E731
    with edit_qkv(model, zero, stage=stage):
        expected = forward(model, ids)
    first, second = edit_qkv(model, same, stage=stage), edit_qkv(model, zero, stage=stage)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(forward(model, ids), expected)
    with edit_qkv(model, same, stage=stage):
        assert torch.equal(forward(model, ids), expected)
    second.__exit__(None, None, None)
    assert torch.equal(forward(model, ids), plain) and state(model) == before


def test_another_implementation_chosen_inside_stays():
    model, ids = build("llama"), token_ids()
    with edit_qkv(model, same):
        model.set_attn_implementation("eager")
        with edit_qkv(model, lambda _layer, q, k, v: (0 * q, k, v)):
            edited = forward(model, ids)
    assert model.config._attn_implementation == "eager"
    assert not torch.allclose(forward(model, ids), edited)


@pytest.mark.parametrize("stage", STAGES)
def test_a_copy_made_inside_is_not_edited_and_goes_on(stage):
    model, ids, calls = build("llama"), token_ids(), []
    plain = forward(model, ids)
    fn = lambda layer, q, k, v: calls.append(layer) or (0 * q, k, v)  # noqa: E731
    with edit_qkv(model, fn, stage=stage):
        twin = copy.deepcopy(model)
        assert torch.equal(forward(twin, ids), plain) and not calls
        edited = forward(model, ids)
        with edit_qkv(twin, fn, stage=stage):
            assert torch.equal(forward(twin, ids), edited)
    calls.clear()
    assert torch.equal(forward(twin, ids), plain) and not calls
    with edit_qkv(twin, fn, stage=stage):
        assert torch.equal(forward(twin, ids), edited)
        assert torch.equal(forward(model, ids), plain)
    assert twin.config._attn_implementation == "sdpa"  # the last edit of all takes the tap out
    assert torch.equal(forward(twin, ids), plain)


@pytest.mark.parametrize("stage", STAGES)
def test_an_edit_reaches_no_model_that_runs_inside_it(stage):
    """Be it called by `fn` or by a hook of somebody else inside attention, edited or not."""
    model, inner, ids = build("llama"), build("llama", seed=1), token_ids()
    plain = forward(inner, ids)
    zero = lambda _layer, q, k, v: (0 * q, k, v)  # noqa: E731
    with edit_qkv(model, zero, stage=stage):
        expected = forward(model, ids)
    with edit_qkv(inner, change, stage=stage):
        changed = forward(inner, ids)
    results = []

    def fn(layer, q, k, v):
        results.append(forward(inner, ids))
        with edit_qkv(inner, change, stage=stage):
            results.append(forward(inner, ids))
        return zero(layer, q, k, v)

    q_proj = model.model.layers[1].self_attn.q_proj
    handle = q_proj.register_forward_hook(lambda *_: results.append(forward(inner, ids)))
    with edit_qkv(model, fn, stage=stage):
        assert torch.equal(forward(model, ids), expected)
    handle.remove()
    assert len(results) == 2 * LAYERS + 1 and torch.equal(results.pop(2), plain)
    assert all(torch.equal(x, plain) for x in results[::2])
    assert all(torch.equal(x, changed) for x in results[1::2])


@pytest.mark.parametrize("stage", STAGES)
def test_an_edit_reaches_no_model_of_another_thread(stage):
    model, other, ids = build("llama"), build("llama", seed=1), token_ids()
    plain, found, inside, done = forward(other, ids), [], threading.Event(), threading.Event()

    def wait(layer, q, k, v):
        inside.set()
        assert done.wait(10)
        return 0 * q, k, v

    def run():
        inside.wait(10)
        found.append(forward(other, ids))
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    with edit_qkv(model, wait, stage=stage):
        forward(model, ids)
    thread.join()
    assert torch.equal(found[0], plain)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
@pytest.mark.parametrize("stage", STAGES)
def test_edits_of_a_compiled_model(stage, no_compiled_code):  # noqa: F811
    model, plain, ids = build("llama"), build("llama"), token_ids()
    model.model.layers = model.model.layers[:1]  # recompiled for each edit
    plain.model.layers = plain.model.layers[:1]
    model.compile(backend="eager")
    closed = forward(model, ids, use_cache=False)
    torch.testing.assert_close(closed, forward(plain, ids))
    for fn in (change, lambda _layer, q, k, v: (0 * q, k, v)):
        with edit_qkv(plain, fn, stage=stage), edit_qkv(model, fn, stage=stage):
            edited = forward(model, ids, use_cache=False)
            torch.testing.assert_close(edited, forward(plain, ids))
        assert not torch.allclose(edited, closed)
    torch.testing.assert_close(forward(model, ids, use_cache=False), closed)


# --- layers that do not rotate, and rotations that are applied in another way -------------------


@pytest.mark.parametrize("family", [*more_families.UNROTATED, "llama4", *ROTARY])
def test_which_layers_rotate(family):
    """Structure decides: SmolLM3, Command R and EXAONE rotate every second layer only."""
    model = (build if family in ROTARY else more_families.build)(family)
    layers = [module.layer_idx for module in hooks.attentions(model).values()]
    still = {"llama4": [3]}.get(family, [] if family in ROTARY else [1, 3])
    for layer in layers:
        if layer in still:
            with pytest.raises(ValueError, match=rf"layer {layer} of \w+ has no rotary embedding"):
                attention.rope_table(model, layer)
        else:
            assert attention.rope_table(model, layer).base > 1


@pytest.mark.parametrize("family", [*more_families.UNROTATED, "jamba", "granitehybrid"])
def test_pre_rope_is_post_rope_where_a_layer_does_not_rotate(family):
    model, ids = more_families.build(family), token_ids()
    pre, post = (capture_qkv(model, ids, stage=stage) for stage in ("pre_rope", "post_rope"))
    still = range(2) if family in ("jamba", "granitehybrid") else (1, 3)
    for i in range(len(post["q"])):
        for name in "qk":
            assert torch.equal(pre[name][i], post[name][i]) == (i in still)
        assert torch.equal(pre["v"][i], post["v"][i])
    if family in more_families.UNROTATED:
        for i in (0, 2):
            table = attention.rope_table(model, i)
            layout = "interleaved" if family == "cohere2" else "half"
            turned = attention.apply_rope(pre["k"][i], torch.arange(12), table.base, layout)
            torch.testing.assert_close(post["k"][i], turned, atol=1e-5, rtol=1e-5)
    results, zero = [], lambda _layer, q, k, v: (0 * q, k, v)
    for stage in STAGES:  # a query of 0 is turned into 0
        with edit_qkv(model, zero, stage=stage):
            results.append(forward(model, ids, use_cache=False))
    assert torch.equal(*results)
    layers = [module.layer_idx for module in hooks.attentions(model).values()]
    for layer in layers:  # one at a time, so that none is skipped
        calls = []
        fn = lambda *a, c=calls: c.append(a[0]) or same(*a)  # noqa: E731
        with edit_qkv(model, fn, stage="pre_rope", layers=[layer]):
            forward(model, ids, use_cache=False)
        assert calls == [layer]


@pytest.mark.parametrize("family", ["gemma3n", "gemma4", "deepseek3", "llama4"])
def test_rotations_that_are_applied_in_another_way_are_refused(family):
    model, ids = more_families.build(family), token_ids()
    before = state(model)
    with pytest.raises(ValueError, match=r"pre_rope' does not know \w+Attention: its rotary"):
        capture_qkv(model, ids, stage="pre_rope", layers=[0])
    with (
        pytest.raises(ValueError, match="does not know"),
        edit_qkv(model, same, stage="pre_rope"),
    ):
        pass
    assert len(capture_qkv(model, ids)["q"]) == 4 and state(model) == before


def test_a_rotation_of_a_part_that_was_cut_off_before_is_refused():
    shape = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = tf.PhiConfig(**shape, vocab_size=97, intermediate_size=48, partial_rotary_factor=0.5)
    model = tf.PhiForCausalLM(config).eval()
    with (
        pytest.raises(ValueError, match="layer 0 rotates a part of each head by itself"),
        edit_qkv(model, same, stage="pre_rope"),
    ):
        forward(model, token_ids())
    with pytest.raises(ValueError, match="layer 0 rotates a part"):
        capture_qkv(model, token_ids(), stage="pre_rope")


def test_layers_whose_numbers_tell_nothing_are_refused():
    model = more_families.build("zamba2")
    for call in (
        lambda: capture_qkv(model, token_ids()),
        lambda: edit_qkv(model, same).__enter__(),
        lambda: attention.rope_table(model, -1),
    ):
        with pytest.raises(ValueError, match=r"Zamba2ForCausalLM; it numbers them \[-1, -1\]"):
            call()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", ["llama", "gemma3", "opt"])
def test_edits_keep_gradients(family, stage):
    model, ids = build(family), token_ids()
    steer = torch.zeros(HEADS, 1, HEAD_DIM[family], requires_grad=True)
    with edit_qkv(model, lambda _layer, q, k, v: (q + steer, k, v), stage=stage, layers=[1]):
        model(ids).logits.square().mean().backward()
    assert steer.grad.shape == steer.shape and steer.grad.abs().sum() > 0
    assert all(p.grad is not None for p in hooks.blocks(model).popitem()[1].parameters())


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_wrong_return_names_the_layer_and_both_shapes(stage):
    model, ids = build("llama"), token_ids()
    before = state(model)

    def edited(fn):
        with pytest.raises(ValueError) as error, edit_qkv(model, fn, stage=stage, layers=[2]):
            forward(model, ids)
        return str(error.value)

    message = edited(lambda _layer, q, k, v: (q, k[:, :, 1:], v))
    for part in ("k in layer 2", "(2, 2, 11, 8)", "(2, 2, 12, 8)"):
        assert part in message
    assert "q in layer 2" in edited(lambda _layer, q, k, v: (q[:1], k, v))
    assert "q in layer 2 must return a tensor, not NoneType" in edited(lambda *a: (None, *a[2:]))
    assert "k in layer 2 must return a tensor, not ndarray" in edited(
        lambda _layer, q, k, v: (q, k.detach().numpy(), v)
    )
    for wrong in (lambda *_: None, lambda _layer, q, k, v: (q, k), lambda _layer, q, k, v: q):
        assert "layer 2 must return a tuple (q, k, v)" in edited(wrong)
    assert "q in layer 2 returned NaN" in edited(lambda _layer, q, k, v: (q * math.nan, k, v))
    assert "k in layer 2 returned NaN" in edited(
        lambda _layer, q, k, v: (q, k.index_fill_(2, torch.tensor(3), math.nan), v)
    )
    assert "k in layer 2 returned torch.float64, but the model needs torch.float32" in edited(
        lambda _layer, q, k, v: (q, k.double(), v)
    )
    assert state(model) == before


def test_what_is_not_the_edits_fault_passes():
    """NaN that was there before, and infinities of both signs."""
    model, ids = build("llama"), token_ids()
    ends = torch.tensor([-math.inf, math.inf])

    def fn(_layer, q, k, v):
        q[0, 0, 0, :2] = ends
        return q, k, v

    with edit_qkv(model, fn, layers=[2]):
        forward(model, ids)
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight[0, 0] = math.nan
    with edit_qkv(model, same):
        forward(model, ids)


def test_unknown_layers_stages_and_models():
    model, ids = build("llama"), token_ids()
    for layers in ([0, 7], [-1], []):
        message = rf"layers {re.escape(str(layers))} do not each name .* numbers them \[0, 1, 2\]"
        with pytest.raises(ValueError, match=message):
            capture_qkv(model, ids, layers=layers)
        with pytest.raises(ValueError, match=message), edit_qkv(model, same, layers=layers):
            pass
    with pytest.raises(ValueError, match=r"stage must be one of .*post_rope.*, not 'mid_rope'"):
        capture_qkv(model, ids, stage="mid_rope")
    with pytest.raises(ValueError, match="not 'mid_rope'"), edit_qkv(model, same, stage="mid_rope"):
        pass
    plain = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="no attention modules found in Sequential"):
        capture_qkv(plain, ids)
    with pytest.raises(ValueError, match="no attention modules"), edit_qkv(plain, same):
        pass


def test_a_model_that_goes_round_the_attention_interface():
    model = more_families.build("falcon")
    with pytest.raises(ValueError, match="FalconForCausalLM computes attention by itself"):
        capture_qkv(model, token_ids())
    with (
        pytest.raises(ValueError, match=r"only be reached with helpers\.hooks"),
        edit_qkv(model, same),
    ):
        pass


# --- rotary oracles --------------------------------------------------------------------------


def test_frequencies_and_wavelengths():
    theta = attention.rope_frequencies(64, 1e5)
    assert theta.shape == (32,) and theta.dtype == np.float64
    np.testing.assert_allclose(theta[[0, 16, 31]], [1, 3.16228e-3, 1.43301e-5], rtol=1e-5)
    for head_dim, base, pair, wavelength in (
        (64, 1e5, 23, 24656.4),
        (128, 1e4, 51, 9675.64),
        (128, 5e5, 39, 18663.4),
        (256, 1e4, 75, 1386.53),
        (256, 1e6, 87, 75215.1),
    ):
        got = attention.rope_wavelengths(head_dim, base)[pair]
        assert got == pytest.approx(wavelength, rel=1e-5)


@pytest.mark.parametrize(
    ("head_dim", "base", "length", "crossing"),
    [
        (64, 1e5, 8192, 19.94),
        (128, 1e4, 4096, 45.03),
        (128, 5e5, 8192, 34.98),
        (256, 1e4, 512, 61.15),
        (256, 1e6, 32768, 79.30),
    ],
)
def test_first_pair_that_does_not_turn_within_the_context(head_dim, base, length, crossing):
    waves = attention.rope_wavelengths(head_dim, base)
    assert int(np.argmax(waves >= length)) == math.ceil(crossing)
    exact = head_dim / 2 * math.log(length / (2 * math.pi)) / math.log(base)
    assert exact == pytest.approx(crossing, abs=0.01)


def test_rotation_by_a_quarter_turn():
    quarter = torch.tensor([math.pi / 2], dtype=torch.float64)
    for layout in attention.LAYOUTS:
        for base in (2, 1e4):
            got = attention.apply_rope(torch.tensor([[1.0, 0.0]]), quarter, base, layout)
            torch.testing.assert_close(got, torch.tensor([[0.0, 1.0]]), atol=1e-6, rtol=0)
    e0, e1 = torch.eye(4)[:2, None]
    # pair 0 turns by 90 degrees; with base 4, pair 1 turns half as fast
    half = attention.apply_rope(e1, 2 * quarter, 4)
    torch.testing.assert_close(half, torch.eye(4)[3:], atol=1e-6, rtol=0)  # e_1 -> coordinate 3
    inter = attention.apply_rope(e0, quarter, 4, "interleaved")
    torch.testing.assert_close(inter, torch.eye(4)[1:2], atol=1e-6, rtol=0)


def test_pair_norm_of_both_layouts_and_both_libraries():
    x = [3.0, 0.0, 4.0, 5.0]
    for make in (torch.tensor, np.array):
        half, inter = (attention.pair_norm(make(x), layout) for layout in attention.LAYOUTS)
        assert type(half) is type(make(x))
        np.testing.assert_allclose(half, [5, 5])
        np.testing.assert_allclose(inter, [3, math.sqrt(41)])
    assert attention.pair_norm(torch.ones(2, 3, 8)).shape == (2, 3, 4)


layouts = st.sampled_from(attention.LAYOUTS)
pairs_count = st.integers(1, 16)
bases = st.floats(1.5, 1e6)
positions = st.integers(-4096, 4096)


def vectors(seed: int, count: int, pairs: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2 * pairs, generator=generator, dtype=torch.float64)


@given(
    st.integers(0, 999), pairs_count, bases, st.lists(positions, min_size=1, max_size=5), layouts
)
def test_rotation_keeps_norms_and_can_be_undone(seed, pairs, base, where, layout):
    x, where = vectors(seed, len(where), pairs), torch.tensor(where)
    turned = attention.apply_rope(x, where, base, layout)
    norms = [attention.pair_norm(y, layout) for y in (x, turned)]
    torch.testing.assert_close(*norms, atol=1e-12, rtol=1e-12)
    back = attention.apply_rope(turned, -where, base, layout)
    torch.testing.assert_close(back, x, atol=1e-12, rtol=1e-12)
    assert torch.equal(attention.apply_rope(x, 0 * where, base, layout), x)


@given(st.integers(0, 999), pairs_count, bases, positions, positions, positions, layouts)
def test_scores_depend_on_relative_position_only(seed, pairs, base, p, s, shift, layout):
    q, k = vectors(seed, 2, pairs)[:, None]

    def score(a, b):
        turn = attention.apply_rope
        return (
            turn(q, torch.tensor([a]), base, layout) * turn(k, torch.tensor([b]), base, layout)
        ).sum()

    torch.testing.assert_close(score(p, s), score(p + shift, s + shift), atol=1e-9, rtol=1e-9)


@given(st.integers(0, 999), pairs_count, bases, positions)
def test_layouts_are_permutations_of_each_other(seed, pairs, base, p):
    x, where = vectors(seed, 1, pairs), torch.tensor([p])
    order = torch.arange(2 * pairs).reshape(2, pairs).T.flatten()  # half -> interleaved
    inter = attention.apply_rope(x[:, order], where, base, "interleaved")
    torch.testing.assert_close(inter, attention.apply_rope(x, where, base)[:, order])
    norms = attention.pair_norm(x[:, order], "interleaved")
    torch.testing.assert_close(norms, attention.pair_norm(x))


def test_rotation_keeps_shape_and_type():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = torch.ones(2, 3, 5, 8, dtype=dtype)
        for layout in attention.LAYOUTS:
            got = attention.apply_rope(x, np.arange(5), 1e4, layout)
            assert got.shape == x.shape and got.dtype == dtype


def test_rotary_arguments_are_checked():
    for head_dim in (7, 0, -2):
        with pytest.raises(ValueError, match=f"head_dim must be even and positive, not {head_dim}"):
            attention.rope_frequencies(head_dim, 1e4)
    for base in (1, 0.5, math.nan):
        with pytest.raises(ValueError, match="base must be larger than 1"):
            attention.rope_wavelengths(64, base)
    for call in (
        lambda x, layout: attention.pair_norm(x, layout),
        lambda x, layout: attention.apply_rope(x, torch.arange(2), 1e4, layout),
    ):
        with pytest.raises(ValueError, match="even"):
            call(torch.ones(2, 3), "half")
        with pytest.raises(ValueError, match=r"layout must be one of .*, not 'rows'"):
            call(torch.ones(2, 4), "rows")


@pytest.mark.parametrize("family", ROTARY)
def test_rope_table(family):
    model = build(family)
    for layer in range(LAYERS):
        table = attention.rope_table(model, layer)
        is_global = family == "gemma3" and layer == 1
        assert table.base == (1e6 if is_global else 1e4)
        assert table.length == (window_of(model, layer) or 64)
        turned = 4 if family == "neox" else HEAD_DIM[family]
        expected = attention.rope_frequencies(turned, table.base)
        np.testing.assert_allclose(table.inv_freq, expected, rtol=1e-6)
        assert table.scale == 1
    with pytest.raises(ValueError, match=r"layers \[3\] do not each name one attention layer"):
        attention.rope_table(model, 3)


def test_rope_table_without_rotation():
    for family in ("gpt2", "opt", "bert"):
        with pytest.raises(ValueError, match="has no rotary embedding"):
            attention.rope_table(build(family), 0)
    for family in ("jamba", "granitehybrid"):
        with pytest.raises(ValueError, match=r"layer 1 of .* has no rotary embedding"):
            attention.rope_table(more_families.build(family), 1)
    with pytest.raises(ValueError, match="FalconForCausalLM computes attention by itself"):
        attention.rope_table(more_families.build("falcon"), 0)
    model = build("llama")
    rotary = model.model.rotary_emb
    inner = copy.deepcopy(rotary)
    rotary.forward = lambda x, position_ids: inner(x, position_ids)
    del rotary.inv_freq
    with pytest.raises(ValueError, match=r"LlamaForCausalLM keeps its .* not known"):
        attention.rope_table(model, 0)


def test_rope_table_of_yarn_and_of_chunks():
    """YaRN changes the frequencies and multiplies what it turns by 0.1 ln(factor) + 1."""
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8}
    config = build("llama").config
    config.rope_parameters = {"rope_theta": 1e4, **yarn}
    model, ids = tf.LlamaForCausalLM(config).eval(), token_ids()
    table = attention.rope_table(model, 1)
    assert table.scale == pytest.approx(0.1 * math.log(8) + 1) == pytest.approx(1.2079, abs=1e-4)
    pre, post = (
        capture_qkv(model, ids, stage=stage)["k"][1] for stage in ("pre_rope", "post_rope")
    )
    angle = torch.arange(12)[:, None] * torch.as_tensor(table.inv_freq)
    cos, sin = (f().float() for f in (angle.cos, angle.sin))
    a, b = pre.chunk(2, dim=-1)
    expected = table.scale * torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    torch.testing.assert_close(post, expected, atol=1e-5, rtol=1e-5)
    tables = [attention.rope_table(more_families.build("llama4"), layer) for layer in range(3)]
    assert [table.length for table in tables] == [8, 8, 8]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rope_table_in_half_precision(dtype):
    for family, still in (("smollm3", (1, 3)), ("exaone4", (1, 3))):
        model = more_families.build(family).to(dtype)
        for layer in range(4):
            expected = (
                pytest.raises(ValueError, match="no rotary") if layer in still else nullcontext()
            )
            with expected:
                assert attention.rope_table(model, layer).inv_freq.dtype == np.float64


# --- the models of the lessons ---------------------------------------------------------------


@pytest.mark.weights
def test_smollm2(smollm2):
    model = smollm2.model
    table = attention.rope_table(model, 29)
    assert (table.base, table.length) == (1e5, 8192)
    np.testing.assert_allclose(table.inv_freq, attention.rope_frequencies(64, 1e5), rtol=1e-6)
    ids = torch.tensor([smollm2.tokenizer("The massive value sits in a slow pair.").input_ids])
    plain = forward(model, ids)
    with edit_qkv(model, same):
        assert torch.equal(forward(model, ids), plain)
    pre, post = (capture_qkv(model, ids, stage=stage) for stage in ("pre_rope", "post_rope"))
    assert len(post["q"]) == 30 and post["q"][0].shape[1] == 9 and post["k"][0].shape[1] == 3
    for name in "qk":
        for x, y in zip(pre[name], post[name], strict=True):
            norms = [attention.pair_norm(t.square().sum(2).sqrt()) for t in (x, y)]
            torch.testing.assert_close(*norms, rtol=1e-5, atol=1e-4)
    # slow pairs carry the largest value of nearly every query head, but of no value head
    top = torch.stack([q.square().sum(2)[0].argmax(-1) % 32 for q in post["q"]])
    assert (top >= 16).float().mean() > 0.98


@pytest.mark.weights
def test_gemma3(gemma3):
    model = gemma3.model
    for layer in range(18):
        table = attention.rope_table(model, layer)
        is_global = layer in (5, 11, 17)
        assert (table.base, table.length) == ((1e6, 32768) if is_global else (1e4, 512))
        expected = attention.rope_frequencies(256, table.base)
        np.testing.assert_allclose(table.inv_freq, expected, rtol=1e-6)
    ids = torch.tensor(
        [gemma3.tokenizer("Local and global layers turn at other speeds.").input_ids]
    )
    plain = forward(model, ids)
    with edit_qkv(model, same, stage="pre_rope"):
        assert torch.equal(forward(model, ids), plain)
    pre, post = (capture_qkv(model, ids, stage=stage) for stage in ("pre_rope", "post_rope"))
    assert post["q"][0].shape[1:] == (4, ids.shape[1], 256) and post["k"][0].shape[1] == 1
    for layer in (4, 5):
        base = attention.rope_table(model, layer).base
        turned = attention.apply_rope(pre["k"][layer], torch.arange(ids.shape[1]), base)
        torch.testing.assert_close(post["k"][layer], turned, rtol=1e-4, atol=1e-3)
