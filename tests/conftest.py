"""What all tests share: no network, fixed settings, the default models, notebooks last."""

import os
import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OFFLINE = HERE / "offline"

# Before torch and transformers are imported, and inherited by every process that a test starts.
runpy.run_path(str(OFFLINE / "sitecustomize.py"))
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(OFFLINE), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="Agg", TOKENIZERS_PARALLELISM="false"
)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `python -m helpers` starts its kernels

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

hypothesis.settings.register_profile("house", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("house")
# The models of the unit tests are tiny: more threads only wait for each other.
torch.set_num_threads(min(2, os.cpu_count() or 1))

WEIGHTS = {"smollm2": "smollm2-135m", "gemma3": "gemma3-270m", "minilm": "minilm-l6"}


def pytest_collection_modifyitems(items):
    """Mark the tests that need weights, and put the notebooks last."""
    for item in items:
        if WEIGHTS.keys() & set(item.fixturenames):
            item.add_marker(pytest.mark.weights)
    items.sort(key=lambda item: item.path.name == "test_notebooks.py")


@pytest.fixture(autouse=True)
def fixed_random_numbers():
    """A test draws the same numbers alone, in any order, and after a test was added before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def tutorials_data() -> Path:
    """The folder of the papers' own data, which a reader may have or not."""
    folder = Path(os.environ.get("TUTORIALS_DATA", ""))
    if not os.environ.get("TUTORIALS_DATA") or not folder.is_dir():
        pytest.skip("TUTORIALS_DATA names no folder with the papers' data")
    return folder


def _load(name: str):
    from helpers import models  # only where weights are asked for

    return models.load(name)


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M with its tokenizer; tests leave it as they found it."""
    return _load(WEIGHTS["smollm2"])


@pytest.fixture(scope="session")
def gemma3():
    """Gemma 3 270M with its tokenizer; tests leave it as they found it."""
    return _load(WEIGHTS["gemma3"])


@pytest.fixture(scope="session")
def minilm():
    """The MiniLM encoder with its tokenizer; tests leave it as they found it."""
    return _load(WEIGHTS["minilm"])
