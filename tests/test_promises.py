"""What the README's table promises of families beyond the ten, where no other test tries it."""

import numpy as np
import pytest
import torch
from families import one_thread, token_ids  # noqa: F401
from more_families import CONFIGS, HYBRIDS, build

from helpers import attention, hooks, lm, probing

IDS = token_ids(2, 14)


@torch.no_grad()
def logits(model):
    return model(IDS, use_cache=False).logits


@pytest.fixture(scope="module", params=[*CONFIGS])
def named(request):
    return request.param, build(request.param)


def test_losses_are_those_of_the_models_own_logits(named):
    _, model = named
    nats = -logits(model)[:, :-1].log_softmax(-1).gather(-1, IDS[:, 1:, None])[..., 0]
    np.testing.assert_allclose(lm.segment_nll(model, IDS), nats.mean(1), atol=1e-5)


def test_blocks_are_captured_and_edited(named):
    name, model = named
    clean, places = logits(model), [*hooks.blocks(model)]
    with hooks.capture(model, places) as seen:
        logits(model)
    assert [*seen] == places
    with hooks.edit(model, places[0], lambda _name, x: x.clone()):
        assert torch.equal(logits(model), clean)
    with hooks.edit(model, places[0], lambda _name, x: x.add_(1.0 + torch.arange(x.shape[-1]))):
        assert not torch.allclose(logits(model), clean)
    assert torch.equal(logits(model), clean), name


def test_queries_are_edited_or_the_model_is_refused(named):
    name, model = named
    if name in ("falcon", "zamba2"):
        with pytest.raises(ValueError, match="attention"):
            attention.capture_qkv(model, IDS)
        return
    clean = logits(model)
    with attention.edit_qkv(model, lambda _layer, *qkv: qkv):
        assert torch.equal(logits(model), clean)
    with attention.edit_qkv(model, lambda _layer, q, k, v: (0 * q, k, v)):
        assert not torch.allclose(logits(model), clean)


def test_attention_is_opened_or_the_model_is_refused(named):
    name, model = named
    if name == "modernbert":
        with pytest.raises(ValueError, match="decoder"), probing.bidirectional(model):
            pass
        return
    ids = IDS[:1].clone()
    clean = model(ids, use_cache=False).logits
    ids[0, -1] = 5 if ids[0, -1] != 5 else 6
    ahead = slice(0, -1)
    assert torch.allclose(model(ids, use_cache=False).logits[:, ahead], clean[:, ahead], atol=1e-5)
    with probing.bidirectional(model), torch.no_grad():
        one, other = (model(own, use_cache=False).logits for own in (IDS[:1], ids))
    moved = (one - other)[0, ahead].abs().amax(-1) > 1e-6
    assert moved.any() if name in HYBRIDS else moved.all()
