"""Verdicts follow their rules, checks never raise, widgets carry a static form."""

import json
import os
import re
from base64 import b64decode
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from nbclient import NotebookClient

from helpers import lesson
from helpers.lesson import VERDICTS, Scorecard, check, explore, predict
from helpers.stats import Estimate

DECLARED = {"paper": "81.3 to 15.1", "source": "project page", "criterion": "CI above 0"}


def above_zero(drop):
    return "reproduced" if drop.low > 0 else "contradicted"


@pytest.fixture
def card():
    card = Scorecard("04", "Massive values")
    card.claim("C1", "Q & K, not V.", **DECLARED, rule=above_zero)
    card.claim("C2", "Low <frequency>.", **DECLARED, rule=lambda share: VERDICTS[share])
    return card


# Scorecard


def test_the_rule_decides(card):
    drop = Estimate(0.5, 0.3, 0.7)
    assert card.judge("C1", ours=drop, reason="all layers", drop=drop) == "reproduced"
    with pytest.raises(TypeError):  # the verdict cannot be typed
        card.judge("C2", ours=None, reason="", verdict="reproduced")
    assert card.judge("C2", ours="none", reason="too small", share=2) == "not at this scale"


def test_scorecard_refuses(card):
    drop = Estimate(0.5, -0.3, 0.7)
    with pytest.raises(ValueError, match=r"'C9' was not declared \(declared: C1, C2\)"):
        card.judge("C9", ours=None, reason="")
    with pytest.raises(ValueError, match="'C1' was already declared"):
        card.claim("C1", "again", **DECLARED, rule=above_zero)
    card.judge("C1", ours=drop, reason="", drop=drop)
    with pytest.raises(ValueError, match="'C1' was already judged"):
        card.judge("C1", ours=drop, reason="", drop=drop)
    with pytest.raises(ValueError, match="'C1' was already judged; a criterion is fixed once"):
        card.claim("C1", "after the fact", **DECLARED, rule=above_zero)
    card.claim("C3", "a rule with a slip", **DECLARED, rule=lambda: "Reproduced")
    with pytest.raises(ValueError, match="'C3' returned 'Reproduced'; it must return one of"):
        card.judge("C3", ours=None, reason="")
    with pytest.raises(TypeError, match="rule of claim 'C4'"):
        card.claim("C4", "no rule", **DECLARED, rule="reproduced")


def test_table_says_the_verdict_in_words(card):
    drop = Estimate(0.5, 0.3, 0.7)
    card.judge("C1", ours=drop, reason="all layers", drop=drop)
    page = card.table()
    table = BeautifulSoup(page._repr_html_(), "html.parser")
    rows = [[cell.get_text() for cell in row.find_all("td")] for row in table.find_all("tr")[1:]]
    heads = [cell.get_text() for cell in table.find_all("th")]
    assert heads == ["claim", "the paper says", "here", "criterion", "verdict", "why"]
    assert rows[0] == [
        "C1 Q & K, not V.",
        "81.3 to 15.1source: project page",
        "0.50 [0.30, 0.70]",
        "CI above 0",
        "✔ reproduced",
        "all layers",
    ]
    assert rows[1][0] == "C2 Low <frequency>." and rows[1][4] == "… not judged"
    assert "C1 reproduced" in repr(page) and "C2 not judged" in repr(page)


def contrast(one, two):
    """WCAG contrast ratio of two colours."""

    def luminance(color):
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
            for c in (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        ]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_verdict_has_a_look_that_a_projector_shows():
    assert set(lesson._LOOKS) == {*VERDICTS, "not judged"}
    signs = [sign for sign, _, _ in lesson._LOOKS.values()]
    assert len(set(signs)) == len(signs)
    assert all(contrast(ink, ground) > 5.5 for _, ink, ground in lesson._LOOKS.values())


def test_write_makes_plain_json(card, monkeypatch, tmp_path):
    monkeypatch.setattr(lesson, "_project_root", lambda: tmp_path)
    drop = Estimate(np.float64(0.5), np.float64(0.3), np.float64(0.7))
    card.judge("C1", ours=drop, reason="all layers", drop=drop)
    card.claim("C3", "odd evidence", **DECLARED, rule=lambda **_: "partly")
    odd = {
        "a": np.arange(2),
        "b": np.float32(0.5),
        "c": np.inf,
        "d": {1: (True, None)},
        "e": np.mean,
    }
    card.judge("C3", ours=None, reason="", **odd)
    path = card.write()
    assert path == tmp_path / "build" / "scorecards" / "04.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    assert (data["number"], data["title"]) == ("04", "Massive values")
    one, two, three = data["claims"]
    assert (one["id"], one["verdict"], one["ours"]) == ("C1", "reproduced", "0.50 [0.30, 0.70]")
    assert one["interval"] == [0.3, 0.7] and one["source"] == "project page"
    assert one["evidence"] == {"drop": {"estimate": 0.5, "low": 0.3, "high": 0.7}}
    assert (two["verdict"], two["ours"], two["interval"]) == ("not judged", None, None)
    evidence = three["evidence"]
    assert evidence.pop("e").startswith("<")
    assert evidence == {"a": [0, 1], "b": 0.5, "c": None, "d": {"1": [True, None]}}
    assert list(path.parent.iterdir()) == [path]


def test_tensors_and_tables_are_evidence(card, monkeypatch, tmp_path):
    monkeypatch.setattr(lesson, "_project_root", lambda: tmp_path)
    card.claim("C3", "other evidence", **DECLARED, rule=lambda **_: "partly")
    half = torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True)
    table = pd.DataFrame({"a": [1, 2]})
    card.judge("C3", ours=None, reason="half an emoji: \ud83d", t=half, table=table, s=table["a"])
    text = card.write().read_text(encoding="utf-8")
    own = json.loads(text)["claims"][-1]
    assert own["evidence"] == {"t": 0.5, "table": [[1], [2]], "s": [1, 2]}
    assert own["reason"] == "half an emoji: \ud83d"


NAN = float("nan")


@pytest.mark.parametrize(
    "evidence",
    [
        NAN,
        np.float32("nan"),
        Estimate(NAN, 0.1, 0.2),
        Estimate(0.1, 0.0, NAN),
        np.array([[1, NAN]]),
        [1, (2, {"deep": [NAN]})],
        {"a": {1.0, NAN}},
        torch.tensor([1, NAN], dtype=torch.bfloat16),
        pd.Series([1, NAN]),
        pd.DataFrame({"a": [1, NAN]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing_is_judged_by_nan(card, evidence):
    asked = []
    card.claim("C3", "any", **DECLARED, rule=lambda **found: asked.append(found) or "reproduced")
    with pytest.raises(ValueError, match="claim 'C3': 'found' holds NaN"):
        card.judge("C3", ours=None, reason="", good=1.0, found=evidence)
    assert not asked
    assert card.judge("C3", ours=None, reason="", found=None, huge=np.inf) == "reproduced"


def test_our_own_number_is_no_nan(card):
    with pytest.raises(ValueError, match="claim 'C1': 'ours' holds NaN"):
        card.judge("C1", ours=Estimate(NAN, NAN, NAN), reason="", drop=Estimate(0.5, 0.3, 0.7))


def test_a_scorecard_is_written_whole_or_not_at_all(card, monkeypatch, tmp_path):
    monkeypatch.setattr(lesson, "_project_root", lambda: tmp_path)
    before = card.write().read_text(encoding="utf-8")
    write = Path.write_text

    def cut_off(self, text, **options):
        write(self, text[:20], **options)
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", cut_off)
    assert card.write() is None
    path = tmp_path / "build" / "scorecards" / "04.json"
    assert path.read_text(encoding="utf-8") == before


def test_write_is_quiet_where_it_cannot(card, monkeypatch, tmp_path):
    monkeypatch.setattr(lesson, "_project_root", lambda: None)
    assert card.write() is None
    (tmp_path / "build").write_text("a file where the folder should be")
    monkeypatch.setattr(lesson, "_project_root", lambda: tmp_path)
    assert card.write() is None


def test_project_root_is_found_from_the_package_or_from_here(monkeypatch, tmp_path):
    (tmp_path / "site" / "helpers").mkdir(parents=True)
    monkeypatch.setattr(lesson, "__file__", str(tmp_path / "site" / "helpers" / "lesson.py"))
    monkeypatch.chdir(tmp_path)
    assert lesson._project_root() is None
    (tmp_path / "pyproject.toml").touch()
    assert lesson._project_root() is None  # anybody's project
    (tmp_path / "notebooks").mkdir()
    assert lesson._project_root() == tmp_path
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(lesson, "__file__", "/nowhere/helpers/lesson.py")
    assert lesson._project_root() == tmp_path


# Checks


@pytest.mark.parametrize(
    ("answer", "options", "sign"),
    [
        (None, {"expect": 3}, "○"),
        (..., {"expect": 3}, "○"),
        (3, {"expect": 3}, "✔"),
        (np.float32(0.1), {"expect": 0.1}, "✔"),
        (0.11, {"expect": 0.1}, "✘"),
        (0.11, {"expect": 0.1, "tolerance": 0.02}, "✔"),
        (0.13, {"expect": 0.1, "tolerance": 0.02}, "✘"),
        (0, {"expect": 0}, "✔"),
        (np.nan, {"expect": 3}, "✘"),
        (1.2, {"expect": (1.2, 1.8)}, "✔"),
        (2, {"expect": (1.2, 1.8)}, "✘"),
        (np.nan, {"expect": (1.2, 1.8)}, "✘"),
        (" Layer 0", {"expect": "layer 0"}, "✔"),
        ("layer 1", {"expect": "layer 0"}, "✘"),
        (5, {"expect": "layer 0"}, "✘"),
        ([1, 2], {"expect": np.array([1, 2])}, "✔"),
        ([1, 2], {"expect": [1, 3]}, "✘"),
        (["a", "b"], {"expect": ["a", "b"]}, "✔"),
        (7, {"expect": lambda x: x > 5}, "✔"),
        (np.array(3), {"expect": lambda x: x > 5}, "✘"),
    ],
)
def test_check(capsys, answer, options, sign):
    assert check("Exercise 1", answer, hint="think of V", **options) is None
    said = capsys.readouterr().out
    assert said.startswith(f"{sign} Exercise 1: ") and said.count("\n") == 1
    assert ("Hint: think of V" in said) == (sign == "✘")


@pytest.mark.parametrize(
    ("answer", "expect", "says"),
    [
        ("three", 3, "could not be compared"),
        ([1, 2], [1, 2, 3], r"its shape is \(2,\), expected is \(3,\)"),
        (object(), (0, 1), "could not be compared"),
        ("a", lambda x: x > 5, "not supported"),
        (print, 3, "could not be compared"),
        ([[1], [2, 3]], 3, "could not be compared"),
    ],
)
def test_check_never_raises_on_a_strange_answer(capsys, answer, expect, says):
    check("Exercise 1", answer, expect=expect, hint="a number")
    said = capsys.readouterr().out
    assert re.search(says, said) and said.startswith("✘") and "Hint: a number" in said


# Widgets


@pytest.fixture
def shown(monkeypatch):
    """The bundles that were displayed."""
    bundles = []
    monkeypatch.setattr(lesson, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


@pytest.fixture
def box(monkeypatch):
    """The last box of widgets that was made."""
    made = []
    real = widgets.VBox

    def keep(*args, **kwargs):
        made.append(real(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(lesson.widgets, "VBox", keep)
    return lambda: made[-1]


def wave(layer, which):
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([layer, 2])
    ax.set_title(which)
    if layer == 3:
        raise ZeroDivisionError("no layer 3")
    return figure


def test_explore_redraws_and_leaves_a_picture(shown, box):
    explore(wave, layer=(0, 4), which=["q", "k"])
    slider, menu, image, status = box().children
    (bundle,) = shown
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == box().model_id
    assert b64decode(bundle["image/png"]) == bytes(image.value)
    assert slider.description == "layer" and not slider.continuous_update
    first = bytes(image.value)
    assert first.startswith(b"\x89PNG")
    slider.value = 1
    second = bytes(image.value)
    menu.value = "k"
    assert len({first, second, bytes(image.value)}) == 3
    slider.value = 3
    assert "ZeroDivisionError: no layer 3" in status.value
    slider.value = 2
    menu.value = "q"
    assert bytes(image.value) == first and status.value == ""
    assert not plt.get_fignums()


@pytest.mark.parametrize("kind", ["figure", "axes", "nothing", "no pyplot"])
def test_explore_takes_any_figure(shown, box, kind):
    def draw(x):
        if kind == "no pyplot":
            figure = plt.Figure(figsize=(1, 1))
            figure.subplots().plot([0, x])
            return figure
        figure, ax = plt.subplots(figsize=(1, 1))
        ax.plot([0, x])
        return {"figure": figure, "axes": ax, "nothing": None}[kind]

    mine = plt.figure()  # a reader's figure stays as it is
    explore(draw, x=widgets.FloatSlider(0.5, description="dose"))
    assert box().children[0].description == "dose"
    assert plt.get_fignums() == [mine.number]
    assert len(box().children[1].value) > 500
    plt.close("all")


def test_explore_refuses(shown):
    with pytest.raises(ValueError, match="control 'x' is neither"):
        explore(wave, x=object())
    with pytest.raises(ZeroDivisionError):  # the author sees a fault of the default picture
        explore(wave, layer=widgets.fixed(3), which=["q"])


def test_predict_reveals_after_a_guess(shown, box):
    predict("Where?", ["in Q", "in <V>"], answer="in Q", because="RoPE & co.")
    _, choice, button, verdict = box().children
    assert button.disabled and verdict.value == ""
    choice.value = "in <V>"
    assert not button.disabled
    button.click()
    assert verdict.value == "✘ Not quite. The answer: <b>in Q.</b> RoPE &amp; co."
    choice.value = "in Q"
    button.click()
    assert verdict.value.startswith("✔ Right:")
    with pytest.raises(ValueError, match="'in K' is not one of"):
        predict("Where?", ["in Q"], answer="in K", because="")


CELLS = [
    "import matplotlib.pyplot as plt\n"
    "from helpers.lesson import Scorecard, check, explore, predict",
    "def draw(x):\n    return plt.subplots()[1].plot([0, x])[0].axes\nexplore(draw, x=(0, 3))",
    "predict('Where?', ['in Q', 'in V'], answer='in Q', because='RoPE.')",
    "card = Scorecard('99', 'Test')\n"
    "card.claim('C1', 's', paper='p', source='o', criterion='c', rule=lambda: 'partly')\n"
    "card.judge('C1', ours=None, reason='r');",
    "card.table()",
    "check('Exercise 1', ..., expect=3, hint='h')",
]


def test_in_a_notebook_each_display_is_one_output(monkeypatch, tmp_path):
    monkeypatch.delenv("MPLBACKEND")  # the kernel's own inline backend, as in class
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    root = os.path.dirname(os.path.dirname(lesson.__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    quiet, explorer, guess, judged, table, said = (cell.outputs for cell in notebook.cells)
    assert quiet == judged == []
    view = "application/vnd.jupyter.widget-view+json"
    assert len(explorer) == len(guess) == len(table) == len(said) == 1
    assert {"image/png", view} <= set(explorer[0].data)
    assert {"text/html", view} <= set(guess[0].data)
    assert "<details>" in guess[0].data["text/html"]
    assert {"text/html", "text/plain"} == set(table[0].data)
    assert said[0].name == "stdout"
    assert not re.search("0x[0-9a-f]{6}", json.dumps([cell.outputs for cell in notebook.cells]))
