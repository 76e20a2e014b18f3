"""Conversion of the WaveRNN of ``fatchord/WaveRNN``, ``models/deepmind_version.py``.

The biases of the three gates are one vector here; all other tensors have the same names and layout.

Chapter: 12. Layout: the code at commit 83c08fd.
"""

import torch

from sashimi_lib.models.wavernn import WaveRNN, WaveRNNConfig
from sashimi_lib.official._weights import Weights, get_tensor, load_converted, pop_tensor


def load_wavernn(weights: Weights, dtype: torch.dtype = torch.float32) -> WaveRNN:
    """Load a WaveRNN; its configuration is read from the tensors.

    The published code starts generation from ``c = f = 0``, the lowest amplitude, and this library from
    silence.

    >>> load_wavernn({})
    Traceback (most recent call last):
        ...
    ValueError: weights must contain 'R.weight', which is missing

    Chapter: 12. Raises ValueError for a tensor that is missing, unknown or of an unexpected shape.
    """
    weights = dict(weights)
    d_hidden = get_tensor(weights, "R.weight").shape[1]
    config = WaveRNNConfig(d_hidden, levels=len(get_tensor(weights, "O2.weight")))
    model = WaveRNN(config)
    state = {"bias": torch.cat([pop_tensor(weights, f"bias_{gate}") for gate in "ure"])}
    state |= {name: pop_tensor(weights, name) for name in model.state_dict() if name != "bias"}
    return load_converted(model, state, weights, dtype)
