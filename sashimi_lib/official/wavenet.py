"""The published WaveNet baseline: weights of the training code into this library's model.

Filter and gate, and their two taps, lie in one matrix here; so do the skips of all layers.

Chapter: 12. Layout: the code at commit e757cef.
"""

import re

import torch

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.wavenet import WaveNet, WaveNetConfig
from sashimi_lib.official._weights import (
    Quantization,
    Weights,
    ends,
    finish,
    look,
    matrix,
    quantizer_of,
    take,
)


def load_wavenet(
    weights: Weights, quantization: Quantization, layers: int = 10, dtype: torch.dtype = torch.float32
) -> AudioLM:
    """A whole WaveNet of the training code: embedding, backbone, head.

    Tensors tell neither the ``quantization``, "mu-law" or "linear", nor after how many ``layers`` dilations
    start again.

    >>> load_wavenet({}, "mu-law")
    Traceback (most recent call last):
        ...
    ValueError: weights must hold 'model.start_conv.weight', and do not

    Chapter: 12. Raises ValueError for a tensor that is missing, left over, or of an unexpected shape, and for
    a number of convolutions that ``layers`` does not divide or another quantization.
    """
    weights = dict(weights)
    backbone = WaveNet(_config(weights, layers))
    state = {f"backbone.{key}": tensor for key, tensor in _wavenet(backbone, weights).items()} | ends(weights)
    quantizer = quantizer_of(quantization, len(state["embedding.weight"]))
    return finish(AudioLM(quantizer, backbone), state, weights, dtype)


def _config(weights: Weights, layers: int) -> WaveNetConfig:
    d_residual, d_model, _ = look(weights, "model.start_conv.weight").shape
    d_skip, d_dilation, _ = look(weights, "model.skip_convs.0.weight").shape
    found = [re.match(r"model\.\w+_convs\.(\d+)\.", key) for key in weights]
    depth = 1 + max(int(match[1]) for match in found if match)
    if layers < 1 or depth % layers:
        raise ValueError(f"layers must divide the {depth} convolutions that weights hold, got {layers}")
    return WaveNetConfig(
        stacks=depth // layers,
        layers=layers,
        d_residual=d_residual,
        d_dilation=d_dilation,
        d_skip=d_skip,
        d_end=len(look(weights, "model.end_conv_1.weight")),
        d_model=d_model,
    )


def _wavenet(backbone: WaveNet, weights: Weights) -> Weights:
    state, skips = {"start.weight": matrix(take(weights, "model.start_conv.weight"))}, []
    for i in range(len(backbone.layers)):
        taps = [take(weights, f"model.{part}_convs.{i}.weight") for part in ("filter", "gate")]
        # (filter and gate, channels, taps) -> (filter and gate, taps x channels), older tap first
        state[f"layers.{i}.gates.weight"] = torch.cat(taps).mT.flatten(1)
        state[f"layers.{i}.residual.weight"] = matrix(take(weights, f"model.residual_convs.{i}.weight"))
        skips.append(matrix(take(weights, f"model.skip_convs.{i}.weight")))
    state["skip.weight"] = torch.cat(skips, dim=1)
    for ours, theirs in ((1, 1), (3, 2)):
        state[f"end.{ours}.weight"] = matrix(take(weights, f"model.end_conv_{theirs}.weight"))
        state[f"end.{ours}.bias"] = take(weights, f"model.end_conv_{theirs}.bias")
    return state
