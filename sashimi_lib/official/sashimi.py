"""Conversion of the S4 and SaShiMi of ``state-spaces/s4`` (version 4) into models of this library.

Reads the state dicts of the stand-alone S4 and SaShiMi files and of the training code. Differences are
converted, so that models need no options for them:

- a truncated C, which depends on the length ``l_kernel``, is untruncated (`untruncate`);
- a step size behind a softplus is replaced by its logarithm;
- weights with or without weight norm are converted to the parametrization of this library's pools;
- ``Lambda = -exp(A_real) - i A_imag`` has its sign moved into the imaginary part;
- systems shared by several channels (``n_ssm`` between 1 and H, where channel h has system h mod n_ssm) are
  copied to each channel: outputs are equal, but further training unties the copies.

Errors name a tensor that is missing or unknown.

Chapter: 12. Layouts: the code at commit e757cef.
"""

import re

import torch
from torch import nn

from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.blocks import S4Block
from sashimi_lib.models.pooling import DownPool, UpPool
from sashimi_lib.models.sashimi import PooledTier, SaShiMi, SaShiMiConfig, UNetTier
from sashimi_lib.official._s4 import StepTransform, has_glu, kernel_direction, s4_state, ssm_config
from sashimi_lib.official._weights import (
    Quantization,
    Weights,
    as_matrix,
    embedding_and_head,
    get_tensor,
    load_converted,
    make_quantizer,
    pop_tensor,
)
from sashimi_lib.ssm.s4 import S4


def load_s4(weights: Weights, step: StepTransform = "exp", dtype: torch.dtype = torch.float32) -> S4:
    """Load an S4 layer from a published ``S4Block``: DPLR or diagonal, with or without GLU, causal or
    bidirectional.

    ``step`` is the transform of the stored step sizes, which cannot be read from the tensors. Raises
    ValueError for a tensor that is missing, unknown or of an unexpected shape.

    >>> load_s4({"layer.D": torch.zeros(1, 4)})
    Traceback (most recent call last):
        ...
    ValueError: weights must contain 'layer.kernel.A_real', which is missing

    Chapter: 12.
    """
    weights = dict(weights)
    layer = S4(
        get_tensor(weights, "layer.D").shape[-1],
        ssm_config(weights, "layer.kernel."),
        has_glu(weights, ""),
        kernel_direction(weights, "layer.kernel."),
    )
    return load_converted(layer, s4_state(weights, "", step), weights, dtype)


def load_sashimi(
    weights: Weights, step: StepTransform = "exp", dtype: torch.dtype = torch.float32
) -> SaShiMi:
    """Load a SaShiMi backbone, autoregressive or U-Net; its configuration is read from the tensors.

    Chapter: 12. Raises ValueError as `load_s4` does.
    """
    weights = dict(weights)
    backbone = SaShiMi(_sashimi_config(weights))
    return load_converted(backbone, _sashimi(backbone, weights, step), weights, dtype)


def load_audio_lm(
    weights: Weights,
    quantization: Quantization,
    step: StepTransform = "exp",
    dtype: torch.dtype = torch.float32,
) -> AudioLM:
    """Load an autoregressive model of the training code: embedding, backbone and head.

    Two settings cannot be read from the tensors: ``quantization`` ("mu-law" for the models of YouTubeMix and
    SC09, "linear" for those of Beethoven) and ``step``, the transform of the stored step sizes.

    Chapter: 12. Raises ValueError as `load_s4` does, and for an unknown quantization.
    """
    weights = {key.removeprefix("model."): tensor for key, tensor in weights.items()}
    state = embedding_and_head(weights)
    backbone = SaShiMi(_sashimi_config(weights))
    state |= {f"backbone.{key}": tensor for key, tensor in _sashimi(backbone, weights, step).items()}
    quantizer = make_quantizer(quantization, len(state["embedding.weight"]))
    return load_converted(AudioLM(quantizer, backbone), state, weights, dtype)


# The configuration of a model, read from its tensors


def _sashimi_config(weights: Weights) -> SaShiMiConfig:
    down, center = _prefixes(weights, "d_layers"), _prefixes(weights, "c_layers")
    width, pool = len(get_tensor(weights, "norm.weight")), []
    d_model, block = width, f"{center[0]}layer."
    for name in down:
        if (bias := f"{name}linear.bias") in weights:
            weight = next(key for key in (f"{name}linear.weight", f"{name}linear.weight_v") if key in weights)
            pool.append(weights[weight].shape[1] // width)
            expand, width = len(weights[bias]) // width, len(weights[bias])
    return SaShiMiConfig(
        d_model=d_model,
        n_layers=len(center) // 2,
        pool=tuple(pool),
        expand=expand,
        ff=len(get_tensor(weights, f"{center[1]}layer.ff.0.0.bias")) // width,
        glu=has_glu(weights, block),
        unet=len(down) > len(pool),
        bidirectional=kernel_direction(weights, f"{block}layer.kernel.") == "bidirectional",
        norm="scalar" if f"{center[0]}norm.norm.m" in weights else "layer",
        ssm=ssm_config(weights, f"{block}layer.kernel."),
    )


def _prefixes(weights: Weights, part: str) -> list[str]:
    """Return the prefixes ``part.i.`` or ``part.i.j.`` of the modules in a part, in order."""
    prefixes = {match.group() for key in weights if (match := re.match(rf"{part}\.(\d+\.)+", key))}
    if not prefixes:
        raise ValueError(f"weights must contain modules named {part}.0 ..., which are missing")
    return sorted(prefixes, key=lambda name: [int(index) for index in re.findall(r"\d+", name)])


# The conversion of each module


def _sashimi(backbone: SaShiMi, weights: Weights, step: StepTransform) -> Weights:
    names = {module: name for name, module in backbone.named_modules()}
    state = {f"norm.{part}": pop_tensor(weights, f"norm.{part}") for part in ("weight", "bias")}
    for part, modules in _ordered_modules(backbone).items():
        prefixes = _prefixes(weights, part)
        if len(prefixes) != len(modules):
            raise ValueError(f"weights must contain {len(modules)} modules in {part}, got {len(prefixes)}")
        for module, prefix in zip(modules, prefixes, strict=True):
            converted = _module(weights, prefix, module, step)
            state |= {f"{names[module]}.{key}": tensor for key, tensor in converted.items()}
    return state


def _ordered_modules(backbone: SaShiMi) -> dict[str, list[nn.Module]]:
    """Return the modules of each published part, in the published order."""
    tiers: list[PooledTier | UNetTier] = []
    tier: nn.Module = backbone.tiers
    while isinstance(tier, PooledTier | UNetTier):
        tiers.append(tier)
        tier = tier.hourglass.inner
    center = list(tier.get_submodule("blocks.blocks").children())
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    for t in tiers:
        down += [*(t.down.blocks if isinstance(t, UNetTier) else []), t.hourglass.down]
    for t in reversed(tiers):
        up += [t.hourglass.up, *(t.up if isinstance(t, UNetTier) else t.blocks).blocks]
    return {"d_layers": down, "c_layers": center, "u_layers": up}


def _module(weights: Weights, name: str, module: nn.Module, step: StepTransform) -> Weights:
    if isinstance(module, DownPool | UpPool):
        return _pool(weights, f"{name}linear.", module)
    state = _norm(weights, f"{name}norm.")
    if isinstance(module, S4Block):
        layer = s4_state(weights, f"{name}layer.", step)
        return state | {f"layer.{key}": tensor for key, tensor in layer.items()}
    for target, source in (("expand", "0.0"), ("contract", "2")):
        state[f"{target}.weight"] = as_matrix(pop_tensor(weights, f"{name}layer.ff.{source}.weight"))
        state[f"{target}.bias"] = pop_tensor(weights, f"{name}layer.ff.{source}.bias")
    return state


def _norm(weights: Weights, prefix: str) -> Weights:
    names = ("norm.m", "norm.s") if f"{prefix}norm.m" in weights else ("weight", "bias")
    return {f"norm.{name.removeprefix('norm.')}": pop_tensor(weights, prefix + name) for name in names}


def _pool(weights: Weights, prefix: str, module: nn.Module) -> Weights:
    state = {"linear.bias": pop_tensor(weights, f"{prefix}bias")}
    if f"{prefix}weight_v" in weights:
        v, g = (pop_tensor(weights, f"{prefix}weight_{x}").double() for x in "vg")
    else:
        v = as_matrix(pop_tensor(weights, f"{prefix}weight")).double()
        g = v.norm(dim=1, keepdim=True)
    if any("parametrizations" in name for name, _ in module.named_parameters()):
        return state | {f"linear.parametrizations.weight.original{i}": x for i, x in enumerate((g, v))}
    return state | {"linear.weight": g * v / v.norm(dim=1, keepdim=True)}
