"""The graph engine: a static step draws what the model draws, asks the GPU nothing, and can be replayed.

Nothing but the last test needs a GPU: recording and replaying are tried with graphs of operations on a CPU.
"""

import math
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

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
# Not to be drawn from here: with 65,536 levels, rounding decides one code in some hundreds.
MANY_LEVELS = {
    "logistics": lambda: AudioLM(CoarseFine(), SaShiMi(SaShiMiConfig(4, 1, pool=(2,))), head=Logistics(4))
}
GRAPHS = {"sashimi": 16, "three pools": 12, "u-net": 6, "samplernn": 8, "wavenet": 1, "wavernn": 1}
every_model = pytest.mark.parametrize("name", MODELS)


def a_model(name):
    """With weights large enough that what it draws depends on what it heard."""
    model = (MODELS | MANY_LEVELS)[name]()
    with torch.no_grad():
        for parameter in (*model.parameters(),)[-8:]:
            parameter.mul_(3)
    return model


def some_past(model, batch, length=37):
    """After a prompt that ends inside a frame."""
    codes = model.quantizer.encode(2 * torch.rand(batch, length) - 1)
    return model.prefill(codes, model.initial_cache(batch))


def drawn(model, cache, lengths, sampling=SamplingConfig()):
    """Codes drawn in pieces, and the past after them."""
    generator, pieces = model.generator(3), []
    for length in lengths:
        codes, cache = model.generate_from(cache, length, sampling, generator)
        pieces.append(codes)
    return torch.cat(pieces, dim=1), cache


def assert_close(cache, other):
    """To rounding, which differs with where in memory a tensor lies."""
    assert nested(cache) == nested(other)
    for x, y in zip(flatten_state(cache), flatten_state(other), strict=True):
        assert torch.allclose(x, y, rtol=1e-5, atol=1e-5)


def nested(state):
    """The structure of a state, with the shapes of its tensors."""
    return tuple(state.shape) if isinstance(state, torch.Tensor) else list(map(nested, state))


# Static steps


@every_model
@torch.no_grad()
def test_a_static_step_draws_what_the_model_draws(name, shapes_unchecked):
    model = a_model(name)
    cache = some_past(model, batch=2)
    sampling = SamplingConfig(temperature=0.8, top_p=0.9, top_k=50)
    wanted, after = drawn(model, cache, [60], sampling)
    codes, end = drawn(Graphed(model, record=False), cache, [1, 42, 17], sampling)
    assert torch.equal(codes, wanted)
    assert_close(end, after)


class OneDevice(TorchDispatchMode):
    """Fails where an operation has tensors on two devices: one that copies from the CPU, or to it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        assert len({x.device for x in tensors}) <= 1, func
        return result


@pytest.mark.parametrize("name", [*MODELS, *MANY_LEVELS])
@torch.no_grad()
def test_a_static_step_asks_the_device_nothing(name, shapes_unchecked):
    """On the device "meta" no tensor has numbers in it: who asks for one gets an error."""
    step = StaticStep(a_model(name).to("meta"), 2, SamplingConfig(0.8, 0.9, 5))
    with OneDevice():
        for _ in range(20):
            step()
    with pytest.raises(RuntimeError, match="meta"):
        bool(step.finite)


def test_one_that_copies_would_be_noticed():
    with OneDevice(), pytest.raises(AssertionError):
        torch.zeros(2).to("meta")


# Graphs


class Tape(TorchDispatchMode):
    """A graph without a GPU: what was done to some tensors, done again to the same. Clocks, which with a GPU
    would be the only ones on the CPU, it does not see."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if not any(x.ndim == 0 and x.dtype == torch.long for x in tensors):
            self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if old.data_ptr() != new.data_ptr():  # else it is a view, or was changed in place
                    old.copy_(new)


@pytest.fixture
def tapes(monkeypatch):
    @contextmanager
    def record(graph, pool, capture_error_mode):
        with graph:
            yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, double in {
        "CUDAGraph": Tape,
        "graph": record,
        "graph_pool_handle": lambda: None,
        "device": nullcontext,
        "Stream": lambda: stream,
        "stream": nullcontext,
        "current_stream": lambda: stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, double)


# A GRU turns the shapes of some tensors in place on a CPU, which a tape cannot follow.
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"samplernn"}))
@torch.no_grad()
def test_replays_draw_what_the_model_draws(name, tapes, shapes_unchecked):
    model = a_model(name)
    engine = Graphed(model)
    for length in (0, 37):  # from the beginning of a frame, and from inside of one
        cache = some_past(model, 2, length) if length else model.initial_cache(2)
        wanted, after = drawn(model, cache, [60])
        codes, end = drawn(engine, cache, [1, 42, 17])
        assert torch.equal(codes, wanted)
        assert_close(end, after)


@pytest.mark.parametrize(("name", "graphs"), GRAPHS.items())
def test_there_is_a_graph_for_each_sample_of_a_frame(name, graphs, tapes, shapes_unchecked):
    engine = Graphed(a_model(name))
    engine.generate(1)
    assert len(engine._recorded[2].graphs) == graphs
    if name in ("sashimi", "three pools", "u-net"):
        assert graphs == math.prod(engine.model.backbone.config.pool)


def test_pieces_and_frames_longer_than_its_buffers(tapes, monkeypatch, shapes_unchecked):
    for module in (base, graph):
        monkeypatch.setattr(module, "PIECE", 20)
    model = a_model("sashimi")
    assert torch.equal(Graphed(model).generate(60), model.generate(60))


def test_other_settings_are_recorded_anew(tapes, shapes_unchecked):
    model = a_model("one pool")
    engine = Graphed(model)
    others = [SamplingConfig(temperature=0.7), SamplingConfig(top_p=0.5), SamplingConfig(top_k=3)]
    for settings in ({}, *({"sampling": sampling} for sampling in others), {"batch_size": 3}, {}):
        before = engine._recorded
        assert torch.equal(engine.generate(20, **settings), model.generate(20, **settings))
        assert engine._recorded is not before
    before = engine._recorded
    engine.generate(20)
    assert engine._recorded is before


# The engine


def test_a_state_that_blew_up_is_reported_and_no_code_leaves_its_range():
    model = a_model("one pool")
    with torch.no_grad():
        model.head.bias[3] = torch.inf
    engine = Graphed(model, record=False)
    with pytest.raises(ValueError, match="logits must be finite"):
        engine.generate(5)
    assert engine._recorded[1].codes.max() < model.quantizer.levels
    with torch.no_grad():
        engine._recorded[1].model.head.bias[3] = 0  # the engine gets over it
    assert engine.generate(5).shape == (1, 5)


@pytest.mark.parametrize("name", ["sashimi", "samplernn"])  # with weight norm, which is not easily copied
@torch.no_grad()
def test_it_keeps_its_weights_and_leaves_the_model_as_it_is(name, shapes_unchecked):
    model = a_model(name)
    cache = some_past(model, 1)
    before, _ = drawn(model, cache, [30])
    engine = Graphed(model, record=False)
    assert torch.equal(drawn(model, cache, [30])[0], before)
    assert sum(p.numel() for p in engine.parameters()) == sum(p.numel() for p in model.parameters())
    for parameter in model.parameters():
        parameter.add_(0.1)
    assert not torch.equal(drawn(model, cache, [30])[0], before)
    assert torch.equal(drawn(engine, cache, [30])[0], before)


def test_in_all_else_it_is_the_model():
    model, codes = a_model("sashimi"), torch.randint(0, 256, (2, 50))
    engine = Graphed(model, record=False)
    assert torch.allclose(engine.log_likelihood(codes), model.log_likelihood(codes), atol=1e-4)


MEL = LogMelConfig(8_000, n_mels=8, hop=20, window=256)


@pytest.mark.parametrize(
    ("make", "because"),
    [
        (
            lambda: Vocoder(WaveRNNConfig(8, d_conditioning=3), MEL),
            "must be an AudioLM or a WaveRNN, got Vocoder",
        ),
        (lambda: WaveRNN(WaveRNNConfig(8, d_conditioning=3)), "no conditioning, got one with d_condition=3"),
        (lambda: sparse(WaveRNN(WaveRNNConfig(8)), min_size=0), "must be dense, got a WaveRNN with sparse"),
        (lambda: base.Engine(WaveRNN(WaveRNNConfig(8))), "must be an AudioLM or a WaveRNN, got Engine"),
    ],
)
def test_a_model_that_it_cannot_run_is_refused(make, because):
    with pytest.raises(ValueError, match=because):
        Graphed(make(), record=False)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Vocoder(WaveRNNConfig(8, d_conditioning=3), MEL),
        lambda: Subscale(SubscaleConfig(8, factor=2, lookahead=1, d_conditioning=3, layers=2)),
        lambda: WaveRNN(WaveRNNConfig(8, d_conditioning=3)),
    ],
)
def test_the_fastest_engine_leaves_alone_what_no_engine_runs(make, device, monkeypatch):
    model = make()
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device(device)))
    assert best_engine(model) is model


def test_an_engine_begins_where_its_model_begins(monkeypatch):
    model = a_model("wavernn")
    monkeypatch.setattr(model, "initial_cache_for", lambda codes: (codes[:, 0], torch.ones(1, 16)))
    code, state = Graphed(model, record=False).initial_cache_for(torch.full((1, 5, 2), 7))
    assert code.tolist() == [[7, 7]]
    assert torch.equal(state, torch.ones(1, 16))


def test_random_numbers_are_asked_for_at_once_and_are_those_of_one_draw_after_the_other(monkeypatch):
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


def test_other_threads_may_use_the_gpu_while_it_records(tapes, monkeypatch, shapes_unchecked):
    modes, record = [], torch.cuda.graph

    def noted(graph, pool, capture_error_mode):
        modes.append(capture_error_mode)
        return record(graph, pool, capture_error_mode)

    monkeypatch.setattr(torch.cuda, "graph", noted)
    Graphed(a_model("one pool")).generate(1)
    assert modes == ["thread_local"] * 2


def test_without_a_gpu_there_are_no_graphs():
    with pytest.raises(ValueError, match="model must be on a CUDA device, got one on cpu"):
        graphed(a_model("one pool"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_model
@torch.no_grad()
def test_on_a_gpu_graphs_draw_what_the_model_draws(name, shapes_unchecked):
    """By the same random numbers: the slow twin, whose steps are not recorded, asks for them alike."""
    model = a_model(name).cuda()
    engine, twin = graphed(model), Graphed(model, record=False)
    codes = model.quantizer.encode(2 * torch.rand(2, 37) - 1).cuda()
    cache = model.prefill(codes, model.initial_cache(2))
    for sampling in (SamplingConfig(), SamplingConfig(0.8, 0.9, 50)):
        wanted, after = drawn(twin, cache, [1, 42, 17], sampling)
        codes, end = drawn(engine, cache, [1, 42, 17], sampling)
        assert torch.equal(codes, wanted)
        assert [x.device for x in flatten_state(end)] == [x.device for x in flatten_state(after)]
        assert_close(end, after)
