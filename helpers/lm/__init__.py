"""Language models: text in, numbers or text out."""

from helpers.lm.answers import behind, end_tokens, finite_logits, greedy, read_behind  # noqa: F401
from helpers.lm.logits import During, batched, batches, head_at, padded_rows, refuse_opened  # noqa: F401
from helpers.lm.scores import next_logprobs, score_targets, segment_nll  # noqa: F401
from helpers.lm.tokens import (  # noqa: F401
    added_tokens,
    as_list,
    encode,
    opening,
    prompt_ids,
    segments,
    where,
)
