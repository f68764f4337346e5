"""Measures the lists of frequent tokens that the authors of CORTEX published: published.json.

    TUTORIALS_DATA=... python data/07_cortex_vq_tokens/make_published.py

A few seconds. Needs the folder `cortex/baseline_statistics` in TUTORIALS_DATA, with the files
`label_0.csv` to `label_999.csv`. Only numbers are stored, no list.
"""

import sys
from pathlib import Path

import numpy as np

from helpers import data, vision
from helpers.artefacts import rounded, versions, write

HERE = Path(__file__).resolve().parent

FOLDER = "cortex/baseline_statistics"
SOURCE = (
    "github.com/YangTianze009/Codebook-Explanation at 03da013 (development repository of the first "
    "author, begun 2024-09-09; not of the paper's final version), "
    "codebook_explanation_classification/results/Explanation/baseline_statistics"
)
CODES = 16_384
PICTURE = 256  # squares, 16 x 16
PLACES = 1000 * PICTURE  # of a class: its training pictures, which a VQGAN generated
SOURCES = (10, 11, 12, 13, 14)  # their targets are 30 - source; 16 to 20 are the same pairs


def summary(values):
    """Mean and quartiles, the second of which is the median."""
    found = [np.mean(values), *np.quantile(values, [0, 0.25, 0.5, 0.75, 1])]
    return dict(zip(("mean", "min", "q1", "median", "q3", "max"), rounded(found), strict=True))


def shared(tokens):
    """(classes, classes): how many tokens two classes' lists have in common."""
    listed = np.zeros((len(tokens), CODES), np.float32)
    np.put_along_axis(listed, tokens, 1, axis=1)
    return (listed @ listed.T).astype(int)


def copies(counts, places=PLACES, picture=PICTURE):
    """Expected copies of a random place's token elsewhere in its picture, were places independent.

    The first of two arrays (classes,) counts listed tokens alone. In the second the other places
    are in as few tokens as can be: none is more frequent than the last that is listed.
    """
    listed = (counts / places) ** 2
    full, left = np.divmod(places - counts.sum(1), counts[:, -1])
    others = full * listed[:, -1] + (left / places) ** 2
    return (picture - 1) * listed.sum(1), (picture - 1) * (listed.sum(1) + others)


def measured(tokens, counts):
    shares = counts.sum(1) / PLACES
    if shares.max() > 1:
        raise ValueError(f"class {shares.argmax()} has more than {PLACES} places")
    both = shared(tokens)
    pairs = both[np.triu_indices(len(both), 1)]
    lists = np.bincount(tokens.flatten())  # in how many of them a token stands
    at_least, at_most = copies(counts)
    return {
        "classes": len(tokens),
        "listed": tokens.shape[1],
        "share": summary(shares),
        "squares": summary(PICTURE * shares),
        "shared": {"pairs": len(pairs), **summary(pairs)},
        "source_target": [[i, 30 - i, int(both[i, 30 - i])] for i in SOURCES],
        "copies": {"at_least": summary(at_least), "at_most": summary(at_most)},
        "tokens": {"different": int((lists > 0).sum()), "most_lists": int(lists.max())},
        "shared_histogram": np.bincount(pairs, minlength=tokens.shape[1] + 1).tolist(),
        "shares": rounded(shares),
    }


def main():
    try:
        tokens, counts = vision.read_frequencies(data.tutorials_data() / FOLDER, CODES)
    except FileNotFoundError as error:
        sys.exit(f"{error}. The files of {FOLDER} come from {SOURCE}.")
    about = (
        "The 100 most frequent tokens of each ImageNet class in its 1,000 generated training "
        "pictures of 256 tokens: share of all places (and squares of 256) that they carry, tokens "
        "shared by pairs of classes, copies of a token expected in its picture, different tokens "
        "in all lists, and lists with the token that is in most; numbers only"
    )
    head = {"about": about, "source": SOURCE, **versions()}
    sizes = {"codes": CODES, "picture": PICTURE, "places": PLACES}
    write(HERE / "published.json", {**head, **sizes, **measured(tokens, counts)}, indent=None)


if __name__ == "__main__":
    main()
