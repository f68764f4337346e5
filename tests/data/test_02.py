"""The recipes of notebook 02 and what they wrote."""

import math
import re
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from families import build, one_thread, tiny_tokenizer, token_ids  # noqa: F401

from helpers import data, hooks, probing
from helpers.probing.bundles import bundle_sentences, cell_kind

released_02 = data.module("02", "released")

HERE = data.folder("02")


@pytest.fixture(scope="module")
def adapters_recipe():
    return data.module("02", "make_adapters")


def test_contrast_is_trained_on_words_that_are_not_probed(adapters_recipe):
    content = data.read_json(HERE / "sentences.json")
    probed = {word for own in content["words"].values() for word in own}
    rng = np.random.default_rng(0)
    for _ in range(200):
        anchor, positive, negative = (
            re.findall("[a-z]+", text) for text in adapters_recipe.triple(content["training"], rng)
        )
        assert not probed & {*anchor, *positive, *negative} and anchor != positive
        nouns = {*content["training"]["animate"], *content["training"]["inanimate"]}
        roles = [[word for word in text if word in nouns] for text in (anchor, negative)]
        assert sorted(roles[0]) == sorted(roles[1])


def test_contrast_by_hand(adapters_recipe, monkeypatch):
    e, loss = torch.eye(4), adapters_recipe.contrastive_loss
    assert loss(*torch.ones(2, 16, 3)).item() == pytest.approx(math.log(16))
    assert loss(e[:2], e[:2]).item() == pytest.approx(2.06e-9, abs=1e-7)
    monkeypatch.setattr(adapters_recipe, "CONTRAST", 1.0)
    assert loss(e, e).item() == pytest.approx(math.log(1 + 3 / math.e))
    assert loss(e, e, 3 * e).item() == pytest.approx(math.log(2 + 6 / math.e))


def test_an_adapter_is_kept_as_a_whole_folder(adapters_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(adapters_recipe, "HERE", tmp_path)
    model = adapters_recipe.with_lora(build("llama"), 0)
    adapters_recipe.save("mntp-0", model, {"losses": [1.0]})
    kept = sorted(path.name for path in (tmp_path / "adapters" / "mntp-0").iterdir())
    assert kept == sorted(path.name for path in (HERE / "adapters" / "mntp-0").iterdir())
    assert data.read_json(tmp_path / "adapters" / "mntp-0" / "log.json")["losses"] == [1.0]
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["mntp-0"]


@pytest.fixture(scope="module")
def probing_recipe():
    return data.module("02", "make_numbers")


def test_probed_words_stand_where_the_recipe_says(probing_recipe):
    content = data.read_json(HERE / "sentences.json")
    rows = probing_recipe.sense_rows(content["senses"])
    assert len(rows) == 24 * 8
    assert all(words[place] == noun for words, place, noun, _, _ in rows)
    items = probing_recipe.telicity_items(content["telicity"])
    assert len(items) == 80 and all(words[place] == group for words, place, _, group in items)
    items = probing_recipe.concreteness_items(content["concreteness"])
    assert len(items) == 72 and all(words[place] == group for words, place, _, group in items)


def test_words_of_several_tokens_are_named():
    check, tokenizer = (
        data.module("02", "make_sentences").require_single_tokens,
        tiny_tokenizer(start=True),
    )
    one = [w for w in "abcd" if len(probing.word_spans(tokenizer, ["the", w])[1][1]) == 1]
    check(tokenizer, one)
    with pytest.raises(ValueError, match=r"several tokens: dog \(\d\), bad \(\d\)"):
        check(tokenizer, [*one, "dog", "bad"])


def test_auc_inside_groups(probing_recipe):
    auc = probing_recipe.within_group_auc
    found = auc([0.9, 0.8, 0.3, 0.1] * 2, [1, 0, 1, 0] * 2, list("aaaabbbb"))
    assert found.tolist() == [0.75, 0.75]
    assert auc([0.5, 0.5 + 1e-9], [0, 1], "aa").tolist() == [0.5]
    with pytest.raises(ValueError, match="'b' has one class"):
        auc([1, 2, 3], [0, 1, 1], "aab")


def test_participation_ratio_by_hand(probing_recipe):
    ratio = probing_recipe.participation_ratio
    rows = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]) * np.sqrt([[3, 1]])
    assert ratio(rows) == pytest.approx(1.6)
    equal = np.concatenate([np.eye(5), -np.eye(5)])
    assert ratio(equal) == pytest.approx(5) == ratio(equal + 7)
    wide = np.random.default_rng(0).normal(size=(6, 40))
    values = np.linalg.eigvalsh(np.cov(wide.T))
    assert ratio(wide) == pytest.approx(values.sum() ** 2 / (values**2).sum())


def test_splits_by_word_share_no_word(probing_recipe):
    words = np.array(list("aabbccddeeffgghhiijj"))
    found = list(probing_recipe.splits(words))
    assert [name for name, *_ in found] == ["random"] * 10 + ["new words"] * 10
    for name, train, test in found:
        assert len(train) + len(test) == 20 and len(test) == 4
        assert name == "random" or not set(words[train]) & set(words[test])


def test_a_start_token_is_replaced_behind_every_block(probing_recipe):
    model, ids = build("llama"), token_ids(4, 7)
    ids[:, 0] = 1
    sink = probing_recipe.sink_states(model, ids, opened=False)
    names = list(hooks.blocks(model))
    assert list(sink) == names

    def states(*around):
        with torch.no_grad(), ExitStack() as stack:
            for context in around:
                stack.enter_context(context)
            seen = stack.enter_context(hooks.capture(model, names))
            model(ids, use_cache=False)
        return torch.stack([seen[name] for name in names])

    causal = states()
    opened = states(probing.bidirectional(model))
    mended = states(probing.bidirectional(model), probing_recipe.with_start(model, sink))
    torch.testing.assert_close(mended[:, :, 0], causal[:, :, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(opened[:, :, 0], causal[:, :, 0], atol=1e-2)
    torch.testing.assert_close(mended[0, :, 1:], opened[0, :, 1:])  # later blocks feel it
    assert not torch.allclose(mended[1, :, 1:], opened[1, :, 1:], atol=1e-2)


def test_artefacts_of_notebook_02_are_complete(probing_recipe):
    stored = data.read_json(HERE / "cells.json")
    sentences = bundle_sentences(
        data.read_json(HERE / "sentences.json")["words"], stored["bundle_seeds"][0]
    )
    variants = {f"{v}, bundles {s}" for v in probing_recipe.VARIANTS for s in (2, 3)}
    once = {*probing_recipe.controls(sentences), *probing_recipe.OTHERS}
    assert set(stored["runs"]) == variants | {f"{name}, bundles 2" for name in once}
    assert all(np.shape(own)[1:] == (20, 40) for own in stored["runs"].values())
    assert set(data.read_json(HERE / "senses.json")["runs"]) == set(probing_recipe.VARIANTS)
    assert set(data.read_json(HERE / "published.json")["runs"]) == {
        f"{name}, {task}"
        for task in probing_recipe.TASKS
        for name in (probing_recipe.OF_ASPECT if task == "aspect" else probing_recipe.PUBLISHED)
    }


def test_a_causal_model_is_exactly_at_chance_in_all_stored_cells_before_the_labelled_word():
    stored = data.read_json(HERE / "cells.json")
    before = [i for i, cell in enumerate(stored["cells"]) if is_following(cell)]
    assert len(before) == 9
    for name, own in stored["runs"].items():
        if name.startswith(("base,", "causal")):
            assert (np.array(own)[:, before] == 0.5).all(), name


def is_following(cell):
    label, word = cell.split()
    return cell_kind(label, int(word)) == "following"


def test_committed_adapters_are_equally_long_trained_and_small():
    shown = {"causal": 1, "mntp": 3, "simcse": 3, "supervised": 1}
    names = sorted(f"{kind}-{seed}" for kind, n in shown.items() for seed in range(n))
    folder = HERE / "adapters"
    assert names == sorted(path.name for path in folder.iterdir())
    for name in names:
        log = data.read_json(HERE / f"adapters/{name}/log.json")
        assert len(log["losses"]) == log["steps"] == (300 if name[0] in "mc" else 150)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 25e6


def leaves(content):
    if isinstance(content, (dict, list)):
        for own in content.values() if isinstance(content, dict) else content:
            yield from leaves(own)
    else:
        yield content


def test_only_numbers_of_the_published_tasks_are_stored():
    runs = data.read_json(HERE / "published.json")["runs"]
    assert all(isinstance(value, (int, float)) for value in leaves(runs))
    labels = {"telicity", "duration", "random", "new words", "larger class", "accuracy", "auc"}
    assert {key for own in runs.values() for key in own} <= labels | set(released_02.CONTEXT_PROBES)
