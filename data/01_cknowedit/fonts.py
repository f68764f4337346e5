"""A font with Chinese characters for the figures of notebook 01."""

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import matplotlib as mpl
from matplotlib import font_manager

# fonts with simplified Chinese characters, as Linux, Windows and macOS call them
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "WenQuanYi Micro Hei",
    "SimHei",
)


def cjk_labels() -> Callable[[str, str], str]:
    """Let figures show Chinese characters, with a font of the system or of the package mplfonts.

    Returns:
        label(chinese, plain): the first where a font was found, else the second, so that a figure
        without the font has words and no boxes. The lack of a font gives one warning, here.
    """
    known = {font.name for font in font_manager.fontManager.ttflist}
    found = next((name for name in CJK_FONTS if name in known), None)
    spec = find_spec("mplfonts")
    if found is None and spec is not None:
        (folder,) = spec.submodule_search_locations
        path = Path(folder) / "fonts" / "NotoSansCJKsc-Regular.otf"
        if path.is_file():
            font_manager.fontManager.addfont(path)
            found = font_manager.FontProperties(fname=path).get_name()
    if found is None:
        warnings.warn(
            "no font with Chinese characters: figures show English labels (pip install mplfonts)",
            stacklevel=2,
        )
        return lambda chinese, plain: plain
    # such fonts often have one weight; that a bold title falls back to it is no news
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    mpl.rcParams["font.family"] = ["DejaVu Sans", found]
    return lambda chinese, plain: chinese
