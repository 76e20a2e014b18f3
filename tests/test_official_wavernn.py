"""A WaveRNN loaded from published weights reproduces published outputs, in one pass and by steps."""

import json
import math
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.official import load_wavernn
from tests.streaming.helpers import error

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture
def tensors(shared):
    return load_file(shared / "golden" / "wavernn_dual_softmax.safetensors")


@pytest.fixture
def weights(tensors):
    return {key.removeprefix("state."): x for key, x in tensors.items() if key.startswith("state.")}


@pytest.fixture
def codes(tensors):
    return torch.stack([tensors["in.coarse"], tensors["in.fine"]], dim=-1)


@pytest.fixture
def previous(tensors):
    return torch.stack([tensors["in.prev_coarse"], tensors["in.prev_fine"]], dim=-1)


def argmax(logits, record):
    """Return the most probable code, and append the logits to the list ``record``."""
    record.append(logits)
    return logits.argmax(-1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.no_grad()
def test_the_full_pass_reproduces_published_outputs(tensors, weights, previous, dtype):
    model = load_wavernn(weights, dtype)
    h, last = model(previous, tensors["in.coarse"], tensors["in.h0"].to(dtype))
    assert error(h, tensors["out.hidden"]) < TOLERANCE[dtype]
    assert error(last, tensors["out.hidden"][:, -1]) < TOLERANCE[dtype]
    assert error(model.coarse_logits(h), tensors["out.logits_coarse"]) < TOLERANCE[dtype]
    assert error(model.fine_logits(h), tensors["out.logits_fine"]) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.no_grad()
def test_the_likelihood_is_the_published_one(tensors, weights, codes, previous, dtype):
    model = load_wavernn(weights, dtype)
    assert torch.equal(previous[:, 1:], codes[:, :-1])  # the published inputs are one sequence
    bits, _ = model.log_likelihood_from(codes, (previous[:, 0], tensors["in.h0"].to(dtype)))
    nats = -bits.mean() * math.log(2)
    assert error(nats[None], tensors["out.nll"]) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.no_grad()
def test_steps_generate_the_published_codes(tensors, weights, dtype):
    model, record, codes = load_wavernn(weights, dtype), [], []
    code, state = torch.zeros(1, 2, dtype=torch.long), model.initial_state(1)
    for _ in range(64):
        code, state = model.sample_next(code, state, partial(argmax, record=record))
        codes.append(code[0])
    coarse, fine = torch.stack(codes).unbind(-1)
    assert torch.equal(coarse, tensors["out.gen_coarse"])
    assert torch.equal(fine, tensors["out.gen_fine"])
    logp = torch.cat(record).log_softmax(-1)
    assert error(logp[0::2], tensors["out.gen_logp_coarse"]) < TOLERANCE[dtype]
    assert error(logp[1::2], tensors["out.gen_logp_fine"]) < TOLERANCE[dtype]


def test_the_paper_s_size_has_exactly_the_published_number_of_parameters(shared):
    published = json.loads((shared / "golden" / "wavernn_dual_softmax.json").read_text())
    model = WaveRNN(WaveRNNConfig(896))
    assert sum(p.numel() for p in model.parameters()) == 3_050_048
    assert published["parameters_at_hidden_896"] == 3_050_048


def test_the_configuration_is_read_from_the_tensors(weights):
    assert load_wavernn(weights).config == WaveRNNConfig(32)


@pytest.mark.parametrize("key", ["R.weight", "O2.weight", "bias_r", "I_coarse.weight", "O3.bias"])
def test_a_missing_tensor_is_named(weights, key):
    del weights[key]
    with pytest.raises(ValueError, match=f"weights must contain '{key}'"):
        load_wavernn(weights)


def test_an_unknown_tensor_is_named(weights):
    with pytest.raises(ValueError, match=r"no unknown tensors.*stranger"):
        load_wavernn(weights | {"stranger": torch.zeros(1)})


def test_a_tensor_of_another_shape_is_refused(weights):
    with pytest.raises(ValueError, match=r"must fit the model(.|\n)*I_fine\.weight"):
        load_wavernn(weights | {"I_fine.weight": torch.zeros(48, 4)})


def test_loading_does_not_modify_the_state_dict(weights):
    before = set(weights)
    load_wavernn(weights)
    assert set(weights) == before
