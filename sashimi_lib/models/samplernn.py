"""SampleRNN: recurrent networks at several rates, each conditioning the next faster one (chapter 7).

Time is counted in input samples. When the time is a multiple of its ``span``, a tier takes the frame of the
last ``span`` samples, steps its GRU once, and outputs one conditioning vector for each frame of the tier
below; the fastest tier outputs one for each sample. A small network takes these and the last few codes.
Frames end at the current sample, so a tier has no delay, whereas the pooling of SaShiMi is shifted by a
frame.
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
    """Configuration of a SampleRNN; the defaults are the SaShiMi paper's 3-tier model, 35.03M parameters.

    Frame sizes go from fast to slow: 8, 2, 2 are tiers whose frames have 8, 16 and 32 samples. The paper's
    2-tier model has 16, 4 and two GRU layers.
    """

    # Samples per frame of the fastest tier, then the factor of each slower one.
    frame_sizes: tuple[int, ...] = (8, 2, 2)
    n_rnn: int = 1  # GRU layers per tier.
    d_hidden: int = 1024  # Hidden units of each GRU.
    d_embedding: int = 256  # Channels of the embedding of a sample.

    def __post_init__(self) -> None:
        if not self.frame_sizes:
            raise ValueError("frame_sizes must hold a size for each tier, got ()")
        at_least(self, 2, "frame_sizes")
        at_least(self, 1, "n_rnn", "d_hidden", "d_embedding")

    def build(self) -> "SampleRNN":
        """Return a new `SampleRNN`."""
        return SampleRNN(self)


class AmplitudeEmbedding(nn.Module):
    """The input of SampleRNN: channel 0 is twice the amplitude of a code (for the tiers), the others are its
    embedding (for the network at the sample rate).

    The amplitudes are a buffer, saved with the weights: looking them up needs no check of the codes.

    >>> from sashimi_lib.audio.quantizers import MuLaw
    >>> AmplitudeEmbedding(MuLaw(), 16)(torch.tensor([[0, 128]]))[..., 0]
    tensor([[-2.,  0.]], grad_fn=<SelectBackward0>)

    Chapter: 7.
    """

    amplitude: Tensor

    def __init__(self, quantizer: Quantizer, d_embedding: int) -> None:
        super().__init__()
        codes = torch.arange(quantizer.levels)
        if isinstance(
            quantizer, CoarseFine
        ):  # a table over both codes: coarse along rows, fine along columns
            amplitude = quantizer.decode(torch.cartesian_prod(codes, codes)).view(len(codes), -1)
        else:
            amplitude = quantizer.decode(codes)
        self.register_buffer("amplitude", 2 * amplitude)
        self.embedding = embedding(quantizer, d_embedding)

    def forward(self, codes: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch_and channels"]:
        """Embed codes (...), or (..., 2) of the coarse-fine quantizer: -> (..., 1 + d_embedding)."""
        index = codes.unbind(-1) if self.amplitude.ndim == 2 else (codes,)
        return torch.cat([self.amplitude[index][..., None], self.embedding(codes)], dim=-1)


class FrameTier(nn.Module):
    """One tier: a GRU whose input is a frame of ``span`` samples plus the slower tier's conditioning vector,
    and which outputs ``n_outputs`` conditioning vectors a frame, for the tier below.

    Chapter: 7. SampleRNN paper (Mehri et al., 2017), section 2.1.
    """

    def __init__(self, span: int, n_outputs: int, n_rnn: int, d_hidden: int) -> None:
        super().__init__()
        self.span, self.n_outputs = span, n_outputs
        self.expand = nn.Linear(span, d_hidden)
        self.rnn = nn.GRU(d_hidden, d_hidden, n_rnn, batch_first=True)
        self.h0 = nn.Parameter(torch.zeros(1, n_rnn, d_hidden))
        self.upsample = nn.Linear(d_hidden, n_outputs * d_hidden)
        self._reset_parameters()
        self.expand = weight_norm(self.expand)
        self.upsample = weight_norm(self.upsample, dim=1)  # as published: a gain per input channel

    def _reset_parameters(self) -> None:
        """Initialize as published; PyTorch's defaults are several times smaller."""
        nn.init.kaiming_uniform_(self.expand.weight)
        nn.init.kaiming_uniform_(self.upsample.weight)
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, nonlinearity="linear")
            if name.startswith("weight_hh"):
                nn.init.orthogonal_(parameter[-len(parameter) // 3 :])  # of the candidate state
        nn.init.zeros_(self.expand.bias)
        nn.init.zeros_(self.upsample.bias)

    def initial_state(self, batch_size: int) -> State:
        """Return zero vectors of the frame before the first, which are not used, and the learned initial
        state of each GRU layer."""
        pending = self.h0.new_zeros(batch_size, self.n_outputs, self.h0.shape[-1])
        return pending, self.h0.expand(batch_size, -1, -1)

    def forward(
        self,
        amplitudes: Float[Tensor, "batch samples"],
        time: int,
        conditioning: Float[Tensor, "batch frames d_hidden"] | None,
        state: State,
    ) -> tuple[Float[Tensor, "batch vectors d_hidden"], State]:
        """Return the conditioning vectors for a chunk of samples, the first of them at ``time``.

        ``amplitudes`` starts ``span - 1`` samples before the chunk; ``conditioning`` is one vector for each
        frame that ends in the chunk, from the slower tier, or None.
        """
        pending, hidden = state
        end = time + amplitudes.shape[1] - self.span + 1
        frame, next_frame = (_multiples(self.span, t) for t in (time, end))
        vector, next_vector = (_multiples(self.span // self.n_outputs, t) for t in (time, end))
        if frames := next_frame - frame:
            first = frame * self.span - time
            inputs = amplitudes[:, first : first + frames * self.span].unflatten(1, (frames, self.span))
            vectors, hidden = self._run_gru(inputs, conditioning, hidden)
            pending = torch.cat([pending, vectors], dim=1)
        start = vector - (frame - 1) * self.n_outputs  # pending starts with the previous frame
        return pending[:, start : start + next_vector - vector], (_last(pending, self.n_outputs), hidden)

    def _run_gru(self, frames: Tensor, conditioning: Tensor | None, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Run the GRU over complete frames; return ``n_outputs`` vectors for each. ``hidden`` is batch first,
        unlike that of PyTorch's GRU."""
        z = self.expand(frames).to(hidden.dtype)
        z = z if conditioning is None else z + conditioning
        # Under autocast cuDNN's GRU would run in float16, also where bfloat16 is chosen.
        with autocast_off(z.device):
            z, h = self.rnn(z, hidden.transpose(0, 1).contiguous())
        return self.upsample(z).unflatten(2, (self.n_outputs, -1)).flatten(1, 2), h.transpose(0, 1)


class SampleMLP(nn.Module):
    """The network at the sample rate: an MLP over the embeddings of the last ``size`` codes and the
    conditioning of the fastest tier.

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
        conditioning: Float[Tensor, "batch length d_hidden"],
    ) -> Float[Tensor, "batch length d_hidden"]:
        """(batch, size - 1 + length, d_embedding) and (batch, length, d_hidden) -> (batch, length,
        d_hidden)."""
        return F.relu(self.hidden(F.relu(self.input(vectors.mT).mT + conditioning)))


class SampleRNN(Backbone):
    """All tiers and the network at the sample rate. Input: an `AmplitudeEmbedding`; output: ``d_hidden``
    features.

    Before the first sample the context is zeros, both for the amplitudes (silence) and for the embeddings of
    codes (where the published code pads with the code of silence; this affects only the first samples). The
    GRUs have a learned initial state. For truncated back-propagation through time, detach the state between
    chunks.

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
            FrameTier(span, n_outputs, config.n_rnn, config.d_hidden)
            for span, n_outputs in zip(spans, config.frame_sizes, strict=True)
        )
        self.mlp = SampleMLP(spans[0], config.d_embedding, config.d_hidden)
        self.lookback = spans[-1]

    def embedding(self, quantizer: Quantizer) -> nn.Module:
        """Return an `AmplitudeEmbedding`."""
        return AmplitudeEmbedding(quantizer, self.config.d_embedding)

    def head(self, quantizer: Quantizer) -> Head:
        """Return a softmax with weight norm, as published; or the default dual softmax."""
        head = super().head(quantizer)
        return weight_norm(head) if isinstance(head, Softmax) else head

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first sample: the last amplitudes and embeddings, the time since the
        slowest frame ended (on the CPU, where reading it needs no synchronization), and the state of each
        tier, from fast to slow."""
        amplitudes = self.mlp.hidden.bias.new_zeros(batch_size, self.lookback - 1)
        vectors = amplitudes.new_zeros(batch_size, self.config.frame_sizes[0] - 1, self.config.d_embedding)
        tiers = tuple(tier.initial_state(batch_size) for tier in self._tiers())
        return amplitudes, vectors, torch.tensor(0), tiers

    def forward(
        self, x: Float[Tensor, "batch length channels"], state: State = None
    ) -> tuple[Float[Tensor, "batch length d_hidden"], State]:
        """Process a whole sequence, or a chunk that follows ``state``; without one the next state is None."""
        amplitudes, vectors, phase, tiers = self.initial_state(len(x)) if state is None else state
        amplitudes = torch.cat([amplitudes, x[..., 0]], dim=1)
        vectors = torch.cat([vectors, x[..., 1:]], dim=1)
        conditioning, next_tiers, time = None, list(tiers), int(phase)
        for j, tier in reversed(list(enumerate(self._tiers()))):
            context = amplitudes[:, self.lookback - tier.span :]
            conditioning, next_tiers[j] = tier(context, time, conditioning, tiers[j])
        y = self.mlp(vectors, conditioning)
        if state is None:
            return y, None
        inputs = _last(amplitudes, self.lookback - 1), _last(vectors, self.config.frame_sizes[0] - 1)
        return y, (*inputs, (phase + x.shape[1]) % self.lookback, tuple(next_tiers))

    def step(
        self, x_t: Float[Tensor, "batch channels"], state: State
    ) -> tuple[Float[Tensor, "batch d_hidden"], State]:
        """Process one sample: a tier steps only when one of its frames ends."""
        y, state = self(x_t[:, None], state)
        return y[:, 0], state

    def _tiers(self) -> list[FrameTier]:
        return list(self.tiers)  # type: ignore[arg-type]


def _multiples(of: int, below: int) -> int:
    """Return the number of multiples of ``of`` from 0 to ``below``, exclusive."""
    return -(-below // of)


def _last(x: Tensor, n: int) -> Tensor:
    """Return a copy of the last ``n`` samples; a view would keep the whole chunk in memory."""
    return x[:, -n:].clone()
