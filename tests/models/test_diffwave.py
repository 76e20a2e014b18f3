"""DiffWave: the published sizes, the exact receptive field, and an effect of every conditioning input."""

import pytest
import torch

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.models import DiffWave, DiffWaveConfig

SMALL = DiffWaveConfig(d_step=(8, 12, 10), d_residual=6, d_skip=5, n_layers=5, cycle=3)
MEL = LogMelConfig(8_000, n_mels=7, hop=10, window=80)
PUBLISHED = {
    "large": (DiffWaveConfig(), 24_071_681, 24_571),
    "small": (DiffWaveConfig(d_residual=128, n_layers=30, cycle=10), 6_827_393, 6_139),
}


def small(config=SMALL):
    """A network whose last convolution is not zero."""
    net = DiffWave(config).double()
    torch.nn.init.normal_(net.end[-1].weight)
    return net


def config_with(**changes):
    return DiffWaveConfig(**{**vars(SMALL), **changes})


def noise(batch=2, length=60):
    return torch.randn(batch, length, dtype=torch.float64)


def steps(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes(name):
    config, parameters, field = PUBLISHED[name]
    with torch.device("meta"):
        assert sum(p.numel() for p in DiffWave(config).parameters()) == parameters
    assert config.receptive_field == field


def test_the_initial_output_is_zero_with_a_gradient():
    net = DiffWave(SMALL).double()
    y = net(noise(), steps(0, 9))
    assert not y.any()
    (y - noise()).square().sum().backward()
    assert net.end[-1].weight.grad.any()


def test_dilations_restart_after_every_cycle():
    assert SMALL.dilations == (1, 2, 4, 1, 2)
    assert SMALL.receptive_field == 21


def test_the_receptive_field_of_the_large_model_is_24571_samples():
    config = DiffWaveConfig(d_step=(4, 1, 1), d_residual=1, d_skip=1)
    net = DiffWave(config).double()  # 36 small factors underflow in float32
    with torch.no_grad():  # positive weights: nothing cancels, no ReLU is zero
        for parameter in net.parameters():
            parameter.fill_(0.1)
    x = torch.ones(1, 24_800, dtype=torch.float64, requires_grad=True)
    net(x, steps(0))[0, 12_400].backward()
    field = x.grad[0].nonzero()[:, 0]
    assert (int(field[0]), int(field[-1])) == (12_400 - 12_285, 12_400 + 12_285)
    assert len(field) == 24_571


def test_all_weights_but_the_last_residual_output_get_a_gradient():
    net = small(config_with(n_classes=3, mel=MEL))
    x, features = noise(), torch.randn(2, 7, 7, dtype=torch.float64)
    net(x, steps(1, 2), torch.tensor([0, 3]), features).square().sum().backward()
    assert all(p.grad.any() for p in net.parameters())
    g = net.layers[-1].out.parametrizations.weight.original0.grad
    assert not g[: SMALL.d_residual].any()
    assert g[SMALL.d_residual :].any()


@torch.no_grad()
def test_different_steps_give_different_outputs():
    net, x = small(), noise(1).expand(4, -1)
    y = net(x, steps(0, 0.5, 1, 199))
    apart = (y[:, None] - y[None]).abs().amax(-1)
    assert bool((apart + torch.eye(4) > 1e-6).all())


@torch.no_grad()
def test_different_labels_give_different_outputs_and_no_label_is_the_null_label():
    net, x = small(config_with(n_classes=3)), noise(1).expand(4, -1)
    y = net(x, steps(5, 5, 5, 5), torch.arange(4))
    apart = (y[:, None] - y[None]).abs().amax(-1)
    assert bool((apart + torch.eye(4) > 1e-6).all())
    assert torch.allclose(net(x[:1], steps(5)), y[3:], atol=1e-12)


@torch.no_grad()
def test_a_frame_affects_the_samples_around_it_only():
    net, x = small(config_with(mel=MEL)), noise(1, 200)
    features = torch.randn(1, 21, 7, dtype=torch.float64)
    other = features.clone()
    other[:, 10] += 1
    changed = (net(x, steps(5), None, features) - net(x, steps(5), None, other))[0].nonzero()[:, 0]
    # Two hops by the upsampling, and the receptive field of all layers but the first.
    assert 100 - 20 - 10 <= int(changed[0]) < 100 < int(changed[-1]) <= 100 + 20 + 10


@torch.no_grad()
def test_sequences_of_a_batch_are_independent():
    net, x = small(config_with(n_classes=3)), noise(3)
    step, label = steps(0, 50, 199), torch.tensor([2, 0, 3])
    alone = [net(x[i : i + 1], step[i : i + 1], label[i : i + 1]) for i in range(3)]
    assert torch.allclose(net(x, step, label), torch.cat(alone), atol=1e-12)


@torch.no_grad()
def test_any_length_is_valid_and_padding_affects_the_ends_only():
    net, x = small(), noise(1, 101)
    for length in (1, 2, 50, 101):
        y = net(x[:, :length], steps(3))
        assert y.shape == (1, length)
        interior = max(0, length - 10)
        assert torch.allclose(y[:, :interior], net(x, steps(3))[:, :interior], atol=1e-12)


@pytest.mark.parametrize("name", ["d_residual", "d_skip", "n_layers", "cycle"])
def test_bad_settings_are_named(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        config_with(**{name: 0})


def test_the_checks_of_all_denoisers_apply():
    with pytest.raises(ValueError, match="d_step must hold three widths"):
        config_with(d_step=(5, 12, 10))


@pytest.mark.parametrize(
    ("config", "given", "because"),
    [
        ({}, {"length": 0}, r"x must hold at least one sample, got shape \(1, 0\)"),
        ({}, {"label": torch.tensor([0])}, "label must be None"),
        ({"n_classes": 3}, {"label": torch.tensor([4])}, r"label must lie in 0\.\.2, .* got \[4\]"),
        ({}, {"features": torch.zeros(1, 7, 7)}, "features must be None"),
        ({"mel": MEL}, {}, "features must be given"),
        ({"mel": MEL}, {"features": torch.zeros(1, 6, 7)}, r"features must .* got \(1, 6, 7\)"),
    ],
)
def test_bad_input_is_named(config, given, because):
    x = noise(1, given.pop("length", 60))
    with pytest.raises(ValueError, match=because):
        small(config_with(**config))(x, steps(0), **given)


def test_training_separates_a_tone_from_noise():
    """A sine of unknown phase in noise of equal power."""
    net = DiffWave(DiffWaveConfig(d_step=(8, 8, 8), d_residual=8, d_skip=8, n_layers=4, cycle=4))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    time = torch.arange(64)
    for _ in range(150):
        tone = torch.sin(time * 0.6 + 6.3 * torch.rand(8, 1))
        noise = torch.randn(8, 64) * 0.5**0.5
        loss = (net(tone + noise, torch.zeros(8)) - noise).square().mean() / 0.5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.25
