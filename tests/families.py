"""Tiny randomly initialised models of every family that the package promises to work with.

`build("gemma2")` gives a three-layer model within milliseconds. Weights are drawn wide enough
that attention is far from uniform and every bias and gain matters, so a test that compares
logits can fail.
"""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, processors
from torch import nn

VOCAB, LAYERS, CONTEXT, WINDOW = 97, 3, 64, 6

_TOKENS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SHAPE = _TOKENS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}
_KINDS = ["sliding_attention", "full_attention", "sliding_attention"]

# head_dim differs from hidden_size / num_attention_heads where the family allows it
CONFIGS = {
    "llama": lambda: tf.LlamaConfig(**_GROUPED),
    "qwen2": lambda: tf.Qwen2Config(**_GROUPED),
    "qwen3": lambda: tf.Qwen3Config(**_GROUPED, head_dim=16),
    "mistral": lambda: tf.MistralConfig(**_GROUPED, head_dim=16, sliding_window=WINDOW),
    "gemma2": lambda: tf.Gemma2Config(
        **_GROUPED,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=WINDOW,
        layer_types=_KINDS,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0,
    ),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **_GROUPED,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=WINDOW,
        layer_types=_KINDS,
    ),
    "gpt2": lambda: tf.GPT2Config(
        **_TOKENS, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=CONTEXT
    ),
    "opt": lambda: tf.OPTConfig(
        **_TOKENS,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        word_embed_proj_dim=32,
    ),
    "neox": lambda: tf.GPTNeoXConfig(**_SHAPE, rotary_pct=0.5),
    "phi3": lambda: tf.Phi3Config(**_GROUPED),
    "bert": lambda: tf.BertConfig(**_SHAPE),
}
FAMILIES = tuple(CONFIGS)
DECODERS = tuple(family for family in FAMILIES if family != "bert")
ROTARY = tuple(family for family in DECODERS if family not in ("gpt2", "opt"))
HEADS = 4
KV_HEADS = {family: 4 if family in ("gpt2", "opt", "neox", "bert") else 2 for family in FAMILIES}
HEAD_DIM = {
    family: 16 if family in ("qwen3", "mistral", "gemma2", "gemma3") else 8 for family in FAMILIES
}


def build(family: str, *, attention: str | None = None, seed: int = 0) -> nn.Module:
    """A fresh tiny model in eval mode: a causal LM, for BERT the encoder.

    Args:
        family: one of `FAMILIES`.
        attention: "sdpa" or "eager"; the family's own default if None.
        seed: of the weights; global random state is left alone.
    """
    config = CONFIGS[family]()
    auto = tf.AutoModel if family == "bert" else tf.AutoModelForCausalLM
    chosen = {} if attention is None else {"attn_implementation": attention}
    with torch.random.fork_rng():
        model = auto.from_config(config, **chosen).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # matrices keep the scale of what flows through; vectors are biases and gains
            parameter.add_(0.3 * noise if parameter.ndim > 1 else 0.1 * noise)
    return model


LETTERS = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?"
MERGES = [("a", "b"), (" ", "x"), ("c", "d")]


def tiny_tokenizer(*, start: bool, end: bool = False) -> tf.PreTrainedTokenizerFast:
    """One token per letter, and three merges that can swallow the end of a prompt."""
    words = ["<pad>", "<bos>", "<eos>", *LETTERS, *("".join(pair) for pair in MERGES)]
    assert len(words) <= VOCAB
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=MERGES))
    tokenizer.decoder = decoders.Fuse()
    opening, closing = ("<bos> " if start else ""), (" <eos>" if end else "")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{opening}$A{closing}", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def token_ids(batch: int = 2, length: int = 12, *, seed: int = 0) -> torch.Tensor:
    """Random token ids (B, T), none of them a special token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (batch, length), generator=generator)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Import it where every model is tiny: on a busy machine a second thread costs tenfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fingerprint(model):
    """The weights by name, to be compared by `assert_unchanged`."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_unchanged(model, before):
    """Weights bit for bit as before, gradients as in a new model, no hook left."""
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name
        assert p.requires_grad and p.grad is None, name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
