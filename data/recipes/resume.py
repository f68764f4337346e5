"""What every recipe needs: steps that survive an interruption, artefacts that name versions."""

import datetime
import json

import torch
import transformers

from helpers import data, models


class Steps:
    """Finished steps by name, kept in the cache folder after each."""

    def __init__(self, name, stamp):
        folder = models.cache_dir() / "recipes"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.json"
        self.stamp = json.loads(json.dumps(stamp))  # as it will be read back
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.done = kept.get("done", {}) if kept.get("stamp") == self.stamp else {}

    def run(self, name, compute):
        if name not in self.done:
            self.done[name] = compute()
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps({"stamp": self.stamp, "done": self.done}))
            partial.replace(self.path)
            print(f"{datetime.datetime.now():%H:%M:%S} {self.path.stem}: {name}", flush=True)
        return self.done[name]


def versions():
    return {
        "date": f"{datetime.date.today()}",
        "python": data.english_prose().python,
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }


def write(name, content):
    text = json.dumps(content, indent=1)
    (data.DATA / name).write_text(text + "\n", encoding="utf-8")
    print(f"data/{name}: {len(text) / 1e3:.0f} kB")


def rounded(values, digits=4):
    return [round(float(value), digits) for value in values]
