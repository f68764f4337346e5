"""References and hints of the exercises of notebook 02."""

import re
from functools import partial

import numpy as np
import torch

from helpers import probing
from helpers.checks import as_array
from helpers.lesson import Exercise, Mistake, equals
from helpers.probing import bundle_accuracies, cell_kind


def number(answer):
    """One number, however it is wrapped."""
    return float(as_array(answer).item())


# --- 1: sentences in which the kind of verb goes with the kind of object --------------------------

# every way to hold out whole bundles that a reader may think of
FOLDS = (lambda b: b // 8, lambda b: b % 5, lambda b: b // 4, lambda b: b % 10, lambda b: b)


def broken_set(sentences):
    """Places of the sentences that are kept, whether their objects are animate, their bundles."""
    pairs = (("dynamic", "animate"), ("stative", "inanimate"))
    keep = [i for i, s in enumerate(sentences) if s.kinds[1:] in pairs]
    labels = [sentences[i].label("object_animacy") for i in keep]
    return keep, labels, np.array([sentences[i].bundle for i in keep])


def is_accuracy(answer, vectors, sentences, word, ways):
    """Whether an answer is the accuracy at a word for one of the ways to fold."""
    keep, labels, bundle = broken_set(sentences)
    found = [probing.grouped_cv(vectors[keep, word], labels, way(bundle)).mean() for way in ways]
    return bool(np.isclose(number(answer), found, rtol=0, atol=1e-6).any())


def at_word(word, ways=FOLDS):
    return lambda answer, vectors, sentences: is_accuracy(answer, vectors, sentences, word, ways)


BY_SENTENCE = (lambda b: np.arange(len(b)) % 5, lambda b: np.arange(len(b)))

# --- 2: two tokens replaced -----------------------------------------------------------------------

PLACES = ((3, 5), (4, 5), (5, 3), (2, 4))
ZERO = 1e-5  # rounding, where both texts share a pass


@torch.no_grad()
def changes(model, ids, places, token, relative=True):
    """(T,) how far the last state of each token moves when `places` hold `token`."""
    other = ids.clone()
    other[list(places)] = token
    a, b = (
        model.base_model(row[None].to(model.device)).last_hidden_state[0].float()
        for row in (ids, other)
    )
    moved = (a - b).norm(dim=-1)
    return moved / a.norm(dim=-1) if relative else moved


def largest(model, ids, first, second, token):
    return changes(model, ids, (first, second), token)[: min(first, second)].max()


def mean_change(model, ids, first, second, token):
    return changes(model, ids, (first, second), token)[: min(first, second)].mean()


def absolute(model, ids, first, second, token):
    return changes(model, ids, (first, second), token, relative=False)[: min(first, second)].max()


def one_by_one(model, ids, first, second, token):
    """The larger change of two replacements, or that of one of them."""
    one, two = (
        changes(model, ids, (place,), token)[: min(first, second)].max()
        for place in (first, second)
    )
    return torch.stack([torch.maximum(one, two), one, two])


def called(answer, ids):
    """What an answer says at PLACES; a copy each time, so that no answer spoils the page's ids."""
    return np.array([number(answer(ids.clone(), *places)) for places in PLACES])


def agrees_when_open(answer, model, ids, replacement, reference=largest):
    """Whether an answer is what `reference` gives (one of its columns) behind an open mask."""
    with probing.bidirectional(model):
        wanted = np.array(
            [
                np.atleast_1d(reference(model, ids, *p, replacement).numpy(force=True))
                for p in PLACES
            ]
        )
        given = called(answer, ids)
    return bool(np.isclose(given[:, None], wanted, rtol=1e-3, atol=0).all(0).any())


def overwrites(answer, model, ids, replacement):
    copy = ids.clone()
    answer(copy, *PLACES[0])
    return not torch.equal(copy, ids)


def is_zero(answer, model, ids, replacement):
    return bool((np.abs(called(answer, ids)) <= ZERO).all())


def is_blind(answer, model, ids, replacement):
    with probing.bidirectional(model):
        return is_zero(answer, model, ids, replacement)


def two_leak(answer, **context):
    return (
        not overwrites(answer, **context)
        and is_zero(answer, **context)
        and agrees_when_open(answer, **context)
    )


# --- 3: words looked up by their spelling ---------------------------------------------------------


def numbers(answer):
    """The numbers of an answer, sorted, in whatever collection or text they are given."""
    if isinstance(answer, str):
        return sorted(map(int, re.findall(r"\d+", answer)))
    return sorted(float(x) for x in (answer if isinstance(answer, set) else np.ravel(answer)))


def twins(words, start=1):
    """Places of the words that share their spelling with another, counted from `start`."""
    return [i + start for i, word in enumerate(words) if words.count(word) > 1]


# --- 4: a head that looks at the verb -------------------------------------------------------------


def verb_head(looks, mask="open", source=5, target=3, first=0):
    """Layer, head (counted from `first`) and the attention behind `mask`."""
    table = np.asarray(looks["causal"])[:, :, source, target]
    layer, head = np.unravel_index(table.argmax(), table.shape)
    there = np.asarray(looks[mask])[layer, head, source, target]
    return [int(layer) + first, int(head) + first, float(there)]


def is_head(answer, looks, **options):
    flat = np.array([float(x) for part in answer for x in np.ravel(part)])  # (25, 4), 0.55 as well
    return flat.shape == (3,) and np.allclose(flat, verb_head(looks, **options), rtol=0, atol=1e-3)


def other_head(**options):
    return lambda answer, looks: is_head(answer, looks, **options)


def is_head_only(answer, looks):
    return is_head([*answer[:2], verb_head(looks)[2]], looks)


# --- 5: the sentence twice ------------------------------------------------------------------------


def echo(model, tokenizer, sentences, kinds=("following",)):
    """Accuracies of the first and of the second copy, mean over the cells of some kinds."""
    half = [s for s in sentences if s.bundle < 20]
    rows = [[*s.words, *s.words] for s in half]
    states = probing.word_states(model, tokenizer, rows, layers=[-1])[:, :, 0]
    both = [bundle_accuracies(states[:, part], half) for part in (slice(5), slice(5, None))]
    return [np.mean([x.mean() for c, x in own.items() if cell_kind(*c) in kinds]) for own in both]


def first_sees(answer, **context):
    return abs(number(answer[0]) - 0.5) > 0.01


def same_twice(answer, **context):
    return abs(number(answer[0]) - number(answer[1])) < 0.01


def swapped(answer, **context):
    return first_sees(answer) and abs(number(answer[1]) - 0.5) <= 0.01


# --- 6: how few open layers -----------------------------------------------------------------------


def largest_start(following_from, n_layers, level=0.7):
    """The largest k that is good enough; from the top, since accuracy need not fall with k."""
    return next(k for k in reversed(range(n_layers)) if following_from(k) >= level)


def start(answer, n_layers):
    k = number(answer)
    if k != int(k) or not 0 <= k < n_layers:
        raise ValueError(f"k is a whole number from 0 to {n_layers - 1}")
    return int(k)


def is_count(answer, following_from, n_layers):
    return start(answer, n_layers) == n_layers - largest_start(following_from, n_layers)


def is_enough(answer, following_from, n_layers):
    return following_from(start(answer, n_layers)) >= 0.7


EXERCISES = {
    1: Exercise(
        at_word(2),
        "It is one accuracy, of the verb's vector, for the sentences in `keep`, and each bundle is "
        "in one fold.",
        "x = vectors['base'][keep, 2], y = the labels of object_animacy, "
        "folds = bundle[keep] // 8; then the mean of what grouped_cv returns.",
        [
            Mistake(
                lambda answer, **context: np.size(answer) > 1,
                "That is one answer for each sentence.",
                "Take the mean.",
            ),
            Mistake(
                lambda answer, **context: abs(number(answer) - 0.5) < 1e-6,
                "Exactly one half: these are all the sentences, or a word before the verb.",
                "Index vectors, labels and folds with `keep`; the verb is word 2, counted from 0.",
            ),
            Mistake(
                at_word(4),
                "That is the object's own vector, which knows what it is.",
                "The verb is word 2, counted from 0.",
            ),
            Mistake(
                at_word(2, BY_SENTENCE),
                "Sentences of one bundle were put in different folds, so tested words were "
                "trained on.",
                "folds = bundle[keep] // 8",
            ),
        ],
    ),
    2: Exercise(
        two_leak,
        "It does not give the largest relative change of the tokens before both places.",
        "Clone ids, set both places, run model.base_model twice, compare the first "
        "min(first, second) tokens.",
        [
            Mistake(
                overwrites,
                "It writes into the ids that it is given; whatever runs later has other words.",
                "other = ids.clone()",
            ),
            Mistake(
                is_blind,
                "It gives 0 behind an open mask as well, where the tokens before do move: so it "
                "does not measure.",
                "other[[first, second]] = replacement, and compare the states of `ids` and of "
                "`other`.",
            ),
            Mistake(
                lambda answer, **context: not is_zero(answer, **context),
                "It is not 0 behind the causal mask: a replaced token, or one behind it, is "
                "counted.",
                "Look at [: min(first, second)] only.",
            ),
            Mistake(
                partial(agrees_when_open, reference=one_by_one),
                "One token at a time is replaced, not both at once.",
                "other[[first, second]] = replacement",
            ),
            Mistake(
                partial(agrees_when_open, reference=mean_change),
                "That is a mean over tokens.",
                "Take the maximum.",
            ),
            Mistake(
                partial(agrees_when_open, reference=absolute),
                "That is an absolute change.",
                "Divide the length of the difference by the length of the state.",
            ),
        ],
    ),
    3: Exercise(
        lambda answer, words: numbers(answer) == twins(words),
        "Two words that are spelled alike get the same vector.",
        "list.index finds the first one only.",
        [
            Mistake(
                lambda answer, words: numbers(answer) == twins(words, 0),
                "You count from 0.",
                "Count from 1: the first word is 1.",
            ),
            Mistake(
                lambda answer, words: set(answer) <= set(words),
                "These are words; their places are asked for.",
                "Which two of the places 1 to 5 give the same entry?",
            ),
        ],
    ),
    4: Exercise(
        is_head,
        "That is not the head with the largest entry behind the causal mask.",
        "looks['causal'] is (layers, heads, from, to); np.unravel_index of argmax, then the same "
        "entry of looks['open'].",
        [
            Mistake(
                other_head(source=3, target=5),
                "That is from the verb to the object.",
                "The object looks: [:, :, 5, 3].",
            ),
            Mistake(
                other_head(mask="causal"),
                "That is the attention behind the causal mask.",
                "The third number comes from looks['open'].",
            ),
            Mistake(
                other_head(first=1),
                "You count from 1.",
                "Layers and heads are counted from 0.",
            ),
            Mistake(
                is_head_only,
                "Layer and head are right, the attention is not (to three digits).",
                "looks['open'][layer, head, 5, 3]",
            ),
        ],
    ),
    5: Exercise(
        equals(echo, within=3e-3),
        "Two accuracies, of the first and of the second copy: mean over the nine following cells, "
        "first 20 bundles.",
        "probing.word_states takes lists of ten words; bundle_accuracies takes (N, 5, d) for each "
        "copy, and cell_kind tells the following cells.",
        [
            Mistake(swapped, "The order is wrong.", "First copy first."),
            Mistake(
                equals(partial(echo, kinds=("following", "preceding", "own")), within=3e-3),
                "That is the mean over all twenty cells.",
                "Take those with cell_kind(*cell) == 'following'.",
            ),
            Mistake(
                first_sees,
                "The first copy cannot know what follows, so it must be at one half.",
                "Keep the mask causal, split the ten words into 5 + 5, and take the following "
                "cells only.",
            ),
            Mistake(
                same_twice,
                "The second copy has seen the whole sentence and must know more.",
                "states[:, 5:] is the second copy.",
            ),
        ],
    ),
    6: Exercise(
        lambda answer, following_from, n_layers: (
            start(answer, n_layers) == largest_start(following_from, n_layers)
        ),
        "With these layers open the mean accuracy is below 0.7.",
        "Call following_from(k) from the last layer down until it is 0.7 or more; it does not "
        "simply fall as k rises.",
        [
            Mistake(
                is_count,
                "That is how many layers are open.",
                "k is the number of the first open layer, counted from 0.",
            ),
            Mistake(
                is_enough,
                "That is enough, but fewer open layers are enough, too.",
                "A larger k opens fewer layers.",
            ),
        ],
    ),
}
