"""How the time of a SaShiMi training step divides into kernels, FFTs, linear layers and the rest; and how
long the matrix products of its linear layers take by themselves."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.lib.timing import interleaved
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm import s4
from sashimi_lib.ssm.convolution import causal_conv
from sashimi_lib.ssm.kernels import kernel


def step_breakdown(model: AudioLM, codes: Tensor, repeats: int) -> dict[str, float]:
    """Shares of one forward and backward pass, by ablation: with precomputed kernels, then also without
    convolutions. The share of linear layers is the profiler's time in the matrix products that only they use.

    Seconds are the least of ``repeats``. The whole pass and the products alone are timed in turn.
    """
    precomputed: dict[tuple[int, int], Tensor] = {}

    def step(kernel_of: Callable, conv: Callable) -> None:
        s4.kernel, s4.causal_conv = kernel_of, conv
        model.zero_grad()
        (-model.log_likelihood(codes).mean()).backward()
        s4.kernel, s4.causal_conv = kernel, causal_conv

    def precomputed_kernel(recurrence, length: int, dtype: torch.dtype) -> Tensor:  # type: ignore[no-untyped-def]
        shape = len(recurrence.B), length
        if shape not in precomputed:
            precomputed[shape] = torch.randn(shape, dtype=dtype, device=codes.device)
        return precomputed[shape]

    seconds = interleaved(
        {
            "whole": lambda: step(kernel, causal_conv),
            "kernels given": lambda: step(precomputed_kernel, causal_conv),
            "no convolution": lambda: step(precomputed_kernel, lambda u, K, D: u * K[..., :1]),
            "products": linear_products(model, codes),
        },
        repeats,
        reduce=min,
    )
    shares = {
        "kernel": 1 - seconds["kernels given"] / seconds["whole"],
        "fft": (seconds["kernels given"] - seconds["no convolution"]) / seconds["whole"],
        "linear": linear_share(lambda: step(kernel, causal_conv)),
    }
    shares["rest"] = 1 - sum(shares.values())
    named = {f"share_{name}": round(share, 3) for name, share in shares.items()}
    return {"seconds": seconds["whole"], "products_alone_seconds": seconds["products"]} | named


def linear_share(step: Callable[[], None]) -> float:
    """The share of a step's time in unbatched matrix products, which only linear layers use."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        step()
    self_time = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    time_of = {event.key: getattr(event, self_time) for event in profile.key_averages()}
    operators = {key: time for key, time in time_of.items() if key.startswith("aten::")}
    return sum(operators.get(f"aten::{name}", 0) for name in ("addmm", "mm")) / sum(operators.values())


def linear_products(model: AudioLM, codes: Tensor) -> Callable[[], None]:
    """A function that computes all matrix products of the linear layers in one step, forward and backward."""
    shapes = linear_shapes(model, codes)
    operands = {
        shape: [
            torch.randn(size, device=codes.device) for size in ((shape[0], shape[1]), shape[1:], shape[::2])
        ]
        for shape in set(shapes)
    }

    def run() -> None:
        for shape in shapes:
            x, W, grad = operands[shape]
            torch.mm(x, W)
            torch.mm(grad, W.mT)
            torch.mm(x.mT, grad)

    return run


def linear_shapes(model: AudioLM, codes: Tensor) -> list[tuple[int, int, int]]:
    """For each call of a linear layer: (number of vectors, in_features, out_features)."""
    shapes: list[tuple[int, int, int]] = []

    def record(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        shapes.append((inputs[0].numel() // layer.in_features, layer.in_features, layer.out_features))

    hooks = [m.register_forward_pre_hook(record) for m in model.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        model.log_likelihood(codes)
    for hook in hooks:
        hook.remove()
    return shapes
