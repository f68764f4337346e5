"""The authors' lists of frequent tokens: how they are read, and what is measured on them."""

import numpy as np
import pytest

from helpers import data, vision

HERE = data.folder("07")
FIVE = [14, 16, 83, 498, 900]


@pytest.fixture(scope="module")
def recipe():
    return data.module("07", "make_published")


@pytest.fixture(scope="module")
def real(tutorials_data):
    folder = tutorials_data / "cortex" / "baseline_statistics"
    if not folder.is_dir():
        pytest.skip("TUTORIALS_DATA has no folder cortex/baseline_statistics")
    return vision.read_frequencies(folder)


@pytest.fixture
def lists(tmp_path):
    """Twelve classes of three tokens, as the authors' script wrote them."""
    for number in range(12):
        text = f"Token,Count\r\n{number},9\r\n{number + 1},9\r\n15,{number % 3}\r\n"
        (tmp_path / f"label_{number}.csv").write_bytes(text.encode())
    return tmp_path


def test_lists_are_read_by_the_number_of_their_class(lists):
    (lists / "notes.txt").write_text("not one of them")
    for folder in (lists, str(lists)):
        tokens, counts = vision.read_frequencies(folder, 16)
        assert tokens.shape == counts.shape == (12, 3)
        assert tokens.dtype == counts.dtype == np.int64
        assert tokens[:, 0].tolist() == list(range(12))  # label_10 is not the third
        assert tokens[11].tolist() == [11, 12, 15] and counts[11].tolist() == [9, 9, 2]


def test_byte_order_marks_and_line_endings_change_nothing(lists):
    before = vision.read_frequencies(lists, 16)
    for path in lists.iterdir():
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n").removesuffix("\n")
        path.write_text(text, encoding="utf-8-sig", newline="\n")
    np.testing.assert_array_equal(vision.read_frequencies(lists, 16), before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"label_4\.csv must begin with 'Token,Count' and have rows; got ''"),
        ("Count,Token\n1,2\n", r"label_4\.csv must begin with .* got 'Count,Token'"),
        ("4,9\n5,9\n15,1\n", r"label_4\.csv must begin with .* got '4,9'"),
        ("Token,Count\n", r"label_4\.csv must .* have rows"),
        ("Token,Count\n4,9\nfive,9\n15,1\n", r"label_4\.csv, line 3: two whole .* not 'five,9'"),
        ("Token,Count\n4,9.5\n5,9\n15,1\n", r"label_4\.csv, line 2: two whole .* not '4,9\.5'"),
        ("Token,Count\n4,9\n5\n15,1\n", r"label_4\.csv, line 3: two whole numbers"),
        ("Token,Count\n4,9\n5,9\n15,1,1\n", r"label_4\.csv, line 4: two whole numbers"),
        ("Token,Count\n4,9\n\n15,1\n", r"label_4\.csv, line 3: two whole numbers .* not ''"),
        ("Token,Count\n4,9\n5,9\n15,-1\n", r"label_4\.csv, line 4: count -1 is negative"),
        ("Token,Count\n4,-9\n5,9\n15,1\n", r"label_4\.csv, line 2: count -9 is negative"),
        ("Token,Count\n4,8\n5,9\n15,1\n", r"label_4\.csv, line 3: count 9 .* above the one before"),
        ("Token,Count\n4,9\n16,9\n15,1\n", r"label_4\.csv, line 3: token 16 is not from 0 to 15"),
        ("Token,Count\n-1,9\n5,9\n15,1\n", r"label_4\.csv, line 2: token -1 is not from 0 to 15"),
        ("Token,Count\n4,9\n5,9\n4,1\n", r"label_4\.csv, line 4: token 4 stands there twice"),
        ("Token,Count\n4,9\n5,9\n", r"label_4\.csv has 2 rows, most files have 3"),
        ("Token,Count\n4,9\n5,9\n6,1\n7,0\n", r"label_4\.csv has 4 rows, most files have 3"),
    ],
)
def test_an_unusable_list_is_named(lists, text, message):
    (lists / "label_4.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        vision.read_frequencies(lists, 16)


def test_the_file_with_fewer_rows_is_named_though_it_is_the_first(lists):
    (lists / "label_0.csv").write_text("Token,Count\n4,9\n")
    with pytest.raises(ValueError, match=r"label_0\.csv has 1 rows, most files have 3"):
        vision.read_frequencies(lists, 16)


def test_a_list_of_another_encoding_is_named(lists):
    (lists / "label_4.csv").write_text("Token,Count\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"label_4\.csv must be saved as UTF-8"):
        vision.read_frequencies(lists, 16)


@pytest.mark.parametrize("number", [0, 4])
def test_a_missing_class_is_named(lists, number):
    (lists / f"label_{number}.csv").unlink()
    with pytest.raises(ValueError, match=rf"label_{number}\.csv is missing .* label_11\.csv is"):
        vision.read_frequencies(lists, 16)


@pytest.mark.parametrize("name", ["label_x.csv", "label_04.csv", "label_4 (1).csv"])
def test_a_file_of_no_class_is_named(lists, name):
    (lists / name).write_bytes((lists / "label_4.csv").read_bytes())
    with pytest.raises(ValueError) as error:
        vision.read_frequencies(lists, 16)
    assert f"label_12.csv is missing in {lists.name}, but {name} is there" in str(error.value)


def test_a_folder_without_lists_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"no files label_0\.csv.* in {name}"):
            vision.read_frequencies(tmp_path / name)


# What is measured on them


def test_shared_tokens_by_hand(recipe):
    found = recipe.shared(np.array([[0, 1, 2], [2, 3, 1], [7, 8, 9]]))
    assert found.tolist() == [[3, 2, 0], [2, 3, 0], [0, 0, 3]]


def test_expected_copies_by_hand(recipe):
    counts = np.array([[4, 2], [5, 5], [3, 3]])  # of 10 places, in pictures of 5
    at_least, at_most = recipe.copies(counts, places=10, picture=5)
    assert at_least == pytest.approx([4 * 0.2, 4 * 0.5, 4 * 0.18])
    # the rest: two more tokens of 2 places; nothing; one of 3 places and one of 1
    assert at_most == pytest.approx([4 * 0.28, 4 * 0.5, 4 * 0.28])


def test_expected_copies_are_those_of_drawn_pictures(recipe):
    rng, shares = np.random.default_rng(0), np.array([0.5, 0.3, 0.2])
    drawn = rng.choice(3, (4000, 16), p=shares)
    same = (drawn[:, :, None] == drawn[:, None]).sum(2) - 1
    for expected in recipe.copies(np.array([[500, 300, 200]]), 1000, 16):
        assert expected == pytest.approx([same.mean()], rel=0.02)


def test_the_recipe_says_where_the_lists_come_from(recipe, monkeypatch, tmp_path):
    for folder in ("", str(tmp_path)):
        monkeypatch.setenv("TUTORIALS_DATA", folder)
        with pytest.raises(SystemExit, match=r"come from github\.com/YangTianze009"):
            recipe.main()


def test_more_places_than_pictures_have_are_refused(recipe):
    with pytest.raises(ValueError, match="class 1 has more than 256000 places"):
        recipe.measured(np.array([[0], [1]]), np.array([[1], [256_001]]))


def test_the_committed_numbers_agree_with_each_other():
    stored = data.read_json(HERE / "published.json")
    histogram, shares = np.array(stored["shared_histogram"]), np.array(stored["shares"])
    assert histogram.shape == (101,) and histogram.sum() == stored["shared"]["pairs"] == 499_500
    mean = (histogram * np.arange(101)).sum() / 499_500
    assert mean == pytest.approx(stored["shared"]["mean"], abs=1e-3)
    assert shares.shape == (1000,)
    for name, value in zip(("min", "median", "max"), np.quantile(shares, [0, 0.5, 1]), strict=True):
        assert value == pytest.approx(stored["share"][name], abs=1e-4)
        assert 256 * value == pytest.approx(stored["squares"][name], abs=0.02)
    assert stored["source_target"][-1] == [14, 16, 74]


def test_the_committed_numbers_are_those_of_the_real_lists(recipe, real):
    stored = data.read_json(HERE / "published.json")
    found = recipe.measured(*real)
    assert {name: stored[name] for name in found} == found


def test_the_real_lists_hold_what_the_lesson_says_of_them(recipe, real):
    tokens, counts = real
    assert tokens.shape == counts.shape == (1000, 100)
    shares = counts[FIVE].sum(1) / recipe.PLACES
    assert shares == pytest.approx([0.273, 0.283, 0.297, 0.216, 0.359], abs=5e-4)
    assert 256 * shares == pytest.approx([69.8, 72.4, 76.1, 55.2, 91.9], abs=0.05)
    assert recipe.shared(tokens)[14, FIVE].tolist() == [100, 74, 38, 13, 39]
    at_least, at_most = (np.round(own[FIVE], 2) for own in recipe.copies(counts))
    assert (at_least.min(), at_least.max()) == (0.13, 0.44)
    assert (at_most.min(), at_most.max()) == (0.48, 0.72)
