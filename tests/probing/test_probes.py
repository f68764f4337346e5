"""Probes: words by place, chance that is exact, planted directions, and what is refused."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from families import LETTERS, build, one_thread, tiny_tokenizer  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from helpers import probing

TOKENIZER = tiny_tokenizer(start=True)
SENTENCES = [["the", "cat", "saw", "the", "dog"], ["the", "d", "ate", "the", "ab"]]


@pytest.mark.parametrize("start", [True, False])
def test_words_are_told_by_their_place(start):
    tokenizer = tiny_tokenizer(start=start)
    for words in SENTENCES:
        ids, spans = probing.word_spans(tokenizer, words)
        assert ids[0] == tokenizer.bos_token_id
        for word, span in zip(words, spans, strict=True):
            assert tokenizer.decode(ids[span.start : span.stop]).strip() == word
        assert spans[0] != spans[3]


def test_a_template_of_two_opening_tokens_is_left_alone():
    tokenizer = tiny_tokenizer(start=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> <bos> $A", special_tokens=[("<eos>", 2), ("<bos>", 1)]
    )
    ids, spans = probing.word_spans(tokenizer, ["the", "cat"])
    assert ids == tokenizer("the cat")["input_ids"] and ids[:2] == [2, 1]
    assert [tokenizer.decode(ids[s.start : s.stop]).strip() for s in spans] == ["the", "cat"]


@given(st.lists(st.text(alphabet=LETTERS.replace(" ", ""), min_size=1, max_size=6), min_size=1))
def test_spans_are_disjoint_and_in_order(words):
    _, spans = probing.word_spans(TOKENIZER, words)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(spans))


@pytest.mark.parametrize("words", [[], "the cat", ["the", ""]])
def test_sentences_without_words_are_refused(words):
    with pytest.raises(ValueError, match=r"list of words|no token of its own"):
        probing.word_spans(TOKENIZER, words)


def test_states_of_words_are_means_over_their_tokens():
    model = build("llama")
    states = probing.word_states(model, TOKENIZER, SENTENCES, layers=[0, 2, -1])
    assert states.shape == (2, 5, 3, 32) and states.dtype == np.float32
    for i, words in enumerate(SENTENCES):
        ids, spans = probing.word_spans(TOKENIZER, words)
        with torch.no_grad():
            naive = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for w, span in enumerate(spans):
            for k, layer in enumerate((0, 2, -1)):
                expected = naive[layer][0, span.start : span.stop].mean(0).numpy()
                np.testing.assert_allclose(states[i, w, k], expected, atol=1e-5)
    # spelt alike: equal as embeddings, different once position counts
    np.testing.assert_allclose(states[0, 0, 0], states[0, 3, 0], atol=1e-6)
    assert np.abs(states[0, 0, 2] - states[0, 3, 2]).max() > 1e-3
    with pytest.raises(ValueError, match=r"`layers` must lie in 0\.\.3; got"):
        probing.word_states(model, TOKENIZER, SENTENCES, layers=[4])
    with pytest.raises(ValueError, match="one number of words"):
        probing.word_states(model, TOKENIZER, [["a"], ["a", "b"]], layers=[0])
    arrays = probing.word_states(
        model, TOKENIZER, np.array(SENTENCES), layers=np.array([0, 2, -1]), batch_size=1
    )
    np.testing.assert_allclose(arrays, states, atol=1e-6)
    with pytest.raises(ValueError, match=r"item 1: 66 tokens .*the model has 64 positions"):
        probing.word_states(build("bert"), TOKENIZER, [["a"], ["a" * 65]], layers=[0])


# Probes


def test_ridge_by_hand():
    x, y = np.array([[-1.0], [1.0]]), np.array([-1, 1])
    assert probing.ridge_scores(x, y, x)[1] == pytest.approx(2 / 2.1)
    constant = np.ones((4, 3))
    scores = probing.ridge_scores(constant, np.array([-1, 1, -1, 1]), constant)
    assert np.abs(scores).max() < 1e-12


def bundles(rng, n_bundles=20, d=30):
    """Pairs with opposite labels in each bundle; the vector is blind, planted, or noise."""
    y = np.tile([False, True], n_bundles)
    folds = np.repeat(np.arange(n_bundles) % 5, 2)
    blind = np.repeat(rng.normal(size=(n_bundles, d)), 2, axis=0)
    return y, folds, blind


@given(st.integers(0, 10_000), st.floats(1e-7, 3e-5))
def test_a_blind_model_scores_exactly_one_half(seed, noise):
    rng = np.random.default_rng(seed)
    y, folds, blind = bundles(rng)
    assert probing.grouped_cv(blind, y, folds).mean() == 0.5
    constant = np.ones_like(blind) + noise * rng.normal(size=blind.shape)
    assert (probing.grouped_cv(constant, y, folds) == 0.5).all()


def test_a_planted_direction_is_found_and_shuffled_labels_are_not():
    rng = np.random.default_rng(0)
    y, folds, blind = bundles(rng, 100)
    planted = blind + np.outer(np.where(y, 1, -1), rng.normal(size=blind.shape[1]))
    assert probing.grouped_cv(planted, y, folds).mean() > 0.95
    shuffled = [probing.grouped_cv(planted, rng.permutation(y), folds).mean() for _ in range(20)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.05)


def test_folds_that_share_a_word_or_lack_a_class_are_refused():
    x, y, folds = np.eye(4), [0, 1, 0, 1], [0, 0, 1, 1]
    probing.grouped_cv(x, y, folds, words=["a", "b", "c", "d"])
    expected = probing.grouped_cv(x, y, folds)
    for as_ in (np.array, pd.Series, tuple):
        found = probing.grouped_cv(x, as_(y), as_(folds), words=as_(["a", "b", "c", "d"]))
        np.testing.assert_array_equal(found, expected)
        with pytest.raises(ValueError, match=r"'b'\)? is in folds \[0, 1\]"):
            probing.grouped_cv(x, y, folds, words=as_(["a", "b", "b", "d"]))
    with pytest.raises(ValueError, match="is longer than"):
        probing.grouped_cv(x, y, folds, words=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"'b' is in folds \[0, 1\]"):
        probing.grouped_cv(x, y, folds, words=["a", "b", "b", "d"])
    with pytest.raises(ValueError, match="one class only"):
        probing.grouped_cv(x, [0, 1, 1, 1], folds)
    with pytest.raises(ValueError, match="single fold"):
        probing.grouped_cv(x, y, [0] * 4)
    with pytest.raises(ValueError, match=r"must be \(N, d\)"):
        probing.grouped_cv(x, y[:3], folds)


@pytest.mark.parametrize(
    ("train", "labels", "message"),
    [
        (np.ones((2, 3)), [1, 1], "must hold -1 and 1, both"),
        (np.ones((2, 3)), [0, 1], "must hold -1 and 1, both"),
        (np.ones((2, 2)), [-1, 1], r"got \(2, 2\)"),
        (np.full((2, 3), np.nan), [-1, 1], "NaN"),
    ],
)
def test_unusable_training_sets_are_refused(train, labels, message):
    with pytest.raises(ValueError, match=message):
        probing.ridge_scores(train, np.array(labels), np.ones((1, 3)))


def test_noise_of_equal_prefixes():
    rng = np.random.default_rng(0)
    states = np.repeat(rng.normal(size=(3, 8)), 2, axis=0)
    names = ["a", "a", "b", "b", "c", "c"]
    assert probing.prefix_noise(states, names) == 0
    states[3] *= 1 + 1e-3
    assert probing.prefix_noise(states, names) == pytest.approx(1e-3, rel=0.01)
