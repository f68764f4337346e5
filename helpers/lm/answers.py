"""Answers of a model: many samples of one prompt, greedy answers, and embeddings."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch

from helpers import checks
from helpers.lm.logits import Editing, batches, filled, heading
from helpers.lm.tokens import encode, listed, prompt_ids

_FIRST_GUESS = 64  # most probable tokens that are looked at before the whole vocabulary


class Answers(NamedTuple):
    """`texts` (N), without special tokens; `tokens` (N lists), with the end token if there is one.

    Row i of one seed is the same answer however many rows are drawn with it.
    """

    texts: list[str]
    tokens: list[list[int]]


def _nucleus(logits: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cumulative probabilities (B, K) of the most probable tokens, and those tokens.

    Enough of them that each row holds `top_p`; behind a row's nucleus the sum stays the same.
    """
    log_total = logits.logsumexp(-1, keepdim=True)
    size = min(_FIRST_GUESS, logits.shape[-1])
    while True:
        top, tokens = logits.topk(size, -1)
        sums = (top - log_total).exp().cumsum(-1)
        if size == logits.shape[-1] or bool((sums[:, -1] >= top_p).all()):
            break
        size = min(8 * size, logits.shape[-1])
    before = torch.nn.functional.pad(sums, (1, -1))
    inside = before < top_p  # the token that crosses top_p belongs to the nucleus
    return torch.where(inside, sums, sums.masked_fill(~inside, 0).amax(-1, keepdim=True)), tokens


def choose_tokens(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """One token per row by inverting the distribution function at a uniform number.

    Args:
        logits: (B, V); computed with in float64.
        uniform: (B,) numbers in [0, 1).
        temperature: divides the logits; 0 takes the most probable token.
        top_p: mass of the smallest set of most probable tokens to draw from; 1 for all tokens.

    Returns:
        (B,) token ids.

    Raises:
        ValueError: NaN or infinite logits, other than those of -inf beside a finite one.

    Source: Holtzman et al. 2020 (nucleus sampling).
    """
    if not logits.amax(-1).isfinite().all():
        raise ValueError("the model's logits are NaN or infinite; check its weights.")
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double() / temperature
    if top_p < 1:
        sums, tokens = _nucleus(logits, top_p)
    else:  # in the order of the vocabulary: nothing to sort
        sums, tokens = logits.softmax(-1).cumsum(-1), None
    place = torch.searchsorted(sums, (uniform.double() * sums[:, -1])[:, None], right=True)
    place = place.clamp(max=sums.shape[-1] - 1)
    return (place if tokens is None else tokens.gather(-1, place))[:, 0]


@torch.no_grad()
def sample_answers(
    model,
    tokenizer,
    prompt: str,
    n: int,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    first_row: int = 0,
    batch_size: int = 64,
) -> Answers:
    """Independent answers to one prompt, whose keys and values are computed once.

    Row i takes its random numbers from a stream of its own, keyed by (seed, i), so that more rows
    or another batch size do not change it (up to rounding of the model, which may turn single
    answers). Rows that ended leave the batch.

    Args:
        model, tokenizer: causal language model of transformers and its fast tokenizer.
        prompt: the whole prompt, with the chat template already applied where there is one.
        n: number of answers.
        max_new_tokens: most tokens of an answer.
        temperature, top_p: as in `choose_tokens`.
        seed: of all streams; arms that are compared need different seeds.
        first_row: number of the first row, to go on with a bank of answers.
        batch_size: most rows at a time.

    Returns:
        Answers(texts, tokens).

    Raises:
        ValueError: a prompt without tokens or too long, a number below 1 (or a temperature or first
            row below 0), `top_p` outside (0, 1], or NaN logits.
    """
    for name, value in (("n", n), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        checks.whole(name, value, 1)
    for name, value in (("temperature", temperature), ("first_row", first_row)):
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"`{name}` must not be negative; got {value!r}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must lie in (0, 1]; got {top_p!r}.")
    ids = encode(tokenizer, prompt)
    if not ids:
        raise ValueError("`prompt` has no tokens; a model without a start token needs some text.")
    begun = model(filled(model, [ids], n_new=max_new_tokens - 1), use_cache=True, logits_to_keep=1)
    if "batch_select_indices" in vars(type(begun.past_key_values)):
        batch_size = 1  # the cache holds more than its layers, so no rows can be taken from it
    ends = torch.tensor(sorted(end_tokens(model, tokenizer)), device=model.device)
    tokens: list[list[int]] = []
    for start in range(first_row, first_row + n, batch_size):
        rows = range(start, min(start + batch_size, first_row + n))
        streams = [np.random.default_rng([seed, row]).random(max_new_tokens) for row in rows]
        uniform = torch.tensor(np.array(streams), device=model.device)
        tokens += _continue(model, begun, len(ids), uniform, ends, temperature, top_p)
    return Answers([_read(tokenizer, ids, row) for row in tokens], tokens)


def _read(tokenizer, prompt: Sequence[int], tokens: list[int]) -> str:
    """Text of tokens behind their prompt, for tokenizers that drop a text's leading space."""
    head = tokenizer.decode(prompt, skip_special_tokens=True)
    return tokenizer.decode([*prompt, *tokens], skip_special_tokens=True)[len(head) :]


def _behind(model, cache, place: int) -> dict:
    """Arguments of a pass behind a cache; without the place some hybrids count from 0 again."""
    how = {"past_key_values": cache, "use_cache": True}
    if cache is not None and "position_ids" in inspect.signature(model.forward).parameters:
        how["position_ids"] = torch.tensor([[place]], device=model.device)
    return how


def _continue(model, begun, n, uniform, ends, temperature, top_p) -> list[list[int]]:
    """Tokens of a batch of rows behind a prompt of n tokens; uniform (B, T)."""
    found: list[list[int]] = [[] for _ in uniform]
    live = torch.arange(len(uniform), device=uniform.device)
    cache = copy.deepcopy(begun.past_key_values)
    cache.reorder_cache(torch.zeros_like(live))  # the one selection that recurrent layers know
    logits = begun.logits[:, -1].float().expand(len(uniform), -1)
    for step in range(uniform.shape[1]):
        chosen = choose_tokens(logits, uniform[live, step], temperature, top_p)
        for row, token in zip(live.tolist(), chosen.tolist(), strict=True):
            found[row].append(token)
        stay = ~torch.isin(chosen, ends)
        if step + 1 == uniform.shape[1] or not stay.any():
            break
        if not stay.all():
            live = live[stay]
            cache.reorder_cache(stay.nonzero()[:, 0])
        out = model(chosen[stay][:, None], logits_to_keep=1, **_behind(model, cache, n + step))
        logits = out.logits[:, -1].float()
    return found


def end_tokens(model, tokenizer) -> set[int]:
    """Ids of the tokens that end an answer, by the model's own settings and its tokenizer."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return {end for end in [*ends, tokenizer.eos_token_id] if end is not None}


@torch.no_grad()
def _grow(model, rows: torch.Tensor, max_new_tokens: int, finished, editing) -> list[list[int]]:
    """The greedy tokens behind each row (B, T); `finished(row, tokens)` ends a row."""
    tokens: list[list[int]] = [[] for _ in rows]
    done = [False] * len(tokens)
    step, cache = rows, None
    each = torch.arange(len(rows), device=rows.device)
    for place in range(rows.shape[1] - 1, rows.shape[1] - 1 + max_new_tokens):
        around = editing(rows.shape[1]) if editing and cache is None else nullcontext()
        with around, heading(model, each, torch.full_like(each, -1)):
            out = model(step, **_behind(model, cache, place))
        cache, step = out.past_key_values, choose_tokens(out.logits[0], each, 0, 1)[:, None]
        for i, token in enumerate(step[:, 0].tolist()):
            if not done[i]:
                tokens[i].append(token)
                done[i] = finished(rows[i], tokens[i])
        if all(done):
            break
    return tokens


def greedy(
    model,
    tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: str | None = None,
    batch_size: int = 16,
    editing: Editing | None = None,
) -> list[str]:
    """Greedy answers, batched over prompts of equal length, with a key-value cache.

    Args:
        model, tokenizer, prompts, batch_size: as in `lm.score_targets`.
        max_new_tokens: most tokens to write; a row also ends at the model's end token.
        stop: the answer is cut before the first occurrence of this text.
        editing: as in `helpers.lm`; what it does to the prompt lives on in the cache.

    Returns:
        N texts, without the prompt and without special tokens.

    Raises:
        ValueError: no prompts, one that is empty or too long, `max_new_tokens` below 1, or NaN.
    """
    if max_new_tokens < 1:
        raise ValueError(f"`max_new_tokens` must be at least 1; got {max_new_tokens!r}.")
    ids = prompt_ids(tokenizer, listed("prompts", prompts))
    ends = end_tokens(model, tokenizer)

    def finished(row: torch.Tensor, tokens: list[int]) -> bool:
        return tokens[-1] in ends or bool(stop and stop in _read(tokenizer, row.tolist(), tokens))

    found = [""] * len(ids)
    for _, members in batches([len(row) for row in ids], batch_size):
        rows = filled(model, [ids[i] for i in members], members, max_new_tokens - 1)
        grown = _grow(model, rows, max_new_tokens, finished, editing)
        for i, tokens in zip(members, grown, strict=True):
            text = _read(tokenizer, ids[i], tokens)
            found[i] = text.split(stop)[0] if stop else text
    return found
