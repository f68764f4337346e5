"""Writes the numbers of notebook 01 that take longer than a lesson.

    python data/recipes/edits.py background     text that the model writes, for the key covariance
    python data/recipes/edits.py search         settings of every method, on the development split
    python data/recipes/edits.py grid           36 edits by nine methods with those settings
    python data/recipes/edits.py verse          couplets forwards and backwards
    python data/recipes/edits.py readings       characters with two readings
    python data/recipes/edits.py lengths        targets of 1 to 32 tokens
    TUTORIALS_DATA=... python data/recipes/edits.py diagnosis    CKnowEdit's own records
    TUTORIALS_DATA=... python data/recipes/edits.py published    edits of 40 of them

Only numbers are stored, apart from the background text. Finished steps are kept in the cache
folder; `grid` and what comes after it need the settings that `search` wrote.
"""

import sys
import time
from contextlib import contextmanager

import numpy as np
import torch

from helpers import answers, data, editing, lm, models, rank_one
from helpers.data import Edit, Probe
from resume import Steps, rounded, versions, write

MODEL = "gemma3-270m"
SEGMENT = 64  # tokens of a row of background text
TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192)  # for the covariance, in the tokens figure
SEEDS = (0, 1)
CUT = 32  # most tokens of a published answer
STEPS = 25

# Four settings a method; the first is the published one where this model can take it. They are
# ranked by the mean of four rates over the development edits: edit, rephrases and portability
# exact, locality kept. The earlier of equals is taken.
POOL = ((5, True), (3, True), (8, True), (5, False))  # layer, with the essence term
GRIDS = {
    "FT-L": [
        {"layer": 17, "box": 5e-4},
        {"layer": 17, "box": None},
        {"layer": 11, "box": 5e-4},
        {"layer": 5, "box": 5e-4},
    ],
    "FT-M": [
        {"layer": 17, "lr": 5e-4},
        {"layer": 17, "lr": 1e-4},
        {"layer": 11, "lr": 5e-4},
        {"layer": 5, "lr": 5e-4},
    ],
    "LoRA": [{"lr": lr} for lr in (5e-3, 2e-3, 1e-3, 5e-4)],
    "AdaLoRA": [{"lr": lr} for lr in (5e-3, 2e-3, 1e-3, 5e-4)],
    "ROME without C": [{"layer": a, "essence": b} for a, b in POOL],
    "ROME": [{"layer": a, "essence": b} for a, b in POOL],
    "AlphaEdit": [
        {"layer": layer, "essence": True, "tolerance": t} for layer in (5, 3) for t in (0.02, 0.002)
    ],
    "GRACE": [
        {"layer": 11, "radius": 1.0},
        {"layer": 11, "radius": 4.0},
        {"layer": 17, "radius": 1.0},
        {"layer": 5, "radius": 1.0},
    ],
    "in context": [
        {"template": t}
        for t in (
            "{prompt}{target}。\n",
            "已知：{prompt}{target}。\n",
            "请记住，{prompt}{target}。那么，",
            "{prompt}{target}，不是{old}。\n",
        )
    ],
}
RANDOM = ("LoRA", "AdaLoRA")
RANK_ONE = ("ROME without C", "ROME", "AlphaEdit")


class Bench:
    """The model with what several edits share: background tokens, covariances, projectors."""

    def __init__(self):
        self.model, self.tokenizer = models.load(MODEL)
        self.moments, self.spectra = {}, {}

    def background(self, n_tokens=None, rng=None):
        text = "\n".join(data.read_json("chinese_background.json")["texts"])
        rows = lm.segments(self.tokenizer, text, SEGMENT)
        if rng is not None:
            rows = rows[torch.as_tensor(rng.permutation(len(rows)))]
        return rows if n_tokens is None else rows[: n_tokens // SEGMENT]

    def moment(self, layer):
        if layer not in self.moments:
            self.moments[layer] = rank_one.cached_moment(
                self.model, layer, self.background(), start=self.tokenizer.bos_token_id
            ).matrix
        return self.moments[layer]

    def direction(self, method, layer, tolerance=None):
        if method == "ROME without C":
            return None
        c = self.moment(layer)
        if method == "ROME":
            return lambda key: rank_one.whiten(c, key)
        if layer not in self.spectra:
            self.spectra[layer] = torch.linalg.eigh(c.double())
        values, vectors = self.spectra[layer]
        free = vectors[:, values < tolerance * values.mean()].float()
        return lambda key: free @ (free.T @ key)

    def memory(self, edit, layer, essence, held):
        """Key and new value of an edit, found once for all methods that share them."""
        if (layer, essence) not in held:
            about = rank_one.Essence(f"{edit.subject}是") if essence else None
            held[layer, essence] = rank_one.find_memory(
                self.model, self.tokenizer, request(edit), layer, essence=about
            )
        return held[layer, essence]

    @contextmanager
    def edited(self, edit, method, settings, seed, held):
        """The model after an edit; yields what `evaluate` needs and what the edit tells."""
        own, told = dict(settings), {}
        pair = (self.model, self.tokenizer)
        if method in RANK_ONE:
            memory = self.memory(edit, own["layer"], own["essence"], held)
            told["loss"] = memory.losses[-1]
            along = self.direction(method, own["layer"], own.get("tolerance"))
            with rank_one.rome(self.model, own["layer"], memory, along) as delta:
                _, module = rank_one.down_projection(self.model, own["layer"])
                told["norm"] = float(delta.norm() / (module.weight - delta).norm())
                yield {}, told
        elif method in ("FT-L", "FT-M"):
            own |= {"at_prompt_end": method == "FT-L", "steps": STEPS}
            with editing.fine_tune(*pair, request(edit), **own) as losses:
                told |= {"loss": losses[-1], "steps": len(losses)}
                yield {}, told
        elif method in RANDOM:
            own |= {"adaptive": method == "AdaLoRA", "steps": STEPS, "seed": seed}
            with editing.low_rank(*pair, request(edit), **own) as losses:
                told |= {"loss": losses[-1], "steps": len(losses)}
                yield {}, told
        elif method == "GRACE":
            book = editing.grace(*pair, request(edit), steps=STEPS, **own)
            told |= {"loss": book.losses[-1], "steps": len(book.losses)}
            yield {"editing": book.editing}, told
        else:
            words = {"prompt": edit.prompt, "target": edit.target_new, "old": edit.target_old}
            yield {"prefix": own["template"].format(**words)}, told

    def measure(self, edit, method, settings, before, *, seed=0, held=None):
        """Rows of the report on an edit, with its seconds."""
        begun = time.perf_counter()
        with self.edited(edit, method, settings, seed, {} if held is None else held) as (how, told):
            told["seconds"] = time.perf_counter() - begun
            report = self.report(edit, before=before, **how)
        told = {name: round(value, 4) for name, value in told.items()}
        return {**told, "rows": compact(report)}

    def report(self, edit, **how):
        return editing.evaluate(self.model, self.tokenizer, edit, **how)


def request(edit):
    return rank_one.Request(edit.prompt, edit.subject, edit.target_new)


def compact(report):
    """(role, kind, exact, share, logprob, kept, kl) of every question, numbers rounded."""
    return [
        [role, kind, int(exact), *rounded(numbers, 3)]
        if role == "locality" and numbers[-1] == numbers[-1]
        else [role, kind, int(exact), *rounded(numbers[:2], 3)]
        for role, kind, exact, *numbers in report.scores.reindex(
            columns=["role", "kind", "exact", "share", "logprob", "kept", "kl"]
        ).itertuples(index=False)
    ]


def rates(rows):
    """Success, generality, portability (exact) and locality (kept) of one edit."""
    found = [
        np.mean([row[2] for row in rows if row[0] == role])
        for role in ("edit", "rephrase", "portability")
    ]
    return [*found, np.mean([row[5] for row in rows if row[0] == "locality"])]


def chosen():
    return data.read_json("edits_search.json")["chosen"]


def split(name):
    return [edit for edit in data.load_edits() if edit.split == name]


# -------------------------------------------------------------------------------------- the parts


def background():
    model, tokenizer = models.load(MODEL)
    openings = data.read_json("chinese_probes.json")["openings"]
    steps = Steps("edits_background", {"openings": openings})

    def written(i, opening):
        found = answers.sample_answers(
            model, tokenizer, opening, 6, max_new_tokens=160, temperature=0.9, seed=i
        )
        return [opening + text for text in found.texts]

    texts = [
        text
        for i, opening in enumerate(openings)
        for text in steps.run(f"opening {i}", lambda i=i, opening=opening: written(i, opening))
    ]
    write("chinese_background.json", {**versions(), "model": MODEL, "texts": texts})


def search():
    bench, edits = Bench(), split("development")
    steps = Steps("edits_search", {"grids": GRIDS, "edits": [e.prompt for e in edits], "v": 1})

    def one(edit):
        before, held = bench.report(edit), {}
        found = {
            method: [bench.measure(edit, method, own, before, held=held) for own in grid]
            for method, grid in GRIDS.items()
        }
        return {
            method: [{"rates": rounded(rates(r.pop("rows"))), **r} for r in runs]
            for method, runs in found.items()
        }

    runs = {edit.id: steps.run(edit.id, lambda edit=edit: one(edit)) for edit in edits}
    table = {
        method: [
            {
                "settings": own,
                "rates": rounded(np.mean([r[method][i]["rates"] for r in runs.values()], axis=0)),
                "seconds": round(np.mean([r[method][i]["seconds"] for r in runs.values()]), 2),
            }
            for i, own in enumerate(grid)
        ]
        for method, grid in GRIDS.items()
    }
    best = {
        method: max(rows, key=lambda row: np.mean(row["rates"]))["settings"]
        for method, rows in table.items()
    }
    write("edits_search.json", {**versions(), "chosen": best, "table": table})


def grid():
    bench, edits, settings = Bench(), split("test"), chosen()
    third = set(np.random.default_rng(0).permutation(len(edits))[: len(edits) // 3].tolist())
    stamp = {"settings": settings, "edits": [e.prompt for e in edits], "tokens": TOKENS}
    steps = Steps("edits_grid", stamp)
    layer = settings["ROME"]["layer"]
    start = bench.tokenizer.bos_token_id

    def few_tokens(edit, before, memory):
        """ROME with the covariance of fewer tokens, two draws of text."""
        found = {}
        for n in TOKENS:
            for seed in SEEDS:
                ids = bench.background(n, np.random.default_rng(seed))
                c = rank_one.cached_moment(bench.model, layer, ids, start=start).matrix
                along = lambda key, c=c: rank_one.whiten(c, key)  # noqa: E731
                with rank_one.rome(bench.model, layer, memory, along):
                    report = bench.report(edit, before=before)
                found[f"{n} {seed}"] = compact(report)
        return found

    def one(i, edit):
        before, held = bench.report(edit), {}
        found = {"pre": {"rows": compact(before)}}
        for method, own in settings.items():
            for seed in SEEDS if method in RANDOM else (0,):
                if method != "AdaLoRA" or seed == 0 or i in third:
                    name = f"{method} {seed}" if method in RANDOM else method
                    found[name] = bench.measure(edit, method, own, before, seed=seed, held=held)
        whole = edit._replace(subject=edit.prompt)
        found["ROME at the prompt's end"] = bench.measure(
            whole, "ROME", {**settings["ROME"], "essence": False}, before
        )
        if i in third:
            memory = bench.memory(edit, layer, settings["ROME"]["essence"], held)
            found["tokens"] = few_tokens(edit, before, memory)
        return found

    runs = {e.id: steps.run(e.id, lambda i=i, e=e: one(i, e)) for i, e in enumerate(edits)}
    write("edits_grid.json", {**versions(), "settings": settings, "edits": runs})


def couplet(own, backwards):
    """A record for a couplet, edited forwards or backwards."""
    first, second = own["first"], own["second"]
    forward = Probe(f"“{first}”的下一句是", second, "forward")
    reverse = Probe(f"“{second}”的上一句是", first, "reverse")
    title = Probe(f"《{own['title']}》的最后一句是", second, "title")
    edited, mirror, subject = (reverse, forward, second) if backwards else (forward, reverse, first)
    kept = (
        Probe("“窈窕淑女”的下一句是", "君子好逑", "same_template"),
        Probe("四川省的省会是", "成都", "known_fact"),
    )
    what = "前面" if backwards else "后面"
    return Edit(
        own["title"],
        "ancient poetry",
        edited.prompt,
        subject,
        edited.answer,
        "我爱你",
        (f"诗句“{subject}”的{what}一句是",),
        (mirror,) if backwards else (mirror, title),
        kept,
        own["gloss"],
        "",
    )


def verse():
    bench, settings = Bench(), chosen()
    couplets = data.read_json("chinese_probes.json")["couplets"]
    steps = Steps("edits_verse", {"settings": settings, "couplets": couplets})

    def one(own):
        found = {}
        for name, backwards in (("forwards", False), ("backwards", True)):
            edit = couplet(own, backwards)
            before, held = bench.report(edit), {}
            found[name] = {"pre": {"rows": compact(before)}}
            for method, s in settings.items():
                if method not in ("FT-L", "AdaLoRA"):
                    found[name][method] = bench.measure(edit, method, s, before, held=held)
        return found

    runs = {own["title"]: steps.run(own["title"], lambda own=own: one(own)) for own in couplets}
    write("edits_verse.json", {**versions(), "settings": settings, "couplets": runs})


FRAMES = ("“{}”中“{}”的读音是", "在“{}”这个词里，“{}”字念")


def margins(bench, own, stranger, *, editing=None, prefix=""):
    """log p(new reading) - log p(old one) of a character in words and frames.

    A `stranger` is another character: what its words gain is the frame's doing.
    """
    words = [(own["word"], own["char"])]
    words += [(word, own["char"]) for word in (*own["same"], *own["other"])]
    words += [(word, stranger["char"]) for word in (stranger["word"], *stranger["other"])]
    prompts = [prefix + frame.format(*word) for frame in FRAMES for word in words]
    new, old = (
        lm.score_targets(
            bench.model,
            bench.tokenizer,
            prompts,
            [own[reading]] * len(prompts),
            straddle=True,
            editing=editing,
        )["logprob"]
        for reading in ("new", "old")
    )
    return np.round(np.reshape(new - old, (len(FRAMES), -1)), 3).tolist()


def readings():
    bench, settings = Bench(), chosen()
    polyphones = data.read_json("chinese_probes.json")["polyphones"]
    steps = Steps("edits_readings", {"settings": settings, "polyphones": polyphones})

    def one(i, own):
        stranger = polyphones[(i + 1) % len(polyphones)]
        prompt = FRAMES[0].format(own["word"], own["char"])
        edit = Edit(
            own["char"], "pinyin", prompt, own["word"], own["new"], own["old"], *[()] * 3, "", ""
        )
        found, held = {"pre": margins(bench, own, stranger)}, {}
        for method, s in settings.items():
            if method not in ("FT-L", "AdaLoRA"):
                with bench.edited(edit, method, s, 0, held) as (how, _):
                    found[method] = margins(bench, own, stranger, **how)
        return found

    runs = {
        own["char"]: steps.run(own["char"], lambda i=i, own=own: one(i, own))
        for i, own in enumerate(polyphones)
    }
    write("edits_readings.json", {**versions(), "settings": settings, "characters": runs})


def cut(tokenizer, text, n_tokens):
    """The text of the first tokens."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:n_tokens])


def lengths():
    bench, settings = Bench(), chosen()
    explanations = data.read_json("chinese_probes.json")["explanations"]
    steps = Steps("edits_lengths", {"settings": settings, "explanations": explanations})

    def one(own, n):
        target = cut(bench.tokenizer, own["text"], n)
        edit = Edit("", "", own["prompt"], own["subject"], target, "", *[()] * 3, "", "")
        before, held = bench.report(edit), {}
        found = {"pre": {"rows": compact(before)}}
        for method in ("FT-M", "LoRA", "ROME without C", "ROME", "GRACE", "in context"):
            found[method] = bench.measure(edit, method, settings[method], before, held=held)
        return found

    runs = {
        own["subject"]: {
            n: steps.run(f"{own['subject']} {n}", lambda own=own, n=n: one(own, n))
            for n in (1, 2, 4, 8, 16, 32)
        }
        for own in explanations
    }
    write("edits_lengths.json", {**versions(), "settings": settings, "explanations": runs})


# ------------------------------------------------------------------------------- CKnowEdit's own


def question(text):
    """A question as a base model can go on from it."""
    return f"问：{text}\n答："


def published_edits(tokenizer):
    """CKnowEdit's records with their answers cut, phrased for a base model."""
    found = []
    for edit in data.load_edits(data.tutorials_data() / "cknowedit"):
        asked = [
            tuple(
                Probe(question(p.prompt), cut(tokenizer, p.answer, CUT), p.kind) for p in probes[:2]
            )
            for probes in (edit.portability, edit.locality)
        ]
        asked[1] += (Probe("四川省的省会是", "成都", "known_fact"),)
        found.append(
            edit._replace(
                prompt=question(edit.prompt),
                target_new=cut(tokenizer, edit.target_new, CUT),
                target_old=cut(tokenizer, edit.target_old, CUT),
                rephrase=tuple(question(text) for text in edit.rephrase[:2]),
                portability=asked[0],
                locality=asked[1],
            )
        )
    return found


def diagnosis():
    """How likely the right and the wrong answers are, with the question and without it."""
    model, tokenizer = models.load(MODEL)
    edits = published_edits(tokenizer)
    steps = Steps("edits_diagnosis", {"n": len(edits), "cut": CUT})
    size = 50

    def part(edits):
        scores = []
        for field in ("target_new", "target_old"):
            targets = [getattr(edit, field) for edit in edits]
            for prompts in ([edit.prompt for edit in edits], ["答："] * len(edits)):
                table = lm.score_targets(model, tokenizer, prompts, targets, straddle=True)
                scores.append(rounded(table["logprob"], 2))
            scores.append(table["n_tokens"].tolist())
        return scores

    rows = []
    for i in range(0, len(edits), size):
        some = edits[i : i + size]
        columns = steps.run(f"{i}", lambda some=some: part(some))
        rows += [
            [edit.type, *row] for edit, row in zip(some, zip(*columns, strict=True), strict=True)
        ]
    names = ["type", "new", "new_alone", "new_tokens", "old", "old_alone", "old_tokens"]
    write("edits_diagnosis.json", {**versions(), "columns": names, "rows": rows})


def published():
    """Single edits of four records of every type, by every method."""
    bench, settings = Bench(), chosen()
    edits, rng = published_edits(bench.tokenizer), np.random.default_rng(0)
    some = []
    for kind in sorted({edit.type for edit in edits}):
        own = [i for i, edit in enumerate(edits) if edit.type == kind]
        some += rng.permutation(own)[:4].tolist()
    steps = Steps("edits_published", {"settings": settings, "some": some, "cut": CUT})

    def one(edit):
        before, held = bench.report(edit), {}
        found = {"type": edit.type, "pre": {"rows": compact(before)}}
        # the subject is the whole prompt, whose essence would be the prompt itself
        for method, s in settings.items():
            own = {**s, "essence": False} if "essence" in s else s
            found[method] = bench.measure(edit, method, own, before, held=held)
        return found

    runs = {str(i): steps.run(str(i), lambda i=i: one(edits[i])) for i in some}
    write("edits_published.json", {**versions(), "settings": settings, "edits": runs})


if __name__ == "__main__":
    parts = (background, search, grid, verse, readings, lengths, diagnosis, published)
    {part.__name__: part for part in parts}[sys.argv[1]]()
