"""logits.heading: the rows that were asked for, on every family, with gradients, undone."""

import pytest
import torch
from families import DECODERS, build, token_ids

from helpers import logits
from helpers.logits import FEW, heading

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
    with heading(model, ROW, PLACE):
        some = model(ids, use_cache=False).logits
    (found,) = torch.autograd.grad(some.square().sum(), bend)
    hook.remove()
    assert some.shape == (1, 4, whole.shape[-1])
    torch.testing.assert_close(some[0], whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)


def test_the_head_is_put_back_also_after_an_exception():
    model = build("llama")
    head = model.get_output_embeddings()
    with pytest.raises(RuntimeError), heading(model, ROW, PLACE):
        raise RuntimeError
    assert "forward" not in vars(head)
    head.forward = kept = head.forward  # somebody else's
    with heading(model, ROW, PLACE):
        assert head.forward is not kept
    assert head.forward is kept
