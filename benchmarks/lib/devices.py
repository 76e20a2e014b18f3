"""Peak rates and hourly prices of GPUs, from published tables; and the peak rates of this machine, measured.

Peaks are those of dense matrices (tables often print twice as much, for 2:4 sparsity), by matrix units where
the GPU has them for a precision. Prices are single offers of one day, for one GPU: check yours and edit them.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.lib.timing import interleaved
from sashimi_lib.ssm.precision import tf32_allowed

TABLES = {
    "T4": "https://sysrqmts.com/en/gpus/nvidia/tesla/t4",
    "A100": "https://glennklockwood.com/garden/processors/A100",  # after NVIDIA's data sheet
    "H100": "https://glennklockwood.com/garden/processors/h100",  # after NVIDIA's white paper
    "H200": "https://itkb.uw.cz/2026/06/nvidia-h200-vs-b300-precisions-cores.html",
}
PRICES = "https://techbytes.app/posts/serverless-gpu-pricing-matrix-modal-replicate-lambda-2026/"
PRICES_OF = "2026-05-07"


@dataclass(frozen=True)
class Device:
    """A machine: ``peak`` in floating-point operations per second, by precision; memory ``bandwidth`` in
    bytes per second; ``memory`` in bytes; ``dollars_per_hour``, None if unknown; ``source`` of all but the
    price."""

    peak: Mapping[str, float]
    bandwidth: float
    memory: float
    dollars_per_hour: float | None
    source: str


# Turing (T4) has matrix units for float16 only, which no recipe here uses: bfloat16 and tf32 gain nothing.
# Ampere and Hopper have matrix units for float64 as well.
_HOPPER = {"float64": 66.9e12, "float32": 66.9e12, "tf32": 494.7e12, "bfloat16": 989.4e12}
_AMPERE = {"float64": 19.5e12, "float32": 19.5e12, "tf32": 156e12, "bfloat16": 312e12}
DEVICES = {
    "T4": Device({"float64": 0.254e12, "float32": 8.14e12}, 320e9, 16e9, 0.59, TABLES["T4"]),
    "A100 40 GB": Device(_AMPERE, 1555e9, 40e9, 1.48, TABLES["A100"]),
    "A100 80 GB": Device(_AMPERE, 2039e9, 80e9, 2.50, TABLES["A100"]),
    "H100 SXM": Device(_HOPPER, 3350e9, 80e9, 3.95, TABLES["H100"]),
    "H200": Device(_HOPPER, 4800e9, 141e9, None, TABLES["H200"]),
}
_NAMES = {  # as CUDA reports them
    "Tesla T4": "T4",
    "A100-SXM4-40GB": "A100 40 GB",
    "A100-SXM4-80GB": "A100 80 GB",
    "H100 80GB HBM3": "H100 SXM",
    "H200": "H200",
}


def find_device(name: str) -> Device | None:
    """The device with a name as CUDA reports it, or None if it is not in `DEVICES`.

    >>> find_device("NVIDIA H200") is DEVICES["H200"], find_device("NVIDIA H100 PCIe")
    (True, None)
    """
    found = [key for part, key in _NAMES.items() if name.endswith(part)]
    return DEVICES[found[0]] if found else None


def measure_device(side: int, repeats: int = 5) -> Device:
    """Measure this machine: products of ``side`` x ``side`` matrices, and sums of two long vectors."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precisions = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
    pairs = {name: torch.randn(2, side, side, device=device).to(dtype) for name, dtype in precisions.items()}
    a, b, c = torch.ones(3, 2**25, device=device)  # 128 MiB each: larger than any cache
    functions: dict[str, Callable[[], object]] = {
        name: partial(torch.mm, *factors) for name, factors in pairs.items()
    }
    if device.type == "cuda":
        functions["tf32"] = partial(_tf32_product, *pairs["float32"])
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    seconds = interleaved(functions | {"memory": lambda: torch.add(a, b, out=c)}, repeats, reduce=min)
    peak = {name: 2 * side**3 / seconds[name] for name in functions}
    return Device(peak, 3 * a.nbytes / seconds["memory"], memory, None, "measured")


def best_of(a: Device, b: Device) -> Device:
    """The higher rates of two measurements of one machine, since other load can only lower them."""
    peak = {precision: max(a.peak[precision], b.peak[precision]) for precision in a.peak}
    return replace(a, peak=peak, bandwidth=max(a.bandwidth, b.bandwidth))


def _tf32_product(a: Tensor, b: Tensor) -> Tensor:
    with tf32_allowed(True):
        return a @ b
