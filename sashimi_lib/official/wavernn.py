"""The WaveRNN of ``fatchord/WaveRNN``, ``models/deepmind_version.py``: its weights into this library's model.

The biases of the three gates lie in one vector here; all else has the same names and the same layout.

Chapter: 12. Layout: the code at commit 83c08fd.
"""

import torch

from sashimi_lib.models.wavernn import WaveRNN, WaveRNNConfig
from sashimi_lib.official._weights import Weights, finish, look, take


def load_wavernn(weights: Weights, dtype: torch.dtype = torch.float32) -> WaveRNN:
    """A whole WaveRNN; its shape is read off the tensors.

    That code begins to sing from ``c = f = 0``, the lowest value there is; this library from silence.

    >>> load_wavernn({})
    Traceback (most recent call last):
        ...
    ValueError: weights must hold 'R.weight', and do not

    Chapter: 12. Raises ValueError for a tensor that is missing, left over, or of an unexpected shape.
    """
    weights = dict(weights)
    config = WaveRNNConfig(look(weights, "R.weight").shape[1], levels=len(look(weights, "O2.weight")))
    model = WaveRNN(config)
    state = {"bias": torch.cat([take(weights, f"bias_{gate}") for gate in "ure"])}
    state |= {name: take(weights, name) for name in model.state_dict() if name != "bias"}
    return finish(model, state, weights, dtype)
