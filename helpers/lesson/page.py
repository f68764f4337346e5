"""Things to display that know their HTML and their plain text."""

from IPython.display import display


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
