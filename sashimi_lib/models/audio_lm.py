"""Audio as a language of samples: predict each one from all before it (chapters 6 to 8).

A quantizer makes samples into codes, an embedding makes codes into vectors, a backbone carries the past, a
head turns its output into the distribution of the next code.
"""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sashimi_lib.audio.quantizers import CoarseFine, Quantizer
from sashimi_lib.models.autoregressive import Autoregressive, Cache, shift_right
from sashimi_lib.models.backbone import Backbone, BackboneConfig
from sashimi_lib.models.blocks import State
from sashimi_lib.models.heads import Head
from sashimi_lib.models.sampling import TokenSampler, sample_token
from sashimi_lib.models.wavernn import WaveRNN, WaveRNNConfig
from sashimi_lib.ssm.s4 import S4, StateSpace

__all__ = ["AudioLM", "Autoregressive", "Cache", "ModelConfig", "new_model", "sample_token"]

ModelConfig = BackboneConfig | WaveRNNConfig


class AudioLM(Autoregressive):
    """A distribution over sequences of codes: quantizer, embedding, any causal backbone, any head.

    The head is the backbone's own for this quantizer unless another is given: one softmax over the levels,
    or, where `sashimi_lib.audio.quantizers.CoarseFine` makes two codes of each sample, a dual softmax.

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
    that is not causal, and for a head of other codes than the quantizer's.
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
        """What the backbone makes of codes, for the head to predict from, at each of them.

        Without a state, any length goes: the backbone gets nothing at all up to a whole frame, which a causal
        model cannot hear in the outputs that are kept.
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
        """Logits of the code that follows each of ``codes``; of the coarse one, where there are two."""
        self.quantizer.check(codes)
        y, state = self.features(codes, state)
        return self.head(y), state

    def step(
        self, codes: Int[Tensor, "batch *two"], state: State
    ) -> tuple[Float[Tensor, "batch levels"], State]:
        """Logits of the next code after one more code; of the coarse one, where there are two."""
        y, state = self.backbone.step(self.embedding(codes), state)
        return self.head(y), state

    def initial_state(self, batch_size: int) -> State:
        """The state of silence."""
        return self.backbone.initial_state(batch_size)

    def prefill(self, codes: Int[Tensor, "batch length *two"], cache: Cache) -> Cache:
        """The past after some more codes, all at once."""
        before, state = cache
        return codes[:, -1], self.features(shift_right(codes, before), state)[1]

    def sample_next(
        self, code: Int[Tensor, "batch *two"], state: State, sampler: TokenSampler
    ) -> tuple[Int[Tensor, "batch *two"], State]:
        """The code after one more code, as ``sampler`` picks it from its logits, and the next state."""
        y, state = self.backbone.step(self.embedding(code), state)
        return self.head.sample(y, sampler), state

    def _log_likelihood(self, codes: Int[Tensor, "batch length *two"]) -> Float[Tensor, "batch length"]:
        """As in pieces, but from silence all kernels are as long as the sequence, and no state is needed."""
        silence, _ = self.initial_cache(len(codes))
        y, _ = self.features(shift_right(codes, silence))
        return self.head.log_probability(y, codes)

    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length *two"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """`log_likelihood` of a sequence in pieces: of one piece, given its past; and the past of the next.

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
    """A new model of that shape, over the codes of that quantizer: an `AudioLM` around a backbone, with the
    head that is the backbone's own; or a WaveRNN, which is a whole model by itself.

    >>> from sashimi_lib.models import SaShiMiConfig
    >>> from sashimi_lib.audio.quantizers import CoarseFine
    >>> type(new_model(SaShiMiConfig(d_model=8, n_layers=1), CoarseFine()).head).__name__
    'DualSoftmax'
    >>> new_model(WaveRNNConfig(32), CoarseFine()).generate(20, seed=0).shape
    torch.Size([1, 20, 2])

    Chapters: 7 and 8. Raises ValueError for a quantizer whose codes a WaveRNN of that shape does not speak.
    """
    if not isinstance(config, WaveRNNConfig):
        return AudioLM(quantizer, config.build())
    model = WaveRNN(config)
    if model.quantizer != quantizer:
        raise ValueError(f"quantizer must be {model.quantizer} for a WaveRNN of that shape, got {quantizer}")
    return model


def _check_causal(backbone: Backbone) -> None:
    """Raise ValueError where a layer of state spaces has a kernel for the future."""
    for name, module in backbone.named_modules():
        if isinstance(module, S4) and not isinstance(module.ssm, StateSpace):
            raise ValueError(
                "backbone must be causal, or a sample would be predicted from itself and what follows it; "
                f"got a bidirectional {type(backbone).__name__}, of which {name} sees the future"
            )


def _check_codes(head: Head, quantizer: Quantizer) -> None:
    """Raise ValueError where a head has other codes than a quantizer."""
    wanted = 2 if isinstance(quantizer, CoarseFine) else 1, quantizer.levels
    if (head.codes, head.levels) != wanted:
        raise ValueError(
            "head must give {} codes a sample of {} levels, as quantizer does, got {} of {}".format(
                *wanted, head.codes, head.levels
            )
        )
