"""A vocoder: WaveRNN conditioned on a mel spectrogram (chapter 8).

A spectrogram keeps magnitudes and drops phases, so many waveforms have the same one. The model is trained on
``P(waveform | spectrogram)``, with waveforms and their spectrograms. Its bits per sample are conditional
ones, comparable among vocoders only.
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
    """Configuration of a `Vocoder`: a WaveRNN with conditioning, and the spectrogram it is conditioned on.

    Raises ValueError for a WaveRNN without conditioning.
    """

    cell: WaveRNNConfig
    mel: LogMelConfig = TACOTRON

    def __post_init__(self) -> None:
        if self.cell.d_conditioning < 1:
            raise ValueError(f"config.d_conditioning must be at least 1, got {self.cell.d_conditioning}")


class Vocoder(Autoregressive):
    """A distribution over 16-bit audio, given its spectrogram: a WaveRNN conditioned at every sample on the
    frames before and after it.

    >>> mel = LogMelConfig(8_000, n_mels=20, hop=100, window=400)
    >>> model = Vocoder(WaveRNNConfig(d_hidden=16, d_conditioning=8), mel)
    >>> waveform = 0.1 * torch.randn(1, 300).clamp(-1, 1)
    >>> model.synthesize(model.log_mel(waveform), seed=0).shape
    torch.Size([1, 300, 2])
    >>> model.log_likelihood(model.quantizer.encode(waveform)).shape
    torch.Size([1, 300])

    `log_likelihood` computes the spectrogram of the codes themselves, so it is trained like any other model.
    The state holds the conditioning of the samples to come; without a spectrogram there is none, and
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
    ) -> Float[Tensor, "batch length d_conditioning"]:
        """Return the conditioning of each sample: a learned linear map of the frames, interpolated linearly
        between them."""
        conditioning, hop = self.conditioning_projection(features), self.log_mel.config.hop
        samples = (conditioning.shape[1] - 1) * hop + 1
        return F.interpolate(conditioning.mT, samples, mode="linear", align_corners=True).mT[:, :length]

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first sample, without conditioning."""
        h = self.cell.initial_state(batch_size)
        return h, h.new_zeros(batch_size, 0, self.cell.config.d_conditioning)

    def initial_cache_for(self, x: Int[Tensor, "batch length 2"]) -> Cache:
        """Return the cache before the first sample, with the conditioning of the sequences' own
        spectrograms."""
        features = self.log_mel(self.quantizer.decode(x))
        return self._initial_cache(self.conditioning(features, x.shape[1]))

    def log_likelihood_from(
        self, codes: Int[Tensor, "batch length 2"], cache: Cache
    ) -> tuple[Float[Tensor, "batch length"], Cache]:
        """Return `log_likelihood` of a chunk, given the cache before it and its conditioning; and the cache
        after it."""
        conditioning, cache, remaining = self._split_conditioning(cache, codes.shape[1])
        bits, (code, h) = self.cell.log_likelihood_from(codes, cache, conditioning)
        return bits, (code, (h, remaining))

    def prefill(self, codes: Int[Tensor, "batch length 2"], cache: Cache) -> Cache:
        """Return the cache after ``codes``, by one parallel pass over them."""
        conditioning, cache, remaining = self._split_conditioning(cache, codes.shape[1])
        code, h = self.cell.prefill(codes, cache, conditioning)
        return code, (h, remaining)

    def sample_next(
        self, code: Int[Tensor, "batch 2"], state: State, sampler: TokenSampler
    ) -> tuple[Int[Tensor, "batch 2"], State]:
        """Process ``code``; return the next sample, and the state with the remaining conditioning."""
        conditioning, (_, h), remaining = self._split_conditioning((code, state), 1)
        code, h = self.cell.sample_next(code, h, sampler, conditioning[:, 0])
        return code, (h, remaining)

    def synthesize(
        self,
        features: Float[Tensor, "batch frames n_mels"],
        sampling: SamplingConfig = SamplingConfig(),
        seed: int | torch.Generator = 0,
        progress: bool = False,
    ) -> Int[Tensor, "batch length 2"]:
        """Sample codes of a waveform with this spectrogram, as computed by `LogMel`: ``hop`` samples for each
        frame after the first.

        The same seed gives the same codes. Raises ValueError for features that are not finite, of another
        number of bands, or of fewer than two frames.
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
        """Return the conditioning of the next ``length`` samples, the cache of the cell, and the remaining
        conditioning."""
        code, (h, conditioning) = cache
        if conditioning.shape[1] < length:
            raise ValueError(
                f"cache must hold conditioning for the next {length} samples, got {conditioning.shape[1]}: "
                "a vocoder needs a spectrogram to generate, see `Vocoder.synthesize`"
            )
        return conditioning[:, :length], (code, h), conditioning[:, length:]
