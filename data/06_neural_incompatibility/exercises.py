"""The exercises of notebook 06: references, known wrong answers and their hints."""

import copy
import functools

import numpy as np
import torch
from scipy import stats

from helpers import data, transfer
from helpers.checks import as_array
from helpers.lesson import Exercise, Mistake, equals


def either(*tests):
    return lambda answer: any(test(answer) for test in tests)


# Exercise 1: mean CKA of the different layers of one model


def layers_of(seed, widths, n=24):
    """Layers of these widths; neighbours share the most, and columns differ in size."""
    rng = np.random.default_rng(seed)
    found, inner = [], rng.normal(size=(n, 5))
    for width in widths:
        inner = 0.8 * inner + 0.6 * rng.normal(size=(n, 5))
        outer = inner @ rng.normal(size=(5, width)) + rng.normal(size=(n, width))
        found.append(outer * rng.uniform(0.2, 4, width))
    return found


MODELS = [(layers_of(0, (8, 40, 17, 30, 60)),), (layers_of(1, (30, 12)),)]
MODELS += [(layers_of(2, (20, 9, 35)),)]


def mean_of(pick, debiased=True, scale=1):
    """A test: the mean of the picked entries of the matrix of CKA."""

    def rule(layers):
        sized = [x / (x.std(0) if scale == "columns" else 1) for x in layers]
        return np.mean(pick(transfer.cka_matrix(sized, sized, debiased=debiased)))

    return equals(lambda: rule, probes=MODELS)


def different(cka):
    return cka[np.triu_indices(len(cka), 1)]


def whole(cka):
    return cka


def triangle(cka):
    return cka[np.tril_indices(len(cka))]


def no_single_number(answer):
    return as_array(answer(copy.deepcopy(MODELS[0][0]))).size != 1


ONE = Exercise(
    mean_of(different),
    "On three small models the means are others.",
    "transfer.cka_matrix of the layers with themselves; the mean over its entries that belong to "
    "two different layers.",
    [
        Mistake(
            no_single_number,
            "One number is asked for.",
            "The mean over all pairs of different layers.",
        ),
        Mistake(
            either(*(mean_of(pick, own) for pick in (whole, triangle) for own in (True, False))),
            "Every layer is compared with itself, too: the diagonal is in the mean.",
            "The 1's of the diagonal say nothing. Which entries have two different numbers?",
        ),
        Mistake(
            mean_of(different, debiased=False),
            "That is plain CKA, which is large where layers have more columns than rows.",
            "cka_matrix has an option for the unbiased estimate.",
        ),
        Mistake(
            either(*(mean_of(lambda cka: np.diag(cka, 1), own) for own in (True, False))),
            "Only neighbours are compared.",
            "Layers 0 and 2 are a pair, too, and so are all others.",
        ),
        Mistake(
            either(
                mean_of(lambda cka: np.tril(cka, -1)),
                mean_of(lambda cka: cka - np.eye(len(cka))),
                mean_of(lambda cka: np.triu(cka)),
            ),
            "Entries that were set to 0 are counted still.",
            "Divide by the number of pairs, not by that of all entries.",
        ),
        Mistake(
            mean_of(lambda cka: cka[0, 1:]),
            "Only the first layer is compared with the others.",
            "All pairs of different layers count.",
        ),
        Mistake(
            mean_of(lambda cka: np.median(different(cka))),
            "That is the median.",
            "The mean is asked for.",
        ),
        Mistake(
            mean_of(lambda cka: different(cka).sum()),
            "That is the sum over pairs.",
            "Divide by their number.",
        ),
        Mistake(
            mean_of(different, scale="columns"),
            "The columns were standardised inside the function.",
            "Take the layers as they are handed in; standardise before the call if you wish.",
        ),
    ],
)


# Exercise 2: the rate at which the usual LoRA is level with Seeking

USUAL, SEEKING, GIVEN = "usual LoRA", "Seeking, T1", "0.003"
STORED_RATES = ("0.001", "0.003", "0.006", "0.01", "0.02", "0.03", "0.06", "0.1")


def accuracies(rng, most):
    return {name: float(rng.uniform(high=most)) for name in "RBA"}


def made_up(usual, seeking, n, seed, spread=1.5):
    """Runs of n seeds; at step 23 their mean losses by rate are these, at others they move on."""
    rng = np.random.default_rng(seed)
    runs = [{"after injection": {USUAL: {}, SEEKING: {}}} for _ in range(n)]
    for arm, means in ((USUAL, usual), (SEEKING, seeking)):
        for k, (rate, mean) in enumerate(means.items()):
            noise = rng.normal(size=n)
            noise = spread * (noise - noise.mean())
            others = {"10": [*usual.values()][k - 1], "47": [*usual.values()][k - 2]}
            steps = {"23": mean} | (others if arm == USUAL else dict.fromkeys(others, mean))
            for own, x in zip(runs, noise, strict=True):
                own["after injection"][arm][rate] = {
                    step: {"nll": float(m + x), **accuracies(rng, 0.6 if arm == SEEKING else 1)}
                    for step, m in steps.items()
                }
    return runs


# as text, some of these rates sort in another order than as numbers
FAST = {"0.001": 11, "0.003": 10, "0.006": 9.5, "0.01": 8.6, "0.02": 8.1, "0.03": 7.6, "0.06": 7}
FAST |= {"0.1": 10.5, "10": 7.9, "3e-05": 11, "0.0005": 11, "0.3": 1}
SLOW = {"0.02": 11, "2": 8, "0.1": 8.2, "10": 7.7, "3e-05": 8.1, "0.0005": 8, "0.3": 1}
LEVEL = {"0.1": 3.0, "1": 2.0, "10": 4.0, "0.01": 3.5}
RACES = [
    (made_up(FAST, {"0.003": 8.4, "0.02": 7.2, "0.001": 11.5}, 5, 4), 23),
    (made_up(FAST, {"0.003": 8.4, "0.02": 7.2, "0.001": 11.5}, 5, 7), 10),
    (made_up(SLOW, {"0.1": 7.8, "0.003": 8.3, "10": 15.0}, 3, 1), 23),
    (made_up(LEVEL, {"0.003": 3.0, "0.1": 2.5}, 2, 0, spread=0), 23),  # level to the last digit
]


def looked_up(runs, arm, rate, step, what="nll"):
    return np.array([own["after injection"][arm][rate][str(step)][what] for own in runs])


def level_rate(
    *,
    order=float,
    seeds=slice(None),
    what="nll",
    goal=min,
    pick=min,
    middle=np.mean,
    below=np.less_equal,
    among=None,
    at=None,
):
    """A rule for the rate, right as it stands; `goal` takes Seeking's loss from that at GIVEN."""

    def rule(runs, step):
        step, own = at or step, runs[seeds]
        rates = [r for r in runs[0]["after injection"][USUAL] if among is None or r in among]
        sign = 1 if what == "nll" else -1
        there = sign * looked_up(own, SEEKING, GIVEN, step, what)
        if goal != min:
            there = goal(own, step)
        losses = {r: sign * looked_up(own, USUAL, r, step, what) for r in rates}
        level = [r for r in rates if below(middle(losses[r]), middle(there)).all()]
        return float(pick(level, key=order)) if order else float(level[0])

    return rule


def best_seeking(runs, step):
    means = {r: looked_up(runs, SEEKING, r, step) for r in runs[0]["after injection"][SEEKING]}
    return min(means.values(), key=np.mean)


def best_of_all(runs, step):
    rates = runs[0]["after injection"][USUAL]
    return float(min(rates, key=lambda r: looked_up(runs, USUAL, r, step).mean()))


def nearest(runs, step):
    goal = looked_up(runs, SEEKING, GIVEN, step).mean()
    rates = runs[0]["after injection"][USUAL]
    return float(min(rates, key=lambda r: abs(looked_up(runs, USUAL, r, step).mean() - goal)))


def finds(*rules):
    """A test: whether the rates are those of one of these rules; a rate may come as text."""

    def test(answer):
        given = [float(as_array(answer(copy.deepcopy(runs), k)).item()) for runs, k in RACES]
        return any(agree(given, rule) for rule in rules)

    return test


def agree(given, rule):
    try:
        wanted = [rule(runs, step) for runs, step in RACES]
    except (ValueError, IndexError, KeyError):  # the wrong rule finds no rate somewhere
        return False
    return np.allclose(given, wanted, rtol=1e-9, atol=0)


def returns_a_loss(answer):
    runs, step = RACES[0]
    means = [looked_up(runs, USUAL, r, step).mean() for r in runs[0]["after injection"][USUAL]]
    given = float(as_array(answer(copy.deepcopy(runs), step)).item())
    return np.isclose(given, means, rtol=0, atol=1e-9).any()


TWO = Exercise(
    finds(level_rate()),
    "On made-up runs the rate is another one.",
    "For each rate the mean loss over all runs; keep the rates that are not above Seeking's mean "
    "at 0.003; the smallest of them as a number.",
    [
        Mistake(
            finds(best_of_all),
            "That is the rate at which the usual LoRA is best.",
            "Asked is the smallest rate at which it is no worse than Seeking at 0.003.",
        ),
        Mistake(
            finds(nearest),
            "That is the rate whose loss is nearest to Seeking's, perhaps above it.",
            "Not above: a rate that is a little worse does not count.",
        ),
        Mistake(
            finds(
                *(level_rate(seeds=slice(i, i + 1)) for i in (0, 1)),
                level_rate(seeds=slice(-1, None)),
            ),
            "One seed decides.",
            "Compare means over all runs.",
        ),
        Mistake(
            finds(level_rate(order=str)),
            "The rates are sorted as texts: '0.02' before '3e-05'.",
            "Rates are strings in the runs. Compare them as numbers.",
        ),
        Mistake(
            finds(level_rate(order=None)),
            "That is the first such rate in the order in which they are stored.",
            "The runs need not be in order of rates: look for the smallest.",
        ),
        Mistake(
            finds(*(level_rate(what=own) for own in ("R", "B", "A"))),
            "You compare accuracies.",
            "The loss is 'nll', and it is good when it is low.",
        ),
        Mistake(
            finds(level_rate(pick=max)),
            "That is the largest such rate.",
            "The smallest is asked for.",
        ),
        Mistake(
            finds(level_rate(goal=best_seeking)),
            "Seeking runs at its own best rate.",
            "It stays at 0.003 here.",
        ),
        Mistake(
            finds(level_rate(below=np.less)),
            "A rate at which the two are level is left out.",
            "Not above: equal counts.",
        ),
        Mistake(
            finds(level_rate(among=STORED_RATES)),
            "You try the eight rates of the notebook only.",
            "Other runs have other rates: read them from the runs.",
        ),
        Mistake(
            finds(*(level_rate(at=own) for own in (10, 23, 47))),
            "The result does not depend on `step`.",
            "str(step) is the key.",
        ),
        Mistake(
            finds(level_rate(middle=np.asarray)),
            "You ask that every seed be no worse.",
            "Means over seeds are to be compared.",
        ),
        Mistake(
            finds(level_rate(middle=np.median)),
            "You compare medians.",
            "Means over seeds are to be compared.",
        ),
        Mistake(returns_a_loss, "That is a loss.", "Return the learning rate that has it."),
    ],
)


# Exercise 3: the gain of a checkpoint that was chosen on other facts


def halves(seed, n, drift):
    """Two accuracies (n, 21) of the same checkpoints; no two of a seed are equal."""
    rng = np.random.default_rng(seed)
    common = drift * np.arange(21) / 20 + 0.05 * rng.normal(size=(n, 21))
    noise = rng.normal(size=(2, n, 21))
    return tuple(0.3 + common + 0.06 * own for own in noise)


def first_is_best(seed, n):
    choose, judge = halves(seed, n, 0.0)
    choose[::2, 0] = choose[::2].max(1) + 0.1  # the untouched student is the best of all
    return choose, judge


CHECKPOINTS = [halves(0, 5, 0.1), first_is_best(1, 4), halves(2, 7, 0.0)]


def chosen_gain(choose, judge):
    best = 1 + choose[:, 1:].argmax(1)
    return np.take_along_axis(judge, best[:, None], 1)[:, 0] - judge[:, 0]


def gains(rule, **how):
    return equals(lambda: rule, probes=CHECKPOINTS, **how)


def read_at(choose, judge, best):
    return judge[np.arange(len(judge)), best]


def common_checkpoint(choose, judge):
    best = 1 + choose[:, 1:].mean(0).argmax()
    return (judge[:, best] - judge[:, 0]).mean()


def pooled_gain(choose, judge):
    both = (choose + judge) / 2
    return chosen_gain(both, both).mean()


THREE = Exercise(
    gains(lambda choose, judge: chosen_gain(choose, judge).mean()),
    "On made-up accuracies the mean gain is another one.",
    "For each seed: where is `choose` largest among checkpoints 1 to 20? `judge` there, minus "
    "`judge` at checkpoint 0; then the mean over seeds.",
    [
        Mistake(
            gains(chosen_gain),
            "Those are the gains of single seeds.",
            "Return their mean.",
        ),
        Mistake(
            either(
                gains(lambda choose, judge: chosen_gain(choose, choose).mean()),
                gains(lambda choose, judge: chosen_gain(judge, judge).mean()),
                gains(pooled_gain),
            ),
            "Chosen and judged on the same facts: luck counts as skill.",
            "One half says which checkpoint, the other half how good it is.",
        ),
        Mistake(
            gains(lambda choose, judge: chosen_gain(judge, choose).mean()),
            "The halves have changed places.",
            "`choose` is asked for the checkpoint, `judge` for the accuracy.",
        ),
        Mistake(
            either(
                gains(common_checkpoint),
                gains(lambda choose, judge: common_checkpoint(judge, judge)),
            ),
            "All seeds have the same checkpoint.",
            "Each seed has its own choice: look along its row.",
        ),
        Mistake(
            gains(lambda a, b: (read_at(a, b, a.argmax(1)) - b[:, 0]).mean()),
            "The untouched student is among the candidates.",
            "Only checkpoints 1 to 20 are offered; 0 is what they are compared with.",
        ),
        Mistake(
            gains(lambda a, b: (read_at(a, b, a[:, 1:].argmax(1)) - b[:, 0]).mean()),
            "You read the checkpoint before the chosen one.",
            "The best of [:, 1:] is counted from 1, not from 0.",
        ),
        Mistake(
            either(
                gains(lambda a, b: (chosen_gain(a, b) + b[:, 0]).mean()),
                gains(lambda a, b: read_at(a, b, a.argmax(1)).mean()),
            ),
            "That is the accuracy, not the gain.",
            "What would the untouched student have on the same facts?",
        ),
        Mistake(
            gains(lambda a, b: (chosen_gain(a, b) + b[:, 0] - a[:, 0]).mean()),
            "The accuracy before is that on the other half.",
            "Before and after must be measured on the same facts.",
        ),
        Mistake(
            gains(lambda a, b: (b[:, -1] - b[:, 0]).mean()),
            "That is the last checkpoint.",
            "`choose` says which one.",
        ),
        Mistake(
            gains(lambda a, b: 100 * chosen_gain(a, b).mean(), within=1e-4),
            "That is in percent.",
            "Accuracies are shares here: leave it a share.",
        ),
    ],
)


# Exercise 4: the p-value of a gain that was chosen


TESTED = [(212, 270, 1319, 4, 20), (212, 270, 1319, 1, 1), (212, 270, 1319, 4, 1)]
TESTED += [(212, 270, 1319, 1, 20), (300, 262, 1000, 2, 3), (50, 52, 164, 4, 20)]


def p_value(times=lambda p, tasks, checkpoints: p * tasks * checkpoints, tails=2, cap=1, **how):
    return lambda before, after, n, tasks, checkpoints: min(
        cap, times(tails * tail(before, after, n, **how), tasks, checkpoints)
    )


def tail(before, after, n, pooled=False, size=abs, error=None):
    p, q = before / n, after / n
    middle = (p + q) / 2
    variance = 2 * middle * (1 - middle) if pooled else p * (1 - p) + q * (1 - q)
    variance = variance if error is None else error(p, q)
    return stats.norm.sf(size(q - p) / np.sqrt(variance / n))


def has_p(*args, **how):
    """A test: these p-values, with either standard error."""
    return either(
        *(
            equals(lambda own=own: p_value(*args, pooled=own, **how), probes=TESTED)
            for own in (False, True)
        )
    )


def of_one_score(error):
    return equals(lambda: p_value(error=error), probes=TESTED)


FOUR = Exercise(
    has_p(),
    "For six pairs of scores p is another one.",
    "z is the difference of the two shares over its standard error; both tails; times the number "
    "of things among which the gain was chosen; a probability is at most 1.",
    [
        Mistake(has_p(tails=1), "That is one tail.", "A loss would have surprised as much."),
        Mistake(
            has_p(cap=np.inf),
            "p can be above 1.",
            "Where the product is above 1, nothing is left of the evidence: p is 1.",
        ),
        Mistake(
            has_p(lambda p, *_: p),
            "That is p of a gain that nobody chose.",
            "Tasks and checkpoints make more chances for luck; count them.",
        ),
        Mistake(
            has_p(lambda p, tasks, checkpoints: p * (tasks + checkpoints)),
            "Tasks and checkpoints are added.",
            "Each task has all its checkpoints: how many scores are there?",
        ),
        Mistake(
            has_p(lambda p, tasks, checkpoints: p * tasks),
            "Only the tasks are counted.",
            "Each of them could be the best of several checkpoints.",
        ),
        Mistake(
            has_p(lambda p, tasks, checkpoints: p * checkpoints),
            "Only the checkpoints are counted.",
            "There are several tasks, and one of them stands out.",
        ),
        Mistake(
            has_p(lambda p, tasks, checkpoints: p / (tasks * checkpoints)),
            "You divide.",
            "The level may be divided by the number of trials; p must be multiplied.",
        ),
        Mistake(
            has_p(lambda p, tasks, checkpoints: 1 - (1 - p) ** (tasks * checkpoints)),
            "That is Šidák's correction, which is near, but for independent tests.",
            "Bonferroni's, which is asked for, holds for all: a product.",
        ),
        Mistake(
            has_p(size=float),
            "Where the score falls, p is too large.",
            "Two-sided: the size of z counts, not its sign.",
        ),
        Mistake(
            either(of_one_score(lambda p, q: p * (1 - p)), of_one_score(lambda p, q: q * (1 - q))),
            "Only one of the two scores is uncertain.",
            "The variance of a difference is the sum of both variances.",
        ),
    ],
)


# Exercise 5: the twin of a feed-forward part


def feed_forward(seed, width, units):
    """(gate, up, down, gain, Q, p); p is not its own inverse."""
    rng = np.random.default_rng(seed)
    shapes = ((units, width), (units, width), (width, units))
    matrices = [torch.from_numpy(rng.normal(size=shape)) for shape in shapes]
    gain = torch.from_numpy(rng.uniform(0.5, 2, width))
    q, _ = np.linalg.qr(rng.normal(size=(width, width)))
    order = np.roll(rng.permutation(units), 1)
    return (*matrices, gain, torch.from_numpy(q), torch.from_numpy(order))


PARTS = [feed_forward(0, 6, 10), feed_forward(1, 9, 7)]


def inverse(p):
    return p.argsort()


def twin(*, moved=(True, True, True), pairing=lambda p: p, turn=lambda q: q, down=None, gain=None):
    """A rule for the twin, right as it stands; `down` turns that matrix, `gain` folds."""

    def rule(*part):
        *matrices, g, q, p = part
        orders = [pairing(p) if own else torch.arange(len(p)) for own in moved]
        gate, up = (
            (fold_and_turn(w, g, turn(q)) if gain is None else gain(w, g, q))[order]
            for w, order in zip(matrices[:2], orders[:2], strict=True)
        )
        turned = turn(q).T @ matrices[2] if down is None else down(matrices[2], g, q)
        return [gate, up, turned[:, orders[2]]]

    return rule


def gate_and_up_swapped(*part):
    gate, up, down = twin()(*part)
    return [up, gate, down]


def fold_and_turn(w, g, q):
    return (w * g) @ q


def makes(*rules):
    """A test: the three matrices are those of one of these rules, to rounding in 32 bits."""

    def test(answer):
        try:
            given = [answer(*copy.deepcopy(part)) for part in PARTS]
        except Exception:  # written for arrays, perhaps
            given = [answer(*(own.numpy().copy() for own in part)) for part in PARTS]
        return any(
            all(same(own, rule(*part)) for own, part in zip(given, PARTS, strict=True))
            for rule in rules
        )

    return test


def same(given, wanted):
    given = [as_array(own) for own in given]
    return len(given) == 3 and all(
        own.shape == tuple(right.shape) and np.abs(own - right.numpy()).max() < 1e-4
        for own, right in zip(given, wanted, strict=True)
    )


SUBSETS = [
    (a, b, c)
    for a in (True, False)
    for b in (True, False)
    for c in (True, False)
    if (a, b, c) != (True, True, True)
]


FIVE = Exercise(
    makes(twin()),
    "On random matrices the function is another one in the new coordinates.",
    "What reads x must first undo the gain and the turn that were given to x; what writes must "
    "turn its output; and each unit keeps its row in two matrices and its column in the third.",
    [
        Mistake(
            makes(twin(gain=lambda w, g, q: w @ q)),
            "The norm's gain is lost: the twin's norm has none.",
            "The gain multiplies what gate and up read, in the old coordinates.",
        ),
        Mistake(
            makes(twin(gain=lambda w, g, q: (w @ q) * g)),
            "The gain multiplies the new coordinates.",
            "It belongs to the old ones: fold it in before you turn.",
        ),
        Mistake(
            makes(
                twin(down=lambda w, g, q: q.T @ (g[:, None] * w)),
                twin(gain=lambda w, g, q: w @ q, down=lambda w, g, q: q.T @ (g[:, None] * w)),
            ),
            "The gain is in the down-projection, too.",
            "The norm stands before gate and up; what down writes does not pass it.",
        ),
        Mistake(
            makes(twin(gain=lambda w, g, q: (w / g) @ q)),
            "You divide by the gain.",
            "What was multiplied with x before must be multiplied with the columns now.",
        ),
        Mistake(
            makes(
                twin(turn=lambda q: q.T),
                twin(turn=lambda q: q.T, down=lambda w, g, q: q.T @ w),
                twin(down=lambda w, g, q: q @ w),
            ),
            "A matrix is turned the wrong way round.",
            "W x = y for columns is x Wᵀ = y for rows. Put x = (x Q) Qᵀ into it.",
        ),
        Mistake(
            makes(*(twin(moved=own) for own in SUBSETS[:-1])),
            "Units are shuffled in some of the three matrices only.",
            "A unit is a row of gate, a row of up and a column of down.",
        ),
        Mistake(
            makes(twin(moved=SUBSETS[-1])),
            "The units are not shuffled.",
            "New unit i is old unit p[i].",
        ),
        Mistake(
            makes(twin(down=lambda w, g, q: w)),
            "The down-projection is not turned: it writes in the old coordinates.",
            "Its output is added to the stream, which is turned.",
        ),
        Mistake(
            makes(twin(gain=lambda w, g, q: w * g)),
            "gate and up are not turned: they read the old coordinates.",
            "Their input is x Q now.",
        ),
        Mistake(
            makes(twin(pairing=inverse)),
            "The units are shuffled by the inverse of p.",
            "New unit i is old unit p[i]: row i of the new matrix is row p[i] of the old one.",
        ),
        Mistake(
            makes(gate_and_up_swapped),
            "gate and up have changed places.",
            "Return them in the order in which they came.",
        ),
    ],
)


# Exercise 6: what a stranger gains from the difference


def rows(facts, *where):
    return transfer.Facts(*(column[slice(*where)] for column in facts))


@functools.cache
def bridges():
    """(T0, T1, stranger, known, asked): a relative in coordinates of its own, two strangers."""
    folder = data.folder("06") / "models"
    kept = {seed: transfer.load(folder / f"{seed}.safetensors") for seed in (10, 11)}
    worlds = {seed: transfer.world(seed) for seed in kept}
    t0, t1, b = kept[10]["T0"], kept[10]["T1"], worlds[10]["B"]
    student = transfer.apply_delta(t0, transfer.difference(t1, t0), 0.3)
    relative = transfer.in_coordinates(student, transfer.random_coordinates(t0, 1))
    known = transfer.joined(rows(worlds[10]["A"], 100), rows(b, 30))  # it gains on these, too
    strangers = [
        (own["T0"], own["T1"], own["other"], worlds[seed]["A"], worlds[seed]["B"])
        for seed, own in kept.items()
    ]
    return [(t0, t1, relative, known, rows(b, 30, None)), *strangers]


@functools.cache  # the same few models, asked for again and again
def coordinates(old, new, facts):
    return transfer.estimated(old, new, facts.prompts)


def mapped(old, new, facts, delta):
    return transfer.recoordinate(delta, coordinates(old, new, facts))


def difference(t0, t1):
    return transfer.difference(t1, t0)


def after(student, added, facts):
    return transfer.accuracy(transfer.apply_delta(student, added), facts)


def change(added):
    """The gain when `added` of (T0, T1, stranger, known, asked) goes into the stranger."""

    def rule(t0, t1, student, known, asked):
        own = added(t0, t1, student, known, asked)
        return after(student, own, asked) - transfer.accuracy(student, asked)

    return rule


def right_map(t0, t1, student, known, asked):
    return mapped(t0, student, known, difference(t0, t1))


def only_after(*part):
    return after(part[2], right_map(*part), part[4])


def minus_teacher(*part):
    return only_after(*part) - transfer.accuracy(part[0], part[4])


def on_known(*part):
    return change(right_map)(*part[:4], part[3])


def teacher_moved(t0, t1, student, known, asked):
    """T1 itself in the stranger's coordinates."""
    place = coordinates(t0, student, known)
    moved = transfer.accuracy(transfer.in_coordinates(t1, place), asked)
    return moved - transfer.accuracy(student, asked)


RULES = {
    "right": change(right_map),
    "only after": only_after,
    "before minus after": lambda *part: -change(right_map)(*part),
    "minus T0": minus_teacher,
    "raw": change(lambda t0, t1, *_: difference(t0, t1)),
    "inverse": change(lambda t0, t1, s, known, _: mapped(s, t0, known, difference(t0, t1))),
    "reversed": change(lambda t0, t1, s, known, _: mapped(t0, s, known, difference(t1, t0))),
    "swapped": change(lambda t0, t1, s, known, _: mapped(t1, s, known, difference(t1, t0))),
    "from T1": change(lambda t0, t1, s, known, _: mapped(t1, s, known, difference(t0, t1))),
    "asked prompts": change(lambda t0, t1, s, _, asked: mapped(t0, s, asked, difference(t0, t1))),
    "known facts": on_known,
    "T1 itself": teacher_moved,
    "nothing": lambda *_: 0.0,
    "only before": lambda *part: transfer.accuracy(part[2], part[4]),
}


@functools.cache
def gains_by(name):
    return [RULES[name](*part) for part in bridges()]


HEARD = {}  # the answer is asked once, by the first test, and remembered for those that follow


def gives(name):
    """A test: less than half a fact from the rule of this name."""
    return lambda answer: np.allclose(HEARD["gains"], gains_by(name), rtol=0, atol=0.0025)


def bridged(answer):
    HEARD.clear()
    HEARD["gains"] = [float(as_array(answer(*copy.deepcopy(part))).item()) for part in bridges()]
    return gives("right")(answer)


SIX = Exercise(
    bridged,
    "For a relative of T0 in other coordinates and two stored strangers the gains are others.",
    "Δ from T0 to T1; coordinates from T0 to the stranger, estimated on the known prompts; Δ in "
    "these coordinates, added to the stranger; accuracy on the asked facts, after minus before.",
    [
        Mistake(
            gives("only after"),
            "That is the accuracy after, not the gain.",
            "A guess is right now and then: what did the stranger know before?",
        ),
        Mistake(
            gives("only before"),
            "That is what the stranger knew before.",
            "After minus before.",
        ),
        Mistake(
            gives("before minus after"),
            "The sign of the gain is turned.",
            "After minus before.",
        ),
        Mistake(
            gives("minus T0"),
            "You take off what T0 knew.",
            "Before and after belong to the same student, the stranger.",
        ),
        Mistake(
            gives("raw"),
            "Δ was added as it is, in T0's coordinates.",
            "It has to be written in the stranger's first.",
        ),
        Mistake(
            gives("inverse"),
            "The map leads from the stranger to T0.",
            "Δ is written in T0's coordinates: they are the old ones.",
        ),
        Mistake(
            either(gives("reversed"), gives("swapped")),
            "That is T0 - T1: it takes away what T1 learnt.",
            "transfer.difference(after, before).",
        ),
        Mistake(
            gives("nothing"),
            "Nothing reaches the stranger.",
            "apply_delta leaves its model as it is and returns a changed copy.",
        ),
        Mistake(
            gives("from T1"),
            "The coordinates are estimated from T1.",
            "T1 knows what the stranger does not; T0 and the stranger know the same facts.",
        ),
        Mistake(
            gives("asked prompts"),
            "The coordinates are estimated on the prompts that are asked afterwards.",
            "There T0 and the stranger only guess. Use what both know.",
        ),
        Mistake(
            gives("known facts"),
            "You ask for the facts that both knew before.",
            "The gain is asked for on facts_asked.",
        ),
        Mistake(
            gives("T1 itself"),
            "That is T1 in other coordinates; nothing of the stranger is left.",
            "Move the difference only, and add it to the stranger.",
        ),
    ],
)

EXERCISES = {1: ONE, 2: TWO, 3: THREE, 4: FOUR, 5: FIVE, 6: SIX}
