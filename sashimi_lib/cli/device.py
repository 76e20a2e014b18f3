"""Where a command computes."""

import torch

from sashimi_lib.cli.arguments import Device


def device_of(name: Device) -> torch.device:
    """The device of that name; ``auto`` is the GPU if there is one. ValueError for a GPU that is not there.

    >>> device_of("cpu")
    device(type='cpu')
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("--device cuda: PyTorch finds no GPU here")
    return torch.device("cuda" if there and name != "cpu" else "cpu")
