"""bundles: counts by hand, exact chance for whoever cannot see, and a planted direction."""

from collections import Counter

import numpy as np
import pytest

from helpers import data
from helpers.probing.bundles import (
    CONTEXT_PROBES,
    SIZES,
    bundle_accuracies,
    bundle_sentences,
    cell_kind,
)

WORDS = data.read_json(data.folder("02") / "sentences.json")["words"]
SENTENCES = bundle_sentences(WORDS, seed=0)
SMALL = bundle_sentences({k: [f"{k}{i}" for i in range(5 * n)] for k, n in SIZES.items()}, seed=1)
CELLS = [(label, word) for label in CONTEXT_PROBES for word in range(5)]


def test_bundles_are_balanced_and_use_each_word_in_one_bundle():
    assert len(SENTENCES) == len({s.words for s in SENTENCES}) == 480
    assert set(Counter(s.bundle for s in SENTENCES).values()) == {12}
    counts = {label: Counter(s.label(label) for s in SENTENCES) for label in CONTEXT_PROBES}
    for label in ("subject_animacy", "object_animacy"):
        assert counts[label] == {True: 240, False: 240}
    for label in ("verb_causative", "verb_dynamic"):
        assert counts[label] == {True: 160, False: 160, None: 160}
    homes = {}
    for s in SENTENCES:
        for word in (s.words[1], s.words[2], s.words[4]):
            homes.setdefault(word, set()).add(s.bundle)
    assert len(homes) == 280 and all(len(own) == 1 for own in homes.values())
    assert bundle_sentences(WORDS, seed=1) != SENTENCES == bundle_sentences(WORDS, seed=0)


def test_there_are_nine_cells_of_following_context():
    kinds = Counter(cell_kind(*cell) for cell in CELLS)
    assert kinds == {"following": 9, "preceding": 7, "own": 4}
    assert cell_kind("object_animacy", 0) == "following"
    assert cell_kind("subject_animacy", 4) == "preceding"


def seeing(sentences, rng, visible):
    """A vector for every word that depends on the visible words alone."""
    known = {}
    return np.array(
        [
            [known.setdefault(visible(s.words, i), rng.normal(size=8)) for i in range(len(s.words))]
            for s in sentences
        ]
    )


def test_a_model_that_sees_no_further_scores_exactly_one_half():
    states = seeing(SMALL, np.random.default_rng(0), lambda words, i: words[: i + 1])
    found = bundle_accuracies(states, SMALL)
    for cell in CELLS:
        if cell_kind(*cell) == "following":
            assert (found[cell] == 0.5).all()
    backwards = seeing(SMALL, np.random.default_rng(0), lambda words, i: (i, words[i:]))
    found = bundle_accuracies(backwards, SMALL)
    for cell in CELLS:
        if cell_kind(*cell) == "preceding":
            assert (found[cell] == 0.5).all()


def test_a_planted_direction_is_found_in_its_cell_only():
    states = np.random.default_rng(0).normal(size=(60, 5, 8)) * 0.1
    states[:, 3, 0] += [5.0 if s.label("object_animacy") else -5.0 for s in SMALL]
    found = bundle_accuracies(states, SMALL)
    assert (found["object_animacy", 3] == 1).all()
    others = [found[cell].mean() for cell in CELLS if cell != ("object_animacy", 3)]
    assert max(others) < 0.75 and np.mean(others) == pytest.approx(0.5, abs=0.06)


def test_bad_lists_and_shapes_are_named():
    with pytest.raises(ValueError, match="'dynamic' has 39 words, not 40"):
        bundle_sentences(WORDS | {"dynamic": WORDS["dynamic"][:-1]}, seed=0)
    with pytest.raises(ValueError, match="'judge' of 'inanimate' occurs twice"):
        bundle_sentences(WORDS | {"inanimate": ["judge", *WORDS["inanimate"][1:]]}, seed=0)
    with pytest.raises(ValueError, match="must hold lists"):
        bundle_sentences({"animate": []}, seed=0)
    with pytest.raises(ValueError, match="'animate' has 0 words"):
        bundle_sentences({kind: [] for kind in SIZES}, seed=0)
    with pytest.raises(ValueError, match=r"\(60, 5, d\)"):
        bundle_accuracies(np.zeros((60, 4, 8)), SMALL)
