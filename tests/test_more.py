"""Each notebook with another seed and with other models: `make test-more`, half an hour."""

import nbformat
import pytest
import torch
import transformers as tf

from helpers import __main__ as front

PATHS = {path.name[:2]: path for path in sorted(front.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}
CONFIGS = {
    "llama": lambda **tokens: tf.LlamaConfig(**SHAPE, **tokens),
    "qwen3": lambda **tokens: tf.Qwen3Config(**SHAPE, **tokens),
    "gpt2": lambda **tokens: tf.GPT2Config(
        n_embd=64, n_layer=4, n_head=4, n_positions=4096, **tokens
    ),
    "gemma3": lambda **tokens: tf.Gemma3TextConfig(
        **SHAPE,
        query_pre_attn_scalar=16,
        sliding_window=256,
        layer_types=["sliding_attention", "full_attention"] * 2,
        **tokens,
    ),
}


def parameters(path):
    """Names that the parameters cell of a notebook sets."""
    cell = nbformat.read(path, as_version=4).cells[1]
    return {line.split(" = ")[0] for line in cell.source.splitlines() if " = " in line}


def with_parameter(name):
    return [number for number, path in PATHS.items() if name in parameters(path)]


@pytest.fixture(scope="session")
def tiny(smollm2, tmp_path_factory):
    """family -> a folder with a tiny random model of it and SmolLM2's tokenizer."""
    _, tokenizer = smollm2

    def save(family):
        folder = tmp_path_factory.mktemp(family)
        tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        config = CONFIGS[family](vocab_size=len(tokenizer), **tokens)
        torch.manual_seed(0)
        tf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def own_scorecard():
    """The scorecards of the defaults are kept."""
    before = {path: path.read_bytes() for path in (front.BUILD / "scorecards").glob("*.json")}
    yield
    for path, content in before.items():
        path.write_bytes(content)


@pytest.mark.more
@pytest.mark.weights
@pytest.mark.parametrize("number", with_parameter("SEED"))
def test_another_seed(number, own_scorecard, capsys):
    result = front.execute(PATHS[number], parameters={"SEED": 3})
    with capsys.disabled():
        print(f"\n{number}, seed 3: {result.seconds / 60:.1f} minutes ", end="")
    assert not result.error


@pytest.mark.more
@pytest.mark.weights
@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("number", with_parameter("MODEL"))
def test_another_model(number, family, tiny, own_scorecard, capsys):
    result = front.execute(PATHS[number], parameters={"MODEL": str(tiny(family))})
    with capsys.disabled():
        print(f"\n{number}, tiny {family}: {result.seconds / 60:.1f} minutes ", end="")
    assert not result.error
