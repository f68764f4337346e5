"""Classifiers of token maps (information extraction models), and what one reads out of them.

Source: Yang et al. 2025, arXiv 2506.00698 (CORTEX); layer plans after the released code, smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

Classifier = Callable[[Tensor], Tensor]  # (B, d, h, w) to (B, C) logits


def _block(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]


def cnn(classes: int, *, width: int = 32, grid: int = 12) -> nn.Module:
    """Four convolutions, two poolings, two linear layers, for (B, width, grid, grid)."""
    return nn.Sequential(
        *_block(width, 24),
        *_block(24, 24),
        nn.MaxPool2d(2),
        *_block(24, 40),
        *_block(40, 40),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(40 * (grid // 4) ** 2, 48),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(48, classes),
    )


class _Squeezed(nn.Module):
    """A residual block whose channels are weighted behind the addition."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1),
            nn.BatchNorm2d(after),
        )
        # stride 2 reads every other token alone: the cause of the checkerboard in its gradient
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, stride)
        self.gate = nn.Sequential(
            nn.Linear(after, after // 4), nn.ReLU(), nn.Linear(after // 4, after), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        x = (self.body(x) + self.short(x)).relu()
        return x * self.gate(x.mean((2, 3)))[:, :, None, None]


def resnet(classes: int, *, width: int = 32) -> nn.Module:
    """Two stages of two residual blocks with squeeze and excitation, each begun with stride 2."""
    return nn.Sequential(
        _Squeezed(width, 24, 2),
        _Squeezed(24, 24, 1),
        _Squeezed(24, 24, 2),
        _Squeezed(24, 24, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, classes),
    )


class Transformer(nn.Module):
    """A class token, learned positions, pre-norm layers over the tokens of the map."""

    def __init__(self, classes: int, *, width: int = 32, grid: int = 12, layers: int = 3) -> None:
        super().__init__()
        self.inward = nn.Linear(width, 48)
        self.start = nn.Parameter(torch.zeros(1, 1, 48))
        self.places = nn.Parameter(0.02 * torch.randn(1, grid**2, 48))
        layer = nn.TransformerEncoderLayer(
            48, 4, 96, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.outward = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, classes))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.inward(x.flatten(2).transpose(1, 2)) + self.places
        states = self.layers(torch.cat([self.start.expand(len(x), -1, -1), tokens], 1))
        return self.outward(states[:, 0])


FLAVOURS = {"cnn": cnn, "resnet": resnet, "transformer": Transformer}


def judge(classes: int, *, pooled: bool) -> nn.Module:
    """A classifier of pictures (B, 3, 48, 48), which never sees a token."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, classes)]
    if not pooled:
        head = [nn.Flatten(), nn.Linear(48 * 36, 32), nn.ReLU(), nn.Linear(32, classes)]
    first = [nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU()]
    body = [*_block(24, 32), nn.MaxPool2d(2), *_block(32, 48), *_block(48, 48), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *body, *head)


# ----------------------------------------------------------------------------- token importance


def _logits_of(f: Classifier, embedded: Tensor, targets: Tensor) -> Tensor:
    """(B,): each picture's target logit."""
    return f(embedded).gather(1, targets[:, None])[:, 0]


def gradient(
    f: Classifier,
    embedded: Tensor,
    targets: Tensor,
    *,
    noise: float = 0.0,
    samples: int = 1,
    seed: int = 0,
) -> Tensor:
    """Gradient of each picture's target logit by its token vectors, mean over noisy copies.

    Args:
        f: classifier in evaluation mode.
        embedded: (B, d, h, w).
        targets: (B,) classes.
        noise: standard deviation of the noise added to the vectors (SmoothGrad).
        samples: noisy copies.
        seed: of the noise.

    Returns:
        (B, d, h, w); the signed maximum over d is CORTEX's token importance.

    Raises:
        ValueError: as many targets as pictures are not given, or no copy.
    """
    if len(targets) != len(embedded) or samples < 1:
        raise ValueError(f"{len(embedded)} pictures, {len(targets)} targets, {samples} copies.")
    generator, total = torch.Generator().manual_seed(seed), torch.zeros_like(embedded)
    for _ in range(samples):
        shift = torch.randn(embedded.shape, generator=generator).to(embedded)
        noisy = (embedded.detach() + noise * shift).requires_grad_()
        with torch.enable_grad():
            chosen = _logits_of(f, noisy, targets)
        total += torch.autograd.grad(chosen.sum(), noisy)[0]
    return total / samples


@torch.no_grad()
def occlude(f: Classifier, embedded: Tensor, targets: Tensor, instead: Tensor) -> Tensor:
    """(B, h, w): fall of the target logit with one token's vector replaced by `instead` (d,)."""
    before = _logits_of(f, embedded, targets)
    falls = torch.empty(len(embedded), *embedded.shape[2:])
    for row, column in np.ndindex(*embedded.shape[2:]):
        changed = embedded.clone()
        changed[:, :, row, column] = instead
        falls[:, row, column] = before - _logits_of(f, changed, targets)
    return falls


def top(scores: Tensor, n: int) -> Tensor:
    """(B, h, w) mask of the n positions of largest score in each map."""
    flat = scores.flatten(1)
    if not 0 < n <= flat.shape[1]:
        raise ValueError(f"n must be from 1 to {flat.shape[1]} positions, got {n}.")
    mask = torch.zeros_like(flat, dtype=torch.bool)
    return mask.scatter(1, flat.topk(n).indices, True).view(scores.shape)


def same_tokens(tokens: Tensor, chosen: Tensor) -> Tensor:
    """(B, h, w) mask of all positions that carry a token of the chosen positions (B, h, w)."""
    return torch.stack(
        [torch.isin(own, own[mask]) for own, mask in zip(tokens, chosen, strict=True)]
    )


def painted(images: Tensor, mask: Tensor, fill: Tensor | float = 0.0) -> Tensor:
    """Pictures (B, 3, H, W) with the pixels of masked tokens (B, h, w) set to `fill`."""
    patch = images.shape[-1] // mask.shape[-1]
    pixels = mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
    return torch.where(pixels, torch.as_tensor(fill, dtype=images.dtype), images)


# ------------------------------------------------------------------------ choosing tokens


def choose_tokens(
    f: Classifier,
    codebook: Tensor,
    tokens: Tensor,
    region: Tensor,
    targets: Tensor,
    *,
    steps: int,
    lr: float,
    seed: int,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Tokens for a region that raise the target logit: free logits, straight-through Gumbel.

    Args:
        f: classifier in evaluation mode.
        codebook: (K, d).
        tokens: (B, h, w), kept outside the region.
        region: (B, h, w) mask.
        targets: (B,) classes to write.
        steps, lr: of Adam.
        seed: of starts and Gumbel noise.
        temperature: of the softmax.

    Returns:
        (B, h, w) tokens, each the most likely of its position, and (steps,) mean target logits.

    Source: Yang et al. 2025, arXiv 2506.00698, codebook-level explanation.
    """
    generator = torch.Generator().manual_seed(seed)
    free = region.nonzero(as_tuple=True)
    logits = torch.randn(len(free[0]), len(codebook), generator=generator).requires_grad_()
    optimizer, found = torch.optim.Adam([logits], lr=lr), []
    fixed = codebook[tokens]  # (B, h, w, d)
    for _ in range(steps):
        uniform = torch.rand(logits.shape, generator=generator).clamp_min(1e-20)
        soft = ((logits - (-uniform.log()).log()) / temperature).softmax(-1)
        hard = nn.functional.one_hot(soft.argmax(-1), len(codebook)).to(soft)
        rows = fixed.clone()
        rows[free] = (hard + (soft - soft.detach())) @ codebook  # one-hot forward, soft backward
        score = _logits_of(f, rows.movedim(-1, 1), targets)
        logits.grad = torch.autograd.grad(-score.sum(), logits)[0]
        optimizer.step()
        found.append(float(score.detach().mean()))
    chosen = tokens.clone()
    chosen[free] = logits.argmax(-1)
    return chosen, torch.tensor(found)
