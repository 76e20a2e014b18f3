"""What a model comes to on held-out recordings, kept so that any interval can be computed again.

A verdict in a result holds the bits per sample and the samples of every recording; its mean and its interval
follow from these alone (`estimated`), and so does by how much two models differ on the same recordings.
"""

from collections.abc import Mapping
from typing import Any

import torch
from corpus import Excerpts
from torch import Tensor

from sashimi_lib.evaluation.likelihood import by_recording, pooled_bits

UNIT = "bits per sample: mean, 95 % confidence interval over recordings, and the bits of each recording"
DIGITS = 5  # after the point, of the bits that are kept


def verdict(bits: Tensor, judged: Excerpts) -> dict[str, Any]:
    """What to keep of one figure an excerpt."""
    each, samples = by_recording(bits, judged.clips, judged.recordings)
    kept = {"samples": samples.tolist(), "bits": [round(x, DIGITS) for x in each.tolist()]}
    return estimated(kept) | kept


def estimated(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The mean, its interval (None for too few recordings) and how many recordings there are, from what was
    kept of each."""
    return pooled_bits(
        torch.tensor(kept["bits"], dtype=torch.float64), torch.tensor(kept["samples"])
    )._asdict()
