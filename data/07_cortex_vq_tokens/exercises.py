"""The exercises of notebook 07: what is right, and the wrong answers that have a name."""

from functools import lru_cache

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from helpers import stats, vision
from helpers.checks import as_array
from helpers.lesson import Exercise, Mistake, equals

STEPS = (50, 100, 150, 200, 250)


# 1: the gradient, read by its mean over the channels


def mean_auc(truth, scores):
    """Mean over pictures of the AUC of each map against its mask."""
    return np.mean(
        [roc_auc_score(m.flatten(), s.flatten()) for m, s in zip(truth, scores, strict=True)]
    )


def by_mean(truth, gradients):
    return mean_auc(truth, gradients.mean(1))


def all_places_at_once(truth, gradients):
    return roc_auc_score(truth.flatten(), gradients.mean(1).flatten())


# 2: what the rule of the released code paints


def painted(tokens, maps, n=10):
    return float(vision.same_tokens(tokens, vision.top(maps, n)).sum()) / len(tokens)


def painted_at_random(tokens, maps):
    noise = torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))
    return painted(tokens, noise)


# 3: Cliff's delta

PAIRS = (
    ([1, 2, 3], [0, 0, 0]),
    ([1, 2], [2, 3]),
    ([3, 5, 8, 2], [4, 4, 1, 7]),
    ([0.5], [0.5, 0.5, -1]),
)


def comparison(delta):
    """Test of a function of two samples, which may ask for lists or for arrays."""

    def test(answer):
        def flexible(x, y):
            try:
                return answer(x, y)
            except Exception:  # x[:, None] of a list, for example
                return answer(np.array(x), np.array(y))

        return equals(lambda: delta, probes=PAIRS)(flexible)

    return test


def above(x, y):
    return np.greater.outer(x, y).mean()


# 4: selection on the test


@lru_cache(maxsize=1)  # an answer is compared with up to four numbers made of it
def course(reader, tokenizer, judge, tokens, labels, truth):
    """(5, 8): the judge's belief in the target at each step and picture, as section 7 writes."""
    own, targets = slice(16, 24), 7 - labels[16:24]
    region = torch.zeros_like(truth[own])
    for mask, found in zip(truth[own], region, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    settings = {"lr": 0.1, "seed": 3}
    beliefs = []
    for steps in STEPS:
        found, _ = vision.choose_tokens(
            reader, tokenizer.codebook, tokens[own], region, targets, steps=steps, **settings
        )
        with torch.no_grad():
            answers = judge(tokenizer.decode(tokenizer.embed(found))).softmax(1)
        beliefs.append(answers.gather(1, targets[:, None])[:, 0].numpy())
    return np.array(beliefs)


def kept(beliefs):
    """What is gained by keeping the best step of each picture instead of the last one."""
    return beliefs.max(0).mean() - beliefs[-1].mean()


def gained(by):
    """A test against `by(beliefs)`; beliefs are computed anew, which takes a quarter of a minute.

    Allowed is a half of the right answer, as processors differ in the last digits, and these grow
    in 250 steps; but never so much that 0 passes.
    """

    def test(answer, **context):
        beliefs = course(**context)
        slack = np.clip(kept(beliefs) / 2, 1e-6, 0.002)
        return abs(float(as_array(answer).reshape(())) - by(beliefs)) < slack

    return test


# 5: the checkerboard


def maps_and_pattern(blank, embedded, labels, noise, samples):
    gradients = vision.gradient(blank, embedded, labels, noise=noise, samples=samples)
    maps = gradients.amax(1)
    return maps, maps.mean(0).view(3, 4, 3, 4).mean((0, 2)).repeat(3, 3)


def gain_by(mend):
    """By how much the mean AUC rises where maps are mended so."""

    def gain(truth, **context):
        maps, pattern = maps_and_pattern(**context)
        return mean_auc(truth, mend(maps, pattern)) - mean_auc(truth, maps)

    return gain


def relative_gain(truth, **context):
    maps, pattern = maps_and_pattern(**context)
    return mean_auc(truth, maps / pattern) / mean_auc(truth, maps) - 1


# 6: a bias score with a zero


@torch.no_grad()
def share_of(which):
    """Shares of pictures that the reader calls `which` (0: white), of both pools."""

    def shares(reader, tokenizer, pools):
        return [
            float((reader(tokenizer.embed(pools[share])).argmax(1) == which).float().mean())
            for share in (0.5, 0.9)
        ]

    return shares


white, green = share_of(0), share_of(1)

EXERCISES = {
    1: Exercise(
        equals(by_mean, within=0.002),
        "Scores are one number a place; the AUC is taken in each picture, and then averaged.",
        "gradients.mean(1) are the scores (channels are axis 1); roc_auc_score(m.flatten(), "
        "s.flatten()) for each mask and score; np.mean of them.",
        [
            Mistake(
                equals(lambda truth, gradients: mean_auc(truth, gradients.amax(1)), within=0.005),
                "That is the AUC of the signed maximum.",
                "The question is about the mean over the channels: gradients.mean(1).",
            ),
            Mistake(
                equals(
                    lambda truth, gradients: mean_auc(truth, gradients.abs().mean(1)), within=0.005
                ),
                "You took the mean of absolute values.",
                "With their signs the numbers cancel, and that is the point: no abs().",
            ),
            Mistake(
                equals(all_places_at_once, within=0.005),
                "You put all places of all pictures into one AUC.",
                "Pictures differ in their level: take the AUC of each picture, then the mean.",
            ),
        ],
    ),
    2: Exercise(
        equals(painted, within=0.8),  # other noisy copies give other places
        "Choose the ten places of each picture, then find all places that carry their tokens.",
        "mask = vision.top(maps, 10), then vision.same_tokens(tokens, mask); count, and divide by "
        "the number of pictures.",
        [
            Mistake(
                equals(lambda tokens, maps: 10),
                "Ten places are chosen, but the rule paints all places that carry their tokens.",
                "vision.same_tokens(tokens, mask) is the rule.",
            ),
            Mistake(
                equals(lambda **context: painted(**context) * len(context["tokens"]), within=1),
                "That is the sum over all pictures.",
                "Divide by the number of pictures.",
            ),
            Mistake(
                equals(lambda **context: painted(**context) / 144, within=0.006),
                "That is a share of the picture.",
                "The question asks for patches, of 144.",
            ),
            Mistake(
                equals(painted_at_random, within=2),
                "That is what ten random places paint.",
                "Take the most important places: vision.top(maps, 10).",
            ),
        ],
    ),
    3: Exercise(
        comparison(stats.cliffs_delta),
        "Compare every x with every y, not only those in the same place.",
        "The share of pairs with x > y minus the share with x < y; ties count for neither.",
        [
            Mistake(
                comparison(lambda x, y: stats.cliffs_delta(x, y) / 2),
                "That is half of it.",
                "AUC - 0.5 is half of Cliff's delta, which runs from -1 to 1.",
            ),
            Mistake(
                comparison(lambda x, y: -stats.cliffs_delta(x, y)),
                "The sign is turned.",
                "Positive where x is larger: P(x > y) - P(x < y).",
            ),
            Mistake(
                comparison(lambda x, y: (1 + stats.cliffs_delta(x, y)) / 2),
                "That is the AUC.",
                "It runs from 0 to 1; delta is twice it, minus 1.",
            ),
            Mistake(
                comparison(above),
                "That is P(x > y) alone.",
                "Subtract P(x < y).",
            ),
            Mistake(
                comparison(lambda x, y: 2 * above(x, y) - 1),
                "You count ties as if y were larger.",
                "P(x < y) is not 1 - P(x > y) where some are equal.",
            ),
        ],
    ),
    4: Exercise(
        gained(kept),
        "Keep the best of the five steps for each picture, average, and subtract the mean of the "
        "last step.",
        "vision.choose_tokens(..., steps=s, lr=0.1, seed=3) for the five s, then "
        "belief(judges['pooled'], shown(found), targets): five rows of eight. The largest of each "
        "column, its mean, minus the mean of the last row. It is small; give all its digits.",
        [
            Mistake(
                gained(lambda beliefs: beliefs.mean(1).max() - beliefs[-1].mean()),
                "Exactly nothing is gained only if one step is kept for all pictures.",
                "Each picture keeps its own best step: take the maximum before the mean.",
            ),
            Mistake(
                gained(lambda beliefs: beliefs.max(0).mean() - beliefs[0].mean()),
                "You compare with the first step.",
                "Compare with the last one.",
            ),
            Mistake(
                gained(lambda beliefs: beliefs.max(0).mean()),
                "That is the belief itself.",
                "Subtract the mean belief at the last step.",
            ),
        ],
    ),
    5: Exercise(
        equals(gain_by(lambda maps, pattern: maps / pattern), within=0.005),
        "Divide each map by the pattern, repeated to 12 x 12; the gain is a difference of AUCs.",
        "own = importance(blank, embedded, labels)[0]; its mean over pictures, over places modulo "
        "4: own.mean(0).view(3, 4, 3, 4).mean((0, 2)), repeated 3 x 3.",
        [
            Mistake(
                equals(gain_by(lambda maps, pattern: maps - pattern), within=0.003),
                "You subtract the pattern.",
                "It multiplies the map, so divide.",
            ),
            Mistake(
                equals(relative_gain, within=0.003),
                "That is the gain as a share of the AUC before.",
                "Give the difference of the two AUCs.",
            ),
            Mistake(
                equals(gain_by(lambda maps, pattern: maps / maps.mean(0)), within=0.01),
                "You divide by the whole mean map.",
                "That also holds where objects usually are. Average places modulo 4 first.",
            ),
        ],
    ),
    6: Exercise(
        equals(white, within=0.02),
        "For each pool, the share of pictures that the reader calls white (class 0).",
        "audits[0](tokenizer.embed(pools[share])).argmax(1) == 0, then the mean.",
        [
            Mistake(
                equals(green, within=0.02),
                "Those are the shares called green.",
                "White is class 0.",
            ),
            Mistake(
                equals(lambda **context: white(**context)[::-1], within=0.02),
                "The order is turned.",
                "First the pool of share 0.5, then that of 0.9.",
            ),
            Mistake(
                equals(
                    lambda reader, tokenizer, pools: (
                        np.array(white(reader, tokenizer, pools)) * len(pools[0.5])
                    ),
                    within=5,
                ),
                "Those are counts of pictures.",
                "Divide by the number of pictures in a pool.",
            ),
        ],
    ),
}
