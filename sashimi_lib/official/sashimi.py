"""Published S4 and SaShiMi weights into this library's models.

Reads the state dicts of the ``state-spaces/s4`` repository (version 4): the stand-alone S4 and SaShiMi files
and the training code. What differs there and here is translated, so that nothing of it need be a setting of a
model:

- a truncated C, tied to the length ``l_kernel``, becomes the plain C (`untruncate`);
- a step size behind a softplus becomes its logarithm;
- weight norm and plain weights become whichever this library's pools have;
- ``Lambda = -exp(A_real) - i A_imag`` keeps its meaning, with the sign written into the imaginary part.

Every tensor is taken out of a copy of the dict once; one that is missing or left over is named.

Chapter: 12. Layouts: the code at commit e757cef.
"""

import re
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sashimi_lib.autoregressive import AudioLM
from sashimi_lib.models.blocks import S4Block
from sashimi_lib.models.pooling import DownPool, UpPool
from sashimi_lib.models.sashimi import SaShiMi, SaShiMiConfig, Tier, UNetTier
from sashimi_lib.official._weights import Weights, ends, finish, look, matrix, take
from sashimi_lib.quantize import MuLaw
from sashimi_lib.ssm.kernels import untruncate
from sashimi_lib.ssm.s4 import S4, Form, SSMConfig
from sashimi_lib.ssm.systems import DPLR

StepTransform = Literal["exp", "softplus"]
STEPS: dict[str, Callable[[Tensor], Tensor]] = {"exp": torch.exp, "softplus": F.softplus}


def load_s4(weights: Weights, step: StepTransform = "exp", dtype: torch.dtype = torch.float32) -> S4:
    """An S4 layer from a published ``S4Block``: DPLR or diagonal, with or without GLU, one direction.

    ``step`` says how step sizes were stored, which tensors do not tell. Raises ValueError for a tensor that
    is missing, left over, or of an unexpected shape.

    >>> load_s4({"layer.D": torch.zeros(1, 4)})
    Traceback (most recent call last):
        ...
    ValueError: weights must hold 'layer.kernel.A_real', and do not

    Chapter: 12.
    """
    weights = dict(weights)
    layer = S4(
        look(weights, "layer.D").shape[-1], _ssm_config(weights, "layer.kernel."), _has_glu(weights, "")
    )
    return finish(layer, _s4(weights, "", step), weights, dtype)


def load_sashimi(
    weights: Weights, step: StepTransform = "exp", dtype: torch.dtype = torch.float32
) -> SaShiMi:
    """A causal SaShiMi backbone, autoregressive or U-Net; its shape is read off the tensors.

    Chapter: 12. Raises ValueError as `load_s4` does.
    """
    weights = dict(weights)
    backbone = SaShiMi(_sashimi_config(weights))
    return finish(backbone, _sashimi(backbone, weights, step), weights, dtype)


def load_audio_lm(
    weights: Weights, step: StepTransform = "exp", dtype: torch.dtype = torch.float32
) -> AudioLM:
    """A whole autoregressive model of the training code: embedding, backbone, head, mu-law levels.

    Chapter: 12. Raises ValueError as `load_s4` does.
    """
    weights = {key.removeprefix("model."): tensor for key, tensor in weights.items()}
    state = ends(weights)
    backbone = SaShiMi(_sashimi_config(weights))
    state |= {f"backbone.{key}": tensor for key, tensor in _sashimi(backbone, weights, step).items()}
    return finish(AudioLM(MuLaw(len(state["embedding.weight"])), backbone), state, weights, dtype)


# The shape of a model, read off its tensors


def _ssm_config(weights: Weights, prefix: str) -> SSMConfig:
    copies, modes = look(weights, f"{prefix}A_real").shape
    form = Form.HURWITZ if f"{prefix}P" in weights else Form.DIAGONAL
    return SSMConfig(2 * modes, form, init="legs", tied=copies == 1)


def _linear(weights: Weights, prefix: str) -> str:
    """The output map is ``output_linear.0`` in most versions, ``output_linear`` in those without a gate
    before 4."""
    name = f"{prefix}output_linear."
    return f"{name}0." if f"{name}0.weight" in weights else name


def _has_glu(weights: Weights, prefix: str) -> bool:
    rows, columns, *_ = look(weights, f"{_linear(weights, prefix)}weight").shape
    return rows == 2 * columns


def _sashimi_config(weights: Weights) -> SaShiMiConfig:
    down, centre = _modules(weights, "d_layers"), _modules(weights, "c_layers")
    width, pool = len(look(weights, "norm.weight")), []
    d_model, block = width, f"{centre[0]}layer."
    for name in down:
        if (bias := f"{name}linear.bias") in weights:
            weight = next(key for key in (f"{name}linear.weight", f"{name}linear.weight_v") if key in weights)
            pool.append(weights[weight].shape[1] // width)
            expand, width = len(weights[bias]) // width, len(weights[bias])
    return SaShiMiConfig(
        d_model=d_model,
        n_layers=len(centre) // 2,
        pool=tuple(pool),
        expand=expand,
        ff=len(look(weights, f"{centre[1]}layer.ff.0.0.bias")) // width,
        glu=_has_glu(weights, block),
        unet=len(down) > len(pool),
        norm="scalar" if f"{centre[0]}norm.norm.m" in weights else "layer",
        ssm=_ssm_config(weights, f"{block}layer.kernel."),
    )


def _modules(weights: Weights, part: str) -> list[str]:
    """The prefixes ``part.i.`` or ``part.i.j.`` of the modules in a part, in order."""
    found = {match.group() for key in weights if (match := re.match(rf"{part}\.(\d+\.)+", key))}
    if not found:
        raise ValueError(f"weights must hold modules named {part}.0 ..., and do not")
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


# The translation, module by module


def _sashimi(backbone: SaShiMi, weights: Weights, step: StepTransform) -> Weights:
    tiers: list[Tier | UNetTier] = []
    tier: nn.Module = backbone.tiers
    while isinstance(tier, Tier | UNetTier):
        tiers.append(tier)
        tier = tier.hourglass.inner
    centre = list(tier.get_submodule("blocks.blocks").children())
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    for t in tiers:
        down += [*(t.down.blocks if isinstance(t, UNetTier) else []), t.hourglass.down]
    for t in reversed(tiers):
        up += [t.hourglass.up, *(t.up if isinstance(t, UNetTier) else t.blocks).blocks]
    names = {module: name for name, module in backbone.named_modules()}
    state = {f"norm.{part}": take(weights, f"norm.{part}") for part in ("weight", "bias")}
    for part, ours in (("d_layers", down), ("c_layers", centre), ("u_layers", up)):
        theirs = _modules(weights, part)
        if len(theirs) != len(ours):
            raise ValueError(f"weights must hold {len(ours)} modules in {part}, got {len(theirs)}")
        for module, name in zip(ours, theirs, strict=True):
            state |= {
                f"{names[module]}.{key}": tensor
                for key, tensor in _module(weights, name, module, step).items()
            }
    return state


def _module(weights: Weights, name: str, module: nn.Module, step: StepTransform) -> Weights:
    if isinstance(module, DownPool | UpPool):
        return _pool(weights, f"{name}linear.", module)
    state = _norm(weights, f"{name}norm.")
    if isinstance(module, S4Block):
        return state | {f"layer.{key}": tensor for key, tensor in _s4(weights, f"{name}layer.", step).items()}
    for ours, theirs in (("expand", "0.0"), ("contract", "2")):
        state[f"{ours}.weight"] = matrix(take(weights, f"{name}layer.ff.{theirs}.weight"))
        state[f"{ours}.bias"] = take(weights, f"{name}layer.ff.{theirs}.bias")
    return state


def _norm(weights: Weights, prefix: str) -> Weights:
    names = ("norm.m", "norm.s") if f"{prefix}norm.m" in weights else ("weight", "bias")
    return {f"norm.{name.removeprefix('norm.')}": take(weights, prefix + name) for name in names}


def _pool(weights: Weights, prefix: str, module: nn.Module) -> Weights:
    state = {"linear.bias": take(weights, f"{prefix}bias")}
    if f"{prefix}weight_v" in weights:
        v, g = (take(weights, f"{prefix}weight_{x}").double() for x in "vg")
    else:
        v = matrix(take(weights, f"{prefix}weight")).double()
        g = v.norm(dim=1, keepdim=True)
    if any("parametrizations" in name for name, _ in module.named_parameters()):
        return state | {f"linear.parametrizations.weight.original{i}": x for i, x in enumerate((g, v))}
    return state | {"linear.weight": g * v / v.norm(dim=1, keepdim=True)}


def _s4(weights: Weights, prefix: str, step: StepTransform) -> Weights:
    """One ``S4Block``: the state space, and the linear map with or without its gate."""
    kernel = f"{prefix}layer.kernel."
    dt = STEPS[step](take(weights, f"{kernel}inv_dt").double().flatten())
    A_real, A_imag = (take(weights, f"{kernel}A_{part}").double() for part in ("real", "imag"))
    state = {
        "ssm.Lambda": torch.stack([A_real, -A_imag], dim=-1),
        "ssm.B": _single(take(weights, f"{kernel}B")),
        "ssm.C": _single(take(weights, f"{kernel}C")),
        "ssm.D": take(weights, f"{prefix}layer.D")[0],
        "ssm.log_dt": dt.log(),
    }
    if f"{kernel}P" in weights:
        state["ssm.p"] = take(weights, f"{kernel}P").permute(1, 2, 0, 3)  # (r, n, M, 2) -> (n, M, r, 2)
    length = int(weights.pop(f"{kernel}l_kernel", torch.tensor(0)))
    if length and "ssm.p" in state:  # the diagonal class stores the plain C whatever its length
        state["ssm.C"] = _plain_C(state, dt, length)
    linear = _linear(weights, prefix)
    return state | {f"output.{part}": matrix(take(weights, linear + part)) for part in ("weight", "bias")}


def _plain_C(state: Weights, dt: Tensor, length: int) -> Tensor:
    H = len(dt)
    p, B, C = (torch.view_as_complex(state[f"ssm.{x}"].double().contiguous()) for x in "pBC")
    Lambda = torch.complex(-state["ssm.Lambda"][..., 0].exp(), state["ssm.Lambda"][..., 1])
    Lambda, p, B = (x.expand(H, *x.shape[1:]) for x in (Lambda, p, B))
    return torch.view_as_real(untruncate(DPLR(Lambda, p, -p, B, C, dt), length))


def _single(tensor: Tensor) -> Tensor:
    """Drop the axis of channels (1 in a one-directional layer) that comes first."""
    if tensor.shape[0] != 1:
        raise ValueError(
            f"weights must be of a one-directional layer, got {tensor.shape[0]} kernels a channel"
        )
    return tensor[0]
