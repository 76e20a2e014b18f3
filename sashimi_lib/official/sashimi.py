"""Published S4 and SaShiMi weights into this library's models.

Reads the state dicts of the ``state-spaces/s4`` repository (version 4): the stand-alone S4 and SaShiMi files
and the training code. What differs there and here is translated, so that nothing of it need be a setting of a
model:

- a truncated C, tied to the length ``l_kernel``, becomes the plain C (`untruncate`);
- a step size behind a softplus becomes its logarithm;
- weight norm and plain weights become whichever this library's pools have;
- ``Lambda = -exp(A_real) - i A_imag`` keeps its meaning, with the sign written into the imaginary part;
- systems that several channels share (``n_ssm`` between 1 and H, where channel h has system h mod n_ssm)
  become one for each channel: the same function, but further training unties them.

Every tensor is taken out of a copy of the dict once; one that is missing or left over is named.

Chapter: 12. Layouts: the code at commit e757cef.
"""

import re

import torch
from torch import nn

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.blocks import S4Block
from sashimi_lib.models.pooling import DownPool, UpPool
from sashimi_lib.models.sashimi import PooledTier, SaShiMi, SaShiMiConfig, UNetTier
from sashimi_lib.official._s4 import StepTransform, directions, has_glu, s4_state, ssm_config
from sashimi_lib.official._weights import (
    Quantization,
    Weights,
    ends,
    finish,
    look,
    matrix,
    quantizer_of,
    take,
)
from sashimi_lib.ssm.s4 import S4


def load_s4(weights: Weights, step: StepTransform = "exp", dtype: torch.dtype = torch.float32) -> S4:
    """An S4 layer from a published ``S4Block``: DPLR or diagonal, with or without GLU, of one direction or
    two-sided.

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
        look(weights, "layer.D").shape[-1],
        ssm_config(weights, "layer.kernel."),
        has_glu(weights, ""),
        directions(weights, "layer.kernel."),
    )
    return finish(layer, s4_state(weights, "", step), weights, dtype)


def load_sashimi(
    weights: Weights, step: StepTransform = "exp", dtype: torch.dtype = torch.float32
) -> SaShiMi:
    """A SaShiMi backbone, autoregressive or U-Net; its shape is read off the tensors.

    Chapter: 12. Raises ValueError as `load_s4` does.
    """
    weights = dict(weights)
    backbone = SaShiMi(_sashimi_config(weights))
    return finish(backbone, _sashimi(backbone, weights, step), weights, dtype)


def load_audio_lm(
    weights: Weights,
    quantization: Quantization,
    step: StepTransform = "exp",
    dtype: torch.dtype = torch.float32,
) -> AudioLM:
    """A whole autoregressive model of the training code: embedding, backbone, head.

    Tensors tell neither the ``quantization`` ("mu-law" for the models of YouTubeMix and SC09, "linear" for
    those of Beethoven) nor how step sizes were stored.

    Chapter: 12. Raises ValueError as `load_s4` does, and for another quantization.
    """
    weights = {key.removeprefix("model."): tensor for key, tensor in weights.items()}
    state = ends(weights)
    backbone = SaShiMi(_sashimi_config(weights))
    state |= {f"backbone.{key}": tensor for key, tensor in _sashimi(backbone, weights, step).items()}
    quantizer = quantizer_of(quantization, len(state["embedding.weight"]))
    return finish(AudioLM(quantizer, backbone), state, weights, dtype)


# The shape of a model, read off its tensors


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
        glu=has_glu(weights, block),
        unet=len(down) > len(pool),
        bidirectional=directions(weights, f"{block}layer.kernel.") == "two-sided",
        norm="scalar" if f"{centre[0]}norm.norm.m" in weights else "layer",
        ssm=ssm_config(weights, f"{block}layer.kernel."),
    )


def _modules(weights: Weights, part: str) -> list[str]:
    """The prefixes ``part.i.`` or ``part.i.j.`` of the modules in a part, in order."""
    found = {match.group() for key in weights if (match := re.match(rf"{part}\.(\d+\.)+", key))}
    if not found:
        raise ValueError(f"weights must hold modules named {part}.0 ..., and do not")
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


# The translation, module by module


def _sashimi(backbone: SaShiMi, weights: Weights, step: StepTransform) -> Weights:
    tiers: list[PooledTier | UNetTier] = []
    tier: nn.Module = backbone.tiers
    while isinstance(tier, PooledTier | UNetTier):
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
        layer = s4_state(weights, f"{name}layer.", step)
        return state | {f"layer.{key}": tensor for key, tensor in layer.items()}
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
