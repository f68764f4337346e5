"""The checks of notebook 07: every form of a right answer passes, wrong ones are named."""

import numpy as np
import pytest
import torch
from answers import fails, passes
from captum.attr import NoiseTunnel, Saliency
from scipy.stats import mannwhitneyu

from helpers import data, vision

ROOM = data.module("07", "exercises")


@pytest.mark.parametrize("id", range(1, 6))
def test_an_untouched_stub_and_nonsense_are_no_answers(says, id):
    assert says(id, ...) == (False, f"○ Exercise {id}: not answered yet.\n")
    for nonsense in (object(), 0.5, [], [[]], "sun", {}, np.zeros(3), lambda *_: None):
        assert not says(id, nonsense)[0]


def test_words_are_complete():
    for exercise in ROOM.EXERCISES.values():
        assert all(len(own) > 10 for own in (exercise.kind, exercise.how))
        assert all(mistake.kind and mistake.how for mistake in exercise.mistakes)


# 1: a hit by chance


@pytest.fixture(scope="module")
def objects():
    rng = np.random.default_rng(0)
    truth, theirs = rng.random((40, 12, 12)) < 0.13, rng.random((90, 12, 12)) < 0.2
    theirs[:60, 5, 6], truth[:16, 5, 6], truth[16:, 5, 6] = True, True, False
    truth[:25, 4, 4] = True
    return {"truth": torch.from_numpy(truth), "their_truth": torch.from_numpy(theirs)}


def test_1(says, objects):
    shares = objects["truth"].float()
    right = [float(shares.mean()), 16 / 40]
    several = [right, tuple(right), np.array(right), torch.tensor(right), [shares.mean(), 0.4]]
    passes(says, 1, [*several, [round(right[0], 3), np.float32(0.4)]], **objects)
    theirs = objects["their_truth"].float()
    own = [float(theirs.mean()), float(theirs.mean(0).max())]
    best = float(shares.mean(0).max())
    fails(
        says,
        1,
        [
            (right[::-1], "The order is turned"),
            ([right[0], best], "You chose the place on the test scenes"),
            (own, "Those are scores on the training scenes"),
            ([100 * share for share in right], "That is in percent"),
            ([right[0], 0.41], "These are not the two scores"),
            ([0.5, 0.4], "These are not the two scores"),
            ([144 * right[0], 0.4], "These are not the two scores"),
            (right[0], "stopped with TypeError"),
            ([*right, 0], "These are not the two scores"),
        ],
        **objects,
    )


def test_1_takes_any_of_the_most_usual_places(says):
    theirs, truth = torch.zeros(2, 4, 12, 12, dtype=torch.bool)
    theirs[:, 2, 3] = theirs[:, 7, 7] = truth[:3, 2, 3] = truth[:1, 7, 7] = True
    context = {"truth": truth, "their_truth": theirs}
    passes(says, 1, [[4 / 576, 0.75], [4 / 576, 0.25]], **context)
    fails(says, 1, [([4 / 576, 0.5], "These are not the two scores")], **context)


def test_1_on_the_page(says):
    """The most usual place is one place, and another one than that of the test scenes."""
    context = {}
    for name, n, seed in (("truth", 240, 6), ("their_truth", 960, 3)):
        drawn = vision.render(np.arange(n) % 8, np.random.default_rng([seed, 3]))
        context[name] = torch.from_numpy(vision.token_mask(drawn.objects, 12))
    usual, own = context["their_truth"].float().mean(0), context["truth"].float().mean(0)
    assert (usual == usual.max()).sum() == 1
    right = [float(own.mean()), float(own.flatten()[usual.argmax()])]
    passes(says, 1, [right, [round(score, 3) for score in right]], **context)
    fails(says, 1, [([right[0], float(own.max())], "You chose the place")], **context)


# 2: TIS


def by_torch(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda e: torch.randn(e.shape, generator=generator)


def by_global(seed):
    torch.manual_seed(seed)
    return torch.randn_like


def by_numpy(seed):
    rng = np.random.default_rng(seed)
    return lambda e: torch.from_numpy(rng.normal(size=e.shape)).to(e)


def of_y(logits, y):
    return logits.gather(1, y[:, None]).sum()


def smooth(draw=by_torch, score=of_y, read=lambda g: g.amax(1), first=lambda g: g, n=lambda n: n):
    """The loop, with parts to put in: noise, score, what comes before and behind the mean."""

    def tis(reader, e, y, sigma, copies, seed):
        noise, total = draw(seed), 0
        for _ in range(n(copies)):
            noisy = (e + sigma * noise(e)).requires_grad_()
            total = total + first(torch.autograd.grad(score(reader(noisy), y), noisy)[0])
        return read(total / n(copies))

    return tis


def backwards(reader, e, y, sigma, copies, seed=0):
    reader.eval()
    total = torch.zeros_like(e)
    torch.manual_seed(seed)
    for _ in range(copies):
        noisy = (e.clone() + torch.normal(0.0, sigma, e.shape)).requires_grad_()
        reader(noisy)[range(len(y)), y].sum().backward()
        total += noisy.grad
    return torch.max(total / copies, dim=1).values


def at_once(reader, e, y, sigma, copies, seed):
    many = e.repeat(copies, 1, 1, 1)
    noisy = (many + sigma * torch.randn_like(many)).requires_grad_()
    slopes = torch.autograd.grad(of_y(reader(noisy), y.repeat(copies)), noisy)[0]
    return slopes.view(copies, *e.shape).mean(0).amax(1)


def alone(reader, e, y, sigma, copies, seed):
    """Picture by picture, each with the same noise; arrays come back."""
    found = []
    for vectors, target in zip(e, y.tolist(), strict=True):
        rng, total = np.random.default_rng(seed), 0
        for _ in range(copies):
            noise = rng.normal(0, sigma, vectors.shape).astype(np.float32)
            noisy = (vectors + torch.from_numpy(noise))[None].requires_grad_()
            total = total + torch.autograd.grad(reader(noisy)[0, target], noisy)[0][0].numpy()
        found.append((total / copies).max(0))
    return found


def functional(reader, e, y, sigma, copies, seed):
    slope = torch.func.grad(lambda x: of_y(reader(x), y))
    noise = by_global(seed)
    return torch.stack([slope(e + sigma * noise(e)) for _ in range(copies)]).mean(0).max(1)[0]


def with_captum(reader, e, y, sigma, copies, seed):
    how = {"nt_type": "smoothgrad", "nt_samples": copies, "stdevs": sigma, "abs": False}
    return NoiseTunnel(Saliency(reader)).attribute(e, target=y, **how).amax(1)


def in_place(reader, e, y, sigma, copies, seed):
    """Changes what it is given."""
    tis = smooth()(reader, e, y, sigma, copies, seed)
    e.zero_(), y.zero_()
    return tis.requires_grad_()


RIGHT_2 = {
    "as on the page": smooth(),
    "global": smooth(by_global),
    "numpy": smooth(by_numpy),
    "not seeded": smooth(lambda seed: torch.randn_like),
    "backward": backwards,
    "at once": at_once,
    "alone": alone,
    "functional": functional,
    "captum": with_captum,
    "in place": in_place,
}


@pytest.mark.parametrize("way", RIGHT_2)
def test_2(says, way):
    assert says(2, RIGHT_2[way]) == (True, "✔ Exercise 2: right.\n")


def test_2_leaves_room_for_chance():
    """The widest of 60 draws stays within a half of what is allowed."""
    found = []
    for seed in range(60):
        left = smooth()(ROOM.Square(), ROOM.LEVEL, torch.tensor([0, 0]), 0.5, 3, seed)
        left = (left - ROOM.LEVEL[:, 0])[0] * 3**0.5 / 0.5  # one picture, as if noise were shared
        found.append([left.mean() / 1.0294, left.std() / 0.7012])
    assert np.abs(np.array(found) - 1).max() < 0.04


def twice_the_same(seed):
    return lambda e: torch.randn(e.shape, generator=torch.Generator().manual_seed(seed))


def walk(reader, e, y, sigma, copies, seed):
    total = 0
    for _ in range(copies):
        e = (e.detach() + sigma * torch.randn_like(e)).requires_grad_()
        total = total + torch.autograd.grad(of_y(reader(e), y), e)[0]
    return (total / copies).amax(1)


def of_the_page(reader, e, y, sigma, copies, seed):
    return smooth()(reader, e, y, 0.45, 20, 0)


def log_p(logits, y):
    return of_y(logits.log_softmax(1), y)


def helper(reader, e, y, sigma, copies, seed, kept=vision.gradient):
    return kept(reader, e, y, noise=sigma, samples=copies, seed=seed).amax(1)


CHANNELS, AVERAGE, SIZE = "The channels are still", "does not average out", "has another size"
PROBABILITY, TARGET, HELPER = "of the probability", "picture's own target", "asks vision.gradient"
WRONG_2 = {
    "absolute": (smooth(read=lambda g: g.abs().amax(1)), "largest absolute value"),
    "absolute first": (smooth(first=torch.abs), "largest absolute value"),
    "mean of channels": (smooth(read=lambda g: g.mean(1)), "mean over channels"),
    "channels": (smooth(read=lambda g: g), CHANNELS),
    "length": (smooth(read=lambda g: g.norm(dim=1)), "of known gradient"),
    "least": (smooth(read=lambda g: g.amin(1)), "of known gradient"),
    "wrong axis": (smooth(read=lambda g: g.amax(0)), "of known gradient"),
    "both": (smooth(read=lambda g: (g.amax(1), g)), "stopped with ValueError"),
    "summed": (lambda *args: args[4] * smooth()(*args), "copies are summed"),
    "mean of pictures": (smooth(score=lambda z, y: of_y(z, y) / len(y)), "number of pictures"),
    "minus": (smooth(score=lambda z, y: -of_y(z, y)), "sign of the gradient"),
    "probability": (smooth(score=lambda z, y: of_y(z.softmax(1), y)), PROBABILITY),
    "logarithm": (smooth(score=log_p), PROBABILITY),
    "loss": (smooth(score=lambda z, y: -log_p(z, y)), PROBABILITY),
    "first target": (smooth(score=lambda z, y: z[:, y[0]].sum()), TARGET),
    "class 1": (smooth(score=lambda z, y: z[:, 1].sum()), TARGET),
    "all classes": (smooth(score=lambda z, y: z.sum()), TARGET),
    "what it says": (smooth(score=lambda z, y: z.amax(1).sum()), TARGET),
    "no noise": (smooth(lambda seed: torch.zeros_like), "There is no noise"),
    "no loop": (lambda r, e, y, *_: smooth()(r, e, y, 0, 1, 0), "There is no noise"),
    "once": (smooth(twice_the_same), AVERAGE),
    "one copy": (smooth(n=lambda _: 1), AVERAGE),
    "maximum first": (smooth(first=lambda g: g.amax(1), read=lambda g: g), "taken in each copy"),
    "variance": (lambda *args: smooth()(*args[:3], args[3] ** 2, *args[4:]), SIZE),
    "uniform": (smooth(lambda seed: torch.rand_like), SIZE),
    "twenty": (smooth(n=lambda _: 20), SIZE),
    "one more": (smooth(n=lambda n: n + 1), SIZE),
    "one fewer": (smooth(n=lambda n: n - 1), SIZE),
    "one a vector": (smooth(lambda seed: lambda e: torch.randn_like(e[:, :1])), SIZE),
    "walk": (walk, SIZE),
    "of the page": (of_the_page, "Your sigma does not matter"),
    "helper": (lambda *args: helper(*args, kept=vision.gradient), HELPER),
    "helper, kept": (helper, HELPER),
    "number": (0.5, "stopped with TypeError"),
}


@pytest.mark.parametrize("way", WRONG_2)
def test_2_names_what_is_wrong(says, way):
    fails(says, 2, [WRONG_2[way]])


def test_2_leaves_the_helper_and_the_random_numbers_as_they_were(says):
    before = vision.gradient, torch.random.get_rng_state()
    says(2, helper)
    assert vision.gradient is before[0] and torch.equal(torch.random.get_rng_state(), before[1])
    targets = torch.zeros(4, dtype=torch.long)
    assert vision.gradient(ROOM.READER, ROOM.E, targets).shape == ROOM.E.shape


# 3: another concept


class Seen(torch.nn.Module):
    """Class c sees the direction v_c of a vector, squared."""

    def __init__(self):
        super().__init__()
        self.v = torch.randn(8, 6, generator=torch.Generator().manual_seed(4))

    def forward(self, e):
        return torch.einsum("cd,bdhw->bchw", self.v, e).square().sum((2, 3))


@pytest.fixture(scope="module")
def asked():
    """24 scenes of 8 x 8 places; an object's vectors have something of its class's direction."""
    rng, reader, labels = torch.Generator().manual_seed(1), Seen(), torch.arange(24) % 8
    truth = torch.zeros(24, 8, 8, dtype=torch.bool)
    for k in range(24):
        truth[k, k % 5 : k % 5 + 3, 2:6] = True
    e = torch.randn(24, 6, 8, 8, generator=rng) * torch.linspace(0.2, 2, 24).view(-1, 1, 1, 1)
    e += 0.5 * truth[:, None] * reader.v[labels][:, :, None, None]
    context = {"reader": reader, "embedded": e, "labels": labels, "another": (labels + 3) % 8}
    return context | {"truth": truth, "noise": 0.6, "samples": 20}


def slopes_of(asked, name, **how):
    how = {"noise": asked["noise"], "samples": asked["samples"]} | how
    return vision.gradient(asked["reader"], asked["embedded"], asked[name], **how)


def by_ranks(truth, scores):
    truth, scores = truth.flatten(), scores.flatten()
    u = mannwhitneyu(scores[truth], scores[~truth]).statistic
    return float(u / truth.sum() / (~truth).sum())


def pair_of(asked, read=lambda g: g.amax(1), names=("labels", "another"), pooled=False, **how):
    maps = [read(slopes_of(asked, name, **how)).numpy() for name in names]
    truth = asked["truth"].numpy()
    if pooled:
        return [by_ranks(truth, own) for own in maps]
    return [np.mean([by_ranks(*own) for own in zip(truth, m, strict=True)]) for m in maps]


def test_3(says, asked):
    right = pair_of(asked)
    assert right[0] > right[1] + 0.05
    forms = [
        right,
        tuple(right),
        np.array(right),
        torch.tensor(right),
        [np.array([x]) for x in right],
    ]
    # on the page, 24 other seeds of the noise move the two by 0.0017 and 0.0016 at most
    other_noise = [[right[0] + own, right[1] - 2 * own] for own in (-0.003, 0.003)]
    passes(says, 3, [*forms, [round(x, 3) for x in right], *other_noise], **asked)
    single = [
        by_ranks(*own)
        for own in zip(asked["truth"], slopes_of(asked, "labels").amax(1), strict=True)
    ]
    fails(
        says,
        3,
        [
            (right[::-1], "The order is turned"),
            (pair_of(asked, names=["labels"] * 2), "Both are of the own concept"),
            (pair_of(asked, pooled=True), "All scenes went into one AUC"),
            (pair_of(asked, lambda g: g.mean(1)), "That is the mean over channels"),
            (pair_of(asked, noise=0, samples=1), "That is the gradient without noise"),
            (pair_of(asked, names=["another"] * 2), "Two mean AUCs"),
            ([right[0] + 0.004, right[1]], "Two mean AUCs"),
            ([right[0], right[1] - 0.008], "Two mean AUCs"),
            (single, "Two mean AUCs"),
            (right[0] - right[1], "stopped with TypeError"),
        ],
        **asked,
    )


def test_3_with_a_committed_reader(says):
    room, labels = data.folder("07"), torch.arange(16) % 8
    tokenizer = vision.load(room / "tokenizer.safetensors", vision.SmallVQ(), "tokenizer")
    drawn = vision.render(labels.numpy(), np.random.default_rng([6, 3]))
    asked = {
        "reader": vision.load(room / "readers.safetensors", vision.cnn(8), "cnn-2"),
        "embedded": tokenizer.embed(tokenizer.encode(torch.from_numpy(drawn.images))),
        "labels": labels,
        "another": (labels + 1) % 8,
        "truth": torch.from_numpy(vision.token_mask(drawn.objects, 12)),
        "noise": 0.45,
        "samples": 4,
    }
    right = pair_of(asked)
    passes(says, 3, [right], **asked)
    fails(says, 3, [(right[::-1], "The order is turned")], **asked)


# 4: a vocabulary without a model


@pytest.fixture(scope="module")
def scenes():
    """80 scenes of 12 x 12 places; tokens of a concept at unusual places, its own ground else."""
    rng = np.random.default_rng(2)
    labels, colours = np.arange(80) % 8, rng.random((80, 12, 12))
    best = np.argsort(-colours.reshape(80, -1), 1)
    likely = 1 / (1 + np.arange(24))
    tokens = rng.integers(60, 128, (80, 144))
    for own, label, order in zip(tokens, labels, best, strict=True):
        own[order[:10]] = label + rng.choice(24, 10, p=likely / likely.sum())
        own[order[10:20]] = label + 12 + rng.choice(24, 10, p=likely / likely.sum())
    context = {"tokens": tokens.reshape(80, 12, 12), "labels": labels, "colours": colours}
    return {f"their_{name}": torch.from_numpy(own) for name, own in context.items()}


def lists_of(scenes, chosen, of=None, once=False):
    """(8, 10), by loops."""
    rows = []
    for c in range(8):
        counts = {}
        for tokens, label, places in zip(*list(scenes.values())[:2], chosen, strict=True):
            if label == c or of == "all":
                own = tokens[places].tolist()
                for token in {*own} if once else own:
                    counts[token] = counts.get(token, 0) + 1
        rows.append(sorted(counts, key=lambda token: (-counts[token], token))[:10])
    return np.array(rows)


def test_4(says, scenes):
    best = vision.top(scenes["their_colours"], 20)
    right = lists_of(scenes, best)
    forms = [
        right,
        right.astype(float),
        right[:, ::-1],
        right.tolist(),
        torch.from_numpy(right),
        [*torch.from_numpy(right)],
        [{*row} for row in right.tolist()],
        [{*row} for row in right],
        tuple(map(tuple, right.tolist())),
        dict(enumerate(right.tolist())),
    ]
    passes(says, 4, forms, **scenes)
    passes(says, 4, [right], **{name: own.numpy() for name, own in scenes.items()})
    spoiled = right.copy()
    spoiled[5, 2] = 127
    places = dict(scenes, their_tokens=torch.arange(144).view(1, 12, 12).expand(80, 12, 12))
    fails(
        says,
        4,
        [
            (right[:, :9], "Eight rows of ten"),
            (right[:7], "Eight rows of ten"),
            (right.T, "Eight rows of ten"),
            (np.repeat(right[:, :5], 2, 1), "Eight rows of ten"),
            (lists_of(scenes, torch.ones_like(best)), "the baseline"),
            (lists_of(scenes, best, of="all"), "The counts are of all concepts"),
            (lists_of(scenes, vision.top(-scenes["their_colours"], 20)), "least unusual"),
            (lists_of(scenes, vision.top(scenes["their_colours"], 10)), "Ten places a scene"),
            (lists_of(scenes, best, once=True), "A scene counts a token once"),
            (right[::-1], "The rows are in another order"),
            (spoiled, "At least one concept's"),
            (right + 1000, "At least one concept's"),
            (lists_of(places, best), "At least one concept's"),
            (right[0], "stopped with TypeError"),
            (dict.fromkeys(range(8), "abcdefghij"), "stopped with ValueError"),
        ],
        **scenes,
    )


def test_4_takes_any_of_equal_counts(says):
    tokens = torch.arange(144).view(12, 12) % 18  # at the first 20 places: 0 and 1 twice
    tokens.view(-1)[40:] = 30
    colours = torch.arange(144, 0, -1).view(12, 12)
    names = ("their_tokens", "their_labels", "their_colours")
    context = dict(
        zip(names, (tokens.repeat(8, 1, 1), torch.arange(8), colours.repeat(8, 1, 1)), strict=True)
    )
    passes(says, 4, [[[0, 1, *range(a, a + 8)]] * 8 for a in (2, 10)], **context)
    fails(says, 4, [([[0, *range(2, 11)]] * 8, "")], **context)
    colours.view(-1)[18:40] = 126  # which of these places are among the 20 is open
    context["their_colours"] = colours.repeat(8, 1, 1)
    passes(says, 4, [[[0, 1, *range(a, a + 8)]] * 8 for a in (2, 10)], **context)


# 5: equal areas


def in_sets(tokens, score, area):
    """Lists of lists, by sets of places."""
    found = []
    for own, values in zip(tokens.tolist(), score.tolist(), strict=True):
        places = {(r, c): own[r][c] for r in range(len(own)) for c in range(len(own[0]))}
        chosen = set()
        for at in sorted(places, key=lambda at: -values[at[0]][at[1]]):
            more = chosen | {other for other in places if places[other] == places[at]}
            chosen = more if len(more) <= area else chosen
        found.append([[(r, c) in chosen for c in range(len(own[0]))] for r in range(len(own))])
    return found


def in_arrays(tokens, score, area):
    tokens, score = np.asarray(tokens), np.asarray(score)
    masks = np.zeros(tokens.shape, int)
    for own, values, mask in zip(tokens, score, masks, strict=True):
        order = own.ravel()[np.argsort(-values.ravel())]
        names, first = np.unique(order, return_index=True)
        for token in names[np.argsort(first)]:  # each token once, in the order of its best place
            if mask.sum() + (own == token).sum() <= area:
                mask[own == token] = 1
    return masks


def arrays_alone(tokens, score, area):
    assert isinstance(tokens, np.ndarray) and isinstance(score, np.ndarray)
    return in_arrays(tokens, score, area).astype(bool)


def spoiling(tokens, score, area):
    mask = torch.tensor(in_sets(tokens, score, area))
    tokens.zero_(), score.zero_()
    return [*mask]


def loop(
    order=lambda own, s: s,
    skip=True,
    stop=False,
    fits=lambda total, size, area: total + size <= area,
):
    def method(tokens, score, area):
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        for own, s, painted in zip(tokens, score, mask, strict=True):
            total = 0
            for place in order(own, s).flatten().argsort(descending=True, stable=True):
                where = own == own.flatten()[place]
                if skip and painted[where].any():
                    continue
                if fits(total, int(where.sum()), area):
                    painted |= where
                    total += int(where.sum())
                elif stop:
                    break
        return mask

    return method


@pytest.mark.parametrize("method", [loop(), in_sets, in_arrays, arrays_alone, spoiling])
def test_5(says, method):
    assert says(5, method) == (True, "✔ Exercise 5: right.\n")


def places_alone(tokens, score, area):
    return vision.top(score, area) if area else torch.zeros_like(tokens, dtype=torch.bool)


def filled_up(tokens, score, area):
    """The last token in part."""
    mask = loop(stop=True)(tokens, score, area)
    left = torch.where(mask, -torch.inf, score)
    for painted, values in zip(mask, left, strict=True):
        painted |= places_alone(painted[None], values[None], int(area - painted.sum()))[0]
    return mask


def together(tokens, score, area):
    shape = tokens.shape
    flat = loop()(tokens.reshape(1, 1, -1), score.reshape(1, 1, -1), area * len(tokens))
    return flat.view(shape)


def first_for_all(tokens, score, area):
    """The tokens of the first picture, in all of them."""
    return torch.isin(tokens, tokens[0][loop()(tokens[:1], score[:1], area)[0]])


def frequency(own, score):
    return (own.flatten()[:, None] == own.flatten()).sum(1).float()


OVER = "More than `area` squares"
WRONG_5 = {
    "stops": (loop(stop=True), "You stop at the first token"),
    "places": (places_alone, "A token is painted in part"),
    "filled up": (filled_up, "A token is painted in part"),
    "released rule": (lambda t, s, area: vision.same_tokens(t, places_alone(t, s, area)), OVER),
    "over": (loop(fits=lambda total, size, area: total < area), OVER),
    "by frequency": (loop(order=frequency), "The scores do not matter"),
    "rarest first": (loop(order=lambda own, s: -frequency(own, s)), "The scores do not matter"),
    "worst first": (loop(order=lambda own, s: -s), "The worst come first"),
    "turned": (lambda *args: ~loop()(*args), "The mask is turned round"),
    "again": (loop(skip=False), "counts again at its next place"),
    "below": (loop(fits=lambda total, size, area: total + size < area), "exactly `area`"),
    "together": (together, "depends on other scenes"),
    "first for all": (first_for_all, "depends on other scenes"),
    "nothing": (lambda t, s, area: torch.zeros_like(t, dtype=torch.bool), "The scores do not"),
    "flat": (lambda *args: loop()(*args).flatten(1), "The masks have another shape"),
    "sum of scores": (
        loop(order=lambda own, s: ((own.flatten()[:, None] == own.flatten()) * s.flatten()).sum(1)),
        "On small maps other places",
    ),
    "number": (3, "stopped with TypeError"),
}


@pytest.mark.parametrize("way", WRONG_5)
def test_5_names_what_is_wrong(says, way):
    fails(says, 5, [WRONG_5[way]])


def test_5_has_scores_without_ties_and_the_example_of_the_text():
    tokens, score, area = next(ROOM.probes())
    assert ROOM.equal_area(tokens, score, area).tolist() == [[[False] * 3, [True, False, True]]]
    assert all(len(own.unique()) == own.numel() for _, s, _ in ROOM.probes() for own in s)
