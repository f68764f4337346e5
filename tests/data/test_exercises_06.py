"""The checks of notebook 06: every form of a right answer passes, wrong ones are named."""

import copy

import numpy as np
import pytest
import torch
from families import one_thread  # noqa: F401
from torch import nn

from helpers import data, training, transfer

SEED = 10
EXERCISES = data.module("06", "exercises").EXERCISES
WEIGHT = torch.randn(96, 80, generator=torch.Generator().manual_seed(0)) @ torch.diag(
    torch.linspace(3, 0.1, 80)
)
RANKS = (1, 2, 4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def kept():
    return transfer.load(data.folder("06") / "models" / f"{SEED}.safetensors")


@pytest.fixture(scope="module")
def world():
    return transfer.world(SEED)


@pytest.fixture(scope="module")
def examples(world):
    return transfer.split(world, SEED)


@pytest.fixture(scope="module")
def sensitive(kept, examples):
    return transfer.sensitivity(kept["T1"], examples["extract"])


@pytest.fixture(scope="module")
def delta(kept):
    return transfer.difference(kept["T1"], kept["T0"])


def named(id, number):
    return EXERCISES[id].mistakes[number].kind


# Exercise 1


def cosines(weight, of=lambda part, weight: weight):
    parts = (u @ v for u, v in (transfer.low_rank(weight, rank) for rank in RANKS))
    return [transfer.flat_cosine(part, of(part, weight)) for part in parts]


def closed(weight):
    squares = torch.linalg.svdvals(weight).square()
    return [float((squares[:rank].sum() / squares.sum()).sqrt()) for rank in RANKS]


def test_1_takes_two_lists_however_they_are_made(says):
    measured, formula = cosines(WEIGHT), closed(WEIGHT)
    sigma = np.linalg.svd(WEIGHT.double().numpy(), compute_uv=False)
    other = np.sqrt([sum(sigma[:rank] ** 2) / sum(sigma**2) for rank in RANKS])
    for answer in (
        (measured, formula),
        (np.array(measured), torch.tensor(formula)),
        (measured, other),
        [measured, list(other)],
        (tuple(round(x, 6) for x in measured), [round(x, 6) for x in formula]),
    ):
        assert says(1, answer, weight=WEIGHT) == (True, "✔ Exercise 1: right.\n")


@pytest.mark.parametrize(
    ("wrong", "number"),
    [
        (lambda: (closed(WEIGHT), closed(WEIGHT)), 0),
        (lambda: (cosines(WEIGHT), cosines(WEIGHT)), 0),
        (lambda: (cosines(WEIGHT), np.square(closed(WEIGHT))), 1),
        (lambda: (cosines(WEIGHT, lambda part, own: own - part), closed(WEIGHT)), 2),
        (lambda: (cosines(WEIGHT)[:6], closed(WEIGHT)[:6]), None),
        (lambda: (closed(WEIGHT.T @ WEIGHT), cosines(WEIGHT)), None),
    ],
)
def test_1_names_what_is_wrong(says, wrong, number):
    right, text = says(1, wrong(), weight=WEIGHT)
    assert not right
    assert (EXERCISES[1].kind if number is None else named(1, number)) in text


def test_1_stub(says):
    assert says(1, (..., ...), weight=WEIGHT)[1] == "○ Exercise 1: not answered yet.\n"


# Exercise 2


@pytest.fixture(scope="module")
def first(kept, sensitive, world):
    """Accuracy on A with parts of the block and of its rank-8 part added, and the context."""
    whole, part = (transfer.seek(kept["T1"], kept["small"], sensitive, r) for r in (48, 8))

    def first(a, b):
        added = {n: a * whole[n][0] @ whole[n][1] + b * part[n][0] @ part[n][1] for n in whole}
        return transfer.accuracy(transfer.apply_delta(kept["small"], added), world["A"])

    context = {"teacher": kept["T1"], "student": kept["small"]}
    return first, context | {"scores": sensitive, "facts": world["A"]}


def test_2_takes_the_accuracy_also_by_lora(says, first, kept, sensitive, world):
    added, context = first
    assert says(2, added(-1, 1), **context)[0]
    whole, part = (transfer.seek(kept["T1"], kept["small"], sensitive, r) for r in (48, 8))
    other = transfer.with_lora(kept["small"], 8, 0, part)
    for name, (u, v) in part.items():
        base = other.get_submodule(name.removesuffix(".weight")).base_layer.weight
        base.data += u @ v - whole[name][0] @ whole[name][1]
    by_lora = transfer.accuracy(other, world["A"])
    assert says(2, torch.tensor(by_lora), **context)[0]
    assert says(2, np.array([round(by_lora, 2)]), **context)[0]


@pytest.mark.parametrize(
    ("factors", "number"),
    [((1, -1), 0), ((-1, 0), 1), ((0, 1), 1), ((0, -1), 1), ((1, 0), 1), ((0, 0), 2)],
)
def test_2_names_what_is_wrong(says, first, factors, number):
    added, context = first
    right, text = says(2, added(*factors), **context)
    assert not right and named(2, number) in text


@pytest.mark.parametrize("guess", [0.1, 0.13, 1 / 24])
def test_2_is_not_guessed(says, first, guess):
    assert not says(2, guess, **first[1])[0]


# Exercise 3


@pytest.fixture(scope="module")
def shuffled(kept, delta):
    place = transfer.random_coordinates(kept["T0"], SEED)
    only = transfer.identity(kept["T0"])._replace(units=place.units)
    return {"place": only, "delta": delta}


@pytest.mark.parametrize(
    "answer",
    [
        ["up_proj", "down_proj"],
        ("down_proj", "up_proj"),
        {"up", "down"},
        np.array(["up_proj", "down_proj"]),
        transfer.MODULES,  # to shuffle v and o as well changes nothing
    ],
)
def test_3_takes_the_kinds_in_any_form(says, shuffled, answer):
    assert says(3, answer, **shuffled)[0]


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (["up_proj", "mlp"], 0),
        (["up_proj"], 1),
        (["down_proj", "v_proj"], 1),
        (["v_proj", "o_proj"], 2),
        ([], 2),
    ],
)
def test_3_names_what_is_wrong(says, shuffled, answer, number):
    right, text = says(3, answer, **shuffled)
    assert not right and named(3, number) in text


# Exercise 4


@pytest.fixture(scope="module")
def tuned(kept, examples, sensitive):
    """fine_tuned as on the page, and the context."""
    small = kept["small"]

    @torch.no_grad()
    def loss(model):
        scores = training.last_logits(model, examples["R"].prompts)
        return float(nn.functional.cross_entropy(scores, examples["R"].values))

    def tune(factors, looks):
        model, found = transfer.with_lora(small, 8, SEED, factors), {}
        for step, _ in training.training(
            model, *examples["train"], steps=max(looks), rng=SEED, decay=0, batch_size=64
        ):
            if step in looks:
                found[step] = loss(model)
        return found

    seeking = transfer.seek(kept["T1"], small, sensitive, 8)
    rng = np.random.default_rng(SEED)
    full = {n: transfer.random_factors(own, rng) for n, own in seeking.items()}
    return tune, {"full": full, "seeking": seeking, "tune": tune}


def times(factors, a, b=1.0):
    return {n: (a * u, b * v) for n, (u, v) in factors.items()}


def drawn_anew(factors):
    return {n: transfer.random_factors(own, np.random.default_rng(5)) for n, own in factors.items()}


RIGHT_4 = {
    "on U": lambda full, seeking: times(full, 0.3),
    "on V": lambda full, seeking: times(full, 1, 0.3),
    "on both": lambda full, seeking: times(full, 0.3**0.5, 0.3**0.5),
    "drawn anew": lambda full, seeking: times(drawn_anew(seeking), 0.3),
    "drawn smaller": lambda full, seeking: drawn_anew(times(seeking, 0.3)),
}


@pytest.mark.parametrize("way", RIGHT_4)
def test_4_takes_every_way_to_make_the_factors_smaller(says, tuned, way):
    tune, context = tuned
    factors = RIGHT_4[way](context["full"], context["seeking"])
    found = tune(factors, [10])[10]
    assert says(4, (factors, found), **context)[0]
    assert says(4, (factors, torch.tensor(round(found, 3))), **context)[0]


@pytest.mark.parametrize(
    ("factors", "step", "number"),
    [
        (lambda full, seeking: times(full, 0.3, 0.3), 10, 0),
        (lambda full, seeking: full, 10, 1),
        (lambda full, seeking: times(seeking, 0.3), 10, 2),
        (lambda full, seeking: times(full, 0.3), 5, 3),
        (lambda full, seeking: times(full, 0.5), 10, None),
    ],
)
def test_4_names_what_is_wrong(says, tuned, factors, step, number):
    tune, context = tuned
    made = factors(context["full"], context["seeking"])
    right, text = says(4, (made, tune(made, [step])[step]), **context)
    assert not right
    assert (EXERCISES[4].kind if number is None else named(4, number)) in text


def test_4_keeps_the_loss_of_other_factors_out(says, tuned):
    tune, context = tuned
    made = times(context["full"], 0.3)
    for other in (None, context["full"]):  # the usual start, all of the size
        assert named(4, 3) in says(4, (made, tune(other, [10])[10]), **context)[1]


# Exercise 5


@pytest.fixture(scope="module")
def grid(sensitive):
    return {"scores": sensitive["model.layers.1.mlp.up_proj.weight"], "shape": (112, 48)}


def test_5_takes_the_share_however_it_is_summed(says, grid):
    scores = grid["scores"]
    rows, columns = scores.sum(1).topk(112).indices, scores.sum(0).topk(48).indices
    share = scores[rows][:, columns].sum() / scores.sum()
    table = scores.double().numpy()
    keep = np.ix_(np.argsort(table.sum(1))[-112:], np.argsort(table.sum(0))[-48:])
    for answer in (share, float(share), round(float(share), 3), table[keep].sum() / table.sum()):
        assert says(5, answer, **grid)[0]


def test_5_names_what_is_wrong(says, grid):
    scores = grid["scores"]
    total, best = scores.sum(), scores.flatten().sort(descending=True).values
    row, column = transfer.best_block(scores, grid["shape"])
    for number, wrong in enumerate((
        scores.sum(1).topk(112).values.sum(),
        scores.sum(0).topk(48).values.sum(),
        best[: 112 * 48].sum(),
        scores[row : row + 112, column : column + 48].sum(),
    )):  # fmt: skip
        right, text = says(5, wrong / total, **grid)
        assert not right and named(5, number) in text
    assert not says(5, 0.7, **grid)[0]
    assert not says(5, 112 * 48 / scores.numel(), **grid)[0]


# Exercise 6


@pytest.fixture(scope="module")
def ends(kept, delta, world):
    context = {"base": kept["T0"], "delta": delta, "known": world["A"], "asked": world["B"]}
    return kept["other"], context


def mapped(start, end, delta, facts):
    return transfer.recoordinate(delta, transfer.estimated(start, end, facts.prompts))


def test_6_takes_the_bridged_model(says, ends):
    stranger, context = ends
    own = mapped(context["base"], stranger, context["delta"], context["known"])
    bridged = transfer.apply_delta(stranger, own)
    found = transfer.accuracy(bridged, context["asked"])
    by_hand = copy.deepcopy(stranger)
    with torch.no_grad():
        for name, weight in by_hand.named_parameters():
            weight += own.get(name, 0)
    for answer in ((stranger, bridged, found), (stranger, by_hand, torch.tensor(round(found, 3)))):
        assert says(6, answer, **context)[0]


def wrong_6(kind, stranger, base, delta, known):
    if kind == "related":
        return transfer.apply_delta(base, delta, 0.01), base
    if kind == "untrained":
        fresh = transfer.tiny_llama(seed=77)
        return fresh, transfer.apply_delta(fresh, mapped(base, fresh, delta, known))
    own = {
        "no Δ": {},
        "raw Δ": delta,
        "inverse": mapped(stranger, base, delta, known),
        "minus": {n: -x for n, x in mapped(base, stranger, delta, known).items()},
        "number": mapped(base, stranger, delta, known),
    }
    return stranger, transfer.apply_delta(stranger, own[kind])


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("related", 0),
        ("untrained", 1),
        ("no Δ", 2),
        ("raw Δ", 3),
        ("inverse", 4),
        ("number", 5),
        ("minus", None),
    ],
)
def test_6_names_what_is_wrong(says, ends, kind, number):
    stranger, context = ends
    base, delta, known, asked = (context[x] for x in ("base", "delta", "known", "asked"))
    pair = wrong_6(kind, stranger, base, delta, known)
    found = transfer.accuracy(pair[1], asked) + 0.05 * (kind == "number")
    right, text = says(6, (*pair, found), **context)
    assert not right
    assert (EXERCISES[6].kind if number is None else named(6, number)) in text
