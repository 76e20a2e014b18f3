"""Conversion of the SampleRNN baseline of ``state-spaces/s4`` into this library's `SampleRNN`.

Differences of the published code:

- inputs depend on the quantizer, mu-law (YouTubeMix, SC09) or linear (Beethoven), which is in no tensor;
- amplitudes are computed in the dtype of the model; here they are a table, computed in float64;
- linear maps are convolutions of length 1; here they are matrices.

Chapter: 12. Layouts: the code at commit e757cef.
"""

import math

import torch
from torch import Tensor

from sashimi_lib.audio.quantizers import Linear, Quantizer
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.samplernn import SampleRNN, SampleRNNConfig
from sashimi_lib.official._weights import (
    Quantization,
    Weights,
    as_matrix,
    get_tensor,
    load_converted,
    make_quantizer,
    pop_tensor,
)


def load_samplernn(
    weights: Weights, quantization: Quantization, dtype: torch.dtype = torch.float32
) -> AudioLM:
    """Load a SampleRNN of the training code; its configuration is read from the tensors.

    The ``quantization`` cannot be read from them: "mu-law" for the models of YouTubeMix and SC09, "linear"
    for those of Beethoven.

    >>> load_samplernn({}, "mu-law")
    Traceback (most recent call last):
        ...
    ValueError: weights must contain 'frame_level_rnns.0.upsampling.bias', which is missing

    Chapter: 12. Raises ValueError for a tensor that is missing, unknown or of an unexpected shape, and for an
    unknown quantization.
    """
    weights = {key.removeprefix("model."): tensor for key, tensor in weights.items()}
    backbone = SampleRNN(_config(weights))
    embedding = pop_tensor(weights, "sample_level_mlp.embedding.weight")
    model = AudioLM(make_quantizer(quantization, len(embedding)), backbone)
    state = {
        "embedding.amplitude": 2 * _amplitudes(model.quantizer),
        "embedding.embedding.weight": embedding,
        **_weight_norm("head", *_pop_weight_norm(weights, "sample_level_mlp.output.")),
        "head.bias": pop_tensor(weights, "sample_level_mlp.output.bias"),
    }
    for j in range(len(backbone.tiers)):
        state |= _add_prefix(f"backbone.tiers.{j}.", _tier(weights, f"frame_level_rnns.{j}."))
    return load_converted(model, state | _add_prefix("backbone.mlp.", _mlp(weights)), weights, dtype)


def _config(weights: Weights) -> SampleRNNConfig:
    """Read frame sizes from the upsampling of each tier, and the number of GRUs from the initial state."""
    sizes = [get_tensor(weights, "frame_level_rnns.0.upsampling.bias").shape[1]]
    while (key := f"frame_level_rnns.{len(sizes)}.upsampling.bias") in weights:
        sizes.append(weights[key].shape[1])
    n_rnn, _, d_hidden = get_tensor(weights, "frame_level_rnns.0.rnn.h0").shape
    return SampleRNNConfig(
        tuple(sizes), n_rnn, d_hidden, get_tensor(weights, "sample_level_mlp.embedding.weight").shape[1]
    )


def _amplitudes(quantizer: Quantizer) -> Tensor:
    """Return the amplitude of every code in float64 (`decode` of the quantizer returns float32)."""
    levels = quantizer.levels
    y = torch.arange(levels).double() / (levels // 2) - 1
    if isinstance(quantizer, Linear):
        return y
    return y.sign() * torch.expm1(y.abs() * math.log(levels)) / (levels - 1)


def _tier(weights: Weights, prefix: str) -> Weights:
    gain, direction = _pop_weight_norm(weights, f"{prefix}upsampling.conv_t.")  # (in, 1) and (in, out, taps)
    return {
        **_weight_norm("expand", *_pop_weight_norm(weights, f"{prefix}input_expand.")),
        "expand.bias": pop_tensor(weights, f"{prefix}input_expand.bias"),
        "h0": pop_tensor(weights, f"{prefix}rnn.h0").transpose(0, 1),
        **{
            key.removeprefix(prefix): pop_tensor(weights, key)
            for key in sorted(weights)
            if key.startswith(f"{prefix}rnn.")
        },
        **_weight_norm("upsample", gain.flatten()[None], direction.permute(2, 1, 0).flatten(0, 1)),
        "upsample.bias": pop_tensor(weights, f"{prefix}upsampling.bias").mT.flatten(),
    }


def _mlp(weights: Weights) -> Weights:
    gain, direction = (pop_tensor(weights, f"sample_level_mlp.input.weight_{x}") for x in "gv")
    return {
        **_weight_norm("input", gain, direction),  # a convolution in this library too
        **_weight_norm("hidden", *_pop_weight_norm(weights, "sample_level_mlp.hidden.")),
        "hidden.bias": pop_tensor(weights, "sample_level_mlp.hidden.bias"),
    }


def _pop_weight_norm(weights: Weights, prefix: str) -> tuple[Tensor, Tensor]:
    """Remove and return gain and direction of a linear map under weight norm, in float64."""
    gain, direction = (as_matrix(pop_tensor(weights, f"{prefix}weight_{x}")).double() for x in "gv")
    return gain, direction


def _weight_norm(name: str, gain: Tensor, direction: Tensor) -> Weights:
    """Name gain and direction as the weight-norm parametrization of PyTorch does."""
    return {f"{name}.parametrizations.weight.original{i}": x for i, x in enumerate((gain, direction))}


def _add_prefix(prefix: str, state: Weights) -> Weights:
    return {prefix + key: tensor for key, tensor in state.items()}
