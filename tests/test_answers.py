"""Samples follow the model's distribution, row by row; embeddings are means of unit length."""

import numpy as np
import pytest
import torch
from families import DECODERS, VOCAB, build, one_thread, tiny_tokenizer  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import answers, lm
from helpers.answers import choose_tokens, embed_texts, sample_answers

PROMPT = "one fish two fish"
PLAIN = dict(max_new_tokens=7, temperature=0.8, top_p=0.9, seed=3)


@pytest.fixture(scope="module")
def model():
    return build("llama")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(start=True)


# Choosing a token


def shares(logits, temperature=1.0, top_p=1.0, count=20_000):
    """How often each token is chosen over evenly spread uniform numbers."""
    uniform = (torch.arange(count) + 0.5) / count
    chosen = choose_tokens(logits.expand(count, -1), uniform, temperature, top_p)
    return torch.bincount(chosen, minlength=logits.shape[-1]) / count


@given(st.integers(0, 1000), st.floats(0.2, 3), st.floats(0.05, 1))
@settings(max_examples=30, deadline=None)
def test_tokens_are_chosen_with_their_probabilities(seed, temperature, top_p):
    logits = 3 * torch.randn(200, generator=torch.Generator().manual_seed(seed))
    p = (logits.double() / temperature).softmax(-1)
    order = p.argsort(descending=True)
    nucleus = order[: int((p[order].cumsum(0) < top_p - 1e-12).sum()) + 1]
    expected = torch.zeros_like(p)
    expected[nucleus] = p[nucleus] / p[nucleus].sum()
    np.testing.assert_allclose(shares(logits, temperature, top_p), expected, atol=1.1e-4)


def test_a_flat_model_needs_more_than_the_first_guess():
    flat = torch.zeros(700)
    np.testing.assert_allclose(shares(flat, 1.0, 1.0, 700), 1 / 700, atol=1e-6)
    chosen = shares(flat, 1.0, 0.5, 7000)
    assert int((chosen > 0).sum()) == 350
    np.testing.assert_allclose(chosen[chosen > 0], 1 / 350, atol=1e-3)


def test_temperature_zero_is_greedy_and_the_ends_of_the_uniform_are_fine():
    logits = torch.tensor([[0.0, 2.0, 1.0]]).repeat(2, 1)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert choose_tokens(logits, ends, 0, 0.9).tolist() == [1, 1]
    assert choose_tokens(logits, ends, 1.0, 1.0).tolist() == [0, 2]
    assert choose_tokens(logits, ends, 1.0, 0.9).tolist() == [1, 2]


# Answers


@pytest.mark.parametrize("family", DECODERS)
def test_rows_do_not_depend_on_the_batch(family):
    model, tokenizer = build(family), tiny_tokenizer(start=True)
    whole = sample_answers(model, tokenizer, PROMPT, 9, **PLAIN)
    assert len(whole.texts) == len(whole.tokens) == 9
    assert len({tuple(row) for row in whole.tokens}) > 1
    for own in (1, 4):
        assert sample_answers(model, tokenizer, PROMPT, 9, batch_size=own, **PLAIN) == whole
    fewer = sample_answers(model, tokenizer, PROMPT, 4, **PLAIN)
    more = sample_answers(model, tokenizer, PROMPT, 5, first_row=4, **PLAIN)
    assert fewer.tokens + more.tokens == whole.tokens
    other = sample_answers(model, tokenizer, PROMPT, 9, **{**PLAIN, "seed": 4})
    assert other.tokens != whole.tokens


@pytest.mark.parametrize("family", DECODERS)
def test_each_token_is_drawn_behind_the_whole_row(family):
    """The cache, repeated and thinned out, gives what the model says of the whole text."""
    model, tokenizer = build(family), tiny_tokenizer(start=True)
    prompt = lm.encode(tokenizer, PROMPT)
    found = sample_answers(model, tokenizer, PROMPT, 6, **PLAIN).tokens
    for i, row in enumerate(found):
        uniform = np.random.default_rng([PLAIN["seed"], i]).random(PLAIN["max_new_tokens"])
        with torch.no_grad():
            logits = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1].float()
        expected = choose_tokens(logits, torch.tensor(uniform[: len(row)]), 0.8, 0.9)
        assert expected.tolist() == row


def test_temperature_zero_writes_the_greedy_answer(model, tokenizer):
    (expected,) = answers.greedy(model, tokenizer, [PROMPT], max_new_tokens=8)
    found = sample_answers(model, tokenizer, PROMPT, 3, max_new_tokens=8, temperature=0)
    assert found.texts == [expected] * 3


def test_an_ended_row_stops_and_leaves_the_others_alone(model, tokenizer):
    long = dict(max_new_tokens=20, temperature=1.5, seed=0)
    end = tokenizer.eos_token_id
    found = sample_answers(model, tokenizer, PROMPT, 40, **long).tokens
    lengths = {len(row) for row in found}
    assert len(lengths) > 2 and max(lengths) == 20
    for row in found:
        assert end not in row[:-1]
        assert row[-1] == end or len(row) == 20
    alone = sample_answers(model, tokenizer, PROMPT, 40, batch_size=1, **long).tokens
    assert alone == found


def test_special_tokens_are_not_in_the_text(model, tokenizer):
    found = sample_answers(model, tokenizer, PROMPT, 20, max_new_tokens=20, temperature=1.5)
    assert any(row[-1] == tokenizer.eos_token_id for row in found.tokens)
    assert not any("<" in text for text in found.texts)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"n": 0}, "`n`"),
        ({"n": 2.5}, "`n`"),
        ({"max_new_tokens": 0}, "`max_new_tokens`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"temperature": -0.1}, "`temperature`"),
        ({"temperature": float("nan")}, "`temperature`"),
        ({"top_p": 0}, "`top_p`"),
        ({"top_p": 1.1}, "`top_p`"),
        ({"first_row": -1}, "`first_row`"),
    ],
)
def test_bad_settings_are_named(model, tokenizer, changes, culprit):
    with pytest.raises(ValueError, match=culprit):
        sample_answers(model, tokenizer, PROMPT, **{"n": 2, **PLAIN, **changes})


def test_a_prompt_without_tokens_and_broken_weights_are_refused(tokenizer):
    model = build("llama")
    with pytest.raises(ValueError, match="`prompt` has no tokens"):
        sample_answers(model, tiny_tokenizer(start=False), "", 2, **PLAIN)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = torch.nan
    with pytest.raises(ValueError, match="logits are NaN"):
        sample_answers(model, tokenizer, PROMPT, 2, **PLAIN)


@pytest.mark.weights
def test_smollm2_answers_are_the_same_in_any_batch(smollm2):
    model, tokenizer = smollm2
    chat = [{"role": "user", "content": "Name a fruit."}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    settings = dict(max_new_tokens=8, temperature=0.8, top_p=0.95, seed=1)
    whole = sample_answers(model, tokenizer, prompt, 6, **settings)
    halves = sample_answers(model, tokenizer, prompt, 6, batch_size=3, **settings)
    same = [a == b for a, b in zip(whole.tokens, halves.tokens, strict=True)]
    assert sum(same) >= 5  # rounding may turn one
    (greedy,) = answers.greedy(model, tokenizer, [prompt], max_new_tokens=8)
    cold = sample_answers(model, tokenizer, prompt, 1, max_new_tokens=8, temperature=0)
    assert cold.texts == [greedy]


# Embeddings


@pytest.mark.weights
def test_embeddings_are_unit_means_in_any_batch(minilm):
    model, tokenizer = minilm
    texts = ["A cat.", "", "Two dogs and a parrot sat in the sun.", "A cat."]
    found = embed_texts(texts, model, tokenizer)
    assert found.shape == (4, 384) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(found[0], found[3])
    np.testing.assert_allclose(embed_texts(texts, model, tokenizer, batch_size=1), found, atol=1e-6)
    for text, row in zip(texts, found, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = states.mean(0).numpy()
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.weights
def test_embeddings_know_what_is_alike_and_cut_what_is_long(minilm):
    a, b, c = embed_texts(["Eat an apple.", "Have some fruit.", "The engine broke down."], *minilm)
    assert a @ b > a @ c
    long = "fruit " * 2000
    assert np.isfinite(embed_texts([long], *minilm)).all()


def test_bad_texts_are_named(model, tokenizer):
    with pytest.raises(TypeError, match="`texts` must be a list"):
        embed_texts("one", model, tokenizer)
    with pytest.raises(ValueError, match="`texts` is empty"):
        embed_texts([], model, tokenizer)
    encoder = build("bert")
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight[10] = torch.nan
    with pytest.raises(ValueError, match=r"text \d: the encoder's states are NaN"):
        embed_texts(["cat", "dog"], encoder, tiny_tokenizer(start=True))


def test_the_first_guess_is_smaller_than_the_vocabulary():
    assert answers._FIRST_GUESS < VOCAB
