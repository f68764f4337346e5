"""Our Algorithm 1 beside the authors' routine, written anew from what is known of it.

Official code at `c33f295` (the routine since 8 July 2025, `d7cd844`): the pooled answers are
permuted, P0 and P1 rebuilt, 30 common bins laid over the range of *this labelling's* P0 and P1, JS
distance, p = (1 + count) / (1 + B). Ours lays the bins once, over all pooled similarities.
"""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from helpers import data
from helpers.twosample import embed_texts, similarity_test

K, BINS, DRAWS = 64, 30, 499


def omega(s, k):
    """JS distance of similarities within the first k answers and across."""
    within, across = s[:k, :k][np.triu_indices(k, 1)], s[:k, k:].ravel()
    ends = min(within.min(), across.min()), max(within.max(), across.max())
    return jensenshannon(*(np.histogram(p, BINS, ends)[0] for p in (within, across)))


def official(s, k, rng):
    """Statistic and p-value."""
    seen, hits = omega(s, k), 0
    for _ in range(DRAWS):
        order = rng.permutation(len(s))
        hits += omega(s[np.ix_(order, order)], k) >= seen
    return seen, (1 + hits) / (1 + DRAWS)


@pytest.fixture(scope="module")
def arms(minilm):
    """Unit vectors of the first K answers of each arm of the stored audit."""
    bank = data.read_json(data.folder("05") / "edits_smollm2-135m.json")["arms"]
    return {name: embed_texts(own["answers"][:K], *minilm) for name, own in bank.items()}


@pytest.mark.weights
def test_statistic_and_decision_agree_with_the_official_routine_on_every_arm(arms):
    base, rng = arms.pop("base"), np.random.default_rng(0)
    assert len(arms) == 16
    for name, own in arms.items():
        z = np.concatenate([base, own]).astype(float)
        s = np.clip(z @ z.T, -1, 1)
        theirs, p = official(s, K, rng)
        ours = similarity_test(s, K, n_permutations=DRAWS, rng=1)
        # the ranges of the bins differ a little: .002 in ω, and .15 where p is large
        assert ours.statistic == pytest.approx(theirs, abs=0.003), name
        assert ours.pvalue == pytest.approx(p, abs=0.15), name
        if abs(p - 0.05) > 0.02:  # two standard errors of p at 0.05, 499 permutations
            assert (ours.pvalue <= 0.05) == (p <= 0.05), name
