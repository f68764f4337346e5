"""Small pictures of eight concepts, drawn by rules, with masks of what is where.

What a picture shows, where, and what else is in it (a planted patch, the colour of a sail) is
known, so that an explanation of a classifier can be scored against the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONCEPTS = ("sun", "tree", "house", "fish", "flower", "mushroom", "boat", "signal")
BOAT = CONCEPTS.index("boat")
SIZE, PATCH = 48, 8  # pixels of a picture's side; of the planted patch in the top left corner
COLORS = {
    "red": (0.82, 0.16, 0.14),
    "yellow": (0.97, 0.82, 0.2),
    "orange": (0.93, 0.52, 0.15),
    "green": (0.18, 0.55, 0.22),
    "blue": (0.2, 0.35, 0.78),
    "brown": (0.45, 0.28, 0.14),
    "beige": (0.9, 0.82, 0.66),
    "pink": (0.92, 0.5, 0.7),
    "purple": (0.5, 0.3, 0.65),
    "white": (0.96, 0.96, 0.94),
    "dark": (0.16, 0.16, 0.2),
}
SAILS = {"white": COLORS["white"], "green": (0.25, 0.62, 0.3)}
GROUNDS = (
    (0.72, 0.84, 0.93),
    (0.74, 0.87, 0.7),
    (0.9, 0.83, 0.68),
    (0.78, 0.78, 0.8),
    (0.83, 0.77, 0.9),
)
BLOBS = ("blue", "brown", "purple", "green", "orange")
CLUTTER = (*BLOBS, "red", "yellow", "pink", "dark", "beige")

Grid = NDArray[np.float64]
Part = tuple[str, Callable[[Grid, Grid], NDArray[np.bool_]]]


class Scenes(NamedTuple):
    """images (N, 3, 48, 48) in [0, 1]; labels (N,); masks (N, 48, 48): share of each pixel."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    objects: NDArray[np.float32]
    patches: NDArray[np.float32]


# -------------------------------------------------------------------------- parts of the concepts
# u runs to the right, v down; a concept fits into the unit disc.


def _disc(x: float, y: float, radius: float, stretch: float = 1.0) -> Callable:
    return lambda u, v: ((u - x) / stretch) ** 2 + (v - y) ** 2 < radius**2


def _box(left: float, right: float, top: float, bottom: float) -> Callable:
    return lambda u, v: (left < u) & (u < right) & (top < v) & (v < bottom)


def _trapezoid(top: float, bottom: float, at_top: float, at_bottom: float) -> Callable:
    """Symmetric; half widths at its top and bottom."""

    def inside(u: Grid, v: Grid) -> NDArray[np.bool_]:
        width = at_top + (at_bottom - at_top) * (v - top) / (bottom - top)
        return (top < v) & (v < bottom) & (np.abs(u) < width)

    return inside


def _rays(u: Grid, v: Grid) -> NDArray[np.bool_]:
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    return (r > 0.6) & (r < 1) & (np.abs((angle % (np.pi / 4)) - np.pi / 8) < 0.16)


def _petals(u: Grid, v: Grid) -> NDArray[np.bool_]:
    turns = 2 * np.pi * np.arange(6) / 6
    return np.any([_disc(0.6 * np.cos(t), 0.6 * np.sin(t), 0.34)(u, v) for t in turns], axis=0)


def _tail(u: Grid, v: Grid) -> NDArray[np.bool_]:
    return (u > 0.45) & (u < 1) & (np.abs(v) < 0.9 * (u - 0.4))


def _cap(u: Grid, v: Grid) -> NDArray[np.bool_]:
    return _disc(0, 0.1, 0.85, 1.1)(u, v) & (v < 0.1)


def _sail(u: Grid, v: Grid) -> NDArray[np.bool_]:
    return (u > 0.08) & (v > -0.9) & (v < 0.25) & (u < 0.08 + 0.7 * (v + 0.9) / 1.15)


PARTS: dict[str, list[Part]] = {
    "sun": [("orange", _rays), ("yellow", _disc(0, 0, 0.55))],
    "tree": [
        ("brown", _box(-0.14, 0.14, 0.2, 1)),
        ("green", _disc(0, -0.4, 0.52)),
        ("green", _disc(-0.38, 0, 0.4)),
        ("green", _disc(0.38, 0, 0.4)),
    ],
    "house": [
        ("beige", _box(-0.62, 0.62, -0.12, 0.8)),
        ("red", _trapezoid(-0.9, -0.1, 0, 0.85)),
        ("brown", _box(-0.2, 0.2, 0.25, 0.8)),
    ],
    "fish": [
        ("orange", _tail),
        ("orange", _disc(-0.2, 0, 0.45, 1.7)),
        ("dark", _disc(-0.6, -0.1, 0.11)),
    ],
    "flower": [("pink", _petals), ("yellow", _disc(0, 0, 0.34))],
    "mushroom": [
        ("beige", _box(-0.24, 0.24, 0.05, 0.9)),
        ("red", _cap),
        ("white", _disc(-0.45, -0.15, 0.14)),
        ("white", _disc(0, -0.45, 0.15)),
        ("white", _disc(0.45, -0.12, 0.14)),
    ],
    "boat": [
        ("blue", _trapezoid(0.35, 0.8, 0.9, 0.55)),
        ("brown", _box(-0.06, 0.06, -0.95, 0.36)),
        ("sail", _sail),
    ],
    "signal": [
        ("dark", _box(-0.4, 0.4, -0.95, 0.95)),
        ("red", _disc(0, -0.58, 0.25)),
        ("yellow", _disc(0, 0, 0.25)),
        ("green", _disc(0, 0.58, 0.25)),
    ],
}


# ---------------------------------------------------------------------------------- the pictures


def _texture(kind: int, x: Grid, y: Grid, rng: np.random.Generator) -> Grid:
    """Pattern in [-1, 1]: stripes, checker, gradient, dots, plaid."""
    period, phase = rng.uniform(8, 14), rng.uniform(0, 2 * np.pi)
    wave_x, wave_y = (np.sign(np.sin(2 * np.pi * own / period + phase)) for own in (x, y))
    tilt = rng.uniform(0, 2 * np.pi)
    patterns = (
        lambda: np.sign(np.sin(2 * np.pi * (x * np.cos(tilt) + y * np.sin(tilt)) / period)),
        lambda: wave_x * wave_y,
        lambda: ((x - SIZE / 2) * np.cos(tilt) + (y - SIZE / 2) * np.sin(tilt)) / (SIZE / 2),
        lambda: np.where(np.hypot(x % period - period / 2, y % period - period / 2) < 2.4, 1, -0.3),
        lambda: (wave_x + wave_y) / 2,
    )  # fmt: skip
    return patterns[kind]()


def _one(
    label: int, rng: np.random.Generator, *, sail: str, patched: bool, shown: bool, cluttered: bool
) -> tuple:
    steps = (np.arange(2 * SIZE) + 0.5) / 2  # drawn at twice the size, then averaged
    x, y = np.meshgrid(steps, steps)
    ground = np.array(GROUNDS[rng.integers(len(GROUNDS))])
    pattern = _texture(int(rng.integers(5)), x, y, rng)
    picture = ground[:, None, None] + 0.05 * pattern

    def paint(where: NDArray[np.bool_], color: Sequence[float]) -> None:
        picture[:, where] = (np.array(color) + rng.normal(0, 0.03, 3))[:, None]

    few, many, colors = (4, 9, CLUTTER) if cluttered else (0, 3, BLOBS)
    for _ in range(rng.integers(few, many)):
        color = COLORS[colors[rng.integers(len(colors))]]
        paint(_disc(*rng.uniform(0, SIZE, 2), rng.uniform(2, 4.5))(x, y), color)
    noise = rng.normal(0, 0.01, (3, SIZE, SIZE))  # drawn before the object: see `render`
    radius, turn = rng.uniform(9, 13), rng.uniform(-0.35, 0.35)
    left, top = rng.uniform(radius, SIZE - radius, 2)
    u = ((x - left) * np.cos(turn) + (y - top) * np.sin(turn)) / radius
    v = (-(x - left) * np.sin(turn) + (y - top) * np.cos(turn)) / radius
    covered, patch = np.zeros(x.shape, bool), np.zeros(x.shape, bool)
    if shown:
        for color, inside in PARTS[CONCEPTS[label]]:
            where = inside(u, v)
            covered |= where
            paint(where, SAILS[sail] if color == "sail" else COLORS[color])
    if patched:
        patch = (x < PATCH) & (y < PATCH)
        checker = (x // 2 + y // 2) % 2 == 0
        picture[:, patch & checker] = np.array([[0.95], [0.1], [0.85]])  # magenta
        picture[:, patch & ~checker] = np.array([[0.1], [0.9], [0.9]])  # cyan
        covered &= ~patch
    return np.clip(_halved(picture) + noise, 0, 1), _halved(covered), _halved(patch)


def _halved(values: NDArray) -> NDArray:
    """Means of 2 x 2 neighbours."""
    *lead, height, width = values.shape
    return values.reshape(*lead, height // 2, 2, width // 2, 2).mean((-3, -1))


def render(
    labels: ArrayLike,
    rng: np.random.Generator | int,
    *,
    sails: ArrayLike | None = None,
    patched: ArrayLike | None = None,
    shown: ArrayLike | None = None,
    cluttered: bool = False,
) -> Scenes:
    """Draw one picture for each label, with random ground, place, size, turn and blobs.

    The same rng with other settings gives the same pictures but for what the settings change, so
    that the effect of a patch, an object or a sail can be measured on otherwise equal pictures.

    Args:
        labels: (N,) numbers of `CONCEPTS`.
        rng: seed or generator; picture i depends on it and on i alone, not on what is drawn before.
        sails: (N,) names of `SAILS`, for boats; drawn at random by default.
        patched: (N,) whether the magenta and cyan patch is planted; by default nowhere.
        shown: (N,) whether the concept is drawn at all; by default everywhere.
        cluttered: four to eight blobs in the colours of the concepts, not up to two in five.

    Raises:
        ValueError: no labels, a label that is no concept, or another number of settings.
    """
    labels = np.asarray(labels)
    n = len(labels) if labels.ndim == 1 else 0
    if not n or not np.isin(labels, range(len(CONCEPTS))).all():
        raise ValueError(
            f"labels must be (N,) numbers from 0 to {len(CONCEPTS) - 1}, N at least 1."
        )
    rng = np.random.default_rng(rng)
    drawn = np.array(list(SAILS))[rng.integers(len(SAILS), size=n)]
    columns = {
        "sail": drawn if sails is None else np.asarray(sails),
        "patched": np.zeros(n, bool) if patched is None else np.asarray(patched),
        "shown": np.ones(n, bool) if shown is None else np.asarray(shown),
    }
    wrong = [name for name, own in columns.items() if own.shape != (n,)]
    if wrong or not np.isin(columns["sail"], list(SAILS)).all():
        raise ValueError(
            f"one setting for each of {n} pictures is needed (sails: {list(SAILS)}): {wrong}"
        )
    pictures = []
    for i, own in enumerate(rng.spawn(n)):
        settings = {name: column[i] for name, column in columns.items()}
        pictures.append(_one(int(labels[i]), own, cluttered=cluttered, **settings))
    images, objects, patches = (
        np.stack(own).astype(np.float32) for own in zip(*pictures, strict=True)
    )
    return Scenes(images, labels.astype(np.int64), objects, patches)


def token_mask(masks: NDArray, grid: int, threshold: float = 0.15) -> NDArray[np.bool_]:
    """(N, grid, grid): tokens of which more than `threshold` is covered by (N, H, W) pixel masks.

    Raises:
        ValueError: a grid that does not divide the picture.
    """
    n, height, width = masks.shape
    if height % grid or width % grid:
        raise ValueError(f"pictures of {height} x {width} have no grid of {grid} x {grid}.")
    shares = masks.reshape(n, grid, height // grid, grid, width // grid).mean((2, 4))
    return shares > threshold
