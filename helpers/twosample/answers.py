"""Many sampled answers to one prompt."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from helpers import checks, lm

_PRONOUNS = r"he|she|him|his|hers?|himself|herself"
_GENDERED = r"mrs?|ms|man|woman|male|female|gentleman|lady|guy|boy|girl|sir|madam|ma'am"
# what a word is made of: Chinese and Japanese do not put blanks between words
_LETTER = r"[^\W\u3040-\u30ff\u3400-\u9fff]"
_FIRST_GUESS = 64  # most probable tokens that are looked at before the whole vocabulary


class Answers(NamedTuple):
    """`texts` (N), without special tokens; `tokens` (N lists), with the end token if there is one.

    Row i of one seed is the same answer however many rows are drawn with it.
    """

    texts: list[str]
    tokens: list[list[int]]


def _nucleus(logits: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cumulative probabilities (B, K) of the most probable tokens, and those tokens.

    Enough of them that each row holds `top_p`; behind a row's nucleus the sum stays the same.
    """
    log_total = logits.logsumexp(-1, keepdim=True)
    size = min(_FIRST_GUESS, logits.shape[-1])
    while True:
        top, tokens = logits.topk(size, -1)
        sums = (top - log_total).exp().cumsum(-1)
        if size == logits.shape[-1] or bool((sums[:, -1] >= top_p).all()):
            break
        size = min(8 * size, logits.shape[-1])
    before = torch.nn.functional.pad(sums, (1, -1))
    inside = before < top_p  # the token that crosses top_p belongs to the nucleus
    return torch.where(inside, sums, sums.masked_fill(~inside, 0).amax(-1, keepdim=True)), tokens


def choose_tokens(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """One token per row by inverting the distribution function at a uniform number.

    Args:
        logits: (B, V); computed with in float64.
        uniform: (B,) numbers in [0, 1).
        temperature: divides the logits; 0 takes the most probable token.
        top_p: mass of the smallest set of most probable tokens to draw from; 1 for all tokens.

    Returns:
        (B,) token ids.

    Raises:
        ValueError: NaN or infinite logits, other than those of -inf beside a finite one.

    Source: Holtzman et al. 2020 (nucleus sampling).
    """
    lm.finite_logits(logits)
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double() / temperature
    if top_p < 1:
        sums, tokens = _nucleus(logits, top_p)
    else:  # in the order of the vocabulary: nothing to sort
        sums, tokens = logits.softmax(-1).cumsum(-1), None
    place = torch.searchsorted(sums, (uniform.double() * sums[:, -1])[:, None], right=True)
    place = place.clamp(max=sums.shape[-1] - 1)
    return (place if tokens is None else tokens.gather(-1, place))[:, 0]


@torch.no_grad()
def sample_answers(
    model,
    tokenizer,
    prompt: str,
    n: int,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Answers:
    """Independent answers to one prompt, whose keys and values are computed once.

    Row i takes its random numbers from a stream of its own, keyed by (seed, i), so that more rows
    or another batch size do not change it (up to rounding of the model, which may turn single
    answers). Rows that ended leave the batch.

    Args:
        model, tokenizer: causal language model of transformers and its fast tokenizer.
        prompt: the whole prompt, with the chat template already applied where there is one.
        n: number of answers.
        max_new_tokens: most tokens of an answer.
        temperature, top_p: as in `choose_tokens`.
        seed: of all streams; arms that are compared need different seeds.
        batch_size: most rows at a time.

    Returns:
        Answers(texts, tokens).

    Raises:
        ValueError: a prompt without tokens or too long, a number below 1, a temperature
            below 0, `top_p` outside (0, 1], or NaN logits.
    """
    for name, value in (("n", n), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        checks.whole(name, value, 1)
    if not (np.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"`temperature` must not be negative; got {temperature!r}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must lie in (0, 1]; got {top_p!r}.")
    ids = lm.encode(tokenizer, prompt)
    if not ids:
        raise ValueError("`prompt` has no tokens; a model without a start token needs some text.")
    begun = model(
        lm.padded_rows(model, [ids], n_new=max_new_tokens - 1), use_cache=True, logits_to_keep=1
    )
    if "batch_select_indices" in vars(type(begun.past_key_values)):
        batch_size = 1  # the cache holds more than its layers, so no rows can be taken from it
    ends = torch.tensor(sorted(lm.end_tokens(model, tokenizer)), device=model.device)
    tokens: list[list[int]] = []
    for start in range(0, n, batch_size):
        rows = range(start, min(start + batch_size, n))
        streams = [np.random.default_rng([seed, row]).random(max_new_tokens) for row in rows]
        uniform = torch.tensor(np.array(streams), device=model.device)
        tokens += _continue(model, begun, len(ids), uniform, ends, temperature, top_p)
    return Answers([lm.read_behind(tokenizer, ids, row) for row in tokens], tokens)


def _continue(model, begun, n, uniform, ends, temperature, top_p) -> list[list[int]]:
    """Tokens of a batch of rows behind a prompt of n tokens; uniform (B, T)."""
    found: list[list[int]] = [[] for _ in uniform]
    live = torch.arange(len(uniform), device=uniform.device)
    cache = copy.deepcopy(begun.past_key_values)
    cache.reorder_cache(torch.zeros_like(live))  # the one selection that recurrent layers know
    logits = begun.logits[:, -1].float().expand(len(uniform), -1)
    for step in range(uniform.shape[1]):
        chosen = choose_tokens(logits, uniform[live, step], temperature, top_p)
        for row, token in zip(live.tolist(), chosen.tolist(), strict=True):
            found[row].append(token)
        stay = ~torch.isin(chosen, ends)
        if step + 1 == uniform.shape[1] or not stay.any():
            break
        if not stay.all():
            live = live[stay]
            cache.reorder_cache(stay.nonzero()[:, 0])
        out = model(chosen[stay][:, None], logits_to_keep=1, **lm.behind(model, cache, n + step))
        logits = out.logits[:, -1].float()
    return found


def blank_names(texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Texts in which names, pronouns and gendered words have become neutral words.

    What two prompts that differ in a name echo into their answers is gone; what they advise stays.

    Args:
        texts: N answers.
        names: whole words to be replaced by "the patient", upper or lower case.

    Returns:
        N texts.

    Raises:
        ValueError: no names, or an empty one (it would match between all letters).
        TypeError: a single text or name instead of a list.
    """
    texts, names = lm.as_list("texts", texts), lm.as_list("names", names)
    if not names or not all(name.strip() for name in names):
        raise ValueError(f"`names` needs at least one name and no empty one; got {names!r}.")
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    for words, neutral in (
        (longest_first, "the patient"),
        (_PRONOUNS, "they"),  # one word for all: her is him and his
        (_GENDERED, "person"),
    ):
        word = re.compile(rf"(?<!{_LETTER})(?:{words})(?!{_LETTER})", re.IGNORECASE)
        texts = [word.sub(neutral, text) for text in texts]
    return texts
