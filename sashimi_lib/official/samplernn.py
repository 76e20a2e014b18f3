"""Published SampleRNN weights into this library's model.

Reads the state dict of the SampleRNN baseline in the ``state-spaces/s4`` repository. What differs there and
here:

- no tensor tells mu-law levels (YouTubeMix, SC09) from linear ones (Beethoven), which its inputs depend on;
- amplitudes are computed there in the model's precision; here they are a table, filled in double;
- maps are convolutions of length 1 there, matrices here.

Chapter: 12. Layouts: the code at commit e757cef.
"""

import math

import torch
from torch import Tensor

from sashimi_lib.audio.quantizers import Linear, Quantizer
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.samplernn import SampleRNN, SampleRNNConfig
from sashimi_lib.official._weights import Quantization, Weights, finish, look, matrix, quantizer_of, take


def load_samplernn(
    weights: Weights, quantization: Quantization, dtype: torch.dtype = torch.float32
) -> AudioLM:
    """A whole SampleRNN of the training code; its shape is read off the tensors.

    ``quantization`` is how its levels divide the amplitudes, which tensors do not tell: "mu-law" for the
    models of YouTubeMix and SC09, "linear" for those of Beethoven.

    >>> load_samplernn({}, "mu-law")
    Traceback (most recent call last):
        ...
    ValueError: weights must hold 'frame_level_rnns.0.upsampling.bias', and do not

    Chapter: 12. Raises ValueError for a tensor that is missing, left over, or of an unexpected shape, and for
    another quantization.
    """
    weights = {key.removeprefix("model."): tensor for key, tensor in weights.items()}
    backbone = SampleRNN(_config(weights))
    vectors = take(weights, "sample_level_mlp.embedding.weight")
    model = AudioLM(quantizer_of(quantization, len(vectors)), backbone)
    state = {
        "embedding.amplitude": 2 * _amplitudes(model.quantizer),
        "embedding.embedding.weight": vectors,
        **_normed("head", *_norm(weights, "sample_level_mlp.output.")),
        "head.bias": take(weights, "sample_level_mlp.output.bias"),
    }
    for j in range(len(backbone.tiers)):
        state |= _under(f"backbone.tiers.{j}.", _tier(weights, f"frame_level_rnns.{j}."))
    return finish(model, state | _under("backbone.mlp.", _mlp(weights)), weights, dtype)


def _config(weights: Weights) -> SampleRNNConfig:
    """Frame sizes from the upsampling of each tier, the number of GRUs from the learned first state."""
    sizes = [look(weights, "frame_level_rnns.0.upsampling.bias").shape[1]]
    while (key := f"frame_level_rnns.{len(sizes)}.upsampling.bias") in weights:
        sizes.append(weights[key].shape[1])
    n_rnn, _, d_hidden = look(weights, "frame_level_rnns.0.rnn.h0").shape
    return SampleRNNConfig(
        tuple(sizes), n_rnn, d_hidden, look(weights, "sample_level_mlp.embedding.weight").shape[1]
    )


def _amplitudes(quantizer: Quantizer) -> Tensor:
    """What a quantizer decodes every code to, in double precision (its own answer is float32)."""
    levels = quantizer.levels
    y = torch.arange(levels).double() / (levels // 2) - 1
    if isinstance(quantizer, Linear):
        return y
    return y.sign() * torch.expm1(y.abs() * math.log(levels)) / (levels - 1)


def _tier(weights: Weights, prefix: str) -> Weights:
    gain, direction = _norm(weights, f"{prefix}upsampling.conv_t.")  # (in, 1) and (in, out, pieces)
    return {
        **_normed("expand", *_norm(weights, f"{prefix}input_expand.")),
        "expand.bias": take(weights, f"{prefix}input_expand.bias"),
        "h0": take(weights, f"{prefix}rnn.h0").transpose(0, 1),
        **{
            key.removeprefix(prefix): take(weights, key)
            for key in sorted(weights)
            if key.startswith(f"{prefix}rnn.")
        },
        **_normed("upsample", gain.flatten()[None], direction.permute(2, 1, 0).flatten(0, 1)),
        "upsample.bias": take(weights, f"{prefix}upsampling.bias").mT.flatten(),
    }


def _mlp(weights: Weights) -> Weights:
    gain, direction = (take(weights, f"sample_level_mlp.input.weight_{x}") for x in "gv")
    return {
        **_normed("input", gain, direction),  # a convolution here too
        **_normed("hidden", *_norm(weights, "sample_level_mlp.hidden.")),
        "hidden.bias": take(weights, "sample_level_mlp.hidden.bias"),
    }


def _norm(weights: Weights, prefix: str) -> tuple[Tensor, Tensor]:
    """Gain and direction of a map under weight norm, in double precision."""
    gain, direction = (matrix(take(weights, f"{prefix}weight_{x}")).double() for x in "gv")
    return gain, direction


def _normed(name: str, gain: Tensor, direction: Tensor) -> Weights:
    """The same as PyTorch's parametrisation names them."""
    return {f"{name}.parametrizations.weight.original{i}": x for i, x in enumerate((gain, direction))}


def _under(prefix: str, state: Weights) -> Weights:
    return {prefix + key: tensor for key, tensor in state.items()}
