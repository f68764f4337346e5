"""Exercises that can tell right from wrong; references and hints stay out of the reader's sight.

`data/NN_stem/exercises.py` holds a dict EXERCISES of them. A *test* is a function of the reader's
answer and of the keyword arguments (the context) that the notebook's cell passes on.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from helpers import data
from helpers.checks import as_array
from helpers.lesson.page import Page
from helpers.templates import render

Test = Callable[..., bool]


def close(answer: Any, wanted: Any, within: float) -> bool:
    """Whether two values are the same: shapes equal, numbers to an absolute difference.

    Numbers may come as Python's, arrays, tensors, tables or lists; one number may be wrapped in an
    array. Texts are compared without case and outer space. NaN equals NaN in the same place only.
    """
    if isinstance(wanted, str):
        return isinstance(answer, str) and answer.strip().casefold() == wanted.strip().casefold()
    if isinstance(wanted, set | frozenset):
        return not isinstance(answer, str) and set(answer) == wanted
    if isinstance(wanted, dict):
        return set(answer) == set(wanted) and all(
            close(answer[key], wanted[key], within) for key in wanted
        )
    ragged = isinstance(wanted, list | tuple) and len({np.shape(as_array(w)) for w in wanted}) > 1
    if ragged:
        return len(answer) == len(wanted) and all(
            close(a, w, within) for a, w in zip(answer, wanted, strict=True)
        )
    given, wanted = as_array(answer), as_array(wanted)
    if given.size == wanted.size == 1:
        given, wanted = given.reshape(()), wanted.reshape(())
    if given.shape != wanted.shape:
        return False
    if wanted.dtype.kind not in "biufc":
        return bool((given == wanted).all())
    return bool(np.allclose(given.astype(float), wanted, rtol=0, atol=within, equal_nan=True))


def equals(
    wanted: Callable[..., Any],
    *,
    probes: Sequence[tuple] | Callable[..., Sequence[tuple]] = (),
    within: float = 1e-6,
) -> Test:
    """A test that compares with a reference computed from the context.

    Args:
        wanted: maps the context to the right answer. Where there are probes, the right answer is a
            function too, and both are called with each probe.
        probes: tuples of arguments, or a function of the context that makes them.
        within: largest absolute difference of numbers.
    """

    def test(answer: Any, **context: Any) -> bool:
        reference = wanted(**context)
        calls = probes(**context) if callable(probes) else probes
        if not calls:
            return close(answer, reference, within)
        return all(
            # copies: a function that changes its arguments must not spoil the reference
            close(answer(*copy.deepcopy(call)), reference(*copy.deepcopy(call)), within)
            for call in calls
        )

    return test


class Mistake(NamedTuple):
    """A wrong answer that has a name: `kind` is shown at once, `how` when it is unfolded."""

    test: Test
    kind: str
    how: str


class Exercise(NamedTuple):
    """A test of the right answer, known mistakes in the order they are looked for, other hints."""

    right: Test
    kind: str
    how: str
    mistakes: Sequence[Mistake] = ()


def _holds(test: Test, answer: Any, context: dict[str, Any]) -> bool:
    try:
        return bool(test(answer, **context))
    except Exception:  # a mistake that cannot be looked for is not the one that was made
        return False


class Exercises:
    """The checks of one notebook: `check = Exercises("03")`, then `check(2, answer, w=w)`.

    Args:
        number: the notebook's number; names the folder in `data/`.
    """

    def __init__(self, number: str):
        self._exercises: dict[int | str, Exercise] = data.module(number, "exercises").EXERCISES

    def __call__(self, id: int | str, answer: Any, **context: Any) -> bool:
        """Say whether an answer is right; never raises, whatever the reader hands in.

        Args:
            id: a key of EXERCISES.
            answer: the reader's answer; None or `...` (the stub untouched) counts as not answered.
            **context: what the reference needs from the notebook.

        Returns:
            Whether it is right.
        """
        own, name = self._exercises[id], f"Exercise {id}"
        parts = answer if isinstance(answer, tuple) else [answer]
        if any(part is None or part is ... for part in parts):  # `in` would ask arrays for ==
            print(f"○ {name}: not answered yet.")
            return False
        try:
            right, kind = bool(own.right(answer, **context)), own.kind
        except Exception as error:
            right, kind = False, f"Your answer stopped with {type(error).__name__}: {error}"
        if right:
            print(f"✔ {name}: right.")
            return True
        how = own.how
        for mistake in own.mistakes:
            if _holds(mistake.test, answer, context):
                kind, how = mistake.kind, mistake.how
                break
        Page(render("hint", name=name, kind=kind, how=how), f"✘ {name}: not yet. {kind}").show()
        return False


def agrees(name: str, live: Any, stored: Any, *, within: float) -> None:
    """Print the largest difference of two arrays of numbers; AssertionError where it is too large.

    Args:
        name: what is compared, in the plural ("losses").
        live: computed on this page.
        stored: from an artefact, or by another way; of the same shape.
        within: largest absolute difference.
    """
    live, stored = as_array(live).astype(float), as_array(stored).astype(float)
    if live.shape != stored.shape:
        raise AssertionError(f"{name}: shapes {live.shape} and {stored.shape} differ")
    gap = float(np.max(np.abs(live - stored), initial=0))
    says = f"{live.size} {name} agree: largest difference {gap:.1g}, allowed {within:g}"
    if not gap <= within:  # NaN as well
        raise AssertionError(
            f"{name} do not agree: largest difference {gap:.3g}, allowed {within:g}"
        )
    print(says)
