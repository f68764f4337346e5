"""Artefacts are whole, registered, and compared with their registered hash when they are read."""

import ast
import copy
import json
import pickle
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import artefacts, data, editing, models

ROOT = data.DATA.parent
HOMES = sorted(data.DATA.glob("[0-9][0-9]_*/"))
ENTRIES = {(home, name): entry for home in HOMES for name, entry in data.registered(home).items()}
EACH_HOME = pytest.mark.parametrize("home", HOMES, ids=lambda home: home.name)
EACH_ARTEFACT = pytest.mark.parametrize(
    ("home", "name"), list(ENTRIES), ids=lambda own: getattr(own, "name", own)
)
READERS = {
    ".json": data.read_json,
    ".csv": lambda path: pd.read_csv(data.verified(path)),
    ".safetensors": artefacts.stored_weights,
}


def flipped(content):
    """One bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def other_digit(content):
    """The last digit is another one: still valid JSON, CSV or safetensors."""
    place = max(content.rfind(b"%d" % digit) for digit in range(10))
    return (
        content[:place]
        + (b"2" if content[place : place + 1] == b"1" else b"1")
        + content[place + 1 :]
    )


DAMAGES = {
    "flipped": flipped,
    "other digit": other_digit,
    "cut off": lambda content: content[: len(content) * 9 // 10],
    "line endings": lambda content: content.replace(b"\n", b"\r\n") + b"\r\n",
}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A `data/` of our own with one paper, a cache folder, and a recipe that seems to run."""
    monkeypatch.setattr(data, "DATA", tmp_path / "data")
    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path / "cache")
    home = tmp_path / "data" / "08_eighth"
    home.mkdir(parents=True)
    monkeypatch.setattr("sys.argv", [str(home / "make_numbers.py"), "part", "backwards"])
    return home


@EACH_HOME
def test_a_registry_lists_exactly_the_committed_artefacts(home):
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "."],
        cwd=home,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git work tree")
    others = (".py", ".md", ".toml", data.REGISTRY)
    files = {name for name in listed.stdout.split("\0") if name and not name.endswith(others)}
    assert set(data.registered(home)) == {name for name in files if (home / name).is_file()}


@EACH_ARTEFACT
def test_an_artefact_is_what_its_recipe_wrote(home, name):
    entry = ENTRIES[home, name]
    assert set(entry) == {"sha256", "made_by"}
    assert data.verified(home / name) == home / name
    program, recipe, *_ = entry["made_by"].split()
    assert program == "hand," or (program == "python" and (ROOT / recipe).is_file())
    assert program == "hand," or (ROOT / recipe).parent == home


@EACH_ARTEFACT
def test_a_damaged_artefact_is_named_with_the_command_that_makes_it(house, home, name):
    there = data.DATA / home.name
    (there / name).parent.mkdir(parents=True)
    (there / data.REGISTRY).write_bytes((home / data.REGISTRY).read_bytes())
    for damage in DAMAGES.values():
        (there / name).write_bytes(damage((home / name).read_bytes()))
        with pytest.raises(ValueError, match="was damaged or edited") as error:
            READERS[Path(name).suffix](there / name)
        assert f"data/{home.name}/{name}" in str(error.value)
        assert str(error.value).endswith(ENTRIES[home, name]["made_by"])


def renamed(tensors):
    first, *_ = tensors
    return {own.swapcase() if own == first else own: tensors[own] for own in tensors}


def of_no_numbers(tensors):
    return {name: torch.full_like(own, float("nan")) for name, own in tensors.items()}


@pytest.mark.parametrize("damage", [renamed, of_no_numbers])
@pytest.mark.parametrize(
    ("home", "name"),
    [own for own in ENTRIES if own[1].endswith(".safetensors")],
    ids=lambda own: getattr(own, "name", own),
)
def test_weights_that_would_still_load_are_refused(house, home, name, damage):
    there = data.DATA / home.name
    (there / name).parent.mkdir(parents=True)
    (there / data.REGISTRY).write_bytes((home / data.REGISTRY).read_bytes())
    save_file(damage(load_file(home / name)), there / name)
    for read in (artefacts.stored_weights, data.verified):
        with pytest.raises(ValueError, match=f"{name} was damaged or edited"):
            read(there / name)


@pytest.mark.parametrize("content", [b'{"a": "\xff"}', "{}".encode("utf-16")])
def test_json_of_another_encoding_is_named(house, tmp_path, content):
    artefacts.write(house / "numbers.json", {"a": 1})
    (house / "numbers.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"08_eighth/numbers\.json was damaged or edited"):
        data.read_json(house / "numbers.json")
    (tmp_path / "mine.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.json must be saved as UTF-8"):
        data.read_json(tmp_path / "mine.json")
    (house / data.REGISTRY).write_bytes(content)  # the registry itself
    with pytest.raises(ValueError, match=r"artefacts\.json must be saved as UTF-8"):
        data.read_json(house / "numbers.json")


@EACH_HOME
def test_the_readme_lists_every_artefact_with_its_command(home):
    text = (home / "README.md").read_text(encoding="utf-8")
    for name, entry in data.registered(home).items():
        file, command = (re.sub(r"[a-z]+\d-\d+m", "MODEL", own) for own in (name, entry["made_by"]))
        assert f"`{file.rpartition('/')[0] or file}" in text, name
        assert command.split(", ")[0] in text, name


def paths_in_data(cell):
    """(path, name of the function that takes it) of all paths that a cell makes out of DATA."""
    for node in ast.walk(ast.parse(cell)):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.BinOp) and not isinstance(node, ast.BinOp):
                path = ast.unparse(child)
                if path.startswith(("DATA / ", "data.folder", "data.DATA")):
                    yield path, getattr(getattr(node, "func", None), "attr", None)


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_reads_artefacts_by_what_compares_them(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    found = [own for cell in code for own in paths_in_data(cell)]
    assert len(found) >= 3
    readers = {"read_json", "verified", "load_edits", "task_items", "load"}  # of vision, transfer
    assert not [own for own in found if own[1] not in readers]


def test_damage_is_found_by_the_readers_of_single_papers(house):
    """They go through the same two: records, a folder of files, and models of one file."""
    artefacts.write(house / "records.json", [{"prompt": "a"}])
    artefacts.write(house / "adapter" / "log.json", [1, 2])
    for file in (house / "records.json", house / "adapter" / "log.json"):
        file.write_text(file.read_text().replace("1", "7").replace("prompt", "Prompt"))
    for read, path in ((editing.load_edits, "records.json"), (data.verified, "adapter")):
        with pytest.raises(ValueError, match="damaged or edited"):
            read(house / path)


def test_what_a_recipe_writes_is_registered_and_read_back(house):
    artefacts.write(house / "numbers.json", {"word": "Łódź"})
    artefacts.write_weights(house / "models" / "1.safetensors", {"T0": {"w": torch.ones(2)}})
    with artefacts.replacing(house / "adapter") as aside:
        aside.mkdir()
        (aside / "log.json").write_text("[]")
    assert data.read_json("08_eighth/numbers.json") == {"word": "Łódź"}
    assert artefacts.stored_weights(house / "models" / "1.safetensors")["T0"]["w"].tolist() == [
        1,
        1,
    ]
    assert data.verified(house / "adapter") == house / "adapter"
    found = data.registered(house)
    assert list(found) == ["adapter/log.json", "models/1.safetensors", "numbers.json"]
    made_by = "python data/08_eighth/make_numbers.py part"
    assert {entry["made_by"] for entry in found.values()} == {made_by}
    assert [path.name for path in house.rglob("*.tmp")] == []
    assert (house / "models" / "1.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_new_version_replaces_file_folder_and_entry(house):
    for content in ("old", "new"):
        artefacts.write(house / "numbers.json", content)
        assert data.read_json(house / "numbers.json") == content
        with artefacts.replacing(house / "adapter") as aside:
            aside.mkdir()
            (aside / f"{content}.json").write_text("[]")
    assert [path.name for path in (house / "adapter").iterdir()] == ["new.json"]
    assert list(data.registered(house)) == ["adapter/new.json", "numbers.json"]


def test_a_failure_leaves_the_old_version(house):
    artefacts.write(house / "numbers.json", "old")
    with pytest.raises(OSError, match="full"), artefacts.replacing(house / "numbers.json") as aside:
        aside.write_text("half")
        raise OSError("disk full")
    assert data.read_json(house / "numbers.json") == "old"
    assert sorted(path.name for path in house.iterdir()) == [data.REGISTRY, "numbers.json"]


def test_two_writers_lose_no_entry(house):
    names = [f"{i}.json" for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: artefacts.write(house / name, name), names))
    assert [data.read_json(house / name) for name in names] == names


def test_files_elsewhere_are_written_and_read_without_a_registry(house, tmp_path):
    artefacts.write(tmp_path / "kept.json", [1])
    assert data.read_json(tmp_path / "kept.json") == [1]
    assert not list(tmp_path.rglob(data.REGISTRY))


def test_missing_and_unknown_files_are_named(house):
    artefacts.write(house / "numbers.json", [1])
    (house / "numbers.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"data/08_eighth/numbers\.json is not here; .*part$"
    ):
        data.read_json(house / "numbers.json")
    with pytest.raises(FileNotFoundError, match=r"other\.json is not here"):
        data.read_json(house / "other.json")
    (house / "other.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"other\.json is no artefact: artefacts\.json there"):
        data.read_json(house / "other.json")


def test_a_file_is_compared_once_until_it_changes(house, monkeypatch):
    compared = []
    real = data.file_sha256
    artefacts.write(house / "numbers.json", [1])
    monkeypatch.setattr(data, "file_sha256", lambda path: compared.append(path) or real(path))
    for _ in range(3):
        data.read_json(house / "numbers.json")
    assert len(compared) == 1
    (house / "numbers.json").write_text("[1, 2]\n")
    with pytest.raises(ValueError, match="damaged or edited"):
        data.read_json(house / "numbers.json")


def test_git_changes_no_line_ending_of_an_artefact():
    found = subprocess.run(
        ["git", "check-attr", "text", "--", "data/01_cknowedit/grid.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        pytest.skip("not a git work tree")
    assert found.stdout.endswith("text: unset\n")


# Records


def test_a_missing_key_is_named_with_its_file():
    seeds = data.read_json(data.folder("06") / "numbers.json")["seeds"]
    with pytest.raises(KeyError) as error:
        seeds["3"]
    assert error.value.args == (
        "'3' is not in data/06_neural_incompatibility/numbers.json "
        "(has '10', '11', '12', '13', '14', '15', '16', '17', ...)",
    )
    with pytest.raises(KeyError, match=r"'h', \.\.\.\)"):
        data.Record(dict.fromkeys("abcdefghij"), "x.json")["z"]


def test_a_record_is_a_dict_in_all_else():
    plain = {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 4}}
    record = data.Record({key: data.Record(own, "n.json") for key, own in plain.items()}, "n.json")
    assert record == plain and isinstance(record, dict) and list(record.items()) == [*plain.items()]
    assert record.get("c") is None and "c" not in record and {**record} == plain
    assert json.dumps(record) == json.dumps(plain)
    pd.testing.assert_frame_equal(pd.DataFrame(record), pd.DataFrame(plain))
    # pandas takes an unknown value of a dict as missing, but not that of one with __missing__
    found = pd.Series(["a", "c"]).map(data.Record({"a": 1}, "n.json"))
    pd.testing.assert_series_equal(found, pd.Series(["a", "c"]).map({"a": 1}))
    for again in (copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert again == plain
        with pytest.raises(KeyError, match=r"n\.json"):
            again["c"]
