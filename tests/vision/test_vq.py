"""Tokenizers of pictures: the small one, and adapters to models of transformers."""

import numpy as np
import pytest
import torch
from families import one_thread  # noqa: F401
from safetensors.torch import save_file
from torch import nn
from transformers import (
    ChameleonVQVAE,
    ChameleonVQVAEConfig,
    JanusVQVAE,
    JanusVQVAEConfig,
)
from transformers.models.emu3.configuration_emu3 import Emu3VQVAEConfig
from transformers.models.emu3.modeling_emu3 import Emu3VQVAE

from helpers import data, vision
from helpers.vision import vq

BOOK = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])


def test_the_nearest_code_by_hand():
    vectors = torch.tensor([[0.4, 0.0], [0.6, 0.0], [0.0, 1.1]])
    assert vision.nearest(vectors, BOOK).tolist() == [0, 1, 2]
    tokens = torch.tensor([[[0, 2], [1, 1]]])
    assert torch.equal(vision.nearest(vq.looked_up(BOOK, tokens).movedim(1, -1), BOOK), tokens)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("place", [0.0, 1.0, 100.0, -3000.0])
@pytest.mark.parametrize("codes", [5, 128])
def test_the_nearest_code_is_nearest_wherever_the_codebook_lies(place, spread, codes):
    book = place + spread * torch.randn(codes, 8)
    assert torch.equal(vision.nearest(book, book), nearest_by_differences(book, book))
    vectors = place + spread * torch.randn(3, 40, 8)
    found = vision.nearest(vectors, book)
    assert torch.equal(found, nearest_by_differences(vectors, book))
    alone = [vision.nearest(vector, book) for vector in vectors.flatten(0, 1)]
    assert torch.equal(torch.stack(alone).view(3, 40), found)


def nearest_by_differences(vectors, book):
    return (vectors.double()[..., None, :] - book.double()).square().sum(-1).argmin(-1)


def test_near_codes_are_told_apart_beside_far_ones():
    book = torch.cat([torch.randn(40, 4), 500 + 1e-3 * torch.randn(40, 4)])
    assert torch.equal(vision.nearest(book, book), torch.arange(80))
    tiny = 1e-30 * torch.randn(40, 4)  # squares vanish in 32 bits
    assert torch.equal(vision.nearest(tiny, tiny), torch.arange(40))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("codes", [5, 60])
def test_every_precision_has_its_nearest_codes(dtype, codes):
    vectors, book = torch.randn(7, 8).to(dtype), torch.randn(codes, 8).to(dtype)
    assert torch.equal(vision.nearest(vectors, book), nearest_by_differences(vectors, book))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_vectors_that_are_no_numbers_have_no_code(value):
    for vectors, book in ((BOOK + value, BOOK), (BOOK, BOOK + value)):
        with pytest.raises(ValueError, match=r"`vectors` or `codebook` holds NaN"):
            vision.nearest(vectors, book)
    model = small()
    with pytest.raises(ValueError, match="NaN"):
        model.encode(pictures(48) * torch.nan)


def test_the_tokens_of_the_lesson_stay_as_they_are():
    """Products of 32 bits told them, and a token in a million ties to their rounding."""
    file = data.folder("07") / "tokenizer.safetensors"
    tokenizer = vision.load(file, vision.SmallVQ(), "tokenizer")
    images = vision.render(np.arange(40) % 8, np.random.default_rng([6, 3])).images
    with torch.no_grad():
        vectors = tokenizer.encoder(torch.as_tensor(images)).movedim(1, -1)
    as_ever = torch.cdist(vectors.flatten(0, -2), tokenizer.codebook).argmin(-1)
    assert torch.equal(tokenizer.encode(torch.as_tensor(images)).flatten(), as_ever)


def test_usage_by_hand():
    counts, perplexity = vision.usage(torch.tensor([0, 1, 2, 3]), 8)
    assert counts.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert perplexity == pytest.approx(4.0)
    assert vision.usage(torch.tensor([0, 0, 0, 1]), 2)[1] == pytest.approx(1.754765)


@pytest.mark.parametrize("token", [-1, 3])
def test_a_token_outside_the_codebook_is_named(token):
    with pytest.raises(ValueError, match=r"from 0 to 2"):
        vq.looked_up(BOOK, torch.tensor([[[token]]]))


def small():
    model = vision.SmallVQ(codes=16, width=8, channels=16).eval()
    model.codebook.copy_(torch.randn(16, 8))
    return model


def janus():
    config = JanusVQVAEConfig(
        embed_dim=4, num_embeddings=16, latent_channels=8, base_channels=32,
        channel_multiplier=[1, 1], num_res_blocks=1, num_patches=8,
    )  # fmt: skip
    return JanusVQVAE(config)


def chameleon():
    config = ChameleonVQVAEConfig(
        embed_dim=4, num_embeddings=16, latent_channels=8, resolution=16, base_channels=32,
        channel_multiplier=[1, 1], num_res_blocks=1,
    )  # fmt: skip
    return ChameleonVQVAE(config)


def emu3():
    config = Emu3VQVAEConfig(
        codebook_size=16, embed_dim=4, latent_channels=4, base_channels=32,
        channel_multiplier=[1, 1], num_res_blocks=1, attn_resolutions=[], hidden_size=32,
        temporal_downsample_factor=2,
    )  # fmt: skip
    return Emu3VQVAE(config)


REAL = {"janus": janus, "chameleon": chameleon, "emu3": emu3}


def real(name):
    return REAL[name]().eval()


def pictures(size):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["small", *REAL])
def test_pictures_become_tokens_vectors_and_importances(name):
    tokenizer = small() if name == "small" else vision.from_transformers(real(name))
    tokens = tokenizer.encode(pictures(48 if name == "small" else 16))
    side = 12 if name == "small" else 8
    assert tokens.shape == (2, side, side)
    embedded = tokenizer.embed(tokens)
    assert embedded.shape == (2, tokenizer.codebook.shape[1], side, side)
    assert torch.equal(embedded[1, :, 2, 3], tokenizer.codebook[tokens[1, 2, 3]])
    reader = nn.Sequential(nn.Flatten(), nn.Linear(embedded[0].numel(), 3))
    found = vision.gradient(reader, embedded, torch.tensor([0, 2]))
    torch.testing.assert_close(found, reader[1].weight[[0, 2]].view_as(embedded))
    pooled = [nn.Conv2d(embedded.shape[1], 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    noisy = {"noise": 0.2, "samples": 3}
    found = vision.gradient(nn.Sequential(*pooled), embedded, torch.tensor([0, 2]), **noisy)
    assert found.isfinite().all() and found.amax(1).shape == tokens.shape


@pytest.mark.parametrize("name", ["small", "janus", "emu3"])
def test_decoding_is_differentiable_in_the_vectors(name):
    tokenizer = small() if name == "small" else vision.from_transformers(real(name))
    size = 48 if name == "small" else 16
    embedded = tokenizer.embed(tokenizer.encode(pictures(size))).requires_grad_()
    decoded = tokenizer.decode(embedded)
    assert decoded.shape == (2, 3, size, size) and decoded.isfinite().all()
    (gradient,) = torch.autograd.grad(decoded.sum(), embedded)
    assert gradient.abs().sum() > 0


def test_janus_decodes_as_its_own_decode_does():
    model = real("janus")
    tokenizer = vision.from_transformers(model)
    tokens = tokenizer.encode(pictures(16))
    with torch.no_grad():
        theirs = model.decode(tokens.view(2, -1)) / 2 + 0.5
        torch.testing.assert_close(tokenizer.decode(tokenizer.embed(tokens)), theirs)
    assert torch.equal(tokens.flatten(), model.encode(2 * pictures(16) - 1).image_tokens)


def test_emu3_decodes_as_its_own_decode_does():
    model = real("emu3")
    tokenizer = vision.from_transformers(model)
    tokens = tokenizer.encode(pictures(16))
    with torch.no_grad():
        theirs = model.decode(tokens) / 2 + 0.5
        torch.testing.assert_close(tokenizer.decode(tokenizer.embed(tokens)), theirs)


def test_a_model_without_a_decoder_says_so():
    tokenizer = vision.from_transformers(real("chameleon"))
    with pytest.raises(NotImplementedError, match=r"ChameleonVQVAE has an encoder but no decoder"):
        tokenizer.decode(tokenizer.embed(torch.zeros(1, 8, 8, dtype=torch.long)))


def test_a_model_without_a_tokenizer_is_named():
    with pytest.raises(TypeError, match=r"Linear has no part among"):
        vision.from_transformers(nn.Linear(2, 2))


def test_a_tokenizer_is_found_inside_a_larger_model():
    assert vision.from_transformers(nn.ModuleDict({"vqmodel": real("janus")})).codebook.shape == (
        16,
        4,
    )


def test_models_are_loaded_by_name(tmp_path):
    model, file = small(), tmp_path / "models.safetensors"
    save_file({f"tok/{key}": x.half() for key, x in model.state_dict().items()}, file)
    found = vision.load(file, vision.SmallVQ(codes=16, width=8, channels=16), "tok")
    torch.testing.assert_close(found.codebook, model.codebook, atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match=r"holds no 'judge', only \['tok'\]"):
        vision.load(file, nn.Linear(1, 1), "judge")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"models\.safetensors cannot be read"):
        vision.load(file, small(), "tok")
