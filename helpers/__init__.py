"""The thin package behind the tutorial notebooks: one room, one file, one subject."""

__version__ = "0.1.0"
