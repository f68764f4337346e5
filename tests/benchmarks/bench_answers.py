"""Sampling many answers to one prompt: `helpers.answers` against transformers' `generate`.

Tokens per second of wall time with all cores, counted up to each answer's end token, at the same
temperature and top-p. `generate` computes the prompt once per answer and keeps ended rows.
"""

import time

import torch

from helpers import lm, models, twosample
from helpers.lm import end_tokens

NAME = "smollm2-135m"
QUESTION = (
    "A neighbour wants to grow tomatoes on a balcony that gets four hours of sun a day. In one "
    "sentence, what should they buy first?"
)
SIZES = ((32, 24), (64, 48))  # answers, most tokens of each
TEMPERATURE, TOP_P, REPEATS = 0.8, 0.95, 3


def chat(tokenizer) -> str:
    turns = [{"role": "user", "content": QUESTION}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def ours(model, tokenizer, n: int, length: int, seed: int) -> int:
    """Tokens that were drawn."""
    settings = dict(temperature=TEMPERATURE, top_p=TOP_P, seed=seed)
    found = twosample.sample_answers(
        model, tokenizer, chat(tokenizer), n, max_new_tokens=length, **settings
    )
    return sum(map(len, found.tokens))


def peer(model, tokenizer, n: int, length: int, seed: int) -> int:
    ids = torch.tensor([lm.encode(tokenizer, chat(tokenizer))])
    ends = end_tokens(model, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
            num_return_sequences=n,
            max_new_tokens=length,
            pad_token_id=tokenizer.eos_token_id,
        )[:, ids.shape[1] :].tolist()
    return sum(next((i + 1 for i, t in enumerate(row) if t in ends), len(row)) for row in rows)


def rate(job, model, tokenizer, n: int, length: int) -> float:
    """Tokens per second over a few seeds, after a run that does not count."""
    job(model, tokenizer, 2, 2, 0)
    begin = time.perf_counter()
    count = sum(job(model, tokenizer, n, length, seed) for seed in range(REPEATS))
    return count / (time.perf_counter() - begin)


def run() -> list[dict]:
    """Rows: tokens per second of ours and of `generate`, and how many times more ours are."""
    model, tokenizer = models.load(NAME)
    rows = []
    for n, length in SIZES:
        our, their = (rate(job, model, tokenizer, n, length) for job in (ours, peer))
        rows.append(
            {
                "benchmark": f"sample {n} answers of at most {length} tokens, {NAME}",
                "ours": our,
                "peer": their,
                "ratio": our / their,
                "unit": "tokens/s",
                "note": "peer: generate(num_return_sequences); tokens up to each answer's end",
            }
        )
    return rows


PARTS = {"sampling": run}
