"""Models loaded from published weights reproduce published outputs, in one pass and by steps."""

import pytest
import torch
from safetensors.torch import load_file

from sashimi_lib.audio.quantizers import Linear, MuLaw
from sashimi_lib.official import load_audio_lm, load_s4, load_sashimi
from sashimi_lib.ssm.discretize import bilinear_dplr, zoh_diagonal
from sashimi_lib.ssm.kernels import (
    kernel,
    kernel_cauchy,
    kernel_naive,
    kernel_vandermonde,
    truncate,
    untruncate,
)
from sashimi_lib.ssm.systems import DPLR
from tests.awkward import without_shape_checks
from tests.streaming.helpers import by_steps, error

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
BOTH = pytest.mark.parametrize("dtype", TOLERANCE)
LAYERS = ["s4_layer_dplr", "s4_layer_dplr_fresh", "s4_layer_diag"]
BACKBONES = ["sashimi_standalone_tiny", "sashimi_standalone_small", "sashimi_standalone_unet"]
LANGUAGE_MODELS = [
    "sashimi_training_code",
    "sashimi_training_code_softplus_noglu",
    "sashimi_training_code_unet",
]


@pytest.fixture
def golden(shared):
    """A case by name: (weights, inputs, outputs), inputs and outputs in float64."""

    def load(name):
        tensors = load_file(shared / "golden" / f"{name}.safetensors")

        def part(prefix):
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        return part("state."), part("in."), part("out.")

    return load


def as_complex(tensor):
    return torch.view_as_complex(tensor.double().contiguous())


@pytest.mark.parametrize("name", ["s4_dplr_kernel", "s4_dplr_kernel_rank2"])
@pytest.mark.parametrize("length", [64, 1000])
def test_dplr_kernels_are_the_published_ones(golden, name, length):
    weights, _, out = golden(name)
    P = as_complex(out["P"]).permute(1, 2, 0)
    C = as_complex(weights["C"])[0]
    system = DPLR(as_complex(out["Lambda"]), P, -P, as_complex(out["B"]), C, out["dt"])
    recurrence, K = bilinear_dplr(system), out[f"K_{length}"][0]
    assert error(kernel(recurrence, length), K) < 1e-12
    assert error(kernel(recurrence, length, torch.float32), K) < 1e-5
    assert error(kernel_naive(recurrence.dense(), recurrence.B, recurrence.C, length), K) < 1e-12
    assert error(kernel_cauchy(system._replace(C=truncate(system, length)), length), K) < 1e-12
    C_tilde = as_complex(out[f"C_tilde_{length}"])[0]
    assert error(torch.view_as_real(truncate(system, length)), torch.view_as_real(C_tilde)) < 1e-9
    assert (
        error(torch.view_as_real(untruncate(system._replace(C=C_tilde), length)), torch.view_as_real(C))
        < 1e-9
    )


@pytest.mark.parametrize("name", ["s4d_kernel_lin", "s4d_kernel_inv"])
@pytest.mark.parametrize("length", [64, 1000])
@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_s4d_kernels_are_the_published_ones(golden, name, length, rule):
    _, _, out = golden(name)
    Lambda, B, C = as_complex(out["Lambda"]), as_complex(out["B"]), as_complex(out["C"])[0]
    none = B[..., None][..., :0]
    recurrence = {"zoh": zoh_diagonal, "bilinear": bilinear_dplr}[rule](
        DPLR(Lambda, none, none, B, C, out["dt"])
    )
    K = out[f"K_{rule}_{length}"][0]
    assert error(kernel(recurrence, length), K) < 1e-12
    assert error(kernel(recurrence, length, torch.float32), K) < 1e-5
    A_bar, B_bar = as_complex(out[f"dA_{rule}"]), as_complex(out[f"dB_{rule}"])
    assert error(kernel_vandermonde(A_bar, B_bar, C, length), K) < 1e-9


@BOTH
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_s4_layers_reproduce_published_outputs(golden, name, dtype):
    weights, inputs, out = golden(name)
    layer = load_s4(weights, dtype=dtype)
    x = inputs["x"].to(dtype)
    assert error(layer(x)[0], out["y"]) < TOLERANCE[dtype]
    steps = out["y_step"].shape[1]
    y, state = by_steps(layer, x[:, :steps])
    assert error(y, out["y_step"]) < TOLERANCE[dtype]
    # the published dense mode appends conjugates
    expected = out["state_after_steps"][:, :, : state.shape[-1] // 2]
    assert error(state, torch.cat(expected.unbind(-1), dim=-1)) < TOLERANCE[dtype]
    state = torch.cat(inputs["state0"].to(dtype).unbind(-1), dim=-1)
    y, state = layer(x, state)
    assert error(y, out["y_with_state"]) < TOLERANCE[dtype]
    assert error(state, torch.cat(out["next_state"].unbind(-1), dim=-1)) < TOLERANCE[dtype]


@BOTH
@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_standalone_sashimi_reproduces_published_outputs(golden, name, dtype):
    weights, inputs, out = golden(name)
    backbone = load_sashimi(weights, dtype=dtype)
    x = inputs["x"].to(dtype)
    assert error(backbone(x)[0], out["y"]) < TOLERANCE[dtype]
    steps = out["y_step"].shape[1]
    assert error(by_steps(backbone, x[:, :steps])[0], out["y_step"]) < TOLERANCE[dtype]


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@torch.no_grad()
def test_training_code_sashimi_reproduces_published_outputs(golden, name, dtype):
    weights, inputs, out = golden(name)
    model = load_audio_lm(weights, "mu-law", step="softplus" if "softplus" in name else "exp", dtype=dtype)
    codes = inputs["codes"]
    assert error(model(codes)[0], out["logits"]) < TOLERANCE[dtype]
    assert error(by_steps(model, codes)[0], out["logits"]) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    "key", ["norm.weight", "c_layers.0.layer.layer.kernel.C", "u_layers.1.0.linear.bias"]
)
def test_a_missing_tensor_is_named(golden, key):
    weights, _, _ = golden("sashimi_standalone_tiny")
    del weights[key]
    with pytest.raises(ValueError, match="weights must contain") as caught:
        load_sashimi(weights)
    assert key in str(caught.value)


def test_an_unknown_tensor_is_named(golden):
    weights, _, _ = golden("s4_layer_dplr")
    with pytest.raises(ValueError, match=r"no unknown tensors.*stranger"):
        load_s4(weights | {"stranger": torch.zeros(1)})


@BOTH
@torch.no_grad()
def test_the_bidirectional_layer_reproduces_published_outputs(golden, dtype):
    weights, inputs, out = golden("s4_layer_bidirectional")
    layer = load_s4(weights, dtype=dtype)
    assert error(layer(inputs["x"].to(dtype))[0], out["y"]) < TOLERANCE[dtype]


@BOTH
@torch.no_grad()
def test_the_bidirectional_u_net_reproduces_published_outputs(golden, dtype):
    weights, inputs, out = golden("sashimi_standalone_unet_bidirectional")
    backbone = load_sashimi(weights, dtype=dtype)
    assert error(backbone(inputs["x"].to(dtype))[0], out["y"]) < TOLERANCE[dtype]


def with_shared_systems(weights, n, index=None):
    """The weights of a layer whose channels share n systems, made from one that all shared; or with the
    system of an ``index`` for all."""
    torch.manual_seed(n)
    grouped = dict(weights)
    for key, axis in (("A_real", 0), ("A_imag", 0), ("B", 1), ("P", 1)):
        if (name := f"layer.kernel.{key}") in weights:
            first = weights[name].narrow(axis, 0, 1)
            systems = [first * (1 + 0.1 * torch.rand(first.shape)) for _ in range(n)]
            grouped[name] = torch.cat(systems if index is None else [systems[index]], dim=axis)
    return grouped


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_shared_systems_are_assigned_to_channels_in_turn(golden, name):
    """Channel h has the system h mod n, as in the published code, and its own C and step size."""
    weights, inputs, _ = golden(name)
    weights["layer.kernel.l_kernel"] = torch.tensor(0)
    x = inputs["x"]
    H, n = x.shape[-1], 2
    y = load_s4(with_shared_systems(weights, n), dtype=torch.float64).ssm(x)[0]
    single = [load_s4(with_shared_systems(weights, n, i), dtype=torch.float64).ssm(x)[0] for i in range(n)]
    assert error(single[0], single[1]) > 1e-3
    for h in range(H):
        assert error(y[..., h], single[h % n][..., h]) < 1e-12


def test_systems_that_do_not_divide_the_channels_are_refused(golden):
    weights, _, _ = golden("s4_layer_dplr")
    with pytest.raises(ValueError, match=r"divides the \d+ channels, got 4"):
        load_s4(with_shared_systems(weights, 4))


@pytest.mark.parametrize("quantization", ["mu-law", "linear"])
def test_the_quantizer_is_the_named_one(golden, quantization):
    weights, _, _ = golden("sashimi_training_code")
    expected = {"mu-law": MuLaw(256), "linear": Linear(256)}[quantization]
    assert load_audio_lm(weights, quantization).quantizer == expected
    with without_shape_checks(), pytest.raises(TypeError, match="quantization"):
        load_audio_lm(weights)


def test_a_layer_of_more_than_two_kernels_is_refused(golden):
    weights, _, _ = golden("s4_layer_bidirectional")
    weights["layer.kernel.C"] = weights["layer.kernel.C"].repeat(2, 1, 1, 1)
    with pytest.raises(ValueError, match=r"one C, or two for a bidirectional kernel, got 4"):
        load_s4(weights)
