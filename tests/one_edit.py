"""The edit of the editors' tests: a tokenizer, a request, and how well a model follows it."""

from families import tiny_tokenizer

from helpers import lm, rank_one

TOKENIZER = tiny_tokenizer(start=True)
REQUEST = rank_one.Request("Q of ABC is", "ABC", "zK")  # near the end: windows are short


def gain(model, **kwargs):
    """Log-probability of the target, nats."""
    scores = lm.score_targets(model, TOKENIZER, [REQUEST.prompt], [REQUEST.target], **kwargs)
    return float(scores["logprob"][0])
