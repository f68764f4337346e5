"""Tiny models of families beyond the promised ones, each with something that the ten do not have.

`build("lfm2")` as in `families`. What is special stands in the name of the groups below; a test of
one kind of trouble runs over its group.
"""

from __future__ import annotations

import torch
import transformers as tf
from families import CONTEXT, VOCAB, WINDOW
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn

_TOKENS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SHAPE = _TOKENS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_ALTERNATING = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
_GEMMA = {"head_dim": 8, "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}

# name -> (configuration class, arguments)
CONFIGS = {
    # layers that do not rotate among layers that do
    "smollm3": ("SmolLM3Config", _SHAPE | {"no_rope_layer_interval": 2}),
    "cohere2": ("Cohere2Config", _SHAPE | _ALTERNATING),
    "exaone4": ("Exaone4Config", _SHAPE | _ALTERNATING),
    # a rotary embedding that is applied in another way
    "gemma3n": (
        "Gemma3nTextConfig",
        _SHAPE
        | _ALTERNATING
        | _GEMMA
        | {"laurel_rank": 4, "num_kv_shared_layers": 1, "activation_sparsity_pattern": [0.0] * 4},
    ),
    "gemma4": (
        "Gemma4TextConfig",
        _SHAPE | _ALTERNATING | _GEMMA | {"global_head_dim": 8, "num_kv_shared_layers": 0},
    ),
    # experts
    "mixtral": ("MixtralConfig", _SHAPE | {"num_local_experts": 4}),
    "qwen2moe": (
        "Qwen2MoeConfig",
        _SHAPE | _EXPERTS | {"shared_expert_intermediate_size": 24},
    ),
    "gptoss": (
        "GptOssConfig",
        _SHAPE
        | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6},
    ),
    "llama4": (
        "Llama4TextConfig",
        _SHAPE
        | {
            "head_dim": 8,
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 8,
        },
    ),
    "deepseek3": (
        "DeepseekV3Config",
        _SHAPE
        | {
            "num_key_value_heads": 4,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    # attention in some layers, something recurrent in the others (or beside it)
    "jamba": (
        "JambaConfig",
        _SHAPE
        | {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "bamba": (
        "BambaConfig",
        _SHAPE | _MAMBA | {"attn_layer_indices": [1, 3], "mamba_expand": 2, "attn_rotary_emb": 8},
    ),
    "falconh1": (
        "FalconH1Config",
        _SHAPE | _MAMBA | {"mamba_d_ssm": 32, "mamba_d_head": 8, "head_dim": 8},
    ),
    "lfm2": (
        "Lfm2Config",
        _SHAPE | {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    ),
    "qwen3next": (
        "Qwen3NextConfig",
        _SHAPE
        | _EXPERTS
        | {
            "head_dim": 8,
            "shared_expert_intermediate_size": 16,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "granitehybrid": (  # and without any positions
        "GraniteMoeHybridConfig",
        _SHAPE
        | _MAMBA
        | {
            "num_local_experts": 0,
            "shared_intermediate_size": 48,
            "layer_types": ["mamba", "attention"] * 2,
            "position_embedding_type": "nope",
        },
    ),
    "zamba2": (
        "Zamba2Config",
        _SHAPE
        | {
            "num_key_value_heads": 4,
            "attention_head_dim": 16,
            "mamba_d_state": 8,
            "mamba_headdim": 16,
            "mamba_ngroups": 1,
            "n_mamba_heads": 4,
            "chunk_size": 8,
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "num_mem_blocks": 1,
            "use_mem_rope": True,
            "adapter_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "minimax": (
        "MiniMaxConfig",
        _SHAPE
        | {
            "head_dim": 8,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "block_size": 8,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    # attention that goes round transformers' interface
    "falcon": ("FalconConfig", _SHAPE),
    # others
    "bigcode": (
        "GPTBigCodeConfig",
        _TOKENS | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "multi_query": True},
    ),
    "modernbert": (
        "ModernBertDecoderConfig",
        _TOKENS
        | {
            "cls_token_id": 1,
            "sep_token_id": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "local_attention": 6,
        },
    ),
}
UNROTATED = ("smollm3", "cohere2", "exaone4")
ROTATED_OTHERWISE = ("gemma3n", "gemma4", "deepseek3")
EXPERTS = ("mixtral", "qwen2moe", "gptoss", "llama4", "deepseek3")
HYBRIDS = (
    "jamba",
    "bamba",
    "falconh1",
    "lfm2",
    "qwen3next",
    "granitehybrid",
    "zamba2",
    "minimax",
)


def build(name: str, *, seed: int = 0) -> nn.Module:
    """A fresh tiny causal model in eval mode; global random state is left alone."""
    kind, arguments = CONFIGS[name]
    config = getattr(tf, kind)(**arguments)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tf.AutoModelForCausalLM.from_config(config).eval().float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_((0.2 if parameter.ndim > 1 else 0.1) * noise)
    return model


def spaced_tokenizer() -> tf.PreTrainedTokenizerFast:
    """As SentencePiece does for Llama 2: every text gets a ▁ in front, 是北 is one token."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,"
    words = ["<pad>", "<bos>", "<eos>", "▁", *letters, *"中国首都是北京巴黎法德天地", "是北"]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("是", "北")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
