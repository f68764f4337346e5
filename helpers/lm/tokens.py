"""Texts as token ids, opened as their tokenizer opens them."""

from collections.abc import Sequence

import torch


def encode(tokenizer, text: str) -> list[int]:
    """Token ids of a text, with the start tokens that the tokenizer's own template gives.

    Gemma's tokenizer opens every text with `<bos>`, GLM's with two tokens, SmolLM2's adds nothing.
    They never come twice, also when `text` spells them out, and no end token is added.

    Args:
        tokenizer: a transformers fast tokenizer.
        text: the text; it may be empty.

    Returns:
        Token ids.

    Raises:
        TypeError: `text` is not a string.
    """
    return _encode_all(tokenizer, [text])[0]


def _encode_all(tokenizer, texts: list[str]) -> list[list[int]]:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} must be a string; got {type(text).__name__}.")
    start = opening(tokenizer)
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return [[*start, *row] if row[: len(start)] != start else list(row) for row in rows]


def opening(tokenizer) -> list[int]:
    """Tokens that the tokenizer's own template writes in front of a text."""
    coded = tokenizer("a", return_special_tokens_mask=True)  # of "", the end would count as well
    return coded["input_ids"][: [*coded["special_tokens_mask"], 0].index(0)]


def as_list(name: str, texts: Sequence) -> list:
    """A list of texts; TypeError for a single text."""
    if isinstance(texts, str):
        raise TypeError(f"`{name}` must be a list of texts; put the single text in a list.")
    return list(texts)


def where(item: int, prompt: str) -> str:
    short = prompt if len(prompt) <= 60 else f"{prompt[:28]} ... {prompt[-28:]}"
    return f"item {item} (prompt {short!r})"


def prompt_ids(tokenizer, prompts: list[str]) -> list[list[int]]:
    """Token ids of each prompt; ValueError if there are none, or one has no tokens."""
    if not prompts:
        raise ValueError("the list of prompts is empty; give at least one prompt.")
    ids = _encode_all(tokenizer, prompts)
    for i, row in enumerate(ids):
        if not row:
            raise ValueError(f"{where(i, prompts[i])} has no tokens to predict from.")
    return ids


def added_tokens(
    tokenizer, pairs: Sequence[tuple[int, str, list[int], str]], *, straddle: bool = False
) -> list[list[int]]:
    """Tokens that a continuation adds to its prompt when the joined text is tokenized.

    Args:
        tokenizer: a transformers fast tokenizer.
        pairs: (item number, prompt, prompt's tokens, continuation).
        straddle: accept a continuation that would share a token with the end of its prompt, as
            happens where words are not spaced (Chinese); it is then tokenized on its own.

    Raises:
        ValueError: an empty continuation, or one that changes how the prompt itself is tokenized.
    """
    joined = _encode_all(tokenizer, [prompt + text for _, prompt, _, text in pairs])
    found = []
    for (item, prompt, ids, text), row in zip(pairs, joined, strict=True):
        if not text:
            raise ValueError(f"{where(item, prompt)}: the continuation is empty.")
        if row[: len(ids)] != ids or len(row) == len(ids):
            if straddle and (apart := _apart(tokenizer, text)):
                found.append(apart)
                continue
            raise ValueError(
                f"{where(item, prompt)}: the continuation {text!r} changes how the prompt itself "
                "is cut into tokens; end the prompt without a space, in the middle of no word, "
                "and let the continuation begin with its space."
            )
        found.append(row[len(ids) :])
    return found


def _apart(tokenizer, text: str) -> list[int] | None:
    """Tokens of a text on its own; None if a space stands in front and cannot be kept away."""
    if not "".join(tokenizer.tokenize("a")).startswith(("▁", "Ġ")):
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    for before in ("a", "。", "\n"):  # one at least shares no token with the text
        head, row = tokenizer([before, before + text], add_special_tokens=False)["input_ids"]
        if row[: len(head)] == head:
            return row[len(head) :]
    return None


def segments(tokenizer, text: str, n_tokens: int) -> torch.Tensor:
    """Consecutive pieces of a text, each opened as the tokenizer opens a text.

    Gemma without its `<bos>` predicts badly, and silently so; a piece from the middle of a text
    needs it as well.

    Args:
        tokenizer: its fast tokenizer.
        text: the text; what does not fill a piece at the end is left out.
        n_tokens: tokens of text in a piece.

    Returns:
        (N, T) token ids for `segment_nll`, with T = n_tokens, or n_tokens + 1 where the tokenizer
        opens a text with one start token.

    Raises:
        ValueError: a text of fewer than `n_tokens` tokens, or `n_tokens` below 2.
    """
    start = opening(tokenizer)
    ids = torch.tensor(encode(tokenizer, text)[len(start) :])
    if not 2 <= n_tokens <= len(ids):
        raise ValueError(f"`n_tokens` must lie in 2..{len(ids)} for this text; got {n_tokens}.")
    pieces = ids[: len(ids) // n_tokens * n_tokens].reshape(-1, n_tokens)
    return torch.cat([torch.tensor(start, dtype=ids.dtype).expand(len(pieces), -1), pieces], 1)
