"""Knowledge editing (notebook 01)."""

from helpers.editing.distributions import next_distributions  # noqa: F401
from helpers.editing.editors import Codebook, evaluate, fine_tune, grace, in_context, low_rank  # noqa: F401
from helpers.editing.rank_one import (  # noqa: F401
    Essence,
    Request,
    Row,
    apply_delta,
    cached_moment,
    down_projection,
    find_memory,
    frozen,
    rank_one_update,
    rome,
    second_moment,
    subject_position,
    target_nll,
    token_row,
    whiten,
    wide,
)
from helpers.editing.records import Edit, Probe, load_edits  # noqa: F401
