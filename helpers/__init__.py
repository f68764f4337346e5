"""The thin package behind the notebooks: a core, and on it one column a paper.

Core (imports the core):
    hooks, training       activations read and edited; small models trained    01 to 07
    lm                    texts in, numbers or texts out                       01 to 06
    stats                 intervals and tests                                  01 to 07
    plots, lesson         figures; claims, exercises, predictions, explorers   01 to 07
    models, weights       models by name; how their weights are got            01 to 06
    data, artefacts       what is stored in `data/`, and how it is written     01 to 07
    checks                arguments as arrays, refused in a sentence
    pages, templates      executed notebooks as pages that need no network    01 to 07

Columns (import the core and themselves):
    editing (01)          knowledge editing
    probing (02)          probes of word vectors, open and closed masks
    spectral (03)         eigenvalue spectra of weights and their power laws
    attention (04)        queries, keys and values
    twosample (05)        tests of two samples of answers
    transfer (06)         parameters moved between models of a toy world
    vision (07)           scenes, a small VQ tokenizer, readers of its tokens
"""

__version__ = "0.1.0"
