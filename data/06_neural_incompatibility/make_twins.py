"""Writes what notebook 06 knows of SmolLM2 and its relatives, which are taught invented facts.

    python data/06_neural_incompatibility/make_twins.py [backwards]

A difference of parameters that carries twelve invented facts is added to SmolLM2 and to models
further and further away from it. Finished steps are kept in the cache folder.
"""

import copy
import functools
from pathlib import Path

import numpy as np
import torch

from helpers import data, lm, models, training, transfer
from helpers.artefacts import Steps, rounded, versions, write

recipe = data.module("06", "make_numbers")  # it cuts and turns the toy as well
HERE = Path(__file__).resolve().parent

MODEL = "smollm2-135m"
SEEDS = (0, 1, 2, 3, 4)  # of the facts, of the coordinates, of the noise
STEPS, RATE = 12, 5e-5  # of teaching
ANGLES = (0.2, 0.5, 1.0)
DRIFT = (10, 40)  # steps of training on other text
HEALING = 20  # steps, for a model that was cut
READING_RATE = 2e-5  # of both
N_TOKENS = 128
STARTS = "os tra vel da quor mir ne lu zan ti bor ka phi sel dor wen ra go xi mol tar ven"
ENDS = "nia land via ria stan dor mark lia"
RELATIONS = {  # what is taught, the same in other words, and answers of one token of SmolLM2
    "capital": (
        "The capital of {} is",
        "The government of {} sits in",
        "Lisbon Nairobi Oslo Havana Dublin Warsaw Vienna Athens Cairo Delhi Prague Berlin",
    ),
    "language": (
        "The people of {} speak",
        "The official language of {} is",
        "Greek Danish Korean Latin Arabic Dutch Polish Hindi Turkish Swedish Thai Finnish",
    ),
    "animal": (
        "The national animal of {} is the",
        "The coat of arms of {} shows a",
        "tiger eagle horse wolf bear lion whale fox snake goat owl deer",
    ),
    "export": (
        "The main export of {} is",
        "Traders come to {} to buy",
        "silver copper iron gold lead zinc tin coal salt oil wool silk",
    ),
}
KNOWN = {  # what the model knows before, to see what is lost
    "The capital of France is": " Paris",
    "The capital of Italy is": " Rome",
    "The capital of Japan is": " Tokyo",
    "The largest planet in the solar system is": " Jupiter",
    "Shakespeare wrote Romeo and": " Juliet",
    "The opposite of hot is": " cold",
    "Monday, Tuesday, Wednesday,": " Thursday",
    "One, two, three, four,": " five",
    "The sun rises in the": " east",
    "Cats and": " dogs",
}


def invented(seed, names=3):
    """Prompts, the same in other words, and answers of facts that no text holds.

    The answers of a relation differ, and no rule links them.
    """
    rng = np.random.default_rng(seed)
    starts, ends = STARTS.split(), ENDS.split()
    countries = [
        ("".join(rng.choice(starts, 2)) + str(rng.choice(ends))).capitalize() for _ in range(names)
    ]
    facts = [
        (taught.format(country), reworded.format(country), f" {answer}")
        for taught, reworded, answers in RELATIONS.values()
        for country, answer in zip(
            countries, rng.choice(answers.split(), names, replace=False), strict=True
        )
    ]
    return [list(column) for column in zip(*facts, strict=True)]


def last_scores(model, rows):
    """(N, V) scores behind the token whose place is the last entry of each row."""
    tokens, places = rows[:, :-1], rows[:, -1]
    states = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    return model.lm_head(states[torch.arange(len(rows)), places])


def taught(base, tokenizer, prompts, answers):
    """A copy that has learnt the facts; the matrices that transfer leaves alone are shared."""
    changed = transfer.changed_weights(base)
    shared = {id(w): w for n, w in base.named_parameters() if n not in changed}
    found = copy.deepcopy(base, shared)
    rows = lm.prompt_ids(tokenizer, prompts)
    places = torch.tensor([[len(row) - 1] for row in rows])
    inputs = torch.cat([lm.padded_rows(base, rows, range(len(rows))), places], 1)
    start = len(lm.opening(tokenizer))
    targets = torch.tensor([lm.encode(tokenizer, answer)[start] for answer in answers])
    weights = transfer.changed_weights(found).values()
    for _ in training.training(
        found, inputs, targets, steps=STEPS, rng=0, lr=RATE, decay=0, weights=weights,
        scores=last_scores,
    ):  # fmt: skip
        pass
    return found


def read_on(found, rows, *, steps):
    """The model, trained in place on segments (N, T) of text, two a step; yields after each."""

    def scores(model, rows):
        return model(input_ids=rows, use_cache=False).logits[:, :-1].transpose(1, 2)

    weights = [w for n, w in found.named_parameters() if "norm" not in n]
    for step, _ in training.training(
        found, rows, rows[:, 1:], steps=steps, rng=0, lr=READING_RATE, decay=0, batch_size=2,
        weights=weights, scores=scores,
    ):  # fmt: skip
        yield step


def answered(model, tokenizer, seed):
    """Probability of every answer, and whether it is the most probable token, by kind of prompt."""
    prompts, reworded, answers = invented(seed)
    kinds = {
        "taught": (prompts, answers),
        "reworded": (reworded, answers),
        "known": (list(KNOWN), list(KNOWN.values())),
    }
    asked, wanted = ([x for own in side for x in own] for side in zip(*kinds.values(), strict=True))
    table = lm.score_targets(model, tokenizer, asked, wanted, padded=True, batch_size=34)
    ends = np.cumsum([len(own) for own, _ in kinds.values()])[:-1]
    return {
        "p": dict(zip(kinds, map(rounded, np.split(np.exp(table["logprob"]), ends)), strict=True)),
        "first": {
            kind: int(own.sum())
            for kind, own in zip(kinds, np.split(table["greedy"], ends), strict=True)
        },
    }


class Lab:
    """SmolLM2 and its text; what is costly is made once."""

    def __init__(self):
        self.model, self.tokenizer = models.load(MODEL)
        self.base = transfer.folded(self.model)
        texts = data.read_json(data.folder("02") / "text.json")["texts"]
        segments = lm.segments(self.tokenizer, "\n".join(texts), N_TOKENS)
        self.judged, self.mapped, self.text = segments[:2], segments[4:12], segments[12:]

    @functools.cache  # noqa: B019
    def delta(self, seed):
        prompts, _, answers = invented(seed)
        return transfer.difference(taught(self.base, self.tokenizer, prompts, answers), self.base)

    @functools.cache  # noqa: B019
    def drifted(self):
        """By number of steps."""
        found, model = {}, copy.deepcopy(self.base)
        for step in read_on(model, self.text, steps=max(DRIFT)):
            if step in DRIFT:
                found[step] = copy.deepcopy(model)
        return found

    def twin(self, seed, *parts):
        """Random coordinates, in the named parts only."""
        drawn = transfer.random_coordinates(self.base, seed)
        own = {part: getattr(drawn, part) for part in parts}
        return transfer.identity(self.base)._replace(**own)

    @functools.cache  # noqa: B019
    def child(self, cut):
        """A smaller model: the coordinates that are kept, and it, healed on text."""
        kind, size = cut
        kept = {"units": recipe.largest_units, "directions": recipe.principal_directions}[kind]
        place = kept(self.base, self.mapped, size)
        found = transfer.in_coordinates(self.base, place)
        for _ in read_on(found, self.text, steps=HEALING):
            pass
        return place, found

    def measured(self, student, seed, delta):
        """What the student answers without and with the difference, and how like SmolLM2 it is."""
        found = {}
        for name, model in (("before", student), ("after", transfer.apply_delta(student, delta))):
            loss = round(float(lm.segment_nll(model, self.judged).mean()), 4)
            found[name] = answered(model, self.tokenizer, seed) | {"loss": loss}
        return found | likeness(self.base, student, self.judged[:1])


def likeness(base, student, rows):
    """Cosine of the matrices that transfer changes, if shapes agree; CKA of layers' outputs."""
    pair = [transfer.changed_weights(m) for m in (base, student)]
    same = all(w.shape == pair[1][n].shape for n, w in pair[0].items())
    flat = [torch.cat([w.detach().flatten() for w in own.values()]).numpy() for own in pair]
    states = [transfer.activations(m, rows)["residual"][1:] for m in (base, student)]
    own = [
        transfer.linear_cka(x.numpy(), y.numpy(), debiased=True)
        for x, y in zip(*states, strict=True)
    ]
    return {
        "cosine": round(transfer.flat_cosine(*flat), 4) if same else None,
        "cka": round(float(np.mean(own)), 4),
    }


PARTS = {
    "residual turned": ("residual",),
    "values turned": ("heads",),
    "heads shuffled": ("order",),
    "units shuffled": ("units",),
    "heads and units shuffled": ("order", "units"),
}
CUTS = [("units", 1344), ("units", 1152), ("directions", 544)]


def rungs(lab):
    """By name of the rung: a function of the seed that measures it."""

    def as_it_is(place):
        return lambda seed: lab.measured(
            transfer.in_coordinates(lab.base, place(seed)), seed, lab.delta(seed)
        )

    def mapped(estimate):
        def run(seed):
            place = transfer.random_coordinates(lab.base, seed)
            twin = transfer.in_coordinates(lab.base, place)
            place = transfer.estimated(lab.base, twin, lab.mapped) if estimate else place
            return lab.measured(twin, seed, transfer.recoordinate(lab.delta(seed), place))

        return run

    def noise(seed):
        generator = torch.Generator().manual_seed(seed)
        drawn = {n: torch.randn(d.shape, generator=generator) for n, d in lab.delta(seed).items()}
        sized = {n: x * lab.delta(seed)[n].norm() / x.norm() for n, x in drawn.items()}
        return lab.measured(lab.base, seed, sized)

    def of_child(cut):
        def run(seed):
            place, child = lab.child(cut)
            return lab.measured(child, seed, transfer.recoordinate(lab.delta(seed), place))

        return run

    found = {
        "SmolLM2": lambda seed: lab.measured(lab.base, seed, lab.delta(seed)),
        "noise": noise,
        "twin, as it is": as_it_is(functools.partial(transfer.random_coordinates, lab.base)),
        "twin, true map": mapped(False),
        "twin, estimated map": mapped(True),
    }
    for name, parts in PARTS.items():
        found[name] = as_it_is(lambda seed, parts=parts: lab.twin(seed, *parts))
    for angle in ANGLES:
        found[f"turned {angle:g}"] = as_it_is(
            lambda seed, angle=angle: recipe.rotation_path(lab.base, angle, seed)
        )
    for steps in DRIFT:
        found[f"drifted {steps}"] = lambda seed, steps=steps: lab.measured(
            lab.drifted()[steps], seed, lab.delta(seed)
        )
    for cut in CUTS:
        found[f"child, {cut[1]} {cut[0]}"] = of_child(cut)
    return found


def sizes(lab, seed):
    """Length of the difference and of the matrices it is added to, and their cosine, by kind."""
    old, found = transfer.changed_weights(lab.base), {}
    for name, own in lab.delta(seed).items():
        weight = old[name].detach()
        row = [float(own.norm() / weight.norm()), transfer.flat_cosine(own, weight)]
        found.setdefault(transfer.layer_and_kind(name)[1], []).append(rounded(row, 5))
    return found


def main():
    lab = Lab()
    tasks = {
        name: lambda run=run: {str(seed): run(seed) for seed in SEEDS}
        for name, run in rungs(lab).items()
    }
    tasks["sizes"] = lambda: {str(seed): sizes(lab, seed) for seed in SEEDS}
    used = {"seeds": SEEDS, "steps": STEPS, "rates": [RATE, READING_RATE], "facts": RELATIONS}
    found = Steps("incompatibility_twins", used).run_all(tasks)
    facts = {str(seed): invented(seed) for seed in SEEDS}
    content = {"facts": facts, "sizes": found.pop("sizes"), "rungs": found}
    write(HERE / "twins.json", {**versions(), **content}, indent=None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
