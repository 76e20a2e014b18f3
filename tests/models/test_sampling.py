"""Sampling options: what each does, that all engines agree, and that they are defined in one place."""

import importlib
import inspect
import pkgutil
from dataclasses import fields
from functools import partial
from typing import get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sashimi_lib
from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.cli.arguments import SamplingOptions
from sashimi_lib.models import (
    SamplingConfig,
    SaShiMi,
    SaShiMiConfig,
    Subscale,
    SubscaleConfig,
    WaveNet,
    WaveNetConfig,
    WaveRNN,
    WaveRNNConfig,
    sampling,
)
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.sampling import distribution, sample_token
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.streaming import compiled, stream
from sashimi_lib.streaming.compiled_ops import pack_sampling
from sashimi_lib.streaming.graph import Graphed
from tests.awkward import without_shape_checks

ALL_SET = SamplingConfig(temperature=0.8, top_p=0.9, top_k=12)
LENGTH = 60
WAVENET = WaveNetConfig(stacks=1, layers=3, d_residual=4, d_dilation=4, d_skip=8, d_end=8, d_model=4)
MODELS = {
    "sashimi": lambda: AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(8, 1))),
    "wavenet, dual softmax": lambda: AudioLM(CoarseFine(), WaveNet(WAVENET)),
    "wavernn": lambda: WaveRNN(WaveRNNConfig(d_hidden=16)),
}


def generate(model, **settings):
    """Generate waveforms in one call."""
    return model.quantizer.decode(model.generate(LENGTH, **settings))


def generate_stream(model, **settings):
    """Generate a waveform in chunks."""
    return torch.cat(list(stream(model, LENGTH / 1_000, 0.017, sample_rate=1_000, **settings)), dim=1)


ENGINES = {
    "eager": generate,
    "compiled": lambda model, **settings: generate(compiled(model), **settings),
    "graph": lambda model, **settings: generate(Graphed(model, capture=False), **settings),
    "stream": generate_stream,
}
every_model = pytest.mark.parametrize("name", MODELS)
every_engine = pytest.mark.parametrize("engine", ENGINES)


def sharpened(model):
    """Scale the weights up, so that some codes are much more likely than others."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def by_definition(logits, config=SamplingConfig()):
    """`distribution` of each row in plain Python: from the most likely code down, ties in order of the
    code."""
    probability = torch.zeros(logits.shape, dtype=torch.float64)
    for row, p in zip(logits.double(), probability, strict=True):
        kept = sorted(range(len(row)), key=lambda code: (-float(row[code]), code))[: config.top_k]
        share, total = (row[kept] / config.temperature).softmax(-1), 0.0
        for code, of_code in zip(kept, share, strict=True):
            if total < config.top_p:
                p[code] = of_code
            total += float(of_code)
    return probability


# What the options do


@given(
    st.lists(st.integers(-4, 4), min_size=2, max_size=12), st.floats(0.2, 3), st.floats(0.01, 1),
    st.none() | st.integers(1, 14),
)  # fmt: skip
@settings(max_examples=100)
def test_the_distribution_follows_the_definition(logits, temperature, top_p, top_k):
    """With many equal logits."""
    config, logits = SamplingConfig(temperature, top_p, top_k), torch.tensor([logits]).float()
    near = (by_definition(logits, SamplingConfig(temperature, 1.0, top_k))[0].sort().values.flip(0)).cumsum(0)
    if top_p == 1 or (near - top_p).abs().min() > 1e-5:  # else rounding decides the nucleus
        assert torch.allclose(distribution(logits, config).double(), by_definition(logits, config), atol=1e-6)


def test_top_k_keeps_k_of_equal_codes_the_lower_ones():
    logits = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]])
    for k, kept in ((1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3, 4])):
        probability = distribution(logits, SamplingConfig(top_k=k))[0]
        assert probability.nonzero()[:, 0].tolist() == kept
        assert float(probability.sum()) == pytest.approx(1)


def test_top_p_is_a_share_of_what_top_k_keeps():
    logits = torch.tensor([[0.3, 0.3, 0.2, 0.2]]).log()
    kept = distribution(logits, SamplingConfig(top_p=0.7, top_k=3))[0].nonzero()[:, 0]
    assert kept.tolist() == [0, 1]  # 0.375 and 0.375 of three, but 0.3 and 0.3 of all four


def test_options_that_keep_all_codes_change_no_bit():
    logits = torch.randn(50, 256)
    plain = (logits.float()).softmax(-1)
    for config in (SamplingConfig(), SamplingConfig(top_k=256), SamplingConfig(top_k=10_000)):
        assert torch.equal(distribution(logits, config), plain)


@pytest.mark.parametrize("config", [SamplingConfig(), SamplingConfig(top_k=1), ALL_SET])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_logits_are_reported_with_all_options(config, bad):
    with pytest.raises(ValueError, match="logits must be finite"):
        sample_token(torch.tensor([[0.0, 1.0, bad]]), config)


@pytest.mark.parametrize(
    ("options", "because"),
    [
        ({"temperature": 0.0}, r"temperature must be positive, got 0\.0"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0\.0"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\], got 1\.5"),
        ({"top_k": 0}, "top_k must be an integer of at least 1, or None, got 0"),
        ({"top_k": 2.5}, r"top_k must be an integer of at least 1, or None, got 2\.5"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, because):
    with without_shape_checks(), pytest.raises(ValueError, match=because):
        SamplingConfig(**options)


# All engines agree


@torch.no_grad()
def sample_waveform(model, sampler):
    """Sample the waveform of two sequences, step by step."""
    (code, state), codes = model.initial_cache(2), []
    for _ in range(LENGTH):
        code, state = model.sample_next(code, state, sampler)
        codes.append(code)
    return model.quantizer.decode(torch.stack(codes, dim=1))


@every_model
@every_engine
def test_top_1_is_the_most_likely_code_for_any_seed(name, engine, shapes_unchecked):
    model = sharpened(MODELS[name]())
    expected = sample_waveform(model, lambda logits: logits.argmax(-1))
    for seed in (0, 1):
        made = ENGINES[engine](model, batch_size=2, sampling=SamplingConfig(top_k=1), seed=seed)
        assert torch.equal(made, expected)


@every_model
@every_engine
def test_every_engine_samples_by_the_definition(name, engine, monkeypatch, shapes_unchecked):
    model = sharpened(MODELS[name]())
    made = {}
    for config in (ALL_SET, SamplingConfig(temperature=1.3, top_k=5)):
        made[config] = ENGINES[engine](model, batch_size=2, sampling=config, seed=4)
    monkeypatch.setattr(sampling, "distribution", by_definition)
    for config, waveform in made.items():
        expected = sample_waveform(
            model, partial(sample_token, sampling=config, generator=model.generator(4))
        )
        assert torch.equal(waveform, expected)


@pytest.fixture
def subscale():
    return sharpened(Subscale(SubscaleConfig(8, factor=2, lookahead=1, d_conditioning=3, layers=2)))


@pytest.mark.parametrize("method", ["generate", "generate_sequential"])
@torch.no_grad()
def test_top_1_of_a_subscale_model_is_the_most_likely_code(method, subscale, shapes_unchecked):
    codes = getattr(subscale, method)(12, batch_size=2, sampling=SamplingConfig(top_k=1), seed=3)
    states, _ = subscale(codes.unflatten(1, (-1, 2)), subscale.initial_state(2))
    for byte, logits in enumerate((subscale.cell.coarse_logits(states), subscale.cell.fine_logits(states))):
        assert torch.equal(logits.argmax(-1).mT.flatten(1), codes[..., byte])


@pytest.mark.parametrize("method", ["generate", "generate_sequential"])
def test_a_subscale_model_samples_by_the_definition(method, subscale, monkeypatch, shapes_unchecked):
    make = partial(getattr(subscale, method), 12, batch_size=2, sampling=ALL_SET, seed=5)
    codes = make()
    monkeypatch.setattr(sampling, "distribution", by_definition)
    assert torch.equal(codes, make())


def test_a_vocoder_samples_by_the_definition(monkeypatch, shapes_unchecked):
    model = sharpened(
        Vocoder(WaveRNNConfig(12, d_conditioning=3), LogMelConfig(8_000, n_mels=8, hop=20, window=80))
    )
    features = model.log_mel(0.3 * torch.randn(2, LENGTH).clamp(-3, 3))
    synthesize = partial(model.synthesize, features, sampling=ALL_SET, seed=5)
    codes = synthesize()
    monkeypatch.setattr(sampling, "distribution", by_definition)
    assert torch.equal(codes, synthesize())


# They are defined in one place

NAMES = [option.name for option in fields(SamplingConfig)]


def functions():
    """Yield every function and method that the library defines, by its full name."""
    for module in pkgutil.walk_packages(sashimi_lib.__path__, "sashimi_lib."):
        if module.name.endswith("__main__"):
            continue
        for _, member in inspect.getmembers(importlib.import_module(module.name)):
            if getattr(member, "__module__", None) != module.name:
                continue
            own = vars(member).items() if inspect.isclass(member) else [(None, member)]
            for name, function in own:
                if inspect.isfunction(function):
                    yield ".".join(filter(None, (module.name, member.__qualname__, name))), function


def test_every_generating_function_takes_a_sampling_config():
    taken = {name: inspect.signature(function).parameters for name, function in functions()}
    apart = {name for name, parameters in taken.items() if set(NAMES) & parameters.keys()}
    assert apart == {"sashimi_lib.sampling_config.SamplingConfig.__init__"}
    assert {name for name, parameters in taken.items() if "sampling" in parameters} >= {
        "sashimi_lib.models.autoregressive.DiscreteAudioModel.generate",
        "sashimi_lib.models.autoregressive.Autoregressive.generate",
        "sashimi_lib.models.autoregressive.Autoregressive.generate_from",
        "sashimi_lib.models.subscale.Subscale.generate",
        "sashimi_lib.models.subscale.Subscale.generate_sequential",
        "sashimi_lib.streaming.engine.Compiled.generate_from",
        "sashimi_lib.streaming.graph.Graphed.generate_from",
        "sashimi_lib.streaming.live.stream",
        "sashimi_lib.streaming.live.Stream.__init__",
        "sashimi_lib.models.vocoder.Vocoder.synthesize",
    }


def test_compiled_code_and_the_command_line_have_every_option():
    assert pack_sampling(ALL_SET)._asdict() == {name: getattr(ALL_SET, name) for name in NAMES}
    assert get_type_hints(SamplingOptions) == get_type_hints(SamplingConfig)
    hints = get_type_hints(SamplingOptions, include_extras=True)
    for option in fields(SamplingConfig):
        assert hints[option.name].__metadata__[0].help_behavior_hint == f"(default: {option.default})"
