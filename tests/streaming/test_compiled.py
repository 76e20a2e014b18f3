"""The compiled engine: its operations, and WaveRNN's loop against the model, dense and sparse."""

import copy
import importlib.abc
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from torch import nn

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SampleRNN, SampleRNNConfig, WaveRNN, WaveRNNConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.autoregressive import shift_right
from sashimi_lib.models.sampling import SamplingConfig, distribution, inverse_cdf
from sashimi_lib.models.sparse import LAYERS
from sashimi_lib.pretrained import load
from sashimi_lib.streaming import best_engine, compiled
from sashimi_lib.streaming.compiled_loop import CompiledLoop
from sashimi_lib.streaming.compiled_ops import (
    JIT_OPTIONS,
    BlockSparse,
    add_product,
    exp,
    gelu,
    pack_matrix,
    pack_sampling,
    padded_size,
    sample_token,
    sigmoid,
    tanh,
)
from sashimi_lib.streaming.engine import LOOPS, _warn_once
from sashimi_lib.training.pruning import Pruner, PruningConfig

ROUNDING = 1e-4  # of a cumulative probability in single precision, where logits go up to a hundred


def a_wavernn(d_hidden=32, levels=256, seed=0):
    """With weights large enough that samples depend on the context."""
    torch.manual_seed(seed)
    model = WaveRNN(WaveRNNConfig(d_hidden, levels=levels))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    return model


def pruned(d_hidden=64):
    model = a_wavernn(d_hidden)
    pruner = Pruner(model, PruningConfig(0.9, (16, 1)))
    pruner.prune(0.9)
    pruner.bake_masks()
    return model


# Operations


@njit(**JIT_OPTIONS)
def add_times(matrix, x, y):
    add_product(matrix, x, y)


@given(st.integers(1, 70), st.integers(1, 50), st.integers(1, 4), st.sampled_from([0.0, 0.05, 0.15, 1.0]))
@settings(max_examples=30, deadline=None)
def test_products_of_dense_and_sparse_matrices(rows, columns, batch, density):
    rng = np.random.default_rng(rows * columns)
    weight = rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < density / 4)
    x = np.zeros((batch, padded_size(columns)), np.float32)
    x[:, :columns] = rng.normal(size=(batch, columns))
    y = np.ones((batch, padded_size(rows)), np.float32)
    add_times(pack_matrix(weight), x, y)
    assert np.allclose(y[:, :rows], 1 + x[:, :columns] @ weight.T, atol=1e-5)
    assert (y[:, rows:] == 1).all()


def test_a_sparse_matrix_is_packed_as_blocks_and_a_dense_one_is_not():
    weight = np.zeros((64, 64))
    weight[16:32, 5] = weight[0, 7] = 1
    blocks = pack_matrix(weight)
    assert isinstance(blocks, BlockSparse)
    assert blocks.start.tolist() == [0, 4, 8, 8, 8]
    assert blocks.column[[0, 4]].tolist() == [7, 5]
    assert isinstance(pack_matrix(np.ones((64, 64))), np.ndarray)


def elementwise(function, x):
    """Apply an inlined function of compiled code to every entry of an array; the result in float64."""

    @njit(**JIT_OPTIONS)
    def loop(x, y):
        for i in range(len(x)):
            y[i] = function(x[i])

    y = np.empty_like(x)
    loop(x, y)
    return y.astype(np.float64)


def test_the_exponential_is_accurate():
    x = np.linspace(-86, 88, 100_001, dtype=np.float32)
    assert np.abs(elementwise(exp, x) / np.exp(x.astype(np.float64)) - 1).max() < 3e-7


@pytest.mark.parametrize(
    ("function", "exact", "tolerance"),
    [(sigmoid, torch.sigmoid, 1e-7), (tanh, torch.tanh, 2e-7), (gelu, nn.functional.gelu, 3e-7)],
    ids=["sigmoid", "tanh", "gelu"],
)
@pytest.mark.parametrize("reach", [1e-3, 10, 1e4])  # near zero, where it bends, and far out
def test_an_activation_is_that_of_the_model(function, exact, tolerance, reach):
    x = np.linspace(-reach, reach, 20_001, dtype=np.float32)
    wanted = exact(torch.from_numpy(x).double()).numpy()
    assert (np.abs(elementwise(function, x) - wanted) <= tolerance * np.maximum(1, np.abs(wanted))).all()


@njit(**JIT_OPTIONS)
def sampled(logits, uniform, options, buffer):
    return sample_token(logits, uniform, options, buffer)


@given(
    st.integers(0, 10_000), st.floats(0.2, 3), st.sampled_from([1.0, 0.9, 0.3]),
    st.sampled_from([None, 1, 2, 7, 50]), st.integers(2, 300),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_compiled_sampling_is_sample_token(seed, temperature, top_p, top_k, levels):
    sampling = SamplingConfig(temperature, top_p, top_k)
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(1, levels, generator=generator)
    uniform = torch.rand(1, generator=generator, dtype=torch.float64)
    expected = inverse_cdf(distribution(logits, sampling), uniform)
    buffer = np.empty(levels, np.float32)
    assert sampled(logits[0].numpy(), float(uniform), pack_sampling(sampling), buffer) == expected


KEPT = [*((top_p, None) for top_p in (0.25, 0.5, 0.75, 0.9)), (1.0, 1), (1.0, 3), (0.5, 10)]  # and top_k


@given(st.integers(0, 10_000), st.sampled_from([2, 4, 16, 64, 256]), st.sampled_from(KEPT))
@settings(max_examples=50, deadline=None)
def test_ties_are_broken_as_in_the_model(seed, levels, options):
    """Of equally likely codes, all of them or a few groups, the lower ones are kept."""
    sampling = SamplingConfig(1.0, *options)
    generator = torch.Generator().manual_seed(seed)
    few = torch.randint(0, 3, (1, levels), generator=generator).float()
    for logits in (torch.zeros(1, levels), few):
        kept = distribution(logits, sampling)[0]
        assert all(bool((kept[logits[0] == value].diff() <= 0).all()) for value in logits.unique())
        buffer = np.empty(levels, np.float32)
        sampled(logits[0].numpy(), 0.0, pack_sampling(sampling), buffer)
        assert np.array_equal(buffer > 0, (kept > 0).numpy())


# The engine


@pytest.mark.slow
@given(
    st.sampled_from([2, 6, 30, 64]), st.sampled_from([2, 6, 256]), st.integers(1, 5), st.integers(0, 99),
    st.sampled_from([(1.0, 1.0), (0.7, 1.0), (1.2, 0.8), (0.9, 0.9, 20)]),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_the_same_seed_gives_the_same_codes_at_any_size(d_hidden, levels, batch, seed, setting):
    model, sampling = a_wavernn(d_hidden, levels, seed), SamplingConfig(*setting)
    wanted = model.generate(40, batch, sampling=sampling, seed=seed)
    codes = compiled(model).generate(40, batch, sampling=sampling, seed=seed)
    assert torch.equal(codes, wanted)


def test_a_sparse_model_generates_the_same_thousand_samples_after_a_prompt():
    model = pruned()
    engine = compiled(model)
    assert isinstance(engine.loop.R, BlockSparse)
    prompt = torch.randint(0, 256, (2, 100, 2))
    assert torch.equal(engine.generate(1_000, prompt=prompt), model.generate(1_000, prompt=prompt))


def edges(logits, codes):
    """Return the cumulative probabilities between which the random number of a code lies."""
    upper = logits.softmax(-1).cumsum(-1)
    high = upper.gather(-1, codes[..., None])[..., 0]
    return high - logits.softmax(-1).gather(-1, codes[..., None])[..., 0], high


@pytest.mark.slow
@torch.no_grad()
def test_twenty_thousand_samples_are_the_same_until_rounding_decides_one(shapes_unchecked):
    """Given its own context, either engine samples the code whose interval, in double precision, contains the
    random number, or is within rounding of it: so both sample from the model's distribution throughout. They
    differ only after a random number within rounding of an edge."""
    model, length = load("wavernn").model, 20_000
    double = copy.deepcopy(model).double()
    uniform = torch.rand(length, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eager, ours = model.generate(length, seed=0), compiled(model).generate(length, seed=0)
    outside = {}
    for name, codes in {"eager": eager, "compiled": ours}.items():
        before, state = double.initial_cache(1)
        h, _ = double(shift_right(codes, before), codes[..., 0], state)
        logits = torch.stack([double.coarse_logits(h), double.fine_logits(h)], dim=2)[0]
        low, high = edges(logits, codes[0])
        outside[name] = torch.maximum(low - uniform, uniform - high)  # negative: inside the interval
        assert float(outside[name].max()) < ROUNDING
        assert float((outside[name] < -ROUNDING).double().mean()) > 0.9
    forced, _ = compiled(model).teacher_forced_logits(ours, model.initial_cache(1))
    assert float((forced[0] - logits).abs().max()) < 1e-4 * float(logits.abs().max())
    differ = (eager != ours).any(-1)[0].nonzero()
    if len(differ):
        first = int(differ[0])
        assert first > 1_000
        assert max(float(outside[name][first].max()) for name in outside) > -ROUNDING


@pytest.mark.parametrize("model", [a_wavernn(), pruned()], ids=["dense", "sparse"])
@torch.no_grad()
def test_the_state_stays_that_of_the_parallel_pass(model):
    """Over 16,000 generated samples, against the model's teacher-forced pass."""
    codes, (last, state) = compiled(model).generate_from(
        model.initial_cache(1), 16_000, generator=torch.Generator()
    )
    _, expected = model.prefill(codes, model.initial_cache(1))
    assert torch.equal(last, codes[:, -1])
    assert (state - expected).norm() < 1e-5 * expected.norm()


@torch.no_grad()
def test_generation_in_chunks_is_generation_in_one_call():
    engine = compiled(a_wavernn())
    whole, _ = engine.generate_from(
        engine.initial_cache(2), 3_000, generator=torch.Generator().manual_seed(1)
    )
    generator, cache, chunks = torch.Generator().manual_seed(1), engine.initial_cache(2), []
    for length in (1, 1_500, 1_499):
        chunk, cache = engine.generate_from(cache, length, generator=generator)
        chunks.append(chunk)
    assert torch.equal(torch.cat(chunks, dim=1), whole)


def test_the_coarse_half_has_no_weights_of_the_coarse_code():
    loop = compiled(a_wavernn()).loop
    assert not loop.coarse.I_star[2].any()  # c_t
    assert loop.fine.I_star[2].all()


def test_likelihoods_and_parameters_are_those_of_the_model():
    model, codes = a_wavernn(), torch.randint(0, 256, (2, 50, 2))
    engine = compiled(model)
    assert torch.equal(engine.log_likelihood(codes), model.log_likelihood(codes))
    assert sum(p.numel() for p in engine.parameters()) == sum(p.numel() for p in model.parameters())


def test_non_finite_logits_raise():
    model = a_wavernn()
    with torch.no_grad():
        model.O2.bias[3] = torch.inf
    with pytest.raises(ValueError, match="logits must be finite"):
        compiled(model).generate(5)


def test_a_length_out_of_range_raises():
    with pytest.raises(ValueError, match="length must be at least 1"):
        compiled(a_wavernn()).generate(0)


def test_a_conditional_model_raises():
    with pytest.raises(ValueError, match="d_conditioning=3"):
        compiled(WaveRNN(WaveRNNConfig(8, d_conditioning=3)))


class ModelOnlyLoop(CompiledLoop):
    """A loop that stores its model and cannot run."""

    def __init__(self, model):
        self.model = model

    pack_state = unpack_state = run = None


def test_a_loop_is_found_by_the_class_of_the_backbone(monkeypatch):
    class Own(SampleRNN):
        pass

    model = AudioLM(MuLaw(), Own(SampleRNNConfig((4,), 1, 16, 2)))
    with pytest.raises(ValueError, match=r"must have a compiled loop \(SaShiMi, WaveNet, WaveRNN\), got Own"):
        compiled(model)
    assert best_engine(model) is model
    monkeypatch.setitem(LOOPS, SampleRNN, "tests.streaming.test_compiled:ModelOnlyLoop")
    loop = compiled(model).loop
    assert type(loop).__name__ == "ModelOnlyLoop"
    assert loop.model is model


@pytest.mark.slow
def test_importing_the_library_compiles_nothing():
    code = "import sys, sashimi_lib.streaming, sashimi_lib.pretrained; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_numba_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("numba", "sashimi_lib.streaming.wavernn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "sashimi_lib.streaming.compiled_ops")
    with pytest.raises(ImportError, match=r'pip install "sashimi_lib\[fast\]"'):
        compiled(a_wavernn())


def test_an_error_of_numba_is_reported(monkeypatch):
    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "numba":
                raise ImportError("Numba needs NumPy 2.2 or less. Got NumPy 9.0.")

    for name in [name for name in sys.modules if name.split(".")[0] == "numba"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ImportError, match="numba is installed, but cannot be imported: Numba needs NumPy"):
        compiled(a_wavernn())
    _warn_once.cache_clear()
    with pytest.warns(UserWarning, match="generation is slow, since numba is installed, but"):
        best_engine(a_wavernn())


def test_all_pruned_layers_are_packed_as_sparse():
    loop = compiled(pruned(128)).loop
    packed = [loop.R, loop.coarse.output_1.matrix, loop.coarse.output_2.matrix, loop.fine.output_1.matrix,
              loop.fine.output_2.matrix]  # fmt: skip
    assert len(packed) == len(LAYERS)
    assert all(isinstance(matrix, BlockSparse) for matrix in packed)
