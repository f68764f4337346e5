"""The checks of notebook 06: every form of a right answer passes, wrong ones are named."""

import math

import numpy as np
import pytest
import torch
from families import one_thread  # noqa: F401
from scipy.stats import norm
from statsmodels.stats.proportion import proportions_ztest

from helpers import data, transfer

ROOM = data.module("06", "exercises")
EXERCISES = ROOM.EXERCISES


def kinds(id):
    return [EXERCISES[id].kind, *(mistake.kind for mistake in EXERCISES[id].mistakes)]


def passes(says, id, *answers):
    for answer in answers:
        assert says(id, answer) == (True, f"✔ Exercise {id}: right.\n")


def refuses(says, id, answer, kind):
    """Whether an answer is refused with the one kind of mistake that begins like this."""
    (whole,) = [own for own in kinds(id) if own.startswith(kind)]
    right, text = says(id, answer)
    assert not right
    assert f"not yet. {whole}" in text.replace("\\'", "'"), text


@pytest.mark.parametrize("id", EXERCISES)
def test_an_untouched_stub_and_nonsense_are_no_answers(says, id):
    assert says(id, ...) == (False, f"○ Exercise {id}: not answered yet.\n")
    assert not says(id, object())[0]
    assert not says(id, lambda *arguments: None)[0]


@pytest.mark.parametrize("id", EXERCISES)
def test_every_kind_of_mistake_begins_in_its_own_way_and_no_hint_hands_in_the_answer(id):
    assert len({own[:32] for own in kinds(id)}) == len(kinds(id)) >= 4
    hints = [EXERCISES[id].how, *(mistake.how for mistake in EXERCISES[id].mistakes)]
    assert not any("def " in how or "return " in how.replace("Return", "") for how in hints)


# Exercise 1


def cka(layers, **how):
    return transfer.cka_matrix(layers, layers, **({"debiased": True} | how))


def by_pairs(layers):
    pairs = [(x, y) for i, x in enumerate(layers) for y in layers[:i]]
    return torch.tensor([transfer.linear_cka(x, y, debiased=True) for x, y in pairs]).mean()


def unbiased_hsic(x, y):
    """Song et al. 2012, equation 5, written out."""
    n = len(x)
    k, m = (np.where(np.eye(n), 0, own @ own.T) for own in (x, y))
    parts = np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
    return parts / (n * (n - 3))


def by_the_definition(layers):
    found = [
        unbiased_hsic(x, y) / math.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y))
        for i, x in enumerate(layers)
        for j, y in enumerate(layers)
        if i != j
    ]
    return [sum(found) / len(found)]


def without_the_diagonal(layers):
    found, n = cka(layers), len(layers)
    return (found.sum() - n) / (n * n - n)


def test_1(says):
    passes(says, 1, by_pairs, by_the_definition, without_the_diagonal)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda layers: cka(layers).mean(), "Every layer is compared with itself"),
        (lambda layers: cka(layers)[np.tril_indices(len(layers))].mean(), "Every layer is"),
        (lambda layers: cka(layers, debiased=False).mean(), "Every layer is"),
        (
            lambda layers: cka(layers, debiased=False)[np.tril_indices(len(layers), -1)].mean(),
            "That is plain CKA",
        ),
        (lambda layers: np.diag(cka(layers), 1).mean(), "Only neighbours"),
        (lambda layers: np.tril(cka(layers), -1).mean(), "Entries that were set to 0"),
        (lambda layers: (cka(layers) - np.eye(len(layers))).mean(), "Entries that were set to 0"),
        (lambda layers: cka(layers)[0, 1:].mean(), "Only the first layer"),
        (lambda layers: np.median(cka(layers)[np.tril_indices(len(layers), -1)]), "That is the m"),
        (lambda layers: cka(layers)[np.tril_indices(len(layers), -1)].sum(), "That is the sum"),
        (
            lambda layers: without_the_diagonal([(x - x.mean(0)) / x.std(0) for x in layers]),
            "The columns were standardised",
        ),
        (cka, "One number is asked for"),
        (lambda layers: without_the_diagonal(layers) + 0.01, "On three small models"),
    ],
)
def test_1_names_what_is_wrong(says, answer, kind):
    refuses(says, 1, answer, kind)


# Exercise 2


def losses(runs, arm, step, what="nll"):
    """By rate: (runs,)."""
    arms = [own["after injection"][arm] for own in runs]
    return {r: np.array([own[r][str(step)][what] for own in arms]) for r in arms[0]}


def level(runs, step, *, over=np.mean, key=float, what="nll", goal="0.003"):
    """Rates at which the usual LoRA is not above Seeking, in order."""
    there = over(losses(runs, "Seeking, T1", step, what)[goal])
    own = losses(runs, "usual LoRA", step, what)
    return sorted((r for r, x in own.items() if over(x) <= there), key=key)


def by_a_loop(runs, step):
    goal = sum(own["after injection"]["Seeking, T1"]["0.003"][str(step)]["nll"] for own in runs)
    for rate in sorted(map(float, runs[0]["after injection"]["usual LoRA"])):
        if losses(runs, "usual LoRA", step)[f"{rate:g}"].sum() <= goal:
            return rate
    return None


def test_2(says):
    passes(
        says,
        2,
        by_a_loop,
        lambda runs, step: level(runs, step)[0],  # a text
        lambda runs, step: np.array([min(map(float, level(runs, step)))]),
    )


def each_seed(runs, step):
    there, own = losses(runs, "Seeking, T1", step)["0.003"], losses(runs, "usual LoRA", step)
    return min(float(r) for r, x in own.items() if (x <= there).all())


def best(runs, step):
    own = losses(runs, "usual LoRA", step)
    return float(min(own, key=lambda r: own[r].mean()))


def nearest(runs, step):
    goal, own = losses(runs, "Seeking, T1", step)["0.003"], losses(runs, "usual LoRA", step)
    return min(own, key=lambda r: abs(own[r].mean() - goal.mean()))


def strictly_below(runs, step):
    goal, own = losses(runs, "Seeking, T1", step)["0.003"], losses(runs, "usual LoRA", step)
    return min(float(r) for r, x in own.items() if x.mean() < goal.mean())


def more_accurate(runs, step):
    there = losses(runs, "Seeking, T1", step, "R")["0.003"].mean()
    own = losses(runs, "usual LoRA", step, "R")
    return min(float(r) for r, x in own.items() if x.mean() >= there)


def as_stored(runs, step):
    rates = runs[0]["after injection"]["usual LoRA"]
    return next(r for r in rates if r in level(runs, step))


def of_eight(runs, step):
    eight = data.module("06", "make_numbers").LORA_RATES
    return min(float(r) for r in level(runs, step) if float(r) in eight)


def own_loss(runs, step):
    return losses(runs, "usual LoRA", step)[level(runs, step)[0]].mean()


def against_best(runs, step):
    own = losses(runs, "Seeking, T1", step)
    return level(runs, step, goal=min(own, key=lambda r: own[r].mean()))[0]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (best, "That is the rate at which the usual LoRA is best"),
        (nearest, "That is the rate whose loss is nearest"),
        (lambda runs, step: level(runs[:1], step)[0], "One seed decides"),
        (lambda runs, step: level(runs[-1:], step)[0], "One seed decides"),
        (lambda runs, step: level(runs, step, key=str)[0], "The rates are sorted as texts"),
        (as_stored, "That is the first such rate"),
        (more_accurate, "You compare accuracies"),
        (lambda runs, step: level(runs, step)[-1], "That is the largest"),
        (against_best, "Seeking runs at its own best"),
        (strictly_below, "A rate at which the two are level"),
        (of_eight, "You try the eight rates"),
        (lambda runs, step: level(runs, 23)[0], "The result does not depend"),
        (each_seed, "You ask that every seed"),
        (lambda runs, step: level(runs, step, over=np.median)[0], "You compare medians"),
        (own_loss, "That is a loss"),
        (lambda runs, step: 0.006, "On made-up runs"),
    ],
)
def test_2_names_what_is_wrong(says, answer, kind):
    refuses(says, 2, answer, kind)


def test_2_on_the_stored_runs():
    runs = list(data.read_json("06_neural_incompatibility/numbers.json")["seeds"].values())
    found = [by_a_loop(runs, step) for step in (10, 23, 47, 78, 160)]
    assert found == [0.01, 0.006, 0.006, 0.006, 0.003]  # the solution's sentence


# Exercise 3


def fair(choose, judge):
    found = []
    for own, other in zip(choose, judge, strict=True):
        step = max(range(1, 21), key=lambda k: own[k])
        found.append(other[step] - other[0])
    return sum(found) / len(found)


def fair_in_one(choose, judge):
    choose, judge = torch.as_tensor(choose), torch.as_tensor(judge)
    best = choose[:, 1:].argmax(1, keepdim=True) + 1
    return (judge.gather(1, best)[:, 0] - judge[:, 0]).mean()


def test_3(says):
    passes(says, 3, fair, fair_in_one, lambda a, b: np.array([fair(a, b)]))


def read(choose, judge, first=1, shift=1):
    best = choose[:, first:].argmax(1) + shift
    return judge[np.arange(len(judge)), best]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda a, b: fair(a, a), "Chosen and judged on the same"),
        (lambda a, b: fair(b, b), "Chosen and judged on the same"),
        (lambda a, b: fair((a + b) / 2, (a + b) / 2), "Chosen and judged on the same"),
        (lambda a, b: fair(b, a), "The halves have changed places"),
        (lambda a, b: fair(np.tile(a.mean(0), (len(a), 1)), b), "All seeds have the same"),
        (lambda a, b: (read(a, b, 0, 0) - b[:, 0]).mean(), "The untouched student"),
        (lambda a, b: (read(a, b, 1, 0) - b[:, 0]).mean(), "You read the checkpoint before"),
        (lambda a, b: read(a, b).mean(), "That is the accuracy"),
        (lambda a, b: (read(a, b) - a[:, 0]).mean(), "The accuracy before is that on"),
        (lambda a, b: read(a, b) - b[:, 0], "Those are the gains of single seeds"),
        (lambda a, b: (b[:, 20] - b[:, 0]).mean(), "That is the last"),
        (lambda a, b: 100 * fair(a, b), "That is in percent"),
        (lambda a, b: fair(a, b) + 0.001, "On made-up accuracies"),
    ],
)
def test_3_names_what_is_wrong(says, answer, kind):
    refuses(says, 3, answer, kind)


# Exercise 4


def unpooled(before, after, n):
    p, q = before / n, after / n
    return (q - p) / math.sqrt((p * (1 - p) + q * (1 - q)) / n)


def p_by_normal(before, after, n, tasks, checkpoints):
    z = unpooled(before, after, n)
    return min(1, 2 * norm.sf(abs(z)) * tasks * checkpoints)


def p_by_erf(before, after, n, tasks, checkpoints):
    z = torch.tensor(unpooled(before, after, n), dtype=torch.float64)
    return (torch.erfc(z.abs() / 2**0.5) * tasks * checkpoints).clamp(max=1)


def p_by_statsmodels(before, after, n, tasks, checkpoints):  # pooled
    _, p = proportions_ztest([before, after], [n, n])
    return min(1.0, p * tasks * checkpoints)


def test_4(says):
    passes(says, 4, p_by_normal, p_by_erf, p_by_statsmodels)
    found = [p_by_normal(212, 270, 1319, *own) for own in ((1, 1), (4, 1), (1, 20), (4, 20))]
    np.testing.assert_allclose(found, [0.0034, 0.0137, 0.068, 0.274], atol=5e-4)


def p_with(times=lambda p, t, c: p * t * c, sides=2, z=lambda z: abs(z), cap=1):
    return lambda a, b, n, t, c: min(cap, times(sides * norm.sf(z(unpooled(a, b, n))), t, c))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (p_with(sides=1), "That is one tail"),
        (p_with(cap=math.inf), "p can be above 1"),
        (p_with(lambda p, t, c: p), "That is p of a gain that nobody chose"),
        (p_with(lambda p, t, c: p * (t + c)), "Tasks and checkpoints are added"),
        (p_with(lambda p, t, c: p * t), "Only the tasks"),
        (p_with(lambda p, t, c: p * c), "Only the checkpoints"),
        (p_with(lambda p, t, c: p / (t * c)), "You divide"),
        (p_with(lambda p, t, c: 1 - (1 - p) ** (t * c)), "That is Šidák's"),
        (p_with(z=lambda z: z), "Where the score falls"),
        (
            lambda a, b, n, t, c: min(
                1, 2 * norm.sf(abs(b - a) / n / math.sqrt(a / n * (1 - a / n) / n)) * t * c
            ),
            "Only one of the two scores",
        ),
        (p_with(lambda p, t, c: p * t * c + 0.001), "For six pairs"),
    ],
)
def test_4_names_what_is_wrong(says, answer, kind):
    refuses(says, 4, answer, kind)


# Exercise 5


def twin(gate, up, down, gain, Q, p):
    return ((gate * gain) @ Q)[p], ((up * gain) @ Q)[p], Q.T @ down[:, p]


def twin_in_numpy(*part):
    gate, up, down, gain, Q, p = (np.asarray(own) for own in part)
    fold = np.diag(gain) @ Q
    return [(gate @ fold)[p], (up @ fold)[p], np.take(Q.T @ down, p, axis=1)]


def twin_by_matrices(gate, up, down, gain, Q, p):
    shuffle = torch.eye(len(p), dtype=gate.dtype)[p]
    reads = torch.stack([gate, up]).mul(gain).matmul(Q)
    return (*(shuffle @ reads).float(), (Q.T @ down @ shuffle.T).float())


def twin_for_arrays(gate, up, down, gain, Q, p):
    assert isinstance(gate, np.ndarray)
    return twin(gate, up, down, gain, Q, p)


def test_5(says):
    passes(says, 5, twin, twin_in_numpy, twin_by_matrices, twin_for_arrays)


def test_5_the_reference_has_the_same_function():
    for gate, up, down, gain, Q, p in ROOM.PARTS:
        x = torch.randn(5, len(Q), dtype=torch.float64)

        def flow(x, gate, up, down):
            return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

        wanted = flow(x * gain, gate, up, down) @ Q
        torch.testing.assert_close(flow(x @ Q, *twin(gate, up, down, gain, Q, p)), wanted)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda g, u, d, a, Q, p: twin(g, u, d, 1, Q, p), "The norm's gain is lost"),
        (
            lambda g, u, d, a, Q, p: ((g @ Q * a)[p], (u @ Q * a)[p], Q.T @ d[:, p]),
            "The gain multiplies the new",
        ),
        (lambda g, u, d, a, Q, p: twin(g, u, a[:, None] * d, a, Q, p), "The gain is in the down"),
        (lambda g, u, d, a, Q, p: twin(g, u, d, 1 / a, Q, p), "You divide by the gain"),
        (lambda g, u, d, a, Q, p: twin(g, u, d, a, Q.T, p), "A matrix is turned the wrong way"),
        (
            lambda g, u, d, a, Q, p: (*twin(g, u, d, a, Q, p)[:2], Q @ d[:, p]),
            "A matrix is turned the wrong way",
        ),
        (
            lambda g, u, d, a, Q, p: (*twin(g, u, d, a, Q, p)[:2], Q.T @ d),
            "Units are shuffled in some",
        ),
        (
            lambda g, u, d, a, Q, p: ((g * a) @ Q, *twin(g, u, d, a, Q, p)[1:]),
            "Units are shuffled in some",
        ),
        (
            lambda g, u, d, a, Q, p: twin(g, u, d, a, Q, np.arange(len(p))),
            "The units are not shuffled",
        ),
        (
            lambda g, u, d, a, Q, p: (*twin(g, u, d, a, Q, p)[:2], d[:, p]),
            "The down-projection is not turned",
        ),
        (
            lambda g, u, d, a, Q, p: ((g * a)[p], (u * a)[p], Q.T @ d[:, p]),
            "gate and up are not turned",
        ),
        (lambda g, u, d, a, Q, p: twin(g, u, d, a, Q, p.argsort()), "The units are shuffled by"),
        (lambda g, u, d, a, Q, p: twin(u, g, d, a, Q, p), "gate and up have changed places"),
        (lambda g, u, d, a, Q, p: (g, u, d), "On random matrices"),
        (lambda g, u, d, a, Q, p: twin(g, u, d, a, Q, p)[:2], "On random matrices"),
    ],
)
def test_5_names_what_is_wrong(says, answer, kind):
    refuses(says, 5, answer, kind)


# Exercise 6


def bridge(T0, T1, stranger, facts_known, facts_asked):
    delta = transfer.difference(T1, T0)
    place = transfer.estimated(T0, stranger, facts_known.prompts)
    there = transfer.apply_delta(stranger, transfer.recoordinate(delta, place))
    return transfer.accuracy(there, facts_asked) - transfer.accuracy(stranger, facts_asked)


def in_place(T0, T1, stranger, facts_known, facts_asked):
    """Changes the stranger that it is given; returns a tensor."""
    before = transfer.accuracy(stranger, facts_asked)
    place = transfer.estimated(T0, stranger, facts_known.prompts)
    old, new = (transfer.recoordinate(transfer.changed_weights(m), place) for m in (T0, T1))
    with torch.no_grad():
        for name, weight in transfer.changed_weights(stranger).items():
            weight += new[name] - old[name]
    return torch.tensor([transfer.accuracy(stranger, facts_asked) - before])


def test_6(says):
    passes(says, 6, bridge, in_place)


def changed(added, subtract=lambda *part: transfer.accuracy(part[2], part[4])):
    def answer(*part):
        there = transfer.apply_delta(part[2], added(*part))
        return transfer.accuracy(there, part[4]) - subtract(*part)

    return answer


def mapped(T0, T1, stranger, known, asked):
    place = transfer.estimated(T0, stranger, known.prompts)
    return transfer.recoordinate(transfer.difference(T1, T0), place)


def by(places):
    """The difference in the coordinates that this function of the five arguments estimates."""
    return changed(
        lambda *part: transfer.recoordinate(transfer.difference(part[1], part[0]), places(*part))
    )


def taken_away(*part):
    return {name: -own for name, own in mapped(*part).items()}


WRONG_BRIDGES = {
    "That is the accuracy after": changed(mapped, lambda *part: 0),
    "That is what the stranger knew": lambda *part: transfer.accuracy(part[2], part[4]),
    "The sign of the gain": lambda *part: -bridge(*part),
    "You take off what T0 knew": changed(mapped, lambda *part: transfer.accuracy(part[0], part[4])),
    "Δ was added as it is": changed(lambda t0, t1, *_: transfer.difference(t1, t0)),
    "The map leads from": by(lambda t0, t1, s, known, _: transfer.estimated(s, t0, known.prompts)),
    "That is T0 - T1": changed(lambda t0, t1, *rest: mapped(t1, t0, *rest)),
    "That is T0 - T1: it": changed(taken_away),
    "Nothing reaches": lambda *part: 0.0,
    "The coordinates are estimated from T1": by(
        lambda t0, t1, s, known, _: transfer.estimated(t1, s, known.prompts)
    ),
    "The coordinates are estimated on": by(
        lambda t0, t1, s, _, asked: transfer.estimated(t0, s, asked.prompts)
    ),
    "You ask for the facts": lambda *part: bridge(*part[:4], part[3]),
    "For a relative of T0": lambda *part: bridge(*part) / 2,
}


@pytest.mark.parametrize("kind", WRONG_BRIDGES)
def test_6_names_what_is_wrong(says, kind):
    refuses(says, 6, WRONG_BRIDGES[kind], kind)


def test_6_an_answer_that_stops_is_not_judged_by_the_one_before(says):
    refuses(says, 6, WRONG_BRIDGES["Nothing reaches"], "Nothing reaches")
    right, text = says(6, lambda *part: part[9])
    assert not right and "IndexError" in text and "Nothing reaches" not in text


def test_6_the_relative_gains_and_strangers_do_not():
    relative, *strangers = ROOM.gains_by("right")
    assert relative > 0.7 and max(map(abs, strangers)) < 0.02
