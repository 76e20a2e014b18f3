"""What a run is recognised by when it is taken up again: its settings, and its data (chapter 10)."""

import hashlib
import json
from typing import Any

import torch

from sashimi_lib.data.sequences import SequenceDataset, sequence_of
from sashimi_lib.training.rng import preserve_rng_state, seed_all

LOOKED_AT = 256  # sequences at most, from all over the data

Identity = dict[str, int | str | None]


def identity_of(data: SequenceDataset) -> Identity:
    """The number of sequences, and a digest of up to 256 of them; None where they are others each time.

    >>> a, b = torch.zeros(3, 8), torch.ones(3, 8)
    >>> identity_of(a) == identity_of(a.clone()), identity_of(a) == identity_of(b)
    (True, False)

    Chapter: 10.
    """
    once, again = _digest(data), _digest(data)
    return {"sequences": len(data), "digest": once if once == again else None}


def other_data(name: str, there: Identity, here: Identity) -> list[str]:
    """In words, how data differ from those of a run that is to go on.

    >>> other_data("data", {"sequences": 4, "digest": "a"}, {"sequences": 10, "digest": "b"})
    ['data has 4 sequences there and 10 here']
    >>> other_data("data", {"sequences": 4, "digest": "a"}, {"sequences": 4, "digest": "b"})
    ['data has other sequences there']

    Chapter: 10.
    """
    if there["sequences"] != here["sequences"]:
        return [f"{name} has {there['sequences']} sequences there and {here['sequences']} here"]
    digests = {there["digest"], here["digest"]}
    return [f"{name} has other sequences there"] if None not in digests and len(digests) > 1 else []


def run_id(settings: dict[str, Any], data: Identity) -> str:
    """A name for the run of these settings on these data.

    >>> run_id({"lr": 0.1}, {"sequences": 4, "digest": "a"})
    '...'
    """
    return hashlib.sha256(json.dumps([settings, data], sort_keys=True).encode()).hexdigest()[:16]


def _digest(data: SequenceDataset) -> str:
    digest, number = hashlib.sha256(), min(len(data), LOOKED_AT)
    with preserve_rng_state():
        for n in range(number):
            seed_all(n)
            item = data[n * len(data) // number]
            sequence, label = sequence_of(item), item[1] if isinstance(item, tuple) else None
            digest.update(f"{tuple(sequence.shape)} {sequence.dtype} {label}".encode())
            digest.update(sequence.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
