"""Name that note: a task that can only be solved by remembering (chapter 4).

A clip starts with one short note of a C major chord; a long hiss follows; the question comes at the very end:
which note was it? Nothing near the end helps, so a model must carry the answer over thousands of samples.
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
    """Clips at 8 kHz, and which of the four notes each began with: 0 (C4) to 3 (C5).

    The first ``note`` samples are a sine under a Hann window, of random phase and loudness; ``hiss`` is the
    standard deviation of the noise that lies over the whole clip. The answer is due after the last of
    ``length`` samples.

    >>> clips, notes = name_that_note(2, generator=torch.Generator().manual_seed(0))
    >>> clips.shape, notes
    (torch.Size([2, 2400]), tensor([0, 3]))

    Chapter: 4. Raises ValueError for a note that does not fit into the clip, and for no clips.
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
