"""A WaveNet loaded from published weights reproduces published outputs, in one pass and by steps."""

import pytest
import torch
from safetensors.torch import load_file

from sashimi_lib.audio.quantizers import Linear, MuLaw
from sashimi_lib.official import load_wavenet
from tests.awkward import without_shape_checks
from tests.streaming.helpers import by_steps, error

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@pytest.fixture
def tensors(shared):
    return load_file(shared / "golden" / "wavenet.safetensors")


@pytest.fixture
def weights(tensors):
    return {key.removeprefix("state."): x for key, x in tensors.items() if key.startswith("state.")}


@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.no_grad()
def test_wavenet_reproduces_published_outputs(tensors, weights, dtype):
    model = load_wavenet(weights, "mu-law", layers=4, dtype=dtype)
    codes, last, expected = (tensors[key] for key in ("in.codes", "out.logits", "out.logits_step_all"))
    logits, _ = model(codes)
    assert error(logits, expected) < TOLERANCE[dtype]
    assert error(logits[:, -last.shape[1] :], last) < TOLERANCE[dtype]
    assert error(by_steps(model, codes)[0], expected) < TOLERANCE[dtype]


def test_the_receptive_field_is_the_published_one(weights):
    assert load_wavenet(weights, "mu-law", layers=4).backbone.config.receptive_field == 31


@pytest.mark.parametrize(
    "key",
    [
        "encoder.0.weight",
        "model.start_conv.weight",
        "model.gate_convs.3.weight",
        "model.skip_convs.7.weight",
        "model.residual_convs.7.weight",
        "model.end_conv_2.bias",
    ],
)
def test_a_missing_tensor_is_named(weights, key):
    del weights[key]
    with pytest.raises(ValueError, match="weights must contain") as caught:
        load_wavenet(weights, "mu-law", layers=4)
    assert key in str(caught.value)


def test_an_unknown_tensor_is_named(weights):
    with pytest.raises(ValueError, match=r"no unknown tensors.*stranger"):
        load_wavenet(weights | {"stranger": torch.zeros(1)}, "mu-law", layers=4)


def test_a_tensor_of_another_shape_is_refused(weights):
    with pytest.raises(ValueError, match=r"must fit the model(.|\n)*end\.1\.bias"):
        load_wavenet(weights | {"model.end_conv_1.bias": torch.zeros(25)}, "mu-law", layers=4)


@pytest.mark.parametrize("layers", [0, 3, 10])
def test_a_stack_length_that_does_not_divide_the_convolutions_is_refused(weights, layers):
    with pytest.raises(ValueError, match=f"layers must divide the 8 convolutions .* got {layers}"):
        load_wavenet(weights, "mu-law", layers)


def test_loading_does_not_modify_the_state_dict(weights):
    before = set(weights)
    load_wavenet(weights, "mu-law", layers=4)
    assert set(weights) == before


def test_the_quantizer_is_the_named_one(weights):
    quantizers = [load_wavenet(weights, name, layers=4).quantizer for name in ("mu-law", "linear")]
    assert quantizers == [MuLaw(256), Linear(256)]
    with without_shape_checks():
        with pytest.raises(
            ValueError, match=r"quantization must be one of \('mu-law', 'linear'\), got 'u-law'"
        ):
            load_wavenet(weights, "u-law", layers=4)
        with pytest.raises(TypeError, match="quantization"):
            load_wavenet(weights)
