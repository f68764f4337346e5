"""The exercises of notebook 06: references, known wrong answers and their hints."""

import numpy as np
import torch

from helpers import transfer
from helpers.lesson import Exercise, Mistake, equals

RANKS = (1, 2, 4, 8, 16, 32, 64)


# Exercise 1: (measured, closed), two lists of seven cosines


def cosines(weight):
    """Of the best parts of each rank with the matrix itself: measured."""
    parts = (transfer.low_rank(weight, rank) for rank in RANKS)
    return [transfer.flat_cosine(u @ v, weight) for u, v in parts]


def shares(weight):
    """Of the squared singular values in the first r, for each rank."""
    squares = torch.linalg.svdvals(weight.double()).square().cumsum(0)
    return (squares / squares[-1])[[rank - 1 for rank in RANKS]]


def copied(answer, weight):
    """Whether the two lists are one: measuring rounds elsewhere than the closed form."""
    one, two = (np.asarray(own, dtype=float) for own in answer)
    return (one == two).all() and (one.round(6) != one).any()


def measured_and_closed(answer, weight):
    right = equals(lambda weight: (cosines(weight), shares(weight).sqrt()), within=5e-5)
    return right(answer, weight=weight) and not copied(answer, weight)


def of_either(wanted):
    """A test of one of two lists, whichever."""
    test = equals(wanted, within=5e-5)
    return lambda answer, **context: any(test(own, **context) for own in answer)


ONE = Exercise(
    measured_and_closed,
    "Two lists of seven numbers are asked for, for the ranks 1, 2, 4, 8, 16, 32, 64.",
    "Measured: transfer.flat_cosine of u @ v with up_weight, (u, v) from transfer.low_rank. "
    "Closed: the formula of section 6; `singular` holds the squared singular values.",
    [
        Mistake(
            copied,
            "The two lists are the same to the last digit: one is a copy of the other.",
            "Measure one on the matrices (low_rank, flat_cosine); make the other of `singular`.",
        ),
        Mistake(
            of_either(shares),
            "One list holds shares of squares, no cosines.",
            "A cosine is a ratio of lengths, so the share of squared lengths needs its root.",
        ),
        Mistake(
            of_either(lambda weight: np.zeros(len(RANKS))),
            "One list holds the cosine with W − UV, which is 0 by construction.",
            "Take the cosine of UV with W itself.",
        ),
    ],
)


# Exercise 2: accuracy on A at the first step, with the text's formula


def first_step(whole, part):
    """Accuracy on A with `whole` times the block and `part` times its rank-8 part added."""

    def wanted(teacher, student, scores, facts):
        added = {}
        for rank, factor in ((student.config.hidden_size, whole), (8, part)):
            for name, (u, v) in transfer.seek(teacher, student, scores, rank).items():
                added[name] = added.get(name, 0) + factor * (u @ v)
        return transfer.accuracy(transfer.apply_delta(student, added), facts)

    return wanted


def one_of_two(answer, **context):
    signs = ((-1, 0), (1, 0), (0, 1), (0, -1))
    return any(equals(first_step(*own), within=1e-3)(answer, **context) for own in signs)


TWO = Exercise(
    equals(first_step(-1, 1), within=0.007),  # two facts of 332
    "That is not the accuracy on A of the student's W − W_ext + UV.",
    "W_ext is what transfer.seek gives with rank 48, all of them; UV is what it gives with rank 8. "
    "Add UV − W_ext with transfer.apply_delta, nothing is trained.",
    [
        Mistake(
            equals(first_step(1, -1), within=1e-3),
            "The sign is the other way round.",
            "The block is taken off, its rank-8 part is put on: + UV − W_ext.",
        ),
        Mistake(
            one_of_two,
            "Only one of the two addends is in.",
            "W_ext goes off and UV comes on; the student's matrix changes by the sum of both.",
        ),
        Mistake(
            equals(first_step(0, 0), within=1e-3),
            "That is the student as it was: the released code's version.",
            "The code takes UV off and puts UV on. The text takes off the whole block, W_ext.",
        ),
    ],
)


# Exercise 3: kinds of matrix that a shuffling of units changes


def named(kinds):
    """The kinds with the ending that transfer.MODULES has."""
    return {kind.strip().removesuffix("_proj") + "_proj" for kind in kinds}


def changed(place, delta):
    """Kinds whose Δ is another one in the twin's coordinates."""
    moved = transfer.recoordinate(delta, place)
    return {
        transfer.layer_and_kind(name)[1] for name in delta if not moved[name].equal(delta[name])
    }


def all_changed(kinds, place, delta):
    """More may be named: to recoordinate them changes nothing."""
    return changed(place, delta) <= named(kinds) <= set(transfer.MODULES)


THREE = Exercise(
    all_changed,
    "With these B does not come through whole.",
    "Which matrices have the units as rows or as columns? Try it: take some entries of "
    "transfer.recoordinate(delta, only_units), the others of delta, and ask for the accuracy on B.",
    [
        Mistake(
            lambda kinds, **_: not named(kinds) <= set(transfer.MODULES),
            "There is a name that no kind has.",
            "The names are those of transfer.MODULES: up_proj, down_proj, v_proj, o_proj.",
        ),
        Mistake(
            lambda kinds, place, delta: named(kinds) & changed(place, delta),
            "One side of the units is shuffled, the other is not.",
            "A unit is a row of one matrix and a column of another; both have to find it.",
        ),
        Mistake(
            lambda kinds, place, delta: not named(kinds) & changed(place, delta),
            "These do not touch the feed-forward units.",
            "v and o belong to attention. Look into twin.model.layers[0].mlp.",
        ),
    ],
)


# Exercise 4: (factors, their loss after 10 steps)


def sizes(factors):
    """The singular values of each product, one after the other."""
    return torch.cat([torch.linalg.svdvals(u @ v)[: v.shape[0]] for u, v in factors.values()])


def scaled(share):
    """A test: whether the singular values are the share of the wanted ones."""

    def test(answer, full, **_):
        return torch.allclose(sizes(answer[0]), share * sizes(full), rtol=0.01, atol=1e-4)

    return test


def directions_of(answer, seeking, **_):
    """Whether the products point where Seeking's do."""
    products = [
        torch.cat([(u @ v).flatten() for u, v in own.values()]) for own in (answer[0], seeking)
    ]
    return transfer.flat_cosine(*products) > 0.5


def loss_of(answer, tune, **_):
    return abs(float(answer[1]) - tune(answer[0], [10])[10]) < 0.005


def smaller_random(answer, **context):
    same = set(answer[0]) == set(context["full"]) and scaled(0.3)(answer, **context)
    return same and not directions_of(answer, **context) and loss_of(answer, **context)


FOUR = Exercise(
    smaller_random,
    "The products U @ V do not have 0.3 times the singular values of Seeking's.",
    "Start from `full` (random directions, all of the size) and make each product 0.3 times as "
    "large; where the 0.3 goes, into U, into V or in parts into both, is yours to choose.",
    [
        Mistake(
            scaled(0.09),
            "Both factors were scaled: the product is 0.09 times as large.",
            "0.3 on one factor, or the root of 0.3 on each.",
        ),
        Mistake(
            scaled(1.0),
            "These factors have all of the size.",
            "Multiply one factor of each pair by 0.3.",
        ),
        Mistake(
            directions_of,
            "These are Seeking's own directions, so knowledge and size change together.",
            "Scale `full`, or draw anew with transfer.random_factors.",
        ),
        Mistake(
            lambda answer, **context: scaled(0.3)(answer, **context),
            "The factors are right; the loss is not the one they have after 10 steps.",
            "fine_tuned(small_factors, [10]) returns losses by step; take that of step 10.",
        ),
    ],
)


# Exercise 5: share of the sensitivity in freely chosen rows and columns


def free(rows=True, columns=True):
    """The share in the rows, in the columns, or in both, of largest sums."""

    def wanted(scores, shape):
        found = scores
        if rows:
            found = found[scores.sum(1).argsort(descending=True)[: shape[0]]]
        if columns:
            found = found[:, scores.sum(0).argsort(descending=True)[: shape[1]]]
        return float(found.sum() / scores.sum())

    return wanted


def anywhere(scores, shape):
    best = scores.flatten().sort(descending=True).values[: shape[0] * shape[1]]
    return float(best.sum() / scores.sum())


def contiguous(scores, shape):
    row, column = transfer.best_block(scores, shape)
    return float(scores[row : row + shape[0], column : column + shape[1]].sum() / scores.sum())


FIVE = Exercise(
    equals(free(), within=0.004),
    "That is not the share in the rows and columns of largest sums.",
    "The rows: sensitive[up_name].sum(1).argsort(descending=True)[:112]; columns likewise, "
    "48 of them. Then the sum of what lies in both, over the sum of all.",
    [
        Mistake(
            equals(free(columns=False), within=1e-3),
            "That is the share in the chosen rows, with all columns.",
            "Of these rows keep only the 48 chosen columns.",
        ),
        Mistake(
            equals(free(rows=False), within=1e-3),
            "That is the share in the chosen columns, with all rows.",
            "Of these columns keep only the 112 chosen rows.",
        ),
        Mistake(
            equals(anywhere, within=1e-3),
            "That is the share of the largest entries, wherever they stand.",
            "They make no matrix: choose whole rows and whole columns.",
        ),
        Mistake(
            equals(contiguous, within=1e-3),
            "That is the block of neighbours, as in section 6.",
            "The rows and columns need not be neighbours: those of largest sums.",
        ),
    ],
)


# Exercise 6: (stranger, stranger with the mapped difference, its accuracy on B)


def change(answer):
    """What was added to the stranger, as one vector."""
    stranger, bridged, _ = answer
    return flat(transfer.difference(bridged, stranger))


def flat(tensors):
    return torch.cat([own.flatten() for own in tensors.values()])


def carries(answer, wanted):
    """Whether the stranger was changed by this difference, up to rounding."""
    wanted = flat(wanted)
    return (change(answer) - wanted).norm() <= 0.01 * wanted.norm()


def bridged_by(start, end):
    """A test: the change is the difference mapped by the coordinates from one to the other."""

    def test(answer, base, delta, known, **_):
        ends = {"base": base, "stranger": answer[0]}
        place = transfer.estimated(ends[start], ends[end], known.prompts)
        return carries(answer, transfer.recoordinate(delta, place))

    return test


def related(answer, base, **_):
    """Whether the stranger's weights are near the base's: no stranger."""
    pair = (transfer.changed_weights(own) for own in (answer[0], base))
    return transfer.flat_cosine(*(flat(own).detach() for own in pair)) > 0.2


def knows_little(answer, known, **_):
    return transfer.accuracy(answer[0], known) < 0.9


def own_number(answer, asked, **_):
    return abs(float(answer[2]) - transfer.accuracy(answer[1], asked)) < 0.5 / len(asked)


def bridge(answer, **context):
    strange = not related(answer, **context) and not knows_little(answer, **context)
    built = strange and bridged_by("base", "stranger")(answer, **context)
    return built and own_number(answer, **context)


SIX = Exercise(
    bridge,
    "What was added to the stranger is not Δ in its coordinates.",
    "learnt(transfer.tiny_llama(seed=...), world['A'], ...) trains the stranger, "
    "transfer.estimated(T0, stranger, world['A'].prompts) finds its coordinates, "
    "transfer.recoordinate maps Δ, transfer.apply_delta adds it.",
    [
        Mistake(
            related,
            "This stranger is no stranger: its weights are close to T0's.",
            "Train a model from another seed, transfer.tiny_llama(seed=77), on A.",
        ),
        Mistake(
            knows_little,
            "The stranger does not know A yet.",
            "learnt(transfer.tiny_llama(seed=77), world['A'], 77)",
        ),
        Mistake(
            lambda answer, **_: change(answer).norm() == 0,
            "Nothing was added: this is the stranger without Δ, at chance as well.",
            "transfer.apply_delta returns the changed copy; hand in that one.",
        ),
        Mistake(
            lambda answer, delta, **_: carries(answer, delta),
            "Δ was added as it is, in T0's coordinates.",
            "Map it first: transfer.recoordinate(delta, bridge).",
        ),
        Mistake(
            bridged_by("stranger", "base"),
            "The map leads from the stranger to T0: the wrong way.",
            "transfer.estimated(old, new, prompts): Δ belongs to T0, so T0 comes first.",
        ),
        Mistake(
            bridged_by("base", "stranger"),
            "The bridge is right; the number is not this model's accuracy on B.",
            "transfer.accuracy(bridged, world['B'])",
        ),
    ],
)

EXERCISES = {1: ONE, 2: TWO, 3: THREE, 4: FOUR, 5: FIVE, 6: SIX}
