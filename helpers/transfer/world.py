"""Models small enough to train in a lesson, and a world whose facts are all known."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.artefacts import stored_weights
from helpers.training import last_logits

START, NAMES, RELATIONS, VALUES = 0, 16, 4, 24  # the start token; sizes of the other groups
FIRST, LAST = 1, 1 + NAMES
RELATION, VALUE = LAST + NAMES, LAST + NAMES + RELATIONS
VOCABULARY = VALUE + VALUES
HEADS, HEAD_DIM = 4, 16
OFFSETS = np.array([FIRST, LAST, RELATION])


class Facts(NamedTuple):
    """Prompts (N, 4) "start first last relation", and tokens of the right values (N,)."""

    prompts: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.values)


def world(seed: int) -> dict[str, Facts]:
    """Facts in four sets that share names but no prompt.

    A: 332 facts of relations 0 and 1 with random values. B: the other 180 prompts of these
    relations, with random values: nothing but a look at them can tell them, so a model that was
    not shown them and knows them got them from elsewhere. R: 256 facts of relation 2 whose value is
    a function of the last name, so that examples teach the rest. C: 256 facts of relation 3 with
    random values, something else to learn.
    """
    rng = np.random.default_rng(seed)
    pairs = [(i, j) for i in range(NAMES) for j in range(NAMES)]
    lookups = np.array([(*pair, relation) for relation in range(2) for pair in pairs])
    lookups = rng.permutation(lookups)
    known = int(0.65 * len(lookups))
    rule = rng.permutation(VALUES)[:NAMES]
    others = {k: np.array([(*pair, k) for pair in pairs]) for k in (2, 3)}
    return {
        "A": _facts(lookups[:known], rng.integers(VALUES, size=known)),
        "B": _facts(lookups[known:], rng.integers(VALUES, size=len(lookups) - known)),
        "R": _facts(others[2], rule[others[2][:, 1]]),
        "C": _facts(others[3], rng.integers(VALUES, size=len(pairs))),
    }


def _facts(triples: np.ndarray, values: np.ndarray) -> Facts:
    columns = [np.full(len(triples), START), *(triples + OFFSETS).T]
    return Facts(torch.tensor(np.stack(columns, 1)), torch.tensor(values + VALUE))


def joined(*parts: Facts) -> Facts:
    """One set of facts from several."""
    return Facts(*(torch.cat(column) for column in zip(*parts, strict=True)))


def split(world: dict[str, Facts], seed: int) -> dict[str, Facts]:
    """The facts that a student may see, and those held out to judge it by.

    Half of B and 100 of R are `train`; 20 of these are `extract` (to find the teacher's weights
    with), 80 others `align` (to align with). "B" and "R" are the rest of either.
    """
    rng, seen, found = np.random.default_rng(seed), [], {}
    for name, n in (("B", 90), ("R", 100)):
        order = torch.from_numpy(rng.permutation(len(world[name])))
        seen.append(Facts(*(column[order[:n]] for column in world[name])))
        found[name] = Facts(*(column[order[n:]] for column in world[name]))
    train = joined(*seen)
    few = torch.from_numpy(rng.permutation(len(train)))
    for name, rows in (("extract", few[:20]), ("align", few[20:100])):
        found[name] = Facts(*(column[rows] for column in train))
    return {"train": train, **found}


def tiny_llama(
    *, seed: int, width: int = 64, layers: int = 4, ffn: int = 160, std: float | None = None
) -> LlamaForCausalLM:
    """A fresh Llama for `world`: untied embeddings, norms without weights to train (all 1).

    Without weights a norm only divides by a length, so a rotation of the residual stream passes
    through it. Weights start with standard deviation `std`, by default 1 / sqrt(width).
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        initializer_range=width**-0.5 if std is None else std,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_DIM,
        tie_word_embeddings=False,
        bos_token_id=START,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        weight.requires_grad_("norm" not in name)
    return model


def load(path: Path) -> dict[str, LlamaForCausalLM]:
    """Tiny Llamas by name, in 32 bits; see `stored_weights` for the file and its errors.

    Width, layers and units are read off the tensors.
    """
    found = {}
    for name, own in stored_weights(path).items():
        gates = [x for key, x in own.items() if key.endswith("gate_proj.weight")]
        ffn, width = gates[0].shape
        found[name] = tiny_llama(seed=0, width=width, layers=len(gates), ffn=ffn)
        found[name].load_state_dict(own)
    return found


@torch.no_grad()
def accuracy(model: nn.Module, facts: Facts) -> float:
    """Share of facts whose value has the largest score of all tokens."""
    return float((last_logits(model, facts.prompts).argmax(-1) == facts.values).float().mean())
