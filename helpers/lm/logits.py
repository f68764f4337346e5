"""One forward pass for several texts: who shares it, and which of its logits are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from helpers import hooks
from helpers.hooks import _first_tensor, _with_first_tensor


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Within the context the module computes `forward`; somebody else's replacement comes back."""
    outer = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if outer is not None:
            module.forward = outer


@contextmanager
def computing_once(module: nn.Module) -> Iterator[None]:
    """Within the context the module computes in its first call and replays that output later.

    So a language model's own forward can be asked for one slice of logits after another, with
    whatever its family does behind the head (soft-capping, scaling), at the price of the head.
    """
    compute, kept = module.forward, []

    def forward(*args, **kwargs):
        if not kept:
            kept.append(compute(*args, **kwargs))
        # a copy, for a hook may write into it
        return _with_first_tensor(kept[0], _first_tensor(kept[0], "computed once").clone())

    with replaced_forward(module, forward):
        yield


During = Callable[[int], AbstractContextManager]

FEW = 8  # rows up to which a tall matrix is multiplied the other way round
LOGIT_ROWS = 128  # rows of logits held at once: 128 MB for Gemma's vocabulary in float32


def batches(keys: Sequence, batch_size: int) -> Iterator[tuple[Any, list[int]]]:
    """(key, positions that share it), at most `batch_size` positions at a time."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1; got {batch_size!r}.")
    groups: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    for key, members in groups.items():
        for start in range(0, len(members), batch_size):
            yield key, members[start : start + batch_size]


def batched(
    n_prompts: list[int], lengths: list, batch_size: int, during: During | None, padded: bool
) -> Iterator[tuple[int, list[int]]]:
    """(tokens of their prompts, items that share a pass); padded, lengths differ and it is 0."""
    if padded and during:
        raise ValueError("`during` needs prompts of one length in a pass: not with `padded`.")
    if not padded:
        for _, members in batches(lengths, batch_size):
            yield n_prompts[members[0]], members
        return
    order = sorted(range(len(lengths)), key=lambda i: np.sum(lengths[i]))  # little to fill up
    for _, members in batches([0] * len(order), batch_size):
        yield 0, [order[i] for i in members]


def log_normaliser(logits: torch.Tensor, items: Sequence[int]) -> torch.Tensor:
    """log sum exp over the vocabulary, float32 logits (R, V) -> (R,); refuses NaN."""
    total = logits.logsumexp(-1)
    fine = total.isfinite()
    if not fine.all():
        item = items[int((~fine).nonzero()[0])]
        raise ValueError(
            f"item {item}: the model's logits are NaN or infinite; check the edit that is active "
            "and the number format of the weights."
        )
    return total


class _FewRows(torch.autograd.Function):
    """x @ W.T for a few rows x (R, d) and a tall frozen W (V, d), computed as (W @ x.T).T.

    On a CPU the library takes several times longer for the same numbers the other way round; see
    tests/benchmarks/bench_logits.py.
    """

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        return (weight @ x.T).T.contiguous()

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.saved_tensors[0], None


@contextmanager
def head_at(model, row: torch.Tensor, place: torch.Tensor) -> Iterator[None]:
    """The head computes logits at these places of these rows only: (1, R, V) instead of (B, T, V).

    What a family does behind its head (soft-capping, scaling) is done by the model as always.
    """
    head = model.get_output_embeddings()
    compute, weight = head.forward, head.weight
    untouched = "forward" not in vars(head)  # nobody else has replaced it
    plain = type(head) is torch.nn.Linear and head.bias is None and untouched

    def forward(states):
        states = states[row, place]
        frozen = not (weight.requires_grad and torch.is_grad_enabled())
        if plain and frozen and weight.is_cpu and len(states) <= FEW:
            return _FewRows.apply(states, weight)[None]
        return compute(states[None])

    with replaced_forward(head, forward):
        yield


def _most_positions(model) -> float:
    """Most tokens that a model with learned positions takes in; computed ones have no end."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or np.inf
    words = model.get_input_embeddings()
    tables = (m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m is not words)
    return most if any(0 <= m.num_embeddings - most <= 2 for m in tables) else np.inf  # OPT: 2


def padded_rows(model, rows: list[list[int]], items: Sequence[int] = (0,), n_new=0) -> torch.Tensor:
    """Rows of token ids, the shorter ones filled up behind with their last token, (B, T).

    ValueError if the model cannot take in one of these `items`, with `n_new` tokens to follow.
    """
    n_words, most = len(model.get_input_embeddings().weight), _most_positions(model)
    if model.device.type == "meta":
        raise ValueError("the model's weights are offloaded; load it onto one device.")
    for item, row in zip(items, rows, strict=True):
        if len(row) + n_new > most or not 0 <= min(row) <= max(row) < n_words:
            raise ValueError(
                f"item {item}: {len(row)} tokens (ids {min(row)} to {max(row)}), {n_new} to "
                f"follow; the model has {most} positions and {n_words} tokens."
            )
    size = max(map(len, rows))
    return torch.tensor([row + row[-1:] * (size - len(row)) for row in rows], device=model.device)


def refuse_opened(model) -> None:
    """ValueError where `probing.bidirectional` shows tokens what they must not see."""
    if model.get_decoder() in hooks.opened:
        raise ValueError("opened attention sees fillers and targets; use next_distributions alone.")


def token_scores(
    model, ids: torch.Tensor, spans: Sequence[range], items: Sequence[int], rows: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probability (nats) of tokens given all before, and whether each is the most probable one.

    Args:
        ids: (B, T) token ids on the model's device.
        spans: the places to score in each row, none of them 0.
        items: the caller's number of each row, for error messages.
        rows: most rows of logits to hold at once.

    Returns:
        For each row a float and a bool array, one entry for each place.
    """
    refuse_opened(model)
    at = [(i, place) for i, span in enumerate(spans) for place in span]
    row, place = torch.tensor(at, device=ids.device).T
    logprobs, greedy = [], []
    with computing_once(model.get_decoder()):
        for start in range(0, len(at), rows):
            r, t = row[start : start + rows], place[start : start + rows]
            with head_at(model, r, t - 1):
                logits = model(ids, use_cache=False).logits[0].float()
            total = log_normaliser(logits, [items[i] for i in r.tolist()])
            logprobs.append(logits.gather(-1, ids[r, t, None])[..., 0] - total)
            greedy.append(logits.argmax(-1) == ids[r, t])
    cuts = np.cumsum([len(span) for span in spans])[:-1]
    own = (np.split(torch.cat(found).cpu().numpy(), cuts) for found in (logprobs, greedy))
    return list(zip(*own, strict=True))
