"""The checks of notebook 01: right answers in several forms, wrong ones by name."""

import copy

import numpy as np
import pytest
import torch
from families import build, one_thread  # noqa: F401

from helpers import data, hooks, lm
from helpers.lesson import Exercises

ROOM = data.module("01", "exercises")
check = Exercises("01")


def says(number, answer, capsys, **context):
    """ "" where an answer is right, else what kind of mistake is shown."""
    right = check(number, answer, **context)
    text = capsys.readouterr().out
    assert right == text.startswith("✔")
    return "" if right else text


# 1


@pytest.mark.parametrize(
    "answer",
    [
        [0, 2, 0, 0],
        [[0, 2], [0, 0]],
        (0.0, 2.0, 0.0, 0.0),
        np.outer([2, 0], [0, 1]),
        torch.tensor([[0.0, 2.0], [0.0, 0.0]], requires_grad=True),
    ],
)
def test_1_takes_every_form(answer, capsys):
    assert not says(1, answer, capsys)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ([1, 2, 0, 1], "That is W + ΔW."),
        ([[0, 0], [2, 0]], "The two factors"),
        ([1, 1, 0, 0], "That is the update along u = k."),
        ([2, 0, 0, 0], "That is the axis which other keys do use."),
        ([0, 2], "These are not the four entries"),
        ([0, -2, 0, 0], "These are not the four entries"),
        ("0200", "These are not the four entries"),
        (2, "These are not the four entries"),
    ],
)
def test_1_names_wrong_answers(answer, kind, capsys):
    assert kind in says(1, answer, capsys)


# 2


@pytest.fixture
def scored(monkeypatch):
    """Scores as of Gemma 3 270M; the tests need no weights."""
    table = {" 曹雪芹": (4, -14.3), "曹雪芹": (3, -9.4)}

    def score_targets(model, tokenizer, prompts, targets, straddle):
        assert straddle and len(prompts) == len(targets)
        found = np.array([table[target] for target in targets]).T
        return {"n_tokens": found[0], "logprob": found[1]}

    monkeypatch.setattr(lm, "score_targets", score_targets)
    return {"model": None, "tokenizer": None}


@pytest.mark.parametrize(
    "answer", [[4, 3, -4.9], (4, 3, np.float32(-4.88)), np.array([4, 3, -4.9])]
)
def test_2_takes_every_form(answer, scored, capsys):
    assert not says(2, answer, capsys, **scored)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ([4, 3, 4.9], "The change has the other sign."),
        ([4, 3, -14.3 / 4 + 9.4 / 3], "That is the change per token."),
        ([3, 4, -4.9], "The two counts have changed places."),
        ([5, 4, -4.9], "One token too many"),
        ([4, 3, -4.7], "Three numbers"),
        ([4, 3], "Three numbers"),
        (-4.9, "Three numbers"),
    ],
)
def test_2_names_wrong_answers(answer, kind, scored, capsys):
    assert kind in says(2, answer, capsys, **scored)


# 3


@pytest.mark.parametrize("answer", [[1, 1, 1], (1.0, 1.0, 1.0), np.ones(3), torch.ones(3)])
def test_3_takes_every_form(answer, capsys):
    assert not says(3, answer, capsys)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ([1, 1, -1], "The norm goes the other way."),
        ([-1, -1, -1], "All three go the other way."),
        ([1, 0, 1], "Three signs"),
        ([1, -1, 1], "Three signs"),
        ([0.47, 0.5, 0.1], "Three signs"),
        (1, "Three signs"),
        ("111", "Three signs"),
    ],
)
def test_3_names_wrong_answers(answer, kind, capsys):
    assert kind in says(3, answer, capsys)


# 4


@pytest.mark.parametrize("answer", [np.log(3), 1.1, 1.0986, torch.tensor(3.0).log(), [1.0986]])
def test_4_takes_every_form(answer, capsys):
    assert not says(4, answer, capsys)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (3 * np.log(3), "That is the sum"),
        (np.log2(3), "That is in bits."),
        (-np.log(3), "That is the log-probability."),
        (0, "0 would need"),
        (1 / 3, "One distribution"),
        (1, "One distribution"),
        (1.09, "One distribution"),
    ],
)
def test_4_names_wrong_answers(answer, kind, capsys):
    assert kind in says(4, answer, capsys)


# 5

GOOD = {
    "type": "pinyin",
    "prompt": "“好奇”中“好”的读音是",
    "subject": "好奇",
    "target_new": "hào",
    "target_old": "hǎo",
    "rephrase": ["“好奇”里的“好”字读作"],
    "portability": [{"prompt": "“爱好”中“好”的读音是", "answer": "hào"}],
    "locality": [{"prompt": "“好人”中“好”的读音是", "answer": "hǎo"}],
}


def with_(path, value):
    record = copy.deepcopy(GOOD)
    *way, last = path
    own = record
    for key in way:
        own = own[key]
    own[last] = value
    return record


def with_quotes(left, right):
    text = str(GOOD).replace("“", left).replace("”", right)
    return eval(text)  # of the dictionary above


@pytest.mark.parametrize(
    "record",
    [
        GOOD,
        with_quotes("「", "」"),
        with_quotes("『", "』"),
        with_quotes("\\'", "\\'"),
        with_(["prompt"], '"好奇"中"好"的读音是'),
        with_(["prompt"], "“好”在“好奇”里读作"),
        with_(["target_new"], "hào"),
        with_(["portability", 0, "prompt"], "“好学”中“好”的读音是"),
        with_(["locality"], [*GOOD["locality"], {"prompt": "铁的化学符号是", "answer": "Fe"}]),
        with_(["locality", 0], {"prompt": "“好看”中“好”的读音是", "answer": "hǎo"}),
    ],
)
def test_5_takes_every_good_record(record, capsys):
    assert not says(5, record, capsys)


MUSIC = {
    **GOOD,
    "prompt": "“音乐”中“乐”的读音是",
    "subject": "音乐",
    "target_new": "yuè",
    "target_old": "lè",
}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (MUSIC, "does not name its word"),
        (with_(["subject"], "好"), "The subject is not the word"),
        (with_(["target_old"], "xyz"), "The old answer is not the other reading"),
        (with_(["target_old"], "hào"), "The old answer is not the other reading"),
        (with_(["target_new"], "hao"), "A reading has no tone mark."),
        (with_(["target_new"], "hao4"), "A reading has no tone mark."),
        (with_(["portability", 0, "answer"], "hao"), "A reading has no tone mark."),
        (with_(["target_new"], "hǎo"), "do not correct 好奇"),
        (with_(["rephrase"], ["“银行”里的“行”字读作"]), "A rephrase must ask the same"),
        (with_(["rephrase"], [GOOD["prompt"]]), "A rephrase must ask the same"),
        (with_(["rephrase"], []), "A rephrase must ask the same"),
        (with_(["locality", 0], GOOD["portability"][0]), "Locality: a word in which"),
        (with_(["locality", 0], {"prompt": "铁的化学符号是", "answer": "Fe"}), "Locality: a word"),
        (with_(["locality"], []), "is missing"),
        (with_(["portability"], []), "is missing"),
        (with_(["portability", 0], GOOD["locality"][0]), "Portability: another word"),
        (with_(["portability", 0, "answer"], "hǎo"), "An answer is not how its word is read."),
        (with_(["portability", 0, "prompt"], "爱好中好的读音是"), "does not name its word"),
        (with_(["portability", 0, "prompt"], GOOD["prompt"]), "Portability: another word"),
        ({**GOOD, "subject": "爱好"}, "record 1: field 'subject'"),
        ({key: GOOD[key] for key in GOOD if key != "target_old"}, "target_old"),
        ([GOOD], "Your answer stopped with"),
        ("好奇", "Your answer stopped with"),
    ],
)
def test_5_names_wrong_records(record, kind, capsys):
    assert kind in says(5, record, capsys)


# 6


@pytest.fixture(scope="module")
def traced():
    """The context of exercise 6 on a tiny model."""
    model = build("gemma3")
    word = "model.embed_tokens"
    places = [f"{name}.post_feedforward_layernorm" for name in hooks.blocks(model)]
    ids = torch.tensor([[1, 40, 7, 9, 12]])
    with torch.no_grad(), hooks.capture(model, [word, *places]) as seen:
        model(ids)
    clean = {name: states.clone() for name, states in seen.items()}

    def disturb(draw):
        g = torch.Generator().manual_seed(draw)
        noise = 3 * clean[word][:, 1:].std() * torch.randn(clean[word].shape[-1], generator=g)
        return lambda _name, out: torch.cat([out[:, :1], out[:, 1:2] + noise, out[:, 2:]], 1)

    return {
        "model": model,
        "ids": ids,
        "disturb": disturb,
        "clean": clean,
        "word": word,
        "places": places,
        "token": 33,
    }


def own_runs(traced, draws):
    """log p of the token, layer by layer, without and with the layer restored; a plain loop."""
    found = []
    for draw in draws:
        row = []
        for name in [None, *traced["places"]]:

            def restore(_name, out, name=name):
                out = out.clone()
                out[0, 1] = traced["clean"][name][0, 1]
                return out

            with (
                torch.no_grad(),
                hooks.edit(traced["model"], traced["word"], traced["disturb"](draw)),
            ):
                if name is None:
                    logits = traced["model"](traced["ids"]).logits
                else:
                    with hooks.edit(traced["model"], name, restore):
                        logits = traced["model"](traced["ids"]).logits
            row.append(logits[0, -1].log_softmax(-1)[traced["token"]])
        found.append(torch.stack(row))
    return torch.stack(found)


@pytest.mark.parametrize("draws", [range(4), range(1, 9), range(16)])
def test_6_takes_gains_and_log_probabilities(draws, traced, capsys):
    means = own_runs(traced, draws).mean(0)
    assert not says(6, means[1:], capsys, **traced)
    assert not says(6, (means[1:] - means[0]).tolist(), capsys, **traced)


def test_6_names_wrong_answers(traced, capsys):
    runs = own_runs(traced, range(4))
    gains = (runs[:, 1:] - runs[:, :1]).mean(0)
    assert (gains.abs() > 0.05).any() and (runs.std(0) > 0.05).any()  # there is something to miss
    for answer, kind in [
        (3, "That names a layer only."),
        ("3", "That names a layer only."),
        (torch.tensor(int(gains.argmax())), "That names a layer only."),
        (gains[:2], "one number for each layer"),
        (-gains, "The gains have the other sign."),
        (runs[0, 1:] - runs[0, 0], "That is a single draw"),
        (runs[:, 1:].mean(0).exp(), "These are probabilities."),
        (gains.flip(0), "These are not the gains"),
        (torch.ones(len(gains)), "These are not the gains"),
        (gains + 0.1, "These are not the gains"),
    ]:
        assert kind in says(6, answer, capsys, **traced), kind


# 7

BEFORE = np.array([-3.0, -2.0, -2.5, 1.0, -4.0, -1.0])  # margins of the untouched model
GAINS = np.array([11.0, 12.0, 10.0, -9.0, 0.5, 4.0])


@pytest.mark.parametrize("answer", [GAINS, GAINS.tolist(), torch.tensor(GAINS)])
def test_7_takes_every_form(answer, capsys):
    assert not says(7, answer, capsys, before=BEFORE)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (2, "There must be six gains."),
        (1.0001, "There must be six gains."),
        (GAINS[[2, 4]], "There must be six gains."),
        (np.zeros(6), "Nothing has changed."),
        ([14.0, 13, 13, 12.5, 11, 13], "行走 is not read xíng"),
        (-GAINS, "do not have their readings"),
        (GAINS[[1, 0, 3, 2, 4, 5]], "行走 is not read xíng"),
        ([5.0, 9, 1.1, -9, 1.7, 3], "must lie more than 1 nat above"),
        ([1.0, 9, 1.5, -9, 1.0, np.nan], "six finite gains"),
    ],
)
def test_7_names_wrong_answers(answer, kind, capsys):
    assert kind in says(7, answer, capsys, before=BEFORE)
