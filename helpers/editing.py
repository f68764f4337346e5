"""Edits of what a language model says; every editor is a context manager that undoes itself.

A request names a prompt, the subject in it and the wanted continuation. Inside the `with` block the
model is edited; afterwards its weights are what they were, bit for bit, also after an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from helpers import hooks, lm


class Request(NamedTuple):
    """What to write: `target` is to follow `prompt`, in which `subject` occurs."""

    prompt: str
    subject: str
    target: str


class Memory(NamedTuple):
    """Key (m,) and old value (d,) of a down-projection at a token, and the value to be written.

    `losses` are those of the target, nats per token, along the search for the new value.
    """

    key: Tensor
    old: Tensor
    new: Tensor
    losses: list[float]


# ----------------------------------------------------------------------------- where in the prompt


def subject_position(tokenizer, prompt: str, subject: str) -> int:
    """Place of the last token of the subject among the prompt's tokens (start token included).

    Args:
        tokenizer: a fast tokenizer.
        prompt, subject: the subject's first occurrence counts.

    Raises:
        ValueError: an empty subject, or one that does not occur in the prompt.
    """
    at = prompt.find(subject)
    if not subject or at < 0:
        raise ValueError(f"the subject {subject!r} does not occur in the prompt {prompt!r}.")
    offsets = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    inside = [i for i, (a, _) in enumerate(offsets["offset_mapping"]) if a < at + len(subject)]
    return inside[-1] + len(lm.encode(tokenizer, prompt)) - len(offsets["offset_mapping"])


def down_projection(model, layer: int) -> tuple[str, nn.Module]:
    """Name and module of the linear layer that ends the feed-forward part of a block.

    Raises:
        ValueError: no such layer.
    """
    found = list(hooks.down_projections(model).items())
    if not 0 <= layer < len(found):
        raise ValueError(f"`layer` must lie in 0..{len(found) - 1}; got {layer!r}.")
    return found[layer]


def _by_row(states: Tensor, n_rows: int) -> Tensor:
    """(B, T, width); OPT runs its feed-forward part on (B T, width)."""
    return states.reshape(n_rows, -1, states.shape[-1])


def _key(model, name: str, ids: Tensor, place: int) -> Tensor:
    """What a down-projection takes in at one token of a prompt (T,)."""
    with torch.no_grad(), hooks.capture(model, name, of="input", stop=True) as seen:
        model(ids[None].to(model.device), use_cache=False)
    return _by_row(seen[name], 1)[0, place].clone()


def _rows(tokenizer, request: Request, prefixes: Sequence[str]) -> list[tuple[Tensor, int, int]]:
    """For every prefix: token ids (T,), tokens before the target, place of the subject's end."""
    rows = []
    for prefix in prefixes:
        prompt = prefix + request.prompt
        ids, whole = lm.encode(tokenizer, prompt), lm.encode(tokenizer, prompt + request.target)
        if not request.target or whole[: len(ids)] != ids or len(whole) == len(ids):
            raise ValueError(
                f"the target {request.target!r} adds no tokens of its own behind {prompt!r}."
            )
        subject = subject_position(tokenizer, prompt, request.subject)
        rows.append((torch.tensor(whole), len(ids), subject))
    return rows


# ---------------------------------------------------------------------------------- linear algebra


def second_moment(
    model, layer: int, token_ids: Tensor, *, start: int | None = None, batch_size: int = 8
) -> tuple[Tensor, int]:
    """Mean of k kᵀ over the keys of a down-projection, streamed; later blocks are not run.

    Args:
        model: causal language model of transformers.
        layer: number of the block.
        token_ids: (N, T) integers, such as from `lm.segments`.
        start: id of a start token, whose keys are left out (they are like no others).
        batch_size: rows of a forward pass.

    Returns:
        C (m, m), float32, and the number of keys.

    Raises:
        ValueError: no such layer, no keys, or keys that are not finite.

    Source: Meng et al. 2022 (ROME), section 3.1.
    """
    name, _ = down_projection(model, layer)
    total, count = None, 0
    for ids in torch.as_tensor(token_ids).split(batch_size):
        ids = ids.to(model.device)
        with torch.no_grad(), hooks.capture(model, name, of="input", stop=True) as seen:
            model(ids, use_cache=False)
        keys = _by_row(seen[name], len(ids))
        keys = keys[ids != start] if start is not None else keys.flatten(0, 1)
        if not keys.isfinite().all():
            raise ValueError(f"keys of {name!r} are NaN or infinite; check the weights.")
        total = keys.double().T @ keys.double() + (0 if total is None else total)
        count += len(keys)
    if not count:
        raise ValueError("`token_ids` holds no keys; give at least one token behind the start.")
    return (total / count).float(), count


def rank_one_update(weight: Tensor, key: Tensor, value: Tensor, direction: Tensor) -> Tensor:
    """ΔW = (v - W k) uᵀ / (kᵀ u), the update along u after which W k = v.

    With u = C⁻¹ k it is the one that changes the answers to other keys least (trace of ΔW C ΔWᵀ).

    Args:
        weight: W (d, m).
        key, value: k (m,) and v (d,).
        direction: u (m,): k itself, C⁻¹ k, or k projected on directions that other keys leave free.

    Raises:
        ValueError: shapes that do not fit, NaN, or kᵀ u = 0.

    Source: Meng et al. 2022, equation 2; Fang et al. 2025 (AlphaEdit) for the projection.
    """
    d, m = weight.shape
    if key.shape != (m,) or value.shape != (d,) or direction.shape != (m,):
        raise ValueError(
            f"`key`, `value`, `direction` must have shapes ({m},), ({d},), ({m},); got "
            f"{tuple(key.shape)}, {tuple(value.shape)}, {tuple(direction.shape)}."
        )
    overlap = key.double() @ direction.double()
    scale = key.double().norm() * direction.double().norm()
    if not overlap.isfinite() or overlap.abs() <= 1e-12 * scale:
        raise ValueError(
            "`direction` is orthogonal to `key` or not finite; nothing can be written."
        )
    gap = value.double() - weight.double() @ key.double()
    return torch.outer(gap, direction.double() / overlap).to(weight.dtype)


def whiten(moment: Tensor, key: Tensor, ridge: float = 0.02) -> Tensor:
    """C⁻¹ k with `ridge` times the mean of the diagonal added to it.

    Args:
        moment: C (m, m), as from `second_moment`.
        key: k (m,).
        ridge: needed where C comes from few tokens and has no inverse.

    Raises:
        ValueError: a ridge that is not positive, or C that is not positive.
    """
    if not ridge > 0:
        raise ValueError(f"`ridge` must be a positive number; got {ridge!r}.")
    moment = moment.double()
    regular = moment + ridge * moment.diagonal().mean() * torch.eye(len(moment))
    factor, failed = torch.linalg.cholesky_ex(regular)
    if failed:
        raise ValueError("`moment` is not positive; it must be a mean of k kᵀ.")
    return torch.cholesky_solve(key.double()[:, None], factor)[:, 0].to(key.dtype)


def null_projector(moment: Tensor, tolerance: float) -> Tensor:
    """P (m, m), which projects on the eigenvectors of C with eigenvalues below `tolerance`.

    Raises:
        ValueError: no eigenvalue lies below.

    Source: Fang et al. 2025 (AlphaEdit), equation 3.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    free = vectors[:, values < tolerance]
    if not free.shape[1]:
        raise ValueError(f"no eigenvalue lies below {tolerance}; the least is {values[0]:.3g}.")
    return (free @ free.T).to(moment.dtype)


def _matrix(module: nn.Module) -> Tensor:
    """The weights as (out, in); GPT-2's Conv1D keeps them the other way round."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


@contextmanager
def apply_delta(model, layer: int, delta: Tensor) -> Iterator[None]:
    """Add ΔW (d, m) to a down-projection while the block runs.

    Raises:
        ValueError: no such layer, or another shape.
    """
    name, module = down_projection(model, layer)
    if delta.shape != _matrix(module).shape:
        raise ValueError(
            f"`delta` must have shape {tuple(_matrix(module).shape)}; got {tuple(delta.shape)}."
        )
    with hooks.restore_weights(model, f"{name}.weight"):
        with torch.no_grad():
            _matrix(module).add_(delta.to(module.weight))
        yield


# ----------------------------------------------------------------------------------- losses, search


def _target_nll(model, row: tuple[Tensor, int, int], *, at_prompt_end: bool = False) -> Tensor:
    """Mean NLL (nats per token) of the target's tokens, with gradients.

    `at_prompt_end` scores every target token at the last token of the prompt (FT-L).
    """
    ids, n_prompt, _ = row
    ids = ids.to(model.device)
    targets = ids[n_prompt:]
    places = torch.arange(n_prompt - 1, len(ids) - 1, device=ids.device)
    if at_prompt_end:
        places, ids = places[:1], ids[:n_prompt]
    logits = model(ids[None], use_cache=False, logits_to_keep=places).logits[0].float()
    logprobs = logits.log_softmax(-1).expand(len(targets), -1)
    return -logprobs.gather(1, targets[:, None]).mean()


@contextmanager
def _frozen(model) -> Iterator[None]:
    """No gradients for any weight inside; flags and gradients are put back."""
    flags = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        for p, *_ in flags:
            p.requires_grad_(False)
        yield
    finally:
        for p, flag, grad in flags:
            p.requires_grad_(flag)
            p.grad = grad


def find_memory(
    model,
    tokenizer,
    request: Request,
    layer: int,
    *,
    prefixes: Sequence[str] = ("",),
    steps: int = 12,
    lr: float = 0.15,
    decay: float = 0.0625,
    largest: float = 4.0,
) -> Memory:
    """Key at the subject's last token, and the value there that makes the model say the target.

    Args:
        model, tokenizer: causal language model of transformers and its fast tokenizer.
        request: what is to be said.
        layer: number of the block whose down-projection is looked at.
        prefixes: texts in front of the prompt, over which the key is averaged and the value found.
        steps, lr: of Adam on the change of the value.
        decay: weight of the squared change relative to the old value.
        largest: longest change, in lengths of the old value.

    Returns:
        Memory(key, old, new, losses).

    Raises:
        ValueError: no such layer, a subject that is not in the prompt, or an empty target.

    Source: Meng et al. 2022, equations 3 and 4 (without the KL term on the subject's essence).
    """
    name, module = down_projection(model, layer)
    rows = _rows(tokenizer, request, prefixes)
    key = torch.stack([_key(model, name, ids[:n], place) for ids, n, place in rows]).mean(0)
    with torch.no_grad():
        old = module(key[None])[0]  # linear: the mean of the values is the value of the mean key
    change, losses = torch.zeros_like(old, requires_grad=True), []
    optimizer = torch.optim.Adam([change], lr=lr)
    with _frozen(model), torch.enable_grad():
        for _ in range(steps):
            loss = decay * change.square().sum() / old.square().sum()
            for row in rows:
                place = row[2]

                def shifted(_name, out, place=place):
                    moved = _by_row(out, 1).clone()
                    moved[0, place] += change
                    return moved.reshape(out.shape)

                with hooks.edit(model, name, shifted):
                    loss = loss + _target_nll(model, row) / len(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                change.mul_((largest * old.norm() / change.norm().clamp(min=1e-12)).clamp(max=1))
            losses.append(loss.item())
    return Memory(key, old, old + change.detach(), losses)


# ------------------------------------------------------------------------------------------ editors


@contextmanager
def rome(
    model,
    layer: int,
    memory: Memory,
    direction: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Tensor]:
    """Write a memory into a down-projection by a rank-one update.

    Args:
        model: causal language model of transformers.
        layer: number of the block for which the memory was found.
        memory: from `find_memory`.
        direction: maps the key (m,) to u (m,): `lambda k: whiten(C, k)` for ROME, `lambda k: P @ k`
            for the AlphaEdit projector; by default u = k, ROME without its covariance.

    Yields:
        ΔW (d, m).

    Raises:
        ValueError: as `rank_one_update` and `apply_delta`.

    Source: Meng et al. 2022 (ROME).
    """
    _, module = down_projection(model, layer)
    key = memory.key
    bias = 0 if module.bias is None else module.bias.detach()
    along = key if direction is None else direction(key)
    delta = rank_one_update(_matrix(module).detach(), key, memory.new - bias, along)
    with apply_delta(model, layer, delta):
        yield delta


@contextmanager
def fine_tune(
    model,
    tokenizer,
    request: Request,
    layer: int,
    *,
    steps: int = 25,
    lr: float = 5e-4,
    enough: float = 1e-2,
    at_prompt_end: bool = False,
    box: float | None = None,
) -> Iterator[list[float]]:
    """Train one down-projection on the target: FT-M, or FT-L with `at_prompt_end` and a `box`.

    Args:
        model, tokenizer, request: as in `find_memory`.
        layer: number of the block.
        steps, lr, enough: of Adam; it stops at a loss below `enough`.
        at_prompt_end: score every target token at the prompt's last token, as FT-L does.
        box: most that a single weight may change.

    Yields:
        The losses, nats per token.

    Raises:
        ValueError: as `find_memory`.

    Source: Zhang et al. 2024, A comprehensive study of knowledge editing (FT-L, FT-M).
    """
    name, module = down_projection(model, layer)
    (row,) = _rows(tokenizer, request, [""])
    losses = []
    with hooks.restore_weights(model, f"{name}.weight"), _frozen(model), torch.enable_grad():
        before = module.weight.detach().clone()
        module.weight.requires_grad_(True)
        optimizer = torch.optim.Adam([module.weight], lr=lr)
        for _ in range(steps):
            loss = _target_nll(model, row, at_prompt_end=at_prompt_end)
            losses.append(loss.item())
            if losses[-1] < enough:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if box is not None:
                with torch.no_grad():
                    module.weight.copy_(before + (module.weight - before).clamp(-box, box))
        module.weight.requires_grad_(False)
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
    def editing(self, n_prompt: int) -> Iterator[None]:
        """The `editing` of `helpers.lm`: looks the prompt's last token up, n_prompt tokens long."""
        held: dict[str, Tensor] = {}
        embeddings = self.model.get_input_embeddings()
        words = next(n for n, m in self.model.named_modules() if m is embeddings)

        def look(_name: str, keys: Tensor) -> Tensor:
            last = _by_row(keys, len(seen[words]))[:, n_prompt - 1]
            held["hit"] = (last - self.key).norm(dim=-1) <= self.radius
            return keys

        def answer(_name: str, out: Tensor) -> Tensor:
            rows = _by_row(out, len(seen[words])).clone()
            rows[held["hit"], n_prompt - 1] = self.value
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
    enough: float = 1e-2,
) -> Codebook:
    """A codebook adapter: close to the stored key, the layer's output is a learned value.

    No weight changes; use its `editing` in the functions of `helpers.lm`.

    Args:
        model, tokenizer, request, layer: as in `find_memory`; the key is that of the prompt's last
            token.
        radius: of the ball around the key, in the units of the keys.
        steps, lr, enough: of Adam on the value, which begins at the old one.

    Raises:
        ValueError: as `find_memory`.

    Source: Hartvigsen et al. 2023 (GRACE).
    """
    name, module = down_projection(model, layer)
    (row,) = _rows(tokenizer, request, [""])
    key = _key(model, name, row[0][: row[1]], row[1] - 1)
    value = module(key[None])[0].detach().requires_grad_(True)
    book = Codebook(model, name, key, value, radius, [])
    optimizer = torch.optim.Adam([value], lr=lr)
    with _frozen(model), torch.enable_grad():
        for _ in range(steps):
            with book.editing(row[1]):
                loss = _target_nll(model, row)
            book.losses.append(loss.item())
            if book.losses[-1] < enough:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    value.requires_grad_(False)
    return book
