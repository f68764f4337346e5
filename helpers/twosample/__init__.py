"""Tests of two samples of answers (notebook 05)."""

from helpers.twosample.answers import (  # noqa: F401
    Answers,
    blank_names,
    choose_tokens,
    sample_answers,
)
from helpers.twosample.embedding import (  # noqa: F401
    embed_texts,
)
from helpers.twosample.tests import (  # noqa: F401
    PermutationResult,
    energy_coefficient,
    energy_statistics,
    energy_test,
    jackknife_ci,
    label_matrix,
    pair_histograms,
    permutation_pvalue,
    permutation_test,
    similarity_statistics,
    similarity_test,
)
