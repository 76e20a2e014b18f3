"""The conditioning of denoisers: sinusoids of the step, class embeddings, upsampled spectrograms."""

import math

import pytest
import torch

from sashimi_lib.audio.mel import LogMel, LogMelConfig
from sashimi_lib.models.denoiser import (
    ConditioningConfig,
    ConditioningEmbedding,
    ConditioningUpsampler,
    step_embedding,
    upsample_conditioning,
)

D_STEP = (8, 12, 10)


def mel(hop, n_mels=5):
    return LogMelConfig(8_000, n_mels=n_mels, hop=hop, window=400)


@pytest.mark.parametrize("dim", [4, 6, 128])
def test_the_step_embedding_is_the_formula(dim):
    steps, half = [0, 3, 0.5, 199], dim // 2
    expected = [
        [
            sinusoid(step * 10_000 ** (-i / (half - 1)))
            for sinusoid in (math.sin, math.cos)
            for i in range(half)
        ]
        for step in steps
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert torch.allclose(step_embedding(torch.tensor(steps, dtype=torch.float64), dim), expected, atol=1e-12)
    assert torch.allclose(step_embedding(torch.tensor(steps), dim).double(), expected, atol=1e-4)


def test_the_periods_of_the_step_embedding_run_from_6_to_63_thousand_steps():
    at = step_embedding(torch.tensor([0.0, 2 * math.pi, 2e4 * math.pi], dtype=torch.float64), 4)
    assert torch.allclose(at[0], at[2], atol=1e-9)
    assert torch.allclose(at[0, [0, 2]], at[1, [0, 2]], atol=1e-12)
    assert not torch.allclose(at[0, 1], at[1, 1], atol=1e-4)


@torch.no_grad()
def test_the_conditioning_is_two_linear_maps_of_the_step_embedding():
    conditioning = ConditioningEmbedding(ConditioningConfig(d_step=D_STEP)).double()
    step = torch.tensor([0, 7.5], dtype=torch.float64)
    h = step_embedding(step, 8) @ conditioning.hidden.weight.T + conditioning.hidden.bias
    h = h * h.sigmoid() @ conditioning.out.weight.T + conditioning.out.bias
    assert torch.allclose(conditioning(step), h * h.sigmoid(), atol=1e-12)


@torch.no_grad()
def test_a_class_adds_its_embedding_and_so_does_the_null_label():
    conditioning = ConditioningEmbedding(ConditioningConfig(d_step=D_STEP, n_classes=3))
    step = torch.full((4,), 5.0)
    assert conditioning.classes.weight.shape == (4, 10)
    without_class = conditioning(step, torch.arange(4)) - conditioning.classes.weight
    assert torch.allclose(without_class, without_class[:1].expand(4, -1), atol=1e-6)
    assert torch.equal(conditioning(step), conditioning(step, torch.full((4,), 3)))


@torch.no_grad()
def test_classes_do_not_change_the_initial_step_embedding():
    torch.manual_seed(1)
    without = ConditioningEmbedding(ConditioningConfig(d_step=D_STEP))
    torch.manual_seed(1)
    with_them = ConditioningEmbedding(ConditioningConfig(d_step=D_STEP, n_classes=3))
    step = torch.tensor([5.0])
    difference = with_them(step, torch.tensor([2])) - without(step)
    assert torch.allclose(difference, with_them.classes.weight[2:3], atol=1e-6)


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_out_of_range_is_named(label):
    with pytest.raises(ValueError, match=rf"label must lie in 0\.\.2, or be 3 for none, got \[0, {label}\]"):
        ConditioningEmbedding(ConditioningConfig(d_step=D_STEP, n_classes=3))(
            torch.zeros(2), torch.tensor([0, label])
        )


def test_a_label_of_a_model_without_classes_is_refused():
    with pytest.raises(ValueError, match="label must be None: this model has no classes"):
        ConditioningEmbedding(ConditioningConfig(d_step=D_STEP))(torch.zeros(1), torch.tensor([0]))


@pytest.mark.parametrize(
    ("settings", "because"),
    [
        ({"d_step": (7, 12, 10)}, r"d_step must hold three widths.* got \(7, 12, 10\)"),
        ({"d_step": (2, 12, 10)}, "d_step must hold three widths"),
        ({"d_step": (8, 0, 10)}, r"d_step must be at least 1, got \(8, 0, 10\)"),
        ({"n_classes": -1}, "n_classes must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_named(settings, because):
    with pytest.raises(ValueError, match=because):
        ConditioningConfig(**settings)


# Upsampling


@pytest.mark.parametrize("hop", [1, 2, 3, 7, 10, 15, 75, 100, 200])
@pytest.mark.parametrize("length", [1, 100, 399, 400, 401])
@torch.no_grad()
def test_the_frames_of_a_spectrogram_are_upsampled_to_the_length(hop, length):
    frames = math.ceil(length / hop) + 1
    assert ConditioningUpsampler(mel(hop))(torch.randn(2, frames, 5), length).shape == (2, length, 5)


def test_the_spectrogram_of_a_waveform_is_upsampled_to_its_length():
    config, waveform = mel(100), torch.zeros(1, 950)
    assert ConditioningUpsampler(config)(LogMel(config)(waveform), 950).shape == (1, 950, 5)


@pytest.mark.parametrize("hop", [2, 3, 7, 10, 15, 75, 100, 200])
@torch.no_grad()
def test_an_upsampled_frame_is_centered_on_its_sample(hop):
    """The impulse response of layers with equal weights."""
    upsampler = ConditioningUpsampler(mel(hop)).double()
    for layer in upsampler.stretch:
        layer.weight.fill_(1)
        layer.bias.zero_()
    features = torch.zeros(1, 9, 5, dtype=torch.float64)
    features[:, 4] = 1
    response = upsampler(features, 8 * hop)[0, :, 2]
    center = float((response * torch.arange(8 * hop)).sum() / response.sum())
    assert abs(center - 4 * hop) <= 1
    offsets = response.nonzero()[:, 0] - 4 * hop
    assert offsets.abs().max() < 2 * hop


@pytest.mark.parametrize("hop", [1, 2, 3, 7, 10, 15, 75, 100, 200])
@torch.no_grad()
def test_the_initial_upsampling_is_linear_interpolation(hop):
    rising = torch.arange(10.0, dtype=torch.float64)[None, :, None].expand(1, 10, 5)
    upsampled = ConditioningUpsampler(mel(hop)).double()(rising, 9 * hop)[0, hop : 8 * hop]
    expected = (torch.arange(hop, 8 * hop) + (hop % 2 == 0) / 2) / hop  # an even hop has no middle sample
    assert torch.allclose(upsampled, expected.double()[:, None].expand(-1, 5), atol=1e-6)


@torch.no_grad()
def test_each_layer_mixes_adjacent_bands_only():
    upsampler, features = ConditioningUpsampler(mel(10)), torch.zeros(1, 9, 5)
    for layer in upsampler.stretch:
        layer.weight.normal_()
    other = features.clone()
    other[..., 0] = 1
    changed = (upsampler(features, 80) - upsampler(other, 80)).abs().amax(dim=(0, 1)) > 0
    assert changed.tolist() == [True, True, True, False, False]  # one band per layer


@pytest.mark.parametrize(
    ("shape", "length"), [((1, 9, 4), 80), ((1, 9, 6), 80), ((1, 8, 5), 76), ((1, 0, 5), 1), ((1, 1, 5), 6)]
)
def test_features_of_the_wrong_shape_are_named(shape, length):
    expected = rf"features must have shape \(batch, frames, 5\), a frame every 10 of {length} samples, got"
    with pytest.raises(ValueError, match=expected):
        ConditioningUpsampler(mel(10))(torch.zeros(shape), length)


def test_features_are_for_mel_conditioned_models():
    features = torch.zeros(1, 9, 5)
    assert upsample_conditioning(None, None, 80) is None
    assert upsample_conditioning(ConditioningUpsampler(mel(10)), features, 80).shape == (1, 80, 5)
    with pytest.raises(ValueError, match="features must be None"):
        upsample_conditioning(None, features, 80)
    with pytest.raises(ValueError, match="features must be given"):
        upsample_conditioning(ConditioningUpsampler(mel(10)), None, 80)
