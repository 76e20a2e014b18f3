"""A vocoder: WaveRNN is told a spectrogram, and sings it (chapter 8).

A spectrogram keeps what is heard of a sound and drops the phases, so there are many sounds to one; which of
them, is the model's to say. It learns ``P(sound | spectrogram)``, from sounds and their own spectrograms. So
its bits are not those of a model that has to guess what comes: they are to be compared among vocoders.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sashimi_lib.audio.mel import TACOTRON, LogMel, LogMelConfig, check_features
from sashimi_lib.models.autoregressive import Autoregressive, Cache
from sashimi_lib.models.blocks import State
from sashimi_lib.models.sampling import SamplingConfig, TokenSampler
from sashimi_lib.models.wavernn import WaveRNN, WaveRNNConfig
from sashimi_lib.registry import register
from sashimi_lib.ssm.precision import cudnn_as_matmul


@register
@dataclass(frozen=True)
class VocoderConfig:
    """The shape of a `Vocoder`: a WaveRNN that takes conditioning, and the spectrogram that it takes.

    Raises ValueError for a WaveRNN without conditioning.
    """

    cell: WaveRNNConfig
    mel: LogMelConfig = TACOTRON

    def __post_init__(self) -> None:
        if self.cell.d_conditioning < 1:
            raise ValueError(f"config.d_conditioning must be at least 1, got {self.cell.d_conditioning}")


class Vocoder(Autoregressive):
    """A distribution over 16-bit sound, given its spectrogram: WaveRNN, told at every sample what the frames
    before and after it say.

    >>> mel = LogMelConfig(8_000, n_mels=20, hop=100, window=400)
    >>> model = Vocoder(WaveRNNConfig(d_hidden=16, d_conditioning=8), mel)
    >>> sound = 0.1 * torch.randn(1, 300).clamp(-1, 1)
    >>> model.synthesize(model.log_mel(sound), seed=0).shape
    torch.Size([1, 300, 2])
    >>> model.log_likelihood(model.quantizer.encode(sound)).shape
    torch.Size([1, 300])

    `log_likelihood` takes the spectrogram from the sound itself, so it can be trained like any other model.
    The state holds what the model is still to be told, and without a spectrogram it has nothing to sing:
    `generate` raises ValueError.

    Chapter: 8. Raises ValueError for a WaveRNN without conditioning.
    """

    def __init__(self, config: WaveRNNConfig, mel: LogMelConfig = TACOTRON) -> None:
        super().__init__()
        self.config = VocoderConfig(config, mel)
        self.log_mel = LogMel(mel)
        self.conditioning_projection = nn.Linear(mel.n_mels, config.d_conditioning)
        self.cell = WaveRNN(config)
        self.quantizer = self.cell.quantizer

    def conditioning(
        self, features: Float[Tensor, "batch frames n_mels"], length: int
    ) -> Float[Tensor, "batch length d_condition"]:
        """What is told at each sample: a learned map of the frames, in a straight line from each to the
        next."""
        conditioning, hop = self.conditioning_projection(features), self.log_mel.config.hop
        every = (conditioning.shape[1] - 1) * hop + 1
        return F.interpolate(conditioning.mT, every, mode="linear", align_corners=True).mT[:, :length]

    def initial_state(self, batch_size: int) -> State:
        """The state of silence, with nothing to be told."""
        h = self.cell.initial_state(batch_size)
        return h, h.new_zeros(batch_size, 0, self.cell.config.d_conditioning)

    def initial_cache_for(self, x: Int[Tensor, "batch length 2"]) -> Cache:
        """The past of the first sample of these sequences: silence, and their own spectrogram to be told."""
        features = self.log_mel(self.quantizer.decode(x))
        return self._initial_cache(self.conditioning(features, x.shape[1]))

    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length 2"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """The likelihood of a piece, told what its past holds for it; and the past of the next."""
        conditioning, cache, rest = self._split_conditioning(cache, codes.shape[1])
        bits, (code, h) = self.cell.log_likelihood_from(codes, cache, conditioning)
        return bits, (code, (h, rest))

    def prefill(self, codes: Int[Tensor, "batch length 2"], cache: Cache) -> Cache:
        """The past after some more codes, all at once."""
        conditioning, cache, rest = self._split_conditioning(cache, codes.shape[1])
        code, h = self.cell.prefill(codes, cache, conditioning)
        return code, (h, rest)

    def sample_next(
        self, code: Int[Tensor, "batch 2"], state: State, sampler: TokenSampler
    ) -> tuple[Int[Tensor, "batch 2"], State]:
        """The next sample, and what is still to be told."""
        conditioning, (_, h), rest = self._split_conditioning((code, state), 1)
        code, h = self.cell.sample_next(code, h, sampler, conditioning[:, 0])
        return code, (h, rest)

    def synthesize(
        self,
        features: Float[Tensor, "batch frames n_mels"],
        sampling: SamplingConfig = SamplingConfig(),
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Int[Tensor, "batch length 2"]:
        """Draw a sound with this spectrogram, as `LogMel` makes them: ``hop`` samples a frame after the
        first.

        The same seed draws the same codes. Raises ValueError for features that are not finite, of another
        number of bands or of fewer than two frames.
        """
        check_features(features, self.log_mel.config)
        length = (features.shape[1] - 1) * self.log_mel.config.hop
        with torch.no_grad(), cudnn_as_matmul():
            cache = self._initial_cache(self.conditioning(features.to(self.device), length))
        return self.generate_from(cache, length, sampling, self.generator(seed), progress)[0]

    def _initial_cache(self, conditioning: Tensor) -> Cache:
        code, (h, _) = self.initial_cache(len(conditioning))
        return code, (h, conditioning)

    def _split_conditioning(self, cache: Cache, length: int) -> tuple[Tensor, Cache, Tensor]:
        """What is told at the next samples, the past as the cell knows it, and what is told later."""
        code, (h, conditioning) = cache
        if conditioning.shape[1] < length:
            raise ValueError(
                f"cache must hold conditioning for the next {length} samples, got {conditioning.shape[1]}: "
                "a vocoder generates from a spectrogram alone, by `Vocoder.sing`"
            )
        return conditioning[:, :length], (code, h), conditioning[:, length:]
