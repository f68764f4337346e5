"""The exercises of notebook 04: what is right, and the wrong answers that have a name."""

import math
from functools import lru_cache

import numpy as np
import torch

from helpers.checks import as_array
from helpers.lesson import Exercise, Mistake, equals


def number(answer):
    return float(as_array(answer).reshape(()))


def either(tests):
    tests = list(tests)
    return lambda answer: any(test(answer) for test in tests)


# 1: the paper's Table 1, counted from chance


def lost(told, family="parametric", own="massive", chance=50.0):
    """Loss of each cell in percent of what lies above chance."""
    if family:
        told = told.xs(family, level="family")
    return 100 * (told["none"] - told[own]) / (told["none"] - chance)


def is_about(wanted, within=0.4):
    return lambda answer, told: abs(number(answer) - wanted(told)) <= within


def ratio_of_means(told):
    rows = told.xs("parametric", level="family").mean()
    return 100 * (rows["none"] - rows["massive"]) / (rows["none"] - 50)


def all_cells(answer, told):
    chances = [0, 50, 50.0 * (told.index.get_level_values("family") == "parametric")]
    ways = [lost(told, family=None, chance=chance).mean() for chance in chances]
    return min(abs(number(answer) - way) for way in ways) <= 0.4


ONE = Exercise(
    is_about(lambda told: lost(told).mean(), 0.05),
    "For each of the 15 parametric cells: what is lost, divided by what lay above 50; then the "
    "mean, in percent.",
    "rows = told.xs('parametric', level='family'); above = rows['none'] - 50; divide "
    "rows['none'] - rows['massive'] by it.",
    [
        Mistake(
            lambda answer, told: as_array(answer).size > 1,
            "One number is asked for.",
            "Take the mean of the 15 losses.",
        ),
        Mistake(
            is_about(ratio_of_means, 0.05),
            "That is the ratio of two means, another average.",
            "Divide in each cell first; then take the mean of the 15 shares.",
        ),
        Mistake(
            is_about(lambda told: lost(told).mean(), 0.45),
            "That is rounded.",
            "Hand in what you compute, with a decimal at least.",
        ),
        Mistake(
            is_about(lambda told: lost(told, chance=0).mean()),
            "That is the loss relative to the whole accuracy.",
            "Guessing gives 50 on yes/no sets: divide by what lies above 50.",
        ),
        Mistake(
            is_about(
                lambda told: (told["none"] - told["massive"]).xs("parametric", level=1).mean()
            ),
            "That is the loss in points.",
            "Divide the points of each cell by what lay above chance, rows['none'] - 50.",
        ),
        Mistake(
            is_about(lambda told: lost(told).mean() / 100, 0.004),
            "That is a fraction.",
            "The question asks for percent: times 100.",
        ),
        Mistake(
            is_about(lambda told: 100 - lost(told).mean()),
            "That is what is kept.",
            "The question asks for what is lost: 100 less what is kept.",
        ),
        Mistake(
            is_about(lambda told: -lost(told).mean()),
            "The sign is turned round.",
            "A loss counts as positive: none less massive.",
        ),
        Mistake(
            is_about(lambda told: lost(told, "contextual", chance=0).mean()),
            "That is the loss of the contextual cells.",
            "told.xs('parametric', level='family') has the 15 cells.",
        ),
        Mistake(
            is_about(lambda told: lost(told, own="non-massive").mean(), 0.05),
            "That is the control, non-massive values disrupted.",
            "Take the column 'massive'.",
        ),
        Mistake(all_cells, "That takes all 33 cells.", "told.xs('parametric', level='family')"),
        Mistake(
            is_about(lambda told: lost(told).median()),
            "That is the median.",
            "Take the mean of the 15 losses.",
        ),
    ],
)


# 2: the pair whose wavelength is so many times the context

MODELS = [  # base, dimensions that turn, context, ratio
    (10_000, 128, 4096, 2),
    (10_000, 128, 4096, 4),
    (10_000, 24, 2048, 2),
    (10_000, 24, 2048, 4),
    (1_000_000, 128, 32768, 3),
    (100_000, 64, 8192, 2.5),
]


def pair(base, dims, context, ratio, turn=2 * math.pi, per=math.log, halves=2):
    return dims / halves * math.log(ratio * context / turn) / per(base)


def follows(law):
    return equals(lambda: law, probes=MODELS, within=0.05)


def any_of(*laws):
    return either(follows(law) for law in laws)


def is_rounded(answer):
    whole = [number(answer(*probe)) for probe in MODELS]
    near = all(abs(n - pair(*probe)) <= 1 for n, probe in zip(whole, MODELS, strict=True))
    return near and all(n == round(n) for n in whole)


TWO = Exercise(
    follows(pair),
    "Solve 2π · base^(2i / dims) = ratio · context for i.",
    "Divide by 2π, take the logarithm of both sides, and bring 2 / dims to the other side.",
    [
        Mistake(
            is_rounded,
            "The pair is right but for rounding.",
            "Give the number as it is, without int or round.",
        ),
        Mistake(
            follows(lambda *model: pair(*model, turn=1)),
            "You took the frequency for one over the wavelength.",
            "A turn is 2π: wavelength = 2π / θ.",
        ),
        Mistake(
            any_of(
                lambda *model: pair(*model, halves=1),
                lambda *model: pair(*model, turn=1, halves=1),
            ),
            "That is twice too large.",
            "There are dims/2 pairs: θ = base^(-2i / dims).",
        ),
        Mistake(
            any_of(
                lambda base, dims, *text: pair(base, dims, *text) + dims / 2,
                lambda base, dims, *text: pair(base, dims, *text) + dims // 2,
            ),
            "That is a coordinate, the second one of the pair.",
            "The pair is coordinates i and i + dims/2; give i.",
        ),
        Mistake(
            any_of(
                lambda *model: pair(*model, per=lambda base: 1),
                lambda *model: pair(*model, per=math.log10),
                lambda *model: pair(*model, per=math.log2),
                lambda *model: pair(*model, per=lambda base: math.log(10)),
                lambda *model: pair(*model, per=lambda base: math.log(2)),
                lambda base, *model: pair(base, *model) * math.log(base) / math.log(10_000),
                lambda *model: pair(*model) / math.log(10),
                lambda *model: pair(*model, per=lambda base: base),
            ),
            "The base of the logarithm is not the base of the model.",
            "ln(x) / ln(base), both of one kind; math.log(x, base) is the same.",
        ),
        Mistake(
            follows(lambda base, dims, context, ratio: pair(base, dims, context, 1)),
            "Its wavelength is the context itself.",
            "The wavelength is ratio times the context.",
        ),
        Mistake(
            follows(lambda base, dims, context, ratio: pair(base, dims, context, 1 / ratio)),
            "Its wavelength is shorter than the context.",
            "Multiply the context by ratio.",
        ),
        Mistake(
            any_of(
                lambda *model: -pair(*model),
                lambda *model: -pair(*model, turn=1),
                lambda base, dims, context, ratio: (
                    -pair(base, dims, context, ratio, turn=1 / (2 * math.pi))
                ),
            ),
            "The sign is turned round: that pair would turn faster than any.",
            "The wavelength grows with i: 2π · base^(+2i / dims).",
        ),
        Mistake(
            any_of(
                lambda base, dims, *text: dims / 2 - pair(base, dims, *text),
                lambda base, dims, *text: dims / 2 - 1 - pair(base, dims, *text),
            ),
            "You count from the slow end.",
            "Pair 0 is the fastest.",
        ),
        Mistake(
            any_of(lambda *model: pair(*model) + 1, lambda *model: pair(*model) - 1),
            "That is one pair off.",
            "Pairs are counted from 0, and pair 0 turns by one radian at each token.",
        ),
    ],
)


# 3: the mean everywhere but at the first token


def probes():
    """Queries (items, heads, tokens, dimensions) with another first token; a mask for each head."""
    rng = torch.Generator().manual_seed(0)
    for shape, n in (((2, 3, 5, 6), 2), ((3, 2, 4, 8), 1), ((1, 2, 3, 4), 2)):
        x = torch.randn(shape, generator=rng) + 1
        x[:, :, 0] -= 4
        order = torch.rand(*shape[:2], shape[3], generator=rng).argsort(-1)
        yield x, torch.zeros(order.shape, dtype=bool).scatter(-1, order[..., :n], True)[:, :, None]


def on_probes(test):
    """A test of (what comes out of the edit, x, mask), put in as `disrupt` does it."""

    def ask(answer):
        for x, mask in probes():
            given = x.clone()
            if not test(torch.where(mask, answer(given, mask), given), x, mask):
                return False
        return True

    return ask


def same(a, b):
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-5)


def becomes(value):
    """The chosen dimensions become `value(x, mask)`, the others stay."""
    return on_probes(lambda new, x, mask: same(new, torch.where(mask, value(x, mask), x)))


def later_become(value):
    """The same for the tokens after the first, whatever the first one becomes."""
    return on_probes(
        lambda new, x, mask: (
            new.shape == x.shape
            and same(new[:, :, 1:], torch.where(mask, value(x, mask), x)[:, :, 1:])
        )
    )


def own_mean_but_first(x, mask):
    return torch.cat([x[:, :, :1], own_mean(x, mask).expand_as(x)[:, :, 1:]], dim=2)


def own_mean(x, mask):
    return x[:, :, 1:].mean(2, keepdim=True)


def mean_of_all(x, mask):
    return x.mean(2, keepdim=True)


def head_mean(start):
    def mean(x, mask):
        x = x[:, :, start:]
        return (x * mask).sum((2, 3), keepdim=True) / (mask.sum((2, 3), keepdim=True) * x.shape[2])

    return mean


def mean_over(*axes):
    """Tests for the mean over these axes, the tokens among them, with the first one or without."""
    return [
        later_become(lambda x, mask, start=start: x[:, :, start:].mean(axes, keepdim=True))
        for start in (0, 1)
    ]


mean_of_each_token = later_become(lambda x, mask: x.mean(3, keepdim=True))


def is_no_tensor(answer):
    return not all(torch.is_tensor(answer(x.clone(), mask)) for x, mask in probes())


def has_another_type(answer):
    return not all(answer(x.clone(), mask).dtype == x.dtype for x, mask in probes())


def changes_others(new, x, mask):
    return new.shape == x.shape and not same(torch.where(mask, x, new), x)


def loses_the_token_axis(answer):
    return all(answer(x.clone(), mask).ndim < x.ndim for x, mask in probes())


def keeps_all_but_first(new, x, mask):
    return same(new[:, :, 1:], x[:, :, 1:]) and not same(new, x)


def changes_the_first(new, x, mask):
    return new.shape == x.shape and not same(new[:, :, 0], x[:, :, 0])


THREE = Exercise(
    lambda answer: becomes(own_mean_but_first)(answer) and not has_another_type(answer),
    "At the first token the result is x itself; at the others, for each item, head and "
    "dimension, the mean of x over the tokens after the first.",
    "x[:, :, :1] is the first token, x[:, :, 1:] are the others; torch.cat(..., dim=2) joins them.",
    [
        Mistake(
            is_no_tensor,
            "`disrupt` needs a tensor.",
            "Return a tensor of PyTorch that fits (items, heads, tokens, dimensions).",
        ),
        Mistake(
            on_probes(changes_others),
            "Dimensions that were not chosen change, too: x itself is written into.",
            "Work on a copy: new = x.clone().",
        ),
        Mistake(
            becomes(lambda x, mask: x), "Nothing changes.", "The mean over tokens has to go in."
        ),
        Mistake(
            loses_the_token_axis,
            "The token axis is gone, so heads would be taken for tokens.",
            "Keep the axis: keepdim=True.",
        ),
        Mistake(
            on_probes(keeps_all_but_first),
            "Only the first token changes: that is the other way round.",
            "The first token keeps its own value, every other gets the mean.",
        ),
        Mistake(
            either([later_become(head_mean(1)), later_become(head_mean(0))]),
            "That is one mean for all chosen dimensions of a head.",
            "Each dimension keeps its own mean: average over tokens only (axis 2).",
        ),
        Mistake(
            either([becomes(mean_of_all), becomes(own_mean)]),
            "The first token changes, too.",
            "Put x[:, :, :1] back in front.",
        ),
        Mistake(
            later_become(mean_of_all),
            "The mean includes the first token.",
            "Take it over x[:, :, 1:].",
        ),
        Mistake(
            either([own for axes in ((0, 2), (1, 2), (0, 1, 2)) for own in mean_over(*axes)]),
            "You mix items or heads.",
            "Average over tokens only (axis 2).",
        ),
        Mistake(
            either([mean_of_each_token, *mean_over(2, 3)]),
            "You average over the dimensions.",
            "Tokens are axis 2.",
        ),
        Mistake(
            on_probes(changes_the_first),
            "The first token does not keep its own value.",
            "Put x[:, :, :1] back in front.",
        ),
        Mistake(
            has_another_type,
            "The numbers have another type than x.",
            "Return new.to(x.dtype).",
        ),
    ],
)


# 4: told, true or other

KINDS = ("told", "true", "other")


def answers_of(seed, n, candidates):
    """Log-probabilities (N, C) with a favourite in each row, and the told and the true index."""
    rng = np.random.default_rng(seed)
    ranks = rng.permuted(np.tile(np.arange(candidates), (n, 1)), axis=1)
    told, true, other = ranks[:, :3].T
    logits = rng.normal(size=(n, candidates))
    favourite = np.choose(rng.choice(3, n, p=(0.5, 0.2, 0.3)), [told, true, other])
    logits[np.arange(n), favourite] = logits.max(1) + rng.uniform(0.1, 1, n)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True)), told, true


QUESTIONS = [answers_of(0, 40, 12), answers_of(1, 25, 5), answers_of(2, 7, 40)]


def tally(is_told, is_true, is_other):
    return [int(np.sum(found)) for found in (is_told, is_true, is_other)]


def at(logprobs, chosen):
    return logprobs[np.arange(len(logprobs)), chosen]


def chosen_kinds(logprobs, told, true, pick=np.argmax):
    choice = pick(logprobs, axis=1)
    return tally(choice == told, choice == true, (choice != told) & (choice != true))


def pairwise(logprobs, told, true):
    won = at(logprobs, told) > at(logprobs, true)
    return tally(won, ~won, [])


def not_told_is_true(logprobs, told, true):
    right = chosen_kinds(logprobs, told, true)
    return [right[0], right[1] + right[2], 0]


def other_is_not_told(logprobs, told, true):
    right = chosen_kinds(logprobs, told, true)
    return [right[0], right[1], right[1] + right[2]]


def others_added(logprobs, told, true):
    """The kind with the largest probability, all others together being one."""
    p = np.exp(logprobs)
    three = np.stack([at(p, told), at(p, true), 1 - at(p, told) - at(p, true)])
    return [int((three.argmax(0) == kind).sum()) for kind in range(3)]


def anywhere(logprobs, told, true):
    choice = logprobs.argmax(1)
    is_told, is_true = np.isin(choice, told), np.isin(choice, true)
    return [
        tally(is_told, is_true, ~(is_told | is_true)),
        tally(is_told, is_true & ~is_told, ~(is_told | is_true)),
    ]


def counted(result):
    """Three numbers of a dictionary (kinds that it lacks are 0), a Series, or in that order."""
    if hasattr(result, "keys"):
        if not set(result.keys()) <= set(KINDS):
            raise KeyError(f"{list(result.keys())}, not {list(KINDS)}")
        return [number(result[kind]) if kind in result else 0.0 for kind in KINDS]
    return as_array(result).astype(float).reshape(3).tolist()


def counts(wanted):
    def test(answer):
        return all(
            np.allclose(counted(answer(*(a.copy() for a in own))), wanted(*own), atol=1e-9)
            for own in QUESTIONS
        )

    return test


def every(property):
    """A test of what the answer gives, for each set of questions: `property(result, n)`."""
    return lambda answer: all(
        property(answer(*(a.copy() for a in own)), len(own[1])) for own in QUESTIONS
    )


def has_other_keys(result, n):
    return hasattr(result, "keys") and not set(result.keys()) <= set(KINDS)


FOUR = Exercise(
    counts(chosen_kinds),
    "The choice of each question is its candidate with the largest log-probability; count how "
    "often it is the told one, the true one, or neither.",
    "logprobs.argmax(1) has one index for each question, as told and true have: compare them.",
    [
        Mistake(
            every(has_other_keys),
            "The keys are 'told', 'true' and 'other'.",
            "return {'told': ..., 'true': ..., 'other': ...}",
        ),
        Mistake(
            every(lambda result, n: not hasattr(result, "keys") and len(result) == n),
            "That is one answer for each question.",
            "Count them: how many are told, true, other.",
        ),
        Mistake(
            counts(lambda *own: np.divide(chosen_kinds(*own), len(own[1]))),
            "Those are fractions.",
            "Count the questions: do not divide.",
        ),
        Mistake(
            counts(lambda *own: np.divide(chosen_kinds(*own), len(own[1]) / 100)),
            "Those are percent.",
            "Count the questions: do not divide.",
        ),
        Mistake(
            counts(pairwise),
            "You compare the told answer with the true one and never say other.",
            "All candidates compete: logprobs.argmax(1).",
        ),
        Mistake(
            counts(not_told_is_true),
            "What is not told counts as true, and nothing as other.",
            "A third answer may win: (choice != told) & (choice != true).",
        ),
        Mistake(
            counts(other_is_not_told),
            "The true answer is counted twice, as other, too.",
            "Other is neither: (choice != told) & (choice != true).",
        ),
        Mistake(
            counts(lambda *own: chosen_kinds(*own, pick=np.argmin)),
            "That is the least probable candidate.",
            "Log-probabilities are negative; the largest is nearest to 0: argmax.",
        ),
        Mistake(
            counts(lambda logprobs, told, true: chosen_kinds(logprobs, true, told)),
            "Told and true are the wrong way round.",
            "Told is what the story says, true what the world says.",
        ),
        Mistake(
            counts(others_added),
            "You add up all other candidates, so that many weak ones win together.",
            "Each candidate stands for itself: logprobs.argmax(1).",
        ),
        Mistake(
            either([counts(lambda *own, which=which: anywhere(*own)[which]) for which in range(2)]),
            "You look for the choice among the told answers of all questions.",
            "Compare question by question: choice == told.",
        ),
        Mistake(
            every(lambda result, n: any(count != round(count) for count in counted(result))),
            "Those are no counts but sums of the scores.",
            "Count the questions whose best candidate is told, true, other.",
        ),
        Mistake(
            every(lambda result, n: sum(counted(result)) != n),
            "The three counts do not add up to the number of questions.",
            "Each question has one choice: logprobs.argmax(1).",
        ),
    ],
)


# 5: as many random dimensions as change the pattern as much


@lru_cache(maxsize=512)
def change_of(change, n):
    return float(change(n))


def whole(answer):
    n = number(answer)
    if n != int(n) or n < 0:
        raise ValueError("n counts dimensions")
    return int(n)


def is_no_count(answer, **context):
    return number(answer) != round(number(answer)) or number(answer) < 0


def is_smallest(answer, change, target):
    n = whole(answer)
    fewer = reversed(range(n))  # a number that is far too large is found out at once
    return change_of(change, n) >= target and all(change_of(change, m) < target for m in fewer)


FIVE = Exercise(
    is_smallest,
    "Your n is right when n random dimensions change the pattern at least as much as the top one "
    "does, and no smaller number does.",
    "Print pattern_change(random_dims(n)) for n = 1, 2, 4, 8, ... and then for each n between.",
    [
        Mistake(
            is_no_count,
            "n counts dimensions: a whole number, 0 or more.",
            "Look for the smallest n, not for the change of the pattern.",
        ),
        Mistake(
            lambda answer, change, target: change_of(change, whole(answer)) < target,
            "So many dimensions do not change the pattern enough yet.",
            "Take more of them.",
        ),
        Mistake(
            lambda answer, change, target: change_of(change, whole(answer) - 1) >= target,
            "One dimension less is enough.",
            "Look for the smallest n.",
        ),
    ],
)

EXERCISES = {1: ONE, 2: TWO, 3: THREE, 4: FOUR, 5: FIVE}
