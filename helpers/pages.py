"""Executed notebooks as pages that need nothing but a browser."""

from __future__ import annotations

import base64
import copy
import html
import io
import json
import logging
import mimetypes
import os
import re
from contextlib import suppress
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from bs4 import BeautifulSoup, CData, Comment, Declaration, ProcessingInstruction
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from PIL import Image
from traitlets.config import Config

from helpers.templates import source

WIDGET_STATE_LIMIT = 200_000  # characters of JSON that a committed notebook may spend on widgets
ROOM = 10_000_000  # characters, more than a page
# A page is static: where an output holds both a widget and its picture, the picture is shown.
STATIC_FIRST = [
    "text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex",
    "text/plain",
]  # fmt: skip
# What a browser would run or load: outputs may hold what a model wrote.
ACTIVE = (
    "script, link, meta[http-equiv], base, iframe, frame, object, embed, applet, audio, "
    "video, source, track, form, input, button, template, noscript, noembed, noframes, xmp, "
    "plaintext, foreignobject, animate, set"
)
ASIDES = (CData, Comment, Declaration, ProcessingInstruction)
LOADING = ("srcset", "background", "ping", "attributionsrc")
LOADING_STYLE = re.compile(r"url\((?![\"']?(data:|#))|@import|image-set|\\|<", re.I)
LINKS = re.compile(r"https?:|mailto:|[^:]*([/?#]|$)", re.I)
INSIDE = re.compile("#|data:image/", re.I)
POLICY = "default-src data: 'unsafe-inline'; script-src 'nonce-own'"  # binds formulas as well


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Drop what would change from run to run or bloat the file; in place."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                output.data["image/png"] = in_few_colours(png)
                if output.metadata.get("image/png", {}).get("alt"):
                    output.data.pop("text/html", None)  # the same picture once more
    if len(json.dumps(notebook.metadata.get("widgets", {}))) > WIDGET_STATE_LIMIT:
        del notebook.metadata["widgets"]
    notebook.metadata.get("language_info", {}).pop("version", None)
    return notebook


def in_few_colours(png: str) -> str:
    """A PNG (base64) in 256 colours, which is smaller, unless one would see the difference."""
    image, small = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    fewer = image.quantize(dither=Image.Dither.NONE)
    apart = np.abs(np.asarray(image, int) - np.asarray(fewer.convert("RGB"), int)).max(-1)
    if (apart > 32).mean() > 5e-4:  # pictures and heat maps: whole patches would change colour
        return png
    fewer.save(small, "PNG", optimize=True)
    return min(base64.b64encode(small.getvalue()).decode(), png, key=len)


def write(path: Path, text: str = "") -> None:
    """Write a file whole or not at all; without a text only try. A SystemExit says why not."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a text may hold half an emoji
        temporary.write_text(text or ROOM * " ", encoding="utf-8", errors="backslashreplace")
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if text:
            temporary.replace(path)
    except OSError as fault:
        remedy = "make room or clear the way (`make clean` deletes build/), and run it again"
        raise SystemExit(f"{path} cannot be written: {fault.strerror}; {remedy}") from fault
    finally:
        with suppress(OSError):
            temporary.unlink()


def make_inert(soup: BeautifulSoup) -> None:
    """Take out what a browser would run or load; in place."""
    for element in soup.select(ACTIVE):  # the text in them stays
        (element.decompose if element.name == "script" else element.unwrap)()
    for aside in soup.find_all(string=lambda text: type(text) in ASIDES):
        aside.extract()  # browsers see other ends of it
    for element in soup.find_all(True):
        links = LINKS if element.name == "a" else INSIDE
        for name, value in [*element.attrs.items()]:
            bare = re.sub(r"[\x00-\x20]", "", str(value))  # as browsers read addresses
            address = name in ("href", "src", "xlink:href") and not links.match(bare)
            loads = name not in ("alt", "title") and LOADING_STYLE.search(bare)
            if name.startswith("on") or name in LOADING or address or loads:
                del element[name]
        style = element.name == "style" and element.parent is not soup.head
        if style and LOADING_STYLE.search(element.text):
            element.decompose()


def with_alt_texts(notebook: NotebookNode) -> NotebookNode:
    """A copy whose described pictures are HTML, since nbconvert passes their description over."""
    notebook = copy.deepcopy(notebook)
    for output in (own for cell in notebook.cells for own in cell.get("outputs", [])):
        alt = output.get("metadata", {}).get("image/png", {}).get("alt")
        if alt and (png := output.data.get("image/png")):
            output.data["text/html"] = (
                f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{png}">'
            )
    return notebook


def fold_code(soup: BeautifulSoup) -> None:
    """Fold the code of cells that only draw, declare or format (tag hide-input); in place."""
    for cell in soup.select(".celltag_hide-input .jp-Cell-inputWrapper"):
        summary = soup.new_tag("summary")
        summary.string = "code"
        folded = cell.wrap(soup.new_tag("details", attrs={"class": "folded"}))
        folded.insert(0, summary)


def page(notebook: NotebookNode, path: Path, failure: str = "") -> str:
    """An executed notebook as one HTML page, named as its file, perhaps with a sentence on top.

    Pictures and the formula renderer are inside, and there is no address that a browser loads.
    """
    exporter = HTMLExporter(
        config=Config({"NbConvertBase": {"display_data_priority": STATIC_FIRST}}),
        exclude_anchor_links=True,
        log=logging.Logger("page", level=logging.ERROR),  # figures have no alternative text
    )
    resources = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    soup = BeautifulSoup(
        exporter.from_notebook_node(with_alt_texts(notebook), resources=resources)[0], "html.parser"
    )
    home = path.parent.resolve()  # outputs may hold what a model wrote, and pages are handed on
    for image in soup.select("img:not([src^='data:'])"):
        file = home / image.get("src", "")
        kind = mimetypes.guess_type(file.name)[0] or ""
        ours = os.path.isfile(file) and file.resolve().is_relative_to(home)  # knows what is no path
        if ours and kind.startswith("image/"):
            image["src"] = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
        else:
            image.replace_with(image.get("alt", ""))
    fold_code(soup)
    make_inert(soup)
    # Dollars of tables and texts are money, not formulas.
    for output in soup.select(".jp-OutputArea-output:not(.jp-RenderedMarkdown, .jp-RenderedLatex)"):
        output["class"].append("mathjax_ignore")
    head = soup.new_tag("style")
    head.string = source("page.css")
    soup.head.append(head)
    policy = {"http-equiv": "Content-Security-Policy", "content": POLICY}
    soup.head.insert(0, soup.new_tag("meta", attrs=policy))
    banner = f'<p class="failure mathjax_ignore">{html.escape(failure)}</p>' if failure else ""
    way_back = '<nav class="way-back"><a href="index.html">All tutorials</a></nav>'
    soup.body.insert(0, BeautifulSoup(way_back + banner, "html.parser"))
    mathjax = distribution("django-static-mathjax").locate_file(
        "mathjax/static/mathjax/es5/tex-svg-full.js"
    )
    script = Path(str(mathjax)).read_text(encoding="utf-8")
    # Into the page itself: no network, and a single page can be mailed around.
    formulas = f'<script nonce="own">{source("mathjax.js")}\n{script}</script>\n</head>'
    before, after = str(soup).split("</head>", 1)
    return before + formulas + after


def title(notebook: NotebookNode, default: str) -> str:
    """The first heading of a notebook, without Markdown's marks."""
    for cell in notebook.cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else []:
            if line.startswith("# "):
                return line[2:].replace("*", "").replace("`", "").strip()
    return default
