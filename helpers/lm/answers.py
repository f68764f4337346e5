"""Greedy answers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from helpers import checks
from helpers.lm.logits import During, batches, head_at, padded_rows
from helpers.lm.tokens import as_list, prompt_ids


def read_behind(tokenizer, prompt: Sequence[int], tokens: list[int]) -> str:
    """Text of tokens behind their prompt, for tokenizers that drop a text's leading space."""
    head = tokenizer.decode(prompt, skip_special_tokens=True)
    return tokenizer.decode([*prompt, *tokens], skip_special_tokens=True)[len(head) :]


def behind(model, cache, place: int) -> dict:
    """Arguments of a pass behind a cache; without the place some hybrids count from 0 again."""
    how = {"past_key_values": cache, "use_cache": True}
    if cache is not None and "position_ids" in inspect.signature(model.forward).parameters:
        how["position_ids"] = torch.tensor([[place]], device=model.device)
    return how


def finite_logits(logits: torch.Tensor) -> torch.Tensor:
    """`logits` (B, V); a ValueError where a row is NaN, infinite, or -inf throughout."""
    if not logits.amax(-1).isfinite().all():
        raise ValueError("the model's logits are NaN or infinite; check its weights.")
    return logits


def end_tokens(model, tokenizer) -> set[int]:
    """Ids of the tokens that end an answer, by the model's own settings and its tokenizer."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return {end for end in [*ends, tokenizer.eos_token_id] if end is not None}


@torch.no_grad()
def _grow(model, rows: torch.Tensor, max_new_tokens: int, ends, during) -> list[list[int]]:
    """The greedy tokens behind each row (B, T), up to one of `ends`."""
    tokens: list[list[int]] = [[] for _ in rows]
    done = [False] * len(tokens)
    step, cache = rows, None
    each = torch.arange(len(rows), device=rows.device)
    for place in range(rows.shape[1] - 1, rows.shape[1] - 1 + max_new_tokens):
        around = during(rows.shape[1]) if during and cache is None else nullcontext()
        with around, head_at(model, each, torch.full_like(each, -1)):
            out = model(step, **behind(model, cache, place))
        cache, step = out.past_key_values, finite_logits(out.logits[0]).argmax(-1)[:, None]
        for i, token in enumerate(step[:, 0].tolist()):
            if not done[i]:
                tokens[i].append(token)
                done[i] = token in ends
        if all(done):
            break
    return tokens


def greedy(
    model,
    tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    during: During | None = None,
) -> list[str]:
    """Greedy answers, batched over prompts of equal length, with a key-value cache.

    Args:
        model, tokenizer, prompts, batch_size: as in `lm.score_targets`.
        max_new_tokens: most tokens to write; a row also ends at the model's end token.
        during: as in `helpers.lm`; what it does to the prompt lives on in the cache.

    Returns:
        N texts, without the prompt and without special tokens.

    Raises:
        ValueError: no prompts, one that is empty or too long, `max_new_tokens` below 1, or NaN.
    """
    checks.whole("max_new_tokens", max_new_tokens, 1)
    ids = prompt_ids(tokenizer, as_list("prompts", prompts))
    ends = end_tokens(model, tokenizer)

    found = [""] * len(ids)
    for _, members in batches([len(row) for row in ids], batch_size):
        rows = padded_rows(model, [ids[i] for i in members], members, max_new_tokens - 1)
        grown = _grow(model, rows, max_new_tokens, ends, during)
        for i, tokens in zip(members, grown, strict=True):
            found[i] = read_behind(tokenizer, ids[i], tokens)
    return found
