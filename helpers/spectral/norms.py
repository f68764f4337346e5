"""Norms of what reaches a layer, by which Wanda weighs its weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from helpers import hooks


@torch.no_grad()
def input_norms(
    model: nn.Module, patterns: str | Iterable[str], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """L2 norm of every input feature of named modules over all tokens of some batches.

    Args:
        model: a model of transformers; its head is not run.
        patterns: names of linear layers, as in `capture`.
        batches: token ids (B, T), unpadded.

    Returns:
        A dict from module name to norms (in_features,), float32.

    Raises:
        ValueError: no batches, a pattern that matches nothing, a module that does not run, or
            inputs that are NaN or infinite (the module is named).

    Source: Sun et al. 2024 (Wanda), the activation term of equation 1.
    """
    squares: dict[str, Tensor] = {}

    def see(name: str, value: Tensor) -> Tensor:
        own = value.float().square().flatten(0, -2).sum(0)
        squares[name] = own + squares.get(name, 0)
        return value

    with hooks.hooked(model, patterns, "input", see) as names:
        for ids in batches:
            model.base_model(ids.to(model.device), use_cache=False)
    if not squares:
        raise ValueError(f"no module of {names[:3]} ran: `batches` is empty, or they are the head")
    for name in names:
        if name not in squares:
            raise ValueError(f"module {name!r} did not run; is it behind the decoder?")
        if not squares[name].isfinite().all():
            raise ValueError(f"the input of module {name!r} is NaN or infinite")
    return {name: squares[name].sqrt() for name in names}
