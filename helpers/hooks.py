"""Look into the modules of a running model, and change them, by name."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LINEAR_TYPES = (nn.Linear, Conv1D)  # Conv1D is GPT-2's linear layer, with a transposed weight


class StopForward(Exception):
    """Ends a forward pass early; only the context that raised it catches it."""

    def __init__(self, owner: object) -> None:
        super().__init__("forward pass stopped on purpose: everything asked for was captured")
        self.owner = owner


@contextmanager
def stopping(owner: object) -> Iterator[None]:
    """Swallow the `StopForward` that `owner` raised, and no other."""
    try:
        yield
    except StopForward as stop:
        if stop.owner is not owner:
            raise


def matching(names: Iterable[str], patterns: str | Iterable[str]) -> list[str]:
    """Names that match any pattern, in the order of `names`.

    Args:
        names: dotted names, such as those of `model.named_modules()`.
        patterns: one pattern or several. `*` stands for one part of a dotted name or a piece
            of it (`model.layers.*.mlp`), `**` for any number of parts.

    Raises:
        ValueError: a pattern matches nothing; it is named, with the nearest names.
    """
    names = [name for name in names if name]
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise ValueError("patterns is empty: name at least one module, such as 'model.layers.*'")
    found: set[str] = set()
    for pattern in patterns:
        pieces = re.split(r"(\*\*|\*)", pattern)
        wild = {"**": ".*", "*": "[^.]*"}
        regex = re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces))
        hits = [name for name in names if regex.fullmatch(name)]
        if not hits:
            # compare with numbers starred, or thirty layers crowd out every other suggestion
            starred = dict.fromkeys(re.sub(r"\d+", "*", name) for name in names)
            near = difflib.get_close_matches(re.sub(r"\d+", "*", pattern), starred, 5, 0)
            raise ValueError(
                f"pattern {pattern!r} matches no name in the model; nearest: {', '.join(near)}"
            )
        found.update(hits)
    return [name for name in names if name in found]


def refuse_compiled(model: nn.Module) -> None:
    """A ValueError that names what is compiled: it skips hooks without a word."""
    for name, module in model.named_modules():
        if (
            vars(module).get("_compiled_call_impl")
            or "_orig_mod" in module._modules
            or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
        ):
            name = name or type(module).__name__
            raise ValueError(f"{name!r} is compiled and skips hooks: hook a model that is not")


def refuse_skipped(ran: list, what: str) -> None:
    """A ValueError if no hook ran in a program that compiles: it may have run compiled code."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if not ran and dynamo and dynamo.counters["frames"]:
        raise ValueError(f"{what} did nothing; did torch.compile(model) run, which skips hooks?")


def _match_modules(model: nn.Module, patterns: str | Iterable[str]) -> dict[str, nn.Module]:
    refuse_compiled(model)
    modules = dict(model.named_modules())
    return {name: modules[name] for name in matching(modules, patterns)}


def _first_tensor(values: object, name: str) -> Tensor:
    """The tensor that carries the hidden states: a module may wrap it in a tuple or a dict."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, dict):
        values = values.values()
    for value in values or ():
        if isinstance(value, Tensor):
            return value
    raise ValueError(f"module {name!r} has no tensor there to capture or edit")


def _with_first_tensor(values: object, new: Tensor) -> object:
    """`values` with its first tensor replaced, same container type."""
    if isinstance(values, Tensor):
        return new
    items = values.items() if isinstance(values, dict) else enumerate(values)
    key = next(key for key, value in items if isinstance(value, Tensor))
    if isinstance(values, tuple):
        return (*values[:key], new, *values[key + 1 :])
    changed = values.copy()
    changed[key] = new
    return changed


def _attach(
    module: nn.Module, name: str, of: str, see: Callable[[str, Tensor], Tensor]
) -> torch.utils.hooks.RemovableHandle:
    """Run `see` on a module's input or output; what it returns takes the tensor's place."""

    def swap(values: object) -> object:
        old = _first_tensor(values, name)
        new = see(name, old)
        return values if new is old else _with_first_tensor(values, new)

    def on_input(own: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if own is not module:  # a copy that was made meanwhile has the hook, too
            return None
        if any(isinstance(value, Tensor) for value in args):
            return swap(args), kwargs
        return args, swap(kwargs)

    if of == "input":
        return module.register_forward_pre_hook(on_input, with_kwargs=True)
    if of == "output":
        return module.register_forward_hook(
            lambda own, _args, out: swap(out) if own is module else None
        )
    raise ValueError(f"of must be 'output' or 'input', not {of!r}")


@contextmanager
def hooked(
    model: nn.Module, patterns: str | Iterable[str], of: str, see: Callable[[str, Tensor], Tensor]
) -> Iterator[list[str]]:
    modules = _match_modules(model, patterns)
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(_attach(module, name, of, see).remove)
        yield list(modules)


@contextmanager
def capture(
    model: nn.Module,
    patterns: str | Iterable[str],
    *,
    of: str = "output",
    stop: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Keep copies of what named modules take in or give out while the model runs, detached.

    Args:
        model: any PyTorch module.
        patterns: module names; `*` is one part of a dotted name, `**` any number of parts.
        of: "output" or "input" of the module. Of a tuple, the first tensor is kept.
        stop: end the forward pass once every matched module has run. What follows the model's
            call inside the `with` block is then skipped.

    Yields:
        A dict from module name to tensor, filled by each forward pass (the last one stays).

    Raises:
        ValueError: a pattern matches nothing, a matched module has no tensor there, or the
            model is compiled.
    """
    store: dict[str, Tensor] = {}
    names: list[str] = []

    def see(name: str, value: Tensor) -> Tensor:
        store[name] = value.detach().clone()  # the next layer may write into `value`
        if stop and len(store) == len(names):
            raise StopForward(store)
        return value

    with stopping(store), hooked(model, patterns, of, see) as matched:
        names += matched
        yield store


@contextmanager
def edit(
    model: nn.Module,
    patterns: str | Iterable[str],
    fn: Callable[[str, Tensor], Tensor],
    *,
    of: str = "output",
) -> Iterator[list[str]]:
    """Replace what named modules take in or give out while the model runs.

    Gradients flow through `fn` as through any other operation.

    Args:
        model: any PyTorch module.
        patterns: module names; `*` is one part of a dotted name, `**` any number of parts.
        fn: called with the module's name and a copy of its tensor, which it may write into;
            returns a tensor of the same shape and type.
        of: "output" or "input" of the module. Of a tuple, the first tensor is edited.

    Yields:
        The names of the modules that are edited.

    Raises:
        ValueError: a pattern matches nothing, `fn` returns another shape or type, or the model
            is compiled (which may show only when the block ends).
    """
    ran: list[str] = []

    def see(name: str, value: Tensor) -> Tensor:
        ran.append(name)
        return same_kind(fn(name, value.clone()), value, f"the edit of module {name!r}")

    with hooked(model, patterns, of, see) as matched:
        yield matched
    refuse_skipped(ran, f"the edit of {matched[:3]}")


def same_shape(new: object, old: Tensor, what: str) -> Tensor:
    """`new`, if it is a tensor shaped like `old`; else a ValueError that says `what` is wrong."""
    if not isinstance(new, Tensor):
        raise ValueError(f"{what} must return a tensor, not {type(new).__name__}")
    if new.shape != old.shape:
        raise ValueError(
            f"{what} returned shape {tuple(new.shape)}, but the model needs {tuple(old.shape)}"
        )
    return new


def same_kind(new: object, old: Tensor, what: str) -> Tensor:
    """As `same_shape`, of numbers of the same type."""
    if same_shape(new, old, what).dtype != old.dtype:
        raise ValueError(f"{what} returned {new.dtype}, but the model needs {old.dtype}")
    return new


@contextmanager
def restore_weights(model: nn.Module, patterns: str | Iterable[str] = "**") -> Iterator[None]:
    """Put parameters back, bit for bit, when the block ends, also after an exception.

    Args:
        model: any PyTorch module.
        patterns: names of parameters (`model.layers.3.mlp.down_proj.weight`), as in `capture`.
            A copy of each is held meanwhile, so name only what will change. What is put around
            them meanwhile (an adapter, a parametrization) stays.

    Raises:
        ValueError: a pattern matches no parameter.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))  # tied: under each name
    held = {name: parameters[name] for name in matching(parameters, patterns)}
    copies = {p: (p.data, p.detach().clone()) for p in held.values()}
    try:
        yield
    finally:
        for parameter, (storage, copy) in copies.items():
            parameter.data = storage  # undoes .half(), .to() and assignments to .data
            with torch.no_grad():
                parameter.copy_(copy)
        modules = dict(model.named_modules(remove_duplicate=False))
        for name, parameter in held.items():  # each may have been replaced
            owner, _, leaf = name.rpartition(".")
            own = modules.get(owner)
            # under an adapter or a parametrization that name is something else by now
            if own is not None and (leaf in own._parameters or not hasattr(own, leaf)):
                setattr(own, leaf, parameter)


def attentions(model: nn.Module, layers: Iterable[int] | None = None) -> dict[str, nn.Module]:
    """The self-attention modules of some layers, by name, in the order of the layers.

    Args:
        model: a model of transformers.
        layers: indices of the layers; all that have attention if None.

    Raises:
        ValueError: the model has none in the form that transformers' models share, or `layers`
            do not each name one of them.
    """
    # transformers gives these two attributes to attention modules, and both to nothing else
    # (vars, since PyTorch is slow to say that a module lacks an attribute)
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(vars(module).get("layer_idx"), int)
        and "is_causal" in vars(module)
        and not vars(module).get("is_cross_attention")
    }
    if not found:
        raise ValueError(f"no attention modules found in {type(model).__name__}")
    found = dict(sorted(found.items(), key=lambda item: item[1].layer_idx))
    if layers is None:
        return found
    wanted, known = set(layers), [module.layer_idx for module in found.values()]
    if not wanted or not wanted <= set(known) or len(set(known)) < len(known):
        raise ValueError(
            f"layers {sorted(wanted)} do not each name one attention layer of "
            f"{type(model).__name__}; it numbers them {known}"
        )
    return {name: module for name, module in found.items() if module.layer_idx in wanted}


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The transformer blocks (layers), by name, in order.

    Raises:
        ValueError: the model has no attention modules, or not all in one list of blocks.
    """
    inside = attentions(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and all(a.startswith(f"{name}.") for a in inside):
            return {f"{name}.{i}": block for i, block in enumerate(module)}
    raise ValueError(f"no list of all blocks found in {type(model).__name__}")


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer inside the blocks, by name: no embedding and no output head."""
    return {
        f"{block_name}.{name}": module
        for block_name, block in blocks(model).items()
        for name, module in block.named_modules()
        if isinstance(module, LINEAR_TYPES)
    }


def _is_plain(part: nn.Module) -> bool:
    """Whether linear layers hold its only matrices: no router, no convolution, no recurrence."""
    others = (module for module in part.modules() if not isinstance(module, LINEAR_TYPES))
    return all(p.ndim < 2 for module in others for p in module.parameters(recurse=False))


def down_projections(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layer that ends each block's feed-forward part, by name, in order.

    Raises:
        ValueError: a block has experts, or not exactly one such layer; it is named.
    """
    start = len(next(iter(blocks(model))).rpartition(".")[0]) + 1
    # the part that attends in one block of a hybrid may be recurrent in another
    mixers = {part for name in attentions(model) for part in name[start:].split(".")[1:2]}
    width, found = model.config.hidden_size, {}
    for block_name, block in blocks(model).items():
        experts = any(p.ndim > 2 and p.shape[1] > 1 for p in block.parameters())
        experts |= any(isinstance(module, nn.ModuleList) for module in block.modules())
        ends = {
            name: module
            for part, child in block.named_children()
            if part not in mixers and _is_plain(child)
            for name, module in child.named_modules(prefix=f"{block_name}.{part}")
            if isinstance(module, LINEAR_TYPES) and out_features(module) == width
        }
        if len(ends) > 1:  # projections of low rank, or of inputs for one layer, are narrower
            ends = {name: m for name, m in ends.items() if m.weight.numel() > width**2}
        if experts or len(ends) != 1:
            other = "experts or a list of parts" if experts else list(ends)
            raise ValueError(f"block {block_name!r} has no down-projection of its own, but {other}")
        found |= ends
    return found


def out_features(module: nn.Module) -> int:
    """Output width of a linear layer (`Conv1D` calls it `nf`)."""
    return module.nf if isinstance(module, Conv1D) else module.out_features


opened: list[nn.Module] = []  # decoders whose attention `bidirectional` has opened at the moment


def left_padded_positions(mask: Tensor | None, n_tokens: int = 0) -> Tensor | None:
    """Positions (B, T) that do not count padding on the left, as in `generate`; None without any.

    Args:
        mask: attention mask (B, S), of cached tokens, too.
        n_tokens: T, the last of S; all if 0.
    """
    if getattr(mask, "ndim", 0) != 2 or mask[:, 0].all():
        return None
    return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -n_tokens:]
