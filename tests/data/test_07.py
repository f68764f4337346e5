"""The recipes of notebook 07 and what they wrote."""

from typing import ClassVar
from unittest import mock

import numpy as np
import pytest
import quantus
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
def grids_recipe():
    return data.module("07", "make_grids")


@pytest.fixture(scope="module")
def large_recipe():
    return data.module("07", "make_large")


@pytest.fixture(scope="module")
def bench(models_recipe):
    """Tokenizer, judges and readers as they are committed."""
    file = HERE / "readers.safetensors"
    shipped = [
        name for name in models_recipe.plans() if not name.startswith(models_recipe.UNSHIPPED)
    ]
    readers = {name: vision.load(file, models_recipe.new_reader(name), name) for name in shipped}
    return models_recipe.load_tokenizer(), readers, models_recipe.load_judges()


@pytest.fixture(scope="module")
def runs():
    return {
        name: data.read_json(HERE / f"{name}.json")["runs"]
        for name in ("numbers", "grids", "large")
    }


PLAIN = [f"{flavour}-{k}" for flavour in vision.FLAVOURS for k in range(3)]


def test_artefacts_of_notebook_07_are_small_and_complete(models_recipe, grids_recipe, runs):
    files = sorted(HERE.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"{name}.safetensors" for name in ("judges", "readers", "tokenizer")
    ]
    assert sum(file.stat().st_size for file in HERE.iterdir() if file.is_file()) < 6e6
    for kind in ("compared", "two objects", "counted", "painted lists"):
        assert {f"{kind}: {name}" for name in PLAIN} <= runs["numbers"].keys()
    plans = models_recipe.plans()
    assert {name.split(": ")[1] for name in runs["grids"] if name.startswith("hunted")} == {
        name for name, plan in plans.items() if plan[2] in ("forced", "perfect", "control")
    }
    for name in PLAIN:
        counts = np.array(runs["numbers"][f"counted: {name}"]["top 20"])
        assert counts.shape == (8, 128)
        assert counts.sum(1).tolist() == [120 * 20] * 8
        own = runs["grids"][f"grids: {name}"]
        assert np.shape(own["tokens"]) == (8, 12, 12)
        assert len(own["choice of tokens"]["driving reader"]) == 8 * grids_recipe.STARTS
    for k in range(3):
        arms = runs["grids"][f"written: cnn-{k}"]
        assert len(arms) == 7 + len(grids_recipe.RATES)
        assert {len(own["driving reader"]) for own in arms.values()} == {112}
    assert runs["large"].keys() == {f"cnn-{k}" for k in range(3)}


def test_stored_differences_are_those_of_the_stored_falls(runs):
    controls = runs["numbers"]["compared: cnn-0"]["scores"]
    for name in PLAIN:
        own = runs["numbers"][f"compared: {name}"]
        for cell, (middle, low, high) in own["falls"]["TIS, own - random"].items():
            ours = own["scores"]["TIS, own"]["falls"][cell]
            assert middle == pytest.approx(ours - controls["random"]["falls"][cell], abs=2e-4)
            assert low <= middle <= high


def test_each_scene_is_asked_for_a_concept_that_it_does_not_show(numbers_recipe):
    labels = torch.arange(240) % 8
    another = numbers_recipe.another_concept(labels)
    assert not (another == labels).any()
    pairs = torch.bincount(8 * labels + another, minlength=64).view(8, 8)
    assert {*pairs[~torch.eye(8, dtype=torch.bool)].tolist()} == {4, 5}
    first = torch.bincount(8 * labels[:112] + another[:112], minlength=64).view(8, 8)
    assert {*first[~torch.eye(8, dtype=torch.bool)].tolist()} == {2}


def test_scores_of_maps_are_those_of_quantus(numbers_recipe):
    rng = torch.Generator().manual_seed(3)
    maps, mask = torch.rand(12, 12, 12, generator=rng), torch.rand(12, 12, 12, generator=rng) < 0.2
    arrays = {"a_batch": maps.numpy()[:, None], "s_batch": mask.numpy()[:, None]}
    blank = {"x_batch": np.zeros((12, 1, 12, 12), np.float32), "y_batch": np.zeros(12, int)}
    for metric, ours in (
        (quantus.AUC, numbers_recipe.aucs),
        (quantus.PointingGame, numbers_recipe.pointing),
    ):
        own = metric(disable_warnings=True, display_progressbar=False)
        theirs = own(model=torch.nn.Identity(), device="cpu", **blank, **arrays)
        np.testing.assert_allclose(ours(maps, mask), np.array(theirs, float), atol=1e-6)


def test_the_share_of_the_concept_by_hand(numbers_recipe):
    class Two:
        test = vision.Scenes(None, np.array([0, 0, 1, 1]), None, None)

    own, another = np.array([0.4, 0.6, 0.5, 0.5]), np.array([0.2, 0.3, 0.2, 0.3])
    share, low, high = numbers_recipe.share_of_concept(Two, own, another, np.full(4, 0.1))
    assert share == pytest.approx((0.5 - 0.25) / (0.5 - 0.1))
    assert low < share < high


def test_colours_find_the_unusual_square(numbers_recipe):
    shown = torch.full((1, 3, 48, 48), 0.5)
    shown[0, 0, 4:8, 8:12] = 0.9
    found = numbers_recipe.colour_distances(shown)
    assert found.argmax() == 1 * 12 + 2
    assert found.max().item() == pytest.approx(0.16, abs=1e-5)
    assert found.sum().item() == pytest.approx(0.16, abs=1e-5)


def test_places_of_a_list_and_what_lists_share(numbers_recipe):
    class Scene:
        tokens = torch.arange(288).view(2, 12, 12) % 10
        labels = torch.tensor([1, 0])

    lists = numbers_recipe.best_tokens(np.eye(8, 10), 1)
    assert lists[:, 0].tolist() == list(range(8))
    found = numbers_recipe.carried(Scene, lists)
    assert torch.equal(found[0], Scene.tokens[0] == 1)
    assert torch.equal(found[1], Scene.tokens[1] == 0)
    few = numbers_recipe.ten_places(found)
    assert few.sum((1, 2)).tolist() == [10, 10]
    assert not (few & ~found).any()
    two = torch.tensor([[1, 2], [3, 4]])
    assert numbers_recipe.in_common(two, torch.tensor([[2, 1], [3, 9]])) == 1.5


@pytest.fixture(scope="module")
def halves(numbers_recipe):
    return numbers_recipe.pairs_of_scenes(repeats=1)


def test_pictures_of_two_objects_hold_each_pair_once(halves, models_recipe, bench):
    images, labels, masks = halves
    assert images.shape == (56, 3, 48, 48)
    assert len({*map(tuple, labels.tolist())}) == 56 and not (labels[:, 0] == labels[:, 1]).any()
    assert masks.any((2, 3)).all()
    assert not masks[:, 0, :, 6:].any() and not masks[:, 1, :, :6].any()
    tokenizer, readers, _ = bench
    tokens = models_recipe.tokens_of(tokenizer, images)
    called = readers["cnn-2"](tokenizer.embed(tokens)).argmax(1)
    assert (called[:, None] == labels).any(1).float().mean() > 0.8


def test_two_objects_by_a_reader_that_knows_them(halves, models_recipe, numbers_recipe, bench):
    """Importance is given by hand: 1 on the object asked for, 0 elsewhere."""

    masks, labels = halves[2], halves[1]

    class Bench:
        tokenizer, centre = bench[0], bench[0].codebook.mean(0)
        readers: ClassVar = {"own": bench[1]["cnn-2"]}

        def smooth(self, reader, e, y):
            which = int(torch.equal(y, labels[:, 1]))
            return torch.zeros_like(e) + masks[:, which][:, None]

    with mock.patch.object(numbers_recipe, "pairs_of_scenes", lambda: halves):
        found = numbers_recipe.two_objects(Bench(), "own")
    assert found["TIS"]["share"] == [1, 1, 1]
    assert found["TIS"]["hits"] == [112, 0]
    assert 0.5 < found["occlusion"]["share"][0] <= 1


def test_intervals_over_concepts_take_eight_means(numbers_recipe):
    gaps = np.tile(np.arange(8.0), 30)
    middle, low, high = numbers_recipe.over_concepts(gaps)
    assert middle == 3.5
    assert 0 <= low < 2 and 5 < high <= 7


def test_copies_of_a_token_by_hand(large_recipe):
    class Bench:
        tokens = torch.zeros(1, 12, 12, dtype=torch.long)
        at_random = torch.rand(1, 12, 12)
        tokenizer = vision.SmallVQ(codes=4)

    found = large_recipe.copies(Bench)
    assert found["counted"] == found["if independent"] == 143
    assert found["tokens used"] == 1


def test_the_committed_tokenizer_and_judges_are_as_good_as_asked(models_recipe, bench):
    tokenizer, _, judges = bench
    drawn = models_recipe.mixed(200, 1234)
    found = models_recipe.quality(tokenizer, torch.from_numpy(drawn.images))
    assert found["psnr"] > 25
    assert found["used"] > 100
    shown = models_recipe.decoded(tokenizer, models_recipe.tokens_of(tokenizer, drawn.images))
    for model in judges.values():
        assert models_recipe.accuracy(model, shown, drawn.labels) >= 0.95


def test_stored_scores_of_importance_are_found_again(models_recipe, numbers_recipe, bench, runs):
    """Mean AUC of the first CNN for the own and for another concept, by scikit-learn."""
    tokenizer, readers, _ = bench
    noise = data.read_json(HERE / "numbers.json")["noise"]
    drawn = numbers_recipe.without_patch(240, models_recipe.SEEDS["test"])
    tokens = models_recipe.tokens_of(tokenizer, drawn.images)
    labels = torch.from_numpy(drawn.labels)
    masks = vision.token_mask(drawn.objects, 12)
    scores = runs["numbers"]["compared: cnn-1"]["scores"]
    for asked, y in (("own", labels), ("another", numbers_recipe.another_concept(labels))):
        maps = vision.gradient(
            readers["cnn-1"], tokenizer.embed(tokens), y, noise=noise,
            samples=numbers_recipe.SAMPLES,
        ).amax(1)  # fmt: skip
        found = [roc_auc_score(m.flatten(), s.flatten()) for m, s in zip(masks, maps, strict=True)]
        assert np.mean(found) == pytest.approx(scores[f"TIS, {asked}"]["auc"][0], abs=0.003)


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


def test_a_region_is_the_rectangle_around_the_object(grids_recipe):
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[0, 7, 7] = mask[0, 10, 10] = True
    found = grids_recipe.regions(mask)[0].flatten().nonzero()[:, 0]
    assert len(found) == 16
    assert found[:6].tolist() == [91, 92, 93, 94, 103, 104]


def test_drawn_tokens_stay_inside_the_region(models_recipe, grids_recipe):
    tokens = torch.zeros(3, 12, 12, dtype=torch.long)
    region = torch.zeros(3, 12, 12, dtype=torch.bool)
    region[:, 2:5, 3:7] = True
    counts = torch.zeros(8, models_recipe.CODES)
    counts[:, 5] = 1
    found = grids_recipe.sampled(
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
