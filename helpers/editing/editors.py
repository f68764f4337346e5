"""Edits by training and by a codebook, and what an edit did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from peft import AdaLoraConfig, LoraConfig
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.lora import LoraModel
from torch import Tensor, nn

from helpers import hooks, lm
from helpers.editing.rank_one import (
    Request,
    by_row,
    descend,
    down_projection,
    frozen,
    key_at,
    target_nll,
    token_row,
    wide,
)
from helpers.editing.records import Edit
from helpers.lm import During

BATCH = 16  # prompts in a pass
ENOUGH = 1e-2  # nats per token of the target, where training ends
RANK, ALPHA, DROPOUT = 8, 32, 0.1  # of low-rank adapters
QUERY_VALUE = ("q_proj", "v_proj", "c_attn", "query_key_value", "qkv_proj")


def _room(before: Tensor, dtype: torch.dtype, box: float) -> Tensor | float:
    """How far float32 copies of weights may go, so that rounded weights stay in the box."""
    if dtype == before.dtype:
        return box
    half_spacing = torch.finfo(dtype).eps * torch.exp2(torch.frexp(before.abs() + box)[1] - 2.0)
    return (box - half_spacing).clamp(min=0)


@contextmanager
def fine_tune(
    model,
    tokenizer,
    request: Request,
    layer: int,
    *,
    steps: int = 25,
    lr: float = 5e-4,
    at_prompt_end: bool = False,
    box: float | None = None,
) -> Iterator[list[float]]:
    """Train one down-projection on the target: FT-M, or FT-L with `at_prompt_end` and a `box`.

    Yields the losses, nats per token.

    Args:
        model, tokenizer, request, layer: as in `find_memory`.
        steps, lr: of Adam, which stops early at a loss below `ENOUGH`.
        at_prompt_end: score every target token at the prompt's last token, as FT-L does.
        box: most that a single weight may change.

    Source: Zhang et al. 2024, A comprehensive study of knowledge editing (FT-L, FT-M).
    """
    name, module = down_projection(model, layer)
    row = token_row(tokenizer, request)
    with hooks.restore_weights(model, f"{name}.weight"), frozen(model):
        weight = module.weight.requires_grad_(True)
        before = wide(weight.detach().clone())

        def stay(_step: int, now: Tensor) -> None:
            if box is not None:
                room = _room(before, weight.dtype, box)
                now.copy_(before + (now - before).clamp(-room, room))

        terms = lambda: [target_nll(model, row, at_prompt_end=at_prompt_end)]  # noqa: E731
        losses = descend([weight], terms, stay, steps, lr, ENOUGH)
        weight.requires_grad_(False)
        yield losses


@dataclass(frozen=True, eq=False)
class Codebook:
    """One entry beside a down-projection: key (m,), value (d,), and the radius of its ball."""

    model: nn.Module
    name: str
    key: Tensor
    value: Tensor
    radius: float
    losses: list[float]

    @contextmanager
    def during(self, n_prompt: int) -> Iterator[None]:
        """The `during` of `helpers.lm`: looks the prompt's last token up, n_prompt tokens long."""
        held: dict[str, Tensor] = {}
        embeddings = self.model.get_input_embeddings()
        words = next(n for n, m in self.model.named_modules() if m is embeddings)

        def look(_name: str, keys: Tensor) -> Tensor:
            last = by_row(keys, len(seen[words]))[:, n_prompt - 1]
            held["hit"] = (last - self.key).norm(dim=-1) <= self.radius
            return keys

        def answer(_name: str, out: Tensor) -> Tensor:
            rows = by_row(out, len(seen[words])).clone()
            rows[held["hit"], n_prompt - 1] = self.value.to(rows)
            return rows.reshape(out.shape)

        with (
            hooks.capture(self.model, words) as seen,
            hooks.edit(self.model, self.name, look, of="input"),
            hooks.edit(self.model, self.name, answer),
        ):
            yield


def grace(
    model,
    tokenizer,
    request: Request,
    layer: int,
    *,
    radius: float = 1.0,
    steps: int = 50,
    lr: float = 1.0,
) -> Codebook:
    """A codebook adapter: close to the stored key, the layer's output is a learned value.

    No weight changes; use its `during` in the functions of `helpers.lm`.

    Args:
        model, tokenizer, request, layer: as in `find_memory`; the key is the prompt's last token's.
        radius: of the ball around the key, in the units of the keys.
        steps, lr: of Adam on the value, which begins at the old one and ends as in `fine_tune`.

    Source: Hartvigsen et al. 2023 (GRACE).
    """
    name, module = down_projection(model, layer)
    row = token_row(tokenizer, request)
    key = key_at(model, name, row.ids[: row.n_prompt], row.n_prompt - 1)
    value = wide(module(key.to(module.weight)[None])[0]).detach().requires_grad_(True)
    book = Codebook(model, name, key, value, radius, [])

    def terms() -> list[Tensor]:
        with book.during(row.n_prompt):
            return [target_nll(model, row)]

    with frozen(model):
        book.losses.extend(descend([value], terms, lambda *_: None, steps, lr, ENOUGH))
    value.requires_grad_(False)
    return book


@contextmanager
def _adapters(model, config: LoraConfig, seed: int) -> Iterator[LoraModel]:
    """Adapters of peft inside a model, taken out again with all that peft leaves there."""
    owners = {name.rpartition(".")[0] for name in config.target_modules}
    places = {name: dict(model.get_submodule(name)._modules) for name in owners}
    attributes = dict(vars(model))
    kind = AdaLoraModel if isinstance(config, AdaLoraConfig) else LoraModel
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tuner = kind(model, config, "edit")
        yield tuner
    finally:
        for name, modules in places.items():
            model.get_submodule(name)._modules.update(modules)
        vars(model).clear()
        vars(model).update(attributes)


def _unorthogonal(model) -> Tensor:
    """AdaLoRA's penalty: how far its two factors are from orthogonal, mean over the factors."""
    factors = [(n, p) for n, p in model.named_parameters() if "lora_A" in n or "lora_B" in n]
    grams = [p @ p.T if "lora_A" in n else p.T @ p for n, p in factors]
    return torch.stack([torch.dist(g, torch.eye(len(g), device=g.device)) for g in grams]).mean()


@contextmanager
def low_rank(
    model,
    tokenizer,
    request: Request,
    *,
    adaptive: bool = False,
    allocate: bool = True,
    steps: int = 70,
    lr: float = 5e-3,
    seed: int = 0,
) -> Iterator[list[float]]:
    """Train adapters of peft at the queries and values of all layers on the target.

    Yields the losses, nats per token.

    Args:
        model, tokenizer, request: as in `find_memory`.
        adaptive: AdaLoRA, which begins with ranks of 1.5 `RANK` and takes the least important
            directions away until `RANK` is left on average; it makes all its steps.
        allocate: false for a training loop that never asks AdaLoRA to take directions away.
        steps, lr: of Adam; LoRA stops early as `fine_tune` does.
        seed: for the first factor and the dropout; global seeds stay as they are.

    Source: Hu et al. 2022 (LoRA); Zhang et al. 2023 (AdaLoRA), peft's implementation.
    """
    row = token_row(tokenizer, request)
    places = [n for n in hooks.linear_layers(model) if n.rpartition(".")[2] in QUERY_VALUE]
    if not places:
        raise ValueError(f"no linear layer of the model is called one of {QUERY_VALUE}.")
    shared = {"target_modules": places, "lora_alpha": ALPHA, "lora_dropout": DROPOUT}
    shared["fan_in_fan_out"] = not isinstance(model.get_submodule(places[0]), nn.Linear)
    if adaptive:
        budget = {"tinit": steps // 7, "tfinal": steps // 2, "deltaT": 1, "total_step": steps}
        config = AdaLoraConfig(target_r=RANK, init_r=RANK * 3 // 2, **budget, **shared)
    else:
        config = LoraConfig(r=RANK, **shared)
    untouched, enough = set(model.modules()), 0.0 if adaptive else ENOUGH

    def terms() -> Iterator[Tensor]:
        yield target_nll(model, row)
        if adaptive:
            yield config.orth_reg_weight * _unorthogonal(model)

    def take_away(step: int, *_: Tensor) -> None:
        if adaptive and allocate:
            tuner.update_and_allocate(step)

    with frozen(model), _adapters(model, config, seed) as tuner:
        weights = [p for p in model.parameters() if p.requires_grad]
        for p in weights:  # peft gives them the layer's type, and casts what they take in
            p.data = wide(p.data)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            losses = descend(weights, terms, take_away, steps, lr, enough)
        for module in set(model.modules()) - untouched:
            module.eval()
        yield losses


def next_distributions(
    model, tokenizer, prompts: Sequence[str], *, during: During | None = None, padded=False
) -> Tensor:
    """(N, V) log-probabilities, nats, of the next token behind N prompts; see `score_targets`."""
    prompts = lm.as_list("prompts", prompts)
    found = torch.empty(len(prompts), model.config.get_text_config().vocab_size)
    ids = lm.prompt_ids(tokenizer, prompts) if prompts else []
    for members, logprobs in lm.next_logprobs(model, ids, BATCH, during, padded):
        found[members] = logprobs
    return found


class Report(NamedTuple):
    """What a model says around an edit, and its next-token log-probabilities at the locality.

    `scores` has one row per question: `role` (edit, rephrase, portability or locality), `kind`,
    `exact` (greedy decoding writes the answer), `share` (of the answer's tokens that are the most
    probable ones), `prefix` (of its tokens before the first that is not), `logprob` (mean over the
    tokens, nats). Beside the report of the untouched model, locality rows also have `kept` (its
    most probable next token is the same) and `kl` (untouched || edited, nats). `ahead` is
    (locality questions, V).
    """

    scores: pd.DataFrame
    ahead: Tensor


def evaluate(
    model, tokenizer, edit: Edit, *, before: Report | None = None, during=None, prefix: str = ""
) -> Report:
    """The four demands on an edit: success, generality, portability and locality.

    Args:
        model, tokenizer, edit: the record is asked about.
        before: the report of the untouched model.
        during: as in `helpers.lm`, for a codebook.
        prefix: text in front of every question, for editing in context.

    Source: Fang et al. 2025 (CKnowEdit), section 2; scores by log-probability instead of a judge.
    """
    asked = [("edit", edit.type, edit.prompt, edit.target_new)]
    asked += [("rephrase", edit.type, text, edit.target_new) for text in edit.rephrase]
    for role in ("portability", "locality"):
        asked += [(role, p.kind, p.prompt, p.answer) for p in getattr(edit, role)]
    roles, kinds, prompts, answers = zip(*asked, strict=True)
    prompts = [prefix + prompt for prompt in prompts]
    how = {"padded": True} if during is None else {"during": during}
    table = lm.score_targets(model, tokenizer, prompts, answers, straddle=True, **how)
    scores = pd.DataFrame({"role": roles, "kind": kinds, "exact": table["greedy"]})
    own = table[["n_greedy", "n_prefix", "logprob"]].div(table["n_tokens"], axis=0)
    scores[["share", "prefix", "logprob"]] = own
    local = [prompt for prompt, role in zip(prompts, roles, strict=True) if role == "locality"]
    ahead = next_distributions(model, tokenizer, local, **how)
    if before is not None:
        old, rows = before.ahead, scores["role"] == "locality"
        scores.loc[rows, "kept"] = (old.argmax(1) == ahead.argmax(1)).double().numpy()
        scores.loc[rows, "kl"] = (old.exp() * (old - ahead)).sum(1).double().numpy()
    return Report(scores, ahead)
