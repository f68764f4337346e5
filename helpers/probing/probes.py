"""Vectors of words, and linear probes whose chance level is exact.

A model that cannot see a word must score one half, not nearly one half: rounding noise in vectors
that should be equal is kept from being blown up by a floor under the standard deviations, and
scores that are all but zero count as ties.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.linear_model import Ridge

from helpers import checks, lm

# (train vectors, train labels in -1 and 1, test vectors) -> test scores
FitPredict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
STRENGTH = 0.1  # of the ridge penalty, times the width


def word_spans(tokenizer, words: Sequence[str]) -> tuple[list[int], list[range]]:
    """Tokens of a sentence of words, and for each word the places of its tokens.

    Words are told by their place, never by their spelling: the two in "the cat saw the dog" that
    are spelt alike are two words.

    Args:
        tokenizer: a fast tokenizer.
        words: W words, to be joined by spaces.

    Returns:
        Token ids, opened by a start token where the tokenizer has one (also where its own template
        does not write it), and W ranges.

    Raises:
        ValueError: no words, or a word without a token of its own; it is named.
    """
    if isinstance(words, str) or not len(words):
        raise ValueError(f"`words` must be a list of words; got {words!r}.")
    coded = tokenizer(" ".join(words), return_offsets_mapping=True)
    ids, offsets = coded["input_ids"], coded["offset_mapping"]
    start = tokenizer.bos_token_id
    shift = int(start is not None and ids[:1] != [start] and not lm.opening(tokenizer))
    spans, begin = [], 0
    for i, word in enumerate(words):
        inside = [t for t, (a, b) in enumerate(offsets) if a < begin + len(word) and b > begin]
        if not word or not inside or (spans and inside[0] + shift < spans[-1].stop):
            raise ValueError(f"word {i} of {list(words)} ({word!r}) has no token of its own.")
        spans.append(range(inside[0] + shift, inside[-1] + 1 + shift))
        begin += len(word) + 1
    return [start] * shift + list(ids), spans


@torch.no_grad()
def word_states(
    model,
    tokenizer,
    sentences: Sequence[Sequence[str]],
    *,
    layers: Sequence[int],
    batch_size: int = 32,
) -> np.ndarray:
    """Hidden states of words, the mean over the tokens of each.

    Args:
        model: model of transformers with hidden states.
        tokenizer: its fast tokenizer.
        sentences: N lists of W words.
        layers: K numbers of hidden states; 0 is the embedding, -1 what follows the last block.
        batch_size: most sentences in a pass; only sentences of equal length share one.

    Returns:
        (N, W, K, d), float32.

    Raises:
        ValueError: no sentences, sentences with different numbers of words, or no such layer.
    """
    n_words = {len(words) for words in sentences}
    if len(n_words) != 1 or not len(layers):
        raise ValueError(f"sentences must all have one number of words (now {sorted(n_words)}).")
    rows = [word_spans(tokenizer, words) for words in sentences]
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    for _, members in lm.batches([len(ids) for ids, _ in rows], batch_size):
        ids = lm.padded_rows(model, [rows[i][0] for i in members], members)
        # the base model: no logits, whose vocabulary would cost more than all the rest
        states = model.base_model(input_ids=ids, output_hidden_states=True).hidden_states
        if not all(-len(states) <= layer < len(states) for layer in layers):
            raise ValueError(f"`layers` must lie in 0..{len(states) - 1}; got {list(layers)}.")
        chosen = torch.stack([states[layer].float() for layer in layers], 2).cpu().numpy()
        for i, own in zip(members, chosen, strict=True):
            found[i] = np.stack([own[span.start : span.stop].mean(0) for span in rows[i][1]])
    return np.stack(found)


def prefix_noise(states: ArrayLike, prefixes: Sequence[Hashable]) -> float:
    """Largest relative difference of vectors that a causal model must make equal.

    Args:
        states: (N, d).
        prefixes: N names of what stands up to the word, the word included.

    Returns:
        The largest distance from the first of a group of equal prefixes, relative to its length;
        0 for groups of one.
    """
    states = np.asarray(states, dtype=float)
    worst, groups = 0.0, {}
    for i, prefix in enumerate(prefixes):
        groups.setdefault(prefix, []).append(i)
    for members in groups.values():
        spread = states[members] - states[members[0]]
        size = np.linalg.norm(states[members[0]])
        worst = max(worst, float(np.linalg.norm(spread, axis=1).max() / max(size, 1e-300)))
    return worst


def mean_cosine(vectors: ArrayLike) -> float:
    """Mean cosine over all pairs of different rows (N, d): how narrow a cone the vectors fill."""
    rows = checks.finite("vectors", vectors, 2)
    lengths = np.linalg.norm(rows, axis=1)
    if len(rows) < 2 or not lengths.all():
        raise ValueError(f"`vectors` must be two or more rows, none 0; got shape {rows.shape}.")
    n, total = len(rows), (rows / lengths[:, None]).sum(0)
    return float((total @ total - n) / (n * (n - 1)))


def ridge_scores(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, floor: float = 1e-2
) -> np.ndarray:
    """Scores of a ridge regression on labels of -1 and 1, features standardised on the train set.

    Args:
        train, test: (n, d) and (m, d).
        labels: (n,) of -1 and 1.
        floor: least standard deviation of a feature, relative to the root mean square of all.

    Returns:
        (m,) scores.

    Raises:
        ValueError: shapes that do not fit, NaN, or labels other than -1 and 1.
    """
    train, test = np.asarray(train, dtype=float), np.asarray(test, dtype=float)
    labels = np.asarray(labels, dtype=float)
    if train.ndim != 2 or test.shape[1:] != train.shape[1:] or labels.shape != train.shape[:1]:
        raise ValueError(
            f"`train`, `labels`, `test` must be (n, d), (n,), (m, d); got {train.shape}, "
            f"{labels.shape}, {test.shape}."
        )
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise ValueError("`train` or `test` holds NaN or infinite values.")
    if set(labels.tolist()) != {-1.0, 1.0}:
        raise ValueError(f"`labels` must hold -1 and 1, both; got {sorted(set(labels.tolist()))}.")
    mean = train.mean(0)
    least = floor * np.sqrt(np.mean(train**2))
    deviation = np.maximum(train.std(0), max(least, 1e-300))
    probe = Ridge(alpha=STRENGTH * train.shape[1], fit_intercept=False)
    probe.fit((train - mean) / deviation, labels)
    return probe.predict((test - mean) / deviation)


def marked(scores: np.ndarray, labels: np.ndarray, tie: float = 1e-3) -> np.ndarray:
    """1 where the sign of a score is right, 0 where it is wrong, one half below `tie` in size."""
    return np.where(np.abs(scores) < tie, 0.5, (scores > 0) == labels)


def grouped_cv(
    x: ArrayLike,
    y: ArrayLike,
    folds: Sequence[Hashable],
    *,
    words: Sequence[Hashable] | None = None,
    fit_predict: FitPredict = ridge_scores,
    tie: float = 1e-3,
) -> np.ndarray:
    """Cross-validated answers of a probe: 1 right, 0 wrong, one half for a tie.

    Args:
        x: (N, d) vectors.
        y: (N,) labels, false or true.
        folds: N names; each fold is tested once, by a probe trained on the others.
        words: N labelled words, which no two folds may share.
        fit_predict: see `ridge_scores`.
        tie: scores below this in size count as ties.

    Returns:
        (N,) of 0, 0.5 and 1.

    Raises:
        ValueError: shapes that do not fit, fewer than two folds, a word that two folds share, or a
            class that is missing from the training part of a fold.
    """
    x, y, folds = np.asarray(x), np.asarray(y, dtype=bool), np.asarray(folds)
    if x.ndim != 2 or y.shape != x.shape[:1] or folds.shape != y.shape:
        raise ValueError(
            f"x, y, folds must be (N, d), (N,), (N,): {x.shape}, {y.shape}, {folds.shape}"
        )
    names = np.unique(folds)
    if len(names) < 2:
        raise ValueError("`folds` names a single fold; at least two are needed.")
    homes: dict[Hashable, set] = {}
    for word, fold in zip(folds if words is None else words, folds.tolist(), strict=True):
        homes.setdefault(word, set()).add(fold)
    shared = [word for word, own in homes.items() if len(own) > 1]
    if shared:
        raise ValueError(f"the word {shared[0]!r} is in folds {sorted(homes[shared[0]])}.")
    answers = np.empty(len(y))
    for name in names:
        held = folds == name
        if len(np.unique(y[~held])) < 2:
            raise ValueError(f"without fold {name!r} the training part has one class only.")
        scores = fit_predict(x[~held], np.where(y[~held], 1.0, -1.0), x[held])
        answers[held] = marked(scores, y[held], tie)
    return answers
