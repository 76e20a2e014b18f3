"""The shipped models: their cards, their reference outputs, the bits of the bundled audio, the wheel."""

import copy
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.data import bundled
from sashimi_lib.diffusion.samplers import DPM_SOLVER
from sashimi_lib.evaluation.classifier import load_classifier
from sashimi_lib.models import (
    WaveRNN,
    WaveRNNConfig,
)
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.sampling import sample_token
from sashimi_lib.pretrained import WEIGHTS, bundled_bits, list_models, load
from tests.pretrained.cases import BACKBONES

# Models that sample one code after the other, with the bundled clips that resemble their training data.
AUTOREGRESSIVE = {
    "digits": "spoken_digits",
    "digits16": "spoken_digits",
    "piano": "piano",
    "wavernn": "spoken_digits",
}
SHIPPED = sorted([*AUTOREGRESSIVE, "digits_diffusion"])
FLAT = [248, 181, 117, 235, 165]  # codes of seed 0 at equal probabilities, in the PyTorch of the reference


@pytest.fixture(scope="module")
def shipped():
    return {name: load(name) for name in SHIPPED}


def test_the_shipped_files_are_those_listed():
    assert (
        list_models()
        == SHIPPED
        == sorted(path.stem for path in WEIGHTS.iterdir() if path.suffix != ".md" and path.is_file())
    )
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 15e6
    for name in SHIPPED:
        assert f"`{name}.safetensors`" in (WEIGHTS / "CREDITS.md").read_text()


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_the_card_describes_the_shipped_model(name, shipped):
    card, lm = shipped[name].card, shipped[name].model
    assert card.name == name
    assert card.library  # the version that wrote the file
    assert card.parameters == sum(p.numel() for p in lm.parameters())
    assert "CC" in card.credit
    assert card.samples >= card.steps >= 500
    assert card.test_bits < (12 if card.bigram_bits is None else card.bigram_bits - 0.5)
    assert card.bundled_clips in (AUTOREGRESSIVE[name], "")  # files of version 0.1.0 do not name them
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in lm.parameters())
    assert shipped[name].sample_rate == (16_000 if name == "piano" else 8000)


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
@torch.no_grad()
def test_a_shipped_model_gives_its_reference_bits_and_waveform(name, shipped):
    lm, expected = shipped[name].model, shipped[name].card.expected
    codes = torch.tensor([expected.codes])
    assert codes.shape[:2] == (1, 64)
    assert -float(lm.log_likelihood(codes).mean()) == pytest.approx(expected.bits, abs=1e-3)
    assert torch.equal(lm.quantizer.decode(codes)[0], torch.tensor(expected.waveform))


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
@torch.no_grad()
def test_a_shipped_model_samples_its_reference_codes(name, shipped):
    flat = sample_token(torch.zeros(5, 256), generator=torch.Generator().manual_seed(0)).tolist()
    if flat != FLAT:
        pytest.skip("the random numbers of this PyTorch differ from those of the reference")
    lm, expected = shipped[name].model, shipped[name].card.expected
    codes = lm.generate(64, seed=0)[0]
    assert torch.equal(codes, torch.tensor(expected.codes))
    # In double precision too: no sample depends on rounding.
    assert torch.equal(copy.deepcopy(lm).double().generate(64, seed=0)[0], codes)


@pytest.mark.slow
def test_the_shipped_diffusion_model_generates_the_digits_of_its_labels(shipped):
    model, card = shipped["digits_diffusion"].model, shipped["digits_diffusion"].card
    assert card.parameters == sum(p.numel() for p in model.parameters())
    assert card.steps > 1000
    assert 0 < card.test_loss < 0.5
    assert all(word in card.credit for word in ("Zohar Jackson", "CC BY-SA 4.0"))
    labels = torch.arange(10).repeat(2)
    waveforms = model.generate(4096, label=labels, guidance=2.0, sampler=DPM_SOLVER, steps=12, seed=1)
    digits, _ = load_classifier().classify(waveforms)
    right = (digits == labels).view(2, 10).any(0)
    assert int(right.sum()) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_a_shipped_model_gives_the_bundled_bits_of_its_card(name, shipped):
    bits = bundled_bits(shipped[name].model, shipped[name].sample_rate, AUTOREGRESSIVE[name])
    assert bits == pytest.approx(shipped[name].card.bundled_bits, abs=1e-3)


def test_bundled_bits_of_other_clips_or_rates_are_refused(model):
    with pytest.raises(ValueError, match="clips must be one of piano, spoken_digits, tunes, got 'violin'"):
        bundled_bits(model, 8000, "violin")
    for clips, rate in (("piano", 16_000), ("spoken_digits", 8000), ("tunes", 8000)):
        with pytest.raises(ValueError, match=f"sample_rate must be {rate}, that of {clips}, got 44100"):
            bundled_bits(model, 44_100, clips)


def test_bundled_bits_are_those_of_the_clips_that_are_named():
    model = AudioLM(MuLaw(2), BACKBONES["wavenet"].build())
    for parameter in model.parameters():
        parameter.data.zero_()
    model.head.bias.data[1] = 100.0  # code 0 needs 100 nats, code 1 none
    parts = {
        "piano": [bundled.piano().test],
        "spoken_digits": [clip.waveform for clip in bundled.spoken_digits().values()],
        "tunes": [clip.waveform for clip in bundled.tunes()],
    }
    for clips, waveforms in parts.items():
        share = float((MuLaw(2).encode(torch.cat(waveforms)) == 0).double().mean())
        bits = bundled_bits(model, 16_000 if clips == "piano" else 8000, clips)
        assert bits == pytest.approx(100 / math.log(2) * share, rel=1e-5)


def test_bundled_bits_of_a_16_bit_model_are_those_of_both_codes():
    model = WaveRNN(WaveRNNConfig(12))
    for parameter in model.parameters():
        parameter.data.zero_()
    assert bundled_bits(model, 8000, "spoken_digits") == pytest.approx(16, abs=1e-5)
    model.O4.bias.data[0] = 30.0  # the fine code is 0, for certain
    fine = torch.cat([CoarseFine().encode(clip.waveform) for clip in bundled.spoken_digits().values()])[:, 1]
    expected = 8 + 30 / math.log(2) * (fine != 0).double().mean()
    assert bundled_bits(model, 8000, "spoken_digits") == pytest.approx(float(expected), rel=1e-5)


def test_an_unknown_name_is_refused_with_the_list_of_models():
    with pytest.raises(ValueError, match=f"one of {', '.join(SHIPPED)}, or the path of a file"):
        load("violin")


@pytest.mark.slow
def test_an_installed_wheel_contains_the_models(root, tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "sashimi_lib", tmp_path / "source" / "sashimi_lib", ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path / "source")
    make = "import setuptools.build_meta as b; b.build_wheel('..')"
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path / "source", check=True, capture_output=True)
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), tmp_path / "installed", "zip")
    use = "from sashimi_lib.pretrained import *; print(*[load(x).card.name for x in list_models()], WEIGHTS)"
    done = subprocess.run(
        [sys.executable, "-c", use],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [*SHIPPED, str(tmp_path / "installed" / "sashimi_lib" / "weights")]
