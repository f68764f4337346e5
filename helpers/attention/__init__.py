"""Queries, keys and values inside attention, and questions to edited models (notebook 04)."""

from helpers.attention.qkv import (  # noqa: F401
    LAYOUTS,
    STAGES,
    RopeTable,
    apply_rope,
    capture_qkv,
    edit_qkv,
    pair_norm,
    rope_frequencies,
    rope_table,
    rope_wavelengths,
)
from helpers.attention.questions import (  # noqa: F401
    greedy_match,
    label_logodds,
    next_token_logprobs,
    rank_candidates,
)
