"""What GPUs give at the most, by their makers' tables, and what an hour of one cost; and what the machine at
hand gives, measured.

Peaks are those of dense matrices (tables often print the double, for matrices that are half zeros). Where a
GPU has matrix units for a precision, its peak is theirs. Prices are one seller's or another's on one day, for
one GPU by itself: see what yours asks, and write it here.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from timing import interleaved
from torch import Tensor

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
    """A machine: its ``peak`` in floating-point operations a second, by precision; the ``bandwidth`` of its
    memory in bytes a second, and its ``memory`` in bytes; ``dollars_per_hour``, None where no price is known;
    the ``source`` of all but the price."""

    peak: Mapping[str, float]
    bandwidth: float
    memory: float
    dollars_per_hour: float | None
    source: str


# Turing, the T4's generation, has matrix units for float16 alone, which no recipe here uses: a run in
# bfloat16 or tf32 is none that it speeds up. Hopper and Ampere compute products in float64 in theirs.
_HOPPER = {"float64": 66.9e12, "float32": 66.9e12, "tf32": 494.7e12, "bfloat16": 989.4e12}
_AMPERE = {"float64": 19.5e12, "float32": 19.5e12, "tf32": 156e12, "bfloat16": 312e12}
DEVICES = {
    "T4": Device({"float64": 0.254e12, "float32": 8.14e12}, 320e9, 16e9, 0.59, TABLES["T4"]),
    "A100 40 GB": Device(_AMPERE, 1555e9, 40e9, 1.48, TABLES["A100"]),
    "A100 80 GB": Device(_AMPERE, 2039e9, 80e9, 2.50, TABLES["A100"]),
    "H100 SXM": Device(_HOPPER, 3350e9, 80e9, 3.95, TABLES["H100"]),
    "H200": Device(_HOPPER, 4800e9, 141e9, None, TABLES["H200"]),
}
_NAMES = {  # as CUDA tells them
    "Tesla T4": "T4",
    "A100-SXM4-40GB": "A100 40 GB",
    "A100-SXM4-80GB": "A100 80 GB",
    "H100 80GB HBM3": "H100 SXM",
    "H200": "H200",
}


def by_name(name: str) -> Device | None:
    """The device that CUDA calls so, where it is one of these.

    >>> by_name("NVIDIA H200") is DEVICES["H200"], by_name("NVIDIA H100 PCIe")
    (True, None)
    """
    found = [key for part, key in _NAMES.items() if name.endswith(part)]
    return DEVICES[found[0]] if found else None


def measured(side: int, repeats: int = 5) -> Device:
    """The machine at hand: products of square matrices of ``side``, and sums of two long vectors."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precisions = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
    pairs = {name: torch.randn(2, side, side, device=device).to(dtype) for name, dtype in precisions.items()}
    a, b, c = torch.ones(3, 2**25, device=device)  # 128 MiB each: more than a cache holds
    turns: dict[str, Callable[[], object]] = {
        name: partial(torch.mm, *factors) for name, factors in pairs.items()
    }
    if device.type == "cuda":
        turns["tf32"] = partial(_tf32_product, *pairs["float32"])
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    seconds = interleaved(turns | {"memory": lambda: torch.add(a, b, out=c)}, repeats, of=min)
    peak = {name: 2 * side**3 / seconds[name] for name in turns}
    return Device(peak, 3 * a.nbytes / seconds["memory"], memory, None, "measured")


def better(a: Device, b: Device) -> Device:
    """What the same machine gave at the most, measured twice: what else runs there makes nothing quicker."""
    peak = {precision: max(a.peak[precision], b.peak[precision]) for precision in a.peak}
    return replace(a, peak=peak, bandwidth=max(a.bandwidth, b.bandwidth))


def _tf32_product(a: Tensor, b: Tensor) -> Tensor:
    with tf32_allowed(True):
        return a @ b
