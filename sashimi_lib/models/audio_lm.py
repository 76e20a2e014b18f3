"""An autoregressive model of audio: quantizer, embedding, backbone and head (chapters 6 to 8).

The quantizer maps samples to codes, the embedding maps codes to vectors, the backbone is a causal sequence
model, and the head maps its output to the distribution of the next code.
"""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sashimi_lib.audio.quantizers import CoarseFine, Quantizer
from sashimi_lib.models.autoregressive import Autoregressive, Cache, shift_right
from sashimi_lib.models.backbone import Backbone, BackboneConfig
from sashimi_lib.models.blocks import State
from sashimi_lib.models.heads import Head
from sashimi_lib.models.sampling import TokenSampler
from sashimi_lib.models.wavernn import WaveRNN, WaveRNNConfig
from sashimi_lib.ssm.s4 import S4, StateSpace

ModelConfig = BackboneConfig | WaveRNNConfig


class AudioLM(Autoregressive):
    """A distribution over sequences of codes: quantizer, embedding, any causal backbone, any head.

    The head is the backbone's default for this quantizer unless another is given: one softmax over the
    levels, or, for the two codes a sample of `sashimi_lib.audio.quantizers.CoarseFine`, a dual softmax.

    >>> import torch
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
    >>> lm = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> lm.log_likelihood(torch.full((1, 50), 128)).shape
    torch.Size([1, 50])
    >>> lm.generate(20, seed=0).shape
    torch.Size([1, 20])
    >>> AudioLM(CoarseFine(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1))).generate(20, seed=0).shape
    torch.Size([1, 20, 2])

    Chapters: 6 to 8. SaShiMi paper, section 2; WaveRNN paper, section 2. Raises ValueError for a backbone
    that is not causal, and for a head whose codes are not the quantizer's.
    """

    def __init__(self, quantizer: Quantizer, backbone: Backbone, head: Head | None = None) -> None:
        super().__init__()
        _check_causal(backbone)
        self.quantizer = quantizer
        self.embedding = backbone.embedding(quantizer)
        self.backbone = backbone
        self.head = backbone.head(quantizer) if head is None else head
        _check_codes(self.head, quantizer)

    def features(
        self, codes: Int[Tensor, "batch length *two"], state: State = None
    ) -> tuple[Float[Tensor, "batch length H"], State]:
        """Return the backbone's output at each code, the input of the head; and the next state.

        Without a state the input is padded with zeros to a multiple of the backbone's ``frame``. Padding
        after the end does not change the outputs of a causal model.
        """
        x = self.embedding(codes)
        length = x.shape[1]
        if state is None:
            x = F.pad(x, (0, 0, 0, -length % self.backbone.frame))
        y, state = self.backbone(x, state)
        return y[:, :length], state

    def forward(
        self, codes: Int[Tensor, "batch length *two"], state: State = None
    ) -> tuple[Float[Tensor, "batch length levels"], State]:
        """Return the logits of the code that follows each of ``codes``: of the coarse one, where there are
        two."""
        self.quantizer.check(codes)
        y, state = self.features(codes, state)
        return self.head(y), state

    def step(
        self, codes: Int[Tensor, "batch *two"], state: State
    ) -> tuple[Float[Tensor, "batch levels"], State]:
        """Process one code; return the logits of the next: of the coarse one, where there are two."""
        y, state = self.backbone.step(self.embedding(codes), state)
        return self.head(y), state

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first sample."""
        return self.backbone.initial_state(batch_size)

    def prefill(self, codes: Int[Tensor, "batch length *two"], cache: Cache) -> Cache:
        """Return the cache after ``codes``, by one parallel pass over them."""
        before, state = cache
        return codes[:, -1], self.features(shift_right(codes, before), state)[1]

    def sample_next(
        self, code: Int[Tensor, "batch *two"], state: State, sampler: TokenSampler
    ) -> tuple[Int[Tensor, "batch *two"], State]:
        """Process ``code``; return the code after it, which ``sampler`` picks from the logits, and the next
        state."""
        y, state = self.backbone.step(self.embedding(code), state)
        return self.head.sample(y, sampler), state

    def _log_likelihood(self, codes: Int[Tensor, "batch length *two"]) -> Float[Tensor, "batch length"]:
        """Return `log_likelihood` of whole sequences, which need no state: kernels are as long as they
        are."""
        before, _ = self.initial_cache(len(codes))
        y, _ = self.features(shift_right(codes, before))
        return self.head.log_probability(y, codes)

    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length *two"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """Return `log_likelihood` of a chunk of a sequence, given the cache before it; and the cache after
        it.

        >>> import torch
        >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
        >>> from sashimi_lib.audio.quantizers import MuLaw
        >>> lm, codes = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(4, 1))).double(), torch.arange(50)[None]
        >>> first, cache = lm.log_likelihood_from(codes[:, :20], lm.initial_cache(1))
        >>> second, _ = lm.log_likelihood_from(codes[:, 20:], cache)
        >>> torch.allclose(torch.cat([first, second], dim=1), lm.log_likelihood(codes))
        True
        """
        before, state = cache
        y, state = self.features(shift_right(codes, before), state)
        return self.head.log_probability(y, codes), (codes[:, -1], state)


def new_model(config: ModelConfig, quantizer: Quantizer) -> AudioLM | WaveRNN:
    """Return a new model of the quantizer's codes: an `AudioLM` with the configured backbone and its default
    head, or a `WaveRNN`, which has an embedding and a head of its own.

    >>> from sashimi_lib.models import SaShiMiConfig
    >>> from sashimi_lib.audio.quantizers import CoarseFine
    >>> type(new_model(SaShiMiConfig(d_model=8, n_layers=1), CoarseFine()).head).__name__
    'DualSoftmax'
    >>> new_model(WaveRNNConfig(32), CoarseFine()).generate(20, seed=0).shape
    torch.Size([1, 20, 2])

    Chapters: 7 and 8. Raises ValueError for a WaveRNN with a quantizer other than its own.
    """
    if not isinstance(config, WaveRNNConfig):
        return AudioLM(quantizer, config.build())
    model = WaveRNN(config)
    if model.quantizer != quantizer:
        raise ValueError(f"quantizer must be {model.quantizer} for this WaveRNN, got {quantizer}")
    return model


def _check_causal(backbone: Backbone) -> None:
    """Raise ValueError where an S4 layer is bidirectional."""
    for name, module in backbone.named_modules():
        if isinstance(module, S4) and not isinstance(module.ssm, StateSpace):
            raise ValueError(
                "backbone must be causal, so that a sample is predicted from earlier samples only; "
                f"got a bidirectional {type(backbone).__name__}: {name} is not causal"
            )


def _check_codes(head: Head, quantizer: Quantizer) -> None:
    """Raise ValueError where the codes of the head are not those of the quantizer."""
    codes = 2 if isinstance(quantizer, CoarseFine) else 1
    if (head.codes, head.levels) != (codes, quantizer.levels):
        raise ValueError(
            f"head must have {codes} codes a sample of {quantizer.levels} levels, like quantizer, "
            f"got {head.codes} of {head.levels}"
        )
