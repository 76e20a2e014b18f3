"""Name that note: a synthetic classification task that requires long memory (chapter 4).

A clip begins with a short note of a C major chord, followed by noise; the class is the note. The end of the
clip carries no information, so a causal model has to keep the note in its state for thousands of samples.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

SAMPLE_RATE = 8000  # Hz
NOTES = ("C4", "E4", "G4", "C5")
FREQUENCIES = tuple(440 * 2 ** (semitones / 12) for semitones in (-9, -5, -2, 3))  # Hz, from A4


def name_that_note(
    batch: int,
    length: int = 2400,
    note: int = 400,
    hiss: float = 0.02,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "batch length"], Int[Tensor, " batch"]]:
    """Generate clips at 8 kHz and their classes, the note at the beginning: 0 (C4) to 3 (C5).

    The first ``note`` samples are a sine under a Hann window, with random phase and amplitude; ``hiss`` is
    the standard deviation of the white noise in the whole clip.

    >>> clips, notes = name_that_note(2, generator=torch.Generator().manual_seed(0))
    >>> clips.shape, notes
    (torch.Size([2, 2400]), tensor([0, 3]))

    Chapter: 4. Raises ValueError for a note longer than the clip, and for an empty batch.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1 clip, got {batch}")
    if not 0 < note <= length:
        raise ValueError(f"note must be a duration from 1 to length = {length} samples, got {note}")
    notes = torch.randint(len(NOTES), (batch,), generator=generator)
    phase, loudness = torch.rand(2, batch, 1, generator=generator)
    cycles = torch.tensor(FREQUENCIES)[notes, None] / SAMPLE_RATE * torch.arange(note) + phase
    tone = (0.3 + 0.6 * loudness) * torch.hann_window(note) * torch.sin(2 * math.pi * cycles)
    clips = hiss * torch.randn(batch, length, generator=generator)
    clips[:, :note] += tone
    return clips.clamp(-1, 1), notes
