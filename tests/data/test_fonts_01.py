"""The Chinese labels of notebook 01's figures."""

import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from helpers import data

fonts = data.module("01", "fonts")


@pytest.fixture
def no_system_font(monkeypatch):
    monkeypatch.setattr(fonts, "CJK_FONTS", ())
    with mpl.rc_context():
        yield


def missing_glyphs(text):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure, ax = plt.subplots()
        ax.set_title(text)
        figure.canvas.draw()
        plt.close(figure)
    return [w for w in caught if "missing from" in str(w.message)]


def test_chinese_labels_have_glyphs_of_the_package(no_system_font):
    label = fonts.cjk_labels()
    assert label("红楼梦", "a novel") == "红楼梦"
    assert not missing_glyphs("红楼梦 háng = 1")


def test_without_a_font_there_is_one_warning_and_plain_labels(no_system_font, monkeypatch):
    monkeypatch.setattr(fonts, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="no font with Chinese") as caught:
        label = fonts.cjk_labels()
    assert len(caught) == 1
    assert label("红楼梦", "a novel") == "a novel"


def test_a_font_of_the_system_is_taken_first(monkeypatch):
    monkeypatch.setattr(fonts, "CJK_FONTS", ("no such font", "DejaVu Serif"))
    with mpl.rc_context():
        fonts.cjk_labels()
        assert mpl.rcParams["font.family"] == ["DejaVu Sans", "DejaVu Serif"]
