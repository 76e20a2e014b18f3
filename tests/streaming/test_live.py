"""A stream generates what one call does, from any cache, without end; it can be copied and saved."""

import copy
import itertools
import json
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sashimi_lib.audio.quantizers import CoarseFine, Linear, MuLaw
from sashimi_lib.models import (
    IsotropicConfig,
    IsotropicS4,
    SampleRNN,
    SampleRNNConfig,
    SamplingConfig,
    SaShiMi,
    SaShiMiConfig,
    WaveNet,
    WaveNetConfig,
    WaveRNN,
    WaveRNNConfig,
)
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.heads import Logistics
from sashimi_lib.models.states import flatten_state
from sashimi_lib.pretrained import ModelCard, save
from sashimi_lib.storage.tensor_file import read_tensors, write_tensors
from sashimi_lib.streaming import Stream, best_engine, stream
from sashimi_lib.streaming.base import Engine
from sashimi_lib.streaming.engine import Compiled, _warn_once
from sashimi_lib.streaming.live import KIND, _checksum

RATE = 1_000  # so that seconds are few samples
MODELS = {
    "sashimi": lambda: AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(8, 1))),
    "wavenet": lambda: AudioLM(CoarseFine(), WaveNet(WaveNetConfig(1, 3, 4, 4, 8, 8, 4))),
    "wavernn": lambda: WaveRNN(WaveRNNConfig(d_hidden=16)),
    "samplernn": lambda: AudioLM(MuLaw(), SampleRNN(SampleRNNConfig((4, 2), d_hidden=8, d_embedding=4))),
    "isotropic": lambda: AudioLM(Linear(), IsotropicS4(IsotropicConfig(d_model=8, n_layers=1))),
}
every_model = pytest.mark.parametrize("name", MODELS)


def uncompiled(model):
    """An engine that generates by the model's own steps."""
    return Engine(model)


def concatenated(chunks):
    return torch.cat(list(chunks), dim=1)


def a_prompt(model, batch=1, length=21):
    return model.quantizer.encode(2 * torch.rand(batch, length) - 1)


# Chunks


@every_model
def test_chunks_are_generation_in_one_call(name, shapes_unchecked):
    model = uncompiled(MODELS[name]())
    settings = {"prompt": a_prompt(model, batch=2), "sampling": SamplingConfig(0.8, 0.9, 50), "seed": 3}
    chunks = list(stream(model, seconds=0.1, chunk=0.007, sample_rate=RATE, **settings))
    assert [chunk.shape for chunk in chunks] == [(2, 7)] * 14 + [(2, 2)]
    assert torch.equal(concatenated(chunks), model.quantizer.decode(model.generate(100, **settings)))


@pytest.mark.slow
def test_it_generates_by_the_best_engine():
    model = MODELS["wavernn"]()
    live = stream(model, seconds=3, chunk=0.75, sample_rate=RATE, batch_size=2)
    assert isinstance(live.model, Compiled)
    assert torch.equal(concatenated(live), model.quantizer.decode(model.generate(3_000, batch_size=2)))


@every_model
def test_an_endless_stream_takes_constant_memory(name, shapes_unchecked):
    def storages(live):
        return {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in flatten_state(live.cache)
        }

    live = stream(uncompiled(MODELS[name]()), chunk=0.016, sample_rate=RATE)
    sizes = [sum(storages(live).values()) for _ in itertools.islice(live, 20)]
    assert len(sizes) == 20
    assert max(sizes[-2:]) <= max(sizes[2:4])


def test_settings_can_be_changed_between_chunks():
    model = uncompiled(MODELS["wavernn"]())
    live = stream(model, seconds=0.01, sample_rate=RATE)
    assert next(live).shape == (1, 10)
    assert list(live) == []
    live.remaining, live.chunk, live.sampling = 20, 15, SamplingConfig(top_k=1)
    assert [chunk.shape[1] for chunk in live] == [15, 5]


def test_prefilling_a_stream_is_a_prompt(shapes_unchecked):
    model = uncompiled(MODELS["samplernn"]())
    prompt = a_prompt(model)
    live = stream(model, seconds=0.05, sample_rate=RATE)
    live.prefill(prompt[:, :8])
    live.prefill(prompt[:, 8:])
    assert torch.equal(next(live), model.quantizer.decode(model.generate(50, prompt=prompt)))
    with pytest.raises(ValueError, match="codes must be of 1 sequences, got 2"):
        live.prefill(a_prompt(model, batch=2))
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.255"):
        live.prefill(prompt + 256)


@pytest.mark.parametrize(
    ("settings", "because"),
    [({"seconds": 0}, "seconds must be finite and last"), ({"chunk": -1}, "chunk must be finite and last"),
     ({"seconds": float("nan")}, "seconds must be finite"),
     ({"seconds": float("inf")}, "seconds must be finite"), ({"sample_rate": 0}, "sample_rate must be"),
     ({"prompt": torch.full((1, 5, 2), 256)}, "codes must lie in")],
)  # fmt: skip
def test_bad_arguments_raise_before_generation(settings, because):
    with pytest.raises(ValueError, match=because):
        stream(uncompiled(MODELS["wavernn"]()), **settings)


def test_an_interrupted_chunk_leaves_the_stream_unchanged(monkeypatch):
    model = uncompiled(MODELS["wavernn"]())
    wanted = concatenated(stream(model, 0.1, sample_rate=RATE))
    live, sample_next, calls = stream(model, 0.1, 0.02, RATE), model.sample_next, itertools.count()

    def interrupted(*arguments):
        if next(calls) == 30:
            raise KeyboardInterrupt
        return sample_next(*arguments)

    monkeypatch.setattr(model, "sample_next", interrupted)
    first = next(live)
    with pytest.raises(KeyboardInterrupt):
        next(live)
    assert torch.equal(concatenated([first, *live]), wanted)


# Copies and files


@every_model
def test_copies_are_independent(name, shapes_unchecked):
    live = stream(uncompiled(MODELS[name]()), 0.1, 0.03, RATE, batch_size=2)
    next(live)
    same, other, another = live.copy(), live.copy(seed=1), live.copy(seed=1)
    assert torch.equal(next(other), next(another))
    rest = concatenated(live)
    assert rest.shape == (2, 70)
    assert torch.equal(concatenated(same), rest)
    assert not torch.equal(concatenated(other), rest[:, 30:])


@every_model
def test_a_loaded_stream_continues(name, tmp_path, shapes_unchecked):
    model = uncompiled(MODELS[name]())
    live = stream(model, 0.1, 0.03, RATE, sampling=SamplingConfig(0.9, 0.8, 60), batch_size=2)
    next(live)
    live.save(tmp_path / "live.safetensors")
    loaded = Stream.load(model, tmp_path / "live.safetensors")
    reseeded = Stream.load(model, tmp_path / "live.safetensors", seed=0)
    assert (loaded.sample_rate, loaded.chunk, loaded.remaining) == (RATE, 30, 70)
    assert loaded.sampling == SamplingConfig(0.9, 0.8, 60)
    rest = concatenated(live)
    assert torch.equal(concatenated(loaded), rest)
    assert not torch.equal(concatenated(reseeded), rest)
    assert [path.name for path in tmp_path.iterdir()] == ["live.safetensors"]


def test_an_endless_stream_is_saved_and_continues_by_another_engine(tmp_path):
    model = MODELS["wavernn"]()
    live = stream(uncompiled(model), chunk=0.05, sample_rate=RATE)
    next(live)
    live.save(tmp_path / "live")
    loaded = Stream.load(model, tmp_path / "live")
    assert isinstance(loaded.model, Compiled)
    assert loaded.remaining is None
    assert torch.equal(next(loaded), next(live))


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = uncompiled(MODELS["wavernn"]())
    live = stream(model, sample_rate=RATE)
    live.save(tmp_path / "live")
    before = (tmp_path / "live").read_bytes()
    next(live)

    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        live.save(tmp_path / "live")
    assert (tmp_path / "live").read_bytes() == before


def the_model():
    """The model whose stream is `saved`."""
    torch.manual_seed(7)
    return MODELS["wavernn"]()


@pytest.fixture
def saved(tmp_path):
    live = stream(uncompiled(the_model()), sample_rate=RATE)
    live.save(tmp_path / "live")
    return tmp_path / "live"


@pytest.mark.parametrize("position", [4, 300, -1])
def test_a_damaged_file_raises_with_its_name(saved, position):
    content = bytearray(saved.read_bytes())
    content[position] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match=f"path must be a saved stream of this model, got {saved}: "):
        Stream.load(MODELS["wavernn"](), saved)


def test_a_truncated_and_a_missing_file_raise(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    for path in (saved, saved.with_name("none")):
        with pytest.raises(ValueError, match="path must be a saved stream of this model"):
            Stream.load(MODELS["wavernn"](), path)


@pytest.mark.parametrize(
    ("model", "because"),
    [(lambda: WaveRNN(WaveRNNConfig(18)), "other layer sizes"), (MODELS["wavenet"], "other layer sizes"),
     (MODELS["sashimi"], "saved with quantizer CoarseFine"),
     (MODELS["wavernn"], "other weights or settings"),
     (lambda: the_model().double(), "other layer sizes"),
     (lambda: WaveRNN(WaveRNNConfig(16, levels=16)), "saved with quantizer")],
)  # fmt: skip
def test_the_stream_of_another_model_raises(saved, model, because):
    with pytest.raises(ValueError, match=because):
        Stream.load(model(), saved)


def test_the_checksum_depends_on_settings_that_change_no_shape():
    """Dilations, here."""
    config = WaveNetConfig(stacks=2, layers=2, d_residual=4, d_dilation=4, d_skip=8, d_end=8, d_model=4)
    one = AudioLM(MuLaw(), WaveNet(config))
    other = AudioLM(MuLaw(), WaveNet(replace(config, stacks=1, layers=4)))
    other.load_state_dict(one.state_dict())
    assert _checksum(one) != _checksum(other)
    assert _checksum(one) == _checksum(copy.deepcopy(one)) == _checksum(uncompiled(one))


@pytest.mark.parametrize(
    ("setting", "value", "because"),
    [("chunk", 0, "chunk must be a whole number of samples, at least 1, got 0"), ("chunk", 1.5, "got 1.5"),
     ("chunk", None, "chunk must be a whole"), ("remaining", "x", "remaining must be"),
     ("remaining", -1, "remaining must be a whole .* at least 0, got -1"),
     ("sampling", {"temperature": 0}, "temperature must be positive"),
     ("sampling", {"top_p": 2}, "top_p must"), ("sampling", {"top_k": 0.5}, "top_k must be an integer"),
     ("sampling", {"min_p": 2}, "unexpected keyword argument 'min_p'"),
     ("sample_rate", -1, "sample_rate must"), ("sample_rate", 1.5, "sample_rate must")],
)  # fmt: skip
def test_every_setting_in_a_file_is_checked(setting, value, because, saved, shapes_unchecked):
    header, tensors = read_tensors(saved, KIND)
    write_tensors(saved, KIND, json.dumps(header | {setting: value}), tensors)
    with pytest.raises(ValueError, match=f"got {saved}: .*{because}"):
        Stream.load(the_model(), saved)


@pytest.mark.parametrize(("setting", "value"), [("chunk", 0), ("remaining", -5), ("chunk", 2.5)])
def test_a_bad_change_of_a_setting_raises_at_the_next_chunk(setting, value):
    live = stream(uncompiled(MODELS["wavernn"]()), seconds=1, sample_rate=RATE)
    next(live)
    setattr(live, setting, value)
    with pytest.raises(ValueError, match=f"{setting} must be a whole number"):
        next(live)


def test_files_of_other_kinds_raise(tmp_path):
    model = MODELS["wavernn"]()
    save(tmp_path / "model.safetensors", model, RATE, ModelCard("one"))
    save_file({"code": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="expected a sashimi_lib file of kind 'stream 3'"):
            Stream.load(model, path)


def test_loading_on_another_device_needs_a_seed(saved, monkeypatch):
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda *a, **k: loads(*a, **k) | {"device": "cuda"})
    with pytest.raises(ValueError, match="pass a seed"):
        Stream.load(the_model(), saved)
    assert next(Stream.load(the_model(), saved, seed=1)).shape == (1, 100)


def test_a_file_contains_only_the_cache_and_the_random_state(saved):
    assert set(load_file(saved)) == {"code", "random", "state.0"}


# The best engine


@pytest.mark.parametrize(
    ("make", "installed"),
    [(MODELS["samplernn"], True), (MODELS["samplernn"], False), (MODELS["isotropic"], False),
     (lambda: AudioLM(CoarseFine(), SaShiMi(SaShiMiConfig(4, 1)), head=Logistics(4)), True)],
)  # fmt: skip
def test_a_model_without_a_loop_is_returned_without_a_warning(make, installed, monkeypatch):
    if not installed:
        monkeypatch.setitem(sys.modules, "numba", None)
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert best_engine(model) is model


def test_an_engine_is_returned_itself():
    engine = best_engine(MODELS["wavernn"]())
    assert isinstance(engine, Compiled)
    assert best_engine(engine) is engine


def test_without_numba_one_warning_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    _warn_once.cache_clear()
    model = MODELS["wavernn"]()
    with pytest.warns(UserWarning, match=r'pip install "sashimi_lib\[fast\]"'):
        assert best_engine(model) is model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert best_engine(model) is model
        assert next(stream(model, sample_rate=RATE)).shape == (1, 100)


def test_importing_the_cli_imports_neither_numba_nor_sounddevice():
    code = "import sys, sashimi_lib.cli; sys.exit(bool({'numba', 'sounddevice'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)
