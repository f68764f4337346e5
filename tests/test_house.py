"""The rules of the house that a machine can check."""

import ast
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import pytest

import helpers

ROOT = Path(__file__).resolve().parents[1]
HELPERS = ROOT / "helpers"
FILES = sorted(HELPERS.rglob("*.py"))
EACH_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HELPERS)))
COLUMNS = dict(re.findall(r"^    (\w+) \((\d\d)\)", helpers.__doc__, re.M))
FRONT = ("__init__", "__main__")
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


def room(path):
    """The room of a file: its folder in `helpers/`, or its own name there."""
    return path.relative_to(HELPERS).parts[0].removesuffix(".py")


def our_rooms(path):
    """Rooms that a file imports."""
    named = [name.split(".") for name in imports(path)]
    rooms = {room(own) for own in FILES}
    return {parts[1] for parts in named if parts[0] == "helpers" and parts[1:2]} & rooms


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


def test_the_map_of_the_package_names_every_room():
    core = helpers.__doc__.split("Columns")[0]
    listed = {
        name for own in re.findall(r"^    (\S.*?)   ", core, re.M) for name in own.split(", ")
    }
    assert listed | set(COLUMNS) == {room(path) for path in FILES} - set(FRONT)


@EACH_FILE
def test_the_core_imports_the_core_and_a_column_itself_beside(path):
    own = room(path)
    if own not in FRONT:
        assert not (our_rooms(path) & set(COLUMNS)) - {own}


def sources():
    """Path -> code of everything that may use a helper, tests aside; notebooks' code cells too."""
    paths = [*HELPERS.rglob("*.py"), *ROOT.glob("data/*/*.py"), *ROOT.glob("tests/benchmarks/*.py")]
    found = {path: path.read_text("utf-8") for path in paths if path.name != "__init__.py"}
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        found[path] = "\n".join(code)
    return found


def papers(path):
    """The number of the paper that a file belongs to; nothing for the core."""
    if path.is_relative_to(HELPERS):
        return {COLUMNS[room(path)]} if room(path) in COLUMNS else set()
    number = re.search(r"/(\d\d)_", path.as_posix())
    return {number[1]} if number else set()


def public_names():
    """(file, name, words in that file beside the definition) of every public function and class."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body if path.stem not in FRONT else ():
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                yield path, node.name, len(re.findall(rf"\b{node.name}\b", text)) - 1


def test_names_are_used_and_the_cores_by_two_papers_or_by_the_core():
    known, unused, single = sources(), [], []
    for path, name, inside in public_names():
        word = re.compile(rf"\b{name}\b")
        users = [own for own, text in known.items() if own != path and word.search(text)]
        core = inside or any(own.is_relative_to(HELPERS) and not papers(own) for own in users)
        if not users and not inside:
            unused.append(f"{path.stem}.{name}")
        elif room(path) not in COLUMNS and not core and len(set().union(*map(papers, users))) < 2:
            single.append(f"{path.stem}.{name}")
    assert not unused, f"used by tests only: {unused}"
    assert not single, f"in the core, for one paper: {single}"


LIMITS = {"column": 700, "core": 3080}  # the aim for the core is 2700


def test_columns_and_core_stay_small():
    sizes = Counter()
    for path in FILES:
        sizes[room(path) if room(path) in COLUMNS else "core"] += length(path)
    over = {own: n for own, n in sizes.items() if n > LIMITS.get(own, LIMITS["column"])}
    assert not over, over


NUMERIC = ["checks", "plots", "stats", "spectral/fits", "transfer/likeness", "twosample/tests"]


@pytest.mark.parametrize("name", NUMERIC)
def test_numeric_rooms_do_without_torch(name):
    path = HELPERS / f"{name}.py"
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "transformers"}


@EACH_FILE
def test_rooms_stay_small(path):
    assert length(path) <= LIMIT_LINES


@EACH_FILE
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
