"""The exercises of notebook 03: right answers in several forms, wrong ones by their name."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import data, spectral, stats
from helpers.lesson import Exercises
from helpers.lesson import exercises as room

own = data.module("03", "exercises")
RATIOS = np.array([1, 1.5, 2, 3, 4, 6])
TABLE = pd.DataFrame(
    {
        "shape": [(4, 4), (2, 8), (3, 6), (8, 2), (4, 4), (6, 3)],
        "block": [0, 0, 1, 1, 2, 2],
        "med": [2.1, 3.4, 2.0, 4.1, 2.6, 2.9],
    }
)
TABLE["med/MP"] = TABLE["med"] / [2.12, 3.45, 2.71, 3.45, 2.12, 2.71]
LOSSES = {
    "med/MP:m": np.array([4.1, 4.5, 4.0, 4.2, 4.6, 4.4, 4.3, 4.2]),
    "med:m": np.array([4.3, 4.6, 4.1, 4.2, 4.8, 4.4, 4.4, 4.3]),
}
SEEDS = range(100, 106)


def losses(allocation):
    return LOSSES[allocation]


def train(method, rate, seed, mean_one=False):
    """Accuracies of about the size and scatter of the lesson's."""
    base = 0.80 + 0.07 * np.sin(seed) + 0.4 * (rate - 0.03)
    return base + mean_one * (0.013 + 0.006 * np.cos(3 * seed))


@pytest.fixture
def check(monkeypatch):
    """Says (right, what is shown first)."""
    exercises, said = Exercises("03"), []
    monkeypatch.setattr(
        room, "Page", lambda html, text: SimpleNamespace(show=lambda: said.append(text))
    )

    def ask(id, answer, **context):
        said.clear()
        return exercises(id, answer, **context), "".join(said)

    return ask


def simulated(*shape):
    return own.median_alpha(np.random.default_rng(1).normal(size=shape))


def changes(alpha, w):
    """Largest absolute change under 10 w and w.T."""
    before = alpha(w)
    return np.max(np.abs([alpha(w * 10) - before, alpha(w.T) - before]))


def on_tensors(alpha, w):
    w = torch.tensor(w, dtype=torch.float32)
    return torch.tensor([abs(alpha(v) - alpha(w)) for v in (10 * w, w.T)]).max()


def even_grid(shape, h, ops, ratio):
    width = int(h * ratio)
    if h > shape[0] or width > shape[1]:
        raise ValueError("too large")
    rows, columns = (
        np.unique(np.linspace(0, room, ops).astype(int))
        for room in (shape[0] - h, shape[1] - width)
    )
    return np.array([(r, c) for c in columns for r in rows])


def from_the_helper(shape, h, ops, ratio):
    places = np.arange(shape[0] * shape[1]).reshape(shape)
    firsts = spectral.windows(places, h, ops=ops, ratio=ratio)[..., 0, 0].ravel()
    return torch.stack(torch.unravel_index(torch.tensor(firsts), shape), 1)


QUARTER = [spectral.mp_alpha(q, 0.25) for q in RATIOS]
SHARES = own.sparsities(TABLE, "med/MP")
GAIN = LOSSES["med/MP:m"] - LOSSES["med:m"]
PRUNED = stats.paired_bootstrap(LOSSES["med/MP:m"], LOSSES["med:m"], rng=5)
TB = np.array([train("TB", 0.03, s) for s in SEEDS])
RESCALED = np.array([train("TB", 0.03, s, mean_one=True) for s in SEEDS])
CONTEXT = {
    4: {"ratios": RATIOS},
    5: {"table": TABLE, "losses": losses},
    6: {"train": train, "seeds": SEEDS},
}


@pytest.mark.parametrize(
    ("id", "answer"),
    [
        (1, (spectral.mp_alpha(5.12), spectral.mp_alpha(1))),
        (1, (3.78, 2.12)),  # as printed in the lesson
        (1, (simulated(512, 100), simulated(512, 512))),
        (1, (torch.tensor(3.78), np.array([2.122]))),
        (2, changes),
        (2, lambda alpha, w: max(abs(alpha(v) - alpha(w)) for v in (10 * w, w.T))),
        (2, on_tensors),
        (3, own.window_starts),
        (3, even_grid),
        (3, from_the_helper),
        (3, lambda *probe: iter(own.window_starts(*probe)[::-1])),
        (4, np.polyfit(np.log2(RATIOS), QUARTER, 1)[0]),
        (4, np.polyfit(np.log2(RATIOS), QUARTER, 1)[:1]),
        (4, 1.21),
        (4, torch.tensor(1.2123)),
        (5, (SHARES, PRUNED)),
        (5, (pd.Series(SHARES), stats.mean_ci(GAIN))),
        (5, (torch.tensor(SHARES), stats.bootstrap_ci(GAIN, n_resamples=1000))),
        (5, (dict(enumerate(SHARES)), PRUNED)),
        (5, (SHARES.tolist(), SimpleNamespace(estimate=-0.1, low=-0.15, high=-0.05))),
        (6, stats.mean_ci(RESCALED - TB)),
        (6, stats.paired_bootstrap(RESCALED, TB)),
    ],
)
def test_every_form_of_the_right_answer_passes(check, id, answer):
    assert check(id, answer, **CONTEXT.get(id, {})) == (True, "")


def unguarded(shape, h, ops, ratio):
    size = (h, int(h * ratio))
    steps = [max(1, (n - w) // max(1, ops - 1)) for n, w in zip(shape, size, strict=True)]
    rows, columns = (
        range(0, n - w + 1, s)[:ops] for n, w, s in zip(shape, size, steps, strict=True)
    )
    return [(r, c) for r in rows for c in columns]


def guarded(starts):
    def answer(shape, h, ops, ratio):
        own.window_starts(shape, h, ops, ratio)
        return starts(shape, h, ops, ratio)

    return answer


def uncut(shape, h, ops, ratio):
    size = (h, int(h * ratio))
    steps = [max(1, (n - w) // max(1, ops - 1)) for n, w in zip(shape, size, strict=True)]
    rows, columns = (range(0, n - w + 1, s) for n, w, s in zip(shape, size, steps, strict=True))
    return [(r, c) for r in rows for c in columns]


def hard_coded(shape, h, ops, ratio):
    """Passes a count of windows, and holds (384, 1152)."""
    n = {(576, 1536): 25, (192, 576): 5}.get(shape, 1)
    return [(384, 1152)] * n


def estimate(value, low, high):
    return stats.Estimate(value, low, high)


@pytest.mark.parametrize(
    ("id", "answer", "kind"),
    [
        (1, (2.122, 3.780), "The two have changed places"),
        (1, (3.780, 3.780), "Both shapes have the same"),
        (1, (2.122, 2.122), "Both shapes have the same"),
        (1, (6.225, spectral.mp_alpha(1, 0.25)), "That is the upper quarter"),
        (1, (spectral.mp_alpha(6), 2.122), "These are not the exponents"),
        (1, (5.12, 1), "These are not the exponents"),
        (2, 0, "That is a number"),
        (2, 2e-15, "That is a number"),
        (2, lambda alpha, w: 0, "Some change is missed"),
        (2, lambda alpha, w: abs(alpha(10 * w) - alpha(w)), "Only 10 W"),
        (2, lambda alpha, w: abs(alpha(w.T) - alpha(w)), "Only the transposed"),
        (2, lambda alpha, w: max(alpha(v) - alpha(w) for v in (10 * w, w.T)), "Some change"),
        (2, lambda alpha, w: [alpha(10 * w) - alpha(w), alpha(w.T) - alpha(w)], "It returns more"),
        (2, lambda alpha, w: own.median_alpha(10 * w) - own.median_alpha(w), "Some change"),
        (3, [(0, 0)], "That is no function"),
        (3, unguarded, "A window that does not fit"),
        (3, guarded(uncut), "There are more windows"),
        (3, guarded(lambda *p: [s[::-1] for s in unguarded(*p)]), "Rows and columns"),
        (3, guarded(hard_coded), "Some windows are missing"),
        (3, guarded(lambda s, h, ops, ratio: unguarded(s, h, ops, 1)), "The windows are taken"),
        (3, guarded(lambda *p: unguarded(*p) * 2), "There are more windows"),
        (3, guarded(lambda *p: unguarded(*p)[1:]), "Some windows are missing"),
        (4, np.polyfit(np.log(RATIOS), QUARTER, 1)[0], "That is a slope against ln"),
        (4, np.polyfit(np.log2(RATIOS), QUARTER, 1), "That is slope and intercept"),
        (4, 0.725, "That is the slope for the upper half"),
        (4, own.slope(RATIOS, 0.75)[0], "That is the slope for the upper three"),
        (4, 1.103, "That is not the slope"),  # over the widths of the crops
        (5, (0.6, estimate(0.1, -0.15, 0.35)), "That is one number"),
        (5, (0.6, PRUNED), "That is one number"),
        (5, (np.full(6, 0.6), PRUNED), "The sparsities are not those"),
        (5, (own.sparsities(TABLE, "med"), PRUNED), "These sparsities come from `med`"),
        (5, (own.by_block(TABLE), PRUNED), "These sparsities are those of blocks"),
        (5, (SHARES[::-1], PRUNED), "The sparsities are not those"),
        (5, (SHARES, stats.mean_ci([0, 0.1, 0.2])), "The sparsities are right, the interval"),
        (5, (SHARES, stats.paired_bootstrap(LOSSES["med:m"], LOSSES["med/MP:m"])), "The sign"),
        (5, (SHARES, estimate(-0.1, -0.1, -0.1)), "The sparsities are right, the interval"),
        (6, estimate(0.02, 0.01, 0.03), "That is not the interval"),
        (6, estimate(0.01, 0.005, 0.5), "That is not the interval"),
        (6, stats.mean_ci(TB - RESCALED), "The sign"),
        (6, estimate(0.5, 0.4, 0.6), "That is not the interval"),
        (6, estimate(np.mean(RESCALED - TB), -0.05, 0.07), "The mean is right"),  # not paired
        (6, 0.013, "Your answer stopped with AttributeError"),
    ],
)
def test_wrong_answers_are_named(check, id, answer, kind):
    right, said = check(id, answer, **CONTEXT.get(id, {}))
    assert not right
    assert said.startswith(f"✘ Exercise {id}: not yet. {kind}"), said


@pytest.mark.parametrize("answer", [(..., ...), (SHARES, ...), (..., PRUNED)])
def test_half_an_answer_is_none(check, answer, capsys):
    assert check(5, answer, **CONTEXT[5]) == (False, "")
    assert capsys.readouterr().out == "○ Exercise 5: not answered yet.\n"


def test_shares_by_block_are_those_of_the_recipe():
    shares = own.by_block(TABLE)
    sizes = [r * c for r, c in TABLE["shape"]]
    assert np.average(shares, weights=sizes) == pytest.approx(0.6)
    assert (shares[::2] == shares[1::2]).all()
