"""The exercises of notebook 02 tell right answers in every form from wrong ones by name."""

import numpy as np
import pytest
import torch
from families import build, one_thread, tiny_tokenizer, token_ids  # noqa: F401

from helpers import data, probing
from helpers.lesson import Exercises, page
from helpers.probing import bundle_accuracies, bundle_sentences, cell_kind

KINDS = {kind: 2 * 20 for kind in ("animate", "inanimate")} | {
    kind: 20 for kind in ("causative", "dynamic", "stative")
}
# short made-up words, no two alike
LISTS = {
    kind: [f"{kind[0]}{kind[1]}{'abcdefghij'[i // 10]}{'klmnopqrst'[i % 10]}" for i in range(n)]
    for kind, n in KINDS.items()
}
HINTS = data.module("02", "exercises").EXERCISES


@pytest.fixture
def says(monkeypatch):
    """says(id, answer, **context): "" for a right answer, the kind of mistake otherwise."""
    check, shown = Exercises("02"), []
    monkeypatch.setattr(page, "display", lambda bundle, raw: shown.append(bundle["text/plain"]))

    def say(id, answer, **context):
        return "" if check(id, answer, **context) else shown.pop().split("not yet. ")[1]

    return say


def kind(id, mistake=None):
    return HINTS[id].kind if mistake is None else HINTS[id].mistakes[mistake].kind


@pytest.fixture(scope="module")
def sentences():
    return bundle_sentences(LISTS, 0)


# --- 1


@pytest.fixture(scope="module")
def broken(sentences):
    """Vectors that know the kind of their own word; what is kept; labels; bundles."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(sentences), 5, 24))
    of_word = {s.words[2]: 2 * rng.normal(size=24) for s in sentences}
    for i, s in enumerate(sentences):
        vectors[i, 2] += of_word[s.words[2]]
        vectors[i, 2, 0] += 3 * (s.kinds[1] == "dynamic")
        vectors[i, 4, 0] += 5 * (s.kinds[2] == "animate")
        vectors[i, :2] = 1.0
    keep = [
        i
        for i, s in enumerate(sentences)
        if s.kinds[1:] in (("dynamic", "animate"), ("stative", "inanimate"))
    ]
    y = [sentences[i].label("object_animacy") for i in keep]
    return vectors, keep, y, np.array([s.bundle for s in sentences])


def test_exercise_1(says, sentences, broken):
    vectors, keep, y, bundle = broken
    given = {"vectors": vectors, "sentences": sentences}
    answers = probing.grouped_cv(vectors[keep, 2], y, bundle[keep] // 8)
    mean = answers.mean()
    for right in (mean, float(mean), torch.tensor(mean), np.array([mean])):
        assert says(1, right, **given) == ""
    assert says(1, probing.grouped_cv(vectors[keep, 2], y, bundle[keep] % 5).mean(), **given) == ""
    assert says(1, answers, **given) == kind(1, 0)
    assert says(1, 0.5, **given) == kind(1, 1)
    assert says(1, probing.grouped_cv(vectors[keep, 1], y, bundle[keep] // 8).mean(), **given)
    own = probing.grouped_cv(vectors[keep, 4], y, bundle[keep] // 8).mean()
    assert says(1, own, **given) == kind(1, 2)
    mixed = probing.grouped_cv(vectors[keep, 2], y, np.arange(len(keep)) % 5).mean()
    assert says(1, mixed, **given) == kind(1, 3)
    for typed in (0.75, 0.8, 0.9001, 1.0):
        assert says(1, typed, **given)


# --- 2


MODEL = build("llama")
IDS = token_ids(1, 6)[0]
NEW = 96
LEAK = {"model": MODEL, "ids": IDS, "replacement": NEW}


@torch.no_grad()
def states(ids):
    return MODEL.base_model(ids[None]).last_hidden_state[0]


def moved(ids, other):
    a, b = states(ids), states(other)
    return (a - b).norm(dim=-1) / a.norm(dim=-1)


def replaced(ids, *places):
    other = ids.clone()
    for place in places:
        other[place] = NEW
    return other


def right(ids, first, second):
    return float(moved(ids, replaced(ids, first, second))[: min(first, second)].max())


def in_one_pass(ids, first, second):
    both = torch.stack([ids, replaced(ids, first, second)])
    with torch.no_grad():
        a, b = MODEL(both, output_hidden_states=True).hidden_states[-1].numpy()
    change = np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)
    return np.max(change[: min([first, second])])


def one_by_one(ids, first, second):
    return max(
        moved(ids, replaced(ids, place))[: min(first, second)].max() for place in (first, second)
    )


def overwriting(ids, first, second):
    before = states(ids)
    ids[[first, second]] = NEW
    after = states(ids)
    return float(((before - after).norm(dim=-1) / before.norm(dim=-1))[: min(first, second)].max())


def never_replacing(ids, first, second):
    return float(moved(ids, ids.clone())[: min(first, second)].max())


def behind_too(ids, first, second):
    return float(moved(ids, replaced(ids, first, second))[: max(first, second)].max())


def mean(ids, first, second):
    return float(moved(ids, replaced(ids, first, second))[: min(first, second)].mean())


def absolute(ids, first, second):
    change = (states(ids) - states(replaced(ids, first, second))).norm(dim=-1)
    return float(change[: min(first, second)].max())


def first_only(ids, first, second):
    return moved(ids, replaced(ids, first))[: min(first, second)].max()


def second_order(ids, first, second):
    """Right as long as the first place comes first."""
    return moved(ids, replaced(ids, first, second))[:first].max()


@pytest.mark.parametrize("answer", [right, in_one_pass, lambda *a: torch.tensor([right(*a)])])
def test_exercise_2_right(says, answer):
    before = IDS.clone()
    assert says(2, answer, **LEAK) == ""
    assert torch.equal(IDS, before)


@pytest.mark.parametrize(
    ("answer", "mistake"),
    [
        (overwriting, 0),
        (lambda ids, a, b: 0, 1),
        (never_replacing, 1),
        (behind_too, 2),
        (second_order, 2),
        (lambda ids, a, b: 0.1, 2),
        (one_by_one, 3),
        (first_only, 3),
        (mean, 4),
        (absolute, 5),
    ],
)
def test_exercise_2_wrong(says, answer, mistake):
    before = IDS.clone()
    assert says(2, answer, **LEAK) == kind(2, mistake)
    assert torch.equal(IDS, before)


def test_exercise_2_no_function(says):
    assert "TypeError" in says(2, 0, **LEAK)


# --- 3


WORDS = ["the", "nurse", "melted", "the", "brick"]


@pytest.mark.parametrize(
    "answer", [[1, 4], [4, 1], (1, 4), {1, 4}, np.array([1, 4]), torch.tensor([4, 1]), "1 and 4"]
)
def test_exercise_3_right(says, answer):
    assert says(3, answer, words=WORDS) == ""


@pytest.mark.parametrize(
    ("answer", "mistake"),
    [([0, 3], 0), (["the", "the"], 1), ({"the"}, 1), ([1, 5], None), ([1], None), (14, None)],
)
def test_exercise_3_wrong(says, answer, mistake):
    said = says(3, answer, words=WORDS)
    assert said and (answer == ["the", "the"] or said == kind(3, mistake))


# --- 4


def test_exercise_4(says):
    generator = torch.Generator().manual_seed(0)
    looks = {name: torch.rand(4, 3, 6, 6, generator=generator) for name in ("causal", "open")}
    own = looks["causal"][:, :, 5, 3]
    layer, head = divmod(int(own.argmax()), own.shape[1])
    there = looks["open"][layer, head, 5, 3]
    for answer in (
        [layer, head, float(there)],
        (layer, head, there),
        np.array([layer, head, there]),
        [torch.tensor(layer), np.int64(head), round(float(there), 3)],
        [(layer, head), there],
    ):
        assert says(4, answer, looks=looks) == ""
    back = looks["causal"][:, :, 3, 5]
    a, b = divmod(int(back.argmax()), back.shape[1])
    assert says(4, [a, b, looks["open"][a, b, 3, 5]], looks=looks) == kind(4, 0)
    assert says(4, [layer, head, own.max()], looks=looks) == kind(4, 1)
    assert says(4, [layer + 1, head + 1, there], looks=looks) == kind(4, 2)
    assert says(4, [layer, head, there + 0.01], looks=looks) == kind(4, 3)
    assert says(4, [layer, head], looks=looks)
    assert says(4, [head, layer, there], looks=looks) or layer == head


# --- 5


@pytest.fixture(scope="module")
def doubled(sentences):
    """A tiny model and its two accuracies, of the following cells and of all."""
    tokenizer = tiny_tokenizer(start=True)
    half = [s for s in sentences if s.bundle < 20]
    rows = [[*s.words, *s.words] for s in half]
    model = build("llama")
    states = probing.word_states(model, tokenizer, rows, layers=[-1])[:, :, 0]
    parts = [bundle_accuracies(states[:, p], half) for p in (slice(5), slice(5, 10))]
    following = [
        np.mean([own[c].mean() for c in own if cell_kind(*c) == "following"]) for own in parts
    ]
    given = {"model": model, "tokenizer": tokenizer, "sentences": sentences}
    return given, following, [np.mean(list(own.values())) for own in parts]


def test_exercise_5(says, doubled):
    given, (first, second), everything = doubled
    assert abs(first - 0.5) < 0.005 and second > 0.55  # so that there is something to tell
    for answer in ([first, second], (first, second), np.array([first, second])):
        assert says(5, answer, **given) == ""
    assert says(5, [second, first], **given) == kind(5, 0)
    assert says(5, everything, **given) == kind(5, 1)
    assert says(5, [second, second], **given) == kind(5, 2)
    assert says(5, [first, first], **given) == kind(5, 3)
    assert says(5, [0.5, 0.9], **given) == kind(5)
    assert says(5, 0.8, **given)


# --- 6


def test_exercise_6(says):
    table = [0.8] * 27 + [0.66, 0.662, 0.659]  # not monotone, as on the page
    given = {"following_from": lambda k: table[k], "n_layers": 30}
    for answer in (26, 26.0, np.int64(26), torch.tensor(26)):
        assert says(6, answer, **given) == ""
    assert says(6, 4, **given) == kind(6, 0)
    assert says(6, 20, **given) == kind(6, 1)
    assert says(6, 28, **given) == kind(6)
    for odd in (30, 26.5, -1):
        assert "ValueError" in says(6, odd, **given)
