"""The Makefile's environments: one at a time, and made anew where they are of no use any more."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_house import ROOT

# A Python whose environments are copies of it; it runs code, but installs and executes nothing.
FAKE = f"""#!/bin/sh
case "$*" in
"-c "*) exec '{sys.executable}' "$@" ;;
"-m venv "*) echo venv >> log; sleep 0.3; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
"-m pip "*) echo pip >> log; sleep 0.5; test ! -e fail || exit 1; echo end >> log ;;
*) echo "$*" >> log ;;
esac
"""

# These tests may run under a make of their own.
ENV = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "a project"
    root.mkdir()
    for name in ("Makefile", "requirements.txt", "requirements-bench.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    fake = tmp_path / "python"
    fake.write_text(FAKE, encoding="utf-8")
    fake.chmod(0o755)
    return root


def make(root, *, target="run"):
    command = ["make", target, f"PYTHON={root.parent / 'python'}"]
    return subprocess.run(command, cwd=root, env=ENV, capture_output=True, text=True, timeout=60)


def log(root):
    """What the fake Pythons did since the last call."""
    lines = (root / "log").read_text().split("\n")[:-1]
    (root / "log").unlink()
    return lines


MADE = ["venv", "pip", "end"]
RUN = ["-m helpers run"]


def test_an_environment_is_made_once(project):
    assert make(project).returncode == 0
    assert log(project) == MADE + RUN
    assert make(project).returncode == 0
    assert log(project) == RUN


def test_changed_requirements_complete_an_environment(project):
    make(project)
    later = time.time() + 2  # as precise as the clock of any file system
    os.utime(project / "requirements.txt", (later, later))
    log(project)
    assert make(project).returncode == 0
    assert log(project) == ["pip", "end", *RUN]


def lose_python(project):
    (project / ".venv" / "bin" / "python").unlink()


def lose_target(project):
    lose_python(project)
    (project / ".venv" / "bin" / "python").symlink_to(project / "python3.99")


def lose_packages(project):
    (project / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")


def move(project):
    (project / ".venv" / ".installed").write_text("/elsewhere\n")


def interrupt(project):
    (project / ".venv" / ".installed").rename(project / ".venv" / ".installing")


@pytest.mark.parametrize("fault", [lose_python, lose_target, lose_packages, move, interrupt])
def test_an_environment_of_no_use_is_made_anew(project, fault):
    make(project)
    log(project)
    fault(project)
    assert make(project).returncode == 0
    assert log(project) == MADE + RUN
    assert not (project / ".venv" / ".installing").exists()


def test_makes_at_once_make_one_environment(project):
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(make, [project] * 4))
    assert [result.returncode for result in results] == [0] * 4
    assert sorted(log(project)) == sorted(MADE + 4 * RUN)
    waited = ["Another make is setting up an environment" in result.stdout for result in results]
    assert any(waited)


def test_makes_at_once_try_in_turn_when_the_index_fails(project):
    (project / "fail").touch()
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(make, [project] * 2))
    assert [result.returncode for result in results] == [2, 2]
    assert log(project) == ["venv", "pip"] * 2
    (project / "fail").unlink()
    assert make(project).returncode == 0


def test_a_killed_make_leaves_no_lock(project):
    killed = subprocess.Popen(
        ["make", "run", f"PYTHON={project.parent / 'python'}"],
        cwd=project,
        env=ENV,
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "pip install" in killed.stdout.readline()
    subprocess.run(["kill", "-9", "--", f"-{killed.pid}"], check=True)
    killed.communicate()
    log(project)
    assert make(project).returncode == 0
    assert log(project) == MADE + RUN


def test_without_a_usable_python_a_sentence_names_what_is_needed(project):
    (project.parent / "python").unlink()
    result = make(project)
    assert result.returncode and "Python 3.11 or newer is needed" in result.stderr
