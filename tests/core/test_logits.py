"""The rows of logits that were asked for, with gradients, undone; and what no model can take in."""

import pytest
import torch
from families import CONTEXT, DECODERS, build, tiny_tokenizer, token_ids

from helpers import lm, probing
from helpers.lm import logits
from helpers.lm.logits import FEW, head_at

ROW, PLACE = torch.tensor([0, 1, 1, 2]), torch.tensor([4, 0, -1, 3])


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize(("frozen", "few"), [(True, FEW), (True, 2), (False, FEW)])
def test_some_rows_are_those_of_all(family, frozen, few, monkeypatch):
    monkeypatch.setattr(logits, "FEW", few)
    model, ids = build(family).requires_grad_(not frozen), token_ids(3, 7)
    bend = torch.linspace(-1, 1, 32, requires_grad=True)  # added to what enters the head
    hook = model.get_decoder().register_forward_hook(
        lambda _module, _args, out: type(out)({**out, "last_hidden_state": out[0] + bend})
    )
    whole = model(ids, use_cache=False).logits[ROW, PLACE]
    (right,) = torch.autograd.grad(whole.square().sum(), bend)
    with head_at(model, ROW, PLACE):
        some = model(ids, use_cache=False).logits
    (found,) = torch.autograd.grad(some.square().sum(), bend)
    hook.remove()
    assert some.shape == (1, 4, whole.shape[-1])
    torch.testing.assert_close(some[0], whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)


def test_the_head_is_put_back_also_after_an_exception():
    model = build("llama")
    head = model.get_output_embeddings()
    with pytest.raises(RuntimeError), head_at(model, ROW, PLACE):
        raise RuntimeError
    assert "forward" not in vars(head)
    head.forward = kept = head.forward  # somebody else's
    with head_at(model, ROW, PLACE):
        assert head.forward is not kept
    assert head.forward is kept


@pytest.mark.parametrize("family", DECODERS)
def test_only_learned_positions_limit_the_rows(family):
    limit = CONTEXT if family in ("gpt2", "opt") else float("inf")
    model = build(family)
    assert logits._most_positions(model) == limit
    rows = [[3] * CONTEXT, [4, 5]]
    assert lm.padded_rows(model, rows, (7, 8)).tolist() == [rows[0], [4] + [5] * (CONTEXT - 1)]
    if limit == CONTEXT:
        with pytest.raises(ValueError, match=f"item 7: {CONTEXT} tokens .* 1 to follow"):
            lm.padded_rows(model, rows, (7, 8), 1)


def test_weights_that_are_elsewhere_are_refused():
    model = build("llama").to("meta")
    with pytest.raises(ValueError, match="weights are offloaded"):
        lm.score_targets(model, tiny_tokenizer(start=True), ["a"], [" d"])


def test_a_model_is_opened_until_its_last_context_is_left():
    model, other = build("llama"), build("llama")
    a, b = probing.bidirectional(model), probing.bidirectional(model, [0])
    a.__enter__()
    b.__enter__()
    for context in (a, b):  # in any order
        with pytest.raises(ValueError, match="opened attention"):
            lm.refuse_opened(model)
        lm.refuse_opened(other)
        context.__exit__(None, None, None)
    lm.refuse_opened(model)
    with pytest.raises(RuntimeError), probing.bidirectional(model):
        raise RuntimeError
    lm.refuse_opened(model)
