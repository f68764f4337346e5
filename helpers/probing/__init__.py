"""Probes of word vectors under open and closed masks (notebook 02)."""

from helpers.probing.bundles import (  # noqa: F401
    CONTEXT_PROBES,
    SIZES,
    bundle_accuracies,
    bundle_sentences,
    cell_kind,
)
from helpers.probing.masks import (  # noqa: F401
    bidirectional,
    leakage,
    mask_tokens,
    masked_next_token_loss,
)
from helpers.probing.probes import (  # noqa: F401
    grouped_cv,
    marked,
    mean_cosine,
    prefix_noise,
    ridge_scores,
    word_spans,
    word_states,
)
