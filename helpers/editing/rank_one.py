"""Rank-one edits: keys, values and one update of a down-projection."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from helpers import artefacts, hooks, lm, models
from helpers.lm import head_at, padded_rows, refuse_opened

ROWS = 8  # of a pass for the covariance
RIDGE = 0.02  # needed where C comes from few tokens and has no inverse
LR, DECAY, LARGEST = 0.15, 0.0625, 4.0  # of the search for a value; see `find_memory`


class Request(NamedTuple):
    """What to write: `target` is to follow `prompt`, in which `subject` occurs."""

    prompt: str
    subject: str
    target: str


class Row(NamedTuple):
    """Tokens (T,) of prompt and target, how many are the prompt's, place of the subject's end."""

    ids: Tensor
    n_prompt: int
    subject: int


class Memory(NamedTuple):
    """Key (m,) and old value (d,) of a down-projection at a token, and the value to be written.

    Float32 in any model; `losses` are the target's, nats per token, along the search for the value.
    """

    key: Tensor
    old: Tensor
    new: Tensor
    losses: list[float]


# ----------------------------------------------------------------------------- where in the prompt


def subject_position(tokenizer, prompt: str, subject: str, prefix: str = "") -> int:
    """Place of the last token of the subject among all tokens, start token and prefix included.

    The first occurrence in the prompt counts, without spaces behind it.
    """
    at = prompt.find(subject)
    if not subject.strip() or at < 0:
        raise ValueError(f"the subject {subject!r} does not occur in the prompt {prompt!r}.")
    text, end = prefix + prompt, len(prefix) + at + len(subject.rstrip())
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = [i for i, (a, _) in enumerate(offsets["offset_mapping"]) if a < end]
    return inside[-1] + len(lm.encode(tokenizer, text)) - len(offsets["offset_mapping"])


def down_projection(model, layer: int) -> tuple[str, nn.Module]:
    """Name and module of the linear layer that ends the feed-forward part of a block."""
    found = list(hooks.down_projections(model).items())
    if not 0 <= layer < len(found):
        raise ValueError(f"`layer` must lie in 0..{len(found) - 1}; got {layer!r}.")
    return found[layer]


def by_row(states: Tensor, n_rows: int) -> Tensor:
    """(B, T, width); OPT runs its feed-forward part on (B T, width)."""
    return states.reshape(n_rows, -1, states.shape[-1])


def wide(numbers: Tensor) -> Tensor:
    """The numbers in float32 if their type is a narrower one; else the same tensor."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def key_at(model, name: str, ids: Tensor, place: int) -> Tensor:
    """What a down-projection takes in at one token of a prompt (T,), at least in float32."""
    with torch.no_grad(), hooks.capture(model, name, of="input", stop=True) as seen:
        model(padded_rows(model, [ids.tolist()]), use_cache=False)
    return wide(by_row(seen[name], 1)[0, place].clone())


def token_row(tokenizer, request: Request, prefix: str = "") -> Row:
    """Prompt and target of a request as tokens; words are not spaced in every language, so a target
    may straddle the last token of its prompt and is then tokenized apart.
    """
    prompt = prefix + request.prompt
    ids = lm.encode(tokenizer, prompt)
    (own,) = lm.added_tokens(tokenizer, [(0, prompt, ids, request.target)], straddle=True)
    subject = subject_position(tokenizer, request.prompt, request.subject, prefix)
    return Row(torch.tensor(ids + own), len(ids), subject)


# ---------------------------------------------------------------------------------- linear algebra


class Moment(NamedTuple):
    """C (m, m), the number of keys behind it, and the seconds that it took to compute."""

    matrix: Tensor
    n_keys: int
    seconds: float


def second_moment(
    model, layer: int, token_ids: Tensor, *, start: int | None = None
) -> tuple[Tensor, int]:
    """Mean of k kᵀ over the keys of a down-projection; later blocks are not run.

    Args:
        model, layer: as in `find_memory`.
        token_ids: (N, T) integers, such as from `lm.segments`.
        start: id of a start token, whose keys are left out (they are like no others).

    Returns:
        C (m, m), float32, and the number of keys.

    Source: Meng et al. 2022 (ROME), section 3.1.
    """
    name, _ = down_projection(model, layer)
    total, count = None, 0
    for ids in torch.as_tensor(token_ids).split(ROWS):
        ids = padded_rows(model, ids.tolist(), range(len(ids)))
        with torch.no_grad(), hooks.capture(model, name, of="input", stop=True) as seen:
            model(ids, use_cache=False)
        keys = by_row(seen[name], len(ids))
        keys = keys[ids != (-1 if start is None else start)]
        if not keys.isfinite().all():
            raise ValueError(f"keys of {name!r} are NaN or infinite; check the weights.")
        total = keys.double().T @ keys.double() + (0 if total is None else total)
        count += len(keys)
    if not count:
        raise ValueError("`token_ids` holds no keys; give at least one token behind the start.")
    return (total / count).float(), count


def _fingerprint(model, layer: int, token_ids: Tensor, start: int | None) -> str:
    """SHA-256 of all that the keys of a layer depend on: tokens and weights up to its block."""
    later = tuple(f"{name}." for name in list(hooks.blocks(model))[layer + 1 :])
    words = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    settings = (model.config.to_json_string(use_diff=False), layer, start, tuple(token_ids.shape))
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(token_ids.cpu().to(torch.int64).numpy().tobytes())
    for name, weight in model.named_parameters():
        if name.startswith(later):
            continue
        if id(weight) in words:  # of a large vocabulary, only the rows of the text count
            weight = model.get_input_embeddings().weight[token_ids.unique()]
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def cached_moment(model, layer: int, token_ids: Tensor, *, start: int | None = None) -> Moment:
    """`second_moment`, kept in the cache folder under a hash of model, layer and text.

    A file that is damaged or may not be read is no error, nor is a folder that cannot be written
    or a full disk: C is computed then.
    """
    token_ids = torch.as_tensor(token_ids)
    down_projection(model, layer)
    path = models.cache_dir() / "moments"
    path = path / f"{_fingerprint(model, layer, token_ids, start)}.moment"
    with suppress(OSError):
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            kept = load(content[32:])
            return Moment(kept["moment"], int(kept["n_keys"]), float(kept["seconds"]))
    begun = time.perf_counter()
    matrix, n_keys = second_moment(model, layer, token_ids, start=start)
    found = Moment(matrix, n_keys, time.perf_counter() - begun)
    numbers = {"n_keys": torch.tensor(n_keys), "seconds": torch.tensor(found.seconds)}
    content = save({"moment": matrix.cpu(), **numbers})
    with suppress(OSError), artefacts.replacing(path) as aside:
        aside.write_bytes(hashlib.sha256(content).digest() + content)
    return found


def rank_one_update(weight: Tensor, key: Tensor, value: Tensor, direction: Tensor) -> Tensor:
    """ΔW = (v - W k) uᵀ / (kᵀ u), the update along u after which W k = v.

    With u = C⁻¹ k it is the one that changes the answers to other keys least (trace of ΔW C ΔWᵀ).

    Args:
        weight: W (d, m).
        key, value: k (m,) and v (d,).
        direction: u (m,): k itself, C⁻¹ k, or k projected on directions that other keys leave free.

    Source: Meng et al. 2022, equation 2; Fang et al. 2025 (AlphaEdit) for the projection.
    """
    overlap = key.double() @ direction.double()
    scale = key.double().norm() * direction.double().norm()
    if not overlap.isfinite() or overlap.abs() <= 1e-12 * scale:
        raise ValueError("`direction` is orthogonal to `key` or not finite: nothing to write.")
    gap = value.double() - weight.double() @ key.double()
    return torch.outer(gap, direction.double() / overlap).to(weight.dtype)


def whiten(moment: Tensor, key: Tensor) -> Tensor:
    """C⁻¹ k (m,) for C (m, m) of `second_moment`, `RIDGE` times its mean diagonal added to it."""
    moment = moment.double()
    regular = moment + RIDGE * moment.diagonal().mean() * torch.eye(len(moment))
    factor = torch.linalg.cholesky(regular)
    return torch.cholesky_solve(key.double()[:, None], factor)[:, 0].to(key.dtype)


# ----------------------------------------------------------------------------------- losses, search


def target_nll(model, row: Row, *, at_prompt_end: bool = False) -> Tensor:
    """Mean NLL (nats per token) of the target's tokens, with gradients.

    `at_prompt_end` scores every target token at the last token of the prompt (FT-L).
    """
    ids = padded_rows(model, [row.ids.tolist()])[0]
    targets = ids[row.n_prompt :]
    places = torch.arange(row.n_prompt - 1, len(ids) - 1, device=ids.device)
    if at_prompt_end:
        places, ids = places[:1], ids[: row.n_prompt]
    else:
        refuse_opened(model)
    with head_at(model, torch.zeros_like(places), places):
        logits = model(ids[None], use_cache=False).logits[0].float()
    logprobs = logits.log_softmax(-1).expand(len(targets), -1)
    return -logprobs.gather(1, targets[:, None]).mean()


@contextmanager
def frozen(model) -> Iterator[None]:
    """No gradients for any weight inside; flags and gradients are put back."""
    flags = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    twice = [m for m in model.modules() if vars(m).get("gradient_checkpointing")]
    try:
        for m in twice:  # to compute a block again for its gradient would miss hooks that are gone
            m.gradient_checkpointing = False
        for p, *_ in flags:
            p.requires_grad_(False)
        yield
    finally:
        for p, flag, grad in flags:
            p.requires_grad_(flag)
            p.grad = grad
        for m in twice:
            m.gradient_checkpointing = True


def descend(
    weights: Sequence[Tensor], terms: Callable, then: Callable, steps: int, lr: float, enough=0.0
) -> list[float]:
    """Adam on float32 copies of weights, whose rounding the model runs; the losses on the way.

    `terms` gives what is added up, first the loss, which ends the search below `enough`; `then`
    gets the number of each step and the copies. ValueError for a sum that is NaN or infinite.
    """
    copies = [wide(w.detach()) for w in weights]  # of float32 weights, the same memory
    optimizer, losses = torch.optim.Adam(copies, lr=lr), []
    for step in range(steps):
        with torch.enable_grad():
            loss, *others = terms()
            total = sum(others, loss)
        if not total.isfinite():
            raise ValueError("the loss is NaN or infinite; check the weights' number format.")
        losses.append(loss.item())
        if losses[-1] < enough:
            break
        grads = torch.autograd.grad(total, weights, allow_unused=True)
        for w, copy, grad in zip(weights, copies, grads, strict=True):
            w.grad, copy.grad = grad, None if grad is None else wide(grad)
        optimizer.step()
        with torch.no_grad():
            then(step, *copies)
            for w, copy in zip(weights, copies, strict=True):
                w.copy_(copy)
    return losses


@contextmanager
def _shifted(model, name: str, place: int, change: Tensor) -> Iterator[None]:
    """A down-projection whose output at one token is longer by `change` (d,)."""

    def shift(_name, out):
        moved = by_row(out, 1).clone()
        moved[0, place] += change
        return moved.reshape(out.shape)

    with hooks.edit(model, name, shift):
        yield


def _next_logprobs(model, row: list[int]) -> Tensor:
    """(V,) behind the tokens of a row."""
    ids = padded_rows(model, [row])
    return model(ids, use_cache=False, logits_to_keep=1).logits[0, -1].float().log_softmax(-1)


class Essence(NamedTuple):
    """A prompt that says what a subject is; a change at the subject is to leave its answer alone.

    `kl` is the weight of KL(changed || untouched) of the token behind the prompt.
    """

    prompt: str
    kl: float = 0.0625


def find_memory(
    model,
    tokenizer,
    request: Request,
    layer: int,
    *,
    essence: Essence | None = None,
    prefixes: Sequence[str] = ("",),
    steps: int = 12,
) -> Memory:
    """Key at the subject's last token, and the value there that makes the model say the target.

    The squared change of the value, relative to the old one, costs `DECAY`; in lengths of the old
    one it is at most `LARGEST`.

    Args:
        model, tokenizer: causal language model of transformers and its fast tokenizer.
        request: what is to be said.
        layer: number of the block whose down-projection is looked at.
        essence: a second prompt with the subject, whose answer is to stay.
        prefixes: texts in front of the prompt, over which the key is averaged and the value found.
        steps: of Adam on the change of the value.

    Source: Meng et al. 2022, equations 3 and 4.
    """
    name, module = down_projection(model, layer)
    rows = [token_row(tokenizer, request, prefix) for prefix in prefixes]
    key = torch.stack([key_at(model, name, r.ids[: r.n_prompt], r.subject) for r in rows]).mean(0)
    with torch.no_grad():
        old = wide(module(key.to(module.weight)[None])[0])  # linear: the mean of the values, too
        if essence:
            about = lm.encode(tokenizer, essence.prompt)
            place = subject_position(tokenizer, essence.prompt, request.subject)
            untouched = _next_logprobs(model, about)
    change = torch.zeros_like(old, requires_grad=True)

    def terms() -> Iterator[Tensor]:
        loss = torch.zeros((), device=old.device)
        for row in rows:
            with _shifted(model, name, row.subject, change):
                loss = loss + target_nll(model, row) / len(rows)
        yield loss
        yield DECAY * change.square().sum() / old.square().sum()
        if essence:
            with _shifted(model, name, place, change):
                now = _next_logprobs(model, about)
            yield essence.kl * (now.exp() * (now - untouched)).sum()

    def shorten(_step: int, change: Tensor) -> None:
        change.mul_((LARGEST * old.norm() / change.norm().clamp(min=1e-12)).clamp(max=1))

    with frozen(model):
        losses = descend([change], terms, shorten, steps, LR)
    return Memory(key, old, old + change.detach(), losses)


@contextmanager
def rome(
    model, layer: int, memory: Memory, direction: Callable[[Tensor], Tensor] | None = None
) -> Iterator[Tensor]:
    """Write a memory into a down-projection by a rank-one update ΔW (d, m), which is yielded.

    Args:
        model, layer, memory: of `find_memory`.
        direction: maps the key (m,) to u (m,): `lambda k: whiten(C, k)` for ROME, `lambda k: P @ k`
            for the AlphaEdit projector; by default u = k, ROME without its covariance.

    Source: Meng et al. 2022 (ROME).
    """
    name, module = down_projection(model, layer)
    key = memory.key
    bias = 0 if module.bias is None else module.bias.detach()
    along = key if direction is None else direction(key)
    # GPT-2's Conv1D keeps its weights the other way round
    weight = (module.weight.T if isinstance(module, Conv1D) else module.weight).detach()
    delta = rank_one_update(weight, key, memory.new - bias, along)
    with hooks.restore_weights(model, f"{name}.weight"):
        weight.add_(delta)
        yield delta
