"""The vocoder: its conditioning is aligned with the samples, all modes of running agree, and it trains."""

import math

import pytest
import torch

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.models import WaveRNNConfig
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.training.trainer import TrainingConfig, train
from tests.streaming.helpers import error

MEL = LogMelConfig(8_000, n_mels=10, hop=10, window=80)
WAVERNN = WaveRNNConfig(d_hidden=12, d_conditioning=3)


def tone(hertz, seconds=0.1, amplitude=0.5):
    return amplitude * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * 8_000)) / 8_000)[None]


def random_codes(length, batch=2):
    return CoarseFine().encode(0.3 * torch.randn(batch, length).clamp(-3, 3))


@pytest.fixture
def model():
    return Vocoder(WAVERNN, MEL).double()


def test_conditioning_is_the_frames_interpolated_linearly(model):
    features = torch.randn(2, 6, 10).double()
    conditioning = model.conditioning(features, 47)
    assert conditioning.shape == (2, 47, 3)
    frames = model.conditioning_projection(features)
    assert torch.allclose(conditioning[:, ::10], frames[:, :5])
    assert torch.allclose(conditioning[:, 23], 0.7 * frames[:, 2] + 0.3 * frames[:, 3])
    assert torch.allclose(conditioning[:, 46], 0.4 * frames[:, 4] + 0.6 * frames[:, 5])


def by_steps(model, codes):
    """The likelihood of each sample by `Vocoder.sample_next`, conditioned on the codes' own spectrogram."""
    code, state = model.initial_cache_for(codes)
    bits = torch.zeros(codes.shape[:2]).double()
    for t in range(codes.shape[1]):
        targets = iter(codes[:, t].unbind(-1))

        def sampler(logits, t=t, targets=targets):
            target = next(targets)
            bits[:, t] += logits.log_softmax(-1).gather(-1, target[:, None])[:, 0] / math.log(2)
            return target

        code, state = model.sample_next(code, state, sampler)
    return bits


@pytest.mark.parametrize("length", [1, 37, 60])
@torch.no_grad()
def test_the_likelihood_equals_that_of_steps_with_the_same_conditioning(model, length):
    codes = random_codes(length)
    assert error(by_steps(model, codes), model.log_likelihood(codes)) < 1e-9


@torch.no_grad()
def test_it_is_a_wavernn_conditioned_on_the_spectrogram(model):
    codes = random_codes(57)
    conditioning = model.conditioning(model.log_mel(model.quantizer.decode(codes)), 57)
    expected, _ = model.cell.log_likelihood_from(codes, model.cell.initial_cache(2), conditioning)
    assert torch.equal(model.log_likelihood(codes), expected)


@pytest.mark.parametrize("sizes", [[57], [1, 13, 43], [40, 17]])
@torch.no_grad()
def test_chunks_and_prefill_equal_the_whole_sequence(model, sizes):
    codes = random_codes(57)
    cache, bits, prefilled = model.initial_cache_for(codes), [], model.initial_cache_for(codes)
    for chunk in codes.split(sizes, 1):
        of_chunk, cache = model.log_likelihood_from(chunk, cache)
        prefilled = model.prefill(chunk, prefilled)
        assert error(prefilled[1][0], cache[1][0]) < 1e-12
        bits.append(of_chunk)
    assert error(torch.cat(bits, 1), model.log_likelihood(codes)) < 1e-12


@torch.no_grad()
def test_held_out_bits_use_the_whole_spectrogram_of_each_clip(model):
    clips = [random_codes(length, 1)[0] for length in (57, 31, 44)]
    expected = torch.stack([-model.log_likelihood(clip[None]).mean() for clip in clips])
    assert torch.allclose(clip_bits(model, clips, batch_size=3, chunk_length=20), expected, atol=1e-6)


@torch.no_grad()
def test_synthesis_gives_a_hop_of_samples_for_each_frame_after_the_first(model):
    features = model.log_mel(tone(440, 0.01))
    codes = model.synthesize(features, seed=3)
    assert codes.shape == (1, 80, 2)
    assert torch.equal(codes, model.synthesize(features, seed=3))
    assert not torch.equal(codes, model.synthesize(features, seed=4))
    assert not torch.equal(codes, model.synthesize(features + 1, seed=3))


def test_training_makes_the_likelihood_depend_on_the_spectrogram():
    """Noise of random loudness: the spectrogram of another clip costs at least 1 bit per sample."""
    loud = 10 ** (-3 * torch.rand(64, 1)) * 0.3
    codes = CoarseFine().encode((loud * torch.randn(64, 40)).clamp(-1, 1))
    data, valid = codes[:48], codes[48:]
    model = Vocoder(WaveRNNConfig(32, d_conditioning=4), MEL)
    config = TrainingConfig(steps=20, batch_size=16, lr=0.02)
    history = train(model, data, config, valid=valid, progress=False)
    assert history.loss[0] == pytest.approx(16, abs=0.5)
    assert history.valid[-1][1] < 14
    with torch.no_grad():
        code, (h, conditioning) = model.initial_cache_for(valid)
        wrong_cache = code, (h, conditioning.roll(1, dims=0))
        right, wrong = (
            model.log_likelihood_from(valid, x)[0].mean() for x in ((code, (h, conditioning)), wrong_cache)
        )
    assert right > wrong + 1


def test_it_trains_in_half_precision():
    codes, bits = random_codes(60), []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(1)
        config = TrainingConfig(steps=5, batch_size=2, precision=precision)
        bits.append(torch.tensor(train(Vocoder(WAVERNN, MEL), codes, config, progress=False).loss))
    assert 0 < (bits[0] - bits[1]).abs().max() < 0.1


def test_mel_filters_are_not_in_the_state_dict(model):
    assert {name.partition(".")[0] for name in model.state_dict()} == {"conditioning_projection", "cell"}


@pytest.mark.parametrize(
    ("features", "because"),
    [
        (
            torch.zeros(1, 1, 10),
            r"features must have shape \(batch, at least 2 frames, 10\), got \(1, 1, 10\)",
        ),
        (torch.zeros(1, 5, 9), r"features must have shape .* got \(1, 5, 9\)"),
        (torch.full((1, 5, 10), torch.inf), "features must be finite"),
    ],
)
def test_invalid_features_are_named(model, features, because):
    with pytest.raises(ValueError, match=because):
        model.synthesize(features.double())


def test_without_a_spectrogram_it_cannot_generate(model):
    with pytest.raises(ValueError, match="cache must hold conditioning for the next 1 samples, got 0"):
        model.generate(5)
    with pytest.raises(ValueError, match="cache must hold conditioning for the next 40 samples, got 0"):
        model.log_likelihood_from(random_codes(40), model.initial_cache(2))


def test_a_wavernn_without_conditioning_is_refused():
    with pytest.raises(ValueError, match=r"config\.d_conditioning must be at least 1, got 0"):
        Vocoder(WaveRNNConfig(12), MEL)


def test_codes_of_another_shape_are_named(model):
    with pytest.raises(ValueError, match=r"codes must have shape \(\.\.\., L, 2\)"):
        model.log_likelihood(torch.zeros(2, 5, dtype=torch.long))
