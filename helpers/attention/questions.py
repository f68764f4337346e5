"""Questions with known answers: greedy answers, choices by the next token, two labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from helpers import lm
from helpers.lm import During


def greedy_match(
    model,
    tokenizer,
    prompts: Sequence[str],
    golds: Sequence[str],
    *,
    batch_size: int = 16,
    during: During | None = None,
) -> pd.DataFrame:
    """Whether greedy decoding would write the gold answer, found in one pass over prompt + gold.

    Args:
        model, tokenizer, prompts, batch_size, during: as in `score_targets`.
        golds: N answers, each usually with its leading space.

    Returns:
        N rows: `correct` (bool) and `mean_logprob` (nats per gold token).

    Raises:
        ValueError: as in `score_targets`.
    """
    scores = lm.score_targets(
        model, tokenizer, prompts, golds, batch_size=batch_size, during=during
    )
    return pd.DataFrame(
        {"correct": scores["greedy"], "mean_logprob": scores["logprob"] / scores["n_tokens"]}
    )


def next_token_logprobs(
    model,
    tokenizer,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    batch_size: int = 16,
    during: During | None = None,
) -> list[np.ndarray]:
    """Log-probability of the first token of each choice, one forward pass per batch.

    Args:
        model, tokenizer, prompts, batch_size, during: as in `score_targets`.
        choices: for each prompt, the continuations to compare; their first tokens must differ.

    Returns:
        For each prompt an array (number of choices,) in nats.

    Raises:
        ValueError: no prompts, unequal lists, choices that begin with the same token, and as in
            `score_targets`; items are named by their number.
    """
    prompts, choices = (
        lm.as_list("prompts", prompts),
        [lm.as_list("choices", own) for own in choices],
    )
    if len(prompts) != len(choices):
        raise ValueError(f"{len(prompts)} prompts but {len(choices)} lists of choices.")
    ids = lm.prompt_ids(tokenizer, prompts)
    pairs = [(i, prompts[i], ids[i], text) for i, own in enumerate(choices) for text in own]
    added = iter(lm.added_tokens(tokenizer, pairs))
    firsts = [[next(added)[0] for _ in own] for own in choices]
    for i, own in enumerate(firsts):
        twins = [text for text, token in zip(choices[i], own, strict=True) if own.count(token) > 1]
        if twins:
            raise ValueError(
                f"{lm.where(i, prompts[i])}: {twins} begin with the same token, which the next "
                "token cannot tell apart; change one of them or use score_targets."
            )
    found: list[np.ndarray] = [np.empty(0)] * len(ids)
    for members, logprobs in lm.next_logprobs(model, ids, batch_size, during):
        for i, own in zip(members, logprobs.numpy(), strict=True):
            found[i] = own[firsts[i]].astype(float)
    return found


def label_logodds(
    model,
    tokenizer,
    prompts: Sequence[str],
    positive: str,
    negative: str,
    *,
    batch_size: int = 16,
    during: During | None = None,
) -> np.ndarray:
    """log p(first token of `positive`) - log p(first token of `negative`) after each prompt.

    As a score for ROC AUC it is free of a model's bias towards one label.

    Args:
        model, tokenizer, prompts, batch_size, during: as in `score_targets`.
        positive, negative: the two label words, with their leading space.

    Returns:
        (N,) log-odds in nats.

    Raises:
        ValueError: as in `next_token_logprobs`.
    """
    pairs, how = [(positive, negative)] * len(prompts), {"batch_size": batch_size}
    found = next_token_logprobs(model, tokenizer, prompts, pairs, during=during, **how)
    return np.array([yes - no for yes, no in found])


def _field(item, name: str):
    return item[name] if isinstance(item, Mapping) else getattr(item, name)


def rank_candidates(
    model, tokenizer, items: Sequence, *, batch_size: int = 16, during: During | None = None
) -> pd.DataFrame:
    """Multiple choice by the log-probability of the next token.

    Args:
        model, tokenizer, batch_size, during: as in `score_targets`.
        items: N mappings or objects with `prompt`, `gold` and `candidates` (which holds the gold
            and at least one more; all begin with different tokens).

    Returns:
        N rows in item order: `correct` (the gold beats all others), `choice` (the best
        candidate), `gold_logprob` (nats) and `margin` (gold minus the best other, nats).

    Raises:
        ValueError: no items, a gold that is not among its candidates, fewer than two candidates,
            and as in `next_token_logprobs`; items are named by their number and prompt.
    """
    prompts = [_field(item, "prompt") for item in items]
    golds = [_field(item, "gold") for item in items]
    choices = [lm.as_list("candidates", _field(item, "candidates")) for item in items]
    for i, (gold, own) in enumerate(zip(golds, choices, strict=True)):
        if own.count(gold) != 1 or len(own) < 2:
            raise ValueError(
                f"{lm.where(i, prompts[i])}: give two or more candidates, among them the gold "
                f"{gold!r} once; got {own}."
            )
    scores = next_token_logprobs(
        model, tokenizer, prompts, choices, batch_size=batch_size, during=during
    )
    table = []
    for gold, own, logprobs in zip(golds, choices, scores, strict=True):
        at = own.index(gold)
        others = np.delete(logprobs, at)
        margin = logprobs[at] - others.max()
        rival = [text for text in own if text != gold][int(others.argmax())]
        table.append((bool(margin > 0), gold if margin > 0 else rival, logprobs[at], margin))
    return pd.DataFrame(table, columns=["correct", "choice", "gold_logprob", "margin"])
