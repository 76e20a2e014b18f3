"""Where a training step of SaShiMi goes: kernels, FFTs, linear layers, the rest; and how long the matrix
products of its linear layers take by themselves."""

from collections.abc import Callable

import torch
from timing import interleaved
from torch import Tensor, nn

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm import s4
from sashimi_lib.ssm.convolution import causal_conv
from sashimi_lib.ssm.kernels import kernel


def sashimi_shares(model: AudioLM, codes: Tensor, repeats: int) -> dict[str, float]:
    """Where one pass forward and backward goes: what it saves to have kernels given, and convolutions left
    out. The linear layers' share is the profiler's time in the matrix products that only they use.

    Seconds of the whole pass and of its linear layers' products alone come from the same turns,
    and are the least of all.
    """
    given: dict[tuple[int, int], Tensor] = {}

    def step(kernel_of: Callable, conv: Callable) -> None:
        s4.kernel, s4.causal_conv = kernel_of, conv
        model.zero_grad()
        (-model.log_likelihood(codes).mean()).backward()
        s4.kernel, s4.causal_conv = kernel, causal_conv

    def given_kernel(recurrence, samples: int, dtype: torch.dtype) -> Tensor:  # type: ignore[no-untyped-def]
        shape = len(recurrence.B), samples
        if shape not in given:
            given[shape] = torch.randn(shape, dtype=dtype, device=codes.device)
        return given[shape]

    seconds = interleaved(
        {
            "whole": lambda: step(kernel, causal_conv),
            "kernels given": lambda: step(given_kernel, causal_conv),
            "no convolution": lambda: step(given_kernel, lambda u, K, D: u * K[..., :1]),
            "products": linear_products(model, codes),
        },
        repeats,
        of=min,
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
    """The share of a step's time in matrix products that are of no batch: only linear layers have them."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        step()
    measured = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    time_of = {event.key: getattr(event, measured) for event in profile.key_averages()}
    operators = {key: time for key, time in time_of.items() if key.startswith("aten::")}
    return sum(operators.get(f"aten::{name}", 0) for name in ("addmm", "mm")) / sum(operators.values())


def linear_products(model: AudioLM, codes: Tensor) -> Callable[[], None]:
    """All matrix products of the linear layers in one step, forward and backward, and nothing else."""
    shapes = linear_shapes(model, codes)
    made = {
        shape: [
            torch.randn(size, device=codes.device) for size in ((shape[0], shape[1]), shape[1:], shape[::2])
        ]
        for shape in set(shapes)
    }

    def run() -> None:
        for shape in shapes:
            x, W, grad = made[shape]
            torch.mm(x, W)
            torch.mm(grad, W.mT)
            torch.mm(x.mT, grad)

    return run


def linear_shapes(model: AudioLM, codes: Tensor) -> list[tuple[int, int, int]]:
    """Of each linear layer: how many vectors it maps, of how many numbers, to how many."""
    shapes: list[tuple[int, int, int]] = []

    def note(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        shapes.append((inputs[0].numel() // layer.in_features, layer.in_features, layer.out_features))

    hooks = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        model.log_likelihood(codes)
    for hook in hooks:
        hook.remove()
    return shapes
