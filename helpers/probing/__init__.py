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
    contrastive_loss,
    leakage,
    mask_tokens,
    masked_next_token_loss,
)
from helpers.probing.probes import (  # noqa: F401
    grouped_cv,
    marked,
    prefix_noise,
    require_single_tokens,
    ridge_scores,
    within_group_auc,
    word_spans,
    word_states,
)
from helpers.probing.vectors import mean_cosine, participation_ratio  # noqa: F401
