"""Scenes, a small VQ tokenizer and readers of its tokens (notebook 07)."""

from helpers.vision.published import read_frequencies  # noqa: F401
from helpers.vision.readers import (  # noqa: F401
    FLAVOURS,
    Classifier,
    Transformer,
    choose_tokens,
    cnn,
    gradient,
    judge,
    occlude,
    painted,
    resnet,
    same_tokens,
    top,
)
from helpers.vision.scenes import BOAT, COLORS, CONCEPTS, PARTS, Part, Scenes, render, token_mask  # noqa: F401
from helpers.vision.vq import Residual, SmallVQ, from_transformers, load, nearest, usage  # noqa: F401
