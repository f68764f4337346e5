"""Queries, keys and values inside attention, and the rotary embedding that turns them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from helpers import hooks

_edits: dict[Callable, set[int]] = {}  # open edits, outermost first, each with its configs' ids
_behind: dict[str, str] = {}  # name of a tap -> the attention implementation that it ends in
STAGES = ("post_rope", "pre_rope")
LAYOUTS = ("half", "interleaved")

# (layer, q, k, v) -> (q, k, v)
QKVFunction = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def _attention_modules(model: nn.Module, layers: Iterable[int] | None) -> list[nn.Module]:
    """The attention modules, if attention can be reached through transformers' interface."""
    modules = list(hooks.attentions(model).values())
    if not hasattr(_file_of(modules[0]), "ALL_ATTENTION_FUNCTIONS"):
        raise ValueError(
            f"{type(model).__name__} computes attention by itself, not through transformers' "
            "attention interface: its q, k and v can only be reached with helpers.hooks"
        )
    every = [module.layer_idx for module in modules]  # asked for, they must be told apart
    return list(hooks.attentions(model, every if layers is None else layers).values())


def _file_of(module: nn.Module) -> ModuleType:
    """The Python module (transformers' modelling file) that defines a layer's class."""
    return sys.modules[type(module).__module__]


def _checked_edit(fn: QKVFunction, module: nn.Module, *states: Tensor | None) -> tuple:
    """What `fn` makes of copies: it may write into them, and k and v can be the cache itself."""
    layer = module.layer_idx
    result = fn(layer, *(x if x is None else x.clone() for x in states))
    if not (isinstance(result, tuple) and len(result) == 3):
        raise ValueError(f"the edit of layer {layer} must return a tuple (q, k, v)")
    for name, new, old in zip("qkv", result, states, strict=True):
        if old is not None:
            hooks.same_kind(new, old, f"the edit of {name} in layer {layer}")
            # attention on a CPU turns NaN queries and keys into finite output without a word
            # (and the sum, which costs next to nothing, is NaN if any of them is)
            if new.detach().sum().isnan() and (new.isnan() & ~old.isnan()).any():
                raise ValueError(f"the edit of {name} in layer {layer} returned NaN")
    return result


@contextmanager
def _tap_interface(modules: list[nn.Module], edit: Callable) -> Iterator[None]:
    """Run `edit` on module, q, k, v just before attention, then the implementation they had.

    transformers looks its attention function up by name in the config at each call, so a new
    name is all it takes. Models may share a config, and then they share the tap.
    """

    def own(module: nn.Module, *states: Tensor) -> tuple:
        return edit(module, *states) if module in modules else states

    configs = {id(module.config): module.config for module in modules}
    _edits[own] = set(configs)
    try:
        for config in configs.values():
            name = config._attn_implementation
            # set on this object only: the public setter would also visit sub-configs
            config._attn_implementation_internal = _tapped(_behind.get(name, name))
        yield
    finally:
        del _edits[own]
        for number, config in configs.items():
            if not any(number in numbers for numbers in _edits.values()):
                name = config._attn_implementation
                config._attn_implementation_internal = _behind.get(name, name)


def _tapped(before: str) -> str:
    """The name under which attention runs the open edits, then the implementation `before`.

    It stays registered: a model that was copied inside an edit goes on under that name.
    """

    def attend(module, query, key, value, attention_mask, **kwargs):
        for edit in list(_edits):
            query, key, value = edit(module, query, key, value)
        # "eager" is no registered name: every modelling file has its own function
        own = getattr(_file_of(module), "eager_attention_forward", None)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(before, own)
        return attention(module, query, key, value, attention_mask, **kwargs)

    name = f"tap_{before}"
    _behind[name] = before
    AttentionInterface.register(name, attend)
    # the mask is looked up by the same name, or no causal mask would be built
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[before])
    return name


def _rotary_file(module: nn.Module) -> ModuleType | None:
    """The modelling file that rotates q and k; None for a model without rotary embedding."""
    file, forward = _file_of(module), inspect.unwrap(type(module).forward)
    names = {n for n in forward.__code__.co_names if n.startswith("apply_") and "rotary" in n}
    takes = inspect.signature(getattr(file, "apply_rotary_pos_emb", forward)).parameters
    if names == {"apply_rotary_pos_emb"} and list(takes)[:2] == ["q", "k"]:
        return file
    if names or getattr(module.config, "rope_parameters", None):
        raise ValueError(
            f"stage 'pre_rope' does not know {type(module).__name__}: its rotary embedding "
            "is not applied by apply_rotary_pos_emb(q, k, ...) alone"
        )
    return None


@contextmanager
def _tap_rotary(modules: list[nn.Module], fn: QKVFunction) -> Iterator[None]:
    """Run `fn` on q and k as they enter the rotary embedding, or attention where there is none.

    Projections have other names and layouts in every family (fused, normalised, transposed);
    the function that rotates them has one signature in all of them. It is not told the layer,
    but a layer's forward calls it.
    """
    widths: dict[nn.Module, int] = {}  # of what is rotated, by layers that rotate

    def turn(module: object, q: Tensor, k: Tensor) -> tuple:
        if module not in modules:
            return q, k
        widths[module] = q.shape[-1]
        return _checked_edit(fn, module, q, k, None)[:2]

    def attend(module: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> tuple:
        if module not in widths:
            return _checked_edit(fn, module, q, k, v)
        if widths[module] != q.shape[-1]:
            raise ValueError(
                f"layer {module.layer_idx} rotates a part of each head by itself: "
                "stage 'pre_rope' does not know the other part"
            )
        return q, k, v

    with ExitStack() as stack:
        for file in {_rotary_file(module) for module in modules} - {None}:
            stack.enter_context(_tap_file(file, turn))
        stack.enter_context(_tap_interface(modules, attend))
        yield


@contextmanager
def _tap_file(file: ModuleType, edit: Callable) -> Iterator[None]:
    """Make a modelling file run `edit` on layer, q and k before it rotates them."""
    before = rotate = file.apply_rotary_pos_emb
    if not hasattr(before, "edits"):

        def rotate(q, k, *args, **kwargs):
            layer = sys._getframe(1).f_locals.get("self")
            for edit in list(rotate.edits):
                q, k = edit(layer, q, k)
            return before(q, k, *args, **kwargs)

        rotate.edits, rotate.before = [], before
        file.apply_rotary_pos_emb = rotate
    rotate.edits.append(edit)
    try:
        yield
    finally:
        rotate.edits.remove(edit)
        if not rotate.edits and file.apply_rotary_pos_emb is rotate:
            file.apply_rotary_pos_emb = rotate.before


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
    alone: the cache keeps the unedited keys. At pre_rope the edited keys enter the cache, as
    they would in the model. Nested edits run from the outermost context to the innermost, each
    on what the one before made. A copy of the model that is made meanwhile is not edited.

    Args:
        model: any transformers model that takes its attention from the attention interface.
        fn: called with layer (int) and copies of q (B, H, T, D), k and v (B, G, S, D), which it
            may write into; returns the three in the same shapes and types. At stage "pre_rope",
            v is None and what is returned for it is ignored (values are not rotated); k has the
            new tokens only.
        stage: "post_rope" (what attention multiplies) or "pre_rope" (before rotation, after
            any q/k normalisation). In a layer without rotary embedding there is no difference
            between the two: there, fn sees the tensors of "post_rope".
        layers: indices of the layers to edit; all that have attention if None.

    Raises:
        ValueError: unknown layer or stage, `fn` returns other shapes or types or NaN, a model
            that does not use the attention interface, or one that rotates in another way than
            by one call for q and k (stage "pre_rope").
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {STAGES}, not {stage!r}")
    modules = _attention_modules(model, layers)
    post_rope = _tap_interface(modules, partial(_checked_edit, fn))
    with post_rope if stage == "post_rope" else _tap_rotary(modules, fn):
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
            (a cache is written to, layer by layer until the pass ends: hand over a copy). Rows
            that the mask pads on the left get the position_ids that `generate` gives them.

    Returns:
        {"q": [...], "k": [...], "v": [...]}, one entry a layer: q (B, H, T, D), k and v
        (B, G, T, D) before they are repeated over the query group, or what `reduce` made of
        them. With past_key_values, k (post_rope) and v cover the whole cache. OPT's q has
        been divided by sqrt(D) already; the others divide later.

    Raises:
        ValueError: unknown layer or stage, or a model that `edit_qkv` refuses.
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {STAGES}, not {stage!r}")
    chosen = None if layers is None else list(layers)
    modules = _attention_modules(model, chosen)
    chosen = chosen or [module.layer_idx for module in modules]
    kept: dict[int, dict[str, Tensor]] = {layer: {} for layer in chosen}

    def keep(layer: int, *states: Tensor | None) -> tuple:
        for name, x in zip("qkv", states, strict=True):
            # at pre_rope, q and k came from the rotary embedding already
            if x is not None and name not in kept[layer]:
                kept[layer][name] = x if reduce is None else reduce(x)
        if all(len(states) == 3 for states in kept.values()):
            raise hooks.StopForward(kept)
        return states

    if "position_ids" in inspect.signature(model.forward).parameters:
        positions = hooks.left_padded_positions(inputs.get("attention_mask"), input_ids.shape[1])
        inputs = {"position_ids": positions} | inputs
    with ExitStack() as stack:
        stack.enter_context(hooks.stopping(kept))
        stack.enter_context(torch.no_grad())
        if stage == "pre_rope":
            stack.enter_context(_tap_rotary(modules, keep))
        stack.enter_context(_tap_interface(modules, partial(_checked_edit, keep)))
        # without a cache, which would hold every layer's k and v until the pass ends
        model(input_ids, **({} if "past_key_values" in inputs else {"use_cache": False}) | inputs)
    return {name: [kept[layer][name] for layer in chosen] for name in "qkv"}


class RopeTable(NamedTuple):
    """Rotary embedding of one layer: base, frequencies (D/2,) in radians per token, length.

    `length` is the window or chunk of a local layer, else the model's context, in tokens. A
    model that rotates only a part of each head (GPT-NeoX) has that many frequencies fewer.
    `scale` is what rotated vectors are multiplied by (YaRN's attention factor).
    """

    base: float
    inv_freq: np.ndarray
    length: int
    scale: float = 1.0


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
    """The rotary embedding that one layer of a model really uses; one token is run to see it.

    Raises:
        ValueError: unknown layer, or it has no rotary embedding or none that is known.
    """
    (module,) = _attention_modules(model, [layer])
    config, name = module.config, type(model).__name__
    parameters = getattr(config, "rope_parameters", None)
    if not parameters or not _rotates(model, layer):
        raise ValueError(f"layer {layer} of {name} has no rotary embedding that is known")
    kinds = getattr(config, "layer_types", None)
    kind = kinds[layer] if kinds else None
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", 0)
    context = config.max_position_embeddings
    local = window and (not kinds or kind in ("sliding_attention", "chunked_attention"))
    rotary = next((m for n, m in model.named_modules() if n.split(".")[-1] == "rotary_emb"), None)

    def own(what: str, other: object) -> object:
        # Gemma 3 holds one table per kind of layer, the others one for all
        return getattr(rotary, f"{kind}_{what}", getattr(rotary, what, other))

    if own("inv_freq", None) is None:
        raise ValueError(f"{name} keeps its rotary frequencies in a place that is not known")
    return RopeTable(
        base=float(parameters.get(kind, parameters)["rope_theta"]),
        inv_freq=own("inv_freq", None).double().cpu().numpy(),
        length=min(window, context) if local else context,
        scale=own("attention_scaling", 1.0),
    )


def _rotates(model: nn.Module, layer: int) -> bool:
    """Whether a layer's keys depend on the position of a token that has no token before it.

    Nothing else does: alone, it attends to itself, whatever its position is.
    """
    token = int(model.config.pad_token_id == 0)  # not the padding, which may be embedded as 0
    ids, places = torch.tensor([[token], [token]]), torch.tensor([[0], [1]])
    inputs = {"position_ids": places.to(model.device), "layers": [layer]}
    first, second = capture_qkv(model, ids.to(model.device), **inputs)["k"][0]
    return bool((second - first).norm() > 1e-3 * first.norm())


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
