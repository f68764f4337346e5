"""Rank-one edits: the algebra in closed form, each family of decoders, and undoing them."""

import errno
import re
from pathlib import Path

import pytest
import torch
from families import (
    DECODERS,
    assert_unchanged,
    build,
    fingerprint,
    one_thread,  # noqa: F401
    tiny_tokenizer,
    token_ids,
)
from hypothesis import given
from hypothesis import strategies as st
from more_families import spaced_tokenizer
from one_edit import HALF_FAMILIES, HALVES, REQUEST, TOKENIZER, gain
from users import another_user, public_folder

from helpers import editing, hooks, lm, models, probing
from helpers.editing import rank_one

# Algebra

W, K, V = torch.eye(2), torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.0])


def test_rank_one_update_by_hand():
    plain = editing.rank_one_update(W, K, V, K)
    assert torch.allclose(plain, torch.tensor([[1.0, 1.0], [0, 0]]))
    c = torch.diag(torch.tensor([4.0, 1.0]))
    u = torch.linalg.solve(c, K)
    white = editing.rank_one_update(W, K, V, u)
    assert torch.allclose(white, torch.tensor([[0.4, 1.6], [0, 0]]))
    assert torch.trace(white @ c @ white.T) == pytest.approx(3.2, rel=1e-5)
    assert torch.trace(plain @ c @ plain.T) == pytest.approx(5, rel=1e-5)
    free = editing.rank_one_update(W, K, V, torch.tensor([0.0, 1.0]))  # K in the null space
    assert torch.allclose(free, torch.tensor([[0.0, 2.0], [0, 0]]))
    assert torch.allclose(free @ torch.tensor([1.0, 0.0]), torch.zeros(2))


@given(st.integers(0, 10_000))
def test_any_update_writes_the_value_and_white_ones_disturb_least(seed):
    g = torch.Generator().manual_seed(seed)
    w, k, v = (torch.randn(s, generator=g) for s in ((5, 7), (7,), (5,)))
    keys = torch.randn(40, 7, generator=g) * torch.linspace(0.3, 3, 7)
    c = keys.T @ keys / 40
    white = torch.linalg.solve(c.double(), k.double()).float()
    costs = []
    for u in (white, 7 * white, k + 0.1 * white):
        delta = editing.rank_one_update(w, k, v, u)
        assert torch.allclose((w + delta) @ k, v, atol=1e-3)
        assert torch.linalg.matrix_rank(delta) == 1
        costs.append(float(torch.trace(delta @ c @ delta.T)))
    assert costs[0] == pytest.approx(costs[1], rel=1e-3)
    assert costs[0] <= costs[2] * (1 + 1e-4)


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (torch.tensor([1.0, -1.0]), "orthogonal"),
        (torch.tensor([float("nan"), 1.0]), "not finite"),
    ],
)
def test_updates_that_cannot_be(direction, message):
    with pytest.raises(ValueError, match=message):
        editing.rank_one_update(W, K, V, direction)


def test_whitening_tends_to_the_inverse_and_to_the_key(monkeypatch):
    c = torch.diag(torch.tensor([4.0, 1.0]))
    ridge = rank_one.RIDGE * 2.5  # 2.5 is the mean of the diagonal
    expected = torch.tensor([1 / (4 + ridge), 1 / (1 + ridge)])
    assert torch.allclose(editing.whiten(c, K), expected, atol=1e-6)
    monkeypatch.setattr(rank_one, "RIDGE", 1e-9)
    assert torch.allclose(editing.whiten(c, K), torch.tensor([0.25, 1.0]), atol=1e-5)
    monkeypatch.setattr(rank_one, "RIDGE", 1e6)
    far = editing.whiten(c, K)
    assert far[0] / far[1] == pytest.approx(1, abs=1e-4)


# Where


def test_the_subject_ends_where_its_last_character_is():
    prompt = "The ABC of Q is"
    at = editing.subject_position(TOKENIZER, prompt, "ABC")
    ids = lm.encode(TOKENIZER, prompt)
    assert TOKENIZER.decode([ids[at]]) == "C"
    bare = tiny_tokenizer(start=False)
    assert editing.subject_position(bare, prompt, "ABC") == at - 1
    merged = "see ab is"  # one token for both letters
    ids = lm.encode(TOKENIZER, merged)
    assert TOKENIZER.decode([ids[editing.subject_position(TOKENIZER, merged, "a")]]) == "ab"
    for subject in ("", "XYZ", " ", "is "):
        with pytest.raises(ValueError, match=re.escape(repr(subject))):
            editing.subject_position(TOKENIZER, prompt, subject)
    for subject in ("ABC", "ABC ", " ABC", " ABC "):
        assert editing.subject_position(TOKENIZER, prompt, subject) == at
    # spaces still tell words apart: the second ABC is the one before a space
    assert editing.subject_position(TOKENIZER, "ABCD or ABC is", "ABC ") == len("ABCD or ABC")


@given(st.text(alphabet="ABC. x", max_size=12), st.sampled_from(["ABC", "ABC ", " ABC", "A"]))
@pytest.mark.parametrize("tokenizer", [TOKENIZER, spaced_tokenizer()], ids=["plain", "spaced"])
def test_the_subject_is_looked_for_behind_the_prefix(tokenizer, prefix, subject):
    request = REQUEST._replace(subject=subject)
    row = editing.token_row(tokenizer, request, prefix)
    assert tokenizer.decode([row.ids[row.subject]]).strip() == subject.strip()[-1]
    behind = tokenizer.decode(row.ids[row.subject + 1 : row.n_prompt])
    assert behind.strip() == REQUEST.prompt.partition(subject.rstrip())[2].strip()


@pytest.mark.parametrize("family", DECODERS)
def test_second_moment_is_that_of_captured_keys(family):
    model, ids = build(family), token_ids(rank_one.ROWS + 3, 9)
    name, _ = editing.down_projection(model, 1)
    with torch.no_grad(), hooks.capture(model, name, of="input") as seen:
        model(ids)
    c, n = editing.second_moment(model, 1, ids)
    flat = seen[name].reshape(ids.numel(), -1)
    assert n == len(flat) and torch.allclose(c, flat.T @ flat / n, rtol=1e-4, atol=1e-6)
    ids = ids[:5]
    ids[:, 0] = 1
    with pytest.raises(ValueError, match=r"`layer` must lie in 0..2; got 3"):
        editing.second_moment(model, 3, ids)
    with pytest.raises(ValueError, match="holds no keys"):
        editing.second_moment(model, 1, ids[:, :1], start=1)
    ids[:, 1:][ids[:, 1:] == 1] = 2
    c, n = editing.second_moment(model, 1, ids, start=1)
    with torch.no_grad(), hooks.capture(model, name, of="input") as seen:
        model(ids)
    left = seen[name].reshape(5, 9, -1)[:, 1:].flatten(0, 1)
    assert n == 40 and torch.allclose(c, left.T @ left / 40, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="item 1: 9 tokens"):
        editing.second_moment(model, 1, torch.where(torch.arange(5)[:, None] == 1, 97, ids))


# Editors


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("whitened", [False, True], ids=["plain", "white"])
def test_rome_writes_its_value_and_leaves_no_trace(family, whitened):
    model = build(family)
    before, was = fingerprint(model), gain(model)
    memory = editing.find_memory(model, TOKENIZER, REQUEST, 1, prefixes=["", "a. "], steps=8)
    assert_unchanged(model, before)
    assert memory.losses[-1] < memory.losses[0]
    assert (memory.new - memory.old).norm() <= 4.0001 * memory.old.norm()
    c, _ = editing.second_moment(model, 1, token_ids(8, 20))
    direction = (lambda k: editing.whiten(c, k)) if whitened else None
    _, module = editing.down_projection(model, 1)
    with editing.rome(model, 1, memory, direction) as delta:
        assert torch.linalg.matrix_rank(delta) == 1
        assert torch.allclose(module(memory.key[None])[0], memory.new, atol=1e-3)
        assert gain(model) != was
    assert_unchanged(model, before)
    assert gain(model) == was
    with pytest.raises(RuntimeError, match="in between"):  # noqa: SIM117
        with editing.rome(model, 1, memory, direction):
            raise RuntimeError("in between")
    assert_unchanged(model, before)


@HALVES
@HALF_FAMILIES
def test_memories_in_half_precision_are_those_of_float32(family, dtype):
    options = {"prefixes": ["", "a. "], "steps": 8, "essence": editing.Essence("ABC is a")}
    model = build(family)
    exact = editing.find_memory(model, TOKENIZER, REQUEST, 1, **options)
    before = fingerprint(model.to(dtype))
    memory = editing.find_memory(model, TOKENIZER, REQUEST, 1, **options)
    assert_unchanged(model, before)
    assert {x.dtype for x in memory[:3]} == {torch.float32}
    assert memory.losses == pytest.approx(exact.losses, rel=2e-2)
    for found, right in zip(memory[:3], exact[:3], strict=True):
        assert (found - right).norm() <= 0.1 * right.norm()
    _, module = editing.down_projection(model, 1)
    with editing.rome(model, 1, memory):
        written = module(memory.key.to(dtype)[None])[0].float()
        assert (written - memory.new).norm() <= 0.03 * memory.new.norm()
    assert_unchanged(model, before)


def test_steps_below_the_spacing_of_a_type_add_up():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        weight = torch.ones(3, dtype=dtype, requires_grad=True)
        aim = torch.tensor([1.0, 1.05, 0.9])
        loss = lambda weight=weight, aim=aim: [(weight.float() - aim).square().sum()]  # noqa: E731
        losses = rank_one.descend([weight], loss, lambda *_: None, 400, 1e-3)
        assert weight.dtype == dtype and losses[-1] < 1e-4
        assert (weight - aim).abs().max() <= 0.01


def test_in_float32_descending_is_adam_bit_for_bit():
    start = torch.randn(4, 3)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    unused = torch.ones(2, requires_grad=True)
    calls = []
    losses = rank_one.descend(
        [ours, unused],
        lambda: [ours.square().sum(), ours.sin().sum()],
        lambda step, *copies: calls.append((step, len(copies))),
        *(7, 0.1),
    )
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    for i in range(7):
        loss = theirs.square().sum()
        assert losses[i] == loss.item()
        optimizer.zero_grad()
        (loss + theirs.sin().sum()).backward()
        optimizer.step()
    assert torch.equal(ours, theirs) and torch.equal(unused, torch.ones(2))
    assert calls == [(i, 2) for i in range(7)]


def test_a_loss_that_is_not_finite_is_refused():
    model, forbidden = build("llama"), TOKENIZER("K", add_special_tokens=False)["input_ids"]
    before = fingerprint(model)
    ban = lambda _name, x: x.index_fill(-1, torch.tensor(forbidden), -torch.inf)  # noqa: E731
    refused = pytest.raises(ValueError, match="the loss is NaN or infinite")
    with hooks.edit(model, "lm_head", ban), refused:
        editing.find_memory(model, TOKENIZER, REQUEST, 1)
    assert_unchanged(model, before)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_gradient_checkpoints_change_no_memory(family):
    model = build(family)
    expected = editing.find_memory(model, TOKENIZER, REQUEST, 1, steps=4, prefixes=["", "a. "])
    model.train().activation_checkpointing_enable()
    found = editing.find_memory(model, TOKENIZER, REQUEST, 1, steps=4, prefixes=["", "a. "])
    assert torch.equal(found.new, expected.new) and found.losses == expected.losses
    assert model.is_activation_checkpointing and model.training


def test_an_opened_model_is_not_trained_on_what_it_sees():
    model, row = build("llama"), editing.token_row(TOKENIZER, REQUEST)
    with probing.bidirectional(model):
        with pytest.raises(ValueError, match="opened attention"):
            editing.find_memory(model, TOKENIZER, REQUEST, 1)
        at_end = editing.target_nll(model, row, at_prompt_end=True)
        logprobs = model(row.ids[None, : row.n_prompt]).logits[0, -1].log_softmax(-1)
    expected = -logprobs[row.ids[row.n_prompt :]].mean().item()
    assert at_end.item() == pytest.approx(expected, abs=1e-5)


def test_a_target_may_share_a_token_with_the_end_of_its_prompt():
    request = editing.Request("see a", "see", "b")  # "ab" is one token
    row = editing.token_row(TOKENIZER, request)
    ids = lm.encode(TOKENIZER, request.prompt)
    own = TOKENIZER("b", add_special_tokens=False)["input_ids"]
    assert row.ids.tolist() == ids + own and row.n_prompt == len(ids)
    tokenizer = spaced_tokenizer()  # puts a space in front of every text; 是北 is one token
    row = editing.token_row(tokenizer, editing.Request("中国首都是", "中国", "北京"), "天地")
    assert tokenizer.convert_ids_to_tokens(row.ids) == ["<bos>", "▁", *"天地中国首都是北京"]
    assert (row.subject, row.n_prompt) == (5, 9)


def test_the_essence_of_a_subject_is_kept():
    model, essence = build("llama"), editing.Essence("ABC is a", 50.0)
    ids = torch.tensor([lm.encode(TOKENIZER, essence.prompt)])
    name, _ = editing.down_projection(model, 1)
    place = editing.subject_position(TOKENIZER, essence.prompt, "ABC")
    before, moved = model(ids).logits[0, -1].detach().log_softmax(-1), []
    for about in (None, essence):
        memory = editing.find_memory(model, TOKENIZER, REQUEST, 1, essence=about, steps=8)

        def write(_name, out, memory=memory):
            out = out.clone()
            out[0, place] += memory.new - memory.old
            return out

        with torch.no_grad(), hooks.edit(model, name, write):
            after = model(ids).logits[0, -1].log_softmax(-1)
        moved.append(float((after.exp() * (after - before)).sum()))
        assert memory.losses[-1] < memory.losses[0]
    assert moved[1] < moved[0]


# The cache of covariances


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)
    return tmp_path / "moments"


def test_a_covariance_is_computed_once_for_the_same_model_layer_and_text(cache, monkeypatch):
    model, ids = build("gemma3"), token_ids(5, 9)
    first = editing.cached_moment(model, 1, ids, start=1)
    plain, n = editing.second_moment(model, 1, ids, start=1)
    assert torch.equal(first.matrix, plain) and first.n_keys == n and first.seconds > 0
    (path,) = cache.iterdir()
    compute = editing.second_moment
    monkeypatch.setattr(rank_one, "second_moment", None)
    again = editing.cached_moment(model, 1, ids, start=1)
    assert torch.equal(again.matrix, plain) and again.n_keys == n
    assert again.seconds == pytest.approx(first.seconds)
    whole = path.read_bytes()
    flipped = whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1])
    for damaged in (b"", whole[:100], whole[:-1], flipped + whole[len(flipped) :]):
        path.write_bytes(damaged)  # computed and written again
        monkeypatch.setattr(rank_one, "second_moment", compute)
        assert torch.equal(editing.cached_moment(model, 1, ids, start=1).matrix, plain)
        assert [p.name for p in cache.iterdir()] == [path.name]
        monkeypatch.setattr(rank_one, "second_moment", None)
        assert torch.equal(editing.cached_moment(model, 1, ids, start=1).matrix, plain)


@pytest.mark.parametrize("family", DECODERS)
def test_another_model_layer_or_text_has_another_covariance(cache, family):
    model, ids = build(family), token_ids(5, 9)
    n_before = 0

    def new_file(*args, **kwargs):
        nonlocal n_before
        editing.cached_moment(*args, **kwargs)
        n, n_before = n_before, len(list(cache.iterdir()))
        return n_before > n

    assert new_file(model, 1, ids)
    assert not new_file(model, 1, ids)
    assert new_file(model, 0, ids)
    assert new_file(model, 1, ids.flip(0))
    assert new_file(model, 1, ids, start=int(ids[0, 0]))
    _, later = editing.down_projection(model, 2)
    _, own = editing.down_projection(model, 1)
    with torch.no_grad():
        later.weight.mul_(2)
    assert not new_file(model, 1, ids)  # what comes later does not matter
    with torch.no_grad():
        own.weight.mul_(2)
    assert new_file(model, 1, ids)


def test_another_user_reads_a_covariance_or_computes_it(monkeypatch):
    """In a cache that somebody else has filled: readable, not readable, and nothing there."""
    model, ids, compute = build("llama"), token_ids(5, 9), editing.second_moment
    with public_folder() as shared:
        monkeypatch.setattr(models, "cache_dir", lambda: shared)
        plain = editing.cached_moment(model, 1, ids).matrix
        (path,) = (shared / "moments").iterdir()
        for folder in (path.parent, shared):
            folder.chmod(0o555)
        with another_user():
            monkeypatch.setattr(rank_one, "second_moment", None)
            assert torch.equal(editing.cached_moment(model, 1, ids).matrix, plain)
            monkeypatch.setattr(rank_one, "second_moment", compute)
            assert editing.cached_moment(model, 0, ids).n_keys == ids.numel()
        path.chmod(0)
        with another_user():
            assert torch.equal(editing.cached_moment(model, 1, ids).matrix, plain)
        assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_no_error(cache, monkeypatch):
    def fill(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    model, ids = build("llama"), token_ids(5, 9)
    monkeypatch.setattr(Path, "write_bytes", fill)
    assert editing.cached_moment(model, 1, ids).n_keys == ids.numel()
    assert not list(cache.iterdir())


def test_a_folder_that_cannot_be_written_is_no_error(cache, monkeypatch):
    cache.parent.joinpath("moments").write_text("a file where the folder should be")
    model, ids = build("llama"), token_ids(5, 9)
    found = editing.cached_moment(model, 1, ids)
    assert torch.equal(found.matrix, editing.second_moment(model, 1, ids)[0])
    with pytest.raises(ValueError, match=r"`layer` must lie in 0..2; got -1"):
        editing.cached_moment(model, -1, ids)
