"""Every layer, backbone, model of sound, head and engine of the library, as small as it can be, for
`tests/contract.py`."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.models import (
    DiffWave,
    DiffWaveConfig,
    IsotropicConfig,
    IsotropicS4,
    SampleRNN,
    SampleRNNConfig,
    SaShiMi,
    SaShiMiConfig,
    SaShiMiUNet,
    SaShiMiUNetConfig,
    Subscale,
    SubscaleConfig,
    WaveNet,
    WaveNetConfig,
    WaveRNN,
    WaveRNNConfig,
)
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.blocks import FeedForward, S4Block, Stack
from sashimi_lib.models.diffwave import DilatedLayer
from sashimi_lib.models.heads import DualSoftmax, Head, JointSoftmax, Logistics, Softmax
from sashimi_lib.models.pooling import DownPool, Hourglass, UpPool
from sashimi_lib.models.sashimi import CenterTier, PooledTier, UNetTier
from sashimi_lib.models.sashimi_unet import UNetBlock
from sashimi_lib.models.subscale import ContextCNN
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.models.wavenet import GatedLayer
from sashimi_lib.ssm.s4 import S4, BidirectionalSSM, ConcatBidirectionalSSM, Form, SSMConfig, StateSpace
from tests.contract import Case, everything, window

SSM = SSMConfig(d_state=4)
POOLS = (2, 3)  # a whole frame of 6


def ssm(form: Form, tied: bool) -> SSMConfig:
    """A state space of that form."""
    return SSMConfig(4, form, "lin" if form is Form.DIAGONAL else "legs", tied)


# Layers that are not written in the common form, put into it


class Gated(nn.Module):
    """A `GatedLayer`, whose two outputs come side by side."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.layer = GatedLayer(3, 2, dilation)

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Zeros in its queue."""
        return (torch.zeros(batch_size, 3, dtype=self.layer.gates.weight.dtype),) * self.layer.dilation

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, object]:
        """All samples at once."""
        z, y, queue = self.layer(x, state)
        return torch.cat([z, y], dim=-1), queue

    def step(self, x_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, object]:
        """One sample."""
        z, y, queue = self.layer.step(x_t, state)
        return torch.cat([z, y], dim=-1), queue


class Listening(nn.Module):
    """A `ContextCNN`, its sub-sequences and bytes side by side as channels; the state is all that it hears."""

    factor, layers = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = ContextCNN(self.factor, 3, self.layers)

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros said at every place before the first."""
        shape = batch_size, 2**self.layers - 1, self.factor, 2
        return torch.zeros(shape, dtype=self.layer.earlier.weight.dtype)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """All places at once."""
        context = self.initial_state(len(x)) if state is None else state
        said = torch.cat([context, x.unflatten(-1, (self.factor, 2))], dim=1)
        y = self.layer(said)[-1].flatten(2)
        return y, None if state is None else said[:, -context.shape[1] :]

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One place, of all sub-sequences."""
        said, s = x_t.unflatten(-1, (self.factor, 2)), torch.arange(self.factor)
        every = said[:, None].expand(-1, self.factor, -1, -1)
        y = self.layer.step(every, s, torch.zeros_like(s), self.layer.queues(state))
        return y.flatten(1), torch.cat([state[:, 1:], said[:, None]], dim=1)


class Denoising(nn.Module):
    """A denoiser of waveforms, at one step of its schedule."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.layer = net

    def forward(self, x: Tensor) -> Tensor:
        """One number for each sample."""
        return self.layer(x[..., 0], torch.full((len(x),), 3.5, dtype=x.dtype))[..., None]


class Conditioned(nn.Module):
    """A block of a denoiser, with what it is told; its channels last, and its outputs side by side."""

    def __init__(self, layer: nn.Module, d_conditioning: int) -> None:
        super().__init__()
        self.layer, self.conditioning = layer, nn.Parameter(torch.randn(d_conditioning))

    def forward(self, x: Tensor) -> Tensor:
        """All samples at once."""
        conditioning = self.conditioning.expand(len(x), -1)
        if isinstance(self.layer, DilatedLayer):
            return torch.cat(self.layer(x.mT, conditioning), dim=1).mT
        return self.layer(x, conditioning)


class Pooled(nn.Module):
    """Both pools, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = DownPool(2, 3, 3), UpPool(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The same number of samples."""
        return self.up(self.down(x))


class Plain(nn.Module):
    """A layer that gives no state, or None."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Its output alone."""
        y = self.layer(x)
        return y[0] if isinstance(y, tuple) else y


# Causal layers: whole, in frames, by the step


def blocks(width: int) -> Stack:
    """One of each block."""
    return Stack([S4Block(width, SSM), FeedForward(width)])


def hourglass(pool: int = 3) -> Hourglass:
    """Four channels, six at the slower rate."""
    return Hourglass(
        DownPool(4, 6, pool, normed=True), blocks(6), UpPool(6, 4, pool, normed=True), causal=True
    )


def sashimi(**settings: object) -> SaShiMi:
    """Three tiers of four, eight and sixteen channels."""
    return SaShiMi(SaShiMiConfig(**{"d_model": 4, "n_layers": 1, "pool": POOLS, "ssm": SSM} | settings))


WAVENET = WaveNetConfig(stacks=2, layers=2, d_residual=3, d_dilation=2, d_skip=16, d_end=16, d_model=2)
DIFFWAVE = DiffWaveConfig(d_step=(4, 5, 6), d_residual=4, d_skip=16, n_layers=3, cycle=2)
FORMS = {
    f"{form.value}, {'tied' if tied else 'untied'}": ssm(form, tied)
    for form in Form
    for tied in (True, False)
}

CAUSAL = {
    **{f"state space, {name}": Case(lambda c=c: StateSpace(2, c), 2) for name, c in FORMS.items()},
    **{f"S4, {name}": Case(lambda c=c: S4(2, c, glu=not c.tied), 2) for name, c in FORMS.items()},
    "S4 block": Case(lambda: S4Block(4, SSM), 4),
    "S4 block, GLU, layer norm": Case(lambda: S4Block(4, SSM, glu=True, norm="layer"), 4),
    "feed-forward": Case(lambda: FeedForward(4), 4, window(0)),
    "stack": Case(lambda: blocks(4), 4),
    "hourglass": Case(hourglass, 4, lambda t, length: range(t // 3 * 3)),  # the frames that are over
    "centre": Case(lambda: CenterTier(blocks(4)), 4),
    "tier": Case(lambda: PooledTier(hourglass(), blocks(4)), 4),
    "U-Net tier": Case(lambda: UNetTier(blocks(4), hourglass(), blocks(4)), 4),
    "gated layer": Case(lambda: Gated(3), 3, lambda t, length: [k for k in (t - 3, t) if k >= 0], GatedLayer),
    "listener": Case(Listening, 4, window(2**Listening.layers - 1), ContextCNN),
    "SaShiMi": Case(sashimi, 4),
    "SaShiMi, U-Net, GLU, layer norm": Case(lambda: sashimi(unet=True, glu=True, norm="layer"), 4),
    "SaShiMi, diagonal": Case(lambda: sashimi(ssm=ssm(Form.DIAGONAL, tied=False)), 4),
    "isotropic S4": Case(lambda: IsotropicS4(IsotropicConfig(4, 2, ssm=SSM)), 4),
    "WaveNet": Case(lambda: WaveNet(WAVENET), 2, window(WAVENET.receptive_field - 1)),
    "SampleRNN": Case(lambda: SampleRNN(SampleRNNConfig((2, 3), 2, 16, 2)), 3),
    "SampleRNN, one tier": Case(lambda: SampleRNN(SampleRNNConfig((4,), 1, 16, 2)), 3),
}

# Layers that hear the future: whole alone


def in_frames(pool: int) -> Callable[[int, int], range]:
    """All of the frame that holds the present."""
    return lambda t, length: range(t // pool * pool, t // pool * pool + pool)


UNET = SaShiMiUNetConfig(d_step=(4, 5, 6), d_model=4, n_layers=1, pool=POOLS, ssm=SSM)


def unet(**settings: object) -> Denoising:
    """A SaShiMi for diffusion."""
    return Denoising(SaShiMiUNet(replace(UNET, **settings)))


BOTH_WAYS = {
    **{
        f"{kind.__name__}, {name}": Case(lambda kind=kind, c=c: Plain(kind(2, c)), 2, everything, kind)
        for kind in (BidirectionalSSM, ConcatBidirectionalSSM)
        for name, c in FORMS.items()
    },
    "S4, bidirectional": Case(lambda: Plain(S4(2, SSM, direction="bidirectional")), 2, everything, S4),
    "S4, concat": Case(lambda: Plain(S4(2, SSM, True, "concat")), 2, everything, S4),
    "pools": Case(Pooled, 2, in_frames(3)),
    "hourglass without the shift": Case(
        lambda: Plain(Hourglass(DownPool(4, 6, 3), Stack([FeedForward(6)]), UpPool(6, 4, 3), causal=False)),
        4, in_frames(3), Hourglass,
    ),
    "SaShiMi, bidirectional": Case(
        lambda: Plain(sashimi(unet=True, bidirectional=True)), 4, everything, SaShiMi
    ),
    "dilated layer": Case(
        lambda: Conditioned(DilatedLayer(DIFFWAVE, 3), 6), 4,
        lambda t, length: [k for k in (t - 3, t, t + 3) if 0 <= k < length], DilatedLayer,
    ),
    "diffusion block": Case(lambda: Conditioned(UNetBlock(4, UNET), 6), 4, everything, UNetBlock),
    "DiffWave": Case(
        lambda: Denoising(DiffWave(DIFFWAVE)), 1, window(*[DIFFWAVE.receptive_field // 2] * 2), DiffWave
    ),
    "diffusion U-Net, bidirectional": Case(unet, 1, everything, SaShiMiUNet),
    "diffusion U-Net, concat": Case(lambda: unet(direction="concat"), 1, everything, SaShiMiUNet),
    "diffusion U-Net, causal": Case(  # as far ahead as its slowest frame, since nothing is shifted
        lambda: unet(direction="causal"), 1, lambda t, length: range(t // 6 * 6 + 6), SaShiMiUNet
    ),
}  # fmt: skip

# Models of sound as codes

MEL = LogMelConfig(8_000, n_mels=3, hop=8, window=32)
EIGHT_BITS = {
    "SaShiMi": sashimi,
    "isotropic S4": CAUSAL["isotropic S4"].make,
    "WaveNet": CAUSAL["WaveNet"].make,
    "SampleRNN": CAUSAL["SampleRNN"].make,
}
SOUND = {
    **{name: lambda make=make: AudioLM(MuLaw(16), make()) for name, make in EIGHT_BITS.items()},
    **{
        f"{name}, dual": lambda make=EIGHT_BITS[name]: AudioLM(CoarseFine(8), make())
        for name in ("SaShiMi", "WaveNet", "SampleRNN")
    },
    "joint softmax": lambda: AudioLM(CoarseFine(8), WaveNet(WAVENET), JointSoftmax(2, 8)),
    "logistics": lambda: AudioLM(CoarseFine(16), WaveNet(WAVENET), Logistics(2, levels=16)),
    "WaveRNN": lambda: WaveRNN(WaveRNNConfig(6, levels=8)),
    "vocoder": lambda: Vocoder(WaveRNNConfig(6, d_conditioning=2, levels=8), MEL),
    "subscale": lambda: Subscale(
        SubscaleConfig(6, factor=2, lookahead=0, d_conditioning=3, layers=3, levels=8)
    ),
}

# Of which `compiled` has a loop; each kind takes seconds to compile, so these are kinds of other tests too.
COMPILED = {
    **{name: SOUND[name] for name in ("SaShiMi", "WaveNet", "WaveNet, dual", "WaveRNN")},
    "SaShiMi, dual": lambda: AudioLM(CoarseFine(8), sashimi(pool=(3,))),
}

HEADS: dict[str, tuple[Callable[[], Head], int, int]] = {  # what makes it, levels, codes a sample
    "softmax of 16": (lambda: Softmax(3, 16), 16, 1),
    "softmax of 256": (lambda: Softmax(3, 256), 256, 1),
    "dual softmax of 16": (lambda: DualSoftmax(3, 16), 16, 2),
    "dual softmax of 256": (lambda: DualSoftmax(3, 256), 256, 2),
    "joint softmax of 16": (lambda: JointSoftmax(3, 16), 16, 2),
    "logistics of 16": (lambda: Logistics(3, levels=16), 16, 2),
    "logistics of 256": (lambda: Logistics(3), 256, 2),
}
