"""Writes the numbers of notebook 01 that take longer than a lesson.

    python data/01_cknowedit/make_numbers.py PART

PART is one of

    background  text that the model writes, for the key covariance
    search      settings of every method, on the development split
    grid        36 edits by nine methods with those settings
    verse       couplets forwards and backwards
    readings    characters with two readings
    lengths     targets of 2 to 32 tokens
    diagnosis   CKnowEdit's own records (needs TUTORIALS_DATA)
    published   edits of 40 of them (needs TUTORIALS_DATA)

Only numbers are stored, apart from the background text. Finished steps are kept in the cache
folder; `grid` and what comes after it need the settings that `search` wrote.
"""

import sys
import time
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from helpers import data, editing, lm, models, twosample
from helpers.artefacts import Steps, rounded, versions, write
from helpers.editing import Edit, Probe

HERE = Path(__file__).resolve().parent

MODEL = "gemma3-270m"
SEGMENT = 64  # tokens of a row of background text
TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192)  # for the covariance, in the tokens figure
SEEDS = (0, 1)
LENGTHS = (2, 8, 16, 32)  # tokens of a target
MORE_STEPS = 100  # of ROME, for the longest of these
CUT = 32  # most tokens of a published answer
STEPS = 25

# Four settings a method, ranked by the mean of four rates over the development edits: edit,
# rephrases and portability exact, locality kept. The earlier of equals is taken. Published
# numbers of steps: 25 (FT), 70 (AdaLoRA), 25 (value of ROME), 50 (GRACE).
POOL = [
    {"layer": 5, "essence": True},
    {"layer": 3, "essence": True},
    {"layer": 5, "essence": False},
    {"layer": 5, "essence": False, "prefixes": ["", "据说，", "大家都知道，"]},
]
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
    "AdaLoRA": [
        {"lr": 5e-3, "steps": 70},
        {"lr": 5e-3, "steps": 25},
        {"lr": 2e-3, "steps": 25},
        {"lr": 1e-3, "steps": 50},
    ],
    "ROME without C": POOL,
    "ROME": POOL,
    "AlphaEdit": [
        {"layer": layer, "essence": False, "tolerance": t} for layer in (5, 3) for t in (0.2, 0.05)
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
RANDOM = ("LoRA", "AdaLoRA", "AdaLoRA as released")
RANK_ONE = ("ROME without C", "ROME", "AlphaEdit")


class Bench:
    """The model with what several edits share: background tokens, covariances, projectors."""

    def __init__(self):
        self.model, self.tokenizer = models.load(MODEL)
        self.moments, self.spectra = {}, {}

    def background(self, n_tokens=None, rng=None):
        text = "\n".join(data.read_json(HERE / "background.json")["texts"])
        rows = lm.segments(self.tokenizer, text, SEGMENT)
        if rng is not None:
            rows = rows[torch.as_tensor(rng.permutation(len(rows)))]
        return rows if n_tokens is None else rows[: n_tokens // SEGMENT]

    def moment(self, layer):
        if layer not in self.moments:
            self.moments[layer] = editing.cached_moment(
                self.model, layer, self.background(), start=self.tokenizer.bos_token_id
            ).matrix
        return self.moments[layer]

    def direction(self, method, layer, tolerance=None):
        if method == "ROME without C":
            return None
        c = self.moment(layer)
        if method == "ROME":
            return lambda key: editing.whiten(c, key)
        if layer not in self.spectra:
            self.spectra[layer] = torch.linalg.eigh(c.double())
        values, vectors = self.spectra[layer]
        free = vectors[:, values < tolerance * values.mean()].float()
        return lambda key: free @ (free.T @ key)

    def memory(self, edit, held, layer, essence, prefixes=("",), steps=12):
        """Key and new value of an edit and the seconds; methods share what is the same."""
        kind = (edit.subject, layer, essence, tuple(prefixes), steps)
        if kind not in held:
            begun = time.perf_counter()
            about = editing.Essence(f"“{edit.subject}”是") if essence else None
            found = editing.find_memory(
                self.model,
                self.tokenizer,
                request(edit),
                layer,
                essence=about,
                prefixes=prefixes,
                steps=steps,
            )
            held[kind] = found, time.perf_counter() - begun
        return held[kind]

    def weight(self, layer):
        return editing.down_projection(self.model, layer)[1].weight.detach()

    def size(self, layer, delta):
        """Length of a change relative to the weight before it."""
        return float(delta.norm() / (self.weight(layer) - delta).norm())

    @contextmanager
    def edited(self, edit, method, settings, seed, held):
        """The model after an edit; yields what `evaluate` needs and what the edit tells."""
        own, told = {"steps": STEPS, **settings}, {}
        pair, begun = (self.model, self.tokenizer), time.perf_counter()
        if method in RANK_ONE:
            searched = {k: v for k, v in settings.items() if k != "tolerance"}
            self.moment(own["layer"])  # shared by all edits, so not part of an edit's time
            along = self.direction(method, own["layer"], own.get("tolerance"))
            (memory, seconds), begun = self.memory(edit, held, **searched), time.perf_counter()
            with editing.rome(self.model, own["layer"], memory, along) as delta:
                told["seconds"] = time.perf_counter() - begun + seconds
                told |= {"loss": memory.losses[-1], "norm": self.size(own["layer"], delta)}
                yield {}, told
        elif method in ("FT-L", "FT-M"):
            before = self.weight(own["layer"]).clone()
            own["at_prompt_end"] = method == "FT-L"
            with editing.fine_tune(*pair, request(edit), **own) as losses:
                told["seconds"] = time.perf_counter() - begun
                delta = self.weight(own["layer"]) - before
                told |= {"loss": losses[-1], "steps": len(losses)}
                told["norm"] = self.size(own["layer"], delta)
                yield {}, told
        elif method in RANDOM:
            own |= {"adaptive": method != "LoRA", "seed": seed}
            own["allocate"] = method != "AdaLoRA as released"
            with editing.low_rank(*pair, request(edit), **own) as losses:
                told |= {"seconds": time.perf_counter() - begun, "loss": losses[-1]}
                told["steps"] = len(losses)
                yield {}, told
        elif method == "GRACE":
            book = editing.grace(*pair, request(edit), **own)
            told |= {
                "seconds": time.perf_counter() - begun,
                "loss": book.losses[-1],
                "steps": len(book.losses),
            }
            yield {"during": book.during}, told
        else:
            told["seconds"] = 0.0
            words = {"prompt": edit.prompt, "target": edit.target_new, "old": edit.target_old}
            yield {"prefix": own["template"].format(**words)}, told

    def measure(self, edit, method, settings, before, *, seed=0, held=None):
        """Rows of the report on an edit, with its seconds."""
        with self.edited(edit, method, settings, seed, {} if held is None else held) as (how, told):
            report = self.report(edit, before=before, **how)
        told = {name: round(value, 4) for name, value in told.items()}
        return {**told, "rows": compact(report)}

    def report(self, edit, **how):
        return editing.evaluate(self.model, self.tokenizer, edit, **how)


def request(edit):
    return editing.Request(edit.prompt, edit.subject, edit.target_new)


NUMBERS = ("share", "prefix", "logprob", "kept", "kl")


def compact(report):
    """(role, kind, exact, share, prefix, logprob) of every question, at locality also kept, kl."""
    table = report.scores.reindex(columns=["role", "kind", "exact", *NUMBERS])
    return [
        [role, kind, int(exact), *rounded([x for x in numbers if x == x], 3)]
        for role, kind, exact, *numbers in table.itertuples(index=False)
    ]


def rates(rows):
    """Success, generality, portability (exact) and locality (kept) of one edit."""
    found = [
        np.mean([row[2] for row in rows if row[0] == role])
        for role in ("edit", "rephrase", "portability")
    ]
    return [*found, np.mean([row[6] for row in rows if row[0] == "locality"])]


def chosen():
    return data.read_json(HERE / "search.json")["chosen"]


def split(name):
    return [edit for edit in editing.load_edits(HERE / "records.json") if edit.split == name]


# -------------------------------------------------------------------------------------- the parts


def background():
    model, tokenizer = models.load(MODEL)
    openings = data.read_json(HERE / "probes.json")["openings"]
    steps = Steps("edits_background", {"openings": openings})

    def written(i, opening):
        found = twosample.sample_answers(
            model, tokenizer, opening, 6, max_new_tokens=160, temperature=0.9, seed=i
        )
        return [opening + text for text in found.texts]

    texts = [
        text
        for i, opening in enumerate(openings)
        for text in steps.run(f"opening {i}", lambda i=i, opening=opening: written(i, opening))
    ]
    write(HERE / "background.json", {**versions(), "model": MODEL, "texts": texts})


GROUPS = {
    **{name: (name,) for name in ("FT-L", "FT-M", "LoRA", "AdaLoRA", "GRACE", "in context")},
    "rank-one": ("ROME without C", "ROME"),
    "AlphaEdit": ("AlphaEdit",),
}


def search():
    bench, edits = Bench(), split("development")
    runs = {method: {} for method in GRIDS}

    def one(edit, methods):
        before, held = bench.report(edit), {}
        return {
            method: [
                {"rates": rounded(rates(r["rows"])), "seconds": r["seconds"]}
                for own in GRIDS[method]
                for r in [bench.measure(edit, method, own, before, held=held)]
            ]
            for method in methods
        }

    for name, methods in GROUPS.items():
        stamp = {"grids": [GRIDS[m] for m in methods], "edits": [e.prompt for e in edits]}
        steps = Steps(f"edits_search_{name.replace(' ', '_')}", stamp)
        found = steps.run_all({edit.id: partial(one, edit, methods) for edit in edits})
        for method in methods:
            runs[method] = [own[method] for own in found.values()]
    table = {
        method: [
            {
                "settings": own,
                "rates": rounded(np.mean([run[i]["rates"] for run in runs[method]], axis=0)),
                "seconds": round(float(np.mean([run[i]["seconds"] for run in runs[method]])), 2),
            }
            for i, own in enumerate(grid)
        ]
        for method, grid in GRIDS.items()
    }
    best = {
        method: max(rows, key=lambda row: np.mean(row["rates"]))["settings"]
        for method, rows in table.items()
    }
    write(HERE / "search.json", {**versions(), "chosen": best, "table": table})


def grid():
    bench, edits, settings = Bench(), split("test"), chosen()
    third = set(np.random.default_rng(0).permutation(len(edits))[: len(edits) // 3].tolist())
    stamp = {"settings": settings, "edits": [e.prompt for e in edits], "tokens": TOKENS}
    steps = Steps("edits_grid", stamp)
    settings = {**settings, "GRACE": {**settings["GRACE"], "steps": 50}}  # as published
    layer = settings["ROME"]["layer"]
    start = bench.tokenizer.bos_token_id

    @cache
    def few(n, seed):
        ids = bench.background(n, np.random.default_rng(seed))
        return editing.second_moment(bench.model, layer, ids, start=start)[0]

    def few_tokens(edit, before, memory):
        """ROME with the covariance of fewer tokens, two draws of text."""
        found = {}
        for n in TOKENS:
            for seed in SEEDS:
                along = partial(editing.whiten, few(n, seed))
                with editing.rome(bench.model, layer, memory, along):
                    found[f"{n} {seed}"] = compact(bench.report(edit, before=before))
        return found

    def said(edit, method, held):
        """What greedy decoding writes behind the prompt and its rephrases."""
        with bench.edited(edit, method, settings[method], 0, held) as (how, _):
            prefix = how.pop("prefix", "")
            prompts = [prefix + text for text in (edit.prompt, *edit.rephrase)]
            return lm.greedy(bench.model, bench.tokenizer, prompts, max_new_tokens=12, **how)

    def one(i, edit):
        before, held = bench.report(edit), {}
        found = {"pre": {"rows": compact(before)}}
        for method, own in settings.items():
            seeds = SEEDS if method == "LoRA" or (method == "AdaLoRA" and i in third) else (0,)
            for seed in seeds:
                name = f"{method} {seed}" if method in RANDOM else method
                found[name] = bench.measure(edit, method, own, before, seed=seed, held=held)
        whole = edit._replace(subject=edit.prompt)
        plain = {**settings["ROME"], "essence": False}
        found["ROME at the subject's end"] = bench.measure(edit, "ROME", plain, before, held=held)
        found["ROME at the prompt's end"] = bench.measure(whole, "ROME", plain, before)
        if i in third:
            name = "AdaLoRA as released"
            found[name] = bench.measure(edit, name, settings["AdaLoRA"], before)
            memory, _ = bench.memory(edit, held, **settings["ROME"])
            found["tokens"] = few_tokens(edit, before, memory)
            found["said"] = {m: said(edit, m, held) for m in ("FT-M", "LoRA", "ROME", "in context")}
        return found

    runs = steps.run_all({edit.id: partial(one, i, edit) for i, edit in enumerate(edits)})
    write(HERE / "grid.json", {**versions(), "settings": settings, "edits": runs})


def couplet(own, backwards):
    """A record for a couplet, or two sentences without a title, edited forwards or backwards."""
    first, second = own["first"], own["second"]
    forward = Probe(f"“{first}”的下一句是", second, "forward")
    reverse = Probe(f"“{second}”的上一句是", first, "reverse")
    titles = [Probe(f"《{own['title']}》的最后一句是", second, "title")] if "title" in own else []
    edited, mirror, subject = (reverse, forward, second) if backwards else (forward, reverse, first)
    kept = (
        Probe("“窈窕淑女”的下一句是", "君子好逑", "same_template"),
        Probe("四川省的省会是", "成都", "known_fact"),
    )
    what = "前面" if backwards else "后面"
    return Edit(
        first,
        "ancient poetry" if titles else "sequel",
        edited.prompt,
        subject,
        edited.answer,
        "我爱你",
        (f"“{subject}”{what}的那一句是",),
        (mirror,) if backwards else (mirror, *titles),
        kept,
        own["gloss"],
    )


def verse():
    bench, settings = Bench(), chosen()
    probes = data.read_json(HERE / "probes.json")
    parts = {"couplets": probes["couplets"], "sequels": probes["sequels"]}
    steps = Steps("edits_verse", {"settings": settings, **parts})

    def one(own):
        found = {}
        for name, backwards in (("forwards", False), ("backwards", True)):
            if backwards and "title" not in own:
                continue  # the sequels are a control for the line before only
            edit = couplet(own, backwards)
            before, held = bench.report(edit), {}
            found[name] = {"pre": {"rows": compact(before)}}
            for method, s in settings.items():
                costly = method == "AdaLoRA" and (backwards or "title" not in own)
                if method not in ("FT-L", "ROME without C") and not costly:
                    found[name][method] = bench.measure(edit, method, s, before, held=held)
        return found

    runs = steps.run_all({o["first"]: partial(one, o) for part in parts.values() for o in part})
    found = {
        name: {own["first"]: runs[own["first"]] for own in part} for name, part in parts.items()
    }
    write(HERE / "verse.json", {**versions(), "settings": settings, **found})


FRAMES = ("“{}”中“{}”的读音是", "在“{}”这个词里，“{}”字念")


def margins(bench, own, stranger, *, during=None, prefix=""):
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
            during=during,
        )["logprob"]
        for reading in ("new", "old")
    )
    return np.round(np.reshape(new - old, (len(FRAMES), -1)), 3).tolist()


def readings():
    bench, settings = Bench(), chosen()
    polyphones = data.read_json(HERE / "probes.json")["polyphones"]
    steps = Steps("edits_readings", {"settings": settings, "polyphones": polyphones})

    def one(i, own):
        stranger = polyphones[(i + 1) % len(polyphones)]
        prompt = FRAMES[0].format(own["word"], own["char"])
        edit = Edit(
            own["char"], "pinyin", prompt, own["word"], own["new"], own["old"], *[()] * 3, "", ""
        )
        found, held = {"pre": margins(bench, own, stranger)}, {}
        for method, s in settings.items():
            if method not in ("FT-L", "ROME without C"):
                with bench.edited(edit, method, s, 0, held) as (how, _):
                    found[method] = margins(bench, own, stranger, **how)
        return found

    runs = steps.run_all({own["char"]: partial(one, i, own) for i, own in enumerate(polyphones)})
    write(HERE / "readings.json", {**versions(), "settings": settings, "characters": runs})


def cut(tokenizer, text, n_tokens):
    """The text of the first tokens."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:n_tokens])


def lengths():
    bench, settings = Bench(), chosen()
    explanations = data.read_json(HERE / "probes.json")["explanations"]
    steps = Steps("edits_lengths", {"settings": settings, "explanations": explanations})

    def one(own, n):
        target = cut(bench.tokenizer, own["text"], n)
        edit = Edit("", "", own["prompt"], own["subject"], target, "", *[()] * 3)
        before, held = bench.report(edit), {}
        found = {"pre": {"rows": compact(before)}}
        for method in ("FT-M", "LoRA", "AdaLoRA", "ROME", "GRACE", "in context"):
            if method == "AdaLoRA" and n < 16:
                continue  # for time
            more = {"steps": STEPS} if method in RANK_ONE else {}  # long targets are harder to find
            own = {**settings[method], **more}
            found[method] = bench.measure(edit, method, own, before, held=held)
        return found

    def longer(own):
        """ROME with more steps: was its value not found, or can one vector not carry it?"""
        target = cut(bench.tokenizer, own["text"], LENGTHS[-1])
        edit = Edit("", "", own["prompt"], own["subject"], target, "", *[()] * 3)
        settled = {**settings["ROME"], "steps": MORE_STEPS}
        return bench.measure(edit, "ROME", settled, bench.report(edit), held={})

    tasks = {f"{own['subject']} {n}": partial(one, own, n) for own in explanations for n in LENGTHS}
    runs = steps.run_all(tasks)
    more = {f"{own['subject']}, {MORE_STEPS} steps": partial(longer, own) for own in explanations}
    found = {"explanations": runs, "more_steps": steps.run_all(more)}
    write(HERE / "lengths.json", {**versions(), "settings": settings, **found})


# ------------------------------------------------------------------------------- CKnowEdit's own


def question(text):
    """A question as a base model can go on from it."""
    return f"问：{text}\n答："


def published_edits(tokenizer):
    """CKnowEdit's records with their answers cut, phrased for a base model."""
    found = []
    known = [p for e in split("test") for p in e.locality if p.kind == "known_fact"]
    for i, edit in enumerate(editing.load_edits(data.tutorials_data() / "cknowedit")):
        asked = [
            tuple(
                Probe(question(p.prompt), cut(tokenizer, p.answer, CUT), p.kind) for p in probes[:2]
            )
            for probes in (edit.portability, edit.locality)
        ]
        asked[1] = asked[1] or (known[i % len(known)],)  # most types have no locality
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

    parts = {str(i): edits[i : i + size] for i in range(0, len(edits), size)}
    found = steps.run_all({name: partial(part, some) for name, some in parts.items()})
    rows = [
        [edit.type, *row]
        for name, some in parts.items()
        for edit, row in zip(some, zip(*found[name], strict=True), strict=True)
    ]
    names = ["type", "new", "new_alone", "new_tokens", "old", "old_alone", "old_tokens"]
    write(HERE / "diagnosis.json", {**versions(), "columns": names, "rows": rows})


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

    runs = steps.run_all({str(i): partial(one, edits[i]) for i in some})
    write(HERE / "published.json", {**versions(), "settings": settings, "edits": runs})


if __name__ == "__main__":
    parts = (background, search, grid, verse, readings, lengths, diagnosis, published)
    {part.__name__: part for part in parts}[sys.argv[1]]()
