"""Pictures whose content is known."""

import numpy as np
import pytest

from helpers import vision
from helpers.vision import scenes


def test_a_seed_draws_the_same_pictures_again():
    a, b = (vision.render(np.arange(16) % 8, 3) for _ in range(2))
    other = vision.render(np.arange(16) % 8, 4)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(a.images, other.images)
    assert a.images.dtype == np.float32
    assert 0 <= a.images.min() <= a.images.max() <= 1


def test_a_patch_covers_64_pixels_4_tokens_and_no_object():
    plain = vision.render(np.arange(8), 0)
    planted = vision.render(np.arange(8), 0, patched=np.ones(8, bool))
    assert planted.patches.sum((1, 2)).tolist() == [64] * 8
    tokens = vision.token_mask(planted.patches, 12)
    assert tokens.sum((1, 2)).tolist() == [4] * 8
    assert tokens[:, :2, :2].all()
    assert not (planted.objects * planted.patches).any()
    outside = planted.patches == 0
    for one, two, mask in zip(plain.images, planted.images, outside, strict=True):
        np.testing.assert_array_equal(one[:, mask], two[:, mask])


def test_a_hidden_object_leaves_the_rest_of_the_picture():
    shown = vision.render(np.arange(8), 1)
    hidden = vision.render(np.arange(8), 1, shown=np.zeros(8, bool))
    assert not hidden.objects.any()
    assert (shown.objects.sum((1, 2)) > 60).all()
    for one, two, mask in zip(shown.images, hidden.images, shown.objects == 0, strict=True):
        np.testing.assert_array_equal(one[:, mask], two[:, mask])


def test_a_sail_changes_its_own_pixels_only():
    boats = np.full(6, vision.BOAT)
    white, green = (vision.render(boats, 2, sails=[name] * 6) for name in scenes.SAILS)
    changed = (white.images != green.images).any(1)
    assert changed.any((1, 2)).all()
    assert (white.objects[changed] > 0).all()


def test_objects_cover_what_the_lesson_says():
    drawn = vision.render(np.arange(160) % 8, 5)
    assert 0.07 < drawn.objects.mean() < 0.11
    assert 16 < vision.token_mask(drawn.objects, 12).sum((1, 2)).mean() < 21


def test_token_mask_by_hand():
    pixels = np.zeros((1, 4, 4))
    pixels[0, 0, 2] = 1  # a quarter of the token in row 0, column 1
    assert vision.token_mask(pixels, 2).tolist() == [[[False, True], [False, False]]]
    assert not vision.token_mask(pixels, 2, threshold=0.25).any()


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        ([], {}),
        ([8], {}),
        ([[0]], {}),
        ([0, 1], {"patched": [True]}),
        ([0, 1], {"shown": [True] * 3}),
        ([6], {"sails": ["red"]}),
    ],
)
def test_what_cannot_be_drawn_is_refused(labels, settings):
    with pytest.raises(ValueError, match=r"labels must|one setting for each"):
        vision.render(labels, 0, **settings)


def test_a_grid_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"48 x 48 have no grid of 11"):
        vision.token_mask(np.zeros((1, 48, 48)), 11)


def test_cluttered_scenes_show_the_same_concepts_among_more_blobs():
    labels = np.arange(24) % 8
    plain, full = (vision.render(labels, 3, cluttered=own) for own in (False, True))
    assert np.array_equal(plain.labels, full.labels)
    assert (full.objects.sum((1, 2)) > 0).all()

    def far_from_the_ground(scenes):
        middle = np.median(scenes.images, (2, 3), keepdims=True)
        off = (np.abs(scenes.images - middle).max(1) > 0.25) & (scenes.objects == 0)
        return off.mean()

    assert far_from_the_ground(full) > 2 * far_from_the_ground(plain)
