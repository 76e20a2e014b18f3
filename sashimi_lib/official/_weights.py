"""What every loader does with a published state dict: take each tensor once, leave none, name what is off."""

from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from sashimi_lib.audio.quantizers import Linear, MuLaw

Weights = dict[str, Tensor]
Quantization = Literal["mu-law", "linear"]  # as the published configurations call it
Model = TypeVar("Model", bound=nn.Module)


def look(weights: Weights, key: str) -> Tensor:
    """The tensor of that name, left in place. Raises ValueError where there is none."""
    if key not in weights:
        raise ValueError(f"weights must hold {key!r}, and do not")
    return weights[key]


def take(weights: Weights, key: str) -> Tensor:
    """The tensor of that name, taken out.

    >>> weights = {"bias": torch.ones(1)}
    >>> take(weights, "bias"), weights
    (tensor([1.]), {})
    """
    tensor = look(weights, key)
    del weights[key]
    return tensor


def matrix(tensor: Tensor) -> Tensor:
    """A 1 x 1 convolution's weight as a matrix; a matrix or a bias, also of shape (H, 1), as it is."""
    return tensor.squeeze(-1) if tensor.ndim == 3 else tensor


def quantizer_of(quantization: Quantization, levels: int) -> MuLaw | Linear:
    """The quantizer that a published configuration names.

    >>> quantizer_of("linear", 256)
    Linear(levels=256)

    Raises ValueError for another name.
    """
    if quantization not in get_args(Quantization):
        raise ValueError(f"quantization must be one of {get_args(Quantization)}, got {quantization!r}")
    return Linear(levels) if quantization == "linear" else MuLaw(levels)


def ends(weights: Weights) -> Weights:
    """The embedding and the head of the training code, as an `AudioLM` names them."""
    return {
        "embedding.weight": take(weights, "encoder.0.weight"),
        "head.weight": take(weights, "decoder.0.output_transform.weight"),
        "head.bias": take(weights, "decoder.0.output_transform.bias"),
    }


def finish(model: Model, state: Weights, weights: Weights, dtype: torch.dtype) -> Model:
    """Load the translated state, after making sure that nothing of the published one was passed over.

    Raises ValueError for what is left in ``weights``, and for a state that does not fit the model.
    """
    if left := sorted(weights):
        raise ValueError(
            f"weights must hold nothing unknown, got {len(left)} tensors more: {', '.join(left[:3])} ..."
        )
    model.to(dtype)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights must fit the model that they describe: {error}") from error
    return model
