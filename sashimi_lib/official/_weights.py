"""Helpers of the loaders: each tensor of a published state dict must be used exactly once."""

from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from sashimi_lib.audio.quantizers import Linear, MuLaw

Weights = dict[str, Tensor]
Quantization = Literal["mu-law", "linear"]  # as the published configurations call it
Model = TypeVar("Model", bound=nn.Module)


def get_tensor(weights: Weights, key: str) -> Tensor:
    """Return a tensor by name. Raises ValueError where it is missing."""
    if key not in weights:
        raise ValueError(f"weights must contain {key!r}, which is missing")
    return weights[key]


def pop_tensor(weights: Weights, key: str) -> Tensor:
    """Remove a tensor from the state dict and return it. Raises ValueError where it is missing.

    >>> weights = {"bias": torch.ones(1)}
    >>> pop_tensor(weights, "bias"), weights
    (tensor([1.]), {})
    """
    tensor = get_tensor(weights, key)
    del weights[key]
    return tensor


def as_matrix(tensor: Tensor) -> Tensor:
    """Convert the weight of a convolution of length 1 to a matrix; return a matrix or a bias unchanged."""
    return tensor.squeeze(-1) if tensor.ndim == 3 else tensor


def make_quantizer(quantization: Quantization, levels: int) -> MuLaw | Linear:
    """Return the quantizer named in a published configuration.

    >>> make_quantizer("linear", 256)
    Linear(levels=256)

    Raises ValueError for an unknown name.
    """
    if quantization not in get_args(Quantization):
        raise ValueError(f"quantization must be one of {get_args(Quantization)}, got {quantization!r}")
    return Linear(levels) if quantization == "linear" else MuLaw(levels)


def embedding_and_head(weights: Weights) -> Weights:
    """Convert the embedding and the head of the training code to those of an `AudioLM`."""
    return {
        "embedding.weight": pop_tensor(weights, "encoder.0.weight"),
        "head.weight": pop_tensor(weights, "decoder.0.output_transform.weight"),
        "head.bias": pop_tensor(weights, "decoder.0.output_transform.bias"),
    }


def load_converted(model: Model, state: Weights, weights: Weights, dtype: torch.dtype) -> Model:
    """Load a converted state dict into a model, and check that all published tensors were used.

    Raises ValueError for tensors left in ``weights``, and for a state dict that does not fit the model.
    """
    if unused := sorted(weights):
        raise ValueError(
            f"weights must contain no unknown tensors, got {len(unused)}: {', '.join(unused[:3])} ..."
        )
    model.to(dtype)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights must fit the model that their shapes describe: {error}") from error
    return model
