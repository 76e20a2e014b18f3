"""SampleRNN: recurrent networks at several rates, each speaking to the next faster one (chapter 7).

Time is counted in samples heard. Every tier takes a frame of the latest samples whenever its ``span`` divides
the time, steps its GRU once, and says one vector for each frame of the tier below; the fastest tier says one
for each sample. A small network then hears the last few codes and what was said. Frames end at the sample
just heard, so a tier speaks at once, where the pools of SaShiMi wait for a frame to be over.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from sashimi_lib.audio.quantizers import CoarseFine, Quantizer
from sashimi_lib.checks import at_least
from sashimi_lib.models.backbone import Backbone, BackboneConfig, embedding
from sashimi_lib.models.blocks import State
from sashimi_lib.models.heads import Head, Softmax
from sashimi_lib.registry import register
from sashimi_lib.ssm.precision import autocast_off


@register
@dataclass(frozen=True)
class SampleRNNConfig(BackboneConfig):
    """The shape of a SampleRNN; the defaults are the SaShiMi paper's 3-tier model, 35.03M parameters.

    ``frame_sizes`` run from fast to slow: (8, 2, 2) are tiers that hear frames of 8, 16 and 32 samples. Each
    tier has ``n_rnn`` GRUs one on the other. The paper's 2-tier model is ``SampleRNNConfig((16, 4), 2)``.
    """

    frame_sizes: tuple[int, ...] = (8, 2, 2)
    n_rnn: int = 1
    d_hidden: int = 1024
    d_embedding: int = 256

    def __post_init__(self) -> None:
        if not self.frame_sizes:
            raise ValueError("frame_sizes must hold a size for each tier, got ()")
        at_least(self, 2, "frame_sizes")
        at_least(self, 1, "n_rnn", "d_hidden", "d_embedding")

    def build(self) -> "SampleRNN":
        """A new `SampleRNN`."""
        return SampleRNN(self)


class AmplitudeEmbedding(nn.Module):
    """Codes as SampleRNN hears them: channel 0 is twice the amplitude (for the tiers), the others a learned
    vector (for the network at the rate of samples).

    The amplitudes are a table that travels with the weights: looking one up needs no check of codes.

    >>> from sashimi_lib.audio.quantizers import MuLaw
    >>> AmplitudeEmbedding(MuLaw(), 16)(torch.tensor([[0, 128]]))[..., 0]
    tensor([[-2.,  0.]], grad_fn=<SelectBackward0>)

    Chapter: 7.
    """

    amplitude: Tensor

    def __init__(self, quantizer: Quantizer, d_embedding: int) -> None:
        super().__init__()
        codes = torch.arange(quantizer.levels)
        if isinstance(quantizer, CoarseFine):  # a table of both codes: coarse down, fine across
            amplitude = quantizer.decode(torch.cartesian_prod(codes, codes)).view(len(codes), -1)
        else:
            amplitude = quantizer.decode(codes)
        self.register_buffer("amplitude", 2 * amplitude)
        self.embedding = embedding(quantizer, d_embedding)

    def forward(self, codes: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch_and channels"]:
        """Codes (...), or (..., 2) of the coarse-fine quantizer, -> (..., 1 + d_embedding)."""
        both = codes.unbind(-1) if self.amplitude.ndim == 2 else (codes,)
        return torch.cat([self.amplitude[both][..., None], self.embedding(codes)], dim=-1)


class FrameTier(nn.Module):
    """One tier: a frame of ``span`` samples and what the slower tier says of it; a GRU; ``pieces`` vectors
    for the tier below.

    Chapter: 7. SampleRNN paper (Mehri et al., 2017), section 2.1.
    """

    def __init__(self, span: int, pieces: int, n_rnn: int, d_hidden: int) -> None:
        super().__init__()
        self.span, self.pieces = span, pieces
        self.expand = nn.Linear(span, d_hidden)
        self.rnn = nn.GRU(d_hidden, d_hidden, n_rnn, batch_first=True)
        self.h0 = nn.Parameter(torch.zeros(1, n_rnn, d_hidden))
        self.upsample = nn.Linear(d_hidden, pieces * d_hidden)
        self._reset()
        self.expand = weight_norm(self.expand)
        self.upsample = weight_norm(self.upsample, dim=1)  # published: a gain for each channel that goes in

    def _reset(self) -> None:
        """The published start; PyTorch's own is several times smaller."""
        nn.init.kaiming_uniform_(self.expand.weight)
        nn.init.kaiming_uniform_(self.upsample.weight)
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, nonlinearity="linear")
            if name.startswith("weight_hh"):
                nn.init.orthogonal_(parameter[-len(parameter) // 3 :])  # of the candidate
        nn.init.zeros_(self.expand.bias)
        nn.init.zeros_(self.upsample.bias)

    def initial_state(self, batch_size: int) -> State:
        """Vectors of a frame before the first, which nobody hears; and the learned start of each GRU."""
        pending = self.h0.new_zeros(batch_size, self.pieces, self.h0.shape[-1])
        return pending, self.h0.expand(batch_size, -1, -1)

    def forward(
        self,
        sound: Float[Tensor, "batch samples"],
        time: int,
        said: Float[Tensor, "batch frames d_hidden"] | None,
        state: State,
    ) -> tuple[Float[Tensor, "batch vectors d_hidden"], State]:
        """What it says during some samples, the first of them heard at ``time``.

        ``sound`` ends with those samples and begins ``span - 1`` before them; ``said`` is one vector for each
        frame that ends in them, from the slower tier if there is one.
        """
        pending, hidden = state
        end = time + sound.shape[1] - self.span + 1
        frame, next_frame = (_multiples(self.span, t) for t in (time, end))
        vector, next_vector = (_multiples(self.span // self.pieces, t) for t in (time, end))
        if frames := next_frame - frame:
            first = frame * self.span - time
            heard = sound[:, first : first + frames * self.span].unflatten(1, (frames, self.span))
            vectors, hidden = self._speak(heard, said, hidden)
            pending = torch.cat([pending, vectors], dim=1)
        start = vector - (frame - 1) * self.pieces  # what is pending begins with the frame before
        return pending[:, start : start + next_vector - vector], (_last(pending, self.pieces), hidden)

    def _speak(self, frames: Tensor, said: Tensor | None, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The GRUs over whole frames, and ``pieces`` vectors of each. ``hidden`` is batch first, as no GRU of
        PyTorch has it."""
        z = self.expand(frames).to(hidden.dtype)
        z = z if said is None else z + said
        # Autocast would take cuDNN's GRU to float16, whichever half precision it is for.
        with autocast_off(z.device):
            z, h = self.rnn(z, hidden.transpose(0, 1).contiguous())
        return self.upsample(z).unflatten(2, (self.pieces, -1)).flatten(1, 2), h.transpose(0, 1)


class SampleMLP(nn.Module):
    """The fastest part, at the rate of samples: the vectors of the last ``size`` codes and what the tiers say
    of the next one.

    Chapter: 7. SampleRNN paper, section 2.2.
    """

    def __init__(self, size: int, d_embedding: int, d_hidden: int) -> None:
        super().__init__()
        self.input = nn.Conv1d(d_embedding, d_hidden, size, bias=False)
        self.hidden = nn.Linear(d_hidden, d_hidden)
        nn.init.kaiming_uniform_(self.input.weight)
        nn.init.kaiming_uniform_(self.hidden.weight)
        nn.init.zeros_(self.hidden.bias)
        self.input, self.hidden = weight_norm(self.input), weight_norm(self.hidden)

    def forward(
        self,
        vectors: Float[Tensor, "batch samples d_embedding"],
        said: Float[Tensor, "batch length d_hidden"],
    ) -> Float[Tensor, "batch length d_hidden"]:
        """(batch, size - 1 + length, d_embedding) and (batch, length, d_hidden) -> (batch, length,
        d_hidden)."""
        return F.relu(self.hidden(F.relu(self.input(vectors.mT).mT + said)))


class SampleRNN(Backbone):
    """All tiers and the network below them; gives ``d_hidden`` features, and hears an `AmplitudeEmbedding`.

    The state of silence has heard zeros, in the amplitudes (which is silence) and in the vectors of codes
    (where the published code pads with the code of silence; only the first samples can tell). The GRUs start
    from a learned state. For truncated back-propagation through time, detach the state between pieces.

    >>> model = SampleRNN(SampleRNNConfig(d_hidden=8, d_embedding=4))
    >>> y, _ = model(torch.randn(1, 50, 5))
    >>> y_0, state = model.step(torch.randn(1, 5), model.initial_state(1))
    >>> y.shape, y_0.shape
    (torch.Size([1, 50, 8]), torch.Size([1, 8]))

    Chapter: 7. SampleRNN paper (Mehri et al., 2017); sizes as run in the SaShiMi paper (table 5).
    """

    config: SampleRNNConfig
    may_skip_parameters = True  # of a tier whose frame is longer than the sequence

    def __init__(self, config: SampleRNNConfig = SampleRNNConfig()) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.d_hidden
        spans = [math.prod(config.frame_sizes[: j + 1]) for j in range(len(config.frame_sizes))]
        self.tiers = nn.ModuleList(
            FrameTier(span, pieces, config.n_rnn, config.d_hidden)
            for span, pieces in zip(spans, config.frame_sizes, strict=True)
        )
        self.mlp = SampleMLP(spans[0], config.d_embedding, config.d_hidden)
        self.lookback = spans[-1]

    def embedding(self, quantizer: Quantizer) -> nn.Module:
        """Amplitude and learned vector of each code."""
        return AmplitudeEmbedding(quantizer, self.config.d_embedding)

    def head(self, quantizer: Quantizer) -> Head:
        """A softmax under weight norm, as published; the dual one as everywhere."""
        head = super().head(quantizer)
        return weight_norm(head) if isinstance(head, Softmax) else head

    def initial_state(self, batch_size: int) -> State:
        """The state of silence: amplitudes and vectors heard, the time since the slowest frame ended (on the
        CPU, where reading it costs no synchronisation), and each tier's own, from fast to slow."""
        sound = self.mlp.hidden.bias.new_zeros(batch_size, self.lookback - 1)
        vectors = sound.new_zeros(batch_size, self.config.frame_sizes[0] - 1, self.config.d_embedding)
        tiers = tuple(tier.initial_state(batch_size) for tier in self._tiers())
        return sound, vectors, torch.tensor(0), tiers

    def forward(
        self, x: Float[Tensor, "batch length channels"], state: State = None
    ) -> tuple[Float[Tensor, "batch length d_hidden"], State]:
        """All samples at once. Pass a state to go on from it and get the next one back."""
        sound, vectors, phase, tiers = self.initial_state(len(x)) if state is None else state
        sound = torch.cat([sound, x[..., 0]], dim=1)
        vectors = torch.cat([vectors, x[..., 1:]], dim=1)
        said, after, time = None, list(tiers), int(phase)
        for j, tier in reversed(list(enumerate(self._tiers()))):
            said, after[j] = tier(sound[:, self.lookback - tier.span :], time, said, tiers[j])
        y = self.mlp(vectors, said)
        if state is None:
            return y, None
        heard = _last(sound, self.lookback - 1), _last(vectors, self.config.frame_sizes[0] - 1)
        return y, (*heard, (phase + x.shape[1]) % self.lookback, tuple(after))

    def step(
        self, x_t: Float[Tensor, "batch channels"], state: State
    ) -> tuple[Float[Tensor, "batch d_hidden"], State]:
        """One sample: each tier steps only when a frame of its own ends."""
        y, state = self(x_t[:, None], state)
        return y[:, 0], state

    def _tiers(self) -> list[FrameTier]:
        return list(self.tiers)  # type: ignore[arg-type]


def _multiples(of: int, below: int) -> int:
    """How many times from 0 on, below a time, a number divides."""
    return -(-below // of)


def _last(x: Tensor, n: int) -> Tensor:
    """The last ``n`` along time, copied: as a view they would keep the whole piece in memory."""
    return x[:, -n:].clone()
