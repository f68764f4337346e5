"""A few rows of logits of a large vocabulary, and short texts of many lengths in one pass."""

import statistics
import time

import torch

from helpers import data, editing, lm, models
from helpers.lm.logits import head_at

MODEL, ROUNDS = "gemma3-270m", 9


def median_seconds(*tasks):
    """Of each task, called in turns so that a busy moment falls on all."""
    times = [[] for _ in tasks]
    for _ in range(ROUNDS):
        for own, task in zip(times, tasks, strict=True):
            begun = time.perf_counter()
            task()
            own.append(time.perf_counter() - begun)
    return [statistics.median(own[1:]) for own in times]


def run():
    model, tokenizer = models.load(MODEL)
    head = model.get_output_embeddings()
    rows = []
    for n in (1, 2, 3, 5, 8):
        states = torch.randn(1, n, head.in_features)
        each = torch.arange(n)

        def ours(states=states, each=each):
            with torch.no_grad(), head_at(model, torch.zeros_like(each), each):
                head(states)

        def peer(states=states):
            with torch.no_grad():
                torch.nn.functional.linear(states, head.weight)

        mine, theirs = median_seconds(ours, peer)
        rows.append(row(f"{n} rows of {head.out_features:,} logits", mine, theirs, "torch linear"))
    edits = editing.load_edits(data.folder("01") / "records.json")
    pairs = [(e.prompt, e.target_new) for e in edits]

    def scored(padded):
        return lambda: lm.score_targets(
            model, tokenizer, *zip(*pairs, strict=True), straddle=True, padded=padded
        )

    mine, theirs = median_seconds(scored(True), scored(False))
    note = "ours unpadded, one pass for each pair of lengths"
    rows.append(row(f"{len(pairs)} short texts scored", mine, theirs, note))
    return rows


def row(name, ours, peer, note):
    found = {"benchmark": name, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": "s"}
    return {**found, "note": note}


PARTS = {"heads": run}
