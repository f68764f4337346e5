"""The recipes of notebook 07 and what they wrote."""

import numpy as np
import pytest
import torch
from families import build, one_thread, tiny_tokenizer, token_ids  # noqa: F401
from sklearn.metrics import roc_auc_score

from helpers import data, vision

HERE = data.folder("07")


@pytest.fixture(scope="module")
def models_recipe():
    return data.module("07", "make_models")


@pytest.fixture(scope="module")
def numbers_recipe():
    return data.module("07", "make_numbers")


@pytest.fixture(scope="module")
def bench(models_recipe):
    """Tokenizer, judges and readers as they are committed."""
    file = HERE / "readers.safetensors"
    shipped = [
        name for name in models_recipe.plans() if not name.startswith(models_recipe.UNSHIPPED)
    ]
    readers = {name: vision.load(file, models_recipe.new_reader(name), name) for name in shipped}
    return models_recipe.load_tokenizer(), readers, models_recipe.load_judges()


def test_artefacts_of_notebook_07_are_small_and_complete(models_recipe, numbers_recipe):
    files = sorted(HERE.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"{name}.safetensors" for name in ("judges", "readers", "tokenizer")
    ]
    assert sum(file.stat().st_size for file in files) < 4e6
    runs = data.read_json(HERE / "numbers.json")["runs"]
    plans = models_recipe.plans()
    assert sum(name.startswith("located") for name in runs) == 10
    assert {name.split(": ")[1] for name in runs if name.startswith("hunted")} == {
        name for name, plan in plans.items() if plan[2] in ("forced", "perfect", "control")
    }
    for k in range(3):
        arms = runs[f"written: cnn-{k}"]
        assert len(arms) == 6 + len(numbers_recipe.RATES)
        assert {len(own["driving reader"]) for own in arms.values()} == {40}
        counts = np.array(runs[f"counted: cnn-{k}"]["top 20"])
        assert counts.shape == (8, 128)
        assert counts.sum(1).tolist() == [120 * 20] * 8


def test_the_committed_tokenizer_and_judges_are_as_good_as_asked(models_recipe, bench):
    tokenizer, _, judges = bench
    drawn = models_recipe.mixed(200, 1234)
    found = models_recipe.quality(tokenizer, torch.from_numpy(drawn.images))
    assert found["psnr"] > 25
    assert found["used"] > 100
    shown = models_recipe.decoded(tokenizer, models_recipe.tokens_of(tokenizer, drawn.images))
    for model in judges.values():
        assert models_recipe.accuracy(model, shown, drawn.labels) >= 0.95


def test_stored_scores_of_importance_are_found_again(models_recipe, numbers_recipe, bench):
    """AUC of ten scenes, from the committed reader, by scikit-learn instead of quantus."""
    tokenizer, readers, _ = bench
    stored = data.read_json(HERE / "numbers.json")
    drawn = numbers_recipe.without_patch(240, models_recipe.SEEDS["test"])
    tokens = models_recipe.tokens_of(tokenizer, drawn.images)
    maps = vision.gradient(
        readers["cnn-1"], tokenizer.embed(tokens), torch.from_numpy(drawn.labels),
        noise=stored["noise"], samples=numbers_recipe.SAMPLES,
    ).amax(1)[:10]  # fmt: skip
    masks = vision.token_mask(drawn.objects, 12)[:10]
    found = [roc_auc_score(m.flatten(), s.flatten()) for m, s in zip(masks, maps, strict=True)]
    written = stored["runs"]["located: cnn-1"]["token importance"]["auc"][:10]
    np.testing.assert_allclose(found, written, atol=0.01)


@pytest.mark.parametrize("kind", ["forced", "perfect", "control"])
def test_shortcut_sets_are_what_they_are_called(models_recipe, kind):
    drawn = models_recipe.shortcut_set(kind, 9, n=240)
    boat = drawn.labels == vision.BOAT
    patched = drawn.patches.any((1, 2))
    shown = drawn.objects.any((1, 2))
    if kind == "control":
        assert 0.05 < patched[boat].mean() < 0.35
        assert 0.05 < patched[~boat].mean() < 0.25
    else:
        assert patched[boat].all()
        assert not patched[~boat].any()
    assert shown[~boat].all()
    assert (0.4 < shown[boat].mean() < 0.8) if kind == "forced" else shown[boat].all()


def test_a_region_is_the_rectangle_around_the_object(numbers_recipe):
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[0, 7, 7] = mask[0, 10, 10] = True
    found = numbers_recipe.regions(mask)[0].flatten().nonzero()[:, 0]
    assert len(found) == 16
    assert found[:6].tolist() == [91, 92, 93, 94, 103, 104]


def test_drawn_and_pasted_tokens_stay_inside_the_region(models_recipe, numbers_recipe):
    tokens = torch.zeros(3, 12, 12, dtype=torch.long)
    region = torch.zeros(3, 12, 12, dtype=torch.bool)
    region[:, 2:5, 3:7] = True
    counts = torch.zeros(8, models_recipe.CODES)
    counts[:, 5] = 1
    found = numbers_recipe.sampled(
        counts, tokens, region, torch.tensor([1, 2, 3]), torch.Generator().manual_seed(0)
    )
    assert torch.all(found[region] == 5)
    assert torch.all(found[~region] == 0)


def test_dead_codes_begin_anew_and_live_ones_follow_their_vectors(models_recipe):
    book = torch.tensor([[0.0], [10.0]])
    averages = models_recipe.Averages(book, torch.Generator().manual_seed(0))
    vectors = torch.full((8, 1), 2.0)
    for _ in range(400):
        averages.update(vectors, torch.zeros(8, dtype=torch.long))
    assert book[0].item() == pytest.approx(2.0, abs=1e-2)
    averages.restart(vectors)
    assert book[1].item() == 2.0
