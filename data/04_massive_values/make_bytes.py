"""Writes bytes.json of notebook 04: where small language models put the energy of Q, K and V.

    python data/04_massive_values/make_bytes.py

Byte-level decoders that differ in nothing but their positions, three seeds each:

    rope     every pair of a head turns
    partial  half of each head's dimensions never turn (as in GPT-NeoX, where it is three quarters)
    learned  one learned vector a position, added to the embeddings; nothing turns
    none     nothing but the causal mask tells where a token stands

What is finished is kept in the cache folder after every model, so an interrupted run goes on
where it stopped. Times are in README.md.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from helpers import attention, data
from helpers.artefacts import Steps, rounded, versions, write

OUT = Path(__file__).resolve().parent / "bytes.json"
WIDTH, HEADS, LAYERS, LENGTH, BASE = 128, 4, 3, 128, 1e4
HEAD_DIM = WIDTH // HEADS
TURNING = {"rope": HEAD_DIM, "partial": HEAD_DIM // 2, "learned": 0, "none": 0}  # dimensions
LOOKS, SEEDS = (100, 200, 300), 3  # training steps after which a model is measured

# ------------------------------------------------------------------------------------ the model


def turn_first(x, n, positions):
    """Rotary embedding of the first n dimensions of x (..., T, D); the others stay as they are."""
    if n == 0:
        return x
    turned = attention.apply_rope(x[..., :n], positions, BASE)
    return torch.cat([turned, x[..., n:]], dim=-1)


class Attention(nn.Module):
    def __init__(self, turning):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.turning = turning

    def forward(self, x):
        q, k, v = (
            f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        q, k = (turn_first(y, self.turning, torch.arange(x.shape[1])) for y in (q, k))
        self.seen = {"q": q.detach(), "k": k.detach(), "v": v.detach()}
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, turning):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.attention = Attention(turning)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ByteModel(nn.Module):
    def __init__(self, positions):
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH) if positions == "learned" else None
        self.blocks = nn.ModuleList(Block(TURNING[positions]) for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        if self.places is not None:
            x = x + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


# ---------------------------------------------------------------------------------- the measures


def folded(m, turning):
    """Norm of each pair (..., D/2): first those that turn, fast to slow, then the others."""
    parts = [attention.pair_norm(m[..., :turning])] if turning else []
    return torch.cat([*parts, attention.pair_norm(m[..., turning:])], dim=-1)


def max_over_median(m):
    return m.max(-1).values / m.quantile(0.5, dim=-1)


def measures(x, turning):
    """One layer's q, k or v (B, heads, T, D): means over heads, and the top pair of each head."""
    m = x.square().sum((0, 2)).sqrt()
    pairs = folded(m, turning)
    energy = pairs.square().mean(0)
    return {
        "pair_energy": rounded(energy / energy.sum(), 5),
        "pair_peak": round(max_over_median(pairs).mean().item(), 4),
        "coordinate_peak": round(max_over_median(m).mean().item(), 4),
        "top_pairs": pairs.argmax(-1).tolist(),
    }


def look(model, positions, held_out):
    """Held-out loss, and by part the measures of every layer (on V nothing turns)."""
    with torch.no_grad():
        x, y = windows(held_out, 64, torch.Generator().manual_seed(1))
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
    found = {}
    for part in "qkv":
        layers = [
            measures(b.attention.seen[part], TURNING[positions] if part in "qk" else 0)
            for b in model.blocks
        ]
        found[part] = {name: [layer[name] for layer in layers] for name in layers[0]}
    return {"loss": round(loss, 4), **found}


# ----------------------------------------------------------------------------------- the training


def windows(text, count, generator):
    starts = torch.randint(0, len(text) - LENGTH - 1, (count,), generator=generator)
    rows = torch.stack([text[s : s + LENGTH + 1] for s in starts])
    return rows[:, :-1], rows[:, 1:]


def train(positions, seed, looks=LOOKS):
    """A model's measures after each number of steps in `looks`."""
    as_bytes = [torch.tensor(list(text.encode())) for text in data.english_prose().texts]
    text, held_out = torch.cat(as_bytes[:-1]), as_bytes[-1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ByteModel(positions)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for step in range(1, max(looks) + 1):
        x, y = windows(text, 16, generator)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step in looks:
            found[str(step)] = look(model, positions, held_out)
    return found


def main():
    text = data.english_prose().sha256
    shape = [WIDTH, HEADS, LAYERS, LENGTH, BASE, TURNING]
    steps = Steps("massive_values_bytes", [*shape, LOOKS, text])
    tasks = {
        f"{positions} seed {seed}": lambda p=positions, s=seed: train(p, s)
        for seed in range(SEEDS)
        for positions in TURNING
    }
    done = steps.run_all(tasks)
    runs = {
        positions: [done[f"{positions} seed {seed}"] for seed in range(SEEDS)]
        for positions in TURNING
    }
    about = """\
by kind of positions, seed and training step: held-out loss (nats a byte) and, for q, k and v, \
layer by layer: pair_energy (share of each pair; first those that turn, fast to slow), pair_peak \
and coordinate_peak (max/median of norms over tokens, mean over heads), top_pairs (of each head)"""
    head = {"about": about, "turning_dimensions": TURNING, "prose_sha256": text, **versions()}
    head |= {"base": BASE, "head_dim": HEAD_DIM, "length": LENGTH}
    write(OUT, {**head, "runs": runs})


if __name__ == "__main__":
    main()
