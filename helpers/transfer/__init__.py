"""Parameters moved between models of a toy world (notebook 06)."""

from helpers.transfer.coordinates import (  # noqa: F401
    activations,
    estimated,
    folded,
    identity,
    in_coordinates,
    layer_and_kind,
    random_coordinates,
    recoordinate,
)
from helpers.transfer.likeness import cka_matrix, flat_cosine, linear_cka, mutual_knn  # noqa: F401
from helpers.transfer.methods import (  # noqa: F401
    MODULES,
    Translator,
    apply_delta,
    best_block,
    changed_weights,
    difference,
    injected,
    layer_scores,
    locate,
    low_rank,
    neurons,
    places_of,
    random_factors,
    seek,
    sensitivity,
    top_layers,
    with_lora,
)
from helpers.transfer.world import (  # noqa: F401
    NAMES,
    VALUE,
    VALUES,
    Facts,
    accuracy,
    joined,
    load,
    split,
    tiny_llama,
    world,
)
