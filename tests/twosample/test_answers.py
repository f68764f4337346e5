"""Samples follow the model's distribution, row by row; embeddings are means of unit length."""

import re

import more_families
import numpy as np
import pytest
import torch
from families import DECODERS, VOCAB, build, one_thread, tiny_tokenizer  # noqa: F401
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers import hooks, lm
from helpers.twosample import answers, blank_names, choose_tokens, embed_texts, sample_answers

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
    assert fewer.tokens == whole.tokens[:4]
    other = sample_answers(model, tokenizer, PROMPT, 9, **{**PLAIN, "seed": 4})
    assert other.tokens != whole.tokens


def any_family(family):
    return (build if family in DECODERS else more_families.build)(family)


@pytest.mark.parametrize("family", [*DECODERS, *more_families.HYBRIDS])
def test_each_token_is_drawn_behind_the_whole_row(family):
    """The cache, repeated and thinned out, gives what the model says of the whole text."""
    model, tokenizer = any_family(family), tiny_tokenizer(start=True)
    prompt = lm.encode(tokenizer, PROMPT)
    if family in more_families.HYBRIDS:
        model.generation_config.eos_token_id = list(range(2, VOCAB, 6))  # rows end one by one
    found = sample_answers(model, tokenizer, PROMPT, 6, **PLAIN).tokens
    for i, row in enumerate(found):
        uniform = np.random.default_rng([PLAIN["seed"], i]).random(PLAIN["max_new_tokens"])
        with torch.no_grad():
            logits = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1].float()
        expected = choose_tokens(logits, torch.tensor(uniform[: len(row)]), 0.8, 0.9)
        assert expected.tolist() == row


@pytest.mark.parametrize("family", more_families.HYBRIDS)
def test_greedy_answers_of_hybrids_are_the_naive_argmax(family):
    """Longer prompts than those of the ten families: what is recurrent looks far back."""
    model, tokenizer = more_families.build(family), tiny_tokenizer(start=True)
    model.generation_config.eos_token_id = None
    prompts = ["ABCDEFGHIJKLMN", "one fish two f"]
    found = lm.greedy(model, tokenizer, prompts, max_new_tokens=6)
    for prompt, answer in zip(prompts, found, strict=True):
        ids = start = lm.encode(tokenizer, prompt)
        for _ in range(6):
            with torch.no_grad():
                ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
            if ids[-1] == tokenizer.eos_token_id:
                break
        assert answer == tokenizer.decode(ids[len(start) :], skip_special_tokens=True)


def changed_head(model, change):
    return hooks.edit(model, "lm_head", lambda _name, logits: change(logits))


def test_forbidden_tokens_are_never_written_and_the_others_keep_their_odds(model, tokenizer):
    banned = torch.tensor([i for i in range(VOCAB) if i not in (5, 7, 9)])
    long = dict(max_new_tokens=4, top_p=1.0, seed=0)
    with changed_head(model, lambda x: x.index_fill(-1, banned, -torch.inf)):
        for more in ({}, {"top_p": 0.9}, {"temperature": 0}):
            found = sample_answers(model, tokenizer, PROMPT, 30, **{**long, **more})
            assert {token for row in found.tokens for token in row} <= {5, 7, 9}
        (greedy,) = lm.greedy(model, tokenizer, [PROMPT], max_new_tokens=4)
        assert found.texts == [greedy] * 30
    logits = torch.randn(3, 20)
    forbidden, kept = logits.clone(), [2, 3, 11]
    forbidden[:, [i for i in range(20) if i not in kept]] = -torch.inf
    for u in torch.linspace(0, 1 - 1e-9, 23, dtype=torch.float64):
        for p in (1.0, 0.7):
            at = choose_tokens(forbidden, u.expand(3), 0.8, p)
            alone = choose_tokens(logits[:, kept], u.expand(3), 0.8, p)
            assert at.tolist() == [kept[i] for i in alone]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_without_a_best_one_are_refused(model, tokenizer, value):
    faulty = {"all": lambda x: torch.full_like(x, value)}
    if value != -float("inf"):
        faulty["one"] = lambda x: x.index_fill(-1, torch.tensor([5]), value)
    for change in faulty.values():
        with changed_head(model, change):
            for call in (
                lambda: sample_answers(model, tokenizer, PROMPT, 2, **PLAIN),
                lambda: lm.greedy(model, tokenizer, [PROMPT], max_new_tokens=2),
            ):
                with pytest.raises(ValueError, match="logits are NaN or infinite"):
                    call()


def test_a_sample_keeps_the_leading_space_that_greedy_writes(model):
    tokenizer, steps = more_families.spaced_tokenizer(), iter([])
    tokens = tokenizer.convert_tokens_to_ids(["▁", "P", "a", "r", "i", "s"])
    write = lambda x: torch.zeros_like(x).index_fill(-1, torch.tensor([next(steps)]), 30.0)  # noqa: E731
    with changed_head(model, write):
        steps = iter(tokens)
        greedy = lm.greedy(model, tokenizer, ["abc"], max_new_tokens=6)
        steps = iter(tokens)
        cold = sample_answers(model, tokenizer, "abc", 1, max_new_tokens=6, temperature=0)
    assert cold.tokens == [tokens] and cold.texts == greedy == [" Paris"]


def test_temperature_zero_writes_the_greedy_answer(model, tokenizer):
    (expected,) = lm.greedy(model, tokenizer, [PROMPT], max_new_tokens=8)
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
    (greedy,) = lm.greedy(model, tokenizer, [prompt], max_new_tokens=8)
    cold = sample_answers(model, tokenizer, prompt, 1, max_new_tokens=8, temperature=0)
    assert cold.texts == [greedy]


# Names blanked


def blanked(text, *names):
    (found,) = blank_names([text], names)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("John should rest.", "the patient should rest."),
        ("JOHN, john; (John)! 'John'", "the patient, the patient; (the patient)! 'the patient'"),
        ("John's pain. John-like", "the patient's pain. the patient-like"),
        ("**John**\nJohn:", "**the patient**\nthe patient:"),
        ("Johnson, Johnny, McJohn, John2, John_", "Johnson, Johnny, McJohn, John2, John_"),
        ("Éjohn, johné", "Éjohn, johné"),
        ("Peter and John", "Peter and the patient"),
        ("", ""),
        ("Rest. Stop smoking.", "Rest. Stop smoking."),
    ],
)
def test_names_become_the_patient(text, expected):
    assert blanked(text, "John") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She told him that it is hers.", "they told they that it is they."),
        ("He hurt himself, HER dog herself.", "they hurt they, they dog they."),
        ("Mr. X, Mrs X, Ms X: a Man", "person. X, person X, person X: a person"),
        ("Yes, sir, madam and ma'am.", "Yes, person, person and person."),
        ("The sheep there ate theirs; human history", "The sheep there ate theirs; human history"),
    ],
)
def test_pronouns_and_gendered_words_become_neutral(text, expected):
    assert blanked(text, "John") == expected


def test_a_longer_name_is_looked_for_first():
    for names in (("Mary", "Mary Ann"), ("Mary Ann", "Mary")):
        assert blanked("Mary Ann and Mary", *names) == "the patient and the patient"
    assert blanked("Jo, Joan, Joanna", "Jo", "Joan", "Joanna") == ", ".join(["the patient"] * 3)


ODD = ["J.R.", "A+B", "(Bo)", "x|y", "[z]", r"C\D", "O'Neil", "^a$", "José"]


@pytest.mark.parametrize("name", ODD)
def test_names_are_no_patterns(name):
    assert blanked(f"Tell {name} to rest.", name) == "Tell the patient to rest."
    assert blanked("Tell JxR, AAB, x, z, a to rest.", name) == "Tell JxR, AAB, x, z, a to rest."


def test_a_chinese_name_that_stands_alone_is_blanked():
    assert blanked("小明, 戒烟。", "小明") == "the patient, 戒烟。"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("建议小明戒烟。", "小明", "建议the patient戒烟。"),
        ("建议John戒烟。", "John", "建议the patient戒烟。"),
    ],
)
def test_a_name_among_chinese_letters_is_blanked(text, name, expected):
    assert blanked(text, name) == expected


def test_texts_keep_their_order_and_number():
    texts = ("John", "rest", "John")
    assert blank_names(texts, ["John"]) == ["the patient", "rest", "the patient"]
    assert texts == ("John", "rest", "John") and blank_names([], ["John"]) == []
    assert blank_names(np.array(texts), np.array(["John"])) == blank_names(texts, ["John"])


def test_bad_names_are_named():
    for names in ([], [""], ["John", " "]):
        with pytest.raises(ValueError, match="at least one name and no empty one"):
            blank_names(["John"], names)
    with pytest.raises(TypeError, match="`names` must be a list"):
        blank_names(["John"], "John")
    with pytest.raises(TypeError, match="`texts` must be a list"):
        blank_names("John", ["John"])


NEUTRAL = {"the", "patient", "they", "person"}
WORDS = st.one_of(
    st.text("abéßJ2_", min_size=1, max_size=4),
    st.sampled_from(["he", "Her", "him", "sheep", "woman", "Mrs", "her's", "the"]),
)


@given(
    st.lists(WORDS, max_size=12),
    st.lists(st.sampled_from([" ", ", ", "-", "'", ". ", "\n", "("]), min_size=12, max_size=12),
    st.lists(st.text("abéßJ", min_size=1, max_size=3), min_size=1, max_size=4),
)
def test_no_name_remains_as_a_word_and_all_else_stays(words, between, names):
    assume(not NEUTRAL & {name.lower() for name in names})
    text = "".join(word + gap for word, gap in zip(words, between, strict=False))
    found = blanked(text, *names)
    gone = {name.lower() for name in names} | {"he", "her", "him", "woman", "mrs"}
    assert not gone & {word.lower() for word in re.findall(r"\w+", found)}
    assert blanked(found, *names) == found
    gone |= NEUTRAL
    kept = [word for word in re.findall(r"\w+", text) if word.lower() not in gone]
    assert [word for word in re.findall(r"\w+", found) if word.lower() not in gone] == kept


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


@pytest.mark.parametrize("start", [True, False])
def test_embeddings_do_not_depend_on_the_side_that_a_tokenizer_pads(start):
    encoder, tokenizer = build("bert"), tiny_tokenizer(start=start)
    texts = ["ABCD", "AB", "A" * 80]  # the last is cut off
    right = embed_texts(texts, encoder, tokenizer)
    tokenizer.padding_side = "left"
    np.testing.assert_array_equal(embed_texts(texts, encoder, tokenizer), right)
    for text, row in zip(texts, right, strict=True):
        with torch.no_grad():
            ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :64]
            mean = encoder(ids).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_text_without_tokens_is_named():
    encoder = build("bert")
    for texts in (["AB", "", "ABC"], ["", "", ""]):
        with pytest.raises(ValueError, match=rf"text {texts.index('')} has no tokens"):
            embed_texts(texts, encoder, tiny_tokenizer(start=False))
    assert embed_texts(["", "A"], encoder, tiny_tokenizer(start=True)).shape == (2, 32)


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
