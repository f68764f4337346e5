"""Widgets that show a picture or text of their own where no kernel runs.

On the web and in exported pages the static form, in the same output, takes the widget's place.
"""

import inspect
import io
from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
from IPython.display import display

from helpers.templates import render


def _show(widget: widgets.Widget, static: dict[str, str], alt: str = "") -> None:
    """Display a widget and its static form (MIME type -> content) as one output."""
    about = {"image/png": {"alt": alt}} if alt else {}
    display({**widget._repr_mimebundle_(), **static}, metadata=about, raw=True)


def ask(question: str, options: Sequence[str], answer: str, because: str) -> None:
    """Ask for a guess before a result is shown, and reveal the answer after it.

    Args:
        question: plain text.
        options: two or more possible answers.
        answer: the right one of `options`.
        because: the explanation shown with the answer.
    """
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
    words = {"question": question, "options": options, "answer": answer, "because": because}
    text = f"Predict first. {question} ({' / '.join(options)})"
    _show(box, {"text/html": render("prediction", **words), "text/plain": text})


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
            Its docstring, if there is one, is the alternative text of the default picture.
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
    alt = " ".join((inspect.getdoc(draw) or "").split())
    _show(box, {"image/png": b64encode(png).decode(), "text/plain": text}, alt)
