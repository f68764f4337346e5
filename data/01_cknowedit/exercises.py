"""References of the exercises of notebook 01, and the wrong answers that have a name."""

import json
import re
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import torch
from pypinyin import Style, pinyin

from helpers import data, editing, hooks, lm
from helpers.checks import as_array
from helpers.lesson import Exercise, Mistake, equals


def is_list(wanted, within=1e-6):
    """A test that an answer of any shape holds the numbers of a list, row by row."""

    def test(answer, **context):
        given, own = as_array(answer).ravel(), wanted(**context)
        if given.dtype.kind not in "biuf" or len(given) != len(own):
            return False
        return bool(np.allclose(given.astype(float), own, rtol=0, atol=within))

    return test


# 1: AlphaEdit's direction in the memory of section 2


def delta_along(direction):
    """Entries of ΔW for W = I, k = (1, 1), v = (3, 1), row by row."""
    k, v = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.0])
    return editing.rank_one_update(torch.eye(2), k, v, direction(k)).flatten().numpy()


def unused(k):
    """P k: what is left of k on the axis that C = diag(1, 0) says nothing uses."""
    return torch.diag(torch.tensor([0.0, 1.0])) @ k


MEMORY = Exercise(
    is_list(lambda: delta_along(unused)),
    "These are not the four entries of ΔW.",
    "First u = P k, then v - W k, then their outer product divided by kᵀu.",
    [
        Mistake(
            is_list(lambda: delta_along(unused) + np.eye(2).ravel()),
            "That is W + ΔW.",
            "Asked for is what is added to W.",
        ),
        Mistake(
            is_list(lambda: delta_along(unused).reshape(2, 2).T.ravel()),
            "The two factors have changed places.",
            "Rows of ΔW belong to v - W k, its columns to u.",
        ),
        Mistake(
            is_list(lambda: delta_along(lambda k: k)),
            "That is the update along u = k.",
            "P k has no part on the first axis, which other keys use.",
        ),
        Mistake(
            is_list(lambda: delta_along(lambda k: k - unused(k))),
            "That is the axis which other keys do use.",
            "C = diag(1, 0): keys lie along the first axis, P keeps the second.",
        ),
    ],
)


# 2: the space in front of a target


def spaced(model, tokenizer, per_token=False):
    """Tokens with the space, without it, and the change of log p (nats; a sum, or per token)."""
    targets = [" 曹雪芹", "曹雪芹"]
    own = lm.score_targets(model, tokenizer, ["《红楼梦》的作者是"] * 2, targets, straddle=True)
    logprob = own["logprob"] / own["n_tokens"] if per_token else own["logprob"]
    return [*own["n_tokens"], logprob[0] - logprob[1]]


SPACE = Exercise(
    is_list(spaced, 0.05),
    "Three numbers: tokens with the space, tokens without it, change of the log-probability.",
    "lm.score_targets with straddle=True gives `n_tokens` and `logprob` of both.",
    [
        Mistake(
            is_list(lambda **own: spaced(**own) * np.array([1, 1, -1]), 0.05),
            "The change has the other sign.",
            "With the space minus without it: a drop is negative.",
        ),
        Mistake(
            is_list(lambda **own: spaced(**own, per_token=True), 0.05),
            "That is the change per token.",
            "Asked for is the sum over the target's tokens.",
        ),
        Mistake(
            is_list(lambda **own: np.array(spaced(**own))[[1, 0, 2]], 0.05),
            "The two counts have changed places.",
            "First the target with the space.",
        ),
        Mistake(
            lambda answer, **own: (
                list(np.subtract(as_array(answer)[:2], spaced(**own)[:2])) in ([1, 1], [1, 0])
            ),
            "One token too many is counted.",
            "The start token, which opens every text, does not belong to the target.",
        ),
    ],
)


# 3: what the covariance changes, from the stored edits


def rises():
    """Signs of the change of ES, Loc (kept) and the norm from u = k to u = C⁻¹k, 36 edits."""
    edits = data.read_json(data.folder("01") / "grid.json")["edits"].values()
    found = []
    for method in ("ROME without C", "ROME"):
        runs = [own[method] for own in edits]
        success = np.mean([run["rows"][0][2] for run in runs])
        kept = np.mean([np.mean([r[6] for r in run["rows"] if r[0] == "locality"]) for run in runs])
        found.append([success, kept, np.median([run["norm"] for run in runs])])
    return np.sign(np.round(np.diff(found, axis=0)[0], 2))


SIGNS = Exercise(
    is_list(rises),
    "Three signs, each 1, -1 or 0, from the rows ROME without C and ROME.",
    "Compare the two rows in the columns ES, Loc-kept and ‖ΔW‖/‖W‖ of the table in section 9.",
    [
        Mistake(
            is_list(lambda: rises() * [1, 1, -1]),
            "The norm goes the other way.",
            "Dividing by C makes u long where other keys are rare: look at the column again.",
        ),
        Mistake(
            is_list(lambda: -rises()),
            "All three go the other way.",
            "From ROME without C to ROME, not back.",
        ),
    ],
)


# 4: FT-L's least loss


def least_loss():
    """One distribution for three tokens: the mean of -ln p is least where each has a third."""
    return float(np.log(3))


LEAST = Exercise(
    equals(least_loss, within=5e-3),
    "One distribution must serve three tokens.",
    "Their probabilities sum to at most 1; what is the best that it can give to each?",
    [
        Mistake(
            equals(lambda: 3 * least_loss(), within=5e-3),
            "That is the sum over the three tokens.",
            "The loss is a mean: nats per token.",
        ),
        Mistake(
            equals(lambda: least_loss() / np.log(2), within=5e-3),
            "That is in bits.",
            "Nats: the natural logarithm.",
        ),
        Mistake(
            equals(lambda: -least_loss(), within=5e-3),
            "That is the log-probability.",
            "A loss is its negative.",
        ),
        Mistake(
            equals(lambda: 0.0, within=5e-3),
            "0 would need three tokens with probability 1 at one place.",
            "Every token is asked of the same position: the probabilities share 1.",
        ),
    ],
)


# 5: a record for 好

QUOTED = re.compile("[“\"「『‘'](.+?)[”\"」』’']")
NEW, OLD = "hào", "hǎo"


def same_reading(answer, reading):
    return unicodedata.normalize("NFC", answer.strip()) == reading


def asked_of(prompt):
    """Word and character that a question names in quotes; None where it names none."""
    found = sorted(QUOTED.findall(prompt)[:2], key=len, reverse=True)
    return tuple(found) if len(found) == 2 and found[1] in found[0] else None


def reading_in(word, char):
    return pinyin(word, style=Style.TONE)[word.index(char)][0]


def loaded(record):
    """The record as `editing.load_edits` reads it, which names a field at fault."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.json"
        path.write_text(json.dumps([record]), encoding="utf-8")
        (edit,) = editing.load_edits(path)
    return edit


def faults(record):
    """What is wrong with a record that corrects 好奇, by name; none: it is a good one."""
    edit, found = loaded(record), set()
    around = [*edit.portability, *edit.locality]
    answers = [edit.target_new, edit.target_old, *(p.answer for p in around)]
    if any(re.fullmatch("h[aā]o ?[0-9]?", answer.strip().lower()) for answer in answers):
        found.add("tone")
    if edit.subject != "好奇":
        found.add("subject")
    if "好奇" not in edit.prompt or not same_reading(edit.target_new, NEW):
        found.add("correction")
    if not same_reading(edit.target_old, OLD):
        found.add("old")
    others = [text for text in edit.rephrase if text != edit.prompt]
    if not others or not all("好奇" in text and "好" in text for text in edit.rephrase):
        found.add("rephrase")
    if not edit.portability or not edit.locality:
        found.add("missing")
    asked = {probe: asked_of(probe.prompt) for probe in around}
    if asked_of(edit.prompt) != ("好奇", "好") or not all(asked[p] for p in edit.portability):
        found.add("frame")
    for probe, own in asked.items():
        if own and not same_reading(probe.answer, reading_in(*own)):
            found.add("reading")
    if not any(
        own and own[1] == "好" and own[0] != "好奇" and reading_in(*own) == NEW
        for own in map(asked.get, edit.portability)
    ):
        found.add("portability")
    near = [own for own in map(asked.get, edit.locality) if own and own[1] == "好"]
    if not near or any(reading_in(*own) != OLD for own in near):
        found.add("locality")
    return found


def has(fault):
    return lambda record: fault in faults(record)


RECORD = Exercise(
    lambda record: not faults(record),
    "The record is not complete.",
    "Look at the record of 银行 in records.json: it has every field.",
    [
        Mistake(has("tone"), "A reading has no tone mark.", "Write ā, á, ǎ or à, not a or a4."),
        Mistake(
            has("missing"),
            "A question of portability or of locality is missing.",
            "One of each at least.",
        ),
        Mistake(
            has("frame"),
            "A question does not name its word and its character in quotes.",
            "The frame: “word”中“character”的读音是, and the prompt asks for 好 in 好奇.",
        ),
        Mistake(
            has("subject"),
            "The subject is not the word that is corrected.",
            "The key is read at its end: 好奇.",
        ),
        Mistake(
            has("correction"),
            "The prompt and its new answer do not correct 好奇.",
            "Ask for 好 in 好奇; the right reading is that of *to be fond of*.",
        ),
        Mistake(
            has("old"),
            "The old answer is not the other reading of 好.",
            "What would a model say that takes 好 for *good*?",
        ),
        Mistake(
            has("rephrase"),
            "A rephrase must ask the same of the same word, in other words.",
            "It holds 好奇, and it is not the prompt.",
        ),
        Mistake(has("reading"), "An answer is not how its word is read.", "Ask pypinyin."),
        Mistake(
            has("portability"),
            "Portability: another word in which 好 has the reading that was taught.",
            "Such as a hobby.",
        ),
        Mistake(
            has("locality"),
            "Locality: a word in which 好 has the other reading, which must stay.",
            "A word with the new reading is portability.",
        ),
    ],
)


# 6: tracing with noise

DRAWS = 16


def noise_runs(model, ids, disturb, clean, word, places, token):
    """log p (DRAWS, 1 + layers) of a token at the end of disturbed runs.

    Column 0: nothing is restored; column 1 + i: the output of places[i] at the disturbed token.
    """

    def restore(name, out):
        out = out.clone()
        out[1 + places.index(name), 1] = clean[name][0, 1]
        return out

    found = []
    for draw in range(DRAWS):
        noise = hooks.edit(model, word, disturb(draw))
        with torch.no_grad(), noise, hooks.edit(model, places, restore):
            logits = model(ids.expand(1 + len(places), -1), use_cache=False).logits[:, -1]
        found.append(logits.float().log_softmax(-1)[:, token])
    return torch.stack(found).numpy()


def is_traced(read, within=0.02):
    """A test of means over at least four of the first draws, of log p or of its gain.

    `read` gets the answer and means (1 + layers,) of one number of draws.
    """

    def test(answer, **context):
        given, runs = as_array(answer).astype(float).ravel(), noise_runs(**context)
        return any(
            read(given, runs[first : first + n].mean(0), within)
            for first in (0, 1)
            for n in range(4, DRAWS - first + 1)
        )

    return test


def is_near(given, wanted, within):
    return given.shape == wanted.shape and bool(np.abs(given - wanted).max() <= within)


def gains_or_logprobs(given, means, within):
    return is_near(given, means[1:] - means[0], within) or is_near(given, means[1:], within)


def one_draw(answer, **context):
    given, runs = as_array(answer).astype(float).ravel(), noise_runs(**context)
    return any(gains_or_logprobs(given, run, 0.02) for run in runs)


NOISE = Exercise(
    is_traced(gains_or_logprobs),
    "These are not the gains of the restored layers, the first layer first.",
    "One row of a batch for each layer: the noise at 法国 in all rows, in row i the clean output "
    "of feed-forward layer i there; mean of log p of 法语 over draws 0, 1, 2, 3.",
    [
        Mistake(
            lambda answer, **_: as_array(answer).size == 1,
            "That names a layer only.",
            "Hand in the gains of all layers; the largest of them names it.",
        ),
        Mistake(
            lambda answer, places, **_: as_array(answer).size != len(places),
            "There must be one number for each layer.",
            "A vector, the first layer first.",
        ),
        Mistake(
            is_traced(lambda given, means, within: is_near(given, means[0] - means[1:], within)),
            "The gains have the other sign.",
            "Restored minus disturbed.",
        ),
        Mistake(
            is_traced(
                lambda given, means, within: (
                    given.min() > 0 and is_near(np.log(given), means[1:], within)
                )
            ),
            "These are probabilities.",
            "Take the mean of log-probabilities.",
        ),
        Mistake(one_draw, "That is a single draw of noise.", "Take the mean over at least four."),
    ],
)


# 7: two examples at once


def trained_gains(answer, before):
    """Six gains of the margin, in the order of `margin()`; a ValueError for anything else."""
    given = as_array(answer).astype(float).ravel()
    if given.shape != np.shape(before) or not np.isfinite(given).all():
        raise ValueError("six finite gains are needed, in the order of margin()")
    return given


def taught(answer, before):
    """Whether 行业 is read háng and 行走 xíng, the two words that were trained."""
    after = trained_gains(answer, before) + before
    return after[1] > 0, after[3] < 0


def is_selective(answer, before):
    gains = trained_gains(answer, before)
    return all(taught(answer, before)) and gains[2] - gains[4] > 1


TWO = Exercise(
    is_selective,
    "The gain at 内行 must lie more than 1 nat above that at 旅行.",
    "Sum editing.target_nll over both rows; Adam with lr 5e-4, 20 steps; the layer matters: try "
    "5, 11 and 17.",
    [
        Mistake(
            lambda answer, before: as_array(answer).size != len(before),
            "There must be six gains.",
            "Not the difference of two of them but all: margin() - before, in its order.",
        ),
        Mistake(
            lambda answer, before: not np.any(as_array(answer)),
            "Nothing has changed.",
            "Take margin() inside the `with` block; behind it the old weight is back.",
        ),
        Mistake(
            lambda answer, before: taught(answer, before) == (True, False),
            "行走 is not read xíng: these are gains of one reading.",
            "Both texts must be in the loss of every step.",
        ),
        Mistake(
            lambda answer, before: not all(taught(answer, before)),
            "The two words that were trained do not have their readings.",
            "行业 must end above 0 and 行走 below; are signs and order those of margin()?",
        ),
    ],
)


EXERCISES = {1: MEMORY, 2: SPACE, 3: SIGNS, 4: LEAST, 5: RECORD, 6: NOISE, 7: TWO}
