"""Answers as vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from helpers import lm


@torch.no_grad()
def embed_texts(texts: Sequence[str], model, tokenizer, *, batch_size: int = 32) -> np.ndarray:
    """Unit vectors of texts: the mean of an encoder's last hidden states over its tokens.

    Args:
        texts: N texts; an empty one is embedded by the encoder's special tokens alone.
        model, tokenizer: an encoder such as MiniLM with its tokenizer; a longer text is cut off at
            the encoder's number of positions.
        batch_size: most texts at a time; texts of similar length go together.

    Returns:
        (N, d) float32, rows of norm 1.

    Raises:
        ValueError: no texts, or a text without tokens or with states that are NaN (by its number).
        TypeError: a single text instead of a list.

    Source: Reimers and Gurevych 2019 (mean pooling).
    """
    texts = lm.as_list("texts", texts)
    if not texts:
        raise ValueError("`texts` is empty; give at least one text.")
    longest = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    # on the right, since positions are counted from the left, fillers included
    fit = dict(padding=True, padding_side="right", truncation=True, max_length=longest)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: list[np.ndarray] = [np.empty(0)] * len(texts)
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        batch = tokenizer([texts[i] for i in members], return_tensors="pt", **fit).to(model.device)
        if not (full := batch["attention_mask"].any(1)).all():
            raise ValueError(f"text {members[int(full.int().argmin())]} has no tokens to embed.")
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        means = (states * mask).sum(1) / mask.sum(1)
        rows = torch.nn.functional.normalize(means.float(), dim=-1).cpu().numpy()
        for i, row in zip(members, rows, strict=True):
            if not np.isfinite(row).all():
                raise ValueError(f"text {i}: the encoder's states are NaN; check its weights.")
            found[i] = row
    return np.array(found)
