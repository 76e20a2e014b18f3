"""Conversion of published S4 layers: their configuration and their state dict."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sashimi_lib.official._weights import Weights, as_matrix, get_tensor, pop_tensor
from sashimi_lib.ssm.kernels import untruncate
from sashimi_lib.ssm.s4 import Direction, Form, SSMConfig
from sashimi_lib.ssm.systems import DPLR

StepTransform = Literal["exp", "softplus"]
STEP_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"exp": torch.exp, "softplus": F.softplus}


def ssm_config(weights: Weights, prefix: str) -> SSMConfig:
    """Read the configuration of a layer's state spaces from the tensors of its kernel."""
    copies, modes = get_tensor(weights, f"{prefix}A_real").shape
    form = Form.HURWITZ if f"{prefix}P" in weights else Form.DIAGONAL
    return SSMConfig(2 * modes, form, init="legs", tied=copies == 1)


def kernel_direction(weights: Weights, prefix: str) -> Direction:
    """Read the direction of a layer from C, which a bidirectional kernel has twice.

    Raises ValueError for more than two.
    """
    n_outputs = len(get_tensor(weights, f"{prefix}C"))
    if n_outputs not in (1, 2):
        raise ValueError(f"weights must contain one C, or two for a bidirectional kernel, got {n_outputs}")
    return "causal" if n_outputs == 1 else "bidirectional"


def has_glu(weights: Weights, prefix: str) -> bool:
    """Return whether the layer ends in a gated linear unit."""
    rows, columns, *_ = get_tensor(weights, f"{_linear(weights, prefix)}weight").shape
    return rows == 2 * columns


def s4_state(weights: Weights, prefix: str, step: StepTransform) -> Weights:
    """Convert one layer: the state space and the output projection, with or without GLU."""
    kernel = f"{prefix}layer.kernel."
    dt = STEP_TRANSFORMS[step](pop_tensor(weights, f"{kernel}inv_dt").double().flatten())
    C = pop_tensor(weights, f"{kernel}C")

    def per_channel(name: str) -> Tensor:
        return _by_channel(pop_tensor(weights, kernel + name), C.shape[1])

    state = {
        "ssm.Lambda": torch.stack([per_channel("A_real").double(), -per_channel("A_imag").double()], dim=-1),
        "ssm.B": per_channel("B")[0],
        "ssm.C": C[0] if len(C) == 1 else C,
        "ssm.D": pop_tensor(weights, f"{prefix}layer.D")[0],
        "ssm.log_dt": dt.log(),
    }
    if f"{kernel}P" in weights:
        state["ssm.p"] = per_channel("P").permute(1, 2, 0, 3)  # (r, n, M, 2) -> (n, M, r, 2)
    length = int(weights.pop(f"{kernel}l_kernel", torch.tensor(0)))
    if length and "ssm.p" in state:  # the diagonal class never truncates C
        state["ssm.C"] = _untruncated_C(state, dt, length)
    linear = _linear(weights, prefix)
    return state | {f"output.{x}": as_matrix(pop_tensor(weights, linear + x)) for x in ("weight", "bias")}


def _by_channel(systems: Tensor, H: int) -> Tensor:
    """Repeat n shared systems, of shape (n, M) or (rank, n, M, 2), to one per channel.

    Channel h has the system h mod n. A single system is left as it is. Raises ValueError where n does not
    divide H.
    """
    axis = 0 if systems.ndim == 2 else 1
    n = systems.shape[axis]
    if H % n:
        raise ValueError(f"weights must contain a number of systems that divides the {H} channels, got {n}")
    return systems if n == 1 else torch.cat([systems] * (H // n), dim=axis)


def _linear(weights: Weights, prefix: str) -> str:
    """Return the prefix of the output projection: ``output_linear.0``, or ``output_linear`` in versions
    before 4 without GLU."""
    name = f"{prefix}output_linear."
    return f"{name}0." if f"{name}0.weight" in weights else name


def _untruncated_C(state: Weights, dt: Tensor, length: int) -> Tensor:
    H = len(dt)
    p, B, C = (torch.view_as_complex(state[f"ssm.{x}"].double().contiguous()) for x in "pBC")
    Lambda = torch.complex(-state["ssm.Lambda"][..., 0].exp(), state["ssm.Lambda"][..., 1])
    Lambda, p, B = (x.expand(H, *x.shape[1:]) for x in (Lambda, p, B))
    return torch.view_as_real(untruncate(DPLR(Lambda, p, -p, B, C, dt), length))
