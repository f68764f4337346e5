"""Trains the adapters of notebook 02 and measures what they do to the training losses.

    python data/02_bidirectional_probing/make_adapters.py PART

PART is one of

    mntp [backwards]    open mask, seeds 0 to 2
    causal [backwards]  the same with the causal mask
    simcse [backwards]  on top of each mntp
    supervised          on top of mntp 0

Each adapter becomes a folder in adapters/ (peft's format, fp16) with a log of its
losses; those that exist are kept. Only numbers of the second and third causal one are needed: they
stay in the cache folder. A step costs 1.4 s (mntp, causal) to 4 s of one core.
"""

import itertools
import json
import math
import re
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional as F

from helpers import data, lm, models, probing
from helpers.artefacts import replacing, rounded, versions

HERE = Path(__file__).resolve().parent

MODEL = "smollm2-135m"
SEEDS = (0, 1, 2)
BLOCK, BATCH, STEPS, LR = 64, 4, 300, 1.5e-3  # masked next token
PAIRS, PAIR_STEPS, PAIR_LR, DROPOUT = 32, 150, 5e-4, 0.3  # contrastive
CONTRAST = 20.0  # of cosines, the inverse temperature
RATE, HELD = 0.2, 32  # share of hidden tokens, held-out blocks
WARM_UP = 10
MEASURED_ONLY = ("causal-1", "causal-2")


def home(name):
    if name in MEASURED_ONLY:
        return models.cache_dir() / "recipes" / "probing_adapters" / name
    return HERE / "adapters" / name


def prose():
    """What SmolLM2 wrote, see make_text.py."""
    return "\n".join(data.read_json(HERE / "text.json")["texts"])


def sentences():
    """Sentences of 5 to 20 words."""
    found = re.findall(r"(?<=[.!?]\s)[A-Z][^.!?\n]*[.!?](?=\s)", prose())
    return sorted({s for s in found if 5 <= len(s.split()) <= 20})


def scheduled(optimizer, n_steps):
    def factor(step):
        return min((step + 1) / WARM_UP, (n_steps - step) / (n_steps - WARM_UP))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def with_lora(model, seed):
    """A fresh adapter at the seven linear maps of each block, r = 4."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def train(model, loss_of, n_steps, lr, check=None, every=25):
    """Losses of all steps, and what `check` returns at the start and every so many steps."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=lr)
    schedule, losses, checks = scheduled(optimizer, n_steps), [], {}
    for step in range(n_steps):
        if check and step % every == 0:
            checks[step] = check()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % every == 0:
            print(f"{time.strftime('%H:%M:%S')} step {step}: {losses[-1]:.3f}", flush=True)
    if check:
        checks[n_steps] = check()
    return losses, checks


def masked_training(seed, opened):
    model, tokenizer = models.load(MODEL)
    rows = lm.segments(tokenizer, prose(), BLOCK)
    rng = np.random.default_rng(seed)
    order = np.random.default_rng(0).permutation(len(rows))  # the same blocks are held out
    held, rows = rows[order[:HELD]], rows[order[HELD:]]
    hide = lm.encode(tokenizer, "_")[-1]
    fixed = probing.mask_tokens(held, hide, len(tokenizer), RATE, np.random.default_rng(1))
    picks = itertools.chain.from_iterable(
        rng.permutation(len(rows)) for _ in range(math.ceil(STEPS * BATCH / len(rows)))
    )
    model = with_lora(model, seed)
    inner = model.base_model.model

    def loss_of(_step):
        ids = rows[list(itertools.islice(picks, BATCH))]
        masked, chosen = probing.mask_tokens(ids, hide, len(tokenizer), RATE, rng)
        return probing.masked_next_token_loss(inner, ids, masked, chosen)

    def check():
        model.eval()
        with torch.no_grad():
            loss = probing.masked_next_token_loss(inner, held, *fixed)
        model.train()
        return loss.item()

    model.train()
    with probing.bidirectional(inner) if opened else nullcontext():
        losses, checks = train(model, loss_of, STEPS, LR, check)
    return model, {"steps": STEPS, "losses": rounded(losses), "held_out": checks}


def merged(*names):
    """The model with adapters of earlier runs in its weights, one after the other."""
    model, tokenizer = models.load(MODEL)
    for name in names:
        model = PeftModel.from_pretrained(model, data.verified(home(name))).merge_and_unload()
    return model, tokenizer


def embedded(model, tokenizer, texts):
    """Mean of the last states of all tokens but the start, (B, d)."""
    rows = [lm.encode(tokenizer, text) for text in texts]
    rows = [[tokenizer.bos_token_id, *(row if row[0] != tokenizer.bos_token_id else row[1:])]
            for row in rows]  # fmt: skip
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    states = model.get_decoder()(input_ids=ids, attention_mask=real, use_cache=False)
    real[:, 0] = 0
    return (states.last_hidden_state * real[..., None]).sum(1) / real.sum(1, keepdim=True)


def contrastive_loss(anchors, positives, *negatives):
    """Cross-entropy of finding an anchor's positive among all vectors (B, d), InfoNCE, nats.

    Source: Gao et al. 2021 (SimCSE), equations 1 and 5.
    """
    others = torch.cat([positives, *negatives])
    cosines = F.normalize(anchors, dim=-1) @ F.normalize(others, dim=-1).T
    return F.cross_entropy(CONTRAST * cosines, torch.arange(len(anchors), device=anchors.device))


def contrastive_training(seed, base, batches):
    model, tokenizer = merged(base)
    model = with_lora(model, seed)
    model.train()
    inner = model.base_model.model
    for module in inner.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = DROPOUT

    def loss_of(step):
        vectors = [embedded(inner, tokenizer, texts) for texts in batches[step]]
        return contrastive_loss(*vectors)

    with probing.bidirectional(inner):
        losses, _ = train(model, loss_of, PAIR_STEPS, PAIR_LR)
    return model, {"steps": PAIR_STEPS, "losses": rounded(losses), "on": base}


def simcse(seed):
    """Each sentence twice; dropout makes the difference."""
    texts, rng = sentences(), np.random.default_rng(seed)
    drawn = [rng.choice(texts, PAIRS, replace=False).tolist() for _ in range(PAIR_STEPS)]
    return contrastive_training(seed, f"mntp-{seed}", [(own, own) for own in drawn])


def supervised(seed):
    """A sentence, the same said otherwise, and the same words with the roles exchanged."""
    words, rng = data.read_json(HERE / "sentences.json")["training"], np.random.default_rng(seed)
    batches = []
    for _ in range(PAIR_STEPS):
        drawn = [triple(words, rng) for _ in range(PAIRS)]
        batches.append(tuple(map(list, zip(*drawn, strict=True))))
    return contrastive_training(seed, f"mntp-{seed}", batches)


def triple(words, rng):
    a, b = rng.choice(words["animate"] + words["inanimate"], 2, replace=False)
    verb = rng.choice(words["verbs"])
    frames = (
        "the {a} {v} the {b}.",
        "it was the {a} that {v} the {b}.",
        "what the {a} {v} was the {b}.",
        "the {b} is what the {a} {v}.",
        "yes, the {a} {v} the {b}!",
    )
    first, second = rng.choice(frames, 2, replace=False)
    anchor, positive = (frame.format(a=a, b=b, v=verb) for frame in (first, second))
    return anchor, positive, rng.choice(frames).format(a=b, b=a, v=verb)


def save(name, model, log):
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.half()
    model.peft_config["default"].base_model_name_or_path = MODEL
    with replacing(home(name)) as aside:
        model.save_pretrained(aside, save_embedding_layers=False)
        (aside / "README.md").unlink(missing_ok=True)
        text = json.dumps({"versions": versions(), **log}, indent=1)
        (aside / "log.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def main(kind):
    torch.set_flush_denormal(True)  # gradients of a small loss make a step five times as long
    makers = {
        "mntp": lambda seed: masked_training(seed, opened=True),
        "causal": lambda seed: masked_training(seed, opened=False),
        "simcse": simcse,
        "supervised": supervised,
    }
    seeds = SEEDS[:1] if kind == "supervised" else SEEDS
    for seed in reversed(seeds) if "backwards" in sys.argv else seeds:
        name = f"{kind}-{seed}"
        if not (home(name) / "log.json").exists():
            begun = time.perf_counter()
            model, log = makers[kind](seed)
            save(name, model, {**log, "seconds": round(time.perf_counter() - begun)})


if __name__ == "__main__":
    main(sys.argv[1])
