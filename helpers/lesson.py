"""What every notebook needs to teach: a scorecard of claims, exercise checks and small widgets.

Widgets show a picture or text of their own where no kernel runs (on the web, in exported pages):
the static form travels in the same output as the widget.
"""

import io
import json
import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from helpers.stats import Estimate

VERDICTS = (
    "reproduced",
    "partly",
    "not at this scale",
    "contradicted",
    "cannot be tested here",
)
_NOT_JUDGED = "not judged"

# Verdict -> (sign, text colour, background): never told by colour alone.
_LOOKS = {
    "reproduced": ("✔", "#ffffff", "#00694d"),
    "partly": ("◐", "#000000", "#f0b840"),
    "not at this scale": ("○", "#000000", "#8ccbf0"),
    "contradicted": ("✘", "#ffffff", "#a63d00"),
    "cannot be tested here": ("?", "#ffffff", "#5f5f5f"),
    _NOT_JUDGED: ("…", "#333333", "#e4e4e4"),
}


class _Page:
    """Something to display that knows its HTML and its plain text."""

    def __init__(self, html: str, text: str):
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def _project_root() -> Path | None:
    """The folder that holds pyproject.toml and notebooks/, above the package or above here."""
    for folder in (*Path(__file__).resolve().parents, Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return None


def _plain(value: Any) -> Any:
    """`value` in types that JSON has, infinity as None; a ValueError where there is NaN."""
    if isinstance(value, Estimate):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    value = value.to_numpy() if hasattr(value, "to_numpy") else value  # tables
    if hasattr(value, "tolist"):  # arrays and tensors, and their numbers
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("NaN")
    if isinstance(value, float) and math.isinf(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


class Scorecard:
    """The claims of a paper, the criterion of each, and what came out here.

    A claim is declared with its rule before its result exists; the verdict is what the rule says
    about the evidence and cannot be typed.

    Args:
        number: the notebook's number, such as "04"; names the JSON file.
        title: the notebook's title.
    """

    def __init__(self, number: str, title: str):
        self.number, self.title = number, title
        self._claims: dict[str, dict[str, Any]] = {}
        self._rules: dict[str, Callable[..., str]] = {}

    def claim(
        self,
        id: str,
        statement: str,
        *,
        paper: str,
        source: str,
        criterion: str,
        rule: Callable[..., str],
    ) -> None:
        """Declare a claim before its result.

        Args:
            id: short name, such as "C1".
            statement: the claim in a sentence.
            paper: the paper's own number or direction.
            source: where that was read (paper text, project page, secondary source, not verified).
            criterion: the rule in words.
            rule: maps the evidence (keyword arguments of `judge`) to one of VERDICTS.

        Raises:
            ValueError: the claim was declared, perhaps even judged, before.
        """
        if id in self._claims:
            state = "judged" if self._claims[id]["verdict"] in VERDICTS else "declared"
            raise ValueError(
                f"claim {id!r} was already {state}; a criterion is fixed once, before the result. "
                "To start over, run the notebook again from the cell that makes the scorecard."
            )
        if not callable(rule):
            raise TypeError(f"the rule of claim {id!r} must be a function of the evidence.")
        self._rules[id] = rule
        self._claims[id] = {
            "id": id,
            "statement": statement,
            "paper": paper,
            "source": source,
            "criterion": criterion,
            "verdict": _NOT_JUDGED,
            "ours": None,
            "interval": None,
            "reason": "",
            "evidence": {},
        }

    def judge(self, id: str, *, ours: str | Estimate | None, reason: str, **evidence: Any) -> str:
        """Let the claim's rule decide, and keep the result.

        Args:
            id: a declared claim.
            ours: our number (an Estimate brings its interval), or None where there is none.
            reason: why it came out so, in a sentence.
            **evidence: what the rule looks at; it is written to the JSON file too.

        Returns:
            The verdict, one of VERDICTS.

        Raises:
            ValueError: an unknown claim, one that was judged before, NaN (neither above nor below
                anything, it passes rules), or a rule that returns something else than a verdict.
        """
        if id not in self._claims:
            known = ", ".join(self._claims) or "none yet"
            raise ValueError(
                f"claim {id!r} was not declared (declared: {known}); declare it first."
            )
        if self._claims[id]["verdict"] in VERDICTS:
            raise ValueError(
                f"claim {id!r} was already judged; to judge it again, run the notebook again from "
                "the cell that makes the scorecard."
            )
        for name, own in {"ours": ours, **evidence}.items():
            try:
                _plain(own)
            except ValueError:
                says = f"claim {id!r}: {name!r} holds NaN; pass None where there is no number."
                raise ValueError(says) from None
        verdict = self._rules[id](**evidence)
        if verdict not in VERDICTS:
            raise ValueError(
                f"the rule of claim {id!r} returned {verdict!r}; it must return one of {VERDICTS}."
            )
        self._claims[id].update(
            verdict=verdict,
            ours=None if ours is None else str(ours),
            interval=[ours.low, ours.high] if isinstance(ours, Estimate) else None,
            reason=reason,
            evidence=evidence,
        )
        return verdict

    def table(self) -> _Page:
        """The scorecard for display, claims in the order of their declaration."""
        heads = ("claim", "the paper says", "here", "criterion", "verdict", "why")
        cell = "text-align:left;vertical-align:top;white-space:normal;padding:6px 10px;"
        rows, lines = [], [f"Scorecard {self.number}: {self.title}"]
        for claim in self._claims.values():
            text = {key: escape(str(value or "")) for key, value in claim.items()}
            sign, ink, ground = _LOOKS[claim["verdict"]]
            badge = (
                f'<span style="display:inline-block;padding:2px 8px;border-radius:4px;'
                f'font-weight:bold;color:{ink};background:{ground}">{sign} {text["verdict"]}</span>'
            )
            cells = (
                f"<b>{text['id']}</b> {text['statement']}",
                f"{text['paper']}<br><i>source: {text['source']}</i>",
                text["ours"] or "–",
                text["criterion"],
                badge,
                text["reason"],
            )
            rows.append("".join(f'<td style="{cell}">{content}</td>' for content in cells))
            lines.append(
                f"{sign} {claim['id']} {claim['verdict']}: {claim['statement']} "
                f"| paper: {claim['paper']} | here: {claim['ours'] or '–'}"
            )
        head = "".join(f'<th style="{cell}">{name}</th>' for name in heads)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        title = f"Scorecard {escape(self.number)}: {escape(self.title)}"
        return _Page(
            f'<table style="font-size:15px;line-height:1.35;border-collapse:collapse">'
            f'<caption style="text-align:left;font-weight:bold;padding:6px 10px">{title}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
            "\n".join(lines),
        )

    def write(self) -> Path | None:
        """Write build/scorecards/NN.json at the project's root.

        Returns:
            The file, or None where there is no project or no right to write.
        """
        root = _project_root()
        if root is None:
            return None
        card = {"number": self.number, "title": self.title, "claims": [*self._claims.values()]}
        target = root / "build" / "scorecards" / f"{self.number}.json"
        text = json.dumps(_plain(card), indent=1, ensure_ascii=False, allow_nan=False)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_suffix(".tmp")  # whole or not at all
            aside.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
            aside.replace(target)
        except OSError:
            return None
        return target


def _is_right(answer: Any, expect: Any, tolerance: float | None) -> bool:
    if callable(expect):
        return bool(expect(answer))
    if isinstance(expect, str):
        return isinstance(answer, str) and answer.strip().casefold() == expect.strip().casefold()
    if isinstance(expect, tuple):
        low, high = expect
        return bool(low <= float(answer) <= high)
    given, wanted = np.asarray(answer), np.asarray(expect)
    if given.shape != wanted.shape:
        raise ValueError(f"its shape is {given.shape}, expected is {wanted.shape}")
    if wanted.dtype.kind not in "biufc":
        return bool((given == wanted).all())
    slack = {"rtol": 1e-6, "atol": 1e-9} if tolerance is None else {"rtol": 0, "atol": tolerance}
    return bool(np.allclose(given, wanted, **slack))


def check(
    name: str, answer: Any, *, expect: Any, hint: str, tolerance: float | None = None
) -> None:
    """Tell in one line whether the answer to an exercise is right; never raises on a wrong one.

    Args:
        name: the exercise, such as "Exercise 1".
        answer: the reader's answer; None or `...` (the stub untouched) counts as not answered.
        expect: a value (number, text, list, array), a range as a tuple (low, high), ends
            included, or a function that says whether an answer is right.
        hint: shown after a wrong answer.
        tolerance: largest absolute difference from a number; by default one part in a million.
    """
    if answer is None or answer is ...:
        print(f"○ {name}: not answered yet.")
        return
    try:
        right, why = _is_right(answer, expect, tolerance), ""
    except Exception as error:  # whatever the reader hands in, the lesson goes on
        right, why = False, f" (your answer could not be compared: {error})"
    print(f"✔ {name}: right." if right else f"✘ {name}: not yet{why}. Hint: {hint}")


def _show(widget: widgets.Widget, static: dict[str, str]) -> None:
    """Display a widget and its static form (MIME type -> content) as one output."""
    display({**widget._repr_mimebundle_(), **static}, raw=True)


def predict(question: str, options: Sequence[str], *, answer: str, because: str) -> None:
    """Ask for a guess before a result is shown, and reveal the answer after it.

    Args:
        question: plain text.
        options: two or more possible answers.
        answer: the right one of `options`.
        because: the explanation shown with the answer.

    Raises:
        ValueError: the answer is not among the options.
    """
    options = list(options)
    if answer not in options:
        raise ValueError(f"`answer` {answer!r} is not one of `options` {options}.")
    truth = f"<b>{escape(answer)}.</b> {escape(because)}"
    choice = widgets.RadioButtons(options=options, value=None, layout={"width": "auto"})
    button = widgets.Button(description="That is my guess", disabled=True)
    verdict = widgets.HTML()

    def ready(change):
        button.disabled = change["new"] is None

    def reveal(_):
        opening = "✔ Right:" if choice.value == answer else "✘ Not quite. The answer:"
        verdict.value = f"{opening} {truth}"

    choice.observe(ready, "value")
    button.on_click(reveal)
    asked = f"<b>Predict first.</b> {escape(question)}"
    box = widgets.VBox([widgets.HTML(asked), choice, button, verdict])
    listed = "".join(f"<li>{escape(option)}</li>" for option in options)
    html = (
        f"<div><p>{asked}</p><ul>{listed}</ul>"
        f"<details><summary>Reveal the answer</summary><p>{truth}</p></details></div>"
    )
    text = f"Predict first. {question} ({' / '.join(options)})"
    _show(box, {"text/html": html, "text/plain": text})


def _picture(draw: Callable[..., Any], values: dict[str, Any]) -> bytes:
    """PNG of the figure that `draw` makes; all figures that it opened are closed."""
    before = set(plt.get_fignums())
    try:
        made = draw(**values)
        figure = getattr(made, "figure", None) or plt.gcf()  # a Figure is its own .figure
        png = io.BytesIO()
        figure.savefig(png, format="png", bbox_inches="tight")
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
    return png.getvalue()


def explore(draw: Callable[..., Any], **controls: Any) -> None:
    """Redraw a figure as the reader moves controls.

    The default picture is part of the output, so the page reads without a kernel. A slider
    redraws when it is let go: drawings never queue up.

    Args:
        draw: makes a matplotlib figure from keyword arguments and returns it (or an Axes of it).
        **controls: for each argument of `draw` a widget, or ipywidgets' short form: a tuple
            (low, high[, step]) for a slider, a list for a menu, a bool for a box.

    Raises:
        ValueError: a control that is neither.
    """
    made = {}
    for name, control in controls.items():
        widget = widgets.interactive.widget_from_abbrev(control)
        if widget is None:
            raise ValueError(f"control {name!r} is neither a widget nor a short form: {control!r}.")
        widget.description = widget.description or name.replace("_", " ")
        if widget.has_trait("continuous_update"):
            widget.continuous_update = False
        made[name] = widget
    png = _picture(draw, {name: widget.value for name, widget in made.items()})
    image, status = widgets.Image(value=png, format="png"), widgets.HTML()
    image.layout.max_width, image.layout.align_self = "100%", "flex-start"  # its own size

    def redraw(_):
        try:
            image.value = _picture(draw, {name: widget.value for name, widget in made.items()})
            status.value = ""
        except Exception as error:  # raised in a callback it would vanish in the browser's log
            status.value = escape(f"✘ could not draw this: {type(error).__name__}: {error}")

    for widget in made.values():
        widget.observe(redraw, "value")
    box = widgets.VBox([*made.values(), image, status])
    text = f"Explorer with {', '.join(made)}; a live kernel makes it move."
    _show(box, {"image/png": b64encode(png).decode(), "text/plain": text})
