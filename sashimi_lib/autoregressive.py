"""Audio as a language of samples: predict each one from all before it (chapters 6 and 7).

``P(x) = prod_t P(x_t | x_0 ... x_{t-1})``. A quantizer makes samples into codes, an embedding makes codes
into vectors, a backbone carries the past, a head turns its output into the distribution of the next code.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from tqdm.auto import tqdm

from sashimi_lib.models.blocks import Backbone, State
from sashimi_lib.quantize import Linear, MuLaw, check_codes

Past = tuple[Tensor, State]  # the last code of each sequence, and the backbone's state before it


class AudioLM(nn.Module):
    """A distribution over sequences of codes: quantizer, embedding, any causal backbone, softmax over the
    levels.

    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> lm = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> lm.log_likelihood(torch.full((1, 50), 128)).shape
    torch.Size([1, 50])
    >>> lm.generate(20, seed=0).shape
    torch.Size([1, 20])

    Chapters: 6 and 7. SaShiMi paper, section 2.
    """

    def __init__(self, quantizer: MuLaw | Linear, backbone: Backbone) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.embedding = backbone.embedding(quantizer)
        self.backbone = backbone
        self.head = backbone.head(quantizer)

    def forward(
        self, codes: Int[Tensor, "batch length"], state: State = None
    ) -> tuple[Float[Tensor, "batch length levels"], State]:
        """Logits of the code that follows each of ``codes``.

        Without a state, any length goes: the backbone gets silence up to a whole frame, which a causal model
        cannot hear in the outputs that are kept.
        """
        check_codes(codes, self.quantizer.levels)
        length = codes.shape[1]
        if state is None:
            codes = F.pad(codes, (0, -length % self.backbone.frame), value=self.quantizer.silence)
        y, state = self.backbone(self.embedding(codes), state)
        return self.head(y[:, :length]), state

    def step(self, codes: Int[Tensor, " batch"], state: State) -> tuple[Float[Tensor, "batch levels"], State]:
        """Logits of the next code after one more code."""
        y, state = self.backbone.step(self.embedding(codes), state)
        return self.head(y), state

    def initial_state(self, batch_size: int) -> State:
        """The state of silence."""
        return self.backbone.initial_state(batch_size)

    def log_likelihood(self, codes: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
        """``log2 P(x_t | x_<t)`` of every sample, in bits (so never positive); what comes before is
        silence."""
        check_codes(codes, self.quantizer.levels)
        logits, _ = self(F.pad(codes, (1, 0), value=self.quantizer.silence)[:, :-1])
        return _bits(logits, codes)

    def beginning(self, batch_size: int) -> Past:
        """The past of a first sample: a code of silence, and the state of silence before it."""
        silence = torch.full((batch_size,), self.quantizer.silence, device=self.head.bias.device)
        return silence, self.initial_state(batch_size)

    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length"], past: Past
    ) -> tuple[Float[Tensor, "batch length"], Past]:
        """`log_likelihood` of a sequence in pieces: of one piece, given its past; and the past of the next.

        >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
        >>> lm, codes = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(4, 1))).double(), torch.arange(50)[None]
        >>> first, past = lm.log_likelihood_from(codes[:, :20], lm.beginning(1))
        >>> second, _ = lm.log_likelihood_from(codes[:, 20:], past)
        >>> torch.allclose(torch.cat([first, second], dim=1), lm.log_likelihood(codes))
        True
        """
        check_codes(codes, self.quantizer.levels)
        before, state = past
        logits, state = self(torch.cat([before[:, None], codes[:, :-1]], dim=1), state)
        return _bits(logits, codes), (codes[:, -1], state)

    @torch.no_grad()
    def generate(
        self,
        length: int,
        batch_size: int = 1,
        prompt: Int[Tensor, "batch prompt"] | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Int[Tensor, "batch length"]:
        """Draw ``length`` new codes, one after the other; those of ``prompt`` are heard first, not returned.

        The prompt is absorbed by the parallel pass. The same seed draws the same codes. Raises ValueError for
        a length, temperature or top_p out of range, and for codes that are none.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1 sample, got {length}")
        device = self.head.bias.device
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator(device).manual_seed(seed)
        if prompt is None:
            prompt = torch.empty(batch_size, 0, dtype=torch.long, device=device)
        heard = F.pad(prompt, (1, 0), value=self.quantizer.silence)
        check_codes(heard, self.quantizer.levels, "prompt")
        state = self.initial_state(len(heard))
        if heard.shape[1] > 1:
            _, state = self(heard[:, :-1], state)
        code, codes = heard[:, -1], []
        with parametrize.cached():  # weights under weight norm are multiplied out once, not at every step
            for _ in tqdm(range(length), unit="sample", unit_scale=True, disable=not progress):
                logits, state = self.step(code, state)
                code = sample(logits, temperature, top_p, generator)
                codes.append(code)
        return torch.stack(codes, dim=1)


def _bits(logits: Tensor, codes: Tensor) -> Tensor:
    return -F.cross_entropy(logits.mT.float(), codes, reduction="none") / math.log(2)


def sample(
    logits: Float[Tensor, "batch levels"],
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """Draw one code a row from ``softmax(logits / temperature)``, cut to its ``top_p`` nucleus.

    The nucleus is the smallest set of most likely codes whose probability reaches ``top_p``.

    >>> sample(torch.tensor([[0.0, 9.0, 0.0]]), temperature=0.1)
    tensor([1])

    Chapter: 7. Raises ValueError for a temperature that is not positive or a top_p outside (0, 1].
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    probability = (logits.float() / temperature).softmax(-1)
    if not bool(probability.isfinite().all()):
        raise ValueError("logits must be finite: the state has blown up")
    if top_p < 1:
        ordered, order = probability.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probability = probability.masked_fill(outside.gather(-1, order.argsort(-1)), 0)
    return torch.multinomial(probability, 1, generator=generator)[:, 0]
