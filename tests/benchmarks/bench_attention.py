"""Capturing q, k and v of every layer: `helpers.attention` against three named peers.

Model: SmolLM2-135M in float32, one sequence, no cache, no gradients, one thread. Each contender
does the same job in one call: open its hooks, run one forward pass, keep q, k and v of all 30
layers, close its hooks. Objects that are made once per model (the wrappers of nnsight and
TransformerLens) are made before the clock starts.

- bare: the forward pass with nothing captured.
- plain hooks: PyTorch forward hooks on q_proj, k_proj and v_proj.
- ours, whole pass: `edit_qkv` at both stages with functions that keep what they see.
- ours: `capture_qkv`, which ends the pass at the last attention, before the output head.
- nnsight: `.output` of the three projections inside a trace.
- TransformerLens: `run_with_cache` of its bridge, filtered to hook_q, hook_k, hook_v.

Peers run the whole pass, as they do unless told otherwise. "Stopped" ones end it early as ours
does: plain hooks by an exception from the last v_proj, nnsight by its `stop()`; TransformerLens
stops before a layer only, so it has no such row.

All of them keep q and k before rotation, and the values are compared. Time is CPU time of the
process, so that other programs disturb it less; contenders take turns, a ratio is formed within
each round, and its median over rounds is reported. Memory is the peak of all tensors that the
call allocates, weights not among them, as PyTorch's profiler counts allocations and releases;
`ours, reduced` keeps the norms over tokens only.
"""

import importlib.util
import itertools
import random
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from helpers import attention, models, weights

NAME = "smollm2-135m"
LENGTHS = {64: 15, 128: 11, 256: 9, 512: 7, 1024: 5}  # tokens -> rounds
MEMORY_LENGTH = 1024
PACKAGES = {
    "nnsight": "nnsight",
    "nnsight, stopped": "nnsight",
    "TransformerLens": "transformer_lens",
}

States = dict[str, list[torch.Tensor]]


def token_ids(length: int) -> torch.Tensor:
    """Random ids (1, T) of ordinary tokens."""
    return torch.randint(100, 40_000, (1, length), generator=torch.Generator().manual_seed(length))


def heads(x: torch.Tensor) -> torch.Tensor:
    """(B, T, heads * 64) or (B, T, heads, 64) -> (B, heads, T, 64), as views."""
    return (x if x.ndim == 4 else x.unflatten(-1, (-1, 64))).transpose(1, 2)


def bare(model) -> Callable[[torch.Tensor], States]:
    def capture(ids):
        model(ids, use_cache=False)
        return {}

    return capture


class Stop(Exception):
    """Ends a pass with plain hooks."""


def plain_hooks(model, *, stop: bool = False) -> Callable[[torch.Tensor], States]:
    def end(_module, _args, _out):
        raise Stop

    def capture(ids):
        states = {"q": [], "k": [], "v": []}
        handles = []
        for layer in model.model.layers:
            for name, kept in states.items():
                handles.append(
                    getattr(layer.self_attn, f"{name}_proj").register_forward_hook(
                        lambda _module, _args, out, kept=kept: kept.append(heads(out))
                    )
                )
        if stop:
            handles.append(layer.self_attn.v_proj.register_forward_hook(end))
        try:
            model(ids, use_cache=False)
        except Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return states

    return capture


def ours_whole_pass(model) -> Callable[[torch.Tensor], States]:
    def capture(ids):
        states = {"q": [], "k": [], "v": []}

        def keep_qk(_layer, q, k, v):
            states["q"].append(q)
            states["k"].append(k)
            return q, k, v

        def keep_v(_layer, q, k, v):
            states["v"].append(v)
            return q, k, v

        with (
            attention.edit_qkv(model, keep_qk, stage="pre_rope"),
            attention.edit_qkv(model, keep_v),
        ):
            model(ids, use_cache=False)
        return states

    return capture


def ours(model) -> Callable[[torch.Tensor], States]:
    return lambda ids: attention.capture_qkv(model, ids, stage="pre_rope")


def ours_reduced(model) -> Callable[[torch.Tensor], States]:
    def norms(x):
        return x.square().sum(2)

    return lambda ids: attention.capture_qkv(model, ids, stage="pre_rope", reduce=norms)


def with_nnsight(model, *, stop: bool = False) -> Callable[[torch.Tensor], States]:
    from nnsight import TransformersModel

    tokenizer = models.load(NAME).tokenizer
    traced = TransformersModel(model, task="text-generation", tokenizer=tokenizer)

    def capture(ids):
        with traced.trace(ids, use_cache=False) as tracer:
            q, k, v = [].save(), [].save(), [].save()
            for layer in traced.model.layers:
                q.append(layer.self_attn.q_proj.output)
                k.append(layer.self_attn.k_proj.output)
                v.append(layer.self_attn.v_proj.output)
            if stop:
                tracer.stop()
        return {name: [heads(x) for x in xs] for name, xs in zip("qkv", (q, k, v), strict=True)}

    return capture


def with_transformer_lens(model) -> Callable[[torch.Tensor], States]:
    from transformer_lens.model_bridge import TransformerBridge

    del model  # the bridge rebuilds the model that it wraps, so it gets one of its own
    own, tokenizer = models.load(NAME)
    # the bridge reads the tokenizer a second time, from where this says
    tokenizer.init_kwargs["name_or_path"] = str(weights.ensure(NAME))
    bridge = TransformerBridge.boot_transformers(
        "HuggingFaceTB/SmolLM2-135M-Instruct", hf_model=own, tokenizer=tokenizer, device="cpu"
    )
    wanted = ("attn.hook_q", "attn.hook_k", "attn.hook_v")

    def capture(ids):
        _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name.endswith(wanted))
        layers = range(len(own.model.layers))
        return {
            name: [heads(cache[f"blocks.{layer}.attn.hook_{name}"]) for layer in layers]
            for name in "qkv"
        }

    return capture


CONTENDERS = {
    "bare": bare,
    "plain hooks": plain_hooks,
    "ours, whole pass": ours_whole_pass,
    "ours": ours,
    "nnsight": with_nnsight,
    "TransformerLens": with_transformer_lens,
    "plain hooks, stopped": partial(plain_hooks, stop=True),
    "nnsight, stopped": partial(with_nnsight, stop=True),
}
COMPARED = (
    ("ours, whole pass", "plain hooks"),
    ("ours, whole pass", "nnsight"),
    ("ours, whole pass", "TransformerLens"),
    ("ours", "plain hooks, stopped"),
    ("ours", "nnsight, stopped"),
    ("ours", "plain hooks"),
    ("ours", "nnsight"),
    ("ours", "TransformerLens"),
)


def prepared(model) -> tuple[dict[str, Callable], dict[str, str]]:
    """The contenders that work here, and why the others do not."""
    ready, missing = {}, {}
    for name, make in CONTENDERS.items():
        package = PACKAGES.get(name)
        if package and not importlib.util.find_spec(package):
            missing[name] = f"{package} is not installed (requirements-bench.txt)"
            continue
        try:
            ready[name] = make(model)
            ready[name](token_ids(8))
        except Exception as error:  # a peer's fault is a row of the table, not the end of the run
            if not package:
                raise
            ready.pop(name, None)
            missing[name] = f"{type(error).__name__}: {error}"[:200]
    return ready, missing


def largest_difference(states: States, reference: States) -> float:
    """Largest absolute difference over all tensors; shapes must agree."""
    pairs = [(x, y) for name in "qkv" for x, y in zip(states[name], reference[name], strict=True)]
    assert len(pairs) == 90 and all(x.shape == y.shape for x, y in pairs)
    return max((x - y).abs().max().item() for x, y in pairs)


def timings(ready: dict[str, Callable], length: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each contender, round by round; they take turns, each round reshuffled."""
    ids, names, rng = token_ids(length), list(ready), random.Random(length)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):  # the first round warms up
        rng.shuffle(names)  # what ran before leaves its marks on memory and caches
        for name in names:
            begin = time.process_time()
            ready[name](ids)
            if turn:
                seconds[name].append(time.process_time() - begin)
    return seconds


def ratios(mine: list[float], others: list[float]) -> list[float]:
    return [a / b for a, b in zip(mine, others, strict=True)]


def peak_memory(capture: Callable, ids: torch.Tensor) -> float:
    """Largest sum of all tensors, in MiB, that one call has alive at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        states = capture(ids)
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    del states  # its tensors lived until here
    return max(itertools.accumulate(size for _, size in changes)) / 2**20


def row(what: str, unit: str, note: str, *, ours=None, peer=None, ratio=None) -> dict:
    """One row of the table of `make bench`."""
    name = f"capture q, k, v: {what}"
    return dict(benchmark=name, ours=ours, peer=peer, ratio=ratio, unit=unit, note=note)


def time_rows(ready: dict[str, Callable], missing: dict[str, str]) -> list[dict]:
    """Rows of times and ratios."""
    rows = []
    for length, rounds in LENGTHS.items():
        seconds = timings(ready, length, rounds)
        for mine, peer in COMPARED:
            if peer not in ready:
                continue
            low, middle, high = statistics.quantiles(ratios(seconds[mine], seconds[peer]))
            rows.append(
                row(
                    f"{mine} / {peer}, {length} tokens",
                    "CPU s",
                    f"one thread; {rounds} rounds, quartiles {low:.3f} to {high:.3f}",
                    ours=statistics.median(seconds[mine]),
                    peer=statistics.median(seconds[peer]),
                    ratio=middle,
                )
            )
    return rows + [row(f"ours / {name}", "CPU s", why) for name, why in missing.items()]


def memory_rows(ready: dict[str, Callable]) -> list[dict]:
    """Rows of peak memory."""
    ids, jobs = (
        token_ids(MEMORY_LENGTH),
        ready | {"ours, reduced": ours_reduced(models.load(NAME).model)},
    )
    peaks = {name: peak_memory(capture, ids) for name, capture in jobs.items()}
    return [
        row(
            f"{mine} / {peer}, {MEMORY_LENGTH} tokens",
            "MiB peak",
            f"tensors allocated during the call; bare pass {peaks['bare']:.0f}",
            ours=peaks[mine],
            peer=peaks[peer],
            ratio=peaks[mine] / peaks[peer],
        )
        for mine, peer in (*COMPARED, ("ours, reduced", "plain hooks"))
        if peer in ready
    ]


def agreement_rows(ready: dict[str, Callable]) -> list[dict]:
    """Rows of largest differences from plain hooks; ours must have none."""
    ids, rows = token_ids(256), []
    reference = ready["plain hooks"](ids)
    for name, capture in ready.items():
        if name in ("bare", "plain hooks"):
            continue
        difference = largest_difference(capture(ids), reference)
        # TransformerLens computes attention by another route, so its last digits differ
        assert difference == 0 or (name == "TransformerLens" and difference < 1e-2), name
        who = {"ours" if name.startswith("ours") else "peer": difference}
        note = "q, k, v of all layers, 256 tokens; 0 is bit for bit"
        rows.append(row(f"{name} against plain hooks", "max |diff|", note, **who))
    return rows


def each(rows: Callable[[dict[str, Callable], dict[str, str]], list[dict]]) -> list[dict]:
    """Rows of one kind, on one thread and without gradients."""
    warnings.filterwarnings("ignore", module="nnsight|transformer_lens|transformers")
    torch.set_num_threads(1)
    with torch.no_grad():
        return rows(*prepared(models.load(NAME).model))


PARTS = {
    "agreement": lambda: each(lambda ready, _: agreement_rows(ready)),
    "memory": lambda: each(lambda ready, _: memory_rows(ready)),
    "time": lambda: each(time_rows),
}
