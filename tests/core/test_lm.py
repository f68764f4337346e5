"""Scores equal the plain full-logits computation, on every family and for any batch size."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import families
import more_families
import numpy as np
import pandas as pd
import pytest
import torch
from families import CONTEXT, DECODERS, LETTERS, VOCAB, build, tiny_tokenizer, token_ids
from hypothesis import given
from hypothesis import strategies as st
from more_families import spaced_tokenizer
from tokenizers import processors
from tokenizers.pre_tokenizers import Metaspace
from transformers import CohereConfig, CohereForCausalLM

from helpers import attention, editing, lm, probing, twosample
from helpers.data import english_prose


@pytest.fixture(scope="module", params=[False, True], ids=["no start", "start"])
def tokenizer(request):
    return tiny_tokenizer(start=request.param)


@pytest.fixture(scope="module")
def model():
    return build("llama")


def naive_logprobs(model, ids):
    """Log-probability of each next token (T - 1,) from all logits of one unbatched sequence."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    return logits.log_softmax(-1)


PROMPTS = ["one fish", "two", "red fish", "a", "blue fish", "no", "Q. what is it? A."]
TARGETS = [" cat", " d", " fog", " pq", " wolf", " cat", " x"]


# Tokens


def test_start_token_comes_once():
    plain, opening = tiny_tokenizer(start=False), tiny_tokenizer(start=True)
    closing = tiny_tokenizer(start=True, end=True)
    body = [LETTERS.index(letter) + 3 for letter in "cat"]
    assert lm.encode(plain, "cat") == body
    assert lm.encode(opening, "cat") == [1, *body]
    assert lm.encode(opening, "<bos>cat") == [1, *body]
    assert lm.encode(closing, "cat") == [1, *body]
    assert lm.encode(plain, "<bos>cat") == [1, *body]  # the text asks for it
    assert (lm.encode(plain, ""), lm.encode(opening, "")) == ([], [1])
    with pytest.raises(TypeError, match="text 0 must be a string"):
        lm.encode(plain, 3)


def template_tokenizer(template):
    """Writes these special tokens around a text $A; none of them is called a start token."""
    tokenizer = tiny_tokenizer(start=False)
    backend, tokenizer.bos_token = tokenizer.backend_tokenizer, None
    backend.add_special_tokens(["[gMASK]", "<sop>"])
    names = [name for name in template.split() if name != "$A"]
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(name, backend.token_to_id(name)) for name in names]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("template", "n_start", "n_end"),
    [("[gMASK] <sop> $A", 2, 0), ("<eos> $A <eos>", 1, 1), ("<sop> $A <eos>", 1, 1), ("$A", 0, 0)],
)
def test_all_that_a_template_writes_in_front_is_kept(template, n_start, n_end):
    tokenizer = template_tokenizer(template)
    for text in ("cat", "", "a"):
        written = tokenizer(text)["input_ids"]
        assert lm.encode(tokenizer, text) == written[: len(written) - n_end]
    start = lm.encode(tokenizer, "")
    assert len(start) == n_start and lm.opening(tokenizer) == start
    spelled = "".join(template.split()[:n_start]) + "cat"
    assert lm.encode(tokenizer, spelled) == lm.encode(tokenizer, "cat")
    body = lm.encode(tokenizer, "cat")[n_start:]
    assert lm.segments(tokenizer, "catcatc", 3).tolist() == [[*start, *body]] * 2


def test_scores_behind_two_opening_tokens(model):
    tokenizer = template_tokenizer("[gMASK] <sop> $A")
    scores = lm.score_targets(model, tokenizer, ["one", "two"], [" cat", " d"])
    for i, (prompt, target) in enumerate((("one", " cat"), ("two", " d"))):
        ids, n = tokenizer(prompt + target)["input_ids"], len(tokenizer(prompt)["input_ids"])
        logprobs = naive_logprobs(model, ids)
        expected = sum(float(logprobs[t - 1, ids[t]]) for t in range(n, len(ids)))
        assert scores["logprob"][i] == pytest.approx(expected, abs=1e-5)


@given(st.text(alphabet=LETTERS, max_size=20))
def test_encode_changes_no_text(text):
    for start in (False, True):
        tokenizer = tiny_tokenizer(start=start)
        ids = lm.encode(tokenizer, text)
        assert ids.count(1) == start
        assert tokenizer.decode(ids[start:]) == text


def test_smollm2_takes_no_start_token(smollm2):
    _, tokenizer = smollm2
    ids = lm.encode(tokenizer, "The capital of France is")
    assert tokenizer.convert_ids_to_tokens(ids)[0] == "The"
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_gemma_takes_one_start_token(gemma3):
    _, tokenizer = gemma3
    ids = lm.encode(tokenizer, "The capital of France is")
    assert ids[0] == 2 and ids.count(2) == 1 and 1 not in ids
    assert tokenizer.convert_ids_to_tokens(ids)[:2] == ["<bos>", "The"]
    assert lm.encode(tokenizer, "<bos>The capital of France is") == ids


def test_continuation_must_leave_the_prompt_alone(model, tokenizer):
    fine = lm.score_targets(model, tokenizer, ["xa"], [" x"])
    assert fine["n_tokens"].tolist() == [1]
    for prompt, target in (("xa", "b"), ("xa ", "x")):
        with pytest.raises(ValueError, match=rf"item 1 \(prompt '{prompt}'\).*'{target}' changes"):
            lm.score_targets(model, tokenizer, ["a", prompt], [" d", target])


# Scores


@pytest.mark.parametrize(
    ("batch_size", "padded"), [(1, False), (2, False), (16, False), (3, True), (16, True)]
)
def test_score_targets_is_the_naive_sum(model, tokenizer, batch_size, padded):
    scores = lm.score_targets(
        model, tokenizer, PROMPTS, TARGETS, batch_size=batch_size, padded=padded
    )
    assert scores.index.tolist() == list(range(len(PROMPTS)))
    for row, prompt, target in zip(scores.itertuples(), PROMPTS, TARGETS, strict=True):
        ids, n_prompt = lm.encode(tokenizer, prompt + target), len(lm.encode(tokenizer, prompt))
        logprobs = naive_logprobs(model, ids)
        at = range(n_prompt - 1, len(ids) - 1)
        expected = sum(float(logprobs[t, ids[t + 1]]) for t in at)
        assert row.logprob == pytest.approx(expected, abs=1e-5)
        assert row.n_tokens == len(ids) - n_prompt
        right = [int(logprobs[t].argmax()) == ids[t + 1] for t in at]
        assert row.greedy == all(right) and row.n_greedy == sum(right)
        assert row.n_prefix == [*right, False].index(False)


@pytest.mark.parametrize("family", DECODERS)
def test_every_family_scores_alike(family):
    model, tokenizer = build(family), tiny_tokenizer(start=True)
    scores = lm.score_targets(model, tokenizer, PROMPTS, TARGETS)
    for score, prompt, target in zip(scores["logprob"], PROMPTS, TARGETS, strict=True):
        ids, n_prompt = lm.encode(tokenizer, prompt + target), len(lm.encode(tokenizer, prompt))
        logprobs = naive_logprobs(model, ids)
        expected = sum(float(logprobs[t, ids[t + 1]]) for t in range(n_prompt - 1, len(ids) - 1))
        assert score == pytest.approx(expected, abs=1e-4)


def test_padded_items_share_a_pass_and_no_hook_gets_their_length(model, tokenizer):
    passes = []
    handle = model.get_decoder().register_forward_pre_hook(lambda *_: passes.append(1))
    alone, shared = (
        editing.next_distributions(model, tokenizer, PROMPTS, padded=padded)
        for padded in (False, True)
    )
    handle.remove()
    n_lengths = len({len(lm.encode(tokenizer, prompt)) for prompt in PROMPTS})
    assert n_lengths > 1 and len(passes) == n_lengths + 1
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)
    assert not model.get_output_embeddings()._forward_pre_hooks
    for call in (
        lambda how: lm.score_targets(model, tokenizer, PROMPTS, TARGETS, **how),
        lambda how: editing.next_distributions(model, tokenizer, PROMPTS, **how),
    ):
        with pytest.raises(ValueError, match="not with `padded`"):
            call({"padded": True, "during": lambda n: nullcontext()})


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_an_opened_model_predicts_the_next_token_and_scores_no_other(family):
    model, tokenizer, ids = build(family), tiny_tokenizer(start=True), token_ids(2, 7)
    one = lambda **how: lm.score_targets(model, tokenizer, ["ab", "a"], [" d", " e"], **how)  # noqa: E731
    refused = (
        one,
        lambda: one(padded=True),
        lambda: attention.greedy_match(model, tokenizer, ["ab"], [" d"]),
        lambda: lm.segment_nll(model, ids),
        lambda: editing.next_distributions(model, tokenizer, ["abcdef", "a"], padded=True),
    )
    before = one()
    with probing.bidirectional(model, [1]):
        with probing.bidirectional(model):
            pass
        for call in refused:
            with pytest.raises(ValueError, match="opened attention sees fillers and targets"):
                call()
        ahead = editing.next_distributions(model, tokenizer, ["abcdef", "a"])
        (first,) = attention.next_token_logprobs(model, tokenizer, ["abcdef"], [["z", "q"]])
        for prompt, row in zip(["abcdef", "a"], ahead, strict=True):
            expected = naive_logprobs(model, lm.encode(tokenizer, prompt))[-1]
            np.testing.assert_allclose(row.numpy(), np.asarray(expected), atol=1e-4)
        z, q = (lm.encode(tokenizer, letter)[-1] for letter in "zq")
        np.testing.assert_allclose(first, ahead[0, [z, q]], atol=1e-6)
    with pytest.raises(ValueError, match="opened attention"):
        one(during=lambda n_prompt: probing.bidirectional(model))
    pd.testing.assert_frame_equal(one(), before)
    assert lm.segment_nll(model, ids).shape == (2,)


def test_a_causal_model_is_given_no_mask(model, tokenizer):
    given_ = []
    handle = model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, kwargs: given_.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    for padded in (False, True):
        lm.score_targets(model, tokenizer, PROMPTS, TARGETS, padded=padded)
        editing.next_distributions(model, tokenizer, PROMPTS, padded=padded)
    handle.remove()
    assert given_ and not any(mask is not None for mask in given_)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_next_token_logprobs(model, tokenizer, batch_size):
    choices = [["cat", "fog", " x", "Wolf"]] * 6 + [[" x", "k"]]
    found = attention.next_token_logprobs(model, tokenizer, PROMPTS, choices, batch_size=batch_size)
    for own, prompt, texts in zip(found, PROMPTS, choices, strict=True):
        ids = lm.encode(tokenizer, prompt)
        firsts = [lm.encode(tokenizer, prompt + text)[len(ids)] for text in texts]
        np.testing.assert_allclose(own, naive_logprobs(model, ids)[-1][firsts], atol=1e-5)


def distinct(prompt):
    return {"prompt": prompt, "gold": "cat", "candidates": ["dog", "cat", " x", "Wolf"]}


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_rank_candidates_is_the_naive_ranking(model, tokenizer, batch_size):
    items = [distinct(prompt) for prompt in PROMPTS]
    ranks = attention.rank_candidates(model, tokenizer, items, batch_size=batch_size)
    assert ranks.columns.tolist() == ["correct", "choice", "gold_logprob", "margin"]
    for row, item in zip(ranks.itertuples(), items, strict=True):
        ids = lm.encode(tokenizer, item["prompt"])
        last = naive_logprobs(model, ids)[-1]
        firsts = {
            text: float(last[lm.encode(tokenizer, item["prompt"] + text)[len(ids)]])
            for text in item["candidates"]
        }
        others = max(value for text, value in firsts.items() if text != "cat")
        assert row.gold_logprob == pytest.approx(firsts["cat"], abs=1e-5)
        assert row.margin == pytest.approx(firsts["cat"] - others, abs=1e-5)
        assert row.choice == max(firsts, key=firsts.get)
        assert row.correct == (row.choice == "cat")


def test_items_may_be_objects_and_prompts_any_sequence(model, tokenizer):
    items = [distinct(prompt) for prompt in PROMPTS]
    pd.testing.assert_frame_equal(
        attention.rank_candidates(model, tokenizer, [SimpleNamespace(**item) for item in items]),
        attention.rank_candidates(model, tokenizer, items),
    )
    table = pd.DataFrame({"prompt": PROMPTS, "target": TARGETS}, index=range(90, 97))
    for as_ in (lambda column: column, np.asarray):
        prompts, targets = as_(table["prompt"]), as_(table["target"])
        pd.testing.assert_frame_equal(
            lm.score_targets(model, tokenizer, prompts, targets),
            lm.score_targets(model, tokenizer, PROMPTS, TARGETS),
        )
        for call in (
            editing.next_distributions,
            lambda m, t, own: attention.label_logodds(m, t, own, "yes", "no"),
            lambda m, t, own: lm.greedy(m, t, own, max_new_tokens=2),
        ):
            given_, listed = (call(model, tokenizer, own) for own in (prompts[:3], PROMPTS[:3]))
            np.testing.assert_array_equal(given_, listed)
        assert editing.next_distributions(model, tokenizer, prompts[:0]).shape == (0, VOCAB)


def test_a_tie_is_not_correct(model, tokenizer):
    with torch.no_grad():
        flat = build("llama")
        flat.lm_head.weight.zero_()
    ranks = attention.rank_candidates(flat, tokenizer, [distinct("one")])
    assert not ranks["correct"][0] and ranks["choice"][0] != "cat"
    assert ranks["margin"][0] == 0
    assert ranks["gold_logprob"][0] == pytest.approx(-np.log(VOCAB), abs=1e-5)


def test_label_logodds(model, tokenizer):
    odds = attention.label_logodds(model, tokenizer, PROMPTS, "yes", "no")
    for value, prompt in zip(odds, PROMPTS, strict=True):
        last = naive_logprobs(model, lm.encode(tokenizer, prompt))[-1]
        yes, no = (lm.encode(tokenizer, letter)[-1] for letter in "yn")
        assert value == pytest.approx(float(last[yes] - last[no]), abs=1e-5)
    np.testing.assert_allclose(
        attention.label_logodds(model, tokenizer, PROMPTS, "no", "yes"), -odds, atol=1e-6
    )


# Segments and their losses


@given(st.text(alphabet=LETTERS, min_size=2, max_size=60), st.integers(2, 9), st.booleans())
def test_segments_joined_are_the_text(text, n_tokens, start):
    tokenizer = tiny_tokenizer(start=start)
    body = lm.encode(tokenizer, text)[start:]
    if len(body) < n_tokens:
        with pytest.raises(ValueError, match="`n_tokens`"):
            lm.segments(tokenizer, text, n_tokens)
        return
    pieces = lm.segments(tokenizer, text, n_tokens)
    n_pieces = len(body) // n_tokens
    assert pieces.shape == (n_pieces, n_tokens + start) and pieces.dtype == torch.int64
    assert (pieces[:, :start] == tokenizer.bos_token_id).all()
    assert pieces[:, start:].flatten().tolist() == body[: n_pieces * n_tokens]


def test_segments_by_hand():
    plain, opening = tiny_tokenizer(start=False), tiny_tokenizer(start=True)
    c, a, t = (LETTERS.index(letter) + 3 for letter in "cat")
    assert lm.segments(plain, "catcatc", 3).tolist() == [[c, a, t], [c, a, t]]
    assert lm.segments(opening, "catcatc", 3).tolist() == [[1, c, a, t], [1, c, a, t]]
    # an end token of the template is no part of any piece, and a start token comes once
    closing = tiny_tokenizer(start=True, end=True)
    for text in ("catcat", "<bos>catcat"):
        assert lm.segments(closing, text, 3).tolist() == [[1, c, a, t], [1, c, a, t]]


def test_segments_are_what_the_loss_takes(model, tokenizer):
    pieces = lm.segments(tokenizer, "one fish two fish red fish blue fish", 8)
    assert lm.segment_nll(model, pieces).shape == (len(pieces),)


@pytest.mark.parametrize(
    ("text", "n_tokens"), [("", 2), ("ca", 3), ("catcat", 7), ("catcat", 1), ("catcat", 0)]
)
def test_segments_refuse(tokenizer, text, n_tokens):
    with pytest.raises(ValueError, match="`n_tokens`"):
        lm.segments(tokenizer, text, n_tokens)


def test_segments_refuse_what_is_no_text(tokenizer):
    with pytest.raises(TypeError, match="must be a string"):
        lm.segments(tokenizer, ["cat"], 2)


@pytest.mark.parametrize("family", DECODERS)
def test_segment_nll_is_the_naive_mean(family):
    model, ids = build(family), token_ids(5, 13)
    expected = [
        -naive_logprobs(model, row)[:-1].gather(1, torch.tensor(row)[1:, None]).mean().item()
        for row in ids.tolist()
    ]
    ran = []
    blocks = next(m for m in model.get_decoder().modules() if isinstance(m, torch.nn.ModuleList))
    handle = blocks[0].register_forward_hook(lambda *_: ran.append(1))
    for batch_size, chunk in ((1, 1), (2, 7), (5, 256), (4, 8)):
        ran.clear()
        found = lm.segment_nll(model, ids, batch_size=batch_size, chunk=chunk)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert len(ran) == -(-5 // batch_size)  # the decoder runs once per batch
    handle.remove()
    assert "forward" not in vars(model.get_decoder())


def test_whatever_stands_behind_the_head_counts():
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "logit_scale": 0.3}
    model = CohereForCausalLM(
        CohereConfig(**shape, num_hidden_layers=2, num_attention_heads=4)
    ).eval()
    ids = token_ids(2, 9)
    expected = [
        -naive_logprobs(model, row)[:-1].gather(1, torch.tensor(row)[1:, None]).mean().item()
        for row in ids.tolist()
    ]
    np.testing.assert_allclose(lm.segment_nll(model, ids.numpy(), chunk=3), expected, atol=1e-5)


def test_uniform_model_has_the_loss_of_its_vocabulary():
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    np.testing.assert_allclose(lm.segment_nll(model, token_ids()), np.log(VOCAB), rtol=1e-6)


def test_logits_stay_few(model):
    rows = []

    def count(_, args, logits):
        rows.append(logits[..., 0].numel())

    handle = model.lm_head.register_forward_hook(count)
    lm.segment_nll(model, token_ids(6, 40), batch_size=3, chunk=24)
    assert max(rows) <= 24
    rows.clear()
    tokenizer = tiny_tokenizer(start=True)
    attention.rank_candidates(model, tokenizer, [distinct("fog" * 9)] * 4)
    lm.score_targets(model, tokenizer, ["xyz" * 9] * 4, [" fox"] * 4)
    assert rows == [4, 16]
    handle.remove()


def test_decoder_is_given_back_after_an_error(model):
    decoder = model.get_decoder()
    mine = lambda *args, **kwargs: 1 / 0  # noqa: E731
    decoder.forward = mine
    try:
        with pytest.raises(ZeroDivisionError):
            lm.segment_nll(model, token_ids())
        assert vars(decoder)["forward"] is mine
    finally:
        del decoder.forward


# Greedy answers


@pytest.mark.parametrize("family", DECODERS)
def test_greedy_is_the_naive_argmax(family):
    model, tokenizer = build(family), tiny_tokenizer(start=True)
    model.generation_config.eos_token_id = None
    found = lm.greedy(model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=2)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        ids = start = lm.encode(tokenizer, prompt)
        for _ in range(6):
            ids = [*ids, int(naive_logprobs(model, ids)[-1].argmax())]
            if ids[-1] == 2:
                break
        assert answer == tokenizer.decode(ids[len(start) :], skip_special_tokens=True)


def test_greedy_match_is_what_greedy_writes(model, tokenizer):
    right, wrong = [], []
    for prompt in LETTERS[1:25]:
        ids = start = lm.encode(tokenizer, prompt)
        for _ in range(2):
            ids = [*ids, int(naive_logprobs(model, ids)[-1].argmax())]
        gold = tokenizer.decode(ids[len(start) :])
        # else a special token was written, or other tokens spell the same text
        if min(ids[len(start) :]) > 2 and lm.encode(tokenizer, prompt + gold) == ids:
            right.append((prompt, gold))
            wrong.append((prompt, "Q" if gold[0] != "Q" else "J"))
    assert len(right) >= 3
    match = attention.greedy_match(model, tokenizer, *zip(*right, strict=True))
    assert match["correct"].all()
    written = lm.greedy(model, tokenizer, [prompt for prompt, _ in right], max_new_tokens=2)
    assert written == [gold for _, gold in right]
    assert not attention.greedy_match(model, tokenizer, *zip(*wrong, strict=True))["correct"].any()
    scores = lm.score_targets(model, tokenizer, *zip(*right, strict=True))
    np.testing.assert_allclose(match["mean_logprob"], scores["logprob"] / scores["n_tokens"])


def test_greedy_stops(model, tokenizer):
    prompts = list(LETTERS[1:25])
    full = lm.greedy(model, tokenizer, prompts, max_new_tokens=8)
    prompt, text = max(zip(prompts, full, strict=True), key=lambda pair: len(set(pair[1])))
    assert len(text) >= 4
    before, head = model.generation_config.eos_token_id, lm.encode(tokenizer, prompt)
    model.generation_config.eos_token_id = [2, lm.encode(tokenizer, prompt + text)[len(head) + 1]]
    try:
        (ended,) = lm.greedy(model, tokenizer, [prompt], max_new_tokens=8)
        assert text.startswith(ended) and len(ended) < len(text)
    finally:
        model.generation_config.eos_token_id = before


# Editing


def test_editing_is_entered_around_each_forward(model, tokenizer):
    log = []

    @contextmanager
    def editing(n_prompt):
        handle = model.get_decoder().register_forward_hook(lambda *_: log.append("forward"))
        log.append(n_prompt)
        yield
        handle.remove()
        log.append("left")

    lengths = {len(lm.encode(tokenizer, text)) for text in ("one", "seven")}
    items = [distinct(prompt) for prompt in ("one", "two", "seven")]
    for call in (
        lambda **k: attention.rank_candidates(model, tokenizer, items, **k),
        lambda **k: lm.score_targets(model, tokenizer, ["one", "seven"], ["d", "d"], **k),
        lambda **k: attention.greedy_match(model, tokenizer, ["one", "seven"], ["d", "d"], **k),
        lambda **k: attention.label_logodds(model, tokenizer, ["one", "seven"], "d", "e", **k),
    ):
        log.clear()
        edited, plain = call(during=editing), call()
        assert log[::3] == sorted(lengths) and log[1::3] == ["forward"] * 2
        assert log[2::3] == ["left"] * 2
        np.testing.assert_array_equal(np.asarray(edited), np.asarray(plain))


def test_an_edit_of_the_prompt_reaches_the_score(model, tokenizer):
    @contextmanager
    def editing(n_prompt):
        def blank(_, args, states):
            states = states.clone()
            states[:, : n_prompt - 1] = 0
            return states

        handle = model.get_input_embeddings().register_forward_hook(blank)
        yield
        handle.remove()

    edited = lm.score_targets(model, tokenizer, PROMPTS, TARGETS, during=editing)
    plain = lm.score_targets(model, tokenizer, PROMPTS, TARGETS)
    long = [len(lm.encode(tokenizer, prompt)) > 1 for prompt in PROMPTS]
    assert (np.abs(edited["logprob"] - plain["logprob"]) > 1e-3)[long].all()


# Real models


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_real_models_know_capitals(name, request):
    model, tokenizer = request.getfixturevalue(name)
    names = [" Paris", " Tokyo", " Berlin", " Madrid"]
    places = ["France", "Japan", "Germany", "Spain"]
    prompts = [f"The capital of {place} is the city of" for place in places]
    items = [
        {"prompt": prompt, "gold": gold, "candidates": names}
        for prompt, gold in zip(prompts, names, strict=True)
    ]
    ranks = attention.rank_candidates(model, tokenizer, items)
    assert ranks["correct"].all() and (ranks["margin"] > 1).all()
    scores = lm.score_targets(model, tokenizer, prompts, names)
    single = scores["n_tokens"] == 1
    np.testing.assert_allclose(scores["logprob"][single], ranks["gold_logprob"][single], atol=1e-4)
    assert single.any()
    one = attention.rank_candidates(model, tokenizer, items, batch_size=1)
    np.testing.assert_allclose(one["gold_logprob"], ranks["gold_logprob"], atol=1e-4)


def test_real_prose_has_the_naive_loss(smollm2):
    model, tokenizer = smollm2
    text = "A tutorial is read by people who want to see things happen before they believe. " * 3
    ids = torch.tensor([lm.encode(tokenizer, text)[:48]])
    logprobs = naive_logprobs(model, ids[0].tolist())
    expected = -logprobs[:-1].gather(1, ids[0, 1:, None]).mean().item()
    assert lm.segment_nll(model, ids, chunk=10)[0] == pytest.approx(expected, abs=1e-5)
    assert 0.5 < expected < 4


def prose_segments(tokenizer):
    return lm.segments(tokenizer, english_prose(["import"]).texts[0], 64)[:2]


@pytest.mark.weights
def test_gemma_without_its_start_token_is_much_worse(gemma3):
    model, tokenizer = gemma3
    pieces = prose_segments(tokenizer)
    assert pieces.shape == (2, 65) and (pieces[:, 0] == tokenizer.bos_token_id).all()
    opened, bare = lm.segment_nll(model, pieces), lm.segment_nll(model, pieces[:, 1:])
    assert opened.mean() < bare.mean() - 1


@pytest.mark.weights
def test_smollm2_segments_have_no_start_token(smollm2):
    _, tokenizer = smollm2
    pieces = prose_segments(tokenizer)
    assert pieces.shape == (2, 64)
    assert not set(pieces.flatten().tolist()) & set(tokenizer.all_special_ids)


# Refusals


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, t: lm.score_targets(m, t, [], []), ValueError, "prompts is empty"),
        (lambda m, t: attention.rank_candidates(m, t, []), ValueError, "prompts is empty"),
        (lambda m, t: lm.greedy(m, t, [], max_new_tokens=1), ValueError, "prompts is empty"),
        (lambda m, t: lm.score_targets(m, t, ["a"], []), ValueError, "1 prompts but 0 targets"),
        (lambda m, t: lm.score_targets(m, t, "a", "b"), TypeError, "`prompts` must be a list"),
        (
            lambda m, t: lm.score_targets(m, t, ["a", "no"], ["d", ""]),
            ValueError,
            r"item 1 \(prompt 'no'\): the continuation is empty",
        ),
        (
            lambda m, t: lm.score_targets(m, t, ["a"], ["d"], batch_size=0),
            ValueError,
            "`batch_size`",
        ),
        (
            lambda m, t: attention.rank_candidates(
                m, t, [distinct("a"), {"prompt": "no", "gold": "x", "candidates": ["y", "z"]}]
            ),
            ValueError,
            r"item 1 \(prompt 'no'\).*the gold 'x' once",
        ),
        (
            lambda m, t: attention.rank_candidates(
                m, t, [{"prompt": "no", "gold": "y", "candidates": ["y"]}]
            ),
            ValueError,
            "item 0.*two or more",
        ),
        (
            lambda m, t: attention.rank_candidates(
                m, t, [{"prompt": "no", "gold": "you", "candidates": ["you", "cat", "yes"]}]
            ),
            ValueError,
            r"item 0 \(prompt 'no'\): \['you', 'yes'\] begin with the same token",
        ),
        (
            lambda m, t: attention.next_token_logprobs(m, t, ["a"], ["yn"]),
            TypeError,
            "`choices` must be a list",
        ),
        (lambda m, t: lm.segment_nll(m, torch.zeros(3, 1, dtype=int)), ValueError, r"\(N, T\)"),
        (lambda m, t: lm.segment_nll(m, torch.zeros(5, dtype=int)), ValueError, r"\(N, T\)"),
        (lambda m, t: lm.segment_nll(m, torch.zeros(2, 5)), ValueError, "must be integers"),
        (lambda m, t: lm.segment_nll(m, token_ids(), chunk=0), ValueError, "`chunk`"),
        (
            lambda m, t: lm.greedy(m, t, ["a"], max_new_tokens=0),
            ValueError,
            "`max_new_tokens`",
        ),
    ],
)
def test_lm_refuses(model, tokenizer, call, error, says):
    with pytest.raises(error, match=says):
        call(model, tokenizer)


def test_a_prompt_without_tokens_is_refused(model):
    plain, opening = tiny_tokenizer(start=False), tiny_tokenizer(start=True)
    with pytest.raises(ValueError, match=r"item 1 \(prompt ''\) has no tokens"):
        lm.score_targets(model, plain, ["a", ""], ["d", "d"])
    assert lm.score_targets(model, opening, [""], ["d"])["n_tokens"].tolist() == [1]


@pytest.mark.parametrize("family", ["gpt2", "opt", "bigcode"])
def test_texts_longer_than_the_learned_positions_are_named(family):
    model = (more_families if family == "bigcode" else families).build(family)
    tokenizer = tiny_tokenizer(start=True)
    full, over = "A" * (CONTEXT - 1), "A" * CONTEXT  # the start token comes in front
    editing.next_distributions(model, tokenizer, [full])
    lm.segment_nll(model, token_ids(1, CONTEXT))
    lm.greedy(model, tokenizer, [full[:-2]], max_new_tokens=3)
    lm.score_targets(model, tokenizer, ["A", full[:-2]], [" A", " A"], padded=True)
    says = rf"item 1: {CONTEXT + 1} tokens.*the model has {CONTEXT} positions"
    for call in (
        lambda: editing.next_distributions(model, tokenizer, ["A", over]),
        lambda: lm.score_targets(model, tokenizer, ["A", full], [" A", "A"]),
        lambda: lm.score_targets(model, tokenizer, ["A", full], [" A", "A"], padded=True),
        lambda: attention.rank_candidates(model, tokenizer, [distinct("A"), distinct(over)]),
        lambda: lm.greedy(model, tokenizer, ["A", over], max_new_tokens=1),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    with pytest.raises(ValueError, match=rf"item 0: {CONTEXT} tokens .* 1 to follow"):
        lm.greedy(model, tokenizer, [full], max_new_tokens=2)
    with pytest.raises(ValueError, match=r"item 0: .*, 1 to follow"):
        twosample.sample_answers(model, tokenizer, full, 2, max_new_tokens=2)
    with pytest.raises(ValueError, match=rf"item 0: {CONTEXT + 1} tokens"):
        lm.segment_nll(model, token_ids(1, CONTEXT + 1))


def test_computed_positions_have_no_end_and_the_vocabulary_has_one(model):
    tokenizer = tiny_tokenizer(start=True)
    assert len(editing.next_distributions(model, tokenizer, ["A" * (CONTEXT + 9)])) == 1
    assert lm.segment_nll(model, token_ids(1, CONTEXT + 9)).shape == (1,)
    tokenizer.add_tokens([f"<n{i}>" for i in range(40)])
    for call in (
        lambda: editing.next_distributions(model, tokenizer, ["a", "<n39>"]),
        lambda: lm.score_targets(model, tokenizer, ["a", "a"], [" d", "<n39>"]),
        lambda: lm.greedy(model, tokenizer, ["a", "<n39>"], max_new_tokens=1),
        lambda: lm.segment_nll(model, [[3, 4], [3, VOCAB]]),
        lambda: lm.segment_nll(model, [[3, 4], [3, -100]]),
    ):
        with pytest.raises(ValueError, match=rf"item 1: .* inf positions and {VOCAB} tokens"):
            call()


def test_nan_logits_name_the_item(tokenizer):
    model = build("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[LETTERS.index("z") + 3] = torch.nan
    for call in (
        lambda: lm.score_targets(model, tokenizer, ["two", "one", "oz"], [" d"] * 3),
        lambda: attention.rank_candidates(
            model, tokenizer, [distinct(p) for p in ("two", "one", "oz")]
        ),
    ):
        with pytest.raises(ValueError, match="item 2: the model's logits are NaN"):
            call()
    ids = token_ids(4, 6)
    ids[3, 2] = LETTERS.index("z") + 3
    with pytest.raises(ValueError, match="item 3"):
        lm.segment_nll(model, ids, batch_size=2)


def test_a_target_may_straddle_the_end_of_its_prompt_if_that_is_asked_for(model, tokenizer):
    prompts, targets = ["see a"], ["b"]  # "ab" is one token
    with pytest.raises(ValueError, match="changes how the prompt itself"):
        lm.score_targets(model, tokenizer, prompts, targets)
    found = lm.score_targets(model, tokenizer, prompts, targets, straddle=True)
    ids = lm.encode(tokenizer, prompts[0])
    (own,) = tokenizer(targets[0], add_special_tokens=False)["input_ids"]
    expected = float(naive_logprobs(model, ids)[-1, own])
    assert found["logprob"][0] == pytest.approx(expected, abs=1e-5)
    apart = lm.score_targets(model, tokenizer, ["see "], ["b"], straddle=True)
    assert apart.equals(lm.score_targets(model, tokenizer, ["see "], ["b"]))
    with pytest.raises(ValueError, match="continuation is empty"):
        lm.score_targets(model, tokenizer, prompts, [""], straddle=True)


HANZI = "中国首都是北京巴黎法德天地"


@given(st.text(alphabet=HANZI + "abc. ", min_size=1, max_size=8).filter(lambda t: t[0] != " "))
def test_a_target_tokenized_on_its_own_is_given_no_space(text):
    tokenizer = spaced_tokenizer()
    prompt, text = "中国首都是", f"北{text}"  # 是北 is one token
    ids = lm.encode(tokenizer, prompt)
    (own,) = lm.added_tokens(tokenizer, [(0, prompt, ids, text)], straddle=True)
    assert "".join(tokenizer.convert_ids_to_tokens(own)).replace("▁", " ") == text


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_the_tokens_of_a_straddling_target_are_scored_and_counted(model, scheme):
    tokenizer = spaced_tokenizer()
    if scheme == "first":
        tokenizer.backend_tokenizer.pre_tokenizer = Metaspace(split=False, prepend_scheme=scheme)
    prompt, target = "中国首都是", "北京"
    found = lm.score_targets(model, tokenizer, [prompt], [target], straddle=True)
    ids = lm.encode(tokenizer, prompt)
    row = [*ids, *tokenizer.convert_tokens_to_ids(["北", "京"])]
    logprobs = naive_logprobs(model, row)
    expected = sum(float(logprobs[t - 1, row[t]]) for t in (len(ids), len(ids) + 1))
    assert found["n_tokens"][0] == 2
    assert found["logprob"][0] == pytest.approx(expected, abs=1e-5)
    # a target that merges with the first neighbour that is tried, and one that begins with a space
    tokenizer = spaced_tokenizer()
    for target, own in (("b", ["b"]), (" 北", ["▁", "北"])):
        (ids,) = lm.added_tokens(tokenizer, [(0, "x", [0], target)], straddle=True)
        assert tokenizer.convert_ids_to_tokens(ids) == own


def test_next_distributions_are_those_of_the_last_token(model, tokenizer):
    prompts = ["see ", "Q of ABC is", "one"]
    found = editing.next_distributions(model, tokenizer, prompts)
    for prompt, row in zip(prompts, found, strict=True):
        expected = naive_logprobs(model, lm.encode(tokenizer, prompt))[-1]
        np.testing.assert_allclose(row.numpy(), np.asarray(expected), atol=1e-4)
    assert editing.next_distributions(model, tokenizer, []).shape == (0, found.shape[1])
