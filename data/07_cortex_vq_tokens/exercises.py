"""The exercises of notebook 07: what is right, and the wrong answers that have a name."""

import inspect
from contextlib import suppress
from functools import lru_cache
from unittest import mock

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from helpers import vision
from helpers.checks import as_array
from helpers.lesson import Exercise, Mistake


def exercise(*parts):
    """Of tests, each with its words "kind | how to mend it" behind; the first is what is right."""
    pairs = zip(parts[::2], parts[1::2], strict=True)
    right, *mistakes = [Mistake(test, *words.split(" | ")) for test, words in pairs]
    return Exercise(*right, mistakes)


def fails(test):
    return lambda answer, **context: not test(answer, **context)


# 1: [expected score of random maps, score of the place where training objects stand most often]
def hits(chosen_on="their_truth", scored_on="truth", turn=1, times=1):
    def test(answer, **masks):  # of several most usual places each is accepted
        usual, shares = (as_array(masks[own]).mean(0) for own in (chosen_on, scored_on))
        given = np.ravel([as_array(own) for own in answer]).astype(float)
        return given.shape == (2,) and any(
            np.abs(given - times * np.array([shares.mean(), own])[::turn]).max() < 6e-4 * times
            for own in shares[usual == usual.max()]
        )

    return test


# 2: TIS

with torch.random.fork_rng(devices=[]):
    torch.manual_seed(7)
    READER = nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    E, Y = torch.randn(4, 4, 2, 3), torch.tensor([2, 0, 1, 2])
SIGMA, COPIES = 0.5, 3
LEVEL = torch.tensor([0.0, 3.0]).view(2, 1, 1, 1).expand(2, 4, 50, 100)


def maps(answer, reader=READER, e=E, targets=Y, sigma=0.0):
    found = answer(reader, e.clone(), targets.clone(), sigma, COPIES, 0)
    return torch.from_numpy(np.array(as_array(found), dtype=np.float32))


def of_y(logits):
    return logits.gather(1, Y[:, None])


def reads(read=lambda g: g.amax(1), *, scores=(of_y,)):
    """A test: without noise the maps are this reading of the gradient of one of these scores."""

    def same(found, score):
        slopes = torch.autograd.grad(score(READER(e := E.clone().requires_grad_())).sum(), e)[0]
        wanted = read(slopes)
        return found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-5)

    return lambda answer: any(same(maps(answer), score) for score in scores)


class Square(nn.Module):  # the gradient of the first logit is e itself
    def forward(self, e):
        half = (e**2).flatten(1).sum(1) / 2
        return torch.stack([half, -2 * half], 1)


def noise(mean, spread):
    """A test of the noise that is left in the maps; 1 and 1 for TIS.

    With `Square` and a constant e, 5,000 places have maxima of four means of three noises: mean
    1.0294, standard deviation 0.7012, times SIGMA / sqrt(3). Allowed are 8 %, over seven standard
    errors even if pictures share their noise: chance refuses less than one right answer in 10^9.
    """

    def test(answer):
        left = maps(answer, Square(), LEVEL, torch.tensor([0, 0]), SIGMA) - LEVEL[:, 0]
        found = np.array([left.mean() / 1.0294, left.var((1, 2)).mean() ** 0.5 / 0.7012])
        return np.allclose(found / SIGMA * COPIES**0.5, (mean, spread), rtol=0.08, atol=0.01)

    return test


def calls_helper(answer):
    """Whether vision.gradient is asked, by whatever name."""
    room, spy = inspect.getmodule(vision.cnn), mock.Mock(side_effect=RuntimeError)
    inside = mock.patch.multiple(room, gradient=spy, _logits_of=spy)
    with inside, mock.patch.object(vision, "gradient", spy), suppress(Exception):
        maps(answer)
    return spy.called


OTHER_TARGETS = [*(lambda z, c=c: z[:, c] for c in range(3)), lambda z: z, lambda z: z.amax(1)]
PROBABILITIES = [
    lambda z, p=p, sign=sign: sign * of_y(p(z, 1))
    for p, sign in ((torch.softmax, 1), (torch.log_softmax, 1), (torch.log_softmax, -1))
]


# 3: [mean AUC of TIS of the own concept, of another]; other noise moves them by 0.0005 and 0.0009
@lru_cache(maxsize=4)  # an answer is compared with several numbers made of them
def slopes_of(reader, embedded, targets, noise, samples):
    return vision.gradient(reader, embedded, targets, noise=noise, samples=samples)


def mean_auc(truth, scores):
    masks, ranks = truth.flatten(1).numpy(), rankdata(scores.flatten(1), axis=1)
    inside, outside = masks.sum(1), (~masks).sum(1)
    return np.mean(((ranks * masks).sum(1) / inside - (inside + 1) / 2) / outside)


def aucs(asked=("labels", "another"), read=lambda g: g.amax(1), auc=mean_auc, plain=False):
    def test(answer, reader, embedded, truth, noise, samples, **targets):
        given = np.ravel([as_array(own) for own in answer]).astype(float)
        how = (0.0, 1) if plain else (noise, samples)
        wanted = [auc(truth, read(slopes_of(reader, embedded, targets[y], *how))) for y in asked]
        slack = [(0.0035 if y == "labels" else 0.007) * (0.2 if plain else 1) for y in asked]
        return given.shape == (2,) and bool((np.abs(given - wanted) <= np.array(slack)).all())

    return test


# 4: ten tokens a concept, of the 20 most unusually coloured places
def rows_of(answer):
    """Eight lists of ten different tokens; none if the answer has another form."""
    rows = answer.values() if isinstance(answer, dict) else answer
    rows = [[int(token) for token in row] for row in rows]
    good = len(rows) == 8 and all(len(row) == len({*row}) == 10 and min(row) >= 0 for row in rows)
    return rows if good else []


def counts(their_tokens, their_labels, their_colours, n=20, sign=1, once=False, mixed=False):
    """(2, 8, K): counts at places that are surely chosen, and at those that ties may choose."""
    tokens, colours = as_array(their_tokens), sign * as_array(their_colours)
    found = np.zeros((2, 8, tokens.max() + 1), dtype=int)
    for own, values, label in zip(tokens, colours, as_array(their_labels), strict=True):
        may = values >= (edge := np.sort(values, None)[-n])
        for kind, chosen in enumerate((may if may.sum() == n else values > edge, may)):
            np.add.at(found[kind, label], np.unique(own[chosen]) if once else own[chosen], 1)
    return np.repeat(found.sum(1, keepdims=True), 8, 1) if mixed else found


def top_ten(row, sure, may):
    """Whether none of these tokens is less frequent than one left out."""
    return max(row) < len(may) and may[row].min() >= np.delete(sure, row).max(initial=0)


def lists(in_order=True, **how):
    def test(answer, **context):
        rows, found = rows_of(answer), np.stack(counts(**context, **how), 1)
        those = [[row] for row in rows] if in_order else [rows] * len(rows)
        pairs = zip(those, found, strict=True)  # refuses other forms
        return all(any(top_ten(row, *own) for row in some) for some, own in pairs)

    return test


# 5: equal areas under the released rule
def equal_area(tokens, score, area, stop=False, again=False):
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for own, values, painted in zip(tokens, score, mask, strict=True):
        total = 0
        for place in values.flatten().argsort(descending=True):
            where = own == own.flatten()[place]
            if painted[where].all() and not again:
                continue
            if total + where.sum() <= area:
                painted |= where
                total += where.sum()
            elif stop:
                break
    return mask


def probes():
    rng = torch.Generator().manual_seed(3)
    yield torch.tensor([[[5, 5, 5], [7, 5, 9]]]), torch.tensor([[[5.0, 1, 2], [6, 3, 4]]]), 3
    for codes, area in ((3, 0), (3, 5), (6, 4), (6, 7), (9, 1), (9, 3), (9, 10), (14, 6), (9, 20)):
        score = torch.stack([torch.randperm(20, generator=rng) for _ in range(3)]) - 9.5
        yield torch.randint(codes, (3, 4, 5), generator=rng), score.view(3, 4, 5), area


def masks(answer, tokens, score, area):
    """The answer's masks; a function that stops at tensors gets arrays."""
    try:
        found = answer(tokens.clone(), score.clone(), area)
    except Exception:
        found = answer(tokens.numpy().copy(), score.numpy().copy(), area)
    return torch.from_numpy(np.array([as_array(own) for own in found], dtype=bool))


def always(holds):
    return lambda answer: all(holds(masks(answer, *probe), *probe) for probe in probes())


def paints(rule, turn=1, less=0):
    return always(
        lambda mask, tokens, score, area: (
            mask.shape == tokens.shape and (mask == rule(tokens, turn * score, area - less)).all()
        )
    )


def one_by_one(answer):
    def alone(*args):
        pairs = zip(*(values.split(1) for values in args[:2]), strict=True)
        return torch.cat([masks(answer, *own, args[2]) for own in pairs])

    return paints(alone)(answer)


EXERCISES = {
    1: exercise(
        hits(),
        "These are not the two scores, to three digits. | A random map hits as often as a place "
        "is object; the other map names one place in all test scenes: how often is that object?",
        hits(turn=-1),
        "The order is turned. | First the random map, then the place.",
        hits(chosen_on="truth"),
        "You chose the place on the test scenes. | Choose it on their_truth, score on truth.",
        hits(scored_on="their_truth"),
        "Those are scores on the training scenes. | Score both maps on truth.",
        hits(times=100),
        "That is in percent. | Shares between 0 and 1 are asked for.",
    ),
    2: exercise(
        lambda answer: not calls_helper(answer) and reads()(answer) and noise(1, 1)(answer),
        "On a small reader of known gradient the maps are others. | For each copy: noise on e, the "
        "gradient of each picture's own logit. Then the mean, and then the maximum over axis 1.",
        calls_helper,
        "That asks vision.gradient. | Write the loop yourself, with torch.autograd.grad.",
        reads(lambda g: g.abs().amax(1)),
        "That is the largest absolute value. | The maximum of TIS keeps the sign: no abs().",
        reads(lambda g: g.mean(1)),
        "That is the mean over channels. | TIS is the maximum: amax(1).",
        reads(lambda g: g),
        "The channels are still there. | The maximum over axis 1 is missing.",
        reads(lambda g: COPIES * g.amax(1)),
        "The copies are summed. | Divide by their number.",
        reads(lambda g: g.amax(1) / len(Y)),
        "The gradients are divided by the number of pictures. | Sum their logits.",
        reads(lambda g: (-g).amax(1)),
        "The sign of the gradient is turned. | Take it of the logit, not of a loss.",
        reads(scores=PROBABILITIES),
        "That is the gradient of the probability. | Take the logit, before the softmax.",
        reads(scores=OTHER_TARGETS),
        "That is not each picture's own target. | gather(1, y[:, None]) picks the logits of y.",
        noise(0, 0),
        "There is no noise. | e + sigma * torch.randn(e.shape), anew for each copy.",
        lambda answer: torch.equal(maps(answer), maps(answer, sigma=SIGMA)),
        "Your sigma does not matter. | It is an argument; SIGMA is the page's.",
        noise(COPIES**0.5, COPIES**0.5),
        "The noise does not average out. | Draw it anew for each copy; seed before the loop.",
        noise(COPIES**0.5, 1),
        "The maximum is taken in each copy. | First the mean over copies, then the maximum.",
        reads(),
        "The noise has another size. | Its standard deviation is sigma, at each single number.",
    ),
    3: exercise(
        aucs(),
        "Two mean AUCs of reader CNN 2 are asked for. | Make the maps of readers['cnn-2'] "
        "twice, asking for `labels` and for `another`, and score both against the truth.",
        aucs(("another", "labels")),
        "The order is turned. | First the own concept, then another one.",
        aucs(["labels"] * 2),
        "Both are of the own concept. | Ask for `another` in the second.",
        aucs(auc=lambda *both: mean_auc(*(own.flatten()[None] for own in both))),
        "All scenes went into one AUC. | Take the AUC of each scene, and then the mean.",
        aucs(read=lambda g: g.mean(1)),
        "That is the mean over channels. | TIS is the maximum: importance(...)[0].",
        aucs(plain=True),
        "That is the gradient without noise. | TIS is the mean over noisy copies.",
    ),
    4: exercise(
        lists(),
        "At least one concept's ten tokens are others. | Take the concept's scenes, the 20 places "
        "of largest their_colours of each, the tokens there; np.bincount counts them.",
        lambda answer, **_: not rows_of(answer),
        "Eight rows of ten different tokens are asked for. | One row for each concept.",
        lists(n=144),
        "Those are the most frequent tokens of all places: the baseline. | Use the 20 places only.",
        lists(mixed=True),
        "The counts are of all concepts. | Each row counts the scenes of one concept.",
        lists(sign=-1),
        "Those are of the least unusual places. | Take the largest distances.",
        lists(n=10),
        "Ten places a scene are counted. | Ten is the number of tokens; places are 20.",
        lists(once=True),
        "A scene counts a token once. | Count each of its places.",
        lists(in_order=False),
        "The rows are in another order. | Concept 0 comes first.",
    ),
    5: exercise(
        paints(equal_area),
        "On small maps other places are painted. | Whole tokens, from the best place down; what "
        "does not fit is left out, and the list goes on. Try the example by hand.",
        fails(always(lambda mask, t, *_: mask.shape == t.shape)),
        "The masks have another shape. | True or False for each place: (B, h, w), as the tokens.",
        fails(one_by_one),
        "A scene's mask depends on other scenes. | Each has its own list and its own area.",
        paints(lambda *probe: ~equal_area(*probe)),
        "The mask is turned round. | True is what is painted.",
        fails(always(lambda mask, t, *_: (vision.same_tokens(t, mask) == mask).all())),
        "A token is painted in part. | Paint all places of a token, or none of them.",
        fails(always(lambda mask, t, s, area: mask.sum((1, 2)).max() <= area)),
        "More than `area` squares are painted. | Count before you paint.",
        lambda answer: paints(lambda t, s, area: masks(answer, t, -s, area))(answer),
        "The scores do not matter. | Go down from the place of the best score.",
        paints(lambda *probe: equal_area(*probe, stop=True)),
        "You stop at the first token that does not fit. | Leave it out and go on.",
        paints(lambda *probe: equal_area(*probe, again=True)),
        "A token counts again at its next place. | It is painted already, and costs nothing more.",
        paints(equal_area, turn=-1),
        "The worst come first. | Begin at the place of the best score.",
        paints(equal_area, less=1),
        "An area of exactly `area` is allowed. | `<=`, not `<`.",
    ),
}
