"""The exercises of notebook 04: what is right, and the wrong answers that have a name."""

from functools import lru_cache

import numpy as np
import torch

from helpers.attention import pair_norm
from helpers.checks import as_array
from helpers.lesson import Exercise, Mistake


def number(answer):
    return float(as_array(answer).reshape(()))


def near(wanted, share):
    """A test of one number against `wanted(**context)`, to a share of it."""

    def test(answer, **context):
        reference = float(wanted(**context))
        return abs(number(answer) - reference) <= share * abs(reference) + 1e-12

    return test


# 1: entries above five times the mean of their head


def exceed(m, factor=5):
    return 100 * (m > factor * m.mean(-1, keepdims=True)).mean()


def share_of(part):
    def wanted(norms, of=part):
        return exceed(norms[of])

    mistakes = [
        Mistake(
            near(lambda norms: exceed(norms[part]) / 100, 0.02),
            "That is a fraction.",
            "The question asks for percent: times 100.",
        ),
        Mistake(
            near(lambda norms: 100 * (norms[part] > 5 * norms[part].mean()).mean(), 0.02),
            "You compare with one mean of everything.",
            "Each head has its own mean: m.mean(-1, keepdims=True).",
        ),
        *(
            Mistake(
                near(lambda norms, other=other: exceed(norms[other]), 0.02),
                f"That is the share of {other.upper()}.",
                f"M[MODEL]['{part}']",
            )
            for other in "qkv"
            if other != part
        ),
    ]
    return Exercise(
        near(wanted, 0.02),
        "Compare each entry of M with five times the mean of its head; count, in percent.",
        f"exceed_share(M[MODEL]['{part}'], 5).mean(), times 100",
        mistakes,
    )


# 2: pair norms before and after the rotation


def largest(change, fold=pair_norm):
    def wanted(before, after):
        return np.abs(change(fold(before).astype(float), fold(after).astype(float))).max()

    return wanted


def relative(a, b):
    return a / b - 1


def about(wanted):
    """Rounding makes the answer: half as much or twice as much is the same; nothing is not."""

    def test(answer, **context):
        reference = float(wanted(**context))
        return reference / 2 <= number(answer) <= max(reference * 2, 1e-6 * (reference == 0))

    return test


# 3: the pair of a model that is not here


def pair(ratio, base=1e6, dim=128, context=32768):
    """Index of the pair whose wavelength is `ratio` times the context."""
    return dim / 2 * np.log(ratio * context / (2 * np.pi)) / np.log(base)


def between(shift=lambda i: i):
    """From twice to six times the context, as section 4 found, and rounded to a whole pair."""
    low, high = shift(pair(2)), shift(pair(6))
    return lambda answer: low - 0.5 <= number(answer) <= high + 0.5


# 4: the mean of each dimension


def probes():
    """Queries (items, heads, tokens, dimensions) and masks of two dimensions in each head."""
    rng = torch.Generator().manual_seed(0)
    for shape in ((2, 2, 3, 4), (1, 3, 5, 6)):
        x = torch.randn(shape, generator=rng) + 1
        order = torch.rand(*shape[:2], shape[3], generator=rng).argsort(-1)
        yield x, torch.zeros(order.shape, dtype=bool).scatter(-1, order[..., :2], True)[:, :, None]


def replaces(right):
    """A test of what an edit makes of the queries, as `disrupt` uses it."""

    def test(answer):
        for x, mask in probes():
            given = torch.where(mask, torch.as_tensor(answer(x.clone(), mask)), x)
            if given.shape != x.shape:
                return False
            if not torch.allclose(given, torch.where(mask, right(x, mask), x), atol=1e-5):
                return False
        return True

    return test


def loses_the_token_axis(answer):
    return all(tuple(answer(x, mask).shape) == (*x.shape[:2], x.shape[3]) for x, mask in probes())


def head_mean(x, mask):
    return (x * mask).sum((2, 3), keepdim=True) / (mask.sum((2, 3), keepdim=True) * x.shape[2])


# 5: how many layers


@lru_cache(maxsize=16)
def level_of(level, n):
    return level(n)


def whole(answer):
    n = number(answer)
    return int(n) if n == int(n) else None


# 6: the previous token


@lru_cache(maxsize=4)
def trained(train, attend, loss, symbols, constant, length, seed, rope=True):
    """Queries and keys (B, H, T, D) of a layer that points at the previous token."""

    def previous(rng, size=64):
        chosen = torch.randint(len(symbols), (size, length + 1), generator=rng)
        words = symbols[chosen] if constant is None else symbols[chosen] + constant
        return words[:, -1], words[:, :-1], torch.full((size,), length - 1)

    weights = train(previous, loss, rope, seed, 300)
    return attend(weights, *previous(torch.Generator().manual_seed(7), 256)[:2], rope)[1:]


def slow_share(which=0, **changed):
    def wanted(**context):
        x = trained(**(context | changed))[which]
        energy = pair_norm(x).square().mean((0, 1, 2))
        return float(energy[len(energy) // 2 :].sum() / energy.sum())

    return wanted


def within(wanted, slack):
    return lambda answer, **context: abs(number(answer) - wanted(**context)) < slack


EXERCISES = {
    "1, Q": share_of("q"),
    "1, V": share_of("v"),
    2: Exercise(
        about(largest(relative)),
        "Fold both into pairs, divide, subtract 1, take the largest absolute value. It is not 0: "
        "numbers of 32 bits are rounded.",
        "a, b = attention.pair_norm(M_before['k']), attention.pair_norm(M[MODEL]['k'][:2]); "
        "np.abs(a / b - 1).max()",
        [
            Mistake(
                about(largest(relative, fold=lambda m: m)),
                "That is the difference of the coordinates, which rotation does change.",
                "Fold both into pairs first: attention.pair_norm.",
            ),
            Mistake(
                about(largest(np.subtract)),
                "That is an absolute difference.",
                "Divide one by the other and subtract 1.",
            ),
        ],
    ),
    3: Exercise(
        between(),
        "Solve wavelength = r times the context for the index i, with r from section 4.",
        "2 pi b^(2i/D) = r * 32768, so i = D/2 * ln(r * 32768 / (2 pi)) / ln(b).",
        [
            Mistake(
                lambda answer: pair(1) - 0.7 <= number(answer) <= pair(1) + 0.7,
                "Its wavelength is the context itself.",
                "The chosen pair fails to complete a turn: r is more than 1.",
            ),
            Mistake(
                between(lambda i: 2 * i),
                "That is twice too large.",
                "There are D/2 pairs, not D.",
            ),
            Mistake(
                between(lambda i: i + 64),
                "That is a coordinate, the second of the pair.",
                "The pair is coordinates i and i + D/2; give i.",
            ),
            Mistake(
                between(lambda i: i + 64 * np.log(2 * np.pi) / np.log(1e6)),
                "You took the frequency for one over the wavelength.",
                "A turn is 2 pi: wavelength = 2 pi / theta.",
            ),
        ],
    ),
    4: Exercise(
        replaces(lambda x, mask: x.mean(2, keepdim=True)),
        "One number for each item, head and dimension: the mean over its tokens.",
        "The axes are item, head, token, dimension: average over axis 2 only, keepdim=True.",
        [
            Mistake(
                loses_the_token_axis,
                "The token axis is gone, so heads would be taken for tokens.",
                "Keep the axis: keepdim=True.",
            ),
            Mistake(
                replaces(head_mean),
                "That is head_mean: one number for all chosen dimensions of a head.",
                "Average over tokens only (axis 2), not over dimensions.",
            ),
            Mistake(
                replaces(lambda x, mask: x.mean((0, 1, 2))),
                "You mix items and heads.",
                "Average over tokens only (axis 2).",
            ),
            Mistake(
                replaces(lambda x, mask: x.mean(3, keepdim=True)),
                "You average over the dimensions of each token.",
                "Tokens are axis 2.",
            ),
        ],
    ),
    5: Exercise(
        lambda answer, level: (
            level_of(level, whole(answer)) < 0.2 <= level_of(level, whole(answer) - 1)
        ),
        "Your n is right when the level falls below 0.2 at n and n - 1 layers are not enough.",
        "Try level_with(n) for growing n: coarse steps first, then single ones.",
        [
            Mistake(
                lambda answer, level: level_of(level, whole(answer)) >= 0.2,
                "With so many layers the level is still 0.2 or more.",
                "Take more layers.",
            ),
            Mistake(
                lambda answer, level: level_of(level, whole(answer) - 1) < 0.2,
                "One layer less is enough.",
                "Look for the smallest n.",
            ),
        ],
    ),
    6: Exercise(
        within(slow_share(), 0.04),
        "Write a batch function whose target is T - 1 for every row, train with point_at, and sum "
        "the energy of Q over the slow half of the pairs.",
        "Words are SYMBOLS + CONSTANT, the query is the last one, the context the T before it; "
        "train(previous_token, point_at, True, SEED, 300), then pair_energy(q)[D // 4 :].sum().",
        [
            Mistake(
                within(slow_share(constant=None), 0.03),
                "That is the share without the constant component.",
                "Add CONSTANT to the words.",
            ),
            Mistake(
                within(lambda **context: 1 - slow_share()(**context), 0.04),
                "That is the share of the fast half.",
                "Slow pairs are the second half: pair_energy(q)[D // 4 :].",
            ),
            Mistake(
                within(slow_share(rope=False), 0.04),
                "That is the share without RoPE.",
                "train(..., True, ...) turns queries and keys.",
            ),
        ],
    ),
}
