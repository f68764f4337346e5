"""Writes quantisers_smollm2-135m.json of notebook 04: answers of a model with rounded weights.

    python data/04_massive_values/make_quantisers.py

Three quantisers round the weights of all linear layers of the decoder blocks to 4 and 3 bits; the
model is then asked all questions of the notebook. What is finished is kept in the cache folder
after every step, so an interrupted run goes on where it stopped. Times are in README.md.

The quantisers are our own, written from Frantar et al. 2022 (GPTQ, arXiv 2210.17323) and Lin et
al. 2023 (AWQ, arXiv 2306.00978). Each returns weights in float that lie on its grid.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from helpers import attention, data, hooks, lm, models
from helpers.artefacts import Steps, versions, write

numbers = data.module("04", "make_numbers")

HERE = Path(__file__).resolve().parent
NAME = "smollm2-135m"
WINDOWS, LENGTH = 32, 128  # calibration: how many windows of how many tokens
DRAWS = (0, 1)  # two draws of calibration windows
WIDTHS = (4, 3)
GROUPS = (32, 64, 192)  # of weights with a common grid; both 576 and 1536 are multiples
DAMAGE = 0.1  # nats: what 4-bit rounding to nearest is to cost on prose, see `choice`
ALPHAS = np.linspace(0, 1, 11).tolist()
DAMPING = 0.01
TINY = 1e-9  # smallest step of a grid

# ------------------------------------------------------------------------------ the quantisers


def grid(w, bits):
    """Lowest level and step of a grid from the smallest to the largest entry of each row."""
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    return low, ((high - low) / (2**bits - 1)).clamp(min=TINY)


def on_grid(w, low, step, bits):
    return low + step * ((w - low) / step).round().clamp(0, 2**bits - 1)


def rtn(w, bits, group):
    """Each weight of w (out, in) to the nearest level; `group` weights of a row share a grid."""
    groups = w.unflatten(1, (-1, group))
    return on_grid(groups, *grid(groups, bits), bits).flatten(1)


class Inputs(NamedTuple):
    """What a linear layer reads on the calibration text."""

    moment: torch.Tensor  # (in, in): X'X, summed over tokens
    size: torch.Tensor  # (in,): mean |x|


def output_error(change, moment):
    """Sum of squares over tokens of what a change (out, in) of the weights does to the outputs."""
    return ((change @ moment) * change).sum().item()


def awq(w, bits, group, inputs):
    """Channels with large inputs are stretched before rounding, so that they lose less.

    The power of the stretch is the one with the smallest error of the outputs. The inverse is
    folded back into the weights; the method keeps it with the layer before.
    """
    found = []
    for alpha in ALPHAS:
        stretch = inputs.size.clamp(min=1e-4) ** alpha
        stretch = stretch / (stretch.max() * stretch.min()).sqrt()
        new = rtn(w * stretch, bits, group) / stretch
        found.append((output_error(new - w, inputs.moment), alpha, new))
    return min(found, key=lambda own: own[0])[2]


def gptq(w, bits, group, inputs):
    """Column by column: what rounding one breaks, the columns to come make good.

    The grid of a group is that of its weights when its turn comes.
    """
    h = inputs.moment.double()
    h = h + DAMPING * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    upper, rest, new = upper.to(w.dtype), w.clone(), torch.empty_like(w)
    for start in range(0, w.shape[1], group):
        own = slice(start, start + group)
        low, step = grid(rest[:, own], bits)
        errors = torch.empty_like(rest[:, own])
        for i in range(start, start + group):
            new[:, i] = on_grid(rest[:, i : i + 1], low, step, bits)[:, 0]
            errors[:, i - start] = (rest[:, i] - new[:, i]) / upper[i, i]
            rest[:, i : own.stop] -= torch.outer(errors[:, i - start], upper[i, i : own.stop])
        rest[:, own.stop :] -= errors @ upper[own, own.stop :]
    return new


CALIBRATED = {"AWQ": awq, "GPTQ": gptq}

# ------------------------------------------------------------------------------- a whole model


def linear_layers(module):
    return {name: own for name, own in module.named_modules() if isinstance(own, nn.Linear)}


def block_inputs(model, ids):
    """Hidden states (N, T, d) before the first block, and the other arguments of a block."""
    seen = {}

    def keep(module, args, kwargs):
        seen.update(states=args[0] if args else kwargs.pop("hidden_states"), others=kwargs)
        raise hooks.StopForward(seen)

    handle = model.model.layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad(), hooks.stopping(seen), handle:
        model.model(input_ids=ids, use_cache=False)
    return seen["states"], seen["others"]


def apply_block(block, states, others):
    found = block(states, **others)
    return found if isinstance(found, torch.Tensor) else found[0]


def read_by(block, states, others):
    """Inputs of every linear layer of a block."""
    seen, handles = {}, []
    for name, layer in linear_layers(block).items():

        def keep(module, args, name=name):
            x = args[0].flatten(0, 1)
            seen[name] = Inputs(x.T @ x, x.abs().mean(0))

        handles.append(layer.register_forward_pre_hook(keep))
    try:
        apply_block(block, states, others)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def norm(x):
    return x.square().sum().item()


def round_to_nearest(model, bits, group):
    """Rounds the blocks of a model in place; the relative error of the weights comes back."""
    change = size = 0.0
    for layer in linear_layers(model.model.layers).values():
        w = layer.weight.data
        layer.weight.data = rtn(w, bits, group)
        change, size = change + norm(layer.weight.data - w), size + norm(w)
    return {"weight": round((change / size) ** 0.5, 5)}


@torch.no_grad()
def quantise(model, method, bits, group, ids):
    """Rounds the blocks of a model in place, one after the other; relative errors come back.

    A block is calibrated on what the rounded blocks before it hand on; its own layers are
    rounded together, so each sees what the others do before they are rounded. The error of the
    outputs is the mean over layers, beside that of rounding to nearest on the same inputs.
    """
    change = size = 0.0
    outputs, nearest = [], []
    states, others = block_inputs(model, ids)
    for block in model.model.layers:
        for name, inputs in read_by(block, states, others).items():
            layer = block.get_submodule(name)
            w = layer.weight.data
            layer.weight.data = new = CALIBRATED[method](w, bits, group, inputs)
            change, size = change + norm(new - w), size + norm(w)
            full = output_error(w, inputs.moment)
            outputs.append(output_error(new - w, inputs.moment) / full)
            nearest.append(output_error(rtn(w, bits, group) - w, inputs.moment) / full)
        states = apply_block(block, states, others)
    return {
        "weight": round((change / size) ** 0.5, 5),
        "output": round(float(np.sqrt(outputs).mean()), 5),
        "output of RTN": round(float(np.sqrt(nearest).mean()), 5),
    }


def calibration(tokenizer, seed):
    """Windows of help texts, none of which holds what the loss on prose is measured on."""
    texts = data.english_prose().texts
    scored = " ".join(texts[:4])  # the last topic quotes two of them
    sentences = [own for text in texts[4:] for own in text.split(". ") if own not in scored]
    tokens = torch.tensor(lm.encode(tokenizer, ". ".join(sentences)))
    starts = np.random.default_rng(seed).integers(len(tokens) - LENGTH, size=WINDOWS)
    return torch.stack([tokens[s : s + LENGTH] for s in starts])


# ------------------------------------------------------------------------------------ the steps


def loss_at(group, bits):
    """Loss on prose after rounding to nearest, and the relative error of the weights."""
    model, tokenizer = models.load(NAME)
    error = round_to_nearest(model, bits, group)["weight"] if group else 0.0
    loss = lm.segment_nll(model, numbers.prose_ids(tokenizer)).mean()
    return [round(float(loss), 4), error]


def chosen(table):
    """Smallest group at which 4 bits cost `DAMAGE` on prose; no question is asked for it."""
    clean = table["clean"][0]
    return next(g for g in GROUPS if table[f"4 bit, group {g}"][0] - clean >= DAMAGE)


def massive_kept(model, reference, ids):
    """Relative change of post-RoPE q and k: in each head's massive dimension, and in the others.

    `reference`: q and k of the untouched model, as captured.
    """
    found = {}
    states = attention.capture_qkv(model, ids)
    for part in "qk":
        change = {"massive": [], "others": []}
        for new, old in zip(states[part], reference[part], strict=True):
            size = old.square().sum((0, 2))  # (heads, D)
            moved = (new - old).square().sum((0, 2))
            top = size == size.amax(-1, keepdim=True)
            for kind, mask in (("massive", top), ("others", ~top)):
                share = (moved * mask).sum(-1) / (size * mask).sum(-1)
                change[kind] += share.sqrt().tolist()
        found[part] = {kind: round(float(np.median(own)), 4) for kind, own in change.items()}
    return found


def condition(method, bits, group, seed):
    model, tokenizer = models.load(NAME)
    texts = data.english_prose().texts[:2]
    ids = torch.tensor([lm.encode(tokenizer, text)[:192] for text in texts])
    reference = attention.capture_qkv(model, ids)
    errors = {}
    if method in CALIBRATED:
        errors = quantise(model, method, bits, group, calibration(tokenizer, seed))
    elif method == "RTN":
        errors = round_to_nearest(model, bits, group)
    changes = massive_kept(model, reference, ids)
    return {"answers": numbers.run_tasks(model, tokenizer, None), "errors": errors | changes}


def main():
    torch.set_num_threads(1)
    items = hashlib.sha256((HERE / "items.json").read_bytes()).hexdigest()
    setting = [WINDOWS, LENGTH, DRAWS, ALPHAS, DAMPING]
    steps = Steps("massive_values_quantisers", [items, setting])
    table = {"clean": steps.run("loss clean", lambda: loss_at(0, 0))}
    for bits in WIDTHS:
        for g in GROUPS:
            label = f"{bits} bit, group {g}"
            table[label] = steps.run(f"loss {label}", lambda b=bits, g=g: loss_at(g, b))
    group = chosen(table)
    wanted = {"clean": ("", 0, group, 0)}
    for s in DRAWS:
        for bits in WIDTHS:
            if s == 0:
                wanted[f"{bits} bit RTN"] = ("RTN", bits, group, s)
            for method in CALIBRATED:
                wanted[f"{bits} bit {method} s{s}"] = (method, bits, group, s)
    found = steps.run_all({label: lambda how=how: condition(*how) for label, how in wanted.items()})
    head = {
        "model": NAME,
        "items_sha256": items,
        "prose_sha256": data.english_prose().sha256,
        **versions(),
        "group": group,
        "calibration": f"{WINDOWS} windows of {LENGTH} tokens",
        "rounding_to_nearest": {"columns": ["loss on prose", "relative error of weights"], **table},
    }
    results = {
        "errors": {label: own["errors"] for label, own in found.items()},
        "conditions": {label: own["answers"] for label, own in found.items()},
    }
    write(HERE / f"quantisers_{NAME}.json", {**head, **results})


if __name__ == "__main__":
    main()
