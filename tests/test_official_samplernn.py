"""A SampleRNN loaded from published weights reproduces the outputs of the published code."""

import pytest
import torch
from safetensors.torch import load_file

from sashimi_lib.official import load_samplernn
from tests.awkward import without_shape_checks
from tests.streaming.helpers import error

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
BOTH = pytest.mark.parametrize("dtype", TOLERANCE)
LOOKBACK = 32
CASES = {"mu-law": "samplernn", "linear": "samplernn_linear"}


def case(shared, quantization):
    """(weights, codes, outputs), outputs in float64."""
    tensors = load_file(shared / "golden" / f"{CASES[quantization]}.safetensors")

    def part(prefix):
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    return part("state."), part("in.")["codes"], part("out.")


@pytest.fixture(params=CASES)
def quantization(request):
    return request.param


@pytest.fixture
def golden(shared):
    return case(shared, "mu-law")


def state_after(model, codes):
    """The initial state with a context of ``LOOKBACK - 1`` codes."""
    _, vectors, phase, tiers = model.initial_state(len(codes))
    inputs = model.embedding(codes)
    return inputs[..., 0], inputs[:, -vectors.shape[1] :, 1:], phase, tiers


def chunk_of(codes, i):
    """The input codes of chunk i of two."""
    chunk = (codes.shape[1] - LOOKBACK) // 2
    start = LOOKBACK - 1 + i * chunk
    return codes[:, start : start + chunk]


def assert_states(tiers, out, i, dtype):
    for j, (_, hidden) in enumerate(tiers):
        assert error(hidden.transpose(0, 1), out[f"state_{i}_tier{j}"]) < TOLERANCE[dtype]


@BOTH
@torch.no_grad()
def test_chunks_with_carried_state_reproduce_published_outputs(shared, quantization, dtype):
    weights, codes, out = case(shared, quantization)
    model = load_samplernn(weights, quantization, dtype)
    state = state_after(model, codes[:, : LOOKBACK - 1])
    for i in range(2):
        logits, state = model(chunk_of(codes, i), state)
        assert error(logits, out[f"logits_{i}"]) < TOLERANCE[dtype]
        assert_states(state[-1], out, i, dtype)


@BOTH
@torch.no_grad()
def test_steps_reproduce_published_outputs(shared, quantization, dtype):
    weights, codes, out = case(shared, quantization)
    model = load_samplernn(weights, quantization, dtype)
    state = state_after(model, codes[:, : LOOKBACK - 1])
    for i in range(2):
        logits = []
        for code in chunk_of(codes, i).unbind(1):
            y, state = model.step(code, state)
            logits.append(y)
        assert error(torch.stack(logits, dim=1), out[f"logits_{i}"]) < TOLERANCE[dtype]
        assert_states(state[-1], out, i, dtype)


@torch.no_grad()
def test_the_other_quantizer_has_other_outputs(shared, quantization):
    """The tensors alone do not reveal a wrong quantizer."""
    weights, codes, out = case(shared, quantization)
    (other,) = CASES.keys() - {quantization}
    model = load_samplernn(weights, other)
    logits, _ = model(chunk_of(codes, 0), state_after(model, codes[:, : LOOKBACK - 1]))
    assert error(logits, out["logits_0"]) > 0.01
    with without_shape_checks(), pytest.raises(TypeError, match="quantization"):
        load_samplernn(weights)


def test_the_table_of_amplitudes_equals_the_decoded_codes(golden, quantization):
    model = load_samplernn(golden[0], quantization)
    codes = torch.arange(model.quantizer.levels)
    assert torch.allclose(model.embedding.amplitude, 2 * model.quantizer.decode(codes), rtol=1e-6, atol=0)


def test_the_configuration_is_read_from_the_tensors(golden):
    config = load_samplernn(golden[0], "mu-law").backbone.config
    assert (config.frame_sizes, config.n_rnn) == ((8, 2, 2), 1)
    assert (config.d_hidden, config.d_embedding) == (24, 16)


def test_a_prefix_of_the_training_code_is_dropped(golden):
    weights, codes, _ = golden
    prefixed = {f"model.{key}": w for key, w in weights.items()}
    model, same = (load_samplernn(x, "mu-law") for x in (weights, prefixed))
    assert torch.equal(model(codes)[0], same(codes)[0])


@pytest.mark.parametrize(
    "key",
    [
        "frame_level_rnns.0.upsampling.bias",
        "frame_level_rnns.1.rnn.h0",
        "frame_level_rnns.2.input_expand.weight_g",
        "sample_level_mlp.output.weight_v",
    ],
)
def test_a_missing_tensor_is_named(golden, key):
    weights = golden[0]
    del weights[key]
    with pytest.raises(ValueError, match="weights must contain") as caught:
        load_samplernn(weights, "mu-law")
    assert key in str(caught.value)


@pytest.mark.parametrize("key", ["frame_level_rnns.1.rnn.weight_hh_l0", "sample_level_mlp.hidden.bias"])
def test_a_tensor_of_another_shape_is_refused(golden, key):
    weights = golden[0]
    with pytest.raises(ValueError, match="weights must fit"):
        load_samplernn(weights | {key: weights[key][:-1]}, "mu-law")


def test_a_missing_matrix_of_a_gru_is_refused(golden):
    weights = golden[0]
    del weights["frame_level_rnns.1.rnn.weight_hh_l0"]
    with pytest.raises(ValueError, match=r"tiers\.1\.rnn\.weight_hh_l0"):
        load_samplernn(weights, "mu-law")


def test_an_unknown_tensor_is_named(golden):
    with pytest.raises(ValueError, match=r"no unknown tensors.*stranger"):
        load_samplernn(golden[0] | {"stranger": torch.zeros(1)}, "mu-law")
