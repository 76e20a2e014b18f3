"""Files of models: `load` restores what `save` wrote."""

import dataclasses
import json

import pytest
import torch

from sashimi_lib import __version__
from sashimi_lib.audio.quantizers import CoarseFine, Linear, MuLaw
from sashimi_lib.models import WaveRNNConfig
from sashimi_lib.models.audio_lm import AudioLM, new_model
from sashimi_lib.pretrained import ModelCard, load, save
from tests.pretrained.cases import (
    BACKBONES,
    DIFFUSION,
    contents,
    new_subscale,
    new_vocoder,
    random_diffusion_model,
    refused,
    rewrite,
)


@pytest.mark.parametrize("quantizer", [MuLaw(), Linear(16)], ids=str)
@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_load_restores_any_model(name, quantizer, tmp_path):
    lm = AudioLM(quantizer, BACKBONES[name].build())
    card = ModelCard("mine", "noise", "nobody", steps=3, test_bits=7.5, test_interval=(7.0, 8.0))
    save(tmp_path / "new" / "file", lm, 22_050, card)
    before = torch.get_rng_state()
    back = load(tmp_path / "new" / "file")
    assert torch.equal(torch.get_rng_state(), before)
    assert back.model.quantizer == quantizer
    assert back.model.backbone.config == BACKBONES[name]
    assert back.sample_rate == 22_050
    expected = dataclasses.replace(card, parameters=back.card.parameters, expected=back.card.expected)
    assert back.card == expected
    codes = torch.randint(0, quantizer.levels, (2, 40))
    assert torch.equal(back.model(codes)[0], lm(codes)[0])
    assert tuple(lm.generate(64, seed=0)[0].tolist()) == back.card.expected.codes


@pytest.mark.parametrize("levels", [256, 16])
@pytest.mark.parametrize("name", ["wavernn", *BACKBONES])
@torch.no_grad()
def test_load_restores_any_16_bit_model(name, levels, tmp_path):
    config = BACKBONES.get(name, WaveRNNConfig(12, levels=levels))
    model = new_model(config, CoarseFine(levels))
    before = torch.get_rng_state()
    save(tmp_path / "file", model, 8000, ModelCard("mine"))
    back = load(tmp_path / "file")
    assert torch.equal(torch.get_rng_state(), before)
    assert type(back.model) is type(model)
    assert back.model.quantizer == CoarseFine(levels)
    codes = torch.randint(0, levels, (2, 40, 2))
    assert torch.equal(back.model.log_likelihood(codes), model.log_likelihood(codes))
    expected = back.card.expected
    generated = model.generate(64, seed=0)[0]
    assert expected.codes == tuple(map(tuple, generated.tolist()))
    assert torch.equal(model.quantizer.decode(generated), torch.tensor(expected.waveform))


@pytest.mark.parametrize("name", DIFFUSION)
@torch.no_grad()
def test_load_restores_any_diffusion_model(name, tmp_path):
    model = random_diffusion_model(name)
    before = torch.get_rng_state()
    save(tmp_path / "file", model, 8000, ModelCard("mine", test_loss=0.25))
    back = load(tmp_path / "file")
    assert torch.equal(torch.get_rng_state(), before)
    assert back.model.config == DIFFUSION[name]
    assert (back.sample_rate, back.card.test_loss, back.card.test_bits) == (8000, 0.25, None)
    n, waveform = model.config.backbone.n_classes, torch.tensor([back.card.expected.waveform])
    assert torch.tensor(back.card.expected.noise).shape == (max(n, 1), 8)
    x, step = 0.1 * torch.randn(3, 40), torch.full((3,), 7.5)
    label = torch.tensor([0, 1, n - 1]) if n else None
    features = model.log_mel(x) if model.log_mel else None
    saved, restored = (m.denoise(x, step, label, features=features) for m in (model, back.model))
    assert all(torch.equal(a, b) for a, b in zip(saved, restored, strict=True))
    if features is None:
        assert torch.allclose(waveform, back.model.sample_audio(64), atol=1e-5)
    assert waveform.shape == (1, 64)
    assert waveform.std() > 0.01


@pytest.mark.parametrize("make", [new_vocoder, new_subscale])
@torch.no_grad()
def test_load_restores_vocoders_and_subscale_models(make, tmp_path):
    model = make()
    before = torch.get_rng_state()
    save(tmp_path / "file", model, 8000, ModelCard("mine"))
    back = load(tmp_path / "file")
    assert torch.equal(torch.get_rng_state(), before)
    assert type(back.model) is type(model)
    assert back.model.config == model.config
    codes = torch.randint(0, model.quantizer.levels, (2, 40, 2))
    assert torch.equal(back.model.log_likelihood(codes), model.log_likelihood(codes))
    assert len(back.card.expected.codes) == 64
    tensors, metadata = contents(tmp_path / "file")
    rewrite(
        tmp_path / "file", tensors | {"cell.O2.bias": torch.arange(1.0 * model.quantizer.levels)}, metadata
    )
    refused(tmp_path / "file", "self-test failed: likelihood of the reference codes is .* bits, expected")


def test_saving_does_not_modify_the_model_and_loads_in_single_precision(model, tmp_path):
    model.double()
    save(tmp_path / "file", model, 8000, ModelCard("mine"))
    assert next(model.parameters()).dtype == torch.float64
    assert next(load(tmp_path / "file").model.parameters()).dtype == torch.float32


def test_half_precision_halves_the_file_and_rounds_the_weights(model, tmp_path):
    for dtype in (torch.float32, torch.float16):
        save(tmp_path / str(dtype), model, 16_000, ModelCard("mine"), dtype)
    whole, half = ((tmp_path / str(dtype)).stat().st_size for dtype in (torch.float32, torch.float16))
    weights = sum(p.numel() for p in model.parameters())
    assert abs(whole - half - 2 * weights) < 100  # the headers differ by a few letters
    for name, weight in load(tmp_path / "torch.float16").model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, model.state_dict()[name].half().float())


def test_an_interrupted_save_leaves_the_old_file(file, model, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    before = file.read_bytes()
    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save(file, model, 16_000, ModelCard("other"))
    assert file.read_bytes() == before


def test_the_header_is_readable_json(file):
    header = json.loads(contents(file)[1]["header"])
    assert header["backbone"]["class"] == "WaveNetConfig"
    assert header["quantizer"] == {"class": "MuLaw", "levels": 256}
    assert header["card"]["library"] == __version__


def test_cards_without_the_newer_fields_are_read(file):
    tensors, metadata = contents(file)
    header = json.loads(metadata["header"])
    newer = (
        "hours",
        "hardware",
        "test_interval",
        "test_recordings",
        "linear_prediction_bits",
        "bundled_clips",
    )
    for name in newer:
        del header["card"][name]
    rewrite(file, tensors, metadata | {"header": json.dumps(header)})
    card = load(file).card
    assert card.name == "mine"
    assert [getattr(card, name) for name in newer] == [None, "", None, 0, None, ""]


def test_nothing_is_unpickled(file, monkeypatch):
    def unpickled(*_, **__):
        raise AssertionError("unpickled")

    for where in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(where, unpickled)
    load(file)
