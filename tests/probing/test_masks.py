"""masks: what flows where, in every family, and the losses that train for an open mask."""

import copy
import threading
from types import SimpleNamespace

import more_families
import numpy as np
import pytest
import torch
from families import DECODERS, LAYERS, VOCAB, WINDOW, build, one_thread, token_ids  # noqa: F401
from test_hooks import no_compiled_code  # noqa: F401
from torch import nn

from helpers import hooks, probing
from helpers.probing import masks

# Gemma 2 caps its attention logits, which SDPA cannot: transformers refuses the pair
RUNS = [
    (family, kind)
    for family in DECODERS
    for kind in ("sdpa", "eager")
    if (family, kind) != ("gemma2", "sdpa")
]
EACH_RUN = pytest.mark.parametrize(("family", "kind"), RUNS)
N, AT = WINDOW, 4  # short enough that a sliding window sees everything


def made(family, kind):
    model = build(family)
    model.set_attn_implementation(kind)
    return model, token_ids(1, N)[0]


def other(ids):
    return int(ids[AT]) % 90 + 3


@EACH_RUN
def test_a_causal_model_leaks_nothing_and_an_open_one_everywhere(family, kind):
    model, ids = made(family, kind)
    closed = probing.leakage(model, ids, AT, other(ids))
    assert closed.shape == (LAYERS + 1, N)
    assert (closed[:, :AT] == 0).all() and (closed[:, AT:].max(0) > 0).all()
    with probing.bidirectional(model):
        opened = probing.leakage(model, ids, AT, other(ids))
    assert (opened[1:] > 0).all()
    assert (opened[0] > 0).nonzero()[0].tolist() == [AT]
    again = probing.leakage(model, ids, AT, other(ids))
    assert (again == closed).all()
    assert not any(m._forward_pre_hooks for m in model.modules())


@EACH_RUN
def test_padding_stays_hidden_when_attention_is_open(family, kind):
    model, ids = made(family, kind)
    padded = torch.cat([ids, torch.tensor([5, 6])])
    mask = torch.tensor([[1] * N + [0, 0]])
    with torch.no_grad(), probing.bidirectional(model):
        alone = model(ids[None], use_cache=False).logits[0]
        both = torch.stack([padded, padded])
        both[1, N:] = 7
        within = model(both, attention_mask=mask.expand(2, -1), use_cache=False).logits[:, :N]
        leak = probing.leakage(model, padded, AT, other(ids), attention_mask=mask)
    torch.testing.assert_close(within[0], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(within[0], within[1], atol=0, rtol=0)
    assert (leak[1:, :N] > 0).all()


@EACH_RUN
def test_layers_open_one_by_one(family, kind):
    model, ids = made(family, kind)
    with probing.bidirectional(model, layers=[1]):
        leak = probing.leakage(model, ids, AT, other(ids))
    assert (leak[1, :AT] == 0).all()  # the first block is causal as before
    assert (leak[2:, :AT] > 0).all()


@EACH_RUN
def test_padding_on_the_left_is_neither_seen_nor_counted(family, kind):
    model, ids = made(family, kind)
    both = torch.stack([torch.cat([torch.tensor([5, 6]), ids]), torch.arange(10, 10 + N + 2)])
    mask = torch.tensor([[0, 0] + [1] * N, [1] * (N + 2)])
    with torch.no_grad(), probing.bidirectional(model):
        alone = [model(row[None], use_cache=False).logits[0] for row in (ids, both[1])]
        within = model(both, attention_mask=mask, use_cache=False).logits
        places = torch.arange(N + 2).expand(2, -1).contiguous()
        given = model(both, attention_mask=mask, position_ids=places, use_cache=False).logits
    torch.testing.assert_close(within[0, 2:], alone[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(within[1], alone[1], atol=1e-4, rtol=1e-4)
    learned = family in ("gpt2", "opt")  # where the caller's own positions make a difference
    assert torch.allclose(given[0, 2:], alone[0], atol=1e-3) != learned


@pytest.mark.parametrize("family", more_families.HYBRIDS)
def test_hybrids_are_opened_in_all_layers_that_attend(family):
    model, ids = more_families.build(family), token_ids(1, N)[0]
    blocks = list(hooks.blocks(model))
    attending = {
        i for i, name in enumerate(blocks) for a in hooks.attentions(model) if f"{name}." in a
    }
    first, last = min(attending), max(attending)

    def before(layers=None):
        """Which states in front of the change move: (L + 1,). Experts are added up by rounding."""
        with probing.bidirectional(model, layers):
            moved = probing.leakage(model, ids, AT, other(ids))[:, :AT] > 1e-5
        assert (moved.any(1) == moved.all(1)).all()
        return moved.all(1).tolist()

    closed = probing.leakage(model, ids, AT, other(ids))
    assert (closed[:, :AT] < 1e-5).all()
    assert before() == [layer > first for layer in range(5)]
    given = []
    with probing.bidirectional(model), torch.no_grad():
        for module in hooks.attentions(model).values():
            module.register_forward_pre_hook(
                lambda _module, _args, kwargs: given.append(kwargs["attention_mask"]),
                with_kwargs=True,
            )
        model(ids[None], use_cache=False)
    assert len(given) == len(attending) and not any(mask.any() for mask in given)
    if family == "zamba2":
        with pytest.raises(ValueError, match="numbers them"):
            before([1])
        return
    assert before([last]) == [layer > last for layer in range(5)]
    assert (probing.leakage(model, ids, AT, other(ids)) == closed).all()
    for layer in {0, 2, 9} - attending:
        with pytest.raises(ValueError, match=rf"layers \[{layer}\] do not each name one attention"):
            before([layer])


def test_batches_in_two_threads_keep_their_own_padding():
    model, ids = made("llama", "sdpa")
    rows = [torch.cat([ids, torch.tensor([5, 6])])[None], token_ids(1, N + 2, seed=1)]
    given = [torch.tensor([[1] * N + [0, 0]]), torch.ones(1, N + 2, dtype=torch.long)]
    results, both = {}, threading.Barrier(2, timeout=10)

    def run(i):
        with torch.no_grad():
            results[i] = model(rows[i], attention_mask=given[i], use_cache=False).logits

    with probing.bidirectional(model):
        for i in range(2):
            run(i)
        expected = dict(results)
        meet = model.model.embed_tokens.register_forward_hook(lambda *_: [both.wait()].clear())
        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        meet.remove()
    assert all(torch.equal(results[i], expected[i]) for i in range(2))
    assert all(results[i] is not expected[i] for i in range(2))


def test_a_copy_made_inside_stays_causal():
    model, ids = made("gpt2", "sdpa")
    with probing.bidirectional(model):
        twin = copy.deepcopy(model)
        assert (probing.leakage(twin, ids, AT, other(ids))[:, :AT] == 0).all()
    assert (probing.leakage(twin, ids, AT, other(ids))[:, :AT] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_leakage_in_half_precision(dtype):
    model, ids = made("llama", "sdpa")
    exact = probing.leakage(model, ids, AT, other(ids))
    leak = probing.leakage(model.to(dtype), ids, AT, other(ids))
    assert leak.dtype == np.float32 and (leak[:, :AT] == 0).all()
    np.testing.assert_allclose(leak, exact, atol=0.1)


def test_uniform_attention_by_hand():
    values = torch.arange(1.0, 5).reshape(1, 4, 1)
    causal = torch.zeros(1, 1, 4, 4).masked_fill(
        torch.ones(4, 4).triu(1).bool(), torch.finfo(torch.float32).min
    )
    opened = masks._opened(causal, values)
    for mask, expected in ((causal, [1, 1.5, 2, 2.5]), (opened, [2.5] * 4)):
        weights = mask[0, 0].softmax(-1)
        assert (weights @ values[0, :, 0]).tolist() == pytest.approx(expected)


def test_a_sliding_window_is_opened_to_both_sides_and_stays_a_window():
    n = 6
    i = torch.arange(n)
    causal = (i[:, None] >= i) & (i[:, None] - i < 3)
    opened = masks._opened(causal[None, None], torch.zeros(1, n, 2))
    assert torch.equal(opened[0, 0] == 0, (i[:, None] - i).abs() < 3)


def test_the_hooks_go_also_after_an_exception():
    model, _ = made("llama", "sdpa")
    with pytest.raises(RuntimeError, match="in between"), probing.bidirectional(model):
        raise RuntimeError("in between")
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_opened_is_told():
    model, ids = made("llama", "sdpa")
    with (
        pytest.raises(ValueError, match=r"layers \[9\] do not .* numbers them \[0, 1, 2\]"),
        probing.bidirectional(model, [9]),
    ):
        pass
    with torch.no_grad():
        cache = model(ids[None], use_cache=True).past_key_values
        with probing.bidirectional(model), pytest.raises(ValueError, match="whole sequences"):
            mask = torch.ones(1, N + 2, dtype=torch.long)
            model(ids[None, :2], past_key_values=cache, attention_mask=mask)
    with torch.no_grad(), probing.bidirectional(model):
        for mask in (torch.zeros(1, 1, N, N), {"full_attention": None}):
            with pytest.raises(ValueError, match=r"`attention_mask` must be \(B, T\)"):
                model(ids[None], attention_mask=mask, use_cache=False)
    with (
        pytest.raises(ValueError, match="the decoder of ModernBertDecoderForCausalLM is not found"),
        probing.bidirectional(more_families.build("modernbert")),
    ):
        pass
    for position, token in ((N, 5), (-1, 5), (AT, int(ids[AT]))):
        with pytest.raises(ValueError, match="`position` inside it"):
            probing.leakage(model, ids, position, token)


def test_a_compiled_model_is_refused(no_compiled_code):  # noqa: F811
    model, ids = made("llama", "sdpa")
    with probing.bidirectional(model):  # nothing has been compiled: it may go unused
        pass
    run = torch.compile(model, backend="eager")
    for compiled in (run, model):
        with torch.no_grad():
            run(ids[None], use_cache=False)
        with (
            pytest.raises(ValueError, match="skips hooks"),
            probing.bidirectional(compiled),
            torch.no_grad(),
        ):
            run(ids[None], use_cache=False)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_fifth_is_hidden_in_three_ways_and_never_a_first_token():
    ids = torch.full((1000, 1000), 5)
    masked, chosen = probing.mask_tokens(ids, 7, 10**6, 0.2, np.random.default_rng(0))
    shares = [(chosen & own).float().mean() for own in (masked == 7, masked == 5)]
    random = chosen & (masked != 7) & (masked != 5)
    assert shares == pytest.approx([0.16, 0.02], abs=2e-3)
    assert random.float().mean() == pytest.approx(0.02, abs=2e-3)
    assert not chosen[:, 0].any() and (masked[~chosen] == 5).all() and (ids == 5).all()


class Points(nn.Module):
    """A model that is sure of one token: at place t of the one at place t + ahead."""

    def __init__(self, ids, ahead):
        super().__init__()
        self.logits = 50 * nn.functional.one_hot(ids.roll(-ahead, 1), VOCAB).float()

    def forward(self, input_ids, use_cache):
        return SimpleNamespace(logits=self.logits)


def test_hidden_tokens_are_read_one_place_before():
    ids = torch.arange(1, 13).reshape(2, 6)
    chosen = torch.zeros(2, 6, dtype=torch.bool)
    chosen[0, 2] = chosen[1, 5] = True
    right, late = (probing.masked_next_token_loss(Points(ids, n), ids, ids, chosen) for n in (1, 0))
    assert right < 1e-6 and late > 10
    even = Points(ids, 1)
    even.logits = torch.zeros(2, 6, 49152)
    loss = probing.masked_next_token_loss(even, ids, ids, chosen)
    assert loss.item() == pytest.approx(10.80267, abs=1e-5)


def test_what_cannot_be_trained_on_is_told():
    ids = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="rate"):
        probing.mask_tokens(ids, 7, 97, 1.5, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"\(B, T\)"):
        probing.mask_tokens(ids[0], 7, 97, 0.2, np.random.default_rng(0))
    first = torch.tensor([[True, False, False, False]] * 2)
    with pytest.raises(ValueError, match="behind the first"):
        probing.masked_next_token_loss(build("llama"), ids, ids, first)
