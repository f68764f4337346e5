"""Verdicts follow their rules, checks tell right from wrong, widgets carry a static form."""

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

import helpers
from helpers import data
from helpers.lesson import (
    VERDICTS,
    Exercise,
    Exercises,
    Mistake,
    Scorecard,
    agrees,
    equals,
    explore,
    page,
    scorecard,
)
from helpers.lesson import exercises as exercise_room
from helpers.lesson import widgets as widget_room
from helpers.stats import Estimate

WORDS = """
title = "Massive values"

[claim.C1]
whose = "paper"
statement = "Q & K, not V."
paper = "81.3 to 15.1"
source = "project page"
criterion = "CI above 0"

[claim.C2]
whose = "ours"
statement = "Low <frequency>."
paper = "-"
source = "ours"
criterion = "a share"

[claim.C3]
whose = "ours"
statement = "Anything else."
paper = "-"
source = "ours"
criterion = "any"

[prediction.where]
question = "Where?"
options = ["in Q", "in <V>"]
answer = "in Q"
because = "RoPE & co."
"""


def above_zero(drop):
    return "reproduced" if drop.low > 0 else "contradicted"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The folder of a lesson 04 of its own."""
    folder = tmp_path / "data" / "04_lesson"
    folder.mkdir(parents=True)
    (folder / "claims.toml").write_text(WORDS, encoding="utf-8")
    monkeypatch.setattr(data, "DATA", folder.parent)
    return folder


@pytest.fixture
def shown(monkeypatch):
    """The bundles that were displayed."""
    bundles = []
    for room in (page, widget_room):
        monkeypatch.setattr(
            room, "display", lambda bundle, raw, metadata=None: bundles.append(bundle)
        )
    return bundles


@pytest.fixture
def card(folder, shown):
    card = Scorecard("04")
    card.claim("C1", rule=above_zero)
    card.claim("C2", rule=lambda share: VERDICTS[share])
    return card


# Scorecard


def test_the_rule_decides(card, shown):
    drop = Estimate(0.5, 0.3, 0.7)
    card.judge("C1", ours=drop, reason="all layers", drop=drop)
    assert card.verdict("C1") == "reproduced" and card.verdict("C2") == "not judged"
    with pytest.raises(TypeError):  # the verdict cannot be typed
        card.judge("C2", ours=None, reason="", verdict="reproduced")
    card.judge("C2", ours="none", reason="too small", share=2)
    assert card.verdict("C2") == "not at this scale"
    boxes = [BeautifulSoup(own["text/html"], "html.parser").text for own in shown]
    assert len(boxes) == 4
    for words in ("C1", "the paper's claim", "Q & K, not V.", "81.3 to 15.1", "CI above 0"):
        assert words in boxes[0]
    assert "our claim" in boxes[1] and "reproduced" not in boxes[0]
    assert "reproduced" in boxes[2] and "Q & K, not V." in boxes[2] and "0.50" in boxes[2]
    assert shown[3]["text/plain"] == (
        "○ C2 not at this scale: Low <frequency>.\n  here: none; too small"
    )


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        ({"a": True, "b": np.True_}, "reproduced"),
        ({"a": False, "b": True}, "partly"),
        ({"a": False, "b": False}, "contradicted"),
    ],
)
def test_the_usual_rule(card, evidence, verdict):
    card.claim("C3", otherwise="contradicted")
    card.judge("C3", ours=None, reason="", **evidence)
    assert card.verdict("C3") == verdict


def test_the_usual_rule_refuses_other_evidence(card):
    card.claim("C3", otherwise="contradicted")
    with pytest.raises(ValueError, match=r"'C3': evidence must be True or False; got \{'a': 0.5\}"):
        card.judge("C3", ours=None, reason="", a=0.5)
    with pytest.raises(ValueError, match="'C3': evidence must be"):
        card.judge("C3", ours=None, reason="")


def test_a_skipped_claim_has_no_verdict(card, monkeypatch, tmp_path):
    monkeypatch.setattr(scorecard, "_project_root", lambda: tmp_path)
    card.skip("C1", "stored for the default models only")
    assert card.verdict("C1") == "not judged"
    assert "stored for the default" in card.table()._repr_html_()
    assert json.loads(card.write().read_text("utf-8"))["claims"][0]["verdict"] == "not judged"


def test_scorecard_refuses(card):
    drop = Estimate(0.5, -0.3, 0.7)
    with pytest.raises(ValueError, match=r"'C9' was not declared \(declared: C1, C2\)"):
        card.judge("C9", ours=None, reason="")
    with pytest.raises(ValueError, match=r"'C9' is not in claims.toml \(there: C1, C2, C3\)"):
        card.claim("C9", rule=above_zero)
    with pytest.raises(ValueError, match="'C1' was already declared"):
        card.claim("C1", rule=above_zero)
    card.judge("C1", ours=drop, reason="", drop=drop)
    with pytest.raises(ValueError, match="'C1' was already judged"):
        card.judge("C1", ours=drop, reason="", drop=drop)
    with pytest.raises(ValueError, match="'C1' was already judged"):
        card.skip("C1", "no")
    with pytest.raises(ValueError, match="'C1' was already judged; a criterion is fixed once"):
        card.claim("C1", rule=above_zero)
    for both in ({}, {"rule": above_zero, "otherwise": "partly"}):
        with pytest.raises(ValueError, match="'C3' needs either a `rule` or `otherwise`"):
            card.claim("C3", **both)
    with pytest.raises(ValueError, match="`otherwise` must be one of"):
        card.claim("C3", otherwise="false")
    with pytest.raises(TypeError, match="rule of claim 'C3'"):
        card.claim("C3", rule="reproduced")
    card.claim("C3", rule=lambda: "Reproduced")
    with pytest.raises(ValueError, match="'C3' returned 'Reproduced'; it must return one of"):
        card.judge("C3", ours=None, reason="")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('title = "Massive values"', "", "04_lesson/claims.toml: field 'title' is missing"),
        ("title =", "title", "04_lesson/claims.toml is not valid TOML"),
        ('paper = "81.3 to 15.1"', "", "claim C1: field 'paper' is missing"),
        ('criterion = "CI above 0"', "criterion = 0", "claim C1: field 'criterion' has the"),
        ('whose = "paper"', 'whose = "theirs"', "claim C1: `whose` is 'theirs'"),
        ('answer = "in Q"', 'answer = "in K"', "prediction where: the answer 'in K' is not among"),
        ('because = "RoPE & co."', "", "prediction where: field 'because' is missing"),
    ],
)
def test_faulty_words_are_named(folder, old, new, says):
    (folder / "claims.toml").write_text(WORDS.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(says)):
        Scorecard("04")


def test_table_says_the_verdict_in_words(card):
    drop = Estimate(0.5, 0.3, 0.7)
    card.judge("C1", ours=drop, reason="all layers", drop=drop)
    table = BeautifulSoup(card.table()._repr_html_(), "html.parser")
    assert [cell.get_text() for cell in table.find_all("th")] == [
        "verdict",
        "claim",
        "in a sentence",
    ]
    one, two = table.tbody.find_all("tr")
    folded = one.details.extract()
    assert [cell.get_text().strip() for cell in one.find_all("td")] == [
        "✔ reproduced",
        "C1 Q & K, not V. (the paper's claim)",
        "all layers",
    ]
    for words in ("0.50", "81.3 to 15.1", "source: project page", "CI above 0"):
        assert words in folded.text
    assert not folded.has_attr("open")
    assert "… not judged" in two.text and "C2 Low <frequency>. (our claim)" in two.text
    assert "reproduced | C1" in repr(card.table()) and "not judged | C2" in repr(card.table())


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
    assert set(scorecard._LOOKS) == {*VERDICTS, "not judged"}
    signs = [sign for sign, _, _ in scorecard._LOOKS.values()]
    assert len(set(signs)) == len(signs)
    assert all(contrast(ink, ground) > 5.5 for _, ink, ground in scorecard._LOOKS.values())


def test_write_makes_plain_json(card, monkeypatch, tmp_path):
    monkeypatch.setattr(scorecard, "_project_root", lambda: tmp_path)
    drop = Estimate(np.float64(0.5), np.float64(0.3), np.float64(0.7))
    card.judge("C1", ours=drop, reason="all layers", drop=drop)
    card.claim("C3", rule=lambda **_: "partly")
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
    monkeypatch.setattr(scorecard, "_project_root", lambda: tmp_path)
    card.claim("C3", rule=lambda **_: "partly")
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
    card.claim("C3", rule=lambda **found: asked.append(found) or "reproduced")
    with pytest.raises(ValueError, match="claim 'C3': 'found' holds NaN"):
        card.judge("C3", ours=None, reason="", good=1.0, found=evidence)
    assert not asked
    card.judge("C3", ours=None, reason="", found=None, huge=np.inf)
    assert card.verdict("C3") == "reproduced"


def test_our_own_number_is_no_nan(card):
    with pytest.raises(ValueError, match="claim 'C1': 'ours' holds NaN"):
        card.judge("C1", ours=Estimate(NAN, NAN, NAN), reason="", drop=Estimate(0.5, 0.3, 0.7))


def test_a_scorecard_is_written_whole_or_not_at_all(card, monkeypatch, tmp_path):
    monkeypatch.setattr(scorecard, "_project_root", lambda: tmp_path)
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
    monkeypatch.setattr(scorecard, "_project_root", lambda: None)
    assert card.write() is None
    (tmp_path / "build").write_text("a file where the folder should be")
    monkeypatch.setattr(scorecard, "_project_root", lambda: tmp_path)
    assert card.write() is None


def test_project_root_is_found_from_the_package_or_from_here(monkeypatch, tmp_path):
    (tmp_path / "site" / "helpers").mkdir(parents=True)
    monkeypatch.setattr(scorecard, "__file__", str(tmp_path / "site" / "helpers" / "lesson.py"))
    monkeypatch.chdir(tmp_path)
    assert scorecard._project_root() is None
    (tmp_path / "pyproject.toml").touch()
    assert scorecard._project_root() is None  # anybody's project
    (tmp_path / "notebooks").mkdir()
    assert scorecard._project_root() == tmp_path
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(scorecard, "__file__", "/nowhere/helpers/lesson.py")
    assert scorecard._project_root() == tmp_path


# Exercises


def mean_of(x):
    return np.asarray(x).mean(0)


EXERCISES = {
    1: Exercise(
        equals(lambda x: x.sum(), within=1e-3),
        "Think of all entries.",
        "x.sum()",
        [Mistake(equals(lambda x: x.mean()), "That is a mean.", "Do not divide.")],
    ),
    2: Exercise(
        equals(lambda: mean_of, probes=[(np.eye(3),), (np.arange(6.0).reshape(3, 2),)]),
        "Look at the axis.",
        "mean(0)",
        [Mistake(equals(lambda: lambda x: x.mean(1), probes=[(np.eye(3),)]), "Rows?", "axis 0")],
    ),
    3: Exercise(lambda answer, low: low < answer < 1, "Too far.", "Between the two."),
    "4a": Exercise(equals(lambda: {"q", "k"}), "Two of three.", "q and k"),
}


@pytest.fixture
def check(monkeypatch, shown):
    room = type("room", (), {"EXERCISES": EXERCISES})
    monkeypatch.setattr(data, "module", lambda number, name: room)
    return Exercises("04")


X = np.arange(4.0).reshape(2, 2)


@pytest.mark.parametrize(
    ("id", "answer", "context"),
    [
        (1, 6, {"x": X}),
        (1, 6.0005, {"x": X}),
        (1, np.array([6.0]), {"x": X}),
        (1, torch.tensor(6.0, requires_grad=True), {"x": X}),
        (2, lambda x: x.sum(0) / len(x), {}),
        (2, lambda x: torch.tensor(x).mean(0), {}),
        (2, lambda x: [sum(column) / len(column) for column in x.T], {}),
        (3, 0.7, {"low": 0.5}),
        ("4a", ["k", "q"], {}),
    ],
)
def test_every_form_of_the_right_answer_passes(check, shown, capsys, id, answer, context):
    assert check(id, answer, **context) is True
    assert capsys.readouterr().out == f"✔ Exercise {id}: right.\n" and not shown


def changes_its_argument(x):
    x *= 0
    return x.mean(0)


@pytest.mark.parametrize(
    ("id", "answer", "context", "kind"),
    [
        (1, 1.5, {"x": X}, "That is a mean."),
        (1, 7, {"x": X}, "Think of all entries."),
        (1, np.nan, {"x": X}, "Think of all entries."),
        (1, "six", {"x": X}, "Your answer stopped with ValueError"),
        (1, [6, 6], {"x": X}, "Think of all entries."),
        (2, lambda x: x.mean(1), {}, "Rows?"),
        (2, lambda x: x.mean(), {}, "Look at the axis."),
        (2, changes_its_argument, {}, "Look at the axis."),
        (2, lambda x: 1 / 0, {}, "Your answer stopped with ZeroDivisionError: division by zero"),
        (2, 5, {}, "Your answer stopped with TypeError"),
        (3, 0.4, {"low": 0.5}, "Too far."),
        ("4a", "qk", {}, "Two of three."),
        ("4a", ["q"], {}, "Two of three."),
    ],
)
def test_wrong_answers_are_named_and_never_raise(check, shown, id, answer, context, kind):
    assert check(id, answer, **context) is False
    (bundle,) = shown
    assert bundle["text/plain"].startswith(f"✘ Exercise {id}: not yet. {kind}")
    hint = BeautifulSoup(bundle["text/html"], "html.parser")
    how = hint.details.extract().text
    assert kind in hint.text and not how.isspace()
    assert EXERCISES[id].how in how or EXERCISES[id].mistakes[0].how in how


@pytest.mark.parametrize("stub", [None, ..., (..., ...), (1, ...), (np.ones(2), ...)])
def test_a_stub_is_not_wrong(check, shown, capsys, stub):
    assert check(1, stub, x=X) is False
    assert capsys.readouterr().out == "○ Exercise 1: not answered yet.\n" and not shown


@pytest.mark.parametrize(
    ("answer", "wanted", "same"),
    [
        (" Layer 0", "layer 0", True),
        (5, "layer 0", False),
        (torch.ones(2, dtype=torch.bfloat16), [1, 1], True),
        (pd.Series([1, 2]), [1, 2], True),
        (np.array([np.nan, 1]), np.array([np.nan, 1]), True),
        ([1, np.nan], [1, 2], False),
        ({"a": 1.0}, {"a": 1}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ([(1, 2), 3], [(1, 2), 3], True),
        ([(1, 2), 4], [(1, 2), 3], False),
        ((np.eye(2), 1.0), (np.eye(2), 1.0), True),
        (["a", "b"], ["a", "b"], True),
        (True, 1, True),
        (np.ones((2, 1)), np.ones(2), False),
    ],
)
def test_close(answer, wanted, same):
    assert exercise_room.close(answer, wanted, 1e-6) is same


def test_agrees(capsys):
    agrees("losses", torch.tensor([1.0, 2.0]), [1.0, 2.004], within=0.01)
    assert capsys.readouterr().out == "2 losses agree: largest difference 0.004, allowed 0.01\n"
    for live in ([1.0, 2.1], [1.0, np.nan], [1.0]):
        with pytest.raises(AssertionError, match="losses"):
            agrees("losses", live, [1.0, 2.0], within=0.01)


# Widgets


@pytest.fixture
def box(monkeypatch):
    """The last box of widgets that was made."""
    made = []
    real = widgets.VBox

    def keep(*args, **kwargs):
        made.append(real(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(widget_room.widgets, "VBox", keep)
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


def test_the_docstring_of_a_drawing_is_the_alternative_text_of_its_picture(monkeypatch):
    def documented(layer):
        """A falling line
        and its end."""
        return wave(layer, "q")

    seen = []
    monkeypatch.setattr(widget_room, "display", lambda bundle, **more: seen.append(more))
    explore(documented, layer=(0, 2))
    explore(wave, layer=(0, 2), which=["q"])
    assert seen[0]["metadata"] == {"image/png": {"alt": "A falling line and its end."}}
    assert seen[1]["metadata"] == {}


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


def test_predict_reveals_after_a_guess(card, box, shown):
    card.predict("where")
    _, choice, button, verdict = box().children
    assert button.disabled and verdict.value == ""
    choice.value = "in <V>"
    assert not button.disabled
    button.click()
    assert verdict.value == "✘ Not quite. The answer: <b>in Q.</b> RoPE &amp; co."
    choice.value = "in Q"
    button.click()
    assert verdict.value.startswith("✔ Right:")
    static = BeautifulSoup(shown[-1]["text/html"], "html.parser")
    assert static.details.extract().p.text == "in Q. RoPE & co."  # folded, and nowhere else
    assert "RoPE" not in static.text and "RoPE" not in shown[-1]["text/plain"]
    with pytest.raises(ValueError, match=r"'who' is not in claims.toml \(there: where\)"):
        card.predict("who")


CELLS = [
    "import matplotlib.pyplot as plt\n"
    "from pathlib import Path\n"
    "from helpers import data\n"
    "from helpers.lesson import Exercises, Scorecard, explore\n"
    "data.DATA = Path('data').resolve()",
    "def draw(x):\n    return plt.subplots()[1].plot([0, x])[0].axes\nexplore(draw, x=(0, 3))",
    "card = Scorecard('04')\ncard.predict('where')",
    "card.claim('C1', rule=lambda: 'partly')",
    "card.judge('C1', ours=None, reason='r')",
    "card.table()",
    "check = Exercises('04')\ncheck(1, ...);",
    "check(1, 4);",
]


def test_in_a_notebook_each_display_is_one_output(monkeypatch, tmp_path, folder):
    monkeypatch.delenv("MPLBACKEND")  # the kernel's own inline backend, as in class
    (folder / "exercises.py").write_text(
        "from helpers.lesson import Exercise, equals\n"
        "EXERCISES = {1: Exercise(equals(lambda: 3), 'kind', 'how')}\n"
    )
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    root = os.path.dirname(os.path.dirname(helpers.__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    quiet, explorer, guess, claim, judged, table, said, wrong = (
        cell.outputs for cell in notebook.cells
    )
    assert quiet == []
    view = "application/vnd.jupyter.widget-view+json"
    for outputs in (explorer, guess, claim, judged, table, said, wrong):
        assert len(outputs) == 1
    assert {"image/png", view} <= set(explorer[0].data)
    assert {"text/html", view} <= set(guess[0].data)
    assert "<details>" in guess[0].data["text/html"]
    for outputs in (claim, judged, table, wrong):
        assert {"text/html", "text/plain"} == set(outputs[0].data)
    assert said[0].name == "stdout"
    assert not re.search("0x[0-9a-f]{6}", json.dumps([cell.outputs for cell in notebook.cells]))
