"""Which of two models of equal size classifies a note after 2,000 samples of noise: S4 or a GRU?

    python -m benchmarks.quality.long_range

Both train for the same number of steps on the same batches. The GRU's learning rate is tuned, and a second
GRU is initialized for long memory ("chrono" initialization, Tallec and Ollivier, 2018), so that it has every
chance. Writes ``book/results/long_range.json``.
"""

import argparse
import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.lib.result import save_result
from sashimi_lib.data.recall import NOTES, name_that_note
from sashimi_lib.ssm.s4 import S4, SSMConfig

STEPS, BATCH, LENGTH, HELD_OUT = 120, 16, 2400, 256
SEEDS = (0, 1, 2)
S4_RATE, SSM_RATE = 2e-2, 5e-3
GRU_RATES = (1e-3, 3e-3, 1e-2)


class S4Classifier(nn.Module):
    """A classifier of two S4 layers with residuals, which reads the last sample."""

    def __init__(self, d_model: int = 24, n_layers: int = 2) -> None:
        super().__init__()
        ssm = SSMConfig(dt_min=5e-4, dt_max=2e-2)  # slow enough to hold 2,000 samples
        self.encoder = nn.Linear(1, d_model)
        self.layers = nn.ModuleList(S4(d_model, ssm) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(n_layers))
        self.head = nn.Linear(d_model, len(NOTES))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        x = self.encoder(5 * clips[..., None])
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(x + layer(x)[0])
        return self.head(x[:, -1])

    def parameter_groups(self) -> list[dict]:
        """Optimizer groups: SSM parameters have a learning rate of their own."""
        slow = [p for layer in self.layers for p in layer.ssm.ssm_parameters()]
        rest = [p for p in self.parameters() if all(p is not q for q in slow)]
        return [{"params": rest, "lr": S4_RATE}, {"params": slow, "lr": SSM_RATE}]


class GRUClassifier(nn.Module):
    """A classifier with one GRU layer; ``chrono`` initializes its gates for memories of up to ``LENGTH``."""

    def __init__(self, d_model: int, rate: float, chrono: bool) -> None:
        super().__init__()
        self.rate = rate
        self.gru = nn.GRU(1, d_model, batch_first=True)
        self.head = nn.Linear(d_model, len(NOTES))
        if chrono:
            memory = 1 + (LENGTH - 2) * torch.rand(d_model)
            with torch.no_grad():
                self.gru.bias_ih_l0[d_model : 2 * d_model] = memory.log()
                self.gru.bias_hh_l0[d_model : 2 * d_model] = 0

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(5 * clips[..., None])[0][:, -1])

    def parameter_groups(self) -> list[dict]:
        """The one optimizer group."""
        return [{"params": list(self.parameters()), "lr": self.rate}]


def n_parameters(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in model.parameters())


def equal_width() -> int:
    """The width of the smallest GRU with at least as many parameters as the S4 model."""
    return next(
        d
        for d in range(1, 999)
        if n_parameters(GRUClassifier(d, 1e-3, False)) >= n_parameters(S4Classifier())
    )


def train_and_evaluate(name: str, model: nn.Module, seed: int, steps: int) -> dict:
    """Train, then evaluate on new clips. Returns one row of the result."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameter_groups(), weight_decay=0)
    correct = []
    for _ in range(steps):
        clips, notes = name_that_note(BATCH, LENGTH, generator=generator)
        logits = model(clips)
        optimizer.zero_grad()
        F.cross_entropy(logits, notes).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        correct.append((logits.argmax(-1) == notes).float().mean().item())
    with torch.no_grad():
        clips, notes = name_that_note(HELD_OUT, LENGTH, generator=torch.Generator().manual_seed(10**6 + seed))
        logits = model(clips)
    curve = [round(sum(correct[i : i + 10]) / 10, 4) for i in range(0, steps, 10)]
    row = {
        "model": name,
        "seed": seed,
        "parameters": n_parameters(model),
        "held_out_accuracy": round((logits.argmax(-1) == notes).float().mean().item(), 4),
        "held_out_bits": round(F.cross_entropy(logits, notes).item() / math.log(2), 4),
        "training_accuracy_by_10_steps": curve,
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Train all classifiers and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of each run")
    steps = parser.parse_args().steps
    rows, width = [], equal_width()
    for seed in SEEDS:
        torch.manual_seed(seed)
        rows.append({**train_and_evaluate("S4", S4Classifier(), seed, steps), "lr": S4_RATE})

    def gru(chrono: bool, rate: float, seed: int) -> dict:
        torch.manual_seed(seed)
        name = "GRU, chrono" if chrono else "GRU"
        return {**train_and_evaluate(name, GRUClassifier(width, rate, chrono), seed, steps), "lr": rate}

    for chrono in (False, True):  # tune on the first seed, then repeat the best on the others
        tuned = [gru(chrono, rate, SEEDS[0]) for rate in GRU_RATES]
        best = min(tuned, key=lambda row: row["held_out_bits"])["lr"]
        rows += tuned + [gru(chrono, best, seed) for seed in SEEDS[1:]]
    save_result(
        "long_range",
        question="Which model of equal size names a note after 2,000 samples of hiss?",
        config={
            "steps": steps,
            "batch": BATCH,
            "length": LENGTH,
            "held_out_clips": HELD_OUT,
            "s4": "2 layers, d_model 24, d_state 64, hurwitz",
            "s4_learning_rates": [S4_RATE, SSM_RATE],
            "gru": f"1 layer, {width} units",
            "gru_learning_rates": list(GRU_RATES),
            "optimizer": "AdamW, weight decay 0, gradients clipped to norm 1",
        },
        figures={"chance": 1 / len(NOTES), "rows": rows},
        units={
            "chance": "fraction of clips",
            "held_out_accuracy": "fraction of clips",
            "held_out_bits": "bits a clip",
        },
        repeats=len(SEEDS),
        seed=SEEDS[0],
    )


if __name__ == "__main__":
    main()
