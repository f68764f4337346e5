"""Writes what notebook 06 knows of the toy world: five seeds of every experiment.

    python data/06_neural_incompatibility/make_numbers.py PART

PART is one of

    settings           learning rates, on other seeds
    seeds [backwards]  about two minutes a seed

Everything of a seed comes from that seed; arms that are compared share their examples, their order
and their starts. Finished steps are kept in the cache folder.
"""

import copy
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from helpers import hooks, training, transfer
from helpers.artefacts import Steps, rounded, versions, write, write_weights

HERE = Path(__file__).resolve().parent

SEEDS = (10, 11, 12, 13, 14)  # a pilot had used 0 to 4
TUNING_SEEDS = (100, 101)
DRIFT = (10, 30, 100, 300)
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
ANGLES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
RANK, LOOKS = 8, (10, 20, 40, 80, 160)  # LoRA; steps at which it is looked at
ALIGN_STEPS, ALIGN_BATCH = 20, 16
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
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


def path(models, seed):
    """T0 turned along one path of rotations, the difference added as it is."""
    delta, found = transfer.difference(models.t1, models.t0), []
    for angle in ANGLES:
        place = transfer.rotation_path(models.t0, angle, seed)
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


def after_injection(models, seed):
    split, found = transfer.split(models.world, seed), {}
    for name, factors in starts(models, split, seed).items():
        model = transfer.with_lora(models.small, RANK, seed, factors)
        looks = {}
        for step, _ in training.training(
            model, *split["train"], steps=max(LOOKS), rng=seed, decay=0, batch_size=64
        ):
            if step in LOOKS:
                looks[step] = looked(model, split, models)
        found[name] = looks
    return found


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


def align(models, split, vectors, seed, *, lr, steps=ALIGN_STEPS, weight=1000.0):
    """(losses, fused student) after training the translator on the few examples."""
    student, wide = models.small, models.t1.config.hidden_size
    located = transfer.locate(student, split["extract"])
    layers = list(range(student.config.num_hidden_layers))
    places = transfer.places_of(located, layers, counts(student))
    translator = transfer.Translator(wide, student.config.hidden_size, std=1e-2, seed=seed)
    model, scores, penalty = transfer.aligned(student, vectors, places, translator, weight=weight)
    losses = [
        loss
        for _, loss in training.training(
            model, *split["align"], steps=steps, rng=seed, lr=lr, decay=0.05,
            batch_size=ALIGN_BATCH, scores=scores, penalty=penalty,
        )
    ]  # fmt: skip
    with torch.no_grad():
        changed = transfer.injected(student, translator(vectors), places)
    fused = copy.deepcopy(student)
    fused.load_state_dict({**student.state_dict(), **changed})
    return losses, fused


def before_injection(models, seed, lr):
    split, found = transfer.split(models.world, seed), {}
    for name, vectors in translations(models, split, seed).items():
        losses, fused = align(models, split, vectors, seed, lr=lr)
        found[name] = {**judged(fused, split, models), "losses": rounded(losses)}
        if name == "T1":
            _, loose = align(models, split, vectors, seed, lr=lr, steps=60, weight=0.0)
            found["T1, no penalty, 60 steps"] = judged(loose, split, models)
    return found


def judged(model, split, models):
    return {**looked(model, split, models), "align nll": round(nll(model, split["align"]), 4)}


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


def language(models, seed, rates):
    """All prompts; and the 80 examples of the translator, with its steps and batches."""
    split = transfer.split(models.world, seed)
    everything = transfer.joined(*(models.world[name] for name in "ABR"))
    found = {
        "all prompts": knows(distilled(models, everything, seed, steps=300, lr=3e-3), models.world)
    }
    for name, labels in (("outputs", False), ("labels", True)):
        few = {"steps": ALIGN_STEPS, "batch_size": ALIGN_BATCH, "lr": rates[name], "labels": labels}
        found[f"80 examples, {name}"] = judged(
            distilled(models, split["align"], seed, **few), split, models
        )
    return found


# -------------------------------------------------------------------------------------- all of it


def tuned(models, seed):
    """Held-out nll of R after the few steps, by way and learning rate."""
    split, found = transfer.split(models.world, seed), {}
    vectors = translations(models, split, seed)["T1"]
    for lr in RATES:
        fused = align(models, split, vectors, seed, lr=lr)[1]
        few = {"steps": ALIGN_STEPS, "batch_size": ALIGN_BATCH, "lr": lr}
        arms = {
            "translator": fused,
            "outputs": distilled(models, split["align"], seed, **few),
            "labels": distilled(models, split["align"], seed, **few, labels=True),
        }
        for name, model in arms.items():
            found.setdefault(name, []).append(round(nll(model, split["R"]), 4))
    return found


def settings():
    steps = Steps("incompatibility_settings", {"seeds": TUNING_SEEDS, "rates": RATES})
    runs = steps.run_all({str(s): lambda s=s: tuned(family(s), s) for s in TUNING_SEEDS})
    means = {
        name: np.mean([own[name] for own in runs.values()], axis=0)
        for name in next(iter(runs.values()))
    }
    return runs, {name: RATES[int(np.argmin(own))] for name, own in means.items()}


def of_seed(seed, rates):
    models = family(seed)
    keep(models, seed)
    delta = transfer.difference(models.t1, models.t0)
    old = transfer.changed_weights(models.t0)
    shares = {}
    for name, own in delta.items():
        ratio = float(own.norm() / old[name].detach().norm())
        shares.setdefault(transfer.layer_and_kind(name)[1], []).append(round(ratio, 4))
    teachers = {"T0": models.t0, "T1": models.t1, "small": models.small, "other": models.other}
    split = transfer.split(models.world, seed)
    return {
        "models": {name: knows(model, models.world) for name, model in teachers.items()},
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
        "student": judged(models.small, split, models),
        "untrained": round(
            likeness(models.t0, transfer.tiny_llama(seed=seed + 4000), models.world), 4
        ),
        "ladder": ladder(models, seed),
        "ladder, small start": ladder(family(seed, SMALL_START), seed),
        "drift": drift(models, seed),
        "path": path(models, seed),
        "after injection": after_injection(models, seed),
        "before injection": before_injection(models, seed, rates["translator"]),
        "language": language(models, seed, rates),
    }


def seeds():
    tuning, rates = settings()
    steps = Steps("incompatibility_seeds", {"seeds": SEEDS, "rates": rates, "scales": SCALES})
    runs = steps.run_all({str(s): lambda s=s: of_seed(s, rates) for s in SEEDS})
    meta = {"scales": SCALES, "angles": ANGLES, "rates": rates, "tuning": tuning}
    write(HERE / "numbers.json", {**versions(), **meta, "seeds": runs})


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"settings": settings, "seeds": seeds}[sys.argv[1]]()
