"""The recipes of notebook 01 and what they wrote."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from families import build, one_thread, tiny_tokenizer, token_ids  # noqa: F401
from pypinyin import Style, pinyin
from scipy.stats import friedmanchisquare

from helpers import data, editing, models
from helpers.editing import rank_one

HERE = data.folder("01")


@pytest.mark.parametrize("name", ["records", "probes"])
def test_chinese_data_are_those_of_their_recipe(name, monkeypatch, tmp_path):
    stored, recipe = data.read_json(HERE / f"{name}.json"), data.module("01", f"make_{name}")
    monkeypatch.setattr(recipe, "HERE", tmp_path)
    recipe.main()
    assert json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")) == stored


def test_no_chinese_edit_stands_twice():
    stored = data.read_json(HERE / "records.json")
    assert len(stored) == 48 == len({own["id"] for own in stored})
    assert len({own["prompt"] for own in stored}) == 48


def reading_in(word, char):
    return pinyin(word, style=Style.TONE)[word.index(char)][0]


def test_readings_are_those_of_pypinyin():
    for own in data.read_json(HERE / "probes.json")["polyphones"]:
        for word in (own["word"], *own["same"]):
            assert reading_in(word, own["char"]) == own["new"], word
        for word in own["other"]:
            assert reading_in(word, own["char"]) == own["old"], word


def test_readings_of_the_records_are_those_of_pypinyin_but_for_one_known_trap():
    wrong = []
    for own in data.read_json(HERE / "records.json"):
        if own["type"] not in ("pinyin", "phonetic misunderstanding"):
            continue
        asked = [(own["prompt"], own["target_new"])]
        asked += [(p["prompt"], p["answer"]) for p in own["portability"] + own["locality"][:1]]
        for prompt, answer in asked:
            word, char = re.findall("“(.+?)”", prompt)[:2]
            if reading_in(word, char) != answer:
                wrong.append(word)
    # pypinyin reads these as grown, zhǎng; the queue and the road are long, cháng
    assert set(wrong) <= {"打疫苗的队好长", "这条路好长"}


@pytest.mark.parametrize("own", data.read_json(HERE / "records.json"), ids=lambda own: own["id"])
def test_a_chinese_edit_can_be_made_and_tested(own):
    assert own["subject"] in own["prompt"] and own["gloss"]
    assert own["target_new"] != own["target_old"] and own["target_new"] not in own["prompt_qa"][-3:]
    assert len(own["rephrase"]) == 2 and own["portability"] and len(own["locality"]) >= 2
    asked = [own["prompt"], *own["rephrase"]]
    asked += [item["prompt"] for item in own["portability"] + own["locality"]]
    assert len(set(asked)) == len(asked)
    assert all(text and text == text.strip() for text in asked)


# Edits of notebook 01


@pytest.fixture(scope="module")
def edits_recipe():
    return data.module("01", "make_numbers")


def test_two_processes_share_the_steps_of_a_recipe(edits_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)
    made = []

    def task(name):
        made.append(name)
        return name.upper()

    tasks = {name: (lambda name=name: task(name)) for name in "abc"}
    here, there = (edits_recipe.Steps("work", {"v": 1}) for _ in range(2))
    monkeypatch.setattr("sys.argv", ["edits.py", "grid", "backwards"])
    there.run("c", tasks["c"])
    assert here.run_all(tasks) == {"a": "A", "b": "B", "c": "C"}
    assert made == ["c", "b", "a"]
    assert there.run_all(tasks) == {"a": "A", "b": "B", "c": "C"} and len(made) == 3
    other = edits_recipe.Steps("work", {"v": 2})
    assert other.run("a", tasks["a"]) == "A" and len(made) == 4


def test_rates_of_a_report_are_those_of_its_roles(edits_recipe):
    rows = [
        ["edit", "k", 1, 1.0, 1.0, -0.1],
        ["rephrase", "k", 1, 1.0, 1.0, -0.1],
        ["rephrase", "k", 0, 0.5, 0.0, -2.0],
        ["portability", "k", 0, 0.0, 0.0, -4.0],
        ["locality", "k", 0, 0.0, 0.0, -4.0, 1.0, 0.2],
        ["locality", "k", 1, 1.0, 1.0, -1.0, 0.0, 3.0],
    ]
    assert edits_recipe.rates(rows) == [1, 0.5, 0, 0.5]


def test_a_couplet_is_edited_in_both_directions(edits_recipe):
    own = {"title": "春晓", "first": "夜来风雨声", "second": "花落知多少", "gloss": "g"}
    forward, backward = (edits_recipe.couplet(own, way) for way in (False, True))
    assert (forward.subject, forward.target_new) == ("夜来风雨声", "花落知多少")
    assert (backward.subject, backward.target_new) == ("花落知多少", "夜来风雨声")
    assert forward.portability[0][:2] == (backward.prompt, backward.target_new)
    assert backward.portability[0][:2] == (forward.prompt, forward.target_new)
    assert "后面" in forward.rephrase[0] and "前面" in backward.rephrase[0]
    assert [p.kind for p in forward.portability] == ["reverse", "title"]
    sequel = edits_recipe.couplet({k: v for k, v in own.items() if k != "title"}, False)
    assert [p.kind for p in sequel.portability] == ["reverse"]
    for edit in (forward, backward):
        assert edit.subject in edit.prompt and len(edit.locality) == 2


TINY_EDIT = editing.Edit(
    "1",
    "kind",
    "Q of ABC is",
    "ABC",
    "zK",
    "q",
    ("ABC: Q is",),
    (editing.Probe("Q of DEF is", "zK", "other"),),
    (editing.Probe("Quite another", "zK", "far"),),
)
TINY_SETTINGS = {
    "FT-L": {"layer": 2, "box": 1e-3},
    "FT-M": {"layer": 2, "lr": 1e-2},
    "LoRA": {"lr": 1e-2},
    "AdaLoRA": {"lr": 1e-2, "steps": 8},
    "AdaLoRA as released": {"lr": 1e-2, "steps": 8},
    "ROME without C": {"layer": 1, "essence": False},
    "ROME": {"layer": 1, "essence": False, "prefixes": ["", "a. "], "steps": 5},
    "AlphaEdit": {"layer": 1, "essence": False, "tolerance": 0.5},
    "GRACE": {"layer": 1, "radius": 1e-3},
    "in context": {"template": "{prompt}{target} not {old} "},
}


def test_every_method_of_the_recipe_is_measured_and_undone(edits_recipe, monkeypatch):
    bench = object.__new__(edits_recipe.Bench)
    bench.model, bench.tokenizer = build("llama"), tiny_tokenizer(start=True)
    bench.moments, bench.spectra = {}, {}
    monkeypatch.setattr(bench, "background", lambda *args: token_ids(8, 20), raising=False)
    monkeypatch.setattr(
        edits_recipe.editing,
        "cached_moment",
        lambda *args, start: rank_one.Moment(*rank_one.second_moment(*args, start=start), 0.0),
    )
    before = {name: p.clone() for name, p in bench.model.state_dict().items()}
    report, held = bench.report(TINY_EDIT), {}
    found = {
        method: bench.measure(TINY_EDIT, method, own, report, held=held)
        for method, own in TINY_SETTINGS.items()
    }
    for method, own in found.items():
        assert [len(row) for row in own["rows"]] == [6, 6, 6, 8], method
        assert own["seconds"] >= 0 and all(np.isfinite(edits_recipe.rates(own["rows"])))
    for method in ("FT-L", "FT-M", "ROME", "AlphaEdit"):
        assert found[method]["norm"] > 0
    assert len(held) == 2  # AlphaEdit and ROME without C share their value
    assert found["AlphaEdit"]["loss"] == found["ROME without C"]["loss"]
    now = bench.model.state_dict()
    assert list(now) == list(before) and all(torch.equal(now[k], before[k]) for k in before)


def test_the_published_table_has_its_known_means_wins_and_tests():
    table = pd.read_csv(HERE / "published_table.csv")
    assert len(table) == 28 * 6
    means = table.groupby("method")[["ES", "Gen", "Por", "Loc"]].mean()
    assert means.loc["Pre"].tolist() == pytest.approx([4.18, 4.10, 3.83, 6.86], abs=0.011)
    assert means.loc["AdaLoRA"].tolist() == pytest.approx([7.96, 7.50, 5.86, 5.41], abs=0.011)
    edited = table[table["method"] != "Pre"]
    for score, wins, statistic in (("ES", 20, 45.27), ("Loc", 3, 7.98)):
        wide = edited.pivot_table(index=["model", "kind"], columns="method", values=score).dropna()
        assert (wide.idxmax(axis=1) == "AdaLoRA").sum() == wins
        assert friedmanchisquare(*wide.to_numpy().T).statistic == pytest.approx(statistic, abs=0.01)


def test_the_settings_were_chosen_on_the_development_split_by_their_mean(edits_recipe):
    stored = data.read_json(HERE / "search.json")
    assert set(stored["chosen"]) == set(edits_recipe.GRIDS) == set(stored["table"])
    for method, rows in stored["table"].items():
        assert [row["settings"] for row in rows] == edits_recipe.GRIDS[method]
        means = [np.mean(row["rates"]) for row in rows]
        assert stored["chosen"][method] == rows[int(np.argmax(means))]["settings"]


def test_a_stored_edit_is_made_again(edits_recipe, gemma3, monkeypatch):
    stored = data.read_json(HERE / "grid.json")
    bench = object.__new__(edits_recipe.Bench)
    bench.model, bench.tokenizer = gemma3
    (edit,) = [edit for edit in edits_recipe.split("test") if edit.subject == "岳麓书院"]
    before = bench.report(edit)
    found = bench.measure(edit, "FT-M", stored["settings"]["FT-M"], before)
    for now, then in zip(found["rows"], stored["edits"][edit.id]["FT-M"]["rows"], strict=True):
        assert now[:2] == then[:2]
        assert now[5] == pytest.approx(then[5], abs=0.05)


def test_artefacts_of_notebook_01_are_complete(edits_recipe):
    grid = data.read_json(HERE / "grid.json")["edits"]
    assert list(grid) == [edit.id for edit in edits_recipe.split("test")]
    methods = set(edits_recipe.GRIDS) - set(edits_recipe.RANDOM) | {"LoRA 0", "LoRA 1", "AdaLoRA 0"}
    assert all(methods <= set(own) for own in grid.values())
    for some in ("AdaLoRA 1", "AdaLoRA as released", "tokens", "said"):
        assert sum(some in own for own in grid.values()) == 12
    probes, verse = (data.read_json(HERE / f"{n}.json") for n in ("probes", "verse"))
    for part in ("couplets", "sequels"):
        assert list(verse[part]) == [own["first"] for own in probes[part]]
    assert len(data.read_json(HERE / "readings.json")["characters"]) == len(probes["polyphones"])
    assert len(data.read_json(HERE / "published.json")["edits"]) == 40
    assert len(data.read_json(HERE / "diagnosis.json")["rows"]) == 1854


def test_no_published_record_is_stored(tutorials_data):
    stored = "".join(
        (HERE / f"{name}.json").read_text(encoding="utf-8") for name in ("diagnosis", "published")
    )
    for edit in editing.load_edits(tutorials_data / "cknowedit"):
        assert edit.prompt not in stored
        assert len(edit.target_new) < 4 or edit.target_new not in stored
