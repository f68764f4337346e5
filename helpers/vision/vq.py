"""Pictures as maps of discrete tokens: a small VQ autoencoder, and adapters to large ones."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from helpers import artefacts


class VQTokenizer(Protocol):
    """What the lessons need of a tokenizer of pictures; pictures are (B, 3, H, W) in [0, 1]."""

    codebook: Tensor  # (K, d)

    def encode(self, images: Tensor) -> Tensor:
        """(B, h, w) tokens."""

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, d, h, w): each token's vector as the decoder reads it."""

    def decode(self, embedded: Tensor) -> Tensor:
        """(B, 3, H, W) pictures, differentiable in `embedded` (B, d, h, w)."""


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(...,) numbers of the rows of `codebook` (K, d) nearest to vectors (..., d), to a percent.

    Raises:
        ValueError: NaN or infinite numbers.
    """
    rows = vectors.reshape(-1, vectors.shape[-1])
    if not (rows.isfinite().all() and codebook.isfinite().all()):
        raise ValueError("`vectors` or `codebook` holds NaN or infinite numbers.")
    mode = "use_mm_for_euclid_dist"
    least, found = torch.cdist(rows.float(), codebook.float(), compute_mode=mode).min(-1)
    # Such products round at 1e-7 of the squared lengths: near codes are told by differences.
    near = ~(least > 0.01 * (rows.norm(dim=-1) + codebook.norm(dim=-1).max()))
    rows, book, mode = rows[near].double(), codebook.double(), f"donot_{mode}"
    found[near] = torch.cdist(rows, book, compute_mode=mode).argmin(-1)
    return found.view(vectors.shape[:-1])


def looked_up(codebook: Tensor, tokens: Tensor) -> Tensor:
    """(B, d, h, w) vectors of tokens (B, h, w).

    Raises:
        ValueError: a token that the codebook does not have.
    """
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(codebook):
        raise ValueError(f"tokens must be from 0 to {len(codebook) - 1}: got {tokens.unique()}.")
    return codebook[tokens].movedim(-1, 1)


def usage(tokens: Tensor, codes: int) -> tuple[Tensor, float]:
    """How often each of `codes` is used, (K,), and the perplexity of that distribution."""
    counts = torch.bincount(tokens.flatten(), minlength=codes)
    shares = counts[counts > 0] / counts.sum()
    return counts, float(torch.exp(-(shares * shares.log()).sum()))


# ---------------------------------------------------------------------------------- a small one


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), narrow inside."""

    def __init__(self, channels: int, inside: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, inside, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(inside, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SmallVQ(nn.Module):
    """A VQ autoencoder for 48 x 48 pictures: 12 x 12 tokens, each of 4 x 4 pixels.

    Args:
        codes: K.
        width: d.
        channels: of the convolutions.
    """

    def __init__(self, *, codes: int = 128, width: int = 32, channels: int = 64) -> None:
        super().__init__()
        half = channels // 2
        self.encoder = nn.Sequential(
            nn.Conv2d(3, half, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, channels, 4, stride=2, padding=1),
            Residual(channels, half),
            Residual(channels, half),
            nn.ReLU(),
            nn.Conv2d(channels, width, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(width, channels, 3, padding=1),
            Residual(channels, half),
            Residual(channels, half),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, half, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(half, 3, 4, stride=2, padding=1),
        )
        self.register_buffer("codebook", torch.zeros(codes, width))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return nearest(self.encoder(images).movedim(1, -1), self.codebook)

    def embed(self, tokens: Tensor) -> Tensor:
        return looked_up(self.codebook, tokens)

    def decode(self, embedded: Tensor) -> Tensor:
        return self.decoder(embedded).sigmoid()


def load(path: Path, model: nn.Module, name: str) -> nn.Module:
    """`model` with the weights "name/..." of a safetensors file, in 32 bits, ready to use.

    Raises:
        ValueError: a file that cannot be read, or without such weights; it is named.
    """
    kept = artefacts.stored_weights(path)
    if name not in kept:
        raise ValueError(f"{path} holds no {name!r}, only {sorted(kept)}.")
    model.load_state_dict(kept[name])
    return model.eval()


# ------------------------------------------------------------------------------- large ones


class _Adapter:
    """The tokenizer of a transformers model; pictures in [0, 1] become [-1, 1] inside."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    @property
    def codebook(self) -> Tensor:
        return self.model.quantize.embedding.weight.detach()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        hidden = self.model.quant_conv(self.model.encoder(2 * images - 1))
        _, _, tokens = self.model.quantize(hidden)
        return tokens.view(len(images), *hidden.shape[-2:])

    def embed(self, tokens: Tensor) -> Tensor:
        return looked_up(self.codebook, tokens)

    def decode(self, embedded: Tensor) -> Tensor:
        kind = type(self.model).__name__
        raise NotImplementedError(
            f"{kind} has an encoder but no decoder in transformers: tokens of its pictures can be "
            "attributed and masked, not edited and shown."
        )


class _Janus(_Adapter):
    @property
    def codebook(self) -> Tensor:
        """Of length 1 each: the decoder reads normalised vectors, the encoder compares raw ones."""
        return nn.functional.normalize(super().codebook, dim=-1)

    def decode(self, embedded: Tensor) -> Tensor:
        return self.model.decoder(self.model.post_quant_conv(embedded)) / 2 + 0.5


class _Emu3(_Adapter):
    """A model of videos: a picture is one block of `temporal_downsample_factor` equal frames."""

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        sizes = torch.tensor([images.shape[-2:]] * len(images))
        return torch.stack(self.model.encode(2 * images - 1, image_sizes=sizes).image_tokens)

    def decode(self, embedded: Tensor) -> Tensor:
        block = embedded[:, :, None]  # (B, d, 1, h, w)
        behind = self.model.post_quant_conv(block).transpose(1, 2)
        frames = self.model.decoder(behind, block.transpose(1, 2))
        height, width = (n * self.model.spatial_scale_factor for n in embedded.shape[-2:])
        return frames.reshape(len(embedded), -1, 3, height, width)[:, 0] / 2 + 0.5


def from_transformers(model: nn.Module) -> VQTokenizer:
    """The VQ tokenizer of a Janus, Chameleon or Emu3 model (or of its VQ part alone).

    Raises:
        TypeError: a model without a VQ part that is known here.
    """
    kinds = {"JanusVQVAE": _Janus, "ChameleonVQVAE": _Adapter, "Emu3VQVAE": _Emu3}
    for module in model.modules():
        if type(module).__name__ in kinds:
            return kinds[type(module).__name__](module)
    raise TypeError(f"{type(model).__name__} has no part among {list(kinds)}.")
