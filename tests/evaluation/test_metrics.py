"""Metrics of a model on held-out recordings: their values, and the models they refuse."""

import pytest
import torch

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.diffusion.samplers import DPM_SOLVER
from sashimi_lib.evaluation.distances import spectrum_distance, stft_distance
from sashimi_lib.evaluation.likelihood import ConfidenceInterval, clip_bits, mean_bits
from sashimi_lib.evaluation.metrics import METRICS, HeldOut, Report
from sashimi_lib.models import DiffWaveConfig, WaveRNN, WaveRNNConfig
from sashimi_lib.models.vocoder import Vocoder

RATE = 8_000
MEL = LogMelConfig(RATE, n_mels=8, hop=100, window=400)
SPECTRUM = LogMelConfig(RATE, n_mels=40, hop=100, window=400)
SMALL = DiffWaveConfig(d_residual=4, d_skip=4, n_layers=2, d_step=(4, 6, 8))


def model_of_codes() -> WaveRNN:
    return WaveRNN(WaveRNNConfig(d_hidden=8))


def vocoder() -> Vocoder:
    return Vocoder(WaveRNNConfig(d_hidden=8, d_conditioning=3), MEL)


def noise(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(samples).clamp(-3, 3)


def test_bits_are_those_of_the_clips_with_their_interval_over_recordings() -> None:
    model, recordings = model_of_codes(), list("aabcdef")
    codes = [model.quantizer.encode(noise(40 + number)) for number in range(7)]
    report = METRICS["bits"](model, HeldOut(codes, RATE, recordings))
    assert report.value == mean_bits(clip_bits(model, codes), codes, recordings)
    assert isinstance(report.value, ConfidenceInterval)
    assert report.value.interval is not None
    assert report.mean == report.value.mean
    assert report.data.seconds == pytest.approx(sum(map(len, codes)) / RATE)


def test_sequences_of_unknown_recordings_count_as_one_recording() -> None:
    model = model_of_codes()
    report = METRICS["bits"](model, HeldOut([model.quantizer.encode(noise(40)) for _ in range(7)], RATE))
    assert isinstance(report.value, ConfidenceInterval)
    assert (report.value.interval, report.value.recordings) == (None, 1)


@pytest.mark.slow
def test_the_spectrum_is_that_of_what_the_model_generates() -> None:
    model = model_of_codes()
    real = [noise(400), noise(250)]
    data = HeldOut([model.quantizer.encode(x) for x in real], RATE, batch_size=2, count=3, seed=5)
    report = METRICS["spectrum_distance"](model, data)
    generator = torch.Generator().manual_seed(5)
    generated = [model.quantizer.decode(model.generate(400, n, seed=generator)) for n in (2, 1)]
    decoded = [model.quantizer.decode(x) for x in data.sequences]
    assert report == Report(
        pytest.approx(spectrum_distance(torch.cat(generated), decoded, SPECTRUM)), "dB", data
    )
    assert report.mean > 1
    with pytest.MonkeyPatch.context() as patch:  # a model that generates the recordings themselves
        patch.setattr("sashimi_lib.evaluation.metrics._generated", lambda *_: decoded)
        assert METRICS["spectrum_distance"](model, data).mean == 0


def test_a_diffusion_model_has_a_spectrum_but_no_bits_and_no_resynthesis() -> None:
    model = DiffusionModel(DiffusionConfig(SMALL))
    data = HeldOut([noise(800)], RATE, count=2)
    generated = model.generate(800, 2, sampler=DPM_SOLVER, steps=20, seed=0)
    report = METRICS["spectrum_distance"](model, data)
    assert report.mean == pytest.approx(spectrum_distance(generated, data.sequences, SPECTRUM))
    with pytest.raises(ValueError, match="bits needs a model with a likelihood, got a DiffusionModel"):
        METRICS["bits"](model, data)
    with pytest.raises(ValueError, match="stft_distance needs a vocoder, got a DiffusionModel without"):
        METRICS["stft_distance"](model, data)


def test_a_vocoder_is_compared_with_the_waveforms_of_its_spectrograms() -> None:
    model = vocoder()
    codes = [model.quantizer.encode(noise(samples)) for samples in (1_150, 1_050, 900)]
    report = METRICS["stft_distance"](model, HeldOut(codes, RATE, list("abc")))
    assert [len(x) for x in report.data.sequences] == [1_150, 1_050]
    assert report.data.recordings == ["a", "b"]
    generator, each = torch.Generator().manual_seed(0), []
    for real in map(model.quantizer.decode, codes[:2]):
        sound = model.quantizer.decode(model.synthesize(model.log_mel(real[None]), seed=generator))
        each.append(stft_distance(sound[:, : len(real)], real[None]))
    assert report.value == mean_bits(torch.cat(each), codes[:2], list("ab"))
    with pytest.raises(ValueError, match="sequences of more than 1024 samples"):
        METRICS["stft_distance"](model, HeldOut(codes[2:], RATE))


def test_waveforms_from_spectrograms_are_in_the_order_of_the_recordings() -> None:
    waveforms = [noise(samples) for samples in (1_100, 1_200, 1_100)]
    model = DiffusionModel(DiffusionConfig(DiffWaveConfig(**{**vars(SMALL), "mel": MEL})))
    data = HeldOut(waveforms, RATE, batch_size=2)
    with pytest.MonkeyPatch.context() as patch:  # a vocoder without fault
        patch.setattr("sashimi_lib.evaluation.metrics._from_spectrogram", lambda _, real, __: real)
        assert METRICS["stft_distance"](model, data).mean == 0
        assert METRICS["spectrum_distance"](model, data).mean == 0
    assert METRICS["stft_distance"](model, data).mean > 0.1


def test_a_model_of_codes_has_no_resynthesis() -> None:
    with pytest.raises(ValueError, match="stft_distance needs a vocoder, got a WaveRNN"):
        METRICS["stft_distance"](model_of_codes(), HeldOut([torch.zeros(2_000, 2).long()], RATE))
