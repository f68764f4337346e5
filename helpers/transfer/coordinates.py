"""The same function in other coordinates: rotations and permutations that a Llama cannot feel.

Rows are activations: a residual x becomes x Q. Weights have PyTorch's shape (out, in).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.initialization import no_init_weights

from helpers import hooks

READS = ("embed_tokens", "lm_head", "q_proj", "k_proj", "gate_proj", "up_proj", "v_proj")
WRITES = ("o_proj", "down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm", "norm")


def layer_and_kind(name: str) -> tuple[int | None, str]:
    """What a parameter's name says: its layer (None outside the layers) and its module's name."""
    layer = re.search(r"layers\.(\d+)\.", name)
    return int(layer[1]) if layer else None, name.removesuffix(".weight").rsplit(".", 1)[-1]


class Coordinates(NamedTuple):
    """Where a model's numbers go.

    residual: Q (d, d') with orthonormal columns; fewer columns than rows drop directions.
    heads: for each layer R (K, D, D), a rotation of the values of every key-value head.
    units: for each layer p (n',); the new feed-forward unit i is the old unit p[i].
    order: for each layer (H,); the new query head i is the old head order[i]. Heads that share
        values stay together, and R[k] belongs to the new key-value head k.
    """

    residual: Tensor
    heads: list[Tensor]
    units: list[Tensor]
    order: list[Tensor]


def identity(model: nn.Module) -> Coordinates:
    """Coordinates that change nothing."""
    c = model.config
    eye = torch.eye(c.head_dim).repeat(c.num_key_value_heads, 1, 1)
    layers = range(c.num_hidden_layers)
    return Coordinates(
        torch.eye(c.hidden_size),
        [eye for _ in layers],
        [torch.arange(c.intermediate_size) for _ in layers],
        [torch.arange(c.num_attention_heads) for _ in layers],
    )


def random_coordinates(model: nn.Module, rng: np.random.Generator | int) -> Coordinates:
    """Uniformly drawn rotations of the residual stream and of every head; units, heads shuffled."""
    rng, start = np.random.default_rng(rng), identity(model)
    n_shared = model.config.num_key_value_heads
    return Coordinates(
        _rotation(len(start.residual), rng),
        [torch.stack([_rotation(head.shape[-1], rng) for head in own]) for own in start.heads],
        [torch.from_numpy(rng.permutation(len(own))) for own in start.units],
        [_shuffled(own.view(n_shared, -1), rng).flatten() for own in start.order],
    )


def _shuffled(groups: Tensor, rng: np.random.Generator) -> Tensor:
    """(K, g) with rows in another order, and each row's entries too."""
    return torch.from_numpy(rng.permuted(rng.permutation(groups.numpy()), axis=1))


def _rotation(n: int, rng: np.random.Generator) -> Tensor:
    """Haar measure: QR of a Gaussian matrix with the signs of R's diagonal taken out."""
    q, r = np.linalg.qr(rng.normal(size=(n, n)))
    return torch.from_numpy(q * np.sign(np.diag(r))).float()


def recoordinate(tensors: Mapping[str, Tensor], coordinates: Coordinates) -> dict[str, Tensor]:
    """Weights, or differences of weights, of a Llama in new coordinates.

    Args:
        tensors: by parameter name; norms with weights of 1.
        coordinates: where the numbers go.

    Raises:
        ValueError: a norm with other weights (see `folded`), a number of heads or values that is
            not that of the coordinates, or a parameter of an unknown kind; it is named.
    """
    q = coordinates.residual
    found = {}
    for name, tensor in tensors.items():
        _, kind = layer_and_kind(name)
        if kind in NORMS:
            if not (tensor == 1).all():
                raise ValueError(f"{name!r} has weights other than 1: use `folded` first.")
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
    heads, units, order = (part[layer] for part in coordinates[1:])
    if kind in ("gate_proj", "up_proj"):
        return tensor[units]
    if kind == "down_proj":
        return tensor[:, units]
    n_shared, dim = heads.shape[:2]
    groups = _groups(name, order, n_shared)
    blocks = tensor.T if kind == "o_proj" else tensor
    own = groups if kind in ("k_proj", "v_proj") else order
    if len(blocks) != len(own) * dim:
        raise ValueError(f"{name!r} has {len(blocks)} values, not {len(own)} heads of {dim}.")
    blocks = blocks.view(len(own), dim, -1)[own]
    if kind in ("v_proj", "o_proj"):
        turns = heads.repeat_interleave(len(own) // n_shared, 0)
        blocks = torch.einsum("hij,hjd->hid", turns, blocks)
    return blocks.flatten(0, 1).T if kind == "o_proj" else blocks.flatten(0, 1)


def _groups(name: str, order: Tensor, n_shared: int) -> Tensor:
    """(K,) the old key-value head of each new one."""
    size = len(order) // n_shared
    whole = sorted(order.tolist()) == list(range(n_shared * size))
    if not whole or (order.view(n_shared, size) // size).unique(dim=1).shape[1] != 1:
        raise ValueError(f"the order of heads for {name!r} must keep {n_shared} groups together.")
    return order[::size] // size


@torch.no_grad()
def folded(model: nn.Module) -> nn.Module:
    """A copy of a Llama whose norms have weights of 1, with an output matrix of its own.

    A norm's gains are factors of the columns of what reads it. The norms need no gradient.

    Raises:
        ValueError: a model that is no Llama, or one with biases.
    """
    if not isinstance(model, LlamaForCausalLM) or any("bias" in n for n in model.state_dict()):
        raise ValueError(f"only a Llama without biases can be folded, not {type(model).__name__}.")
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = False
    with no_init_weights():
        found = LlamaForCausalLM(config).eval()
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    readers = {"model.norm": ["lm_head"]}
    for name in hooks.blocks(model):
        readers[f"{name}.input_layernorm"] = [f"{name}.self_attn.{k}_proj" for k in "qkv"]
        readers[f"{name}.post_attention_layernorm"] = [
            f"{name}.mlp.{k}_proj" for k in ("gate", "up")
        ]
    for norm, matrices in readers.items():
        for matrix in matrices:
            state[f"{matrix}.weight"] *= state[f"{norm}.weight"]
        state[f"{norm}.weight"].fill_(1)
    found.load_state_dict(state, assign=True)
    for name, weight in found.named_parameters():
        weight.requires_grad_("norm" not in name)
    return found


def in_coordinates(model: nn.Module, coordinates: Coordinates) -> nn.Module:
    """A new model: the same function where Q is square and units are permuted, else a smaller one.

    Raises:
        ValueError: as `recoordinate`, and tied embeddings (see `folded`).
    """
    if model.config.tie_word_embeddings:
        raise ValueError("embeddings and head are one matrix: use `folded` first.")
    config = copy.deepcopy(model.config)
    config.hidden_size = coordinates.residual.shape[1]
    config.intermediate_size = len(coordinates.units[0])
    with no_init_weights():
        other = type(model)(config).eval()
    other.load_state_dict(recoordinate(model.state_dict(), coordinates), assign=True)
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
    heads and units by linear assignment on correlations.

    Raises:
        ValueError: models of different shapes.
    """
    a, b = activations(old, prompts), activations(new, prompts)
    for kind, own in a.items():
        shapes = [[x.shape for x in side] for side in (own, b[kind])]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{kind} of the two models have different shapes.")
    n_heads, n_shared = _n_heads(old)
    if _n_heads(new) != (n_heads, n_shared):
        raise ValueError(f"{_n_heads(new)} heads and key-value heads, not {(n_heads, n_shared)}.")
    order = [
        match_heads(p, q, n_heads, n_shared) for p, q in zip(a["values"], b["values"], strict=True)
    ]
    return Coordinates(
        procrustes(torch.cat(a["residual"]), torch.cat(b["residual"])),
        [
            _head_rotations(p, q, own, n_shared)
            for p, q, own in zip(a["values"], b["values"], order, strict=True)
        ],
        [match_units(p, q) for p, q in zip(a["units"], b["units"], strict=True)],
        order,
    )


def _n_heads(model: nn.Module) -> tuple[int, int]:
    return model.config.num_attention_heads, model.config.num_key_value_heads


def _head_rotations(x: Tensor, y: Tensor, order: Tensor, n_shared: int) -> Tensor:
    """(K, D, D) for values (N, H * D), from all query heads that share them."""
    x, y = (side.unflatten(1, (len(order), -1)) for side in (x, y))
    pairs = zip(x[:, order].chunk(n_shared, 1), y.chunk(n_shared, 1), strict=True)
    return torch.stack([procrustes(p.flatten(0, 1), q.flatten(0, 1)).T for p, q in pairs])


def match_heads(x: Tensor, y: Tensor, n_heads: int, n_shared: int) -> Tensor:
    """(H,) with head order[i] of x for head i of y, both (N, H * D); groups stay together.

    By the correlations of their lengths, which no rotation of a head changes.
    """
    a, b = (_standard(side.unflatten(1, (n_heads, -1)).norm(dim=-1)) for side in (x, y))
    size = n_heads // n_shared
    blocks = (a.T @ b).numpy().reshape(n_shared, size, n_shared, size).transpose(0, 2, 1, 3)
    best = [[linear_sum_assignment(block, maximize=True) for block in row] for row in blocks]
    totals = [
        [block[pairs].sum() for block, pairs in zip(*own, strict=True)]
        for own in zip(blocks, best, strict=True)
    ]
    found = np.empty((n_shared, size), dtype=int)
    for old, new in zip(*linear_sum_assignment(totals, maximize=True), strict=True):
        rows, columns = best[old][new]
        found[new, columns] = old * size + rows
    return torch.from_numpy(found.ravel())


def procrustes(x: Tensor, y: Tensor) -> Tensor:
    """Orthogonal Q (d, d) that makes x Q nearest to y, both (N, d)."""
    found, _ = orthogonal_procrustes(x.double().numpy(), y.double().numpy())
    return torch.from_numpy(found).float()


def match_units(x: Tensor, y: Tensor) -> Tensor:
    """p (n,) with column p[i] of x for column i of y: one to one, largest sum of correlations."""
    rows, columns = linear_sum_assignment((_standard(x).T @ _standard(y)).numpy(), maximize=True)
    return torch.from_numpy(rows[np.argsort(columns)])


def _standard(x: Tensor) -> Tensor:
    """Columns of mean 0 and deviation 1."""
    x = x.double()
    return (x - x.mean(0)) / (x.std(0) + 1e-9)
