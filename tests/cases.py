"""Small instances of every layer, backbone, model of codes, head and engine, for `tests/contract.py`."""

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
from tests.contract import Case, full_sequence, window

SSM = SSMConfig(d_state=4)
POOLS = (2, 3)  # a frame of 6 samples


def ssm(form: Form, tied: bool) -> SSMConfig:
    """Configuration of a state space of this form."""
    return SSMConfig(4, form, "lin" if form is Form.DIAGONAL else "legs", tied)


# Wrappers of layers that do not have the common interface


class Gated(nn.Module):
    """A `GatedLayer` with its two outputs concatenated."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.layer = GatedLayer(3, 2, dilation)
        self.initial_state = self.layer.initial_state

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, object]:
        """Process a whole sequence or a chunk."""
        outputs, queue = self.layer(x, state)
        return torch.cat(outputs, dim=-1), queue

    def step(self, x_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, object]:
        """Process one sample."""
        outputs, queue = self.layer.step(x_t, state)
        return torch.cat(outputs, dim=-1), queue


class Context(nn.Module):
    """A `ContextCNN` with sub-sequences and bytes as channels; the state is its receptive field."""

    factor, layers = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = ContextCNN(self.factor, 3, self.layers)

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros at every position before the first."""
        shape = batch_size, 2**self.layers - 1, self.factor, 2
        return torch.zeros(shape, dtype=self.layer.input_projection.weight.dtype)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Process a whole sequence or a chunk."""
        context = self.initial_state(len(x)) if state is None else state
        inputs = torch.cat([context, x.unflatten(-1, (self.factor, 2))], dim=1)
        y = self.layer(inputs)[-1].flatten(2)
        return y, None if state is None else inputs[:, -context.shape[1] :]

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process one position of all sub-sequences."""
        inputs, s = x_t.unflatten(-1, (self.factor, 2)), torch.arange(self.factor)
        expanded = inputs[:, None].expand(-1, self.factor, -1, -1)
        y = self.layer.step(expanded, s, torch.zeros_like(s), self.layer.queues(state))
        return y.flatten(1), torch.cat([state[:, 1:], inputs[:, None]], dim=1)


class Denoising(nn.Module):
    """A denoiser at one step of its schedule."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.layer = net

    def forward(self, x: Tensor) -> Tensor:
        """One output per sample."""
        return self.layer(x[..., 0], torch.full((len(x),), 3.5, dtype=x.dtype))[..., None]


class Conditioned(nn.Module):
    """A block of a denoiser with its conditioning; channels last, outputs concatenated."""

    def __init__(self, layer: nn.Module, d_conditioning: int) -> None:
        super().__init__()
        self.layer, self.conditioning = layer, nn.Parameter(torch.randn(d_conditioning))

    def forward(self, x: Tensor) -> Tensor:
        """Process a whole sequence."""
        conditioning = self.conditioning.expand(len(x), -1)
        if isinstance(self.layer, DilatedLayer):
            return torch.cat(self.layer(x.mT, conditioning), dim=1).mT
        return self.layer(x, conditioning)


class Pooled(nn.Module):
    """Both pools in sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = DownPool(2, 3, 3), UpPool(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Down and up again: the same length."""
        return self.up(self.down(x))


class Plain(nn.Module):
    """A layer without a state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the output alone."""
        y = self.layer(x)
        return y[0] if isinstance(y, tuple) else y


# Causal layers


def blocks(width: int) -> Stack:
    """One of each block."""
    return Stack([S4Block(width, SSM), FeedForward(width)])


def hourglass(pool: int = 3) -> Hourglass:
    """Four channels, and six at the slower rate."""
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
    "hourglass": Case(hourglass, 4, lambda t, length: range(t // 3 * 3)),  # the complete frames
    "center": Case(lambda: CenterTier(blocks(4)), 4),
    "tier": Case(lambda: PooledTier(hourglass(), blocks(4)), 4),
    "U-Net tier": Case(lambda: UNetTier(blocks(4), hourglass(), blocks(4)), 4),
    "gated layer": Case(lambda: Gated(3), 3, lambda t, length: [k for k in (t - 3, t) if k >= 0], GatedLayer),
    "context CNN": Case(Context, 4, window(2**Context.layers - 1), ContextCNN),
    "SaShiMi": Case(sashimi, 4),
    "SaShiMi, U-Net, GLU, layer norm": Case(lambda: sashimi(unet=True, glu=True, norm="layer"), 4),
    "SaShiMi, diagonal": Case(lambda: sashimi(ssm=ssm(Form.DIAGONAL, tied=False)), 4),
    "isotropic S4": Case(lambda: IsotropicS4(IsotropicConfig(4, 2, ssm=SSM)), 4),
    "WaveNet": Case(lambda: WaveNet(WAVENET), 2, window(WAVENET.receptive_field - 1)),
    "SampleRNN": Case(lambda: SampleRNN(SampleRNNConfig((2, 3), 2, 16, 2)), 3),
    "SampleRNN, one tier": Case(lambda: SampleRNN(SampleRNNConfig((4,), 1, 16, 2)), 3),
}

# Layers that are not causal: whole sequences only


def in_frames(pool: int) -> Callable[[int, int], range]:
    """The frame of the current sample."""
    return lambda t, length: range(t // pool * pool, t // pool * pool + pool)


UNET = SaShiMiUNetConfig(d_step=(4, 5, 6), d_model=4, n_layers=1, pool=POOLS, ssm=SSM)


def unet(**settings: object) -> Denoising:
    """A `SaShiMiUNet`."""
    return Denoising(SaShiMiUNet(replace(UNET, **settings)))


NONCAUSAL = {
    **{
        f"{kind.__name__}, {name}": Case(lambda kind=kind, c=c: Plain(kind(2, c)), 2, full_sequence, kind)
        for kind in (BidirectionalSSM, ConcatBidirectionalSSM)
        for name, c in FORMS.items()
    },
    "S4, bidirectional": Case(lambda: Plain(S4(2, SSM, direction="bidirectional")), 2, full_sequence, S4),
    "S4, concat": Case(lambda: Plain(S4(2, SSM, True, "concat")), 2, full_sequence, S4),
    "pools": Case(Pooled, 2, in_frames(3)),
    "hourglass without the shift": Case(
        lambda: Plain(Hourglass(DownPool(4, 6, 3), Stack([FeedForward(6)]), UpPool(6, 4, 3), causal=False)),
        4, in_frames(3), Hourglass,
    ),
    "SaShiMi, bidirectional": Case(
        lambda: Plain(sashimi(unet=True, bidirectional=True)), 4, full_sequence, SaShiMi
    ),
    "dilated layer": Case(
        lambda: Conditioned(DilatedLayer(DIFFWAVE, 3), 6), 4,
        lambda t, length: [k for k in (t - 3, t, t + 3) if 0 <= k < length], DilatedLayer,
    ),
    "diffusion block": Case(lambda: Conditioned(UNetBlock(4, UNET), 6), 4, full_sequence, UNetBlock),
    "DiffWave": Case(
        lambda: Denoising(DiffWave(DIFFWAVE)), 1, window(*[DIFFWAVE.receptive_field // 2] * 2), DiffWave
    ),
    "diffusion U-Net, bidirectional": Case(unet, 1, full_sequence, SaShiMiUNet),
    "diffusion U-Net, concat": Case(lambda: unet(direction="concat"), 1, full_sequence, SaShiMiUNet),
    "diffusion U-Net, causal": Case(  # up to the end of its slowest frame, since nothing is shifted
        lambda: unet(direction="causal"), 1, lambda t, length: range(t // 6 * 6 + 6), SaShiMiUNet
    ),
}  # fmt: skip

# Models of codes

MEL = LogMelConfig(8_000, n_mels=3, hop=8, window=32)
EIGHT_BITS = {
    "SaShiMi": sashimi,
    "isotropic S4": CAUSAL["isotropic S4"].make,
    "WaveNet": CAUSAL["WaveNet"].make,
    "SampleRNN": CAUSAL["SampleRNN"].make,
}
DISCRETE = {
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

# Models with a compiled loop; each kind takes seconds to compile, so other tests use the same kinds.
COMPILED = {
    **{name: DISCRETE[name] for name in ("SaShiMi", "WaveNet", "WaveNet, dual", "WaveRNN")},
    "SaShiMi, dual": lambda: AudioLM(CoarseFine(8), sashimi(pool=(3,))),
}

HEADS: dict[str, tuple[Callable[[], Head], int, int]] = {  # factory, levels, codes a sample
    "softmax of 16": (lambda: Softmax(3, 16), 16, 1),
    "softmax of 256": (lambda: Softmax(3, 256), 256, 1),
    "dual softmax of 16": (lambda: DualSoftmax(3, 16), 16, 2),
    "dual softmax of 256": (lambda: DualSoftmax(3, 256), 256, 2),
    "joint softmax of 16": (lambda: JointSoftmax(3, 16), 16, 2),
    "logistics of 16": (lambda: Logistics(3, levels=16), 16, 2),
    "logistics of 256": (lambda: Logistics(3), 256, 2),
}
