"""Knowledge editing (notebook 01).

    Request   what to write: a prompt, the subject in it, the target
    Row       its tokens
    Essence   a second prompt about the subject, whose answer is to stay
    Memory    key and value of the subject's last token in a down-projection
    Moment    mean k kᵀ of other text: the directions that are in use
    Codebook  a key and a value beside the weights
    Report    what a model says to the questions of a record (`Edit` with its `Probe`s)

Every editor but `grace` is a context manager: inside the `with` block the model is edited,
afterwards its weights are what they were, bit for bit, also after an exception.
"""

from helpers.editing.editors import evaluate, fine_tune, grace, low_rank, next_distributions  # noqa: F401
from helpers.editing.rank_one import (  # noqa: F401
    Essence,
    Request,
    cached_moment,
    down_projection,
    find_memory,
    rank_one_update,
    rome,
    second_moment,
    subject_position,
    target_nll,
    token_row,
    whiten,
)
from helpers.editing.records import Edit, Probe, load_edits  # noqa: F401
