"""The compiled loop draws what the model itself draws, from any past, with zeros left out or not."""

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
    options_of,
    pack,
    padded_size,
    sample_token,
    sigmoid,
    tanh,
)
from sashimi_lib.streaming.engine import LOOPS, _warn_once
from sashimi_lib.training.pruning import Pruner, PruningConfig

ROUNDING = 1e-4  # of a cumulative probability in single precision, where logits go up to a hundred


def a_wavernn(d_hidden=32, levels=256, seed=0):
    """With weights large enough that what it draws depends on what it heard."""
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


# Kernels


@njit(**JIT_OPTIONS)
def add_times(matrix, x, y):
    add_product(matrix, x, y)


@given(st.integers(1, 70), st.integers(1, 50), st.integers(1, 4), st.sampled_from([0.0, 0.05, 0.15, 1.0]))
@settings(max_examples=30, deadline=None)
def test_products_by_either_layout(rows, columns, batch, share):
    chance = np.random.default_rng(rows * columns)
    weight = chance.normal(size=(rows, columns)) * (chance.random((rows, columns)) < share / 4)
    x = np.zeros((batch, padded_size(columns)), np.float32)
    x[:, :columns] = chance.normal(size=(batch, columns))
    y = np.ones((batch, padded_size(rows)), np.float32)
    add_times(pack(weight), x, y)
    assert np.allclose(y[:, :rows], 1 + x[:, :columns] @ weight.T, atol=1e-5)
    assert (y[:, rows:] == 1).all()


def test_little_left_makes_blocks_and_much_does_not():
    weight = np.zeros((64, 64))
    weight[16:32, 5] = weight[0, 7] = 1
    blocks = pack(weight)
    assert isinstance(blocks, BlockSparse)
    assert blocks.start.tolist() == [0, 4, 8, 8, 8]
    assert blocks.column[[0, 4]].tolist() == [7, 5]
    assert isinstance(pack(np.ones((64, 64))), np.ndarray)


def of_each(function, x):
    """An inlined function of compiled code, of every number of an array; in float64."""

    @njit(**JIT_OPTIONS)
    def loop(x, y):
        for i in range(len(x)):
            y[i] = function(x[i])

    y = np.empty_like(x)
    loop(x, y)
    return y.astype(np.float64)


def test_the_exponential():
    x = np.linspace(-86, 88, 100_001, dtype=np.float32)
    assert np.abs(of_each(exp, x) / np.exp(x.astype(np.float64)) - 1).max() < 3e-7


@pytest.mark.parametrize(
    ("function", "exact", "tolerance"),
    [(sigmoid, torch.sigmoid, 1e-7), (tanh, torch.tanh, 2e-7), (gelu, nn.functional.gelu, 3e-7)],
    ids=["sigmoid", "tanh", "gelu"],
)
@pytest.mark.parametrize("reach", [1e-3, 10, 1e4])  # near zero, where it bends, and far out
def test_an_activation_is_that_of_the_model(function, exact, tolerance, reach):
    x = np.linspace(-reach, reach, 20_001, dtype=np.float32)
    wanted = exact(torch.from_numpy(x).double()).numpy()
    assert (np.abs(of_each(function, x) - wanted) <= tolerance * np.maximum(1, np.abs(wanted))).all()


@njit(**JIT_OPTIONS)
def sampled(logits, uniform, options, buffer):
    return sample_token(logits, uniform, options, buffer)


@given(
    st.integers(0, 10_000), st.floats(0.2, 3), st.sampled_from([1.0, 0.9, 0.3]),
    st.sampled_from([None, 1, 2, 7, 50]), st.integers(2, 300),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_draw_is_that_of_sample_token(seed, temperature, top_p, top_k, levels):
    sampling = SamplingConfig(temperature, top_p, top_k)
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(1, levels, generator=generator)
    uniform = torch.rand(1, generator=generator, dtype=torch.float64)
    expected = inverse_cdf(distribution(logits, sampling), uniform)
    buffer = np.empty(levels, np.float32)
    assert sampled(logits[0].numpy(), float(uniform), options_of(sampling), buffer) == expected


KEPT = [*((top_p, None) for top_p in (0.25, 0.5, 0.75, 0.9)), (1.0, 1), (1.0, 3), (0.5, 10)]  # and top_k


@given(st.integers(0, 10_000), st.sampled_from([2, 4, 16, 64, 256]), st.sampled_from(KEPT))
@settings(max_examples=50, deadline=None)
def test_of_equally_likely_codes_every_engine_keeps_the_same(seed, levels, options):
    """All codes equally likely, or a few groups of them; the lower ones of a group come first."""
    sampling = SamplingConfig(1.0, *options)
    generator = torch.Generator().manual_seed(seed)
    few = torch.randint(0, 3, (1, levels), generator=generator).float()
    for logits in (torch.zeros(1, levels), few):
        kept = distribution(logits, sampling)[0]
        assert all(bool((kept[logits[0] == value].diff() <= 0).all()) for value in logits.unique())
        buffer = np.empty(levels, np.float32)
        sampled(logits[0].numpy(), 0.0, options_of(sampling), buffer)
        assert np.array_equal(buffer > 0, (kept > 0).numpy())


# The engine


@pytest.mark.slow
@given(
    st.sampled_from([2, 6, 30, 64]), st.sampled_from([2, 6, 256]), st.integers(1, 5), st.integers(0, 99),
    st.sampled_from([(1.0, 1.0), (0.7, 1.0), (1.2, 0.8), (0.9, 0.9, 20)]),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_the_same_seed_draws_the_same_codes_at_any_size(d_hidden, levels, batch, seed, setting):
    model, sampling = a_wavernn(d_hidden, levels, seed), SamplingConfig(*setting)
    wanted = model.generate(40, batch, sampling=sampling, seed=seed)
    drawn = compiled(model).generate(40, batch, sampling=sampling, seed=seed)
    assert torch.equal(drawn, wanted)


def test_a_thousand_samples_after_a_prompt_with_zeros_left_out():
    model = pruned()
    engine = compiled(model)
    assert isinstance(engine.loop.R, BlockSparse)
    prompt = torch.randint(0, 256, (2, 100, 2))
    assert torch.equal(engine.generate(1_000, prompt=prompt), model.generate(1_000, prompt=prompt))


def edges(logits, codes):
    """The cumulative probabilities between which a random number has to lie for a code to be drawn."""
    upper = logits.softmax(-1).cumsum(-1)
    high = upper.gather(-1, codes[..., None])[..., 0]
    return high - logits.softmax(-1).gather(-1, codes[..., None])[..., 0], high


@pytest.mark.slow
@torch.no_grad()
def test_twenty_thousand_samples_are_the_same_until_rounding_decides_one(shapes_unchecked):
    """Given its own past, either engine draws the code that its random number falls on in double precision,
    or is within rounding of: so both draw from the model's distribution all along. They part where a number
    falls within rounding of an edge, and nowhere else."""
    model, length = load("wavernn").model, 20_000
    double = copy.deepcopy(model).double()
    uniform = torch.rand(length, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stepped, ours = model.generate(length, seed=0), compiled(model).generate(length, seed=0)
    missed = {}
    for name, codes in {"steps": stepped, "compiled": ours}.items():
        before, state = double.initial_cache(1)
        h, _ = double(shift_right(codes, before), codes[..., 0], state)
        logits = torch.stack([double.coarse_logits(h), double.fine_logits(h)], dim=2)[0]
        low, high = edges(logits, codes[0])
        missed[name] = torch.maximum(low - uniform, uniform - high)  # below zero: well inside
        assert float(missed[name].max()) < ROUNDING
        assert float((missed[name] < -ROUNDING).double().mean()) > 0.9
    forced, _ = compiled(model).teacher_forced_logits(ours, model.initial_cache(1))
    assert float((forced[0] - logits).abs().max()) < 1e-4 * float(logits.abs().max())
    differ = (stepped != ours).any(-1)[0].nonzero()
    if len(differ):
        first = int(differ[0])
        assert first > 1_000
        assert max(float(missed[name][first].max()) for name in missed) > -ROUNDING


@pytest.mark.parametrize("model", [a_wavernn(), pruned()], ids=["dense", "sparse"])
@torch.no_grad()
def test_the_state_stays_that_of_the_parallel_pass(model):
    """Over 16,000 samples of its own, forced through the model's teacher-forced pass."""
    codes, (last, state) = compiled(model).generate_from(
        model.initial_cache(1), 16_000, generator=torch.Generator()
    )
    _, expected = model.prefill(codes, model.initial_cache(1))
    assert torch.equal(last, codes[:, -1])
    assert (state - expected).norm() < 1e-5 * expected.norm()


@torch.no_grad()
def test_it_goes_on_from_where_it_stopped():
    engine = compiled(a_wavernn())
    whole, _ = engine.generate_from(
        engine.initial_cache(2), 3_000, generator=torch.Generator().manual_seed(1)
    )
    generator, cache, pieces = torch.Generator().manual_seed(1), engine.initial_cache(2), []
    for length in (1, 1_500, 1_499):
        piece, cache = engine.generate_from(cache, length, generator=generator)
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces, dim=1), whole)


def test_the_star_holds_in_the_packed_weights():
    loop = compiled(a_wavernn()).loop
    assert not loop.coarse.heard[2].any()  # c_t
    assert loop.fine.heard[2].all()


def test_in_all_else_it_is_the_model():
    model, codes = a_wavernn(), torch.randint(0, 256, (2, 50, 2))
    engine = compiled(model)
    assert torch.equal(engine.log_likelihood(codes), model.log_likelihood(codes))
    assert sum(p.numel() for p in engine.parameters()) == sum(p.numel() for p in model.parameters())


def test_a_state_that_blew_up_is_reported():
    model = a_wavernn()
    with torch.no_grad():
        model.O2.bias[3] = torch.inf
    with pytest.raises(ValueError, match="logits must be finite"):
        compiled(model).generate(5)


def test_a_bad_request_is_refused_by_name():
    with pytest.raises(ValueError, match="length must be at least 1"):
        compiled(a_wavernn()).generate(0)


def test_a_model_that_is_told_something_is_refused():
    with pytest.raises(ValueError, match="d_condition=3"):
        compiled(WaveRNN(WaveRNNConfig(8, d_conditioning=3)))


class Noted(CompiledLoop):
    """A loop that keeps what it is made from."""

    def __init__(self, model):
        self.model = model

    begin = end = run = None


def test_a_loop_is_found_by_the_class_of_the_backbone(monkeypatch):
    class Own(SampleRNN):
        pass

    model = AudioLM(MuLaw(), Own(SampleRNNConfig((4,), 1, 16, 2)))
    with pytest.raises(ValueError, match=r"has a loop \(SaShiMi, WaveNet, WaveRNN\), got Own"):
        compiled(model)
    assert best_engine(model) is model
    monkeypatch.setitem(LOOPS, SampleRNN, "tests.test_streaming:Noted")
    loop = compiled(model).loop
    assert type(loop).__name__ == "Noted"
    assert loop.model is model


@pytest.mark.slow
def test_importing_the_library_compiles_nothing():
    code = "import sys, sashimi_lib.streaming, sashimi_lib.pretrained; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_numba_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("numba", "sashimi_lib.streaming.wavernn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "sashimi_lib.streaming.compiled_ops")
    with pytest.raises(ImportError, match=r'pip install "sashimi_lib\[fast\]"'):
        compiled(a_wavernn())


def test_a_numba_that_cannot_be_imported_says_why(monkeypatch):
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
    with pytest.warns(UserWarning, match="samples are drawn slowly, since numba is installed, but"):
        best_engine(a_wavernn())


def test_layers_that_are_pruned_are_those_that_the_loop_packs():
    loop = compiled(pruned(128)).loop
    packed = [loop.R, loop.coarse.first.matrix, loop.coarse.second.matrix, loop.fine.first.matrix,
              loop.fine.second.matrix]  # fmt: skip
    assert len(packed) == len(LAYERS)
    assert all(isinstance(matrix, BlockSparse) for matrix in packed)
