"""CONTRIBUTING.md keeps its promise: a tiny eighth lesson is found by its number alone."""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_house import ROOT, project_files

STEM = "08_eighth_paper"
CLAIMS = """
title = "An eighth paper"

[claim.C1]
whose = "paper"
statement = "One and one is two"
paper = "2"
source = "paper, table 1"
criterion = "the sum is 2: reproduced; else: contradicted"

[prediction.P1]
question = "What is one and one?"
options = ["two", "eleven"]
answer = "two"
because = "It is a sum."
"""
EXERCISES = """
from helpers.lesson import Exercise, equals

EXERCISES = {1: Exercise(equals(lambda: 2), "Not that.", "1 + 1")}
"""
CELLS = [
    "from helpers.lesson import Exercises, Scorecard\n\n"
    'card = Scorecard("08")\ncheck = Exercises("08")',
    'card.predict("P1")',
    'card.claim("C1", otherwise="contradicted")',
    'card.judge("C1", ours="2", reason="counted", same=1 + 1 == 2)',
    "check(1, ...);",
    "card.write()\ncard.table()",
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project with a lesson more, its notebook not executed yet."""
    root = tmp_path_factory.mktemp("project")
    for path in project_files():
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    folder = root / "data" / STEM
    folder.mkdir()
    (folder / "README.md").write_text("# Made for a test\n", encoding="utf-8")
    (folder / "claims.toml").write_text(CLAIMS.lstrip(), encoding="utf-8")
    (folder / "exercises.py").write_text(EXERCISES.lstrip(), encoding="utf-8")
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# An eighth paper"),
            new_code_cell("SEED = 0", metadata={"tags": ["parameters"]}),
            *map(new_code_cell, CELLS),
        ]
    )
    nbformat.write(notebook, root / "notebooks" / f"{STEM}.ipynb")
    return root


def python(root, *arguments):
    """A run of this Python in the copy, with its helpers."""
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )


@pytest.mark.weights
def test_an_eighth_lesson_needs_nothing_central(copy):
    for arguments in (
        ["-m", "helpers", "notebooks", "08"],
        ["-m", "pytest", "-q", "tests/test_house.py"],
        ["-m", "pytest", "-q", "tests/test_notebooks.py", "-k", STEM],
        ["-m", "pytest", "-q", "tests/test_more.py", "-m", "more", "-k", "seed and 08"],
        ["-m", "helpers", "run", "08"],
    ):
        done = python(copy, *arguments)
        assert done.returncode == 0, (arguments, done.stdout[-3000:], done.stderr[-3000:])
    page = (copy / "build" / f"{STEM}.html").read_text(encoding="utf-8")
    assert "One and one is two" in page and "reproduced" in page
    assert f"{STEM}.html" in (copy / "build" / "index.html").read_text(encoding="utf-8")
