"""Fingerprints of settings and datasets, so that a run resumes only with its own (chapter 10)."""

import hashlib
import json
from typing import Any

import torch

from sashimi_lib.data.sequences import SequenceDataset, sequence_of
from sashimi_lib.training.rng import preserve_rng_state, seed_all

MAX_SEQUENCES = 256  # sequences that are hashed, evenly spaced over the dataset

Fingerprint = dict[str, int | str | None]


def dataset_fingerprint(data: SequenceDataset) -> Fingerprint:
    """Return the number of sequences and a digest of up to 256 of them; None if they are random.

    >>> a, b = torch.zeros(3, 8), torch.ones(3, 8)
    >>> fingerprint = dataset_fingerprint(a)
    >>> fingerprint == dataset_fingerprint(a.clone()), fingerprint == dataset_fingerprint(b)
    (True, False)

    Chapter: 10.
    """
    first, second = _digest(data), _digest(data)
    return {"sequences": len(data), "digest": first if first == second else None}


def describe_data_difference(name: str, saved: Fingerprint, current: Fingerprint) -> list[str]:
    """Describe how a dataset differs from that of a saved run; an empty list if it does not.

    >>> describe_data_difference("data", {"sequences": 4, "digest": "a"}, {"sequences": 10, "digest": "b"})
    ['data had 4 sequences and now has 10']
    >>> describe_data_difference("data", {"sequences": 4, "digest": "a"}, {"sequences": 4, "digest": "b"})
    ['data had other sequences']

    Chapter: 10.
    """
    if saved["sequences"] != current["sequences"]:
        return [f"{name} had {saved['sequences']} sequences and now has {current['sequences']}"]
    digests = {saved["digest"], current["digest"]}
    return [f"{name} had other sequences"] if None not in digests and len(digests) > 1 else []


def run_id(settings: dict[str, Any], data: Fingerprint) -> str:
    """Return an identifier of the run with these settings and data.

    >>> run_id({"lr": 0.1}, {"sequences": 4, "digest": "a"})
    '...'
    """
    return hashlib.sha256(json.dumps([settings, data], sort_keys=True).encode()).hexdigest()[:16]


def _digest(data: SequenceDataset) -> str:
    digest, count = hashlib.sha256(), min(len(data), MAX_SEQUENCES)
    with preserve_rng_state():
        for n in range(count):
            seed_all(n)
            example = data[n * len(data) // count]
            sequence, label = sequence_of(example), example[1] if isinstance(example, tuple) else None
            digest.update(f"{tuple(sequence.shape)} {sequence.dtype} {label}".encode())
            digest.update(sequence.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
