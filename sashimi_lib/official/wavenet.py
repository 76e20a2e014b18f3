"""Conversion of the WaveNet baseline of ``state-spaces/s4`` into this library's `WaveNet`.

Filter and gate, with their two taps, are one matrix here; so are the skip connections of all layers.

Chapter: 12. Layout: the code at commit e757cef.
"""

import re

import torch

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.wavenet import WaveNet, WaveNetConfig
from sashimi_lib.official._weights import (
    Quantization,
    Weights,
    as_matrix,
    embedding_and_head,
    get_tensor,
    load_converted,
    make_quantizer,
    pop_tensor,
)


def load_wavenet(
    weights: Weights, quantization: Quantization, layers: int = 10, dtype: torch.dtype = torch.float32
) -> AudioLM:
    """Load a WaveNet of the training code: embedding, backbone and head.

    Two settings cannot be read from the tensors: ``quantization``, "mu-law" or "linear", and ``layers``, the
    number of layers after which dilations repeat.

    >>> load_wavenet({}, "mu-law")
    Traceback (most recent call last):
        ...
    ValueError: weights must contain 'model.start_conv.weight', which is missing

    Chapter: 12. Raises ValueError for a tensor that is missing, unknown or of an unexpected shape, for
    ``layers`` that do not divide the number of convolutions, and for an unknown quantization.
    """
    weights = dict(weights)
    backbone = WaveNet(_config(weights, layers))
    state = embedding_and_head(weights)
    state |= {f"backbone.{key}": tensor for key, tensor in _wavenet(backbone, weights).items()}
    quantizer = make_quantizer(quantization, len(state["embedding.weight"]))
    return load_converted(AudioLM(quantizer, backbone), state, weights, dtype)


def _config(weights: Weights, layers: int) -> WaveNetConfig:
    d_residual, d_model, _ = get_tensor(weights, "model.start_conv.weight").shape
    d_skip, d_dilation, _ = get_tensor(weights, "model.skip_convs.0.weight").shape
    matches = [re.match(r"model\.\w+_convs\.(\d+)\.", key) for key in weights]
    depth = 1 + max(int(match[1]) for match in matches if match)
    if layers < 1 or depth % layers:
        raise ValueError(f"layers must divide the {depth} convolutions that weights hold, got {layers}")
    return WaveNetConfig(
        stacks=depth // layers,
        layers=layers,
        d_residual=d_residual,
        d_dilation=d_dilation,
        d_skip=d_skip,
        d_end=len(get_tensor(weights, "model.end_conv_1.weight")),
        d_model=d_model,
    )


def _wavenet(backbone: WaveNet, weights: Weights) -> Weights:
    state, skips = {"start.weight": as_matrix(pop_tensor(weights, "model.start_conv.weight"))}, []
    for i in range(len(backbone.layers)):
        taps = [pop_tensor(weights, f"model.{part}_convs.{i}.weight") for part in ("filter", "gate")]
        # (filter and gate, channels, taps) -> (filter and gate, taps x channels), older tap first
        state[f"layers.{i}.gates.weight"] = torch.cat(taps).mT.flatten(1)
        residual = pop_tensor(weights, f"model.residual_convs.{i}.weight")
        state[f"layers.{i}.residual.weight"] = as_matrix(residual)
        skips.append(as_matrix(pop_tensor(weights, f"model.skip_convs.{i}.weight")))
    state["skip.weight"] = torch.cat(skips, dim=1)
    for target, source in ((1, 1), (3, 2)):
        state[f"end.{target}.weight"] = as_matrix(pop_tensor(weights, f"model.end_conv_{source}.weight"))
        state[f"end.{target}.bias"] = pop_tensor(weights, f"model.end_conv_{source}.bias")
    return state
