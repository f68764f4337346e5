"""The rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = sorted((ROOT / "helpers").glob("*.py"))
EACH_ROOM = pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)

GROUND_FLOOR = ["stats", "twosample", "spectral", "similarity", "models", "data", "plots", "scenes"]
# In the order of the design: a room of an upper floor imports only rooms before it.
UPPER_FLOORS = [
    "wordsets",
    "hooks",
    "attention",
    "masks",
    "logits",
    "lm",
    "answers",
    "toy",
    "coordinates",
    "transfer",
    "vq",
    "iem",
    "probing",
    "bundles",
    "rank_one",
    "editing",
    "lesson",
]
LIMIT_LINES = 400
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users)/\w")


def imports(path):
    """Names of all modules that a file imports, ours as `helpers.room`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["helpers" if node.level else "", node.module]))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def our_rooms(path):
    rooms = {room.stem for room in ROOMS}
    named = (name.split(".") for name in imports(path))
    return {
        parts[1] for parts in named if parts[0] == "helpers" and parts[1:2] and parts[1] in rooms
    }


def length(path):
    """Lines with code or docstring; blank lines and comments are free."""
    filler = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in filler | {tokenize.ENCODING, tokenize.ENDMARKER}:
                lines |= set(range(token.start[0], token.end[0] + 1))
    source = path.read_text(encoding="utf-8").splitlines()
    return sum(1 for number in lines if source[number - 1].strip())


def project_files():
    """Every file that is, or is about to be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git work tree")
    return [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


@EACH_ROOM
def test_imports_go_down(path):
    room = path.stem
    if room == "__main__":
        return
    if room == "__init__" or room in GROUND_FLOOR:
        allowed = set()
    else:
        assert room in UPPER_FLOORS, f"{room} stands on no floor: give it its place in this test"
        allowed = {*GROUND_FLOOR, *UPPER_FLOORS[: UPPER_FLOORS.index(room)]}
    assert our_rooms(path) <= allowed


@pytest.mark.parametrize("room", ["stats", "twosample", "spectral", "plots"])
def test_numeric_rooms_do_without_torch(room):
    path = ROOT / "helpers" / f"{room}.py"
    if not path.exists():
        pytest.skip("not built yet")
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "transformers"}


@EACH_ROOM
def test_rooms_stay_small(path):
    assert length(path) <= LIMIT_LINES


@EACH_ROOM
def test_no_pickle_is_loaded(path):
    loaders = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not {name.split(".")[0] for name in imports(path)} & loaders
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in {"torch.load", "pd.read_pickle", "pandas.read_pickle"}
        assert not (isinstance(node, ast.keyword) and node.arg == "allow_pickle")


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_is_content(command):
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-bench.txt"])
def test_requirements_are_pinned_exactly(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wanted = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
    assert wanted
    for requirement in wanted:
        exact = re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", requirement)
        assert exact or requirement == "-e .", requirement


def test_no_path_of_one_machine():
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = MACHINE_PATH.search(text)
        assert not found, f"{path.relative_to(ROOT)}: {text[found.start() : found.start() + 60]!r}"
