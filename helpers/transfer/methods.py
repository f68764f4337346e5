"""Moving parameters from a large Llama to a small one, by the two published ways.

After injection (Seeking): sensitive blocks of the teacher's matrices start the student's LoRA.
Before injection (LaTen): a small network translates the teacher's neurons and adds them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from helpers import hooks, training
from helpers.transfer.coordinates import layer_and_kind, output_projections
from helpers.transfer.world import Facts

MODULES = ("up_proj", "down_proj", "v_proj", "o_proj")  # those that both methods change


def changed_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices of `MODULES`, by parameter name, in order of depth."""
    return {n: w for n, w in model.named_parameters() if layer_and_kind(n)[1] in MODULES}


def difference(after: nn.Module, before: nn.Module) -> dict[str, Tensor]:
    """What changed in the matrices of `MODULES`."""
    old = changed_weights(before)
    return {n: (w - old[n]).detach() for n, w in changed_weights(after).items()}


@torch.no_grad()
def apply_delta(model: nn.Module, delta: Mapping[str, Tensor], scale: float = 1.0) -> nn.Module:
    """A copy of the model with scale * delta added to its parameters.

    Raises:
        ValueError: a name that is no parameter, or another shape; both are named.
    """
    found = copy.deepcopy(model)
    weights = dict(found.named_parameters())
    for name, own in delta.items():
        if name not in weights:
            raise ValueError(f"the model has no parameter {name!r}.")
        hooks.same_shape(own, weights[name], f"the difference of {name!r}")
        weights[name] += scale * own
    return found


# ------------------------------------------------------------------------------ after injection


def sensitivity(model: nn.Module, facts: Facts) -> dict[str, Tensor]:
    """By parameter in a block: sum over facts of |weight * gradient of the fact's loss|.

    A first-order estimate of how much the loss changes when the weight is set to 0.

    Source: Zhong et al. 2024, arXiv 2310.11451 (Seeking Neural Nuggets).
    """
    weights = {n: w for n, w in model.named_parameters() if "layers." in n and w.requires_grad}
    found = {name: torch.zeros_like(w) for name, w in weights.items()}
    for prompt, value in zip(facts.prompts, facts.values, strict=True):
        with torch.enable_grad():
            scores = training.last_logits(model, prompt[None])
            loss = nn.functional.cross_entropy(scores, value[None])
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for (name, w), gradient in zip(weights.items(), gradients, strict=True):
            found[name] += (w.detach() * gradient).abs()
    return found


def top_layers(scores: np.ndarray, n_layers: int) -> list[int]:
    """The layers of largest score, in order of depth."""
    return sorted(np.argsort(scores)[-n_layers:].tolist())


def layer_scores(scores: Mapping[str, Tensor]) -> np.ndarray:
    """(L,) sums over all parameters of a layer."""
    layers = [layer_and_kind(name)[0] for name in scores]
    totals = np.zeros(max(layers) + 1)
    np.add.at(totals, layers, [float(own.sum()) for own in scores.values()])
    return totals


def best_block(scores: Tensor, shape: tuple[int, int]) -> tuple[int, int]:
    """Top left corner of the block of neighbouring rows and columns with the largest sum.

    Args:
        scores: (a, b), not negative.
        shape: of the block, at most (a, b).

    Raises:
        ValueError: a block that is larger than the matrix.
    """
    height, width = shape
    if not (0 < height <= scores.shape[0] and 0 < width <= scores.shape[1]):
        raise ValueError(f"a block of {shape} does not fit into {tuple(scores.shape)}.")
    sums = nn.functional.pad(scores.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    blocks = (
        sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
    ) + sums[:-height, :-width]  # fmt: skip
    row, column = divmod(int(blocks.argmax()), blocks.shape[1])
    return row, column


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(B, A) with B A nearest to the matrix (a, b): B (a, rank) holds the singular values."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


def random_factors(like: tuple[Tensor, Tensor], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(B, A) with the singular values of `low_rank`'s result and random directions."""
    b, a = like
    u, v = (
        torch.from_numpy(np.linalg.qr(rng.normal(size=shape))[0]).float()
        for shape in (b.shape, a.T.shape)
    )
    return u * b.norm(dim=0), v.T


def seek(
    teacher: nn.Module, student: nn.Module, scores: Mapping[str, Tensor], rank: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """LoRA factors (B, A) for the student's matrices, cut out of the teacher's.

    Layers by `layer_scores`, in each matrix the block of the student's shape by `best_block`.

    Source: Zhong et al. 2024, arXiv 2310.11451; the contiguous block as in the released code.
    """
    layers = top_layers(layer_scores(scores), student.config.num_hidden_layers)
    weights, found = dict(teacher.named_parameters()), {}
    for name, own in changed_weights(student).items():
        before, after = name.split("layers.")
        number, rest = after.split(".", 1)
        source = f"{before}layers.{layers[int(number)]}.{rest}"
        row, column = best_block(scores[source], own.shape)
        height, width = own.shape
        block = weights[source].detach()[row : row + height, column : column + width]
        found[name] = low_rank(block, rank)
    return found


def with_lora(
    model: nn.Module,
    rank: int,
    seed: int,
    factors: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> nn.Module:
    """A copy with LoRA (scale 1) at the matrices of `MODULES`, whose function is the same.

    Args:
        model: not changed.
        rank: of the factors.
        seed: of the usual start (A random, B = 0), where no factors are given.
        factors: (B, A) by parameter name to start from; B A is taken off the frozen matrix.
    """
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(MODULES))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = inject_adapter_in_model(config, copy.deepcopy(model)).eval()
    for name, (b, a) in (factors or {}).items():
        layer = found.get_submodule(name.removesuffix(".weight"))
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
            layer.base_layer.weight -= b @ a
    return found


# ----------------------------------------------------------------------------- before injection


class Located(NamedTuple):
    """Scores of a model's neurons: ffn (L, n), attention (L, H * D); of whole layers (L,)."""

    ffn: Tensor
    attention: Tensor
    layers: np.ndarray


@torch.no_grad()
def locate(model: nn.Module, facts: Facts) -> Located:
    """How much a neuron's output raises the log-probability of the right values, mean over facts.

    Imp(v) = log p(w | h + v) - log p(w | h) at the last position: for a feed-forward unit j, h is
    the residual behind attention and v its activation times its column of the down-projection; for
    attention, h is the layer's input and v one input of the output projection times its column. p
    is the output head behind the final norm, whose divisor is that of the real pass.

    Source: Yu and Ananiadou 2024 (log-probability increase); Tan et al. 2025, arXiv 2505.14436.
    """
    down, names = hooks.down_projections(model), list(hooks.blocks(model))
    out = output_projections(model)
    with (
        hooks.capture(model, names, of="input") as before,
        hooks.capture(model, [*down, *out], of="input") as inner,
        hooks.capture(model, "model.norm", of="input") as final,
    ):
        training.last_logits(model, facts.prompts)
    size = final["model.norm"][:, -1].square().mean(-1).sqrt()

    def value(states: Tensor) -> Tensor:
        """Log-probability of each fact's value from states (N, ..., d)."""
        scaled = states / size.view(-1, *[1] * (states.dim() - 1))
        logs = model.lm_head(scaled).log_softmax(-1)
        index = facts.values.view(-1, *[1] * (logs.dim() - 1)).expand(*logs.shape[:-1], 1)
        return logs.gather(-1, index)[..., 0]

    parts, whole = {"ffn": [], "attention": []}, []
    for name, (d, down_layer), (o, out_layer) in zip(names, down.items(), out.items(), strict=True):
        start = before[name][:, -1]
        middle = start + out_layer(inner[o][:, -1])
        for kind, h, own, layer in (
            ("attention", start, inner[o], out_layer),
            ("ffn", middle, inner[d], down_layer),
        ):
            vectors = own[:, -1, :, None] * layer.weight.T  # (N, n, d)
            parts[kind].append((value(h[:, None] + vectors) - value(h)[:, None]).mean(0))
        behind = middle + down_layer(inner[d][:, -1])
        whole.append(float((value(behind) - value(start)).mean()))
    return Located(torch.stack(parts["ffn"]), torch.stack(parts["attention"]), np.array(whole))


def neurons(model: nn.Module, layers: list[int], places: dict[str, Tensor]) -> dict[str, Tensor]:
    """By kind of matrix: (layers, c, d) rows (up, v) or columns (down, o) of the places' neurons.

    Args:
        model: to be read.
        layers: K layers.
        places: by kind (K, c) numbers of neurons.
    """
    weights = {layer_and_kind(n): w.detach() for n, w in changed_weights(model).items()}
    found = {}
    for kind in MODULES:
        chosen = zip((weights[layer, kind] for layer in layers), places[kind], strict=True)
        rows = [w[own] if kind in ("up_proj", "v_proj") else w[:, own].T for w, own in chosen]
        found[kind] = torch.stack(rows)
    return found


def places_of(located: Located, layers: list[int], counts: tuple[int, int]) -> dict[str, Tensor]:
    """By kind of matrix (K, c): the neurons of largest score in each layer, best first."""
    ffn, attention = (
        scores[layers].argsort(dim=1, descending=True)[:, :n]
        for scores, n in zip(located[:2], counts, strict=True)
    )
    return {"up_proj": ffn, "down_proj": ffn, "v_proj": attention, "o_proj": attention}


class Translator(nn.Module):
    """For each kind of matrix a network of two layers without biases, from width to width.

    Source: Tan et al. 2025, arXiv 2505.14436, the hypernetwork of LaTen.
    """

    def __init__(self, wide: int, narrow: int, *, std: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.nets = nn.ModuleDict()
        for kind in MODULES:
            net = nn.Sequential(
                nn.Linear(wide, wide, bias=False), nn.ReLU(), nn.Linear(wide, narrow, bias=False)
            )
            for weight in net.parameters():
                nn.init.normal_(weight, std=std, generator=generator)
            self.nets[kind] = net

    def forward(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(K, c, wide) by kind to (K, c, narrow)."""
        return {kind: net(vectors[kind]) for kind, net in self.nets.items()}


def injected(
    student: nn.Module, translated: Mapping[str, Tensor], places: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The student's changed matrices with (L, c, d) vectors added at the places' neurons."""
    found = {}
    for name, weight in changed_weights(student).items():
        layer, kind = layer_and_kind(name)
        axis = 0 if kind in ("up_proj", "v_proj") else 1
        vectors = translated[kind][layer]
        vectors = vectors if axis == 0 else vectors.T
        found[name] = weight.detach().index_add(axis, places[kind][layer], vectors)
    return found
