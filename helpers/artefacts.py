"""Artefacts: steps that survive an interruption, numbers and weights written whole."""

from __future__ import annotations

import datetime
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import transformers
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers import data


def _recipes() -> Path:
    """Where unfinished work and locks are kept, in the cache folder."""
    from helpers import models  # for recipes alone: who reads weights need not wait for it

    folder = models.cache_dir() / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place aside to write a file or folder at, which then becomes `path`, whole or not at all.

    In a paper's folder of `data/` it is registered with its hash and the command that runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".", suffix=".tmp") as folder:
        aside, home = Path(folder) / path.name, data.paper_folder(path)
        yield aside
        for file in _files(aside):
            file.chmod(0o644)  # safetensors are written 0600
        with FileLock(_recipes() / f".{home.name}.lock") if home else nullcontext():
            if home:  # first: a process that dies here leaves what a reader refuses by name
                _json(Path(folder) / data.REGISTRY, _entries(home, path, aside))
                (Path(folder) / data.REGISTRY).replace(home / data.REGISTRY)
            if path.is_dir():
                shutil.rmtree(path)
            aside.replace(path)


def _files(path: Path) -> list[Path]:
    return [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]


def _entries(home: Path, path: Path, aside: Path) -> dict:
    """The registry of a paper once `aside` has become `path`."""
    recipe, root = Path(sys.argv[0]).resolve(), data.DATA.parent
    recipe = recipe.relative_to(root) if recipe.is_relative_to(root) else recipe.name
    words = ["python", Path(recipe).as_posix(), *sys.argv[1:]]
    made_by = " ".join(word for word in words if word != "backwards")
    kept = {
        name: entry
        for name, entry in data.registered(home).items()
        if not (home / name).is_relative_to(path)
    }
    new = {
        (path / file.relative_to(aside)).relative_to(home).as_posix(): {
            "sha256": data.file_sha256(file),
            "made_by": made_by,
        }
        for file in _files(aside)
    }
    return dict(sorted((kept | new).items()))


def _json(path: Path, content, indent: int | None = 1) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


class Steps:
    """Finished steps by name, kept in the cache folder after each.

    Two processes may share the work: one that also says `backwards` begins at the other end.
    """

    def __init__(self, name, stamp):
        folder = _recipes()
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
                with replacing(self.path) as aside:
                    _json(aside, {"stamp": self.stamp, "done": self.done}, indent=None)
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
    with replacing(path) as aside:
        _json(aside, content, indent)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


def write_weights(path, groups):
    """State dicts by model as half-precision tensors "model/parameter", whole or not at all."""
    tensors = {
        f"{name}/{key}": own.half().contiguous()
        for name, weights in groups.items()
        for key, own in weights.items()
    }
    with replacing(path) as aside:
        save_file(tensors, aside)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


def rounded(values, digits=4):
    return [round(float(value), digits) for value in values]


def stored_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """State dicts by model from a safetensors file of tensors "model/parameter".

    Raises:
        ValueError: a file that cannot be read, or is not the artefact it should be; it is named.
    """
    try:
        tensors = load_file(data.verified(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, parameter = key.split("/", 1)
        found.setdefault(name, {})[parameter] = tensor
    return found
