"""Language models: text in, numbers or text out."""

from helpers.lm.answers import Answers, choose_tokens, embed_texts, greedy, sample_answers  # noqa: F401
from helpers.lm.logits import Editing, batches, filled, heading, passes, refuse_opened  # noqa: F401
from helpers.lm.scores import (  # noqa: F401
    greedy_match,
    label_logodds,
    next_distributions,
    rank_candidates,
    score_targets,
    segment_nll,
)
from helpers.lm.tokens import added_tokens, encode, listed, opening, segments  # noqa: F401
