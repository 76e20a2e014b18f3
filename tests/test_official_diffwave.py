"""A DiffWave loaded from published weights reproduces the outputs of the published code."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from sashimi_lib.official import load_diffwave
from tests.streaming.helpers import error

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@pytest.fixture
def tensors(shared):
    return load_file(shared / "golden" / "diffwave_wavenet.safetensors")


@pytest.fixture
def weights(tensors):
    return {key.removeprefix("state."): x for key, x in tensors.items() if key.startswith("state.")}


@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.no_grad()
def test_diffwave_reproduces_published_outputs(tensors, weights, dtype):
    net = load_diffwave(weights, cycle=4, dtype=dtype)
    audio, step = tensors["in.audio"][:, 0].to(dtype), tensors["in.step"][:, 0].to(dtype)
    assert error(net(audio, step), tensors["out.epsilon"][:, 0]) < TOLERANCE[dtype]


@torch.no_grad()
def test_outputs_depend_on_the_cycle(tensors, weights):
    audio, step = tensors["in.audio"][:, 0], tensors["in.step"][:, 0].float()
    net = load_diffwave(weights, cycle=3)
    assert error(net(audio, step), tensors["out.epsilon"][:, 0]) > 1e-2


@torch.no_grad()
def test_in_place_conditioning_is_reproduced(tensors, weights):
    plain = load_diffwave(weights, cycle=4, dtype=torch.float64)
    audio, step = tensors["in.audio"][:, 0].double(), tensors["in.step"][:, 0].double()
    conditioning, x, skips = plain.conditioning(step), F.relu(plain.start(audio[:, None])), 0
    for layer in plain.layers:
        h = x
        h += layer.conditioning(conditioning)[..., None]  # the bug: x is changed too
        filtered, gate = layer.gates(h).chunk(2, dim=1)
        residual, skip = layer.out(filtered.tanh() * gate.sigmoid()).split(layer.widths, dim=1)
        x, skips = (x + residual) * math.sqrt(1 / 2), skips + skip
    expected = plain.end(skips * math.sqrt(1 / 6))[:, 0]
    net = load_diffwave(weights, cycle=4, in_place=True, dtype=torch.float64)
    assert error(net(audio, step), expected) < 1e-12
    assert error(plain(audio, step), expected) > 1e-3


@pytest.mark.parametrize(
    "key",
    [
        "init_conv.0.conv.weight_v",
        "final_conv.2.conv.bias",
        "residual_layer.fc_t1.weight",
        "residual_layer.residual_blocks.2.fc_t.bias",
        "residual_layer.residual_blocks.5.skip_conv.weight_g",
    ],
)
def test_a_missing_tensor_is_named(weights, key):
    del weights[key]
    with pytest.raises(ValueError, match="weights must contain") as caught:
        load_diffwave(weights, cycle=4)
    assert key in str(caught.value)


def test_an_unknown_tensor_is_named(weights):
    with pytest.raises(ValueError, match=r"no unknown tensors.*mel_conv"):
        load_diffwave(weights | {"mel_conv": torch.zeros(1)}, cycle=4)


def test_a_tensor_of_another_shape_is_refused(weights):
    with pytest.raises(ValueError, match=r"must fit the model(.|\n)*conditioning\.out\.bias"):
        load_diffwave(weights | {"residual_layer.fc_t2.bias": torch.zeros(25)}, cycle=4)


def test_an_invalid_cycle_is_refused(weights):
    with pytest.raises(ValueError, match="cycle must be at least 1, got 0"):
        load_diffwave(weights, cycle=0)


def test_loading_does_not_modify_the_state_dict(weights):
    before = {key: tensor.clone() for key, tensor in weights.items()}
    load_diffwave(weights, cycle=4, in_place=True)
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[key], before[key]) for key in before)
