"""Classifiers of token maps, importance, masking, and the choice of tokens."""

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from families import one_thread  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import vision

W = torch.tensor([-3.0, 1.0, 2.0])


def linear(scale=None):
    """Logits (0, sum over positions of scale * w . e)."""

    def f(e):
        own = torch.einsum("bdhw,d->bhw", e, W)
        own = own if scale is None else own * scale
        return torch.stack([torch.zeros(len(e)), own.sum((1, 2))], 1)

    return f


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_importance_of_a_linear_reader(noise):
    e, target = torch.randn(2, 3, 4, 4), torch.ones(2, dtype=torch.long)
    found = vision.gradient(linear(), e, target, noise=noise, samples=3)
    torch.testing.assert_close(found, W[None, :, None, None].expand(2, 3, 4, 4))
    assert torch.all(found.amax(1) == 2)
    assert torch.allclose(found.norm(dim=1), torch.tensor(3.741657))
    assert torch.all(found.mean(1) == 0)


def test_the_signed_maximum_hides_the_sign_of_the_effect():
    scale = torch.tensor([[2.0, -1.0, 0.0]])
    found = vision.gradient(linear(scale), torch.randn(1, 3, 1, 3), torch.tensor([1]))
    assert found.amax(1).flatten().tolist() == [4.0, 3.0, 0.0]


def test_noise_is_averaged_out():
    """f = |e|^2 / 2: the gradient is e, its error sigma / sqrt(N)."""
    f = lambda e: (0.5 * e.square().sum((1, 2, 3)))[:, None]  # noqa: E731
    e, target = torch.randn(1, 8, 12, 12), torch.tensor([0])
    error = vision.gradient(f, e, target, noise=0.4, samples=20) - e
    assert error.std() == pytest.approx(0.4 / 20**0.5, rel=0.1)
    assert abs(error.mean()) < 5 * 0.4 / (20 * error.numel()) ** 0.5


@pytest.mark.parametrize("flavour", vision.FLAVOURS)
def test_pictures_of_a_batch_do_not_touch_each_other(flavour):
    reader = vision.FLAVOURS[flavour](8).eval()
    e, target = torch.randn(3, 32, 12, 12), torch.tensor([0, 4, 7])
    both = vision.gradient(reader, e, target)
    changed = torch.cat([e[:1], torch.randn(2, 32, 12, 12)])
    torch.testing.assert_close(
        vision.gradient(reader, changed, target)[0], both[0], atol=1e-6, rtol=1e-4
    )
    assert reader(e).shape == (3, 8)


@pytest.mark.parametrize("flavour", vision.FLAVOURS)
def test_gradients_agree_with_captum(flavour):
    reader = vision.FLAVOURS[flavour](8).eval()
    e, target = torch.randn(2, 32, 12, 12), torch.tensor([1, 5])
    ours = vision.gradient(reader, e, target)
    theirs = Saliency(reader).attribute(e.requires_grad_(), target=target, abs=False)
    torch.testing.assert_close(ours, theirs)


def test_smoothgrad_agrees_with_captum_in_the_mean():
    reader = vision.cnn(8).eval()
    e, target = torch.randn(1, 32, 12, 12), torch.tensor([3])
    ours = vision.gradient(reader, e, target, noise=0.3, samples=200, seed=1)
    tunnel = NoiseTunnel(Saliency(reader))
    theirs = tunnel.attribute(
        e, target=target, nt_type="smoothgrad", nt_samples=200, stdevs=0.3, abs=False
    )
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.95


def test_integrated_gradients_sum_to_the_difference_of_logits():
    """Captum's integral of our gradient: completeness on our own reader."""
    reader = vision.cnn(8).eval()
    e, base = torch.randn(2, 32, 12, 12), torch.zeros(2, 32, 12, 12)
    found = IntegratedGradients(reader).attribute(e, base, target=2, n_steps=64)
    share = ((torch.arange(64) + 0.5) / 64)[:, None, None, None]
    target = torch.full((64,), 2)
    ours = torch.stack([x * vision.gradient(reader, share * x, target).mean(0) for x in e])
    with torch.no_grad():
        change = (reader(e) - reader(base))[:, 2]
    torch.testing.assert_close(ours.sum((1, 2, 3)), change, atol=2e-2, rtol=2e-2)
    assert torch.corrcoef(torch.stack([ours.flatten(), found.flatten()]))[0, 1] > 0.999


def test_occlusion_of_a_linear_reader():
    e = torch.randn(2, 3, 2, 2)
    found = vision.occlude(linear(), e, torch.tensor([1, 1]), torch.zeros(3))
    torch.testing.assert_close(found, torch.einsum("bdhw,d->bhw", e, W))


def test_targets_and_copies_are_checked():
    with pytest.raises(ValueError, match=r"2 pictures, 1 targets"):
        vision.gradient(linear(), torch.zeros(2, 3, 1, 1), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"0 copies"):
        vision.gradient(linear(), torch.zeros(1, 3, 1, 1), torch.tensor([1]), samples=0)


# ------------------------------------------------------------------------------------- masks


@given(st.integers(1, 9), st.integers(0, 2**20))
def test_as_many_positions_as_asked_and_the_largest(n, seed):
    scores = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 3, 3)))
    mask = vision.top(scores, n)
    assert mask.sum((1, 2)).tolist() == [n, n]
    for own, chosen in zip(scores, mask, strict=True):
        assert n == 9 or own[chosen].min() >= own[~chosen].max()


@pytest.mark.parametrize("n", [0, 10])
def test_an_impossible_number_of_positions(n):
    with pytest.raises(ValueError, match=r"from 1 to 9 positions"):
        vision.top(torch.zeros(1, 3, 3), n)


def test_masking_by_token_covers_every_place_of_it():
    tokens = torch.tensor([[[0, 1], [1, 2]]])
    chosen = torch.tensor([[[False, True], [False, False]]])
    assert vision.same_tokens(tokens, chosen).tolist() == [[[False, True], [True, False]]]


def test_a_patch_is_painted_where_its_token_is():
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[0, 1, 2] = True
    found = vision.painted(torch.ones(1, 3, 48, 48), mask)
    assert torch.all(found[0, :, 4:8, 8:12] == 0)
    assert found[0].sum((1, 2)).tolist() == [2288] * 3
    assert torch.all(vision.painted(torch.zeros(1, 3, 48, 48), mask, 0.5)[0, :, 4:8, 8:12] == 0.5)


# ------------------------------------------------------------------------ choosing tokens

BOOK = torch.eye(3)  # the reader below prefers token 2


def prefer(e):
    return torch.stack([-e[:, 2].sum((1, 2)), e[:, 2].sum((1, 2))], 1)


def test_tokens_that_the_reader_likes_are_chosen_and_the_others_kept():
    tokens = torch.zeros(2, 4, 4, dtype=torch.long)
    region = torch.zeros(2, 4, 4, dtype=torch.bool)
    region[:, 1:3, 1:3] = True
    targets = torch.tensor([1, 1])
    found, scores = vision.choose_tokens(
        prefer, BOOK, tokens, region, targets, steps=60, lr=0.3, seed=0
    )
    assert torch.all(found[region] == 2)
    assert torch.all(found[~region] == 0)
    assert scores.shape == (60,)
    assert scores[-1] > scores[0]
    assert torch.all(tokens == 0)


def test_gumbel_samples_have_the_probabilities_of_the_logits():
    """With a learning rate of 0 the hard samples follow softmax(logits)."""
    seen = []

    def watch(e):
        seen.append(e[:, 0].clone())
        return e.flatten(1) @ torch.zeros(3 * 25, 1) + 0 * e.sum()

    tokens, region = torch.zeros(1, 5, 5, dtype=torch.long), torch.ones(1, 5, 5, dtype=torch.bool)
    target = torch.tensor([0])
    vision.choose_tokens(watch, BOOK, tokens, region, target, steps=2000, lr=0.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(25, 3, generator=generator).softmax(-1)[:, 0]
    shares = torch.stack(seen).mean(0).flatten()
    torch.testing.assert_close(shares, expected, atol=0.05, rtol=0)
    assert all(set(own.unique().tolist()) <= {0.0, 1.0} for own in seen[:20])


def test_readers_learn(one_thread):  # noqa: F811
    """Whether a vector is somewhere in the map.

    Of two vectors, a reader may learn one and tell the other by its absence (1 seed of 92 did):
    then nothing points at the other. Only a presence has a place.
    """
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(200, 32, 12, 12, generator=generator)
    labels = torch.arange(200) % 2
    e[labels == 1, 0, 5, 5] += 8
    reader = vision.cnn(2).train()
    optimizer = torch.optim.Adam(reader.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(reader(e), labels).backward()
        optimizer.step()
    reader.eval()
    assert (reader(e).argmax(1) == labels).float().mean() > 0.95
    found = vision.gradient(reader, e[1:41:2], labels[1:41:2]).amax(1)
    assert vision.top(found, 5)[:, 4:7, 4:7].any((1, 2)).float().mean() > 0.8
