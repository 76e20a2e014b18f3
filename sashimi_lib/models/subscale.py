"""The subscale ordering of WaveRNN: many samples of one sound at a time (chapter 8).

The samples are dealt out to B sub-sequences: ``x_t`` with ``t = B i + s`` is ``u_{s,i}``, at place i of
sub-sequence s. Its distribution may depend on

    u_{z,k}  for all z < s, k <= i + F    earlier sub-sequences, even a little of what comes later in time
    u_{s,k}  for all k < i                its own past

"Sub-sequence 0, then 1, ..." is an order of all samples in which each hears only earlier ones, so the product
of these factors is a distribution of the whole sound. And as nobody hears more than F places ahead,
sub-sequence s may start as soon as s - 1 is F + 1 places in: up to B samples are made at once.

One WaveRNN cell runs along every sub-sequence. What the earlier ones say it is told by a causal dilated CNN
over the places, read F places ahead.
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
from sashimi_lib.models.sampling import SamplingConfig, TokenSampler, distribution, inverse_cdf
from sashimi_lib.models.wavernn import WaveRNN, WaveRNNConfig
from sashimi_lib.registry import register
from sashimi_lib.ssm.precision import cudnn_as_matmul


@register
@dataclass(frozen=True)
class SubscaleConfig:
    """The shape of a subscale WaveRNN; 1024 units, 16 sub-sequences and a look-ahead of 64 are the paper's.

    ``factor`` is B and ``lookahead`` is F. The CNN has ``layers`` of width ``d_conditioning``; it hears ``context +
    1`` places, the last of them F ahead. How deep and wide the paper's is was not printed.

    >>> SubscaleConfig().context
    255
    """

    d_hidden: int = 1024
    factor: int = 16
    lookahead: int = 64
    d_conditioning: int = 128
    layers: int = 8
    levels: int = 256

    def __post_init__(self) -> None:
        at_least(self, 1, "factor", "d_conditioning", "layers")
        at_least(self, 0, "lookahead")
        WaveRNNConfig(self.d_hidden, self.d_conditioning, self.levels)  # checks them
        if self.context < self.lookahead:
            raise ValueError(
                f"layers must be enough to reach from lookahead={self.lookahead} positions later back to a sample's own, "
                f"2^layers > ahead, got {self.layers}"
            )

    @property
    def context(self) -> int:
        """How many places the CNN hears beside the latest: ``1 + 2 + 4 + ...``."""
        return 2**self.layers - 1


def generation_order(positions: int, factor: int, lookahead: int) -> Int[Tensor, "factor places"]:
    """At which tick of the wavefront each sample is made: ``i + s (F + 1)``. All of one tick are made
    together, in ``positions + (B - 1)(F + 1)`` ticks.

    >>> generation_order(positions=4, factor=3, lookahead=1)
    tensor([[0, 1, 2, 3],
            [2, 3, 4, 5],
            [4, 5, 6, 7]])

    Chapter: 8. WaveRNN paper, section 4.
    """
    return torch.arange(positions) + (lookahead + 1) * torch.arange(factor)[:, None]


def context_mask(
    positions: int, factor: int, lookahead: int, s: int, i: int
) -> Bool[Tensor, "factor places"]:
    """What sample i of sub-sequence s may hear: the definition, as a mask over all samples.

    >>> context_mask(positions=4, factor=3, lookahead=1, s=1, i=1).int()
    tensor([[1, 1, 1, 0],
            [1, 0, 0, 0],
            [0, 0, 0, 0]], dtype=torch.int32)

    Chapter: 8. WaveRNN paper, section 4.
    """
    z, k = torch.arange(factor)[:, None], torch.arange(positions)
    return ((z < s) & (k <= i + lookahead)) | ((z == s) & (k < i))


class ContextCNN(nn.Module):
    """What the earlier sub-sequences say to each: a causal dilated CNN with ReLUs along the places.

    ``x_0 = W [u_{z,k} for z < s, zeros for the others] + E_s``, then layer by layer, for d = 1, 2, 4, ...,
    ``x_{l+1}[k] = x_l[k] + relu(W_l [x_l[k - d], x_l[k]])``.

    >>> listener = ContextCNN(factor=4, d=8, layers=3)
    >>> [tuple(x.shape) for x in listener(torch.zeros(1, 10, 4, 2))]
    [(1, 10, 4, 8), (1, 9, 4, 8), (1, 7, 4, 8), (1, 3, 4, 8)]

    Chapter: 8. WaveRNN paper, section 4.
    """

    def __init__(self, factor: int, d: int, layers: int) -> None:
        super().__init__()
        self.earlier = nn.Linear(2 * factor, d, bias=False)
        self.who = nn.Embedding(factor, d)
        self.layers = nn.ModuleList(nn.Linear(2 * d, d) for _ in range(layers))

    def forward(
        self, said: Float[Tensor, "batch places factor 2"]
    ) -> list[Float[Tensor, "batch _ factor d"]]:
        """The inputs of every layer and the output of the last, for all sub-sequences; each layer takes its
        dilation off the beginning."""
        x = [self._hear(said[:, :, None], torch.arange(said.shape[2], device=said.device))]
        for number, layer in enumerate(self.layers):
            x.append(_mix(layer, x[-1][:, : -(2**number)], x[-1][:, 2**number :]))
        return x

    def queues(
        self, said: Float[Tensor, "batch context factor 2"]
    ) -> list[Float[Tensor, "batch _ factor d"]]:
        """What `step` has to remember before place 0: the last ``2^l`` inputs of layer l."""
        return [x[:, -(2**number) :].clone() for number, x in enumerate(self(said)[:-1])]

    def step(
        self,
        said: Float[Tensor, "batch some factor 2"],
        s: Int[Tensor, " some"],
        k: Int[Tensor, " some"],
        queues: list[Tensor],
    ) -> Float[Tensor, "batch some d"]:
        """For some sub-sequences s, one place k each: the output there. Takes the oldest input out of every
        queue and puts the newest in its place."""
        x = self._hear(said, s)
        for queue, layer in zip(queues, self.layers, strict=True):
            slot = k % queue.shape[1]
            delayed = queue[:, slot, s]
            queue[:, slot, s] = x
            x = _mix(layer, delayed, x)
        return x

    def _hear(self, said: Tensor, s: Tensor) -> Tensor:
        """(..., s, factor, 2) -> (..., s, d): to each sub-sequence s only what those before it said."""
        before_s = torch.arange(said.shape[-2], device=s.device) < s[:, None]
        return self.earlier((said * before_s[..., None]).flatten(-2)) + self.who(s)


def _mix(layer: nn.Module, delayed: Tensor, x: Tensor) -> Tensor:
    return x + F.relu(layer(torch.cat([delayed, x], dim=-1)))


class Subscale(DiscreteAudioModel):
    """A distribution over 16-bit sound, of codes ``(batch, length, 2)``, that is made B samples at a time.

    >>> model = Subscale(SubscaleConfig(d_hidden=16, factor=4, lookahead=1, d_conditioning=8, layers=2))
    >>> codes = model.generate(10, seed=0)
    >>> torch.equal(codes, model.generate_sequential(10, seed=0))
    True
    >>> model.log_likelihood(codes).shape
    torch.Size([1, 10])

    A length that B does not divide is filled up with silence, which is heard but neither scored nor drawn; so
    is what lies before and after a sound. A sound in pieces is made piece by piece: each hears all before it
    and, where it would look ahead into the next, silence. Pieces but the last have lengths that B divides.

    Chapter: 8. WaveRNN paper (Kalchbrenner et al., 2018), section 4.
    """

    def __init__(self, config: SubscaleConfig = SubscaleConfig()) -> None:
        super().__init__()
        self.config = config
        self.cell = WaveRNN(WaveRNNConfig(config.d_hidden, config.d_conditioning, config.levels))
        self.quantizer = self.cell.quantizer
        self.listener = ContextCNN(config.factor, config.d_conditioning, config.layers)

    def initial_state(self, batch_size: int) -> State:
        """The state of silence: the codes of as many places as are heard, and zeros in every cell."""
        B, silence = self.config.factor, torch.tensor(self.quantizer.silence, device=self.device)
        h = self.cell.initial_state(batch_size * B).unflatten(0, (batch_size, B))
        return silence.expand(batch_size, self.config.context, B, 2), h

    def forward(
        self, u: Int[Tensor, "batch places factor 2"], state: State
    ) -> tuple[Float[Tensor, "batch factor places d_hidden"], State]:
        """Teacher-forced: the state of the cell at every sample, and what the next piece has to know."""
        context, h = state
        every = torch.cat([context, u, self._silence(len(u), self.config.lookahead)], dim=1)
        condition = self.listener(self._scaled(every[:, self.config.lookahead :]))[-1]
        before = torch.cat([context[:, -1:], u[:, :-1]], dim=1)
        along = (x.transpose(1, 2).flatten(0, 1) for x in (before, u[..., 0], condition))
        before, coarse, condition = along  # (batch B, places, ...)
        states, last = self.cell(before, coarse, h.flatten(0, 1), condition)
        context = torch.cat([context, u], dim=1)[:, -self.config.context :]
        return states.unflatten(0, h.shape[:2]), (context, last.view_as(h))

    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length 2"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """``log2 P(x_t | what it may hear)`` of every sample of a piece, in the order of time; and the past
        of the next piece. Raises ValueError after a piece whose length B does not divide."""
        length, B = codes.shape[1], self.config.factor
        u = torch.cat([codes, self._silence(len(codes), 1)[:, 0, : -length % B]], dim=1).unflatten(1, (-1, B))
        states, state = self(u, self._whole(cache))
        h, in_line = states.flatten(0, 1), u.transpose(1, 2).flatten(0, 1)
        bits = log2_prob(self.cell.coarse_logits(h), in_line[..., 0])
        bits = bits + log2_prob(self.cell.fine_logits(h), in_line[..., 1])
        in_time = bits.unflatten(0, (len(codes), B)).transpose(1, 2).flatten(1)[:, :length]
        return in_time, (codes[:, -1], state if length % B == 0 else ())

    def prefill(self, codes: Int[Tensor, "batch length 2"], cache: Cache) -> Cache:
        """The past after some more codes, all at once."""
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
        """Draw ``length`` codes, tick by tick: all sub-sequences that may run step together, as one batch.

        Slow twin: `generate_sequential`, which gives the same codes. ``prompt`` is the piece before. Raises
        ValueError as `DiscreteAudioModel.generate` does, and for a prompt whose length B does not divide.
        """
        B, lookahead, lead = self.config.factor, self.config.lookahead, self.config.context
        u, uniform, (context, h) = self._begin(length, batch_size, prompt, seed)
        every = torch.cat(
            [context, u, self._silence(len(u), lookahead)], dim=1
        )  # place k is every[:, lead + k]
        queues, h = self.listener.queues(self._scaled(context)), h.clone()
        made, s = generation_order(u.shape[1], B, lookahead), torch.arange(B, device=self.device)
        last, start = int(made.T.flatten()[:length].max()), made[:, 0].to(self.device)
        # In the F ticks before the first, sub-sequence 0 takes in the places up to its look-ahead.
        for tick in tqdm(range(-lookahead, last + 1), unit="tick", disable=not progress):
            k = tick - start
            some = s[(k >= -lookahead) & (B * k + s < length)]
            k = k[some]
            told = self.listener.step(
                self._scaled(every[:, lead + k + lookahead]), some, k + lookahead, queues
            )
            told, some, k = told[:, k >= 0], some[k >= 0], k[k >= 0]
            before, h_some, numbers, told = (
                x.flatten(0, 1) for x in (every[:, lead + k - 1, some], h[:, some], uniform[:, k, some], told)
            )
            code, h_some = self.cell.sample_next(
                before, h_some, sampler_from_uniforms(numbers, sampling), told
            )
            every[:, lead + k, some] = code.unflatten(0, (len(u), len(some)))
            h[:, some] = h_some.unflatten(0, (len(u), len(some)))
        return every[:, lead : lead + u.shape[1]].flatten(1, 2)[:, :length]

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
        """The same codes straight from the definition: sub-sequence 0 first, then 1, ..., each byte from a
        whole pass over what has been made, silence standing for the rest. Slow twin of `generate`."""
        u, uniform, state = self._begin(length, batch_size, prompt, seed)
        for s in range(self.config.factor):
            for i in range(len(range(s, length, self.config.factor))):
                for byte, logits in enumerate((self.cell.coarse_logits, self.cell.fine_logits)):
                    sampler = sampler_from_uniforms(uniform[:, i, s, byte:], sampling)
                    u[:, i, s, byte] = sampler(logits(self(u, state)[0][:, s, i]))
        return u.flatten(1, 2)[:, :length]

    def _begin(
        self, length: int, batch_size: int, prompt: Tensor | None, seed: int | torch.Generator
    ) -> tuple[Tensor, Tensor, State]:
        """Silence to write on, a uniform number for each of its bytes, and the state before it."""
        if length < 1:
            raise ValueError(f"length must be at least 1 sample, got {length}")
        cache = self.initial_cache(batch_size if prompt is None else len(prompt))
        if prompt is not None and prompt.shape[1] > 0:
            self.quantizer.check(prompt, "prompt")
            cache = self.prefill(prompt.to(self.device), cache)
        u = self._silence(len(cache[0]), -(-length // self.config.factor)).clone()
        return u, torch.rand(u.shape, generator=self.generator(seed), device=self.device), self._whole(cache)

    def _whole(self, cache: Cache) -> State:
        """The state of a past that ends with a whole place."""
        if not cache[1]:
            raise ValueError(
                f"cache must be of a length that factor={self.config.factor} divides, "
                "so that the next piece begins with sub-sequence 0, got another"
            )
        return cache[1]

    def _silence(self, batch_size: int, positions: int) -> Int[Tensor, "batch places factor 2"]:
        silence = torch.tensor(self.quantizer.silence, device=self.device)
        return silence.expand(batch_size, positions, self.config.factor, 2)

    def _scaled(self, codes: Int[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Bytes scaled to [-1, 1], as the cell hears them."""
        return codes.to(self.cell.bias.dtype) / ((self.config.levels - 1) / 2) - 1


def sampler_from_uniforms(
    uniform: Float[Tensor, "batch draws"], sampling: SamplingConfig = SamplingConfig()
) -> TokenSampler:
    """A sampler of codes by given random numbers in [0, 1), one of each row a call: the first code whose
    cumulative probability exceeds the number. The same codes come out in whatever order they are drawn.

    >>> sampler = sampler_from_uniforms(torch.tensor([[0.1, 0.6]]))
    >>> sampler(torch.zeros(1, 4)), sampler(torch.zeros(1, 4))
    (tensor([0]), tensor([2]))

    Chapter: 8. Calls raise ValueError as `distribution` does.
    """
    numbers = iter(uniform.unbind(-1))

    def sampler(logits: Tensor) -> Tensor:
        return inverse_cdf(distribution(logits, sampling), next(numbers))

    return sampler
