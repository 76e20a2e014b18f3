"""SaShiMi for diffusion: the published sizes, bidirectional context, conditioning and zero initial output."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.models import SaShiMiUNet, SaShiMiUNetConfig
from sashimi_lib.models.denoiser import ConditioningUpsampler
from sashimi_lib.models.sashimi_unet import PAPER_UNET, PAPER_UNET_SMALL
from sashimi_lib.ssm.s4 import SSMConfig
from tests.streaming.helpers import error

DIRECTIONS = ["bidirectional", "concat", "causal"]
MEL = LogMelConfig(8_000, n_mels=5, hop=20, window=80)
LENGTH = 64


def small(**settings):
    """A small network whose output is not zero, in double precision."""
    shape = {"d_step": (8, 12, 6), "d_model": 4, "n_layers": 1, "ssm": SSMConfig(8, tied=False)}
    net = SaShiMiUNet(SaShiMiUNetConfig(**shape | settings)).double()
    nn.init.normal_(net.out.weight)
    return net


def batch(size=2, length=LENGTH):
    """Noisy waveforms, and fractional steps."""
    return torch.randn(size, length, dtype=torch.float64), 30.5 * torch.arange(size, dtype=torch.float64)


@pytest.mark.parametrize(
    ("config", "trainable"),
    [
        (PAPER_UNET, 22_964_091),
        (PAPER_UNET_SMALL, 7_480_827),
        (SaShiMiUNetConfig(), 23_470_971),
        (SaShiMiUNetConfig(d_model=64), 7_734_267),
    ],
    ids=["paper", "paper, small", "master", "master, small"],
)
def test_the_published_models_have_their_published_parameters(config, trainable):
    net = SaShiMiUNet(config)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == trainable


def test_the_published_vocoder_has_the_published_parameters_but_for_its_upsampling_in_every_block():
    """There, every block has two weight-normalized convolutions of 3 x 32 + 2 parameters."""
    mel = LogMelConfig(22_050, n_mels=80, hop=256, window=1_024)
    net = SaShiMiUNet(SaShiMiUNetConfig(d_model=32, mel=mel))
    upsampler = sum(p.numel() for p in ConditioningUpsampler(mel).parameters())
    total = sum(p.numel() for p in net.parameters())
    assert total - upsampler + 30 * 2 * (3 * 32 + 2) == 3_153_459


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_initial_output_is_zero(direction):
    net = SaShiMiUNet(SaShiMiUNetConfig(d_model=4, n_layers=1, direction=direction))
    x, step = batch()
    assert torch.equal(net(x.float(), step.float()), torch.zeros(2, LENGTH))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_reach_every_parameter(direction):
    net = small(direction=direction, n_classes=3, mel=MEL)
    x, step = batch()
    features = torch.randn(2, 5, 5, dtype=torch.float64)
    net(x, step, torch.tensor([0, 3]), features).square().sum().backward()
    for name, parameter in net.named_parameters():
        if name != "start.parametrizations.weight.original1":  # of one column: its direction is its sign
            assert parameter.grad.norm() > 0, name


@torch.no_grad()
def test_step_and_label_affect_their_own_sequence_only():
    net = small(n_classes=3)
    x, step = batch()
    label = torch.tensor([1, 2])
    both = net(x, step, label)
    for other in ((step + 1, label), (step, label - 1), (step, None)):
        assert error(net(x, *other), both) > 1e-3
    for i in range(2):
        assert error(net(x[i : i + 1], step[i : i + 1], label[i : i + 1]), both[i : i + 1]) < 1e-12


@torch.no_grad()
def test_no_label_is_the_null_label():
    net = small(n_classes=3)
    x, step = batch()
    assert torch.equal(net(x, step), net(x, step, torch.tensor([3, 3])))


@torch.no_grad()
def test_a_frame_affects_the_samples_around_it_only():
    """A change of the last frame affects the end only, in blocks that do not mix over time."""
    net = small(mel=MEL, direction="causal")
    for block in net.modules():
        if hasattr(block, "layer"):
            block.layer.output.weight.zero_()
    x, step = batch(1, 160)
    features = torch.randn(1, 9, 5, dtype=torch.float64)
    changed = features.clone()
    changed[:, -1] += 1
    difference = (net(x, step, features=features) - net(x, step, features=changed))[0].abs()
    # It is centered on sample 160; the upsampling reaches 1.5 hops back, and a frame of the slowest tier may
    # begin 15 samples earlier.
    assert difference[: 160 - 30 - 15].max() == 0
    assert difference[-10:].max() > 0


def test_autocast_is_close_to_full_precision():
    net = small().float()
    x, step = (z.float() for z in batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = net(x, step)
    assert error(low.detach(), net(x, step).detach()) < 0.05


@pytest.mark.slow
def test_training_separates_a_tone_from_noise():
    """After a few steps the error of the noise is below that of a zero output."""
    net = SaShiMiUNet(SaShiMiUNetConfig(d_step=(8, 16, 16), d_model=8, n_layers=1, ssm=SSMConfig(16)))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    tone = torch.sin(0.4 * torch.arange(128.0))
    losses = []
    for _ in range(40):
        noise = torch.randn(8, 128)
        loss = (net((tone + noise) / 2**0.5, torch.zeros(8)) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.9
    assert sum(losses[-5:]) / 5 < 0.3


@pytest.mark.parametrize("length", [0, 8, 63, 65])
def test_a_length_that_is_not_a_multiple_of_the_pooling_is_refused(length):
    x, step = batch(2, length)
    with pytest.raises(ValueError, match=f"x must have a length that 16 divides, got {length} samples"):
        small()(x, step)


def test_bad_conditioning_is_refused():
    x, step = batch()
    features = torch.randn(2, 5, 5, dtype=torch.float64)
    for net, conditioning, message in (
        (small(), {"label": torch.tensor([0, 0])}, "label must be None"),
        (small(n_classes=3), {"label": torch.tensor([0, 4])}, "label must lie in 0..2"),
        (small(), {"features": features}, "features must be None"),
        (small(mel=MEL), {}, "features must be given"),
        (small(mel=MEL), {"features": features[:, :3]}, "features must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            net(x, step, **conditioning)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"d_model": 0}, "d_model"),
        ({"n_layers": 0}, "n_layers"),
        ({"pool": ()}, "pool"),
        ({"pool": (4, 1)}, "pool"),
        ({"d_step": (7, 8, 8)}, "d_step"),
        ({"n_classes": -1}, "n_classes"),
    ],
)
def test_bad_settings_are_named(settings, name):
    with pytest.raises(ValueError, match=name):
        SaShiMiUNetConfig(**settings)


def test_the_paper_s_models_train_only_C_D_and_q_of_s4():
    net = SaShiMiUNet(replace(PAPER_UNET, d_model=4, n_layers=1))
    trained = {
        name.rpartition(".")[2] for name, p in net.named_parameters() if ".ssm." in name and p.requires_grad
    }
    assert trained == {"C", "D", "q"}
