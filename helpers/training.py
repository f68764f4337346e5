"""Training of small models, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn


def last_logits(model: nn.Module, prompts: Tensor) -> Tensor:
    """(N, V) scores of the next token."""
    return model(input_ids=prompts, use_cache=False, logits_to_keep=1).logits[:, -1]


def training(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    steps: int,
    rng: np.random.Generator | int,
    lr: float = 3e-3,
    decay: float = 0.01,
    batch_size: int = 256,
    weights: Iterable[nn.Parameter] | None = None,
    scores: Callable[[nn.Module, Tensor], Tensor] = last_logits,
    penalty: Callable[[], Tensor] | None = None,
    enough: float = 0.0,
) -> Iterator[tuple[int, float]]:
    """Train with AdamW, one step for each item taken, so that the caller may look in between.

    Args:
        model: to be trained in place.
        inputs: (N, ...), drawn in shuffled passes.
        targets: (N,) classes, or (N, K) probabilities.
        steps: at most so many.
        rng: order of the examples.
        lr, decay: step width, decoupled weight decay.
        batch_size: examples in a step; all of them where there are fewer.
        weights: parameters to train; by default those that require a gradient.
        scores: (model, inputs) to (N, K) scores.
        penalty: added to the loss of every step.
        enough: stop when the running mean of the loss (over about ten steps) is below it.

    Yields:
        The number of finished steps and the loss of the last.

    Raises:
        ValueError: no examples, as many targets as inputs are not given, or nothing to train.
        FloatingPointError: a loss that is not finite; the step is named.
    """
    chosen = [w for w in (model.parameters() if weights is None else weights) if w.requires_grad]
    if not len(inputs) or len(inputs) != len(targets) or not chosen:
        raise ValueError(
            f"training needs examples and weights: {len(inputs)} inputs, {len(targets)} targets, "
            f"{len(chosen)} weights to train."
        )
    optimizer = torch.optim.AdamW(chosen, lr=lr, betas=(0.9, 0.98), weight_decay=decay)
    order, running = _passes(len(inputs), batch_size, np.random.default_rng(rng)), None
    for step in range(1, steps + 1):
        rows = next(order)
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(scores(model, inputs[rows]), targets[rows])
            if penalty is not None:
                loss = loss + penalty()
        gradients = torch.autograd.grad(loss, chosen)
        for weight, gradient in zip(chosen, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        if not np.isfinite(value):
            raise FloatingPointError(f"the loss of step {step} is {value}.")
        running = value if running is None else 0.9 * running + 0.1 * value
        yield step, value
        if running < enough:
            return


def _passes(n: int, batch_size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Row numbers of batches, every row once before any comes again."""
    while True:
        order = torch.from_numpy(rng.permutation(n))
        yield from order.split(batch_size)
