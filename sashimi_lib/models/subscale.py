"""Subscale WaveRNN: generation of several samples of one sequence in parallel (chapter 8).

The samples are split into B sub-sequences: ``x_t`` with ``t = B i + s`` is ``u_{s,i}``, position i of
sub-sequence s. Its distribution may depend on

    u_{z,k}  for all z < s, k <= i + F    earlier sub-sequences, with a lookahead of F positions
    u_{s,k}  for all k < i                earlier samples of the same sub-sequence

In the order "sub-sequence 0, then 1, ..." each sample depends on earlier ones only, so the product of these
factors is a distribution of the whole sequence. And as the lookahead is F, sub-sequence s can start when s -
1 is F + 1 positions ahead: up to B samples are generated in parallel.

One WaveRNN cell runs along every sub-sequence. It is conditioned on the earlier ones by a causal dilated CNN
over positions, whose output is read F positions ahead.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from sashimi_lib.checks import at_least
from sashimi_lib.models.autoregressive import Cache, DiscreteAudioModel, log2_prob
from sashimi_lib.models.blocks import State
from sashimi_lib.models.sampling import SamplingConfig, TokenSampler, sampler_from_uniforms
from sashimi_lib.models.wavernn import WaveRNN, WaveRNNConfig
from sashimi_lib.registry import register
from sashimi_lib.ssm.precision import cudnn_as_matmul


@register
@dataclass(frozen=True)
class SubscaleConfig:
    """Configuration of a subscale WaveRNN; the hidden units, sub-sequences and lookahead are the paper's.

    The paper does not give the depth and width of the CNN. Its receptive field is ``context + 1`` positions,
    of which the last is ``lookahead`` ahead.

    >>> SubscaleConfig().context
    255
    """

    d_hidden: int = 1024  # Hidden units of the WaveRNN.
    factor: int = 16  # Sub-sequences, B in the paper.
    lookahead: int = 64  # Lookahead in positions, F in the paper.
    d_conditioning: int = 128  # Channels of the conditioning CNN.
    layers: int = 8  # Layers of the conditioning CNN.
    levels: int = 256  # Values of each of the two bytes of a sample.

    def __post_init__(self) -> None:
        at_least(self, 1, "factor", "d_conditioning", "layers")
        at_least(self, 0, "lookahead")
        WaveRNNConfig(self.d_hidden, self.d_conditioning, self.levels)  # checks them
        if self.context < self.lookahead:
            raise ValueError(
                f"layers must be enough for a receptive field of 2^layers > lookahead={self.lookahead}, "
                f"got {self.layers}"
            )

    @property
    def context(self) -> int:
        """Receptive field of the CNN in positions, without the current one: ``1 + 2 + 4 + ...``."""
        return 2**self.layers - 1


def generation_order(positions: int, factor: int, lookahead: int) -> Int[Tensor, "factor positions"]:
    """Return the step at which each sample is generated: ``i + s (F + 1)``. Samples of one step are generated
    in parallel; there are ``positions + (B - 1)(F + 1)`` steps.

    >>> generation_order(positions=4, factor=3, lookahead=1)
    tensor([[0, 1, 2, 3],
            [2, 3, 4, 5],
            [4, 5, 6, 7]])

    Chapter: 8. WaveRNN paper, section 4.
    """
    return torch.arange(positions) + (lookahead + 1) * torch.arange(factor)[:, None]


def context_mask(
    positions: int, factor: int, lookahead: int, s: int, i: int
) -> Bool[Tensor, "factor positions"]:
    """Return the context of sample i of sub-sequence s, by definition, as a mask over all samples.

    >>> context_mask(positions=4, factor=3, lookahead=1, s=1, i=1).int()
    tensor([[1, 1, 1, 0],
            [1, 0, 0, 0],
            [0, 0, 0, 0]], dtype=torch.int32)

    Chapter: 8. WaveRNN paper, section 4.
    """
    z, k = torch.arange(factor)[:, None], torch.arange(positions)
    return ((z < s) & (k <= i + lookahead)) | ((z == s) & (k < i))


class ContextCNN(nn.Module):
    """A causal dilated CNN over positions that conditions each sub-sequence on the earlier ones.

    ``x_0 = W [u_{z,k} for z < s, zeros for the others] + E_s``, then layer by layer, for d = 1, 2, 4, ...,
    ``x_{l+1}[k] = x_l[k] + relu(W_l [x_l[k - d], x_l[k]])``.

    >>> cnn = ContextCNN(factor=4, d=8, layers=3)
    >>> [tuple(x.shape) for x in cnn(torch.zeros(1, 10, 4, 2))]
    [(1, 10, 4, 8), (1, 9, 4, 8), (1, 7, 4, 8), (1, 3, 4, 8)]

    Chapter: 8. WaveRNN paper, section 4.
    """

    def __init__(self, factor: int, d: int, layers: int) -> None:
        super().__init__()
        self.input_projection = nn.Linear(2 * factor, d, bias=False)
        self.subsequence_embedding = nn.Embedding(factor, d)
        self.layers = nn.ModuleList(nn.Linear(2 * d, d) for _ in range(layers))

    def forward(
        self, inputs: Float[Tensor, "batch positions factor 2"]
    ) -> list[Float[Tensor, "batch _ factor d"]]:
        """Return the inputs of every layer and the output of the last, for all sub-sequences; each layer
        drops its dilation's positions at the start."""
        x = [self._project(inputs[:, :, None], torch.arange(inputs.shape[2], device=inputs.device))]
        for index, layer in enumerate(self.layers):
            x.append(_residual(layer, x[-1][:, : -(2**index)], x[-1][:, 2**index :]))
        return x

    def queues(
        self, inputs: Float[Tensor, "batch context factor 2"]
    ) -> list[Float[Tensor, "batch _ factor d"]]:
        """Return the state of `step` before position 0: the last ``2^l`` inputs of layer l."""
        return [x[:, -(2**index) :].clone() for index, x in enumerate(self(inputs)[:-1])]

    def step(
        self,
        inputs: Float[Tensor, "batch active factor 2"],
        s: Int[Tensor, " active"],
        k: Int[Tensor, " active"],
        queues: list[Tensor],
    ) -> Float[Tensor, "batch active d"]:
        """Return the output of sub-sequences s at one position k each. Replaces the oldest input in every
        queue by the newest, in place."""
        x = self._project(inputs, s)
        for queue, layer in zip(queues, self.layers, strict=True):
            slot = k % queue.shape[1]
            delayed = queue[:, slot, s]
            queue[:, slot, s] = x
            x = _residual(layer, delayed, x)
        return x

    def _project(self, inputs: Tensor, s: Tensor) -> Tensor:
        """(..., s, factor, 2) -> (..., s, d): for sub-sequence s, the inputs of s and later ones are
        masked."""
        mask = torch.arange(inputs.shape[-2], device=s.device) < s[:, None]
        return self.input_projection((inputs * mask[..., None]).flatten(-2)) + self.subsequence_embedding(s)


def _residual(layer: nn.Module, delayed: Tensor, x: Tensor) -> Tensor:
    return x + F.relu(layer(torch.cat([delayed, x], dim=-1)))


class Subscale(DiscreteAudioModel):
    """A distribution over 16-bit audio, of codes ``(batch, length, 2)``, which generates up to B samples in
    parallel.

    >>> model = Subscale(SubscaleConfig(d_hidden=16, factor=4, lookahead=1, d_conditioning=8, layers=2))
    >>> codes = model.generate(10, seed=0)
    >>> torch.equal(codes, model.generate_sequential(10, seed=0))
    True
    >>> model.log_likelihood(codes).shape
    torch.Size([1, 10])

    A length that is not a multiple of B is padded with silence, which is context but has no likelihood; so is
    the context before and after a sequence. In chunks, the lookahead beyond the end of a chunk is silence.
    The length of all chunks but the last must be a multiple of B.

    Chapter: 8. WaveRNN paper (Kalchbrenner et al., 2018), section 4.
    """

    def __init__(self, config: SubscaleConfig = SubscaleConfig()) -> None:
        super().__init__()
        self.config = config
        self.cell = WaveRNN(WaveRNNConfig(config.d_hidden, config.d_conditioning, config.levels))
        self.quantizer = self.cell.quantizer
        self.context_cnn = ContextCNN(config.factor, config.d_conditioning, config.layers)

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first sample: silence in the receptive field, and zeros in every
        cell."""
        B, silence = self.config.factor, torch.tensor(self.quantizer.silence, device=self.device)
        h = self.cell.initial_state(batch_size * B).unflatten(0, (batch_size, B))
        return silence.expand(batch_size, self.config.context, B, 2), h

    def forward(
        self, u: Int[Tensor, "batch positions factor 2"], state: State
    ) -> tuple[Float[Tensor, "batch factor positions d_hidden"], State]:
        """Return the state of the cell at every sample, by a teacher-forced pass, and the state of the model
        after the last."""
        context, h = state
        codes = torch.cat([context, u, self._silence(len(u), self.config.lookahead)], dim=1)
        conditioning = self.context_cnn(self._scaled(codes[:, self.config.lookahead :]))[-1]
        before = torch.cat([context[:, -1:], u[:, :-1]], dim=1)
        before, coarse, conditioning = (  # (batch B, positions, ...)
            x.transpose(1, 2).flatten(0, 1) for x in (before, u[..., 0], conditioning)
        )
        states, last = self.cell(before, coarse, h.flatten(0, 1), conditioning)
        context = torch.cat([context, u], dim=1)[:, -self.config.context :]
        return states.unflatten(0, h.shape[:2]), (context, last.view_as(h))

    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length 2"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """Return ``log2 P(x_t | context)`` of every sample of a chunk, in the order of time, and the cache
        after it. Raises ValueError after a chunk whose length is not a multiple of B."""
        length, B = codes.shape[1], self.config.factor
        u = torch.cat([codes, self._silence(len(codes), 1)[:, 0, : -length % B]], dim=1).unflatten(1, (-1, B))
        states, state = self(u, self._state_of(cache))
        h, subsequences = states.flatten(0, 1), u.transpose(1, 2).flatten(0, 1)
        bits = log2_prob(self.cell.coarse_logits(h), subsequences[..., 0])
        bits = bits + log2_prob(self.cell.fine_logits(h), subsequences[..., 1])
        bits = bits.unflatten(0, (len(codes), B)).transpose(1, 2).flatten(1)[:, :length]
        return bits, (codes[:, -1], state if length % B == 0 else ())

    def prefill(self, codes: Int[Tensor, "batch length 2"], cache: Cache) -> Cache:
        """Return the cache after ``codes``, by one parallel pass over them."""
        return self.log_likelihood_from(codes, cache)[1]

    @torch.no_grad()
    @cudnn_as_matmul()
    def generate(
        self,
        length: int,
        batch_size: int = 1,
        prompt: Int[Tensor, "batch prompt 2"] | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Int[Tensor, "batch length 2"]:
        """Sample ``length`` codes; all sub-sequences that can run at a step of `generation_order` are one
        batch.

        Slow twin: `generate_sequential`, which gives the same codes. ``prompt`` is the chunk before. Raises
        ValueError as `DiscreteAudioModel.generate` does, and for a prompt whose length is not a multiple of
        B.
        """
        B, lookahead, lead = self.config.factor, self.config.lookahead, self.config.context
        u, uniform, (context, h) = self._prepare(length, batch_size, prompt, seed)
        codes = torch.cat(
            [context, u, self._silence(len(u), lookahead)], dim=1
        )  # position k: codes[:, lead + k]
        queues, h = self.context_cnn.queues(self._scaled(context)), h.clone()
        order, s = generation_order(u.shape[1], B, lookahead), torch.arange(B, device=self.device)
        last, start = int(order.T.flatten()[:length].max()), order[:, 0].to(self.device)
        # F steps before the first, the CNN starts to process the positions up to the lookahead of
        # sub-sequence 0.
        for step in tqdm(range(-lookahead, last + 1), unit="step", disable=not progress):
            k = step - start
            active = s[(k >= -lookahead) & (B * k + s < length)]
            k = k[active]
            inputs = self._scaled(codes[:, lead + k + lookahead])
            conditioning = self.context_cnn.step(inputs, active, k + lookahead, queues)[:, k >= 0]
            active, k = active[k >= 0], k[k >= 0]
            sampler = sampler_from_uniforms(uniform[:, k, active].flatten(0, 1), sampling)
            self._sample_positions(codes, h, active, lead + k, sampler, conditioning)
        return codes[:, lead : lead + u.shape[1]].flatten(1, 2)[:, :length]

    def _sample_positions(
        self,
        codes: Int[Tensor, "batch positions factor 2"],
        h: Float[Tensor, "batch factor d_hidden"],
        s: Int[Tensor, " active"],
        k: Int[Tensor, " active"],
        sampler: TokenSampler,
        conditioning: Float[Tensor, "batch active d_conditioning"],
    ) -> None:
        """Sample position k of each active sub-sequence s; write codes and states in place."""
        inputs = (x.flatten(0, 1) for x in (codes[:, k - 1, s], h[:, s], conditioning))
        before, state, conditioning = inputs
        code, state = self.cell.sample_next(before, state, sampler, conditioning)
        codes[:, k, s], h[:, s] = (x.unflatten(0, (len(codes), len(s))) for x in (code, state))

    @torch.no_grad()
    @cudnn_as_matmul()
    def generate_sequential(
        self,
        length: int,
        batch_size: int = 1,
        prompt: Int[Tensor, "batch prompt 2"] | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        seed: int | torch.Generator = 0,
    ) -> Int[Tensor, "batch length 2"]:
        """Sample the same codes by definition: sub-sequence 0, then 1, ..., each byte from a parallel pass
        over the codes so far, padded with silence. Slow twin of `generate`."""
        u, uniform, state = self._prepare(length, batch_size, prompt, seed)
        for s in range(self.config.factor):
            for i in range(len(range(s, length, self.config.factor))):
                for byte, logits in enumerate((self.cell.coarse_logits, self.cell.fine_logits)):
                    sampler = sampler_from_uniforms(uniform[:, i, s, byte:], sampling)
                    u[:, i, s, byte] = sampler(logits(self(u, state)[0][:, s, i]))
        return u.flatten(1, 2)[:, :length]

    def _prepare(
        self, length: int, batch_size: int, prompt: Tensor | None, seed: int | torch.Generator
    ) -> tuple[Tensor, Tensor, State]:
        """Return codes of silence to write to, a uniform random number for each byte, and the state before
        them."""
        if length < 1:
            raise ValueError(f"length must be at least 1 sample, got {length}")
        cache = self.initial_cache(batch_size if prompt is None else len(prompt))
        if prompt is not None and prompt.shape[1] > 0:
            self.quantizer.check(prompt, "prompt")
            cache = self.prefill(prompt.to(self.device), cache)
        u = self._silence(len(cache[0]), -(-length // self.config.factor)).clone()
        return (
            u,
            torch.rand(u.shape, generator=self.generator(seed), device=self.device),
            self._state_of(cache),
        )

    def _state_of(self, cache: Cache) -> State:
        """Return the state of a cache after a multiple of B samples."""
        if not cache[1]:
            raise ValueError(
                f"cache must be of a length that is a multiple of factor={self.config.factor}, "
                "so that the next chunk starts with sub-sequence 0, got another"
            )
        return cache[1]

    def _silence(self, batch_size: int, positions: int) -> Int[Tensor, "batch positions factor 2"]:
        silence = torch.tensor(self.quantizer.silence, device=self.device)
        return silence.expand(batch_size, positions, self.config.factor, 2)

    def _scaled(self, codes: Int[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Scale bytes to [-1, 1], as in the inputs of the cell."""
        return codes.to(self.cell.bias.dtype) / ((self.config.levels - 1) / 2) - 1
