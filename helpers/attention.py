"""Queries, keys and values inside attention, and the rotary embedding that turns them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from helpers import hooks

_serial = itertools.count()
_taps: dict[str, list[Callable]] = {}  # name of a tap -> its edits, outermost context first
STAGES = ("post_rope", "pre_rope")
LAYOUTS = ("half", "interleaved")

# (layer, q, k, v) -> (q, k, v)
QKVFunction = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def _attention_modules(model: nn.Module) -> list[nn.Module]:
    """The attention modules, if attention can be reached through transformers' interface."""
    modules = list(hooks.attentions(model).values())
    if not hasattr(_file_of(modules[0]), "ALL_ATTENTION_FUNCTIONS"):
        raise ValueError(
            f"{type(model).__name__} computes attention by itself, not through transformers' "
            "attention interface: its q, k and v can only be reached with helpers.hooks"
        )
    return modules


def _file_of(module: nn.Module) -> ModuleType:
    """The Python module (transformers' modelling file) that defines a layer's class."""
    return sys.modules[type(module).__module__]


def _chosen_layers(modules: list[nn.Module], layers: Iterable[int] | None) -> list[int]:
    known = [module.layer_idx for module in modules]
    chosen = known if layers is None else list(layers)
    unknown = [layer for layer in chosen if layer not in known]
    if unknown or not chosen:
        raise ValueError(f"layers {unknown} not among this model's {known[0]}..{known[-1]}")
    return chosen


def _checked_edit(fn: QKVFunction, layer: int, *states: Tensor | None) -> tuple:
    result = fn(layer, *states)
    if not (isinstance(result, tuple) and len(result) == 3):
        raise ValueError(f"the edit of layer {layer} must return a tuple (q, k, v)")
    for name, new, old in zip("qkv", result, states, strict=True):
        if old is not None:
            hooks.same_shape(new, old, f"the edit of {name} in layer {layer}")
            # attention on a CPU turns NaN queries and keys into finite output without a word
            if new is not old and new.isnan().any():
                raise ValueError(f"the edit of {name} in layer {layer} returned NaN")
    return result


@contextmanager
def _listed(edits: list[Callable], edit: Callable) -> Iterator[None]:
    """Run `edit` after those that enclosing contexts put into the list."""
    edits.append(edit)
    try:
        yield
    finally:
        edits.remove(edit)


@contextmanager
def _tap_interface(modules: list[nn.Module], fn: QKVFunction) -> Iterator[None]:
    """Run `fn` on q, k, v just before attention, then the implementation the model had.

    transformers looks its attention function up by name in the config at each call, so a new
    name is all it takes. The mask is looked up by the same name: it must be registered too,
    or no causal mask would be built.
    """

    def edit(module: nn.Module, *states: Tensor) -> tuple:
        # models may share a config, and then they share the tap
        return _checked_edit(fn, module.layer_idx, *states) if module in modules else states

    configs = {id(module.config): module.config for module in modules}
    with ExitStack() as stack:
        for config in configs.values():
            name = config._attn_implementation
            if name not in _taps:
                name = stack.enter_context(_new_tap(config))
            stack.enter_context(_listed(_taps[name], edit))
        yield


@contextmanager
def _new_tap(config: PreTrainedConfig) -> Iterator[str]:
    """Make the models of `config` run the edits listed under the new name that is yielded."""
    before = config._attn_implementation
    name = f"tap_{next(_serial)}"
    edits = _taps[name] = []

    def attend(module, query, key, value, attention_mask, **kwargs):
        for edit in edits:
            query, key, value = edit(module, query, key, value)
        # "eager" is no registered name: every modelling file has its own function
        own = getattr(_file_of(module), "eager_attention_forward", None)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(before, own)
        return attention(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[before])
    # set on this object only: the public setter would also visit sub-configs
    config._attn_implementation_internal = name
    try:
        yield name
    finally:
        config._attn_implementation_internal = before
        AttentionMaskInterface._global_mapping.pop(name)
        AttentionInterface._global_mapping.pop(name)
        del _taps[name]


def _rotary_file(module: nn.Module) -> ModuleType | None:
    """The modelling file that rotates q and k; None for a model without rotary embedding."""
    file = _file_of(module)
    if hasattr(file, "apply_rotary_pos_emb"):
        return file
    if getattr(module.config, "rope_parameters", None):
        raise ValueError(
            f"stage 'pre_rope' does not know {type(module).__name__}: its rotary embedding "
            "is not applied by a function named apply_rotary_pos_emb"
        )
    return None


@contextmanager
def _tap_rotary(modules: list[nn.Module], fn: QKVFunction) -> Iterator[None]:
    """Run `fn` on q and k as they enter the rotary embedding.

    Projections have other names and layouts in every family (fused, normalised, transposed);
    the function that rotates them has one signature in all of them. It is not told the layer:
    hooks note which of `modules` is running. Other models share the function, unaffected.
    """
    running: list[nn.Module] = []
    file = _rotary_file(modules[0])

    def edit(q: Tensor, k: Tensor) -> tuple:
        return _checked_edit(fn, running[0].layer_idx, q, k, None)[:2] if running else (q, k)

    with ExitStack() as stack:
        for module in modules:
            enter = module.register_forward_pre_hook(lambda module, _: running.append(module))
            stack.callback(enter.remove)
            leave = module.register_forward_hook(lambda *_: running.clear(), always_call=True)
            stack.callback(leave.remove)
        if not hasattr(file.apply_rotary_pos_emb, "edits"):
            stack.enter_context(_new_rotary(file))
        stack.enter_context(_listed(file.apply_rotary_pos_emb.edits, edit))
        yield


@contextmanager
def _new_rotary(file: ModuleType) -> Iterator[None]:
    """Make a modelling file run listed edits on q and k before it rotates them."""
    before = file.apply_rotary_pos_emb

    def rotate(q, k, *args, **kwargs):
        for edit in rotate.edits:
            q, k = edit(q, k)
        return before(q, k, *args, **kwargs)

    rotate.edits = []
    file.apply_rotary_pos_emb = rotate
    try:
        yield
    finally:
        file.apply_rotary_pos_emb = before


@contextmanager
def edit_qkv(
    model: nn.Module,
    fn: QKVFunction,
    *,
    stage: str = "post_rope",
    layers: Iterable[int] | None = None,
) -> Iterator[None]:
    """Change queries, keys and values inside attention while the model runs.

    Works in prefill and in cached decoding, where q has the new tokens only and k and v
    (post_rope) have the whole cache. At post_rope the edit holds for this attention call
    alone: the cache keeps the unedited keys. So never write into k or v in place, they *are*
    the cache. At pre_rope the edited keys enter the cache, as they would in the model. Nested
    edits run from the outermost context to the innermost, each on what the one before made.

    Args:
        model: any transformers model that takes its attention from the attention interface.
        fn: called with layer (int), q (B, H, T, D), k and v (B, G, S, D); returns the three
            in the same shapes. At stage "pre_rope", v is None and what is returned for it is
            ignored (values are not rotated); k has the new tokens only.
        stage: "post_rope" (what attention multiplies) or "pre_rope" (before rotation, after
            any q/k normalisation). A model without rotary embedding has no difference
            between the two: there, fn sees the tensors of "post_rope".
        layers: indices of the layers to edit; all if None.

    Raises:
        ValueError: unknown layer or stage, `fn` returns other shapes or NaN, or a model that
            does not use the attention interface.
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {STAGES}, not {stage!r}")
    modules = _attention_modules(model)
    chosen = _chosen_layers(modules, layers)
    tap = _tap_rotary if stage == "pre_rope" and _rotary_file(modules[0]) else _tap_interface
    with tap([module for module in modules if module.layer_idx in chosen], fn):
        yield


def capture_qkv(
    model: nn.Module,
    input_ids: Tensor,
    *,
    stage: str = "post_rope",
    layers: Iterable[int] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
    **inputs: object,
) -> dict[str, list[Tensor]]:
    """Run the model once and keep its queries, keys and values, layer by layer.

    The forward pass ends at the last layer asked for, before the output head. Inside
    `edit_qkv` it sees the edited tensors.

    Args:
        model: any transformers model that takes its attention from the attention interface.
        input_ids: token ids (B, T).
        stage: "post_rope" or "pre_rope", as in `edit_qkv`; v is the same at both.
        layers: indices of the layers to keep, in the order wanted; all if None.
        reduce: applied to each tensor at once, so that memory stays small, for example
            `lambda x: x.square().sum(2)`.
        **inputs: further arguments of the model, such as attention_mask or past_key_values
            (a cache is written to, layer by layer until the pass ends: hand over a copy).

    Returns:
        {"q": [...], "k": [...], "v": [...]}, one entry a layer: q (B, H, T, D), k and v
        (B, G, T, D) before they are repeated over the query group, or what `reduce` made of
        them. With past_key_values, k (post_rope) and v cover the whole cache. OPT's q has
        been divided by sqrt(D) already; the others divide later.

    Raises:
        ValueError: unknown layer or stage, or a model that does not use the attention
            interface.
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {STAGES}, not {stage!r}")
    modules = _attention_modules(model)
    chosen = _chosen_layers(modules, layers)
    kept: dict[int, dict[str, Tensor]] = {layer: {} for layer in chosen}

    def keep(layer: int, *states: Tensor | None) -> tuple:
        for name, x in zip("qkv", states, strict=True):
            # at pre_rope, q and k came from the rotary embedding already
            if x is not None and name not in kept[layer]:
                kept[layer][name] = x if reduce is None else reduce(x)
        if all(len(states) == 3 for states in kept.values()):
            raise hooks.StopForward(kept)
        return states

    tapped = [module for module in modules if module.layer_idx in chosen]
    with ExitStack() as stack:
        stack.enter_context(hooks.stopping(kept))
        stack.enter_context(torch.no_grad())
        if stage == "pre_rope" and _rotary_file(modules[0]):
            stack.enter_context(_tap_rotary(tapped, keep))
        stack.enter_context(_tap_interface(tapped, keep))
        # without a cache, which would hold every layer's k and v until the pass ends
        model(input_ids, **({} if "past_key_values" in inputs else {"use_cache": False}) | inputs)
    return {name: [kept[layer][name] for layer in chosen] for name in "qkv"}


class RopeTable(NamedTuple):
    """Rotary embedding of one layer: base, frequencies (D/2,) in radians per token, length.

    `length` is the sliding window of a local layer, else the model's context, in tokens. A
    model that rotates only a part of each head (GPT-NeoX) has that many frequencies fewer.
    """

    base: float
    inv_freq: np.ndarray
    length: int


def rope_frequencies(head_dim: int, base: float) -> np.ndarray:
    """Angular frequencies of the rotary pairs, theta_i = base^(-2i/D).

    Args:
        head_dim: D, even.
        base: b > 1.

    Returns:
        (D/2,) radians per token, fastest pair first.

    Source: Su et al. 2021 (RoFormer), section 3.2.2.
    """
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"head_dim must be even and positive, not {head_dim}")
    if not base > 1:
        raise ValueError(f"base must be larger than 1, not {base}")
    return base ** (-np.arange(0, head_dim, 2) / head_dim)


def rope_wavelengths(head_dim: int, base: float) -> np.ndarray:
    """Tokens per full turn of each rotary pair, (D/2,): 2 pi / theta_i."""
    return 2 * np.pi / rope_frequencies(head_dim, base)


def rope_table(model: nn.Module, layer: int) -> RopeTable:
    """The rotary embedding that one layer of a model really uses.

    Raises:
        ValueError: unknown layer, or the model has no rotary embedding.
    """
    modules = list(hooks.attentions(model).values())
    _chosen_layers(modules, [layer])
    config = modules[0].config
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no rotary embedding")
    kinds = getattr(config, "layer_types", None)
    kind = kinds[layer] if kinds else None
    window = getattr(config, "sliding_window", None)
    context = config.max_position_embeddings
    local = window and (kind == "sliding_attention" or not kinds)
    rotary = next(m for n, m in model.named_modules() if n.split(".")[-1] == "rotary_emb")
    # Gemma 3 holds one table per kind of layer, the others one for all
    inv_freq = getattr(rotary, f"{kind}_inv_freq", None)
    inv_freq = rotary.inv_freq if inv_freq is None else inv_freq
    return RopeTable(
        base=float(parameters.get(kind, parameters)["rope_theta"]),
        inv_freq=inv_freq.double().cpu().numpy(),
        length=min(window, context) if local else context,
    )


def _pairs(x: Tensor | np.ndarray, layout: str) -> tuple:
    """The two coordinates of every rotary pair, each (..., D/2)."""
    dim = x.shape[-1]
    if dim % 2:
        raise ValueError(f"the last axis must be even to form pairs, not {dim}")
    if layout == "half":
        return x[..., : dim // 2], x[..., dim // 2 :]
    if layout == "interleaved":
        return x[..., 0::2], x[..., 1::2]
    raise ValueError(f"layout must be one of {LAYOUTS}, not {layout!r}")


def pair_norm(x: Tensor | np.ndarray, layout: str = "half") -> Tensor | np.ndarray:
    """Euclidean norm of each rotary pair: what rotation leaves as it is.

    Args:
        x: (..., D) tensor or array: vectors, or norms over tokens such as M.
        layout: "half" pairs coordinate i with i + D/2 (transformers), "interleaved" 2i with
            2i + 1 (the original RoFormer).

    Returns:
        (..., D/2), of the same kind as `x`.
    """
    a, b = _pairs(x, layout)
    return (a**2 + b**2) ** 0.5


def apply_rope(x: Tensor, positions: Tensor, base: float, layout: str = "half") -> Tensor:
    """Rotate each pair i of the vectors in `x` by the angle position * theta_i.

    Args:
        x: (..., T, D).
        positions: (T,) in tokens, integers or not.
        base: b of the frequencies.
        layout: as in `pair_norm`.

    Returns:
        Like `x`.

    Source: Su et al. 2021 (RoFormer), equation 34.
    """
    theta = torch.as_tensor(rope_frequencies(x.shape[-1], base))
    # in double precision, thus on the CPU: some accelerators have none
    angle = torch.as_tensor(positions).cpu().double()[:, None] * theta
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    a, b = _pairs(x, layout)
    turned = a * cos - b * sin, a * sin + b * cos
    if layout == "half":
        return torch.cat(turned, dim=-1)
    return torch.stack(turned, dim=-1).flatten(-2)
