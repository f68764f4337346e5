"""Language models: text in, numbers or text out."""

from helpers.lm.answers import Answers, choose_tokens, greedy, sample_answers  # noqa: F401
from helpers.lm.logits import Editing, batches, filled, heading, passes, refuse_opened  # noqa: F401
from helpers.lm.scores import next_logprobs, score_targets, segment_nll  # noqa: F401
from helpers.lm.tokens import (  # noqa: F401
    added_tokens,
    encode,
    listed,
    opening,
    prompt_ids,
    segments,
    where,
)
