"""Artefacts: steps that survive an interruption, numbers and weights written whole."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import torch
import transformers
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers import data


class Steps:
    """Finished steps by name, kept in the cache folder after each.

    Two processes may share the work: one that also says `backwards` begins at the other end.
    """

    def __init__(self, name, stamp):
        from helpers import models  # for recipes alone: who reads weights need not wait for it

        folder = models.cache_dir() / "recipes"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.json"
        self.lock = FileLock(folder / f".{name}.lock")
        self.stamp = json.loads(json.dumps(stamp))  # as it will be read back
        self.done = self._kept()

    def _kept(self):
        kept = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        return kept.get("done", {}) if kept.get("stamp") == self.stamp else {}

    def run(self, name, compute):
        if name not in self.done:
            self.done |= self._kept()
        if name not in self.done:
            found = compute()
            with self.lock:
                self.done = {**self._kept(), name: found}
                partial = self.path.with_suffix(".partial")
                text = json.dumps({"stamp": self.stamp, "done": self.done})
                partial.write_text(text, encoding="utf-8")
                partial.replace(self.path)
            print(f"{datetime.datetime.now():%H:%M:%S} {self.path.stem}: {name}", flush=True)
        return self.done[name]

    def run_all(self, tasks):
        """Results by name, in the order of `tasks`, which maps names to functions."""
        for name in reversed(tasks) if "backwards" in sys.argv else tasks:
            self.run(name, tasks[name])
        return {name: self.done[name] for name in tasks}


def versions():
    return {
        "date": f"{datetime.date.today()}",
        "python": data.english_prose().python,
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }


def write(path, content, indent=1):
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"{path.name}: {len(text) / 1e3:.0f} kB")


def write_weights(path, groups):
    """State dicts by model as half-precision tensors "model/parameter", whole or not at all."""
    tensors = {
        f"{name}/{key}": own.half().contiguous()
        for name, weights in groups.items()
        for key, own in weights.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.chmod(0o644)  # safetensors are written 0600
    partial.replace(path)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


def rounded(values, digits=4):
    return [round(float(value), digits) for value in values]


def stored_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """State dicts by model from a safetensors file of tensors "model/parameter".

    Raises:
        ValueError: a file that cannot be read; it is named.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, parameter = key.split("/", 1)
        found.setdefault(name, {})[parameter] = tensor
    return found
