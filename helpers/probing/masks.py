"""What attention may see: the causal mask lifted, what then flows, and losses that train for it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from helpers import hooks
from helpers.hooks import left_padded_positions, opened


def _opened(mask: Tensor | None, like: Tensor) -> Tensor:
    """Additive mask (B or 1, 1, T, T) open to both sides of what a causal one lets through.

    Sliding windows stay windows, padding stays hidden; a padded row sees itself only.
    """
    n_tokens = like.shape[1]
    if mask is None:
        allowed = torch.ones(1, 1, n_tokens, n_tokens, dtype=torch.bool, device=like.device)
    elif mask.ndim == 4 and mask.shape[-2:] == (n_tokens, n_tokens):
        allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        itself = torch.eye(n_tokens, dtype=torch.bool, device=like.device)
        real = (allowed & itself).any(-2, keepdim=True)  # padding does not see itself
        allowed = (allowed | allowed.transpose(-1, -2)) & real | itself
    else:
        raise ValueError(
            f"attention can be opened for whole sequences only ({n_tokens} tokens, mask "
            f"{tuple(mask.shape)}): no cached decoding, and `eager` or `sdpa` attention."
        )
    zeros = torch.zeros((), dtype=like.dtype, device=like.device)
    return torch.where(allowed, zeros, torch.finfo(like.dtype).min)


@contextmanager
def bidirectional(model: nn.Module, layers: Iterable[int] | None = None) -> Iterator[None]:
    """Let every token see the tokens behind it, too: the causal mask lifted, all else unchanged.

    Works on the masks that the attention modules are given, so it holds for `eager` and `sdpa`
    attention, for padded batches, and layer by layer. Never trust a switch, use `leakage`.
    Layers without attention, the recurrent ones of a hybrid, stay causal.

    Args:
        model: causal language model of transformers.
        layers: indices of the layers to open; all that have attention if None.

    Raises:
        ValueError: unknown layers, a compiled model, or one whose decoder takes no positions;
            inside, a pass with a cache or another kind of attention or mask.

    Source: BehnamGhader et al. 2024 (LLM2Vec), section 2.1.
    """
    hooks.refuse_compiled(model)
    modules = list(hooks.attentions(model, layers).values())
    decoder, ran = model.get_decoder(), []
    signature = inspect.signature(decoder.forward)
    if "position_ids" not in signature.parameters:
        raise ValueError(f"the decoder of {type(model).__name__} is not found by get_decoder()")

    # both do nothing in a copy of the model that is made meanwhile
    def note(own, args, kwargs):
        if own is not decoder:
            return None
        ran.append(own)
        given = signature.bind(*args, **kwargs).arguments
        mask = given.get("attention_mask")
        if mask is not None and getattr(mask, "ndim", 0) != 2:
            raise ValueError("`attention_mask` must be (B, T): 1 at tokens, 0 at padding")
        if given.get("position_ids") is not None:
            return None
        return args, {**kwargs, "position_ids": left_padded_positions(mask)}

    def lift(own, args, kwargs):
        if own not in modules:
            return None
        states = args[0] if args else kwargs["hidden_states"]
        return args, {**kwargs, "attention_mask": _opened(kwargs.get("attention_mask"), states)}

    with ExitStack() as stack:
        opened.append(decoder)
        stack.callback(opened.remove, decoder)
        handles = [decoder.register_forward_pre_hook(note, with_kwargs=True)]
        handles += [module.register_forward_pre_hook(lift, with_kwargs=True) for module in modules]
        for handle in handles:
            stack.callback(handle.remove)
        yield
    hooks.refuse_skipped(ran, "opened attention")


def leakage(
    model: nn.Module, input_ids: Tensor, position: int, token: int, **inputs: Tensor
) -> np.ndarray:
    """How far every state moves when one token is replaced: what a causal mask must keep at 0.

    Args:
        model: causal language model of transformers.
        input_ids: (T,) integers.
        position: of the token that is replaced.
        token: the id that takes its place.
        inputs: further arguments of the model, such as an attention mask (1, T).

    Returns:
        (L + 1, T) relative changes of the hidden states, embeddings first.

    Raises:
        ValueError: no such position, or the same token.
    """
    ids = torch.as_tensor(input_ids)
    if ids.ndim != 1 or not 0 <= position < len(ids) or ids[position] == token:
        raise ValueError(
            f"`input_ids` must be (T,), `position` inside it and `token` another one; got shape "
            f"{tuple(ids.shape)}, {position}, {token}."
        )
    other = ids.clone()
    other[position] = token
    with torch.no_grad():
        before, after = (
            torch.cat(
                model(
                    own[None].to(model.device),
                    output_hidden_states=True,
                    use_cache=False,
                    logits_to_keep=1,
                    **inputs,
                ).hidden_states
            ).float()
            for own in (ids, other)
        )
    return ((before - after).norm(dim=-1) / before.norm(dim=-1)).cpu().numpy()


def mask_tokens(
    ids: Tensor, mask_token: int, vocab_size: int, rate: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Hide some tokens, to be told from the rest: 80 % masked, 10 % random, 10 % left.

    Args:
        ids: (B, T) integers.
        mask_token: the id that hides.
        vocab_size: random tokens lie in 0..vocab_size - 1.
        rate: share of the tokens that are chosen; the first of a row never is.

    Returns:
        (B, T) ids, and which places were chosen, (B, T).

    Raises:
        ValueError: shape or rate that does not fit.

    Source: Devlin et al. 2019 (BERT), section 3.1.
    """
    if ids.ndim != 2 or not 0 < rate < 1:
        raise ValueError(f"`ids` must be (B, T), `rate` in (0, 1); got {tuple(ids.shape)}, {rate}.")
    chosen = torch.as_tensor(rng.random(ids.shape) < rate, device=ids.device)
    chosen[:, 0] = False
    how = torch.as_tensor(rng.random(ids.shape), device=ids.device)
    noise = torch.as_tensor(rng.integers(vocab_size, size=ids.shape), device=ids.device)
    masked = torch.where(chosen & (how < 0.8), mask_token, ids)
    return torch.where(chosen & (how >= 0.9), noise, masked), chosen


def masked_next_token_loss(model: nn.Module, ids: Tensor, masked: Tensor, chosen: Tensor) -> Tensor:
    """Mean cross-entropy of hidden tokens, nats, each read one place before, as a decoder reads.

    Args:
        model: causal language model of transformers, opened or not.
        ids: (B, T) what is right.
        masked, chosen: of `mask_tokens`.

    Raises:
        ValueError: nothing was chosen.

    Source: BehnamGhader et al. 2024 (LLM2Vec), section 2.2.
    """
    behind = chosen[:, 1:]
    if not behind.any():
        raise ValueError("`chosen` names no place behind the first.")
    logits = model(input_ids=masked, use_cache=False).logits[:, :-1][behind]
    return nn.functional.cross_entropy(logits.float(), ids[:, 1:][behind])
