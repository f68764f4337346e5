"""`make bench` survives its parts: each is a process, rows are kept as they come."""

import importlib.util
import json

import pytest

from helpers import __main__ as front

HERE = front.ROOT / "tests" / "benchmarks"
FAKE = """
import os, pathlib, time

def row(name):
    print("chatter")
    return [{"benchmark": name, "ours": 1.0, "peer": 2.0, "ratio": 2.0, "unit": "s", "note": "n"}]

def dies():
    os._exit(9)

def fails():
    raise ValueError("the peer is ill")

def fills():
    block = bytearray(400 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    time.sleep(20)

def sleeps():
    time.sleep(20)

PARTS = {"good": lambda: row("first"), %s"last": lambda: row("second")}
"""


@pytest.fixture
def bench(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("bench_front", HERE / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    return module


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("dies", "bench_a dies ended with status 9"),
        ("fails", "bench_a fails ended with status 1: ValueError: the peer is ill"),
        ("fills", "bench_a fills ended: it took more than 0.2 GiB of memory"),
        ("sleeps", "bench_a sleeps ended: it took 3 seconds"),
    ],
)
def test_a_part_that_dies_is_named_and_the_others_go_on(
    bench, tmp_path, monkeypatch, capsys, part, says
):
    monkeypatch.setattr(bench, "LIMIT_GIB", 0.2)
    monkeypatch.setattr(bench, "LIMIT_SECONDS", 3)
    (tmp_path / "bench_a.py").write_text(FAKE % f'"{part}": {part}, ')
    assert bench.main(tmp_path) == 1
    said = capsys.readouterr()
    assert says in said.err and "chatter" not in said.out
    assert "first" in said.out and "second" in said.out and "1 part(s) failed" in said.out
    kept = (tmp_path / "build" / "benchmarks.jsonl").read_text().splitlines()
    assert [json.loads(line)["part"] for line in kept] == ["bench_a good", "bench_a last"]
    (tmp_path / "bench_a.py").write_text(FAKE % f'"{part}": lambda: row("mended"), ')
    assert bench.main(tmp_path) == 0  # goes on with what is missing
    said = capsys.readouterr().out
    assert "mended" in said and "first" not in said
    assert bench.main(tmp_path) == 0  # a whole run is there: all anew
    assert "first" in capsys.readouterr().out


def test_every_benchmark_has_parts(bench):
    for path in HERE.glob("bench_*.py"):
        assert bench.part_names(path)
