"""Does any state grow in a million recurrent steps in float32, with rounding at each?

First random layers of the stable forms: every parameter drawn at random, many channels, loud noise as input.
Then a small SaShiMi, trained on the bundled piano, which generates a million samples. Writes
``book/results/stability.json``.

    python -m benchmarks.numerics.stability            about 20 minutes on 2 cores
    python -m benchmarks.numerics.stability --quick    a thousand steps of each; writes nothing
"""

import argparse
import math

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from benchmarks.lib.result import save_result
from sashimi_lib.audio import resample
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data import bundled
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.sampling import sample_token
from sashimi_lib.ssm.kernel_cache import cached_kernels
from sashimi_lib.ssm.s4 import Form, SSMConfig, StateSpace
from sashimi_lib.ssm.stability import spectral_radius
from sashimi_lib.ssm.systems import DiagonalMatrix, Recurrence
from sashimi_lib.training.trainer import TrainingConfig, train

STEPS, SEEDS, CHANNELS, D_STATE = 1_000_000, (0, 1, 2, 3), 16, 32
RATE, TRAINING_STEPS = 8000, 150


class RunningMaximum:
    """The maximum of a norm up to step 10, 100, 1,000 ... of a run, for several runs in parallel."""

    def __init__(self, steps: int, runs: int) -> None:
        self.steps, self.largest = steps, torch.zeros(runs)
        self.reported: list[tuple[int, list[float]]] = []

    def update(self, step: int, values: Tensor) -> None:
        """Add the norms at ``step``, counted from 1. NaN persists."""
        self.largest = torch.maximum(self.largest, values)
        if step == 10 ** (len(self.reported) + 1) or step == self.steps:
            self.reported.append((step, self.largest.tolist()))

    def row(self, run: int) -> dict[str, object]:
        """The maxima of one run, as the result stores them."""
        norms = [values[run] for _, values in self.reported]
        finite = all(math.isfinite(norm) for norm in norms)
        return {
            "up_to_step": [step for step, _ in self.reported],
            "largest_norm": [round(norm, 4) if finite else None for norm in norms],
            "finite": finite,
        }


def random_layer(form: Form, seed: int) -> StateSpace:
    """A layer with random parameters, far from initialization; every channel has its own state matrix."""
    torch.manual_seed(seed)
    init = "lin" if form is Form.DIAGONAL else "legs"
    layer = StateSpace(CHANNELS, SSMConfig(d_state=D_STATE, form=form, init=init, tied=False))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    return layer


@torch.no_grad()
def run_random(form: Form, seeds: tuple[int, ...], steps: int) -> list[dict[str, object]]:
    """Run random layers, one for each seed, on noise in [-1, 1], sample by sample."""
    layers = [random_layer(form, seed) for seed in seeds]
    radii = [float(spectral_radius(layer.recurrence().dense()).max()) for layer in layers]
    recurrence = concatenate([layer.recurrence().to(torch.float32) for layer in layers])
    H, N = recurrence.B.shape
    state, maximum = torch.zeros(1, H, N), RunningMaximum(steps, len(seeds))
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        if step % 1000 == 1:
            noise = 2 * torch.rand(1000, 1, H, generator=generator) - 1
        state = recurrence.step(noise[(step - 1) % 1000], state)
        maximum.update(step, state.norm(dim=-1).view(len(seeds), -1).amax(-1))
    rows = [
        {"form": form.value, "seed": seed, "largest_spectral_radius": round(radius, 9), **maximum.row(i)}
        for i, (seed, radius) in enumerate(zip(seeds, radii, strict=True))
    ]
    print(*rows, sep="\n", flush=True)
    return rows


def concatenate(recurrences: list[Recurrence]) -> Recurrence:
    """One recurrence with the channels of all."""
    modes = DiagonalMatrix(*(torch.cat(parts) for parts in zip(*(r.modes for r in recurrences), strict=True)))
    rest = (torch.cat(parts) for parts in zip(*(r[1:] for r in recurrences), strict=True))
    return Recurrence(modes, *rest)


def trained_sashimi(steps: int) -> AudioLM:
    """A small SaShiMi after a short training on ten seconds of the bundled piano at 8 kHz."""
    torch.manual_seed(0)
    piano = bundled.piano()
    music = resample(piano.train[: 10 * piano.sample_rate], piano.sample_rate, RATE)
    segments = MuLaw().encode(music).unfold(0, 1024, 512)
    model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=16, n_layers=1)))
    bits = train(model, segments, TrainingConfig(steps=steps, batch_size=8), progress=False).loss
    print(f"trained to {bits[-1]:.2f} bits per sample", flush=True)
    return model


def norms(state: object) -> list[Tensor]:
    """The norm of every floating-point tensor in a nested state."""
    if isinstance(state, Tensor):
        return [state.norm()] if state.is_floating_point() else []
    return [norm for part in state for norm in norms(part)]  # type: ignore[attr-defined]


@torch.no_grad()
def run_sashimi(model: AudioLM, steps: int) -> dict[str, object]:
    """Generate sample by sample, and record the largest norm of any state tensor."""
    generator, state = torch.Generator().manual_seed(0), model.initial_state(1)
    code, maximum = torch.tensor([model.quantizer.silence]), RunningMaximum(steps, 1)
    with parametrize.cached(), cached_kernels(model):
        for step in range(1, steps + 1):
            logits, state = model.step(code, state)
            code = sample_token(logits, generator=generator)
            if step % 10 == 0 or step < 1000:
                maximum.update(step, torch.stack(norms(state)).amax()[None])
    row = maximum.row(0)
    print(row, flush=True)
    return row


def main() -> None:
    """Run both parts and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a thousand steps of each; writes nothing")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    steps = 1000 if quick else STEPS
    rows = run_random(Form.HURWITZ, SEEDS, steps) + run_random(Form.DIAGONAL, SEEDS, steps)

    def write(sashimi: dict[str, object] | None) -> None:
        save_result(
            "stability",
            question="does any state grow in a million recurrent steps in float32?",
            config={
                "steps": STEPS,
                "channels": CHANNELS,
                "d_state": D_STATE,
                "input": "uniform noise in [-1, 1]",
                "sashimi": f"d_model 16, 1 layer a stage, {TRAINING_STEPS} training steps on 10 s of piano",
            },
            figures={"random_layers": rows, "trained_sashimi": sashimi},
            units={"largest_norm": "2-norm of one channel's state (random layers), of any state (SaShiMi)"},
            repeats=len(SEEDS),
            seed=SEEDS[0],
            data="random layers: noise from the seed; SaShiMi: the first 10 s of the bundled piano",
        )

    if not quick:
        write(None)  # the second part takes long; if it is interrupted, the first is not lost
    sashimi = run_sashimi(trained_sashimi(2 if quick else TRAINING_STEPS), steps)
    if not quick:
        write(sashimi)


if __name__ == "__main__":
    main()
