"""Figures hold what they were given, cut nothing off, and refuse what they cannot draw."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.colors import to_rgb

from helpers import plots
from helpers.stats import Estimate

ESTIMATES = [Estimate(0.5, 0.4, 0.7), Estimate(0.1, 0.0, 0.2), Estimate(0.9, 0.9, 0.9)]
LABELS = ["passkey", "context fact", "capitals behind twenty tokens of filler"]


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def assert_nothing_is_cut_off(figure):
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= -0.02 and drawn.y0 >= -0.02
    assert drawn.x1 <= width + 0.02 and drawn.y1 <= height + 0.02


def test_style_is_readable_from_the_back_row():
    for key in ("font.size", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"):
        assert mpl.rcParams[key] >= 12
    assert mpl.rcParams["axes.labelsize"] >= 12 and mpl.rcParams["axes.titlesize"] >= 12
    assert len(set(plots.PALETTE.values())) == len(plots.PALETTE)
    assert {"q", "k", "v", "contextual", "parametric", "control", "neutral"} <= set(plots.PALETTE)


@pytest.mark.parametrize("n", [1, 3, 12])
def test_forest(n):
    estimates = (ESTIMATES * 4)[:n]
    labels = [f"condition {i}: random dimensions, equal energy" for i in range(n)]
    ax = plots.forest(labels, estimates, reference=0.5, xlabel="loss of accuracy (share of items)")
    assert [text.get_text() for text in ax.get_yticklabels()] == labels
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # first on top
    points = [bar.lines[0].get_xydata()[0] for bar in ax.containers]
    np.testing.assert_allclose(points, [(own.estimate, i) for i, own in enumerate(estimates)])
    ends = [bar.lines[2][0].get_segments()[0][:, 0] for bar in ax.containers]
    np.testing.assert_allclose(ends, [(own.low, own.high) for own in estimates])
    assert_nothing_is_cut_off(ax.figure)
    rows = np.diff(ax.transData.transform([(0, i) for i in range(n)])[:, 1])
    assert (np.abs(rows) >= 18).all()  # pixels from row to row, for 12 pt type


def test_forest_takes_colours_arrays_and_axes():
    _, mine = plt.subplots()
    colors = ["#000000", "#ff0000", "#00ff00"]
    ax = plots.forest(LABELS, np.array(ESTIMATES), ax=mine, color=colors)
    assert ax is mine
    assert [bar.lines[0].get_color() for bar in ax.containers] == colors


def test_grouped_bars():
    series = {"contextual": ESTIMATES, "parametric": ESTIMATES, "smallest": ESTIMATES}
    ax = plots.grouped_bars(LABELS, series, ylabel="accuracy")
    bars = [own for own in ax.containers if isinstance(own, mpl.container.BarContainer)]
    assert [own.get_label() for own in bars] == list(series)
    heights = [[bar.get_height() for bar in own] for own in bars]
    np.testing.assert_allclose(heights, [[own.estimate for own in ESTIMATES]] * 3)
    centres = np.array([[bar.get_x() + bar.get_width() / 2 for bar in own] for own in bars])
    np.testing.assert_allclose(centres.mean(axis=0), np.arange(3), atol=1e-12)
    shades = [own[0].get_facecolor()[:3] for own in bars]
    assert shades[0] == to_rgb(plots.PALETTE["contextual"])
    assert len(set(shades)) == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(series)
    assert_nothing_is_cut_off(ax.figure)


def test_grouped_bars_with_own_colours_and_many_names():
    labels = [f"a rather long task name {i}" for i in range(6)]
    ax = plots.grouped_bars(labels, {"clean": ESTIMATES * 2}, colors={"clean": "#123456"})
    assert ax.containers[0][0].get_facecolor()[:3] == to_rgb("#123456")
    assert ax.get_legend() is None
    assert_nothing_is_cut_off(ax.figure)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: plots.forest(["a"], [(np.nan, 0, 1)]), "`estimates` holds 1 NaN"),
        (lambda: plots.forest(["a"], ESTIMATES), r"`estimates` must have shape \(1, 3\)"),
        (lambda: plots.forest([], []), "`estimates` must have 2 dimension"),
        (lambda: plots.forest(["a"], [(2, 0, 1)]), "outside its interval"),
        (lambda: plots.forest(LABELS, ESTIMATES, color=["red"]), "`color`"),
        (lambda: plots.grouped_bars(["a"], {}), "`series` is empty"),
        (lambda: plots.grouped_bars(["a"], {"x": [(np.nan, 0, 1)]}), r"`series\['x'\]` holds 1"),
        (lambda: plots.grouped_bars(["a", "b"], {"x": ESTIMATES}), r"shape \(2, 3\)"),
    ],
)
def test_plots_refuse(call, says):
    with pytest.raises(ValueError, match=says):
        call()
    assert not plt.get_fignums()  # no empty figure is left to be shown


def test_forest_draws_series_beside_each_other():
    series = {"q": ESTIMATES, "control": ESTIMATES[::-1]}
    ax = plots.forest(LABELS, series)
    heights = np.array([bar.lines[0].get_xydata()[0][1] for bar in ax.containers]).reshape(2, 3)
    np.testing.assert_allclose(heights[1] - heights[0], 0.3)
    np.testing.assert_allclose(heights.mean(0), range(3), atol=1e-9)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["q", "control"]
    colors = [bar.lines[0].get_color() for bar in ax.containers]
    assert colors == [plots.PALETTE["q"]] * 3 + [plots.PALETTE["control"]] * 3
    assert_nothing_is_cut_off(ax.figure)


def test_dots_stand_where_they_should():
    _, ax = plt.subplots()
    plots.dots([1, 2, 4], ESTIMATES, ax=ax, color="#ff0000", label="a", line=True)
    (bar,) = ax.containers
    points = bar.lines[0].get_xydata()
    np.testing.assert_allclose(points, [(1, 0.5), (2, 0.1), (4, 0.9)])
    ends = [segment[:, 1] for segment in bar.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, np.array(ESTIMATES)[:, 1:])
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        plots.dots([1, 2], ESTIMATES, ax=ax)


def test_a_description_travels_with_the_figure(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda bundle, **rest: shown.append((bundle, rest)))
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    plots.describe(figure, 'a "rising" line: 1 < 2')
    ((bundle, rest),) = shown
    assert rest == {"metadata": {"image/png": {"alt": 'a "rising" line: 1 < 2'}}, "raw": True}
    assert BeautifulSoup(bundle["text/html"], "html.parser").img["alt"] == 'a "rising" line: 1 < 2'
    assert bundle["image/png"] in bundle["text/html"]
    assert not plt.get_fignums()
