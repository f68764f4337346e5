"""The tiny world of the tests of weights; slow imports wait until it is asked for."""

import os
import shutil

import pytest


def settings(index, cache):
    """Environment variables: this cache, and no index but this folder."""
    return {
        "TUTORIALS_CACHE": str(cache),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
    }


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The source files, the index folder with their wheels, and the registry entries."""
    import tiny_index

    return tiny_index.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """An empty cache and an index of this test's own: (cache, index)."""
    from helpers import weights

    cache, index = tmp_path / "cache", tmp_path / "index"
    shutil.copytree(world[1], index)
    monkeypatch.setattr(weights, "REGISTRY", world[2])
    for name, value in settings(index, cache).items():
        monkeypatch.setenv(name, value)
    return cache, index


@pytest.fixture(scope="session")
def filled(world, tmp_path_factory):
    """A complete cache, made once; tests work on copies."""
    from helpers import models, weights

    cache = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as context:
        context.setattr(weights, "REGISTRY", world[2])
        for name, value in settings(world[1], cache).items():
            context.setenv(name, value)
        models.prefetch()
    return cache


@pytest.fixture
def ready(filled, place):
    """Like `place`, with both models in the cache already."""
    shutil.copytree(filled, place[0])
    return place
