"""What an edited model would write next."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from helpers import lm
from helpers.lm import Editing


def next_distributions(
    model,
    tokenizer,
    prompts: Sequence[str],
    *,
    batch_size: int = 16,
    editing: Editing | None = None,
    padded: bool = False,
) -> torch.Tensor:
    """Log-probabilities of the next token behind each prompt.

    Args:
        model, tokenizer, batch_size, editing, padded: as in `score_targets`.
        prompts: N texts; none gives an empty table.

    Returns:
        (N, V), nats, on the CPU.
    """
    prompts = lm.as_list("prompts", prompts)
    found = torch.empty(len(prompts), model.config.get_text_config().vocab_size)
    ids = lm.prompt_ids(tokenizer, prompts) if prompts else []
    for members, logprobs in lm.next_logprobs(model, ids, batch_size, editing, padded):
        found[members] = logprobs
    return found
