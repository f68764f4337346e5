"""The same function in other coordinates: rotations and permutations that a Llama cannot feel.

Rows are activations: a residual x becomes x Q. Weights have PyTorch's shape (out, in). What is done
to a model's weights must be done to a difference of weights, too, if it is to mean the same.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import expm, orthogonal_procrustes
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from helpers import hooks

READS = ("embed_tokens", "lm_head", "q_proj", "k_proj", "gate_proj", "up_proj", "v_proj")
WRITES = ("o_proj", "down_proj")


def layer_and_kind(name: str) -> tuple[int | None, str]:
    """What a parameter's name says: its layer (None outside the layers) and its module's name."""
    layer = re.search(r"layers\.(\d+)\.", name)
    return int(layer[1]) if layer else None, name.removesuffix(".weight").rsplit(".", 1)[-1]


class Coordinates(NamedTuple):
    """Where a model's numbers go.

    residual: Q (d, d') with orthonormal columns; fewer columns than rows drop directions.
    heads: for each layer R (H, D, D), a rotation of every head's values.
    units: for each layer p (n',); the new feed-forward unit i is the old unit p[i].
    """

    residual: Tensor
    heads: list[Tensor]
    units: list[Tensor]


def identity(model: nn.Module) -> Coordinates:
    """Coordinates that change nothing."""
    c = model.config
    eye = torch.eye(c.head_dim).repeat(c.num_attention_heads, 1, 1)
    layers = range(c.num_hidden_layers)
    return Coordinates(
        torch.eye(c.hidden_size),
        [eye for _ in layers],
        [torch.arange(c.intermediate_size) for _ in layers],
    )


def random_coordinates(model: nn.Module, rng: np.random.Generator | int) -> Coordinates:
    """Uniformly drawn rotations of the residual stream and of every head, shuffled units."""
    rng, start = np.random.default_rng(rng), identity(model)
    return Coordinates(
        _rotation(len(start.residual), rng),
        [torch.stack([_rotation(head.shape[-1], rng) for head in own]) for own in start.heads],
        [torch.from_numpy(rng.permutation(len(own))) for own in start.units],
    )


def _rotation(n: int, rng: np.random.Generator) -> Tensor:
    """Haar measure: QR of a Gaussian matrix with the signs of R's diagonal taken out."""
    q, r = np.linalg.qr(rng.normal(size=(n, n)))
    return torch.from_numpy(q * np.sign(np.diag(r))).float()


def rotation_path(model: nn.Module, angle: float, rng: np.random.Generator | int) -> Coordinates:
    """A step of `angle` along one path of rotations exp(angle K) of the residual stream.

    K is a random skew-symmetric matrix whose largest rotation is half a turn at angle 1; the same
    `rng` seed gives the same path.
    """
    start = identity(model)
    noise = np.random.default_rng(rng).normal(size=start.residual.shape)
    skew = noise - noise.T
    skew *= np.pi / np.linalg.norm(skew, 2)
    return start._replace(residual=torch.from_numpy(expm(angle * skew)).float())


def recoordinate(tensors: Mapping[str, Tensor], coordinates: Coordinates) -> dict[str, Tensor]:
    """Weights, or differences of weights, of a Llama in new coordinates.

    Args:
        tensors: by parameter name; as many key as query heads, norms with weights of 1.
        coordinates: where the numbers go.

    Raises:
        ValueError: a norm with other weights (fold them into the next matrix first), heads that
            share values, or a parameter of an unknown kind; it is named.
    """
    q = coordinates.residual
    found = {}
    for name, tensor in tensors.items():
        _, kind = layer_and_kind(name)
        if "norm" in kind:
            if not (tensor == 1).all():
                raise ValueError(f"{name!r} has weights other than 1: fold them into what follows.")
            found[name] = torch.ones(q.shape[1])
        elif kind in READS:
            found[name] = _inside(name, tensor, coordinates) @ q
        elif kind in WRITES:
            found[name] = q.T @ _inside(name, tensor, coordinates)
        else:
            raise ValueError(f"no rule for the coordinates of {name!r}.")
    return found


def _inside(name: str, tensor: Tensor, coordinates: Coordinates) -> Tensor:
    """The other side of the matrix, away from the residual stream."""
    layer, kind = layer_and_kind(name)
    if layer is None:  # token ids have no coordinates
        return tensor
    heads, units = (part[layer] for part in (coordinates.heads, coordinates.units))
    n_heads, dim = heads.shape[:2]
    if kind in ("v_proj", "o_proj"):
        values = tensor.shape[0 if kind == "v_proj" else 1]
        if values != n_heads * dim:
            raise ValueError(f"{name!r} has {values} values, not {n_heads} heads of {dim}.")
    if kind == "v_proj":
        return torch.einsum("hij,hjd->hid", heads, tensor.view(n_heads, dim, -1)).flatten(0, 1)
    if kind == "o_proj":
        return torch.einsum("xhj,hij->xhi", tensor.view(-1, n_heads, dim), heads).flatten(1)
    if kind in ("gate_proj", "up_proj"):
        return tensor[units]
    return tensor[:, units] if kind == "down_proj" else tensor


def in_coordinates(model: nn.Module, coordinates: Coordinates) -> nn.Module:
    """A new model: the same function where Q is square and units are permuted, else a smaller one.

    Raises:
        ValueError: as `recoordinate`.
    """
    config = copy.deepcopy(model.config)
    config.hidden_size = coordinates.residual.shape[1]
    config.intermediate_size = len(coordinates.units[0])
    with torch.random.fork_rng(devices=[]):
        other = type(model)(config).eval()
    other.load_state_dict(recoordinate(model.state_dict(), coordinates))
    for old, new in zip(model.parameters(), other.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    return other


@torch.no_grad()
def activations(model: nn.Module, prompts: Tensor) -> dict[str, list[Tensor]]:
    """What flows at all positions of the prompts (N, T), rows N * T.

    Returns:
        "residual": the stream before the first and behind every layer; "units": inputs of the
        down-projections; "values": inputs of the output projections of attention.
    """
    down, out = list(hooks.down_projections(model)), list(output_projections(model))
    names = list(hooks.blocks(model))
    with (
        hooks.capture(model, names) as behind,
        hooks.capture(model, names[0], of="input") as before,
        hooks.capture(model, down + out, of="input") as inner,
    ):
        model(input_ids=prompts, use_cache=False, logits_to_keep=1)
    return {
        "residual": [x.flatten(0, 1) for x in (before[names[0]], *(behind[n] for n in names))],
        "units": [inner[name].flatten(0, 1) for name in down],
        "values": [inner[name].flatten(0, 1) for name in out],
    }


def output_projections(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layer that ends each attention, by name, in order."""
    return {f"{name}.o_proj": module.o_proj for name, module in hooks.attentions(model).items()}


def estimated(old: nn.Module, new: nn.Module, prompts: Tensor) -> Coordinates:
    """The coordinates that lead from one model to another, from what flows on prompts (N, T).

    Rotations by orthogonal Procrustes (the residual stream at all depths, every head's values),
    units by linear assignment on correlations.

    Raises:
        ValueError: models of different shapes.
    """
    a, b = activations(old, prompts), activations(new, prompts)
    for kind, own in a.items():
        shapes = [[x.shape for x in side] for side in (own, b[kind])]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{kind} of the two models have different shapes.")
    n_heads = old.config.num_attention_heads
    return Coordinates(
        procrustes(torch.cat(a["residual"]), torch.cat(b["residual"])),
        [
            torch.stack([
                procrustes(x, y).T
                for x, y in zip(p.chunk(n_heads, 1), q.chunk(n_heads, 1), strict=True)
            ])
            for p, q in zip(a["values"], b["values"], strict=True)
        ],
        [match_units(p, q) for p, q in zip(a["units"], b["units"], strict=True)],
    )  # fmt: skip


def procrustes(x: Tensor, y: Tensor) -> Tensor:
    """Orthogonal Q (d, d) that makes x Q nearest to y, both (N, d)."""
    found, _ = orthogonal_procrustes(x.double().numpy(), y.double().numpy())
    return torch.from_numpy(found).float()


def match_units(x: Tensor, y: Tensor) -> Tensor:
    """p (n,) with column p[i] of x for column i of y: one to one, largest sum of correlations."""
    a, b = ((u - u.mean(0)) / (u.std(0) + 1e-9) for u in (x.double(), y.double()))
    rows, columns = linear_sum_assignment((a.T @ b).numpy(), maximize=True)
    return torch.from_numpy(rows[np.argsort(columns)])
