"""Where a command computes."""

import torch

from sashimi_lib.cli.arguments import Device


def device_of(name: Device) -> torch.device:
    """The device of that name; ``auto`` is the GPU if there is one. ValueError where there is no GPU.

    >>> device_of("cpu")
    device(type='cpu')
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("--device cuda: no GPU available to PyTorch")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def check_compiler(device: torch.device) -> None:
    """Raise ValueError where ``torch.compile`` does not work on a device: it needs a C++ compiler for a CPU,
    and Triton for a GPU."""
    x = torch.zeros(8, device=device)
    try:
        torch.compile(_doubled)(x)
    except Exception as error:  # it raises what it pleases
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"--compile: torch.compile does not work on {device.type}: {why[0]}") from error


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return x + x
