"""Text in, numbers out: log-probabilities, rankings and losses.

Prompts are batched by equal token length and nothing is padded, so that hooks which compute
statistics over tokens see text only. Where `padded` asks for it, texts of all lengths share a pass,
the shorter ones filled up behind, where a causal model cannot look: faster for many short texts.
Logits are computed only at the positions that are asked for (Gemma's vocabulary has 262,144
entries) and reduced in float32. Results do not depend on `batch_size`, up to rounding.

Where a function takes `during`, it is called with the number of prompt tokens of a batch and
returns a context manager that is entered around that batch's forward pass. That is how an
intervention can touch the prompt and leave the answer's positions alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch

from helpers.lm.logits import (
    LOGIT_ROWS,
    During,
    batched,
    batches,
    head_at,
    log_normaliser,
    padded_rows,
    refuse_opened,
    token_scores,
)
from helpers.lm.tokens import added_tokens, as_list, prompt_ids


def score_targets(
    model,
    tokenizer,
    prompts: Sequence[str],
    targets: Sequence[str],
    *,
    straddle: bool = False,
    batch_size: int = 16,
    during: During | None = None,
    padded: bool = False,
) -> pd.DataFrame:
    """Log-probability of each target as the continuation of its prompt, in one pass.

    The target's tokens are those that it adds to the prompt when both are tokenized together.

    Args:
        model: causal language model of transformers.
        tokenizer: its fast tokenizer.
        prompts: N texts.
        targets: N continuations, each usually with its leading space.
        straddle: as in `added_tokens`.
        batch_size: most items in a forward pass.
        during, padded: see the module's head; `during` gets the prompt's number of tokens, which
            a padded batch does not have: not both.

    Returns:
        N rows in the order of the prompts: `logprob` (sum over the target's tokens, nats),
        `n_tokens`, `n_greedy` (tokens that are the most probable ones after the target's tokens
        before), `n_prefix` (such tokens before the first other one) and `greedy` (all are, which
        is to say that greedy decoding writes exactly this).

    Raises:
        ValueError: no prompts, unequal lists, an empty target, a target that changes the
            tokenization of its prompt, NaN logits, more tokens than the model has positions (items
            are named by their number), opened attention, or both `during` and `padded`.
    """
    prompts, targets = as_list("prompts", prompts), as_list("targets", targets)
    if len(prompts) != len(targets):
        raise ValueError(f"{len(prompts)} prompts but {len(targets)} targets; give one for each.")
    ids = prompt_ids(tokenizer, prompts)
    pairs = list(zip(range(len(ids)), prompts, ids, targets, strict=True))
    added = added_tokens(tokenizer, pairs, straddle=straddle)
    lengths = [(len(row), len(more)) for row, more in zip(ids, added, strict=True)]
    table = [None] * len(ids)
    for n_prompt, members in batched([n for n, _ in lengths], lengths, batch_size, during, padded):
        rows = padded_rows(model, [ids[i] + added[i] for i in members], members)
        spans = [range(lengths[i][0], sum(lengths[i])) for i in members]
        with torch.no_grad(), during(n_prompt) if during else nullcontext():
            scores = token_scores(model, rows, spans, members, LOGIT_ROWS)
        for i, (own, best) in zip(members, scores, strict=True):
            right = (int(best.sum()), int(best.cumprod().sum()), bool(best.all()))
            table[i] = (float(own.sum(dtype=float)), lengths[i][1], *right)
    columns = ["logprob", "n_tokens", "n_greedy", "n_prefix", "greedy"]
    return pd.DataFrame(table, columns=columns)


def next_logprobs(
    model, ids: list[list[int]], batch_size: int, during: During | None, padded: bool = False
) -> Iterator[tuple]:
    """Positions of prompts and their next-token log-probabilities (B, V), batch by batch."""
    lengths = [len(row) for row in ids]
    for n_prompt, members in batched(lengths, lengths, batch_size, during, padded):
        if padded:
            refuse_opened(model)
        rows = padded_rows(model, [ids[i] for i in members], members)
        last = torch.tensor([lengths[i] - 1 for i in members], device=model.device)
        row = torch.arange(len(members), device=model.device)
        around = during(n_prompt) if during else nullcontext()
        with torch.no_grad(), around, head_at(model, row, last):
            logits = model(rows, use_cache=False).logits[0].float()
        yield members, (logits - log_normaliser(logits, members)[:, None]).cpu()


def segment_nll(model, token_ids, *, batch_size: int = 4, chunk: int = LOGIT_ROWS) -> np.ndarray:
    """Mean negative log-likelihood of the next token, per segment.

    Args:
        model: causal language model of transformers.
        token_ids: (N, T) integers, segments of equal length with T >= 2; the first token of a
            segment is given, the other T - 1 are scored.
        batch_size: most segments in a forward pass.
        chunk: most rows of logits, over a whole batch, to hold at once.

    Returns:
        (N,) nats per token.

    Raises:
        ValueError: a wrong shape or type of `token_ids`, NaN logits, tokens that the model has no
            embeddings or positions for, or opened attention.
    """
    ids = torch.as_tensor(token_ids)
    if ids.ndim != 2 or ids.shape[0] < 1 or ids.shape[1] < 2:
        raise ValueError(
            f"`token_ids` must have shape (N, T), N >= 1, T >= 2; got {tuple(ids.shape)}."
        )
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"`token_ids` must be integers; got {ids.dtype}.")
    if chunk < 1:
        raise ValueError(f"`chunk` must be at least 1; got {chunk!r}.")
    found = np.empty(len(ids))
    for _, members in batches([0] * len(ids), batch_size):
        with torch.no_grad():
            rows = padded_rows(model, ids[members].tolist(), members)
            spans = [range(1, ids.shape[1])] * len(members)
            scores = token_scores(model, rows, spans, members, chunk)
        found[members] = [-own.mean(dtype=float) for own, _ in scores]
    return found
