"""Diffusion SaShiMi networks loaded from published weights reproduce the outputs of the published code.

The golden file was computed on a CPU. There that code's sum over states leaves out the conjugates, unlike on
a GPU, where its models were trained: see `published_kernels`. So the test replaces kernels by those of the
CPU code, and compares the rest of the network unchanged.
"""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sashimi_lib.models.sashimi_unet import PAPER_SSM, UNetBlock
from sashimi_lib.official import load_diffwave_sashimi
from tests.streaming.helpers import error

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
BLOCKS = ["d_layers.0", "d_layers.2", "c_layers.0", "u_layers.1", "u_layers.3"]


@pytest.fixture
def tensors(shared):
    return load_file(shared / "golden" / "diffwave_sashimi.safetensors")


@pytest.fixture
def weights(tensors):
    return {key.removeprefix("state."): x for key, x in tensors.items() if key.startswith("state.")}


def as_complex(tensor):
    return torch.view_as_complex(tensor.double().contiguous())


def published_kernels(w, p, q, B, C, dt, length, conjugates=True):
    """The generating function at the roots of unity, as in that code (q and C are not conjugated in sums).

    Its fast implementations sum over all states, ``sum v / (z - w) + conj(v) / (z - conj(w))``; the slow
    fallback has only the first term.
    """
    omega = torch.exp(
        torch.arange(length // 2 + 1) * torch.tensor(-2j * math.pi / length, dtype=torch.cdouble)
    )
    z = 2 * (1 - omega) / (1 + omega)

    def k(x, y):
        v, poles = x * y, w * dt[:, None]
        halves = [(v, poles), (v.conj(), poles.conj())][: 1 + conjugates]
        return dt[:, None] * sum((a[..., None] / (z - b[..., None])).sum(-2) for a, b in halves)

    K = (k(B, C) - k(B, q) * k(p, C) / (1 + k(p, q))) * 2 / (1 + omega)
    return torch.fft.irfft(K, n=length)


def master_kernels(weights, block, conjugates):
    part = {
        key: weights[f"{block}.layer.kernel.kernel.{key}"] for key in ("P", "B", "C", "inv_w_real", "w_imag")
    }
    P, B, C = (as_complex(part[name]) for name in "PBC")
    w = torch.complex(-part["inv_w_real"].double().exp(), part["w_imag"].double())
    dt = weights[f"{block}.layer.kernel.kernel.log_dt"].double().exp()
    length = int(weights[f"{block}.layer.kernel.kernel.L"])
    return torch.stack([published_kernels(w, P[0], P[0].conj(), B[0], c, dt, length, conjugates) for c in C])


def state_spaces(model):
    """The state spaces of every block, in the order of the forward pass."""
    top = model.tiers
    blocks = [*top.before, *top.slower.before, *top.slower.slower.blocks, *top.slower.after, *top.after]
    assert len(blocks) == sum(isinstance(module, UNetBlock) for module in model.modules())
    return [block.layer.ssm for block in blocks]


@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.no_grad()
def test_the_network_reproduces_published_outputs(tensors, weights, dtype):
    model = load_diffwave_sashimi(weights, dtype)
    x, step, epsilon = tensors["in.audio"][:, 0], tensors["in.step"][:, 0], tensors["out.epsilon"][:, 0]
    assert error(model(x.to(dtype), step.to(dtype)), epsilon) > 0.1  # with the GPU kernels
    for ssm, block in zip(state_spaces(model), BLOCKS, strict=True):
        K = master_kernels(weights, block, conjugates=False).to(dtype)
        ssm.kernels = lambda length, K=K: K
    assert error(model(x.to(dtype), step.to(dtype)), epsilon) < TOLERANCE[dtype]


@torch.no_grad()
def test_kernels_are_the_published_ones_with_conjugates(tensors, weights):
    model = load_diffwave_sashimi(weights, torch.float64)
    for ssm, block in zip(state_spaces(model), BLOCKS, strict=True):
        K = master_kernels(weights, block, conjugates=True)
        assert error(ssm.kernels(K.shape[-1]), K) < 1e-9
        assert error(ssm.C, tensors[f"aux.plain_C.{block}.layer.kernel.kernel"]) < 1e-9


def with_two_kernels(weights):
    """The same network with random S4 layers in the layout of branch ``checkpoints``, and their lengths."""
    weights, lengths = dict(weights), dict(zip(BLOCKS, (128, 32, 8, 32, 128), strict=True))
    for block, length in lengths.items():
        H = len(weights[f"{block}.layer.kernel.kernel.log_dt"])
        for key in [key for key in weights if key.startswith(f"{block}.layer.")]:
            del weights[key]
        layer = {"D": torch.randn(H), "output_linear.weight": torch.randn(H, 2 * H) / 4}
        layer["output_linear.bias"] = torch.randn(H, 1)
        for kernel in ("kernel", "kernel2"):
            B, p = torch.randn(2, 8, 2)
            q = p + torch.randn(H, 8, 2) / 10  # close enough for stability, but not equal
            layer |= {
                f"{kernel}.krylov.C": torch.stack([torch.randn(H, 8, 2), q], dim=1),
                f"{kernel}.krylov.B": torch.stack([B, p]),
                f"{kernel}.krylov.w": torch.stack([-1 - torch.rand(8), 10 * torch.rand(8)], dim=-1),
                f"{kernel}.krylov.log_dt": -4 + torch.rand(H),
                f"{kernel}.krylov.z": torch.zeros(length // 2 + 1, 2),
                f"{kernel}.krylov.nodes": torch.zeros(length // 2 + 1, 2),
            }
        weights |= {f"{block}.layer.{key}": tensor for key, tensor in layer.items()}
    return weights, lengths


@torch.no_grad()
def test_the_two_kernels_of_the_paper_s_code_are_reproduced(weights):
    weights, lengths = with_two_kernels(weights)
    model = load_diffwave_sashimi(weights, torch.float64)
    assert model.config.direction == "concat"
    assert model.config.ssm == replace(PAPER_SSM, d_state=16)
    for ssm, (block, length) in zip(state_spaces(model), lengths.items(), strict=True):
        kernels = []
        for kernel in ("kernel", "kernel2"):
            B, C, w = (as_complex(weights[f"{block}.layer.{kernel}.krylov.{x}"]) for x in "BCw")
            dt = weights[f"{block}.layer.{kernel}.krylov.log_dt"].double().exp()
            kernels.append(published_kernels(w, B[1], C[:, 1].conj(), B[0], C[:, 0].conj(), dt, length))
        assert error(ssm.kernels(length), torch.cat(kernels)) < 1e-9
    x = torch.randn(2, 128, dtype=torch.float64)
    assert model(x, torch.zeros(2, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("code", ["master", "checkpoints"])
@pytest.mark.parametrize("key", ["fc_t2.bias", "u_layers.2.linear.conv.weight_g", "c_layers.0.norm2.s"])
def test_a_missing_tensor_is_named(weights, code, key):
    if code == "checkpoints":
        weights, _ = with_two_kernels(weights)
    del weights[key]
    with pytest.raises(ValueError, match="weights must contain") as caught:
        load_diffwave_sashimi(weights)
    assert key in str(caught.value)


def test_an_unknown_tensor_is_named(weights):
    unknown = {"d_layers.0.mel_conv.conv.bias": torch.zeros(8)}
    with pytest.raises(ValueError, match=r"no unknown tensors.*mel_conv"):
        load_diffwave_sashimi(weights | unknown)


def test_a_tensor_of_another_shape_is_refused(weights):
    with pytest.raises(ValueError, match=r"must fit the model(.|\n)*hidden\.bias"):
        load_diffwave_sashimi(weights | {"final_conv.0.conv.bias": torch.zeros(9)})


def test_loading_does_not_modify_the_state_dict(weights):
    before = set(weights)
    load_diffwave_sashimi(weights)
    assert set(weights) == before
