"""HTML of the lessons and of the built pages: templates beside this file."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, /, **content: Any) -> str:
    """`<template>.html` of this folder, filled in; whatever is put in is escaped."""
    return _templates().get_template(f"{template}.html").render(content)


def source(name: str) -> str:
    """A file of this folder as it is."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
