"""Things to display that know their HTML, made from a template, and their plain text."""

from functools import cache
from pathlib import Path
from typing import Any

from IPython.display import display
from jinja2 import Environment, FileSystemLoader, StrictUndefined


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parents[1] / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def html(template: str, **content: Any) -> str:
    """HTML of `helpers/templates/<template>.html`; whatever is put in is escaped."""
    return _templates().get_template(f"{template}.html").render(content)


class Page:
    """What to display: HTML where there is a browser, text elsewhere."""

    def __init__(self, html: str, text: str):
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text

    def show(self) -> None:
        """Display as one output."""
        display({"text/html": self.html, "text/plain": self.text}, raw=True)
