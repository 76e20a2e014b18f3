"""Conversion of the DiffWave of ``albertfgu/diffwave-sashimi`` into this library's `DiffWave`.

The residual and the skip convolution of a layer are one matrix here. Only unconditional models are supported:
a published vocoder upsamples its spectrogram separately in every layer, this library once for all layers.

Chapter: 12. Layout: the code at commit d35c153.
"""

import math
import re

import torch

from sashimi_lib.models.diffwave import DiffWave, DiffWaveConfig
from sashimi_lib.official._weights import Weights, get_tensor, load_converted, pop_tensor

GROUP = "residual_layer"
BLOCKS = f"{GROUP}.residual_blocks"
WEIGHT_NORM = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
    "bias": "bias",
}


def load_diffwave(
    weights: Weights, cycle: int, in_place: bool = False, dtype: torch.dtype = torch.float32
) -> DiffWave:
    """Load a DiffWave: (noisy waveform, step) -> noise.

    Two settings cannot be read from the tensors: ``cycle``, the number of layers after which dilations repeat
    (10 or 12), and ``in_place``, whether the model was trained with the branch ``checkpoints``, as all
    released WaveNets were. That code adds the conditioning of a layer in place to a tensor that is also the
    residual path:

        x_{n+1} = (x_n + t_n + R z_n) / sqrt(2)    where the corrected code has    (x_n + R z_n) / sqrt(2).

    So the conditioning of a layer also reaches all later layers, scaled by 1 / sqrt(2) each. The corrected
    code computes the same with the conditioning ``t'_n = t_n + t'_{n-1} / sqrt(2)``. Every t is a linear map
    of one vector, hence so is every t', and these maps are loaded. (The equality is tested; the released
    files were not available.)

    >>> load_diffwave({}, cycle=12)
    Traceback (most recent call last):
        ...
    ValueError: weights must contain 'residual_layer.fc_t1.weight', which is missing

    Chapter: 12. Raises ValueError for a tensor that is missing, unknown or of an unexpected shape.
    """
    weights = dict(weights)
    model = DiffWave(_config(weights, cycle))
    state = _input_and_output(weights)
    for n in range(len(model.layers)):
        state |= _layer(weights, f"{BLOCKS}.{n}", f"layers.{n}")
        if in_place and n:
            for name in ("weight", "bias"):
                previous = state[f"layers.{n - 1}.conditioning.{name}"].double()
                key = f"layers.{n}.conditioning.{name}"
                state[key] = state[key] + previous * math.sqrt(1 / 2)
    return load_converted(model, state, weights, dtype)


def _config(weights: Weights, cycle: int) -> DiffWaveConfig:
    hidden, dim = get_tensor(weights, f"{GROUP}.fc_t1.weight").shape
    matches = [re.match(rf"{re.escape(BLOCKS)}\.(\d+)\.", key) for key in weights]
    return DiffWaveConfig(
        d_step=(dim, hidden, len(get_tensor(weights, f"{GROUP}.fc_t2.weight"))),
        d_residual=len(get_tensor(weights, "init_conv.0.conv.weight_v")),
        d_skip=len(get_tensor(weights, "final_conv.0.conv.weight_v")),
        n_layers=1 + max((int(match[1]) for match in matches if match), default=0),
        cycle=cycle,
    )


def _input_and_output(weights: Weights) -> Weights:
    """Convert the first and the last convolutions, and the embedding of the step."""
    state = _conv(weights, "start", "init_conv.0.conv") | _conv(weights, "end.0", "final_conv.0.conv")
    linear = {
        "end.2": "final_conv.2.conv",
        "conditioning.hidden": f"{GROUP}.fc_t1",
        "conditioning.out": f"{GROUP}.fc_t2",
    }
    for target, source in linear.items():
        state |= {f"{target}.{name}": pop_tensor(weights, f"{source}.{name}") for name in ("weight", "bias")}
    return state


def _layer(weights: Weights, source: str, target: str) -> Weights:
    conditioning = {
        f"{target}.conditioning.{name}": pop_tensor(weights, f"{source}.fc_t.{name}")
        for name in ("weight", "bias")
    }
    gates = _conv(weights, f"{target}.gates", f"{source}.dilated_conv_layer.conv")
    return conditioning | gates | _conv(weights, f"{target}.out", f"{source}.res_conv", f"{source}.skip_conv")


def _conv(weights: Weights, target: str, *sources: str) -> Weights:
    """Convert a convolution under weight norm; several are concatenated along the output channels."""
    return {
        f"{target}.{name}": torch.cat([pop_tensor(weights, f"{conv}.{published}") for conv in sources])
        for name, published in WEIGHT_NORM.items()
    }
