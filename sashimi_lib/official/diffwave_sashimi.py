"""Conversion of the SaShiMi of ``albertfgu/diffwave-sashimi`` into this library's `SaShiMiUNet`.

There are two layouts, which differ in S4:

- branch ``master`` has one bidirectional kernel, of an older S4 than version 4 of ``state-spaces/s4``: with
  other names, and ``Lambda = -exp(inv_w_real) + i w_imag`` with the opposite sign of the imaginary part;
- branch ``checkpoints``, the code of the paper's experiments, has two kernels, each for one length only: the
  conjugate of its C is ``C (I - A_bar^L)``, truncated to that length.

Linear maps are convolutions of length 1 there and matrices here. Only unconditional models are supported: a
published vocoder upsamples its spectrogram separately in every block, this library once for all blocks.

Chapter: 12. Layouts: the code at commits d35c153 and 9bd78f8.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sashimi_lib.models.sashimi_unet import PAPER_SSM, SaShiMiUNet, SaShiMiUNetConfig
from sashimi_lib.official._s4 import has_glu, kernel_direction, s4_state, ssm_config
from sashimi_lib.official._weights import Weights, as_matrix, get_tensor, load_converted, pop_tensor
from sashimi_lib.ssm.kernels import untruncate
from sashimi_lib.ssm.systems import DPLR

VERSION_4_NAMES = {"inv_w_real": "A_real", "w_imag": "A_imag", "log_dt": "inv_dt", "L": "l_kernel"}


def load_diffwave_sashimi(weights: Weights, dtype: torch.dtype = torch.float32) -> SaShiMiUNet:
    """Load a network, (noisy waveform, step) -> noise; its configuration is read from the tensors.

    Outputs equal those of the published code on a GPU. On a CPU without the package pykeops, the code of
    ``master`` falls back on a sum without the conjugate of every state. That is another function, which no
    model was trained with.

    >>> load_diffwave_sashimi({})
    Traceback (most recent call last):
        ...
    ValueError: weights must contain 'init_conv.0.conv.bias', which is missing

    Chapter: 12. Raises ValueError for a tensor that is missing, unknown or of an unexpected shape. (No file
    of the branch ``checkpoints`` was available; its formula is tested.)
    """
    weights = _to_version_4(weights)
    config = _config(weights)
    model = SaShiMiUNet(config)
    state = {f"norm.{x}": pop_tensor(weights, f"norm.{x}") for x in "ms"}
    state |= _linear(weights, "start", "init_conv.0.conv") | _linear(weights, "hidden", "final_conv.0.conv")
    state |= _linear(weights, "out", "final_conv.2.conv")
    state |= _linear(weights, "conditioning.hidden", "fc_t1") | _linear(weights, "conditioning.out", "fc_t2")
    for source, target in _module_names(config).items():
        if target.endswith(("down", "up")):
            state |= _linear(weights, f"{target}.linear", f"{source}.linear.conv")
        else:
            state |= _block(weights, target, source)
    return load_converted(model, state, weights, dtype)


def _to_version_4(weights: Weights) -> Weights:
    """Rename the tensors of each S4 of ``master`` to those of version 4 of ``state-spaces/s4``."""
    state = {}
    for key, tensor in weights.items():
        module, dot, name = key.rpartition(".")
        if module.endswith("layer.kernel.kernel"):
            module = module.removesuffix("kernel.kernel") + "layer.kernel"
            name, tensor = VERSION_4_NAMES.get(name, name), -tensor if name == "w_imag" else tensor
        elif name == "D":
            module += ".layer"
        state[module + dot + name] = tensor
    return state


def _config(weights: Weights) -> SaShiMiUNetConfig:
    d_model = width = len(get_tensor(weights, "init_conv.0.conv.bias"))
    pool, expand = [], 1
    downs = [key for key in weights if key.startswith("d_layers.") and key.endswith(".linear.conv.weight_v")]
    for key in sorted(downs, key=lambda key: int(key.split(".")[1])):
        d_out, d_in, _ = weights[key].shape
        pool.append(d_in // width)
        expand, width = d_out // width, d_out
    hidden, d_sinusoids = get_tensor(weights, "fc_t1.weight").shape
    config = SaShiMiUNetConfig(
        d_step=(d_sinusoids, hidden, len(get_tensor(weights, "fc_t2.weight"))),
        d_model=d_model,
        n_layers=sum(key.startswith("c_layers.") and key.endswith(".norm1.m") for key in weights),
        pool=tuple(pool),
        expand=expand,
        ff=len(get_tensor(weights, "c_layers.0.ff.ff.0.conv.bias")) // width,
    )
    if (key := "c_layers.0.layer.kernel.krylov.w") in weights:
        ssm = replace(PAPER_SSM, d_state=2 * len(weights[key]))
        return replace(config, glu=False, direction="concat", ssm=ssm)
    layer = "c_layers.0.layer."
    kernel = f"{layer}layer.kernel."
    return replace(
        config,
        glu=has_glu(weights, layer),
        direction=kernel_direction(weights, kernel),
        ssm=ssm_config(weights, kernel),
    )


def _module_names(config: SaShiMiUNetConfig) -> dict[str, str]:
    """Map published module names, numbered on the way down and up, to those of this library."""
    n, depth = range(config.n_layers), len(config.pool)
    tiers = ["tiers" + ".slower" * level for level in range(depth + 1)]
    parts = {
        "d": [f"{tier}.{x}" for tier in tiers[:-1] for x in (*(f"before.{i}" for i in n), "down")],
        "c": [f"{tiers[-1]}.blocks.{i}" for i in n],
        "u": [f"{tier}.{x}" for tier in tiers[-2::-1] for x in ("up", *(f"after.{i}" for i in n))],
    }
    return {f"{part}_layers.{i}": name for part, names in parts.items() for i, name in enumerate(names)}


def _block(weights: Weights, target: str, source: str) -> Weights:
    state = _linear(weights, f"{target}.conditioning", f"{source}.fc_t")
    for norm, published in (("norm", "norm1"), ("feed_forward.norm", "norm2")):
        state |= {f"{target}.{norm}.{x}": pop_tensor(weights, f"{source}.{published}.{x}") for x in "ms"}
    prefix = f"{source}.layer."
    two_kernels = f"{prefix}kernel.krylov.C" in weights
    layer = _two_kernels(weights, prefix) if two_kernels else s4_state(weights, prefix, "exp")
    state |= {f"{target}.layer.{key}": tensor for key, tensor in layer.items()}
    state |= _linear(weights, f"{target}.feed_forward.expand", f"{source}.ff.ff.0.conv")
    return state | _linear(weights, f"{target}.feed_forward.contract", f"{source}.ff.ff.2.conv")


def _two_kernels(weights: Weights, prefix: str) -> Weights:
    """Convert one S4 layer of the branch ``checkpoints``."""
    forward, backward = (_krylov(weights, f"{prefix}{kernel}.krylov.") for kernel in ("kernel", "kernel2"))
    return {
        **{f"ssm.{name}": torch.cat([forward[name], backward[name]]) for name in forward},
        "ssm.D": pop_tensor(weights, f"{prefix}layer.D"),
        "output.weight": pop_tensor(weights, f"{prefix}output_linear.weight"),
        "output.bias": pop_tensor(weights, f"{prefix}output_linear.bias").flatten(),
    }


def _krylov(weights: Weights, prefix: str) -> Weights:
    """Convert one kernel of ``checkpoints``: ``A = diag(w) - p q*``, with C and q, and B and p, stacked."""
    C, q = _complex(pop_tensor(weights, f"{prefix}C")).unbind(1)  # (H, M) each
    B, p = (x.expand_as(q) for x in _complex(pop_tensor(weights, f"{prefix}B")))  # (M,) each
    w = _complex(pop_tensor(weights, f"{prefix}w")).expand_as(q)
    log_dt = pop_tensor(weights, f"{prefix}log_dt")
    length = 2 * (len(pop_tensor(weights, f"{prefix}z")) - 1)
    pop_tensor(weights, f"{prefix}nodes")
    p, q = p[..., None], -q[..., None]
    C = untruncate(DPLR(w, p, q, B, C.conj(), log_dt.double().exp()), length)
    system = {"Lambda": w, "B": B, "p": p, "q": q, "C": C}
    return {**{name: torch.view_as_real(x.resolve_conj()) for name, x in system.items()}, "log_dt": log_dt}


def _complex(parts: Tensor) -> Tensor:
    return torch.view_as_complex(parts.double())


def _linear(weights: Weights, target: str, source: str) -> Weights:
    """Convert a linear map, with or without weight norm."""
    state = {f"{target}.bias": pop_tensor(weights, f"{source}.bias")}
    if f"{source}.weight" in weights:
        return state | {f"{target}.weight": as_matrix(pop_tensor(weights, f"{source}.weight"))}
    gain, direction = (as_matrix(pop_tensor(weights, f"{source}.weight_{x}")) for x in "gv")
    weight = f"{target}.parametrizations.weight.original"
    return state | {f"{weight}0": gain, f"{weight}1": direction}
