"""The edit of the editors' tests: a tokenizer, a request, and how well a model follows it."""

import pytest
import torch
from families import tiny_tokenizer

from helpers import editing, lm

# in half precision: an extra norm behind the feed-forward part, a transposed weight, flattened rows
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
HALF_FAMILIES = pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt"])

TOKENIZER = tiny_tokenizer(start=True)
REQUEST = editing.Request("Q of ABC is", "ABC", "zK")  # near the end: windows are short


def gain(model, **kwargs):
    """Log-probability of the target, nats."""
    scores = lm.score_targets(model, TOKENIZER, [REQUEST.prompt], [REQUEST.target], **kwargs)
    return float(scores["logprob"][0])
