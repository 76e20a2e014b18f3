"""The SaShiMi of ``albertfgu/diffwave-sashimi``: its weights into this library's network for diffusion.

Two layouts, alike but for S4:

- branch ``master`` has one two-sided kernel, and S4 as an older version of that in ``state-spaces/s4``: other
  names, and ``Lambda = -exp(inv_w_real) + i w_imag`` with a sign of its own;
- branch ``checkpoints``, the code of the paper's runs, has two kernels, each for one length alone: its C,
  conjugated, stands for ``C (I - A_bar^L)`` as if it had been truncated to that length.

Maps are convolutions of length 1 there, matrices here. Unconditional models only: a published vocoder
stretches its spectrogram in every block anew, this library's once for all of them.

Chapter: 12. Layouts: the code at commits d35c153 and 9bd78f8.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sashimi_lib.models.sashimi_unet import PAPER_SSM, SaShiMiUNet, SaShiMiUNetConfig
from sashimi_lib.official._s4 import directions, has_glu, s4_state, ssm_config
from sashimi_lib.official._weights import Weights, finish, look, matrix, take
from sashimi_lib.ssm.kernels import untruncate
from sashimi_lib.ssm.systems import DPLR

NEWER = {"inv_w_real": "A_real", "w_imag": "A_imag", "log_dt": "inv_dt", "L": "l_kernel"}


def load_diffwave_sashimi(weights: Weights, dtype: torch.dtype = torch.float32) -> SaShiMiUNet:
    """A whole network, (noisy waveform, step) -> noise; its shape is read off the tensors.

    It computes what that code computes on a GPU. Without one, and without the package pykeops, the code of
    ``master`` falls back on a sum that leaves out the conjugate of every state: another function, and none
    that a model was trained as.

    >>> load_diffwave_sashimi({})
    Traceback (most recent call last):
        ...
    ValueError: weights must hold 'init_conv.0.conv.bias', and do not

    Chapter: 12. Raises ValueError for a tensor that is missing, left over, or of an unexpected shape. (Of the
    branch ``checkpoints`` no file was at hand; its formula is tested.)
    """
    weights = _newer(weights)
    config = _config(weights)
    model = SaShiMiUNet(config)
    state = {f"norm.{x}": take(weights, f"norm.{x}") for x in "ms"}
    state |= _map(weights, "start", "init_conv.0.conv") | _map(weights, "hidden", "final_conv.0.conv")
    state |= _map(weights, "out", "final_conv.2.conv")
    state |= _map(weights, "conditioning.hidden", "fc_t1") | _map(weights, "conditioning.out", "fc_t2")
    for theirs, ours in _places(config).items():
        if ours.endswith(("down", "up")):
            state |= _map(weights, f"{ours}.linear", f"{theirs}.linear.conv")
        else:
            state |= _block(weights, ours, theirs)
    return finish(model, state, weights, dtype)


def _newer(weights: Weights) -> Weights:
    """The same with each S4 of ``master`` as version 4 of ``state-spaces/s4`` has it."""
    state = {}
    for key, tensor in weights.items():
        place, dot, name = key.rpartition(".")
        if place.endswith("layer.kernel.kernel"):
            place = place.removesuffix("kernel.kernel") + "layer.kernel"
            name, tensor = NEWER.get(name, name), -tensor if name == "w_imag" else tensor
        elif name == "D":
            place += ".layer"
        state[place + dot + name] = tensor
    return state


def _config(weights: Weights) -> SaShiMiUNetConfig:
    d_model = width = len(look(weights, "init_conv.0.conv.bias"))
    pool, expand = [], 1
    downs = [key for key in weights if key.startswith("d_layers.") and key.endswith(".linear.conv.weight_v")]
    for key in sorted(downs, key=lambda key: int(key.split(".")[1])):
        coarse, gathered, _ = weights[key].shape
        pool.append(gathered // width)
        expand, width = coarse // width, coarse
    hidden, waves = look(weights, "fc_t1.weight").shape
    config = SaShiMiUNetConfig(
        d_step=(waves, hidden, len(look(weights, "fc_t2.weight"))),
        d_model=d_model,
        n_layers=sum(key.startswith("c_layers.") and key.endswith(".norm1.m") for key in weights),
        pool=tuple(pool),
        expand=expand,
        ff=len(look(weights, "c_layers.0.ff.ff.0.conv.bias")) // width,
    )
    if (key := "c_layers.0.layer.kernel.krylov.w") in weights:
        ssm = replace(PAPER_SSM, d_state=2 * len(weights[key]))
        return replace(config, glu=False, directions="concatenated", ssm=ssm)
    layer = "c_layers.0.layer."
    kernel = f"{layer}layer.kernel."
    return replace(
        config,
        glu=has_glu(weights, layer),
        directions=directions(weights, kernel),
        ssm=ssm_config(weights, kernel),
    )


def _places(config: SaShiMiUNetConfig) -> dict[str, str]:
    """Where their modules, numbered on the way down and up, stand in our tiers."""
    n, depth = range(config.n_layers), len(config.pool)
    tiers = ["tiers" + ".slower" * level for level in range(depth + 1)]
    parts = {
        "d": [f"{tier}.{x}" for tier in tiers[:-1] for x in (*(f"before.{i}" for i in n), "down")],
        "c": [f"{tiers[-1]}.blocks.{i}" for i in n],
        "u": [f"{tier}.{x}" for tier in tiers[-2::-1] for x in ("up", *(f"after.{i}" for i in n))],
    }
    return {f"{part}_layers.{i}": place for part, places in parts.items() for i, place in enumerate(places)}


def _block(weights: Weights, ours: str, theirs: str) -> Weights:
    state = _map(weights, f"{ours}.conditioning", f"{theirs}.fc_t")
    for norm, published in (("norm", "norm1"), ("feed_forward.norm", "norm2")):
        state |= {f"{ours}.{norm}.{x}": take(weights, f"{theirs}.{published}.{x}") for x in "ms"}
    prefix = f"{theirs}.layer."
    paper = f"{prefix}kernel.krylov.C" in weights
    layer = _two_kernels(weights, prefix) if paper else s4_state(weights, prefix, "exp")
    state |= {f"{ours}.layer.{key}": tensor for key, tensor in layer.items()}
    state |= _map(weights, f"{ours}.feed_forward.expand", f"{theirs}.ff.ff.0.conv")
    return state | _map(weights, f"{ours}.feed_forward.contract", f"{theirs}.ff.ff.2.conv")


def _two_kernels(weights: Weights, prefix: str) -> Weights:
    """One S4 of ``checkpoints``."""
    ahead, back = (_krylov(weights, f"{prefix}{kernel}.krylov.") for kernel in ("kernel", "kernel2"))
    return {
        **{f"ssm.{name}": torch.cat([ahead[name], back[name]]) for name in ahead},
        "ssm.D": take(weights, f"{prefix}layer.D"),
        "output.weight": take(weights, f"{prefix}output_linear.weight"),
        "output.bias": take(weights, f"{prefix}output_linear.bias").flatten(),
    }


def _krylov(weights: Weights, prefix: str) -> Weights:
    """One kernel of ``checkpoints``: ``A = diag(w) - p q*``; C and q lie in one tensor there, and B and p."""
    C, q = _complex(take(weights, f"{prefix}C")).unbind(1)  # (H, M) each
    B, p = (x.expand_as(q) for x in _complex(take(weights, f"{prefix}B")))  # (M,) each
    w = _complex(take(weights, f"{prefix}w")).expand_as(q)
    log_dt = take(weights, f"{prefix}log_dt")
    length = 2 * (len(take(weights, f"{prefix}z")) - 1)
    take(weights, f"{prefix}nodes")
    p, q = p[..., None], -q[..., None]
    C = untruncate(DPLR(w, p, q, B, C.conj(), log_dt.double().exp()), length)
    system = {"Lambda": w, "B": B, "p": p, "q": q, "C": C}
    return {**{name: torch.view_as_real(x.resolve_conj()) for name, x in system.items()}, "log_dt": log_dt}


def _complex(parts: Tensor) -> Tensor:
    return torch.view_as_complex(parts.double())


def _map(weights: Weights, ours: str, theirs: str) -> Weights:
    """A linear map, plain or under weight norm."""
    state = {f"{ours}.bias": take(weights, f"{theirs}.bias")}
    if f"{theirs}.weight" in weights:
        return state | {f"{ours}.weight": matrix(take(weights, f"{theirs}.weight"))}
    gain, direction = (matrix(take(weights, f"{theirs}.weight_{x}")) for x in "gv")
    normed = f"{ours}.parametrizations.weight.original"
    return state | {f"{normed}0": gain, f"{normed}1": direction}
