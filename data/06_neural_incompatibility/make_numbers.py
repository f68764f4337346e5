"""Writes what notebook 06 knows of the toy world: ten seeds of every experiment.

    python data/06_neural_incompatibility/make_numbers.py PART

PART is one of

    settings [backwards]  learning rates, on four other seeds
    seeds [backwards]     about three minutes a seed
    sizes                 how large LaTen's addend is at the published sizes and steps

Everything of a seed comes from that seed; arms that are compared share their examples, their order
and their starts. Finished steps are kept in the cache folder.
"""

import copy
import functools
import operator
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import expm
from torch import nn
from torch.func import functional_call

from helpers import hooks, training, transfer
from helpers.artefacts import Steps, rounded, versions, write, write_weights

HERE = Path(__file__).resolve().parent

SEEDS = tuple(range(10, 20))  # a pilot had used 0 to 4
KEPT = SEEDS[:5]  # whose models are stored
TUNING_SEEDS = (100, 101, 102, 103)
DRIFT = (10, 30, 100, 300)
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
ANGLES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
RANK, USUAL_RATE = 8, 3e-3  # LoRA
PUBLISHED = (23, 47, 78)  # updates of the paper's LoRA: MBPP; HumanEval; MMLU and GSM8K
LOOKS = (5, 10, *PUBLISHED, 160)  # steps at which LoRA is looked at
LORA_RATES = (1e-3, 3e-3, 6e-3, 1e-2, 2e-2, 3e-2, 6e-2, 1e-1)
ALIGN_STEPS, ALIGN_BATCH = 20, 16
RATES = (1e-3, 3e-3, 1e-2, 3e-2)  # of the translator
FEW_RATES = (1e-4, 3e-4, 5e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # of whole matrices and of LoRA
RETENTION = 0.005  # how much less of A than LaTen keeps another way may keep
SMALL_START = 0.02  # standard deviation of weights, transformers' own; 1 / sqrt(width) elsewhere


class Family(NamedTuple):
    """The models of one seed, and the facts."""

    world: dict
    t0: nn.Module  # knows A
    t1: nn.Module  # T0 taught B and R as well
    small: nn.Module  # fewer layers, narrower, trained on A from its own start
    other: nn.Module  # T0's shape, another start
    order: nn.Module  # T0's start, another order of the examples


def learnt(model, facts, seed, *, lr=3e-3, decay=0.01, steps=2000, weights=None):
    for _ in training.training(
        model, *facts, steps=steps, rng=seed, lr=lr, decay=decay, weights=weights, enough=0.004
    ):
        pass
    return model


def taught(model, facts, seed):
    """A copy that has learnt `facts` in the matrices that transfer may change."""
    found = copy.deepcopy(model)
    chosen = transfer.changed_weights(found).values()
    return learnt(found, facts, seed, lr=2e-3, decay=0, weights=chosen)


def family(seed, std=None):
    world = transfer.world(seed)
    t0 = learnt(transfer.tiny_llama(seed=seed, std=std), world["A"], seed)
    return Family(
        world,
        t0,
        taught(t0, transfer.joined(world["A"], world["B"], world["R"]), seed),
        learnt(
            transfer.tiny_llama(seed=seed + 1000, width=48, layers=3, ffn=112, std=std),
            world["A"],
            seed,
        ),
        learnt(transfer.tiny_llama(seed=seed + 2000, std=std), world["A"], seed),
        learnt(transfer.tiny_llama(seed=seed, std=std), world["A"], seed + 3000),
    )


def keep(models, seed):
    """Writes T0, T1, the student and the other seed."""
    kept = {"T0": models.t0, "T1": models.t1, "small": models.small, "other": models.other}
    file = HERE / "models" / f"{seed}.safetensors"
    write_weights(file, {name: model.state_dict() for name, model in kept.items()})


def knows(model, world):
    return {name: round(transfer.accuracy(model, world[name]), 4) for name in "ABR"}


@torch.no_grad()
def likeness(a, b, world):
    """Debiased CKA at the last position, mean over layers, over prompts of A, B and R."""
    prompts = transfer.joined(*(world[name] for name in "ABR")).prompts
    width = prompts.shape[1]
    rows = [
        [x[width - 1 :: width].numpy() for x in transfer.activations(m, prompts)["residual"][1:]]
        for m in (a, b)
    ]
    pairs = zip(*rows, strict=True)
    return float(np.mean([transfer.linear_cka(x, y, debiased=True) for x, y in pairs]))


def weight_cosine(a, b):
    flat = [
        np.concatenate([w.detach().numpy().ravel() for w in transfer.changed_weights(m).values()])
        for m in (a, b)
    ]
    return transfer.flat_cosine(*flat)


def outputs(model, prompts):
    """By kind of matrix: for each layer what it gives at the last position, standardised."""
    names = {
        kind: [n for n in hooks.linear_layers(model) if n.endswith(kind)]
        for kind in transfer.MODULES
    }
    with hooks.capture(model, [n for own in names.values() for n in own]) as seen, torch.no_grad():
        training.last_logits(model, prompts)
    return {
        kind: [standardised(seen[n][:, -1].double().numpy()) for n in own]
        for kind, own in names.items()
    }


def standardised(x):
    return (x - x.mean(0)) / (x.std(0) + 1e-9)


def module_likeness(models):
    """Debiased CKA of T0's modules (rows) with those of other models, over prompts of A."""
    prompts = models.world["A"].prompts
    own = outputs(models.t0, prompts)
    found = {}
    for name, model in (("itself", models.t0), ("other seed", models.other), ("S", models.small)):
        there = outputs(model, prompts)
        found[name] = {
            kind: transfer.cka_matrix(own[kind], there[kind], debiased=True).round(4).tolist()
            for kind in own
        }
    return found


# ------------------------------------------------------------------------- the compatibility ladder


def rung(models, student, delta):
    """What a student knows without and with the difference, and how like T0 it is."""
    same = student.config.hidden_size == models.t0.config.hidden_size
    same = same and student.config.intermediate_size == models.t0.config.intermediate_size
    return {
        "before": knows(student, models.world),
        "after": knows(transfer.apply_delta(student, delta), models.world),
        "cka": round(likeness(models.t0, student, models.world), 4),
        "cosine": round(weight_cosine(models.t0, student), 4) if same else None,
    }


def ladder(models, seed):
    t0, prompts = models.t0, models.world["A"].prompts
    delta = transfer.difference(models.t1, t0)
    place = transfer.random_coordinates(t0, seed)
    twin = transfer.in_coordinates(t0, place)
    found = {
        "T0": rung(models, t0, delta),
        "twin, as it is": rung(models, twin, delta),
        "twin, true map": rung(models, twin, transfer.recoordinate(delta, place)),
    }
    for name, student in (("twin", twin), ("other seed", models.other)):
        estimate = transfer.estimated(t0, student, prompts)
        mapped = transfer.recoordinate(delta, estimate)
        found[f"{name}, estimated map"] = rung(models, student, mapped)
    found["other seed, as it is"] = rung(models, models.other, delta)
    found["same start, other order"] = rung(models, models.order, delta)
    return found | children(models, delta, seed)


def largest_units(model, prompts, keep):
    """Coordinates of only the `keep` units of each layer that write most on prompts (N, T)."""
    writes = [
        x.square().mean(0).sqrt() * layer.weight.norm(dim=0)
        for x, layer in zip(
            transfer.activations(model, prompts)["units"],
            hooks.down_projections(model).values(),
            strict=True,
        )
    ]
    kept = [score.argsort(descending=True)[:keep].sort().values for score in writes]
    return transfer.identity(model)._replace(units=kept)


def principal_directions(model, prompts, width):
    """Coordinates of only the `width` directions of the residual stream of largest second moment.

    Residuals are divided by their root mean square first, as every norm of the model does.
    """
    rows = torch.cat(transfer.activations(model, prompts)["residual"]).double()
    rows = rows / rows.square().mean(1, keepdim=True).sqrt()
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    return transfer.identity(model)._replace(residual=vectors[:, -width:].flip(1).float())


def children(models, delta, seed):
    """Smaller models cut out of T0, healed on A, with the difference cut alike."""
    t0, prompts = models.t0, models.world["A"].prompts
    cuts = {
        f"child, {keep} of 160 units": largest_units(t0, prompts, keep) for keep in (120, 80, 40)
    }
    cuts |= {
        f"child, {width} of 64 directions": principal_directions(t0, prompts, width)
        for width in (56, 48)
    }
    cuts["child, 48 directions, 120 units"] = cuts["child, 48 of 64 directions"]._replace(
        units=cuts["child, 120 of 160 units"].units
    )
    found = {}
    for name, cut in cuts.items():
        child = transfer.in_coordinates(t0, cut)
        unhealed = transfer.accuracy(child, models.world["A"])
        learnt(child, models.world["A"], seed, lr=1e-3, steps=150)
        found[name] = rung(models, child, transfer.recoordinate(delta, cut))
        found[name]["A before healing"] = round(unhealed, 4)
    return found


def drift(models, seed):
    """T0 that goes on learning other facts: by steps and by scale of the difference, A, B, R."""
    delta = transfer.difference(models.t1, models.t0)
    student, found = copy.deepcopy(models.t0), {0: grid(models, models.t0, delta)}
    facts = transfer.joined(models.world["A"], models.world["C"])
    for step, _ in training.training(student, *facts, steps=max(DRIFT), rng=seed):
        if step in DRIFT:
            found[step] = grid(models, student, delta)
    return found


def grid(models, student, delta):
    return {
        "by scale": [
            list(knows(transfer.apply_delta(student, delta, scale), models.world).values())
            for scale in SCALES
        ],
        "cka": round(likeness(models.t0, student, models.world), 4),
        "cosine": round(weight_cosine(models.t0, student), 4),
    }


def rotation_path(model, angle, seed):
    """Coordinates after a step of `angle` along one path of rotations exp(angle K) of the stream.

    K is a random skew-symmetric matrix whose largest rotation is half a turn at angle 1.
    """
    start = transfer.identity(model)
    noise = np.random.default_rng(seed).normal(size=start.residual.shape)
    skew = noise - noise.T
    skew *= np.pi / np.linalg.norm(skew, 2)
    return start._replace(residual=torch.from_numpy(expm(angle * skew)).float())


def path(models, seed):
    """T0 turned along one path of rotations, the difference added as it is."""
    delta, found = transfer.difference(models.t1, models.t0), []
    for angle in ANGLES:
        place = rotation_path(models.t0, angle, seed)
        found.append(rung(models, transfer.in_coordinates(models.t0, place), delta))
    return found


# ------------------------------------------------------------------------------- after injection


@torch.no_grad()
def nll(model, facts):
    return float(
        nn.functional.cross_entropy(training.last_logits(model, facts.prompts), facts.values)
    )


def starts(models, split, seed):
    """LoRA factors of every arm; None is the usual start."""
    student = models.small
    from_t1, from_t0 = (
        transfer.seek(teacher, student, transfer.sensitivity(teacher, split["extract"]), RANK)
        for teacher in (models.t1, models.t0)
    )
    rng = np.random.default_rng(seed)
    weights = transfer.changed_weights(student)
    return {
        "usual LoRA": None,
        "PiSSA": {n: transfer.low_rank(w.detach(), RANK) for n, w in weights.items()},
        "Seeking, T1": from_t1,
        "Seeking, T0": from_t0,
        "random, same spectrum": {n: transfer.random_factors(f, rng) for n, f in from_t1.items()},
    }


def fine_tuned(student, factors, split, seed, lr, looks=LOOKS, batch_size=64):
    """(step, student) at the steps in `looks`: LoRA trained from the factors; None: as usual."""
    model = transfer.with_lora(student, RANK, seed, factors)
    for step, _ in training.training(
        model, *split["train"], steps=max(looks), rng=seed, lr=lr, decay=0, batch_size=batch_size
    ):
        if step in looks:
            yield step, model


def after_injection(models, seed):
    """By arm, learning rate and step."""
    split = transfer.split(models.world, seed)
    arms = starts(models, split, seed)

    def run(factors, lr):
        steps = fine_tuned(models.small, factors, split, seed, lr)
        return {str(step): looked(model, split, models) for step, model in steps}

    found = {arm: {f"{lr:g}": run(own, lr) for lr in LORA_RATES} for arm, own in arms.items()}
    wide = wider(transfer.with_lora(models.small, RANK, seed), 3)
    found["U = 0, V times 3"] = {f"{USUAL_RATE:g}": run(wide, USUAL_RATE)}
    return found


def wider(model, factor):
    """The usual start of a student with LoRA as factors, V times `factor`."""
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "lora_A")}
    return {
        f"{name}.weight": tuple(
            own["default"].weight.detach() * scale
            for own, scale in ((layer.lora_B, 1), (layer.lora_A, factor))
        )
        for name, layer in layers.items()
    }


def looked(model, split, models):
    return {
        "nll": round(nll(model, split["R"]), 4),
        **{name: round(transfer.accuracy(model, split[name]), 4) for name in "BR"},
        "A": round(transfer.accuracy(model, models.world["A"]), 4),
    }


# ------------------------------------------------------------------------------ before injection


def neurons_of(teacher, student, facts):
    """(vectors, layers) of a teacher's located neurons, as many as a tenth of the student's."""
    located, c = transfer.locate(teacher, facts), student.config
    layers = transfer.top_layers(located.layers, c.num_hidden_layers)
    places = transfer.places_of(located, layers, counts(student))
    return transfer.neurons(teacher, layers, places), layers


def counts(student):
    return int(0.1 * student.config.intermediate_size), int(0.1 * student.config.hidden_size)


def translations(models, split, seed):
    """The tensors that the arms translate; they differ in nothing else."""
    student = models.small
    found = {"T1": neurons_of(models.t1, student, split["extract"])[0]}
    found["T0"] = neurons_of(models.t0, student, split["extract"])[0]
    generator = torch.Generator().manual_seed(seed)
    found["noise"] = {
        kind: torch.randn(own.shape, generator=generator) * own.std()
        for kind, own in found["T1"].items()
    }
    own = neurons_of(student, student, split["extract"])[0]
    found["its own"] = {kind: widened(x, models.t1.config.hidden_size) for kind, x in own.items()}
    return found


def widened(vectors, width):
    """Zeros behind, so that the translator has the same shape."""
    return nn.functional.pad(vectors, (0, width - vectors.shape[-1]))


def aligned(student, vectors, places, translator, weight):
    """What `training.training` needs to train the translator alone: (model, scores, penalty).

    The loss is the student's with the translated neurons added, plus `weight` times the mean
    square of what is added, summed over kinds: it pulls them to zero, nothing pulls them towards
    the student's weights.
    """

    def scores(_model, prompts):
        changed = transfer.injected(student, translator(vectors), places)
        inputs = {"input_ids": prompts, "use_cache": False, "logits_to_keep": 1}
        return functional_call(student, changed, (), inputs).logits[:, -1]

    def penalty():
        return weight * sum(own.square().mean() for own in translator(vectors).values())

    return translator, scores, penalty


def align(models, split, vectors, seed, *, lr, steps=ALIGN_STEPS, weight=1000.0, student=None):
    """The student with the translated neurons added, after every step from 0 on."""
    student = student or models.small
    layers = list(range(student.config.num_hidden_layers))
    places = transfer.places_of(transfer.locate(student, split["extract"]), layers, counts(student))
    translator = transfer.Translator(
        models.t1.config.hidden_size, student.config.hidden_size, std=1e-2, seed=seed
    )
    model, scores, penalty = aligned(student, vectors, places, translator, weight)

    def fused():
        with torch.no_grad():
            changed = transfer.injected(student, translator(vectors), places)
        found = copy.deepcopy(student)
        found.load_state_dict({**student.state_dict(), **changed})
        return found

    yield fused()
    for _ in training.training(
        model, *split["align"], steps=steps, rng=seed, lr=lr, decay=0.05,
        batch_size=ALIGN_BATCH, scores=scores, penalty=penalty,
    ):  # fmt: skip
        yield fused()


def last(models):
    *_, found = models
    return found


def before_injection(models, seed, lr):
    """By arm: what the student knows after each step, the 0th included."""
    split = transfer.split(models.world, seed)
    vectors = translations(models, split, seed)
    found = {
        arm: [looked(m, split, models) for m in align(models, split, own, seed, lr=lr)]
        for arm, own in vectors.items()
    }
    free = align(models, split, vectors["T1"], seed, lr=lr, steps=60, weight=0.0)
    return found | {"T1, no penalty, 60 steps": [looked(last(free), split, models)]}


def unaligned(models, seed):
    """The student with the first entries of the teacher's neurons added as they are, or noise."""
    split, student = transfer.split(models.world, seed), models.small
    vectors = translations(models, split, seed)
    layers = list(range(student.config.num_hidden_layers))
    places = transfer.places_of(transfer.locate(student, split["extract"]), layers, counts(student))
    found = {}
    for arm in ("T1", "noise"):
        cut = {kind: x[..., : student.config.hidden_size] for kind, x in vectors[arm].items()}
        fused = copy.deepcopy(student)
        changed = transfer.injected(student, cut, places)
        fused.load_state_dict({**student.state_dict(), **changed})
        found[arm] = looked(fused, split, models)
    return found


def into_t0(models, seed, lr):
    """Easier students: T0 itself, by LaTen from T1, and with the true difference in T1's places."""
    split, t0 = transfer.split(models.world, seed), models.t0
    vectors, _ = neurons_of(models.t1, t0, split["extract"])
    aligned = align(models, split, vectors, seed, lr=lr, student=t0)
    places = transfer.places_of(
        transfer.locate(models.t1, split["extract"]),
        list(range(t0.config.num_hidden_layers)),
        counts(t0),
    )
    delta = transfer.difference(models.t1, t0)
    part = {name: torch.zeros_like(own) for name, own in delta.items()}
    for name, own in delta.items():
        layer, kind = transfer.layer_and_kind(name)
        rows = kind in ("up_proj", "v_proj")
        where = (places[kind][layer],) if rows else (slice(None), places[kind][layer])
        part[name][where] = own[where]
    return {
        "LaTen": looked(last(aligned), split, models),
        "true difference, located tenth": looked(transfer.apply_delta(t0, part), split, models),
    }


# ------------------------------------------------------------------------------ through language


@torch.no_grad()
def soft(teacher, prompts):
    return training.last_logits(teacher, prompts).softmax(-1)


def distilled(models, facts, seed, *, steps, lr, batch_size=256, labels=False):
    """The student taught in the same matrices by the teacher's outputs, or by the labels."""
    found = copy.deepcopy(models.small)
    targets = facts.values if labels else soft(models.t1, facts.prompts)
    weights = transfer.changed_weights(found).values()
    for _ in training.training(
        found, facts.prompts, targets, steps=steps, rng=seed, lr=lr, decay=0,
        batch_size=batch_size, weights=weights,
    ):  # fmt: skip
        pass
    return found


def few_examples(models, split, seed):
    """With the 80 examples, the steps and the batches of the translator: by way and rate."""
    found = {}
    few = {"steps": ALIGN_STEPS, "batch_size": ALIGN_BATCH}
    factors = starts(models, split, seed)["Seeking, T1"]
    on_few = {**split, "train": split["align"]}
    for lr in FEW_RATES:
        ways = {
            "outputs": distilled(models, split["align"], seed, lr=lr, **few),
            "labels": distilled(models, split["align"], seed, lr=lr, labels=True, **few),
            "Seeking, T1": last(
                model
                for _, model in fine_tuned(
                    models.small, factors, on_few, seed, lr, [ALIGN_STEPS], ALIGN_BATCH
                )
            ),
        }
        for name, model in ways.items():
            found.setdefault(name, {})[f"{lr:g}"] = looked(model, split, models)
    return found


def language(models, seed):
    """Distillation on all prompts, and the ways that see few examples."""
    split = transfer.split(models.world, seed)
    everything = transfer.joined(*(models.world[name] for name in "ABR"))
    spoken = distilled(models, everything, seed, steps=300, lr=3e-3)
    return {
        "all prompts": knows(spoken, models.world),
        "80 examples": few_examples(models, split, seed),
    }


# -------------------------------------------------------------------------------------- all of it


def tuned(models, seed):
    """What each way reaches on a tuning seed, by learning rate."""
    split = transfer.split(models.world, seed)
    vectors = translations(models, split, seed)["T1"]
    return {
        "translator": {
            f"{lr:g}": looked(last(align(models, split, vectors, seed, lr=lr)), split, models)
            for lr in RATES
        },
        "after injection": after_injection(models, seed),
        "80 examples": few_examples(models, split, seed),
    }


def settings():
    """(what the tuning seeds reached, the rates chosen by it)."""
    used = {"seeds": TUNING_SEEDS, "rates": [RATES, LORA_RATES, FEW_RATES], "looks": LOOKS}
    steps = Steps("incompatibility_settings", used)
    runs = steps.run_all({str(s): lambda s=s: tuned(family(s), s) for s in TUNING_SEEDS})
    return runs, chosen_rates(list(runs.values()))


def chosen_rates(runs):
    """Least loss on held-out R; with few examples, among the rates that keep A as LaTen does."""

    def mean(*keys):
        return float(np.mean([functools.reduce(operator.getitem, keys, own) for own in runs]))

    translator = {lr: mean("translator", lr, "nll") for lr in runs[0]["translator"]}
    best = min(translator, key=translator.get)
    floor = mean("translator", best, "A") - RETENTION
    found = {"translator": float(best), "lora": {}, "80 examples": {}}
    for arm, rates in runs[0]["after injection"].items():
        losses = {
            lr: sum(mean("after injection", arm, lr, str(k), "nll") for k in PUBLISHED)
            for lr in rates
        }
        found["lora"][arm] = float(min(losses, key=losses.get))
    for way, rates in runs[0]["80 examples"].items():
        losses = {
            lr: mean("80 examples", way, lr, "nll")
            for lr in rates
            if mean("80 examples", way, lr, "A") >= floor
        }
        found["80 examples"][way] = float(min(losses, key=losses.get))
    return found


def of_seed(seed, rates):
    models = family(seed)
    if seed in KEPT:
        keep(models, seed)
    delta = transfer.difference(models.t1, models.t0)
    old = transfer.changed_weights(models.t0)
    shares = {}
    for name, own in delta.items():
        ratio = float(own.norm() / old[name].detach().norm())
        shares.setdefault(transfer.layer_and_kind(name)[1], []).append(round(ratio, 4))
    members = {"T0": models.t0, "T1": models.t1, "small": models.small, "other": models.other}
    split = transfer.split(models.world, seed)
    return {
        "models": {name: knows(model, models.world) for name, model in members.items()},
        "size of the difference": shares,
        "layers": {
            name: {
                "sensitivity": rounded(
                    transfer.layer_scores(transfer.sensitivity(m, split["extract"]))
                ),
                "attribution": rounded(transfer.locate(m, split["extract"]).layers),
            }
            for name, m in (("T0", models.t0), ("T1", models.t1))
        },
        "student": looked(models.small, split, models),
        "modules": module_likeness(models),
        "untrained": round(
            likeness(models.t0, transfer.tiny_llama(seed=seed + 4000), models.world), 4
        ),
        "ladder": ladder(models, seed),
        "ladder, small start": ladder(family(seed, SMALL_START), seed),
        "drift": drift(models, seed),
        "path": path(models, seed),
        "after injection": after_injection(models, seed),
        "unaligned": unaligned(models, seed),
        "before injection": before_injection(models, seed, rates["translator"]),
        "into T0": into_t0(models, seed, rates["translator"]),
        "language": language(models, seed),
    }


def seeds():
    tuning, rates = settings()
    used = {"seeds": SEEDS, "rates": rates, "scales": SCALES, "looks": LOOKS}
    steps = Steps("incompatibility_seeds", used)
    runs = steps.run_all({str(s): lambda s=s: of_seed(s, rates) for s in SEEDS})
    meta = {"scales": SCALES, "angles": ANGLES, "rates": rates, "tuning": tuning}
    write(HERE / "numbers.json", {**versions(), **meta, "seeds": runs}, indent=None)


# ------------------------------------------------------------------------------ published sizes


def grown(lr, steps=8, wide=5120, narrow=4096, rows=64):
    """Root mean square of the translator's output after 0 to `steps` steps, and its share of zeros.

    Weights start at 1e-5; inputs of deviation .02; AdamW (.9, .95), decay .05, one-cycle over 20
    steps as in the released code. The loss is linear in the output with one direction for all
    steps, the most favourable case. Zeros are those of the 16-bit number that is added.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, wide), (wide, wide), (narrow, wide), (rows, narrow))
    vectors, first, second, direction = (torch.randn(n, generator=generator) for n in shapes)
    vectors = 0.02 * vectors
    weights = [nn.Parameter(1e-5 * own) for own in (first, second)]
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=20, pct_start=0.1
    )
    found = []
    for step in range(steps + 1):
        added = (vectors @ weights[0].T).relu() @ weights[1].T
        size = float(added.detach().square().mean().sqrt())
        found.append([size, float((added.detach().half() == 0).float().mean())])
        if step < steps:
            optimizer.zero_grad()
            (-(added * direction).sum()).backward()
            optimizer.step()
            schedule.step()
    return found


def sizes():
    rates = (3e-5, 3e-4)  # README and table of the follow-up; script
    write(HERE / "sizes.json", {**versions(), "grown": {f"{lr:g}": grown(lr) for lr in rates}})


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"settings": settings, "seeds": seeds, "sizes": sizes}[sys.argv[1]]()
