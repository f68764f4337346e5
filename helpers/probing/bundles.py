"""Sentences "the N V the N" in balanced bundles, where a blind probe scores one half exactly.

A bundle crosses two subjects, three verbs and two objects. Whatever a word cannot see, it shares
with a twin sentence of the other label, so one of the two is judged right and one wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from helpers.probing.probes import grouped_cv

# labels of the context probes, with the place of the labelled word
CONTEXT_PROBES = {"subject_animacy": 1, "verb_causative": 2, "verb_dynamic": 2, "object_animacy": 4}
SIZES = {"animate": 2, "inanimate": 2, "causative": 1, "dynamic": 1, "stative": 1}
FOLDS = 5


class BundleSentence(NamedTuple):
    """Five words, the number of their bundle, and the kinds of subject, verb and object."""

    words: tuple[str, ...]
    bundle: int
    kinds: tuple[str, str, str]

    def label(self, name: str) -> bool | None:
        """One of `CONTEXT_PROBES`; None where the label does not apply to the verb."""
        subject, verb, thing = self.kinds
        if name == "subject_animacy":
            return subject == "animate"
        if name == "object_animacy":
            return thing == "animate"
        if name == "verb_causative":
            return None if verb == "stative" else verb == "causative"
        return None if verb == "causative" else verb == "dynamic"


def bundle_sentences(words: Mapping[str, Sequence[str]], seed: int) -> list[BundleSentence]:
    """Every word in one bundle, every bundle crossed in full: 12 sentences each.

    Args:
        words: two lists of 2 n nouns ("animate", "inanimate"), three of n verbs ("causative",
            "dynamic", "stative"); no word twice.
        seed: for the order in which words meet.

    Returns:
        12 n sentences, bundle by bundle.

    Raises:
        ValueError: a list is missing or too short or long, or a word occurs twice; it is named.
    """
    if set(words) != set(SIZES):
        raise ValueError(f"`words` must hold lists for {sorted(SIZES)}; got {sorted(words)}.")
    n = len(words["stative"])
    seen: set[str] = set()
    for kind, own in words.items():
        if not n or len(own) != SIZES[kind] * n:
            raise ValueError(f"{kind!r} has {len(own)} words, not {SIZES[kind] * n}.")
        twice = [word for i, word in enumerate(own) if word in seen or word in own[:i]]
        if twice:
            raise ValueError(f"the word {twice[0]!r} of {kind!r} occurs twice.")
        seen |= set(own)
    rng = np.random.default_rng(seed)
    drawn = {kind: rng.permutation(words[kind]).reshape(n, SIZES[kind]) for kind in SIZES}
    verbs, nouns = list(SIZES)[2:], list(SIZES)[:2]
    return [
        BundleSentence(
            ("the", str(drawn[a][i, 0]), str(drawn[v][i, 0]), "the", str(drawn[b][i, 1])),
            i,
            (a, v, b),
        )
        for i in range(n)
        for a in nouns
        for v in verbs
        for b in nouns
    ]


def cell_kind(label: str, word: int) -> str:
    """What a probed word (0..4) can know of a label: "following", "own" or "preceding" context."""
    place = CONTEXT_PROBES[label]
    return "own" if word == place else "following" if word < place else "preceding"


def bundle_accuracies(
    states: np.ndarray, sentences: Sequence[BundleSentence]
) -> dict[tuple[str, int], np.ndarray]:
    """Cross-validated accuracy of a probe in each of the 20 cells, bundle by bundle.

    Args:
        states: (N, 5, d) vectors of the words of the sentences.
        sentences: of `bundle_sentences`; folds are runs of bundles, so test words are new.

    Returns:
        By label and probed word: (number of bundles,) means.

    Raises:
        ValueError: shapes that do not fit, or fewer bundles than folds.
    """
    n_bundles = sentences[-1].bundle + 1
    if states.shape[:2] != (len(sentences), 5) or n_bundles < FOLDS:
        raise ValueError(
            f"`states` must be ({len(sentences)}, 5, d) and hold {FOLDS} bundles or more; got "
            f"{states.shape}, {n_bundles}."
        )
    found = {}
    for label, place in CONTEXT_PROBES.items():
        own = [i for i, sentence in enumerate(sentences) if sentence.label(label) is not None]
        chosen = [sentences[i] for i in own]
        bundle = np.array([sentence.bundle for sentence in chosen])
        for word in range(5):
            right = grouped_cv(
                states[own, word],
                [sentence.label(label) for sentence in chosen],
                bundle * FOLDS // n_bundles,
                words=[sentence.words[place] for sentence in chosen],
            )
            found[label, word] = np.array([right[bundle == b].mean() for b in range(n_bundles)])
    return found
