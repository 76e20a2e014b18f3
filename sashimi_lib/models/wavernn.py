"""WaveRNN: one recurrent layer whose fine half depends on the coarse code (chapter 8).

    x_t = [c_{t-1}, f_{t-1}, c_t],  each byte scaled to [-1, 1]
    u_t = sigmoid(R_u h_{t-1} + I*_u x_t)
    r_t = sigmoid(R_r h_{t-1} + I*_r x_t)
    e_t = tanh(r_t o (R_e h_{t-1}) + I*_e x_t)
    h_t = u_t o h_{t-1} + (1 - u_t) o e_t
    y_c, y_f = split(h_t)
    P(c_t) = softmax(O_2 relu(O_1 y_c)),  P(f_t) = softmax(O_4 relu(O_3 y_f))

The star marks a mask: c_t is an input of the fine half of each gate only, hence of y_f only. Here the mask is
the shape of the matrices: `WaveRNN.I_coarse` has no column for c_t.

In the paper r multiplies the whole sum in e; here, as in the published code, it multiplies ``R_e h`` alone.
So the layer is a GRU with a masked input matrix, and the teacher-forced pass calls PyTorch's GRU.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sashimi_lib.audio.quantizers import CoarseFine
from sashimi_lib.checks import at_least
from sashimi_lib.models.autoregressive import Autoregressive, Cache, log2_prob, shift_right
from sashimi_lib.models.sampling import TokenSampler
from sashimi_lib.registry import register
from sashimi_lib.ssm.precision import autocast_off


@register
@dataclass(frozen=True)
class WaveRNNConfig:
    """Configuration of a WaveRNN; the default is the paper's WaveRNN-896, 3,050,048 parameters.

    Conditioning features are those of a spectrogram, for example.
    """

    d_hidden: int = 896  # Hidden units, half of them for the coarse byte and half for the fine one.
    d_conditioning: int = 0  # Conditioning features per sample; 0: unconditional.
    levels: int = 256  # Values of each of the two bytes of a sample.

    def __post_init__(self) -> None:
        at_least(self, 0, "d_conditioning")
        if not self.d_hidden >= 2 or self.d_hidden % 2:
            raise ValueError(f"d_hidden must be even, for a coarse and a fine half, got {self.d_hidden}")
        CoarseFine(self.levels)  # checks them


class WaveRNN(Autoregressive):
    """A distribution over 16-bit audio, of codes ``(batch, length, 2)``.

    >>> model = WaveRNN(WaveRNNConfig(d_hidden=32))
    >>> model.generate(20, seed=0).shape
    torch.Size([1, 20, 2])
    >>> model.log_likelihood(CoarseFine().encode(torch.zeros(1, 50))).shape
    torch.Size([1, 50])

    ``R`` stacks R_u, R_r and R_e, so that a step takes one product with h for all gates; the rows of each
    have the coarse half first. Chapter: 8. WaveRNN paper (Kalchbrenner et al., 2018), section 2.
    """

    def __init__(self, config: WaveRNNConfig = WaveRNNConfig()) -> None:
        super().__init__()
        self.config, self.quantizer = config, CoarseFine(config.levels)
        half, levels = config.d_hidden // 2, config.levels
        self.R = nn.Linear(config.d_hidden, 3 * config.d_hidden, bias=False)
        self.I_coarse = nn.Linear(2 + config.d_conditioning, 3 * half, bias=False)
        self.I_fine = nn.Linear(3 + config.d_conditioning, 3 * half, bias=False)
        self.bias = nn.Parameter(torch.zeros(3 * config.d_hidden))
        self.O1, self.O2 = nn.Linear(half, half), nn.Linear(half, levels)
        self.O3, self.O4 = nn.Linear(half, half), nn.Linear(half, levels)

    @property
    def I_star(self) -> Float[Tensor, "gates inputs"]:
        """The masked input matrix, (3 d_hidden, 3 + d_conditioning): columns for c_{t-1}, f_{t-1}, c_t and
        the conditioning; rows as in ``R``. It is zero from c_t to the coarse half."""
        coarse, fine = self.I_coarse.weight, self.I_fine.weight
        coarse = torch.cat([coarse[:, :2], torch.zeros_like(coarse[:, :1]), coarse[:, 2:]], dim=1)
        halves = torch.stack([coarse.unflatten(0, (3, -1)), fine.unflatten(0, (3, -1))], dim=1)
        return halves.flatten(0, 2)

    def initial_state(self, batch_size: int) -> Float[Tensor, "batch d_hidden"]:
        """Return the state before the first sample: zeros."""
        return self.bias.new_zeros(batch_size, self.config.d_hidden)

    def forward(
        self,
        before: Int[Tensor, "batch length 2"],
        coarse: Int[Tensor, "batch length"],
        state: Float[Tensor, "batch d_hidden"],
        conditioning: Float[Tensor, "batch length d_conditioning"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_hidden"], Float[Tensor, "batch d_hidden"]]:
        """Return every state h_t of the teacher-forced pass, given the codes before each sample and its own
        coarse code; and the last state."""
        x = self._inputs(torch.cat([before, coarse[..., None]], dim=-1), conditioning)
        # PyTorch's GRU calls u z, has the rows of r before those of u, and two biases, of which one is zero
        # here.
        w_x, w_h, b = (
            w.unflatten(0, (3, -1))[[1, 0, 2]].flatten(0, 1) for w in (self.I_star, self.R.weight, self.bias)
        )
        weights = _flatten_weights(w_x, w_h, b, torch.zeros_like(b))
        # Under autocast cuDNN's GRU would run in float16, also where bfloat16 is chosen.
        with autocast_off(x.device):
            h, last = torch.gru(x, state[None].contiguous(), weights, True, 1, 0.0, False, False, True)
        return h, last[0]

    def coarse_logits(self, h: Float[Tensor, "*batch d_hidden"]) -> Float[Tensor, "*batch levels"]:
        """Return the logits of c_t, from the coarse half of h_t."""
        return self.O2(F.relu(self.O1(h[..., : self.config.d_hidden // 2])))

    def fine_logits(self, h: Float[Tensor, "*batch d_hidden"]) -> Float[Tensor, "*batch levels"]:
        """Return the logits of f_t, from the fine half of h_t, which depends on c_t."""
        return self.O4(F.relu(self.O3(h[..., self.config.d_hidden // 2 :])))

    def log_likelihood_from(
        self,
        codes: Int[Tensor, "batch length 2"],
        cache: Cache,
        conditioning: Float[Tensor, "batch length d_conditioning"] | None = None,
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """Return ``log2 P(c_t | x_<t) + log2 P(f_t | x_<t, c_t)`` of every sample of a chunk, given the cache
        before it; and the cache after it."""
        before, state = cache
        coarse, fine = codes.unbind(-1)
        h, state = self(shift_right(codes, before), coarse, state, conditioning)
        bits = log2_prob(self.coarse_logits(h), coarse) + log2_prob(self.fine_logits(h), fine)
        return bits, (codes[:, -1], state)

    def prefill(
        self,
        codes: Int[Tensor, "batch length 2"],
        cache: Cache,
        conditioning: Float[Tensor, "batch length d_conditioning"] | None = None,
    ) -> Cache:
        """Return the cache after ``codes``, by one parallel pass over them."""
        before, state = cache
        return codes[:, -1], self(shift_right(codes, before), codes[..., 0], state, conditioning)[1]

    def sample_next(
        self,
        code: Int[Tensor, "batch 2"],
        state: Float[Tensor, "batch d_hidden"],
        sampler: TokenSampler,
        conditioning: Float[Tensor, "batch d_conditioning"] | None = None,
    ) -> tuple[Int[Tensor, "batch 2"], Float[Tensor, "batch d_hidden"]]:
        """Process ``code``; return the next sample and state: one product with R, the coarse gates, c_t, the
        fine gates, f_t."""
        x = self._inputs(code, conditioning)
        old_coarse, old_fine = state.chunk(2, dim=-1)
        # For each of u, r and e, the coarse half and the fine half: (batch, 3, 2, half).
        product, bias = self.R(state).unflatten(-1, (3, 2, -1)), self.bias.unflatten(-1, (3, 2, -1))
        h_coarse = gates(product[:, :, 0], self.I_coarse(x).unflatten(-1, (3, -1)) + bias[:, 0], old_coarse)
        coarse = sampler(self.O2(F.relu(self.O1(h_coarse))))
        x = self._inputs(torch.cat([code, coarse[:, None]], dim=-1), conditioning)
        h_fine = gates(product[:, :, 1], self.I_fine(x).unflatten(-1, (3, -1)) + bias[:, 1], old_fine)
        fine = sampler(self.O4(F.relu(self.O3(h_fine))))
        return torch.stack([coarse, fine], dim=-1), torch.cat([h_coarse, h_fine], dim=-1)

    def _inputs(
        self, codes: Int[Tensor, "*batch bytes"], conditioning: Float[Tensor, "*batch d_conditioning"] | None
    ) -> Float[Tensor, "*batch inputs"]:
        """Return the codes scaled to [-1, 1], concatenated with the conditioning."""
        features = 0 if conditioning is None else conditioning.shape[-1]
        if features != self.config.d_conditioning:
            raise ValueError(
                f"conditioning must have {self.config.d_conditioning} features a sample, got {features}"
            )
        top = (self.config.levels - 1) / 2
        x = codes.to(self.bias.dtype) / top - 1
        return x if conditioning is None else torch.cat([x, conditioning], dim=-1)


def gates(
    recurrent: Float[Tensor, "batch 3 half"],
    inputs: Float[Tensor, "batch 3 half"],
    h: Float[Tensor, "batch half"],
) -> Float[Tensor, "batch half"]:
    """Return one half of the next state, given R h and I* x for u, r and e, and that half of h.

    >>> gates(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), torch.ones(1, 2))
    tensor([[0.5000, 0.5000]])

    Chapter: 8.
    """
    u = torch.sigmoid(recurrent[:, 0] + inputs[:, 0])
    r = torch.sigmoid(recurrent[:, 1] + inputs[:, 1])
    e = torch.tanh(r * recurrent[:, 2] + inputs[:, 2])
    return u * h + (1 - u) * e


def _flatten_weights(*tensors: Tensor) -> list[Tensor]:
    """Copy tensors into one contiguous buffer, as cuDNN expects the weights of a GRU; return views of it."""
    parts = torch.cat([x.flatten() for x in tensors]).split([x.numel() for x in tensors])
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]
