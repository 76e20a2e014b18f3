"""A published S4 layer, wherever it stands: its shape, and its tensors as this library's `S4` has them."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sashimi_lib.official._weights import Weights, look, matrix, take
from sashimi_lib.ssm.kernels import untruncate
from sashimi_lib.ssm.s4 import Directions, Form, SSMConfig
from sashimi_lib.ssm.systems import DPLR

StepTransform = Literal["exp", "softplus"]
STEPS: dict[str, Callable[[Tensor], Tensor]] = {"exp": torch.exp, "softplus": F.softplus}


def ssm_config(weights: Weights, prefix: str) -> SSMConfig:
    """The settings of the state spaces whose kernel has that prefix."""
    copies, modes = look(weights, f"{prefix}A_real").shape
    form = Form.HURWITZ if f"{prefix}P" in weights else Form.DIAGONAL
    return SSMConfig(2 * modes, form, init="legs", tied=copies == 1)


def directions(weights: Weights, prefix: str) -> Directions:
    """One C for each channel, or one for each side of its kernel. Raises ValueError for more of them."""
    readings = len(look(weights, f"{prefix}C"))
    if readings not in (1, 2):
        raise ValueError(f"weights must be of one kernel a channel, or of a two-sided one, got {readings}")
    return "forward" if readings == 1 else "two-sided"


def has_glu(weights: Weights, prefix: str) -> bool:
    """Whether the layer ends in a gate."""
    rows, columns, *_ = look(weights, f"{_linear(weights, prefix)}weight").shape
    return rows == 2 * columns


def s4_state(weights: Weights, prefix: str, step: StepTransform) -> Weights:
    """One layer: the state space, and the linear map with or without its gate."""
    kernel = f"{prefix}layer.kernel."
    dt = STEPS[step](take(weights, f"{kernel}inv_dt").double().flatten())
    C = take(weights, f"{kernel}C")

    def systems(name: str) -> Tensor:
        return _by_channel(take(weights, kernel + name), C.shape[1])

    state = {
        "ssm.Lambda": torch.stack([systems("A_real").double(), -systems("A_imag").double()], dim=-1),
        "ssm.B": systems("B")[0],
        "ssm.C": C[0] if len(C) == 1 else C,
        "ssm.D": take(weights, f"{prefix}layer.D")[0],
        "ssm.log_dt": dt.log(),
    }
    if f"{kernel}P" in weights:
        state["ssm.p"] = systems("P").permute(1, 2, 0, 3)  # (r, n, M, 2) -> (n, M, r, 2)
    length = int(weights.pop(f"{kernel}l_kernel", torch.tensor(0)))
    if length and "ssm.p" in state:  # the diagonal class stores the plain C whatever its length
        state["ssm.C"] = _plain_C(state, dt, length)
    linear = _linear(weights, prefix)
    return state | {f"output.{part}": matrix(take(weights, linear + part)) for part in ("weight", "bias")}


def _by_channel(systems: Tensor, H: int) -> Tensor:
    """Systems (n, M), or (rank, n, M, 2), that channels share: one for each of H, where h has the published
    h mod n. One that all share stays one. Raises ValueError where H is no multiple of n."""
    axis = 0 if systems.ndim == 2 else 1
    n = systems.shape[axis]
    if H % n:
        raise ValueError(f"weights must hold systems for groups of equal size of the {H} channels, got {n}")
    return systems if n == 1 else torch.cat([systems] * (H // n), dim=axis)


def _linear(weights: Weights, prefix: str) -> str:
    """The output map is ``output_linear.0`` in most versions, ``output_linear`` in those without a gate
    before 4."""
    name = f"{prefix}output_linear."
    return f"{name}0." if f"{name}0.weight" in weights else name


def _plain_C(state: Weights, dt: Tensor, length: int) -> Tensor:
    H = len(dt)
    p, B, C = (torch.view_as_complex(state[f"ssm.{x}"].double().contiguous()) for x in "pBC")
    Lambda = torch.complex(-state["ssm.Lambda"][..., 0].exp(), state["ssm.Lambda"][..., 1])
    Lambda, p, B = (x.expand(H, *x.shape[1:]) for x in (Lambda, p, B))
    return torch.view_as_real(untruncate(DPLR(Lambda, p, -p, B, C, dt), length))
