"""Test likelihoods as results store them: the bits of every recording, so that any interval can be
recomputed.

Mean and confidence interval follow from the stored bits and sample counts alone (`estimate`), and so does the
paired difference of two models on the same recordings.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.corpus import Excerpts
from sashimi_lib.evaluation.likelihood import bits_per_recording, confidence_interval

UNIT = "bits per sample: mean, 95 % confidence interval over recordings, and the bits of each recording"
DIGITS = 5  # decimals of the bits that are stored


def summarize_bits(bits: Tensor, excerpts: Excerpts) -> dict[str, Any]:
    """What a result stores of the bits per sample of each excerpt: bits and samples by recording, their mean
    and its confidence interval."""
    by_clip, samples = bits_per_recording(bits, excerpts.clips, excerpts.recordings)
    stored = {"samples": samples.tolist(), "bits": [round(x, DIGITS) for x in by_clip.tolist()]}
    return estimate(stored) | stored


def estimate(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Mean, confidence interval (None for too few recordings) and number of recordings, from the stored bits
    and samples of each."""
    return confidence_interval(
        torch.tensor(stored["bits"], dtype=torch.float64), torch.tensor(stored["samples"])
    )._asdict()
