"""One look for all figures; each function takes `ax=None` and returns the Axes."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from IPython.core.pylabtools import print_figure
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from helpers import checks

# Okabe and Ito's colours, which stay apart under the common forms of colour blindness.
PALETTE = {
    "q": "#0072B2",
    "k": "#D55E00",
    "v": "#009E73",
    "contextual": "#E69F00",
    "parametric": "#56B4E9",
    "highlight": "#CC79A7",
    "control": "#7F7F7F",
    "neutral": "#222222",
}
SEQUENTIAL = "viridis"  # even steps in lightness, readable without colour


def use_style() -> None:
    """Set the collection's look (large type, no chart junk) for all users alike."""
    mpl.rcdefaults()
    mpl.rcParams.update(
        {
            "axes.prop_cycle": mpl.cycler(color=list(PALETTE.values())),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 14,
            "axes.titleweight": "bold",
            "axes.labelsize": 13,
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "figure.figsize": (8, 4.5),
            "font.size": 12,
            "image.cmap": SEQUENTIAL,
            "legend.fontsize": 12,
            "legend.frameon": False,
            "lines.linewidth": 2,
            "lines.markersize": 7,
            "xtick.labelsize": 12,
            "ytick.labelsize": 12,
        }
    )


def _intervals(name: str, estimates: ArrayLike, n: int) -> np.ndarray:
    """(n, 3) estimates and interval ends, checked."""
    rows = checks.finite(name, estimates, 2)
    if rows.shape != (n, 3):
        raise ValueError(
            f"`{name}` must have shape ({n}, 3), one (estimate, low, high) per label; "
            f"got {rows.shape}."
        )
    # A point may lie outside its interval by rounding only.
    slack = 1e-9 * (1 + np.abs(rows[:, 0]))
    if (rows[:, 1] > rows[:, 0] + slack).any() or (rows[:, 2] < rows[:, 0] - slack).any():
        raise ValueError(
            f"`{name}` has an estimate outside its interval; expected low <= x <= high."
        )
    return rows


def _arms(rows: np.ndarray) -> np.ndarray:
    """Distances (2, n) from the estimates down to the low and up to the high ends."""
    return np.clip([rows[:, 0] - rows[:, 1], rows[:, 2] - rows[:, 0]], 0, None)


def forest(
    labels: Sequence[str],
    estimates: ArrayLike | Mapping[str, ArrayLike],
    *,
    ax: Axes | None = None,
    color: str | Sequence[str] | None = None,
    reference: float | None = None,
    xlabel: str = "",
) -> Axes:
    """Estimates with intervals, one row each, the first label on top.

    Args:
        labels: n row labels.
        estimates: n Estimates, or an (n, 3) array of estimate, low, high; or several series of
            them (name -> estimates), drawn beside each other in every row, with a legend.
        ax: where to draw; by default a new figure, tall enough for the rows.
        color: one colour, or one for each row (of each series, where there are several).
        reference: where to draw a dashed vertical line, such as 0 or chance.
        xlabel: what is estimated, with its unit.

    Returns:
        The Axes.

    Raises:
        ValueError: NaN, a wrong shape, or an estimate outside its interval.
    """
    n, several = len(labels), isinstance(estimates, Mapping)
    series = estimates if several else {"estimates": estimates}
    tables = {name: _intervals(name, own, n) for name, own in series.items()}
    m = len(series) if several else n
    shades = [color or PALETTE["q"]] * m if color is None or isinstance(color, str) else [*color]
    if several and color is None:
        shades = [PALETTE.get(name, spare) for name, spare in zip(series, _cycle(m), strict=True)]
    if len(shades) != m:
        raise ValueError(f"`color` must be one colour or {m}, one for each.")
    if ax is None:
        height, widest = 1.2 + 0.38 * n * max(1, 0.6 * len(series)), max(map(len, labels))
        _, ax = plt.subplots(figsize=(min(5.5 + 0.09 * widest, 12), height))
    if reference is not None:
        ax.axvline(reference, color=PALETTE["control"], linestyle="--", linewidth=1.5, zorder=0)
    for i, (name, rows) in enumerate(tables.items()):
        shift = (i + 0.5) / len(series) * 0.6 - 0.3
        for y, (row, arm) in enumerate(zip(rows, _arms(rows).T, strict=True)):
            shade, label = shades[i if several else y], name if several and y == 0 else None
            place = {"xerr": arm[:, None], "fmt": "o", "color": shade, "label": label}
            ax.errorbar(row[0], y + shift, **place, capsize=4)
    ax.set_yticks(range(n), labels)
    ax.set_ylim(n - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", alpha=0.3)
    ax.set_xlabel(xlabel, loc="right")  # may run on below the labels; centred, it would be cut off
    if several:
        legend(ax)
    return ax


def _cycle(n: int) -> list[str]:
    """The first n colours of the palette, from the start again where it ends."""
    return [[*PALETTE.values()][i % len(PALETTE)] for i in range(n)]


def grouped_bars(
    labels: Sequence[str],
    series: Mapping[str, Any],
    *,
    ax: Axes | None = None,
    colors: Mapping[str, str] | None = None,
    ylabel: str = "",
) -> Axes:
    """Bars with intervals, one group per label and one bar per series in each.

    Args:
        labels: n group labels.
        series: name -> n Estimates or an (n, 3) array of estimate, low, high.
        ax: where to draw; by default a new figure.
        colors: name -> colour; other names take the palette's entry of that name, or its next.
        ylabel: what the bars show, with its unit.

    Returns:
        The Axes, with a legend to its right when there are several series.

    Raises:
        ValueError: no series, NaN, a wrong shape, or an estimate outside its interval.
    """
    if not series:
        raise ValueError("`series` is empty; give at least one.")
    n = len(labels)
    tables = {name: _intervals(f"series[{name!r}]", own, n) for name, own in series.items()}
    if ax is None:
        _, ax = plt.subplots(figsize=(np.clip(1.5 + 0.4 * n * (len(series) + 1), 6, 13), 4.5))
    known = PALETTE | dict(colors or {})
    spare = iter([own for name, own in PALETTE.items() if name not in series] * len(series))
    width = 0.8 / len(series)
    for i, (name, rows) in enumerate(tables.items()):
        x = np.arange(n) - 0.4 + (i + 0.5) * width
        shade = known[name] if name in known else next(spare)
        ax.bar(x, rows[:, 0], width * 0.94, color=shade, label=name)
        ax.errorbar(
            x, rows[:, 0], yerr=_arms(rows), fmt="none", ecolor=PALETTE["neutral"], capsize=3
        )
    room = 8 * ax.get_window_extent().width / ax.figure.dpi  # characters side by side
    slanted = sum(max(map(len, label.split("\n"))) for label in labels) > room
    turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    ax.set_xticks(np.arange(n), labels, **turn)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    ax.set_ylabel(ylabel)
    if len(series) > 1:
        legend(ax)
    return ax


def dots(
    x: ArrayLike,
    estimates: ArrayLike,
    *,
    ax: Axes,
    color: str | None = None,
    label: str | None = None,
    line: bool = False,
) -> None:
    """Estimates with intervals above positions on the x axis.

    Args:
        x: (n,) positions.
        estimates: n Estimates, or an (n, 3) array of estimate, low, high.
        ax: where to draw.
        color: of all dots; by default the next of the axes' cycle.
        label: for the legend.
        line: join the dots.

    Raises:
        ValueError: NaN, a wrong shape, or an estimate outside its interval.
    """
    rows = _intervals("estimates", estimates, len(x))
    style = "o-" if line else "o"
    ax.errorbar(x, rows[:, 0], yerr=_arms(rows), fmt=style, color=color, label=label, capsize=4)


def legend(ax: Axes, **options: Any) -> None:
    """The legend right of the axes, where it covers nothing; options as of `Axes.legend`."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **options)


def describe(fig: Figure, text: str) -> None:
    """Show a figure with alternative text for those who cannot see it, and close it.

    The text is in the output's metadata, from where built pages take it, and in an HTML copy of
    the picture, as JupyterLab gives PNGs no alternative text. Committed notebooks drop the copy.

    Args:
        fig: the figure.
        text: what it shows, in a sentence or two.
    """
    png = print_figure(fig, base64=True)
    shown = f'<img alt="{escape(text)}" src="data:image/png;base64,{png}">'
    bundle = {"image/png": png, "text/html": shown, "text/plain": f"Figure: {text}"}
    display(bundle, metadata={"image/png": {"alt": text}}, raw=True)
    plt.close(fig)
