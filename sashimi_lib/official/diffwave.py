"""The WaveNet of ``albertfgu/diffwave-sashimi``: weights of published code into this library's `DiffWave`.

Residual and skip of a layer lie in one matrix here. Unconditional models only: a published vocoder stretches
its spectrogram in every layer anew, this library's once for all of them.

Chapter: 12. Layout: the code at commit d35c153.
"""

import math
import re

import torch

from sashimi_lib.models.diffwave import DiffWave, DiffWaveConfig
from sashimi_lib.official._weights import Weights, finish, look, take

GROUP = "residual_layer"
BLOCKS = f"{GROUP}.residual_blocks"
NORMED = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
    "bias": "bias",
}


def load_diffwave(
    weights: Weights, cycle: int, in_place: bool = False, dtype: torch.dtype = torch.float32
) -> DiffWave:
    """A whole DiffWave: (noisy waveform, step) -> noise.

    Two things tensors do not tell: ``cycle``, after how many layers dilations start again (10 or 12), and
    ``in_place``, whether the model was trained on the branch ``checkpoints``, as all released WaveNets were.
    The code there adds in place what a layer is told, to a tensor that is also the residual path:

        x_{n+1} = (x_n + t_n + R z_n) / sqrt(2)    where the corrected code has    (x_n + R z_n) / sqrt(2).

    So a layer hears what all layers before it were told, the further back the fainter. That is a model of the
    corrected kind whose layers are told ``t'_n = t_n + t'_{n-1} / sqrt(2)``; every t is a linear map of the
    same vector, hence every t' is, and these are the maps that are loaded. (The equality is tested; the
    released files were not at hand.)

    >>> load_diffwave({}, cycle=12)
    Traceback (most recent call last):
        ...
    ValueError: weights must hold 'residual_layer.fc_t1.weight', and do not

    Chapter: 12. Raises ValueError for a tensor that is missing, left over, or of an unexpected shape.
    """
    weights = dict(weights)
    model = DiffWave(_config(weights, cycle))
    state = _ends(weights)
    for n in range(len(model.layers)):
        state |= _layer(weights, f"{BLOCKS}.{n}", f"layers.{n}")
        for name in ("weight", "bias") if in_place and n else ():
            before = state[f"layers.{n - 1}.conditioning.{name}"].double()
            state[f"layers.{n}.conditioning.{name}"] = state[
                f"layers.{n}.conditioning.{name}"
            ] + before * math.sqrt(1 / 2)
    return finish(model, state, weights, dtype)


def _config(weights: Weights, cycle: int) -> DiffWaveConfig:
    hidden, dim = look(weights, f"{GROUP}.fc_t1.weight").shape
    found = [re.match(rf"{re.escape(BLOCKS)}\.(\d+)\.", key) for key in weights]
    return DiffWaveConfig(
        d_step=(dim, hidden, len(look(weights, f"{GROUP}.fc_t2.weight"))),
        d_residual=len(look(weights, "init_conv.0.conv.weight_v")),
        d_skip=len(look(weights, "final_conv.0.conv.weight_v")),
        n_layers=1 + max((int(match[1]) for match in found if match), default=0),
        cycle=cycle,
    )


def _ends(weights: Weights) -> Weights:
    """The first and the last convolutions, and what all layers are told."""
    state = _conv(weights, "start", "init_conv.0.conv") | _conv(weights, "end.0", "final_conv.0.conv")
    linear = {
        "end.2": "final_conv.2.conv",
        "conditioning.hidden": f"{GROUP}.fc_t1",
        "conditioning.out": f"{GROUP}.fc_t2",
    }
    for ours, theirs in linear.items():
        state |= {f"{ours}.{name}": take(weights, f"{theirs}.{name}") for name in ("weight", "bias")}
    return state


def _layer(weights: Weights, theirs: str, ours: str) -> Weights:
    conditioning = {
        f"{ours}.conditioning.{name}": take(weights, f"{theirs}.fc_t.{name}") for name in ("weight", "bias")
    }
    gates = _conv(weights, f"{ours}.gates", f"{theirs}.dilated_conv_layer.conv")
    return conditioning | gates | _conv(weights, f"{ours}.out", f"{theirs}.res_conv", f"{theirs}.skip_conv")


def _conv(weights: Weights, ours: str, *theirs: str) -> Weights:
    """A weight-normed convolution, or several that lie one under the other in ours."""
    return {
        f"{ours}.{name}": torch.cat([take(weights, f"{conv}.{published}") for conv in theirs])
        for name, published in NORMED.items()
    }
