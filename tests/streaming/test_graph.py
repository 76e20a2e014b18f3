"""The graph engine: a static step generates what the model does, never synchronizes, and can be replayed.

Only the last test needs a GPU: in the others tapes of operations on a CPU stand in for CUDA graphs.
"""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.models import (
    IsotropicConfig,
    IsotropicS4,
    SampleRNN,
    SampleRNNConfig,
    SaShiMi,
    SaShiMiConfig,
    Subscale,
    SubscaleConfig,
    WaveNet,
    WaveNetConfig,
    WaveRNN,
    WaveRNNConfig,
)
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.heads import JointSoftmax, Logistics
from sashimi_lib.models.sampling import SamplingConfig
from sashimi_lib.models.sparse import sparse
from sashimi_lib.models.states import flatten_state
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.ssm.s4 import Form, SSMConfig
from sashimi_lib.streaming import base, best_engine, graph, graphed
from sashimi_lib.streaming.graph import Graphed, StaticStep

WAVENET = WaveNetConfig(stacks=2, layers=3, d_residual=4, d_dilation=4, d_skip=8, d_end=8, d_model=4)
MODELS = {
    "sashimi": lambda: AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(8, 1))),
    "one pool": lambda: AudioLM(MuLaw(16), SaShiMi(SaShiMiConfig(4, 2, pool=(2,), norm="layer"))),
    "three pools": lambda: AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(4, 1, pool=(2, 3, 2), expand=1))),
    "u-net": lambda: AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(4, 1, pool=(3, 2), unet=True, glu=True))),
    "diagonal": lambda: AudioLM(
        MuLaw(), SaShiMi(SaShiMiConfig(4, 1, ssm=SSMConfig(form=Form.DIAGONAL, tied=False)))
    ),
    "dual softmax": lambda: AudioLM(CoarseFine(), SaShiMi(SaShiMiConfig(8, 1))),
    "joint softmax": lambda: AudioLM(
        CoarseFine(16), SaShiMi(SaShiMiConfig(4, 1)), head=JointSoftmax(4, levels=16)
    ),
    "wavenet": lambda: AudioLM(MuLaw(), WaveNet(WAVENET)),
    "wavenet, dual softmax": lambda: AudioLM(CoarseFine(), WaveNet(WAVENET)),
    "wavernn": lambda: WaveRNN(WaveRNNConfig(d_hidden=16)),
    "samplernn": lambda: AudioLM(MuLaw(), SampleRNN(SampleRNNConfig((4, 2), d_hidden=8, d_embedding=4))),
    "isotropic": lambda: AudioLM(MuLaw(), IsotropicS4(IsotropicConfig(d_model=8, n_layers=1))),
}
# Not compared by samples: with 65,536 levels, rounding changes one code in some hundreds.
MANY_LEVELS = {
    "logistics": lambda: AudioLM(CoarseFine(), SaShiMi(SaShiMiConfig(4, 1, pool=(2,))), head=Logistics(4))
}
GRAPHS = {"sashimi": 16, "three pools": 12, "u-net": 6, "samplernn": 8, "wavenet": 1, "wavernn": 1}
every_model = pytest.mark.parametrize("name", MODELS)


def a_model(name):
    """With weights large enough that samples depend on the context."""
    model = (MODELS | MANY_LEVELS)[name]()
    with torch.no_grad():
        for parameter in (*model.parameters(),)[-8:]:
            parameter.mul_(3)
    return model


def some_cache(model, batch, length=37):
    """The cache after a prompt that ends inside a frame."""
    codes = model.quantizer.encode(2 * torch.rand(batch, length) - 1)
    return model.prefill(codes, model.initial_cache(batch))


def generated(model, cache, lengths, sampling=SamplingConfig()):
    """Codes generated in chunks, and the cache after them."""
    generator, chunks = model.generator(3), []
    for length in lengths:
        codes, cache = model.generate_from(cache, length, sampling, generator)
        chunks.append(codes)
    return torch.cat(chunks, dim=1), cache


def assert_close(cache, other):
    """To rounding, which depends on the alignment of a tensor in memory."""
    assert structure(cache) == structure(other)
    for x, y in zip(flatten_state(cache), flatten_state(other), strict=True):
        assert torch.allclose(x, y, rtol=1e-5, atol=1e-5)


def structure(state):
    """The nesting of a state, with the shapes of its tensors."""
    return tuple(state.shape) if isinstance(state, torch.Tensor) else list(map(structure, state))


# Static steps


@every_model
@torch.no_grad()
def test_a_static_step_generates_what_the_model_does(name, shapes_unchecked):
    model = a_model(name)
    cache = some_cache(model, batch=2)
    sampling = SamplingConfig(temperature=0.8, top_p=0.9, top_k=50)
    wanted, after = generated(model, cache, [60], sampling)
    codes, end = generated(Graphed(model, capture=False), cache, [1, 42, 17], sampling)
    assert torch.equal(codes, wanted)
    assert_close(end, after)


class OneDevice(TorchDispatchMode):
    """Fails for an operation with tensors on two devices, which copies from the CPU or to it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        assert len({x.device for x in tensors}) <= 1, func
        return result


@pytest.mark.parametrize("name", [*MODELS, *MANY_LEVELS])
@torch.no_grad()
def test_a_static_step_never_synchronizes(name, shapes_unchecked):
    """On the device "meta" tensors have no values, so reading one raises an error."""
    step = StaticStep(a_model(name).to("meta"), 2, SamplingConfig(0.8, 0.9, 5))
    with OneDevice():
        for _ in range(20):
            step()
    with pytest.raises(RuntimeError, match="meta"):
        bool(step.finite)


def test_a_copy_between_devices_is_detected():
    with OneDevice(), pytest.raises(AssertionError):
        torch.zeros(2).to("meta")


# Graphs


# On a CPU a GRU changes the shapes of tensors in place, which a tape cannot replay.
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"samplernn"}))
@torch.no_grad()
def test_replays_generate_what_the_model_does(name, tapes, shapes_unchecked):
    model = a_model(name)
    engine = Graphed(model)
    for length in (0, 37):  # from the start of a frame, and from inside one
        cache = some_cache(model, 2, length) if length else model.initial_cache(2)
        wanted, after = generated(model, cache, [60])
        codes, end = generated(engine, cache, [1, 42, 17])
        assert torch.equal(codes, wanted)
        assert_close(end, after)


@pytest.mark.parametrize(("name", "graphs"), GRAPHS.items())
def test_there_is_a_graph_for_each_phase_of_a_frame(name, graphs, tapes, shapes_unchecked):
    engine = Graphed(a_model(name))
    engine.generate(1)
    assert len(engine._captured[2].graphs) == graphs
    if name in ("sashimi", "three pools", "u-net"):
        assert graphs == math.prod(engine.model.backbone.config.pool)


def test_sequences_and_frames_longer_than_a_chunk(tapes, monkeypatch, shapes_unchecked):
    for module in (base, graph):
        monkeypatch.setattr(module, "CHUNK", 20)
    model = a_model("sashimi")
    assert torch.equal(Graphed(model).generate(60), model.generate(60))


def test_other_settings_are_captured_again(tapes, shapes_unchecked):
    model = a_model("one pool")
    engine = Graphed(model)
    others = [SamplingConfig(temperature=0.7), SamplingConfig(top_p=0.5), SamplingConfig(top_k=3)]
    for settings in ({}, *({"sampling": sampling} for sampling in others), {"batch_size": 3}, {}):
        before = engine._captured
        assert torch.equal(engine.generate(20, **settings), model.generate(20, **settings))
        assert engine._captured is not before
    before = engine._captured
    engine.generate(20)
    assert engine._captured is before


# The engine


def test_non_finite_logits_raise_and_no_code_is_out_of_range():
    model = a_model("one pool")
    with torch.no_grad():
        model.head.bias[3] = torch.inf
    engine = Graphed(model, capture=False)
    with pytest.raises(ValueError, match="logits must be finite"):
        engine.generate(5)
    assert engine._captured[1].codes.max() < model.quantizer.levels
    with torch.no_grad():
        engine._captured[1].model.head.bias[3] = 0  # the engine recovers
    assert engine.generate(5).shape == (1, 5)


@pytest.mark.parametrize("name", ["sashimi", "samplernn"])  # with weight norm, which is not easily copied
@torch.no_grad()
def test_the_engine_has_its_own_weights_and_leaves_the_model_unchanged(name, shapes_unchecked):
    model = a_model(name)
    cache = some_cache(model, 1)
    before, _ = generated(model, cache, [30])
    engine = Graphed(model, capture=False)
    assert torch.equal(generated(model, cache, [30])[0], before)
    assert sum(p.numel() for p in engine.parameters()) == sum(p.numel() for p in model.parameters())
    for parameter in model.parameters():
        parameter.add_(0.1)
    assert not torch.equal(generated(model, cache, [30])[0], before)
    assert torch.equal(generated(engine, cache, [30])[0], before)


def test_likelihoods_are_those_of_the_model():
    model, codes = a_model("sashimi"), torch.randint(0, 256, (2, 50))
    engine = Graphed(model, capture=False)
    assert torch.allclose(engine.log_likelihood(codes), model.log_likelihood(codes), atol=1e-4)


MEL = LogMelConfig(8_000, n_mels=8, hop=20, window=256)


@pytest.mark.parametrize(
    ("make", "because"),
    [
        (
            lambda: Vocoder(WaveRNNConfig(8, d_conditioning=3), MEL),
            "must be an AudioLM or a WaveRNN, got Vocoder",
        ),
        (
            lambda: WaveRNN(WaveRNNConfig(8, d_conditioning=3)),
            "no conditioning, got one with d_conditioning=3",
        ),
        (lambda: sparse(WaveRNN(WaveRNNConfig(8)), min_size=0), "must be dense, got a WaveRNN with sparse"),
        (lambda: base.Engine(WaveRNN(WaveRNNConfig(8))), "must be an AudioLM or a WaveRNN, got Engine"),
    ],
)
def test_a_model_without_a_static_step_raises(make, because):
    with pytest.raises(ValueError, match=because):
        Graphed(make(), capture=False)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Vocoder(WaveRNNConfig(8, d_conditioning=3), MEL),
        lambda: Subscale(SubscaleConfig(8, factor=2, lookahead=1, d_conditioning=3, layers=2)),
        lambda: WaveRNN(WaveRNNConfig(8, d_conditioning=3)),
    ],
)
def test_best_engine_returns_a_model_without_an_engine_itself(make, device, monkeypatch):
    model = make()
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device(device)))
    assert best_engine(model) is model


def test_the_initial_cache_of_an_engine_is_that_of_its_model(monkeypatch):
    model = a_model("wavernn")
    monkeypatch.setattr(model, "initial_cache_for", lambda codes: (codes[:, 0], torch.ones(1, 16)))
    code, state = Graphed(model, capture=False).initial_cache_for(torch.full((1, 5, 2), 7))
    assert code.tolist() == [[7, 7]]
    assert torch.equal(state, torch.ones(1, 16))


def test_one_call_gives_the_random_numbers_of_one_call_after_the_other(monkeypatch):
    step = StaticStep(a_model("dual softmax"), 3, SamplingConfig())
    expected = torch.stack(
        [
            torch.rand(3, generator=g, dtype=torch.float64)
            for g in [torch.Generator().manual_seed(1)]
            for _ in range(20)
        ]
    )
    calls, real = [], torch.Tensor.uniform_
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda x, **k: calls.append(x.shape) or real(x, **k))
    step.fill_uniforms(10, torch.Generator().manual_seed(1))
    assert calls == [(10, 2, 3)]
    assert torch.equal(step.uniform[:10].flatten(0, 1), expected)


def test_other_threads_may_use_the_gpu_during_capture(tapes, monkeypatch, shapes_unchecked):
    modes, capture = [], torch.cuda.graph

    def spy(graph, pool, capture_error_mode):
        modes.append(capture_error_mode)
        return capture(graph, pool, capture_error_mode)

    monkeypatch.setattr(torch.cuda, "graph", spy)
    Graphed(a_model("one pool")).generate(1)
    assert modes == ["thread_local"] * 2


def test_without_a_gpu_graphed_raises():
    with pytest.raises(ValueError, match="model must be on a CUDA device, got one on cpu"):
        graphed(a_model("one pool"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_model
@torch.no_grad()
def test_on_a_gpu_replays_equal_steps_without_capture(name, shapes_unchecked):
    """Both take the same random numbers, which the model itself does not on a GPU."""
    model = a_model(name).cuda()
    engine, uncaptured = graphed(model), Graphed(model, capture=False)
    codes = model.quantizer.encode(2 * torch.rand(2, 37) - 1).cuda()
    cache = model.prefill(codes, model.initial_cache(2))
    for sampling in (SamplingConfig(), SamplingConfig(0.8, 0.9, 50)):
        wanted, after = generated(uncaptured, cache, [1, 42, 17], sampling)
        codes, end = generated(engine, cache, [1, 42, 17], sampling)
        assert torch.equal(codes, wanted)
        assert [x.device for x in flatten_state(end)] == [x.device for x in flatten_state(after)]
        assert_close(end, after)
