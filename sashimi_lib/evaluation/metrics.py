"""Metrics: how well a trained model does on held-out recordings, by one function each.

`METRICS` names them. A new one is a function of ``(model, data)`` to a `Report`, and an entry there.

Chapters: 7 and 9.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.diffusion.samplers import DPM_SOLVER
from sashimi_lib.evaluation.distances import LONGEST, spectrum_distance, stft_distance
from sashimi_lib.evaluation.likelihood import ConfidenceInterval, clip_bits, mean_bits
from sashimi_lib.evaluation.losses import batches_by_length
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.streaming import best_engine

Model = DiscreteAudioModel | DiffusionModel
STEPS = 20  # of a diffusion model's sampler


@dataclass(frozen=True)
class HeldOut:
    """Held-out recordings, cut into sequences as the model takes them, and how to evaluate on them.

    ``sequences`` are codes, or waveforms of a diffusion model, at ``sample_rate`` Hz; ``recordings`` says
    which recording each is from, None where that is not known. ``batch_size`` sequences are scored or
    generated at once. Unconditional models generate ``count`` sounds, from ``seed``.
    """

    sequences: Sequence[Tensor]
    sample_rate: int
    recordings: Sequence[Hashable] | None = None
    batch_size: int = 8
    count: int = 8
    seed: int = 0

    @property
    def seconds(self) -> float:
        """The length of all sequences together."""
        return sum(map(len, self.sequences)) / self.sample_rate

    def at_least(self, samples: int) -> "HeldOut":
        """The same without shorter sequences."""
        kept = [index for index, sequence in enumerate(self.sequences) if len(sequence) >= samples]
        recordings = self.recordings and [self.recordings[index] for index in kept]
        return replace(self, sequences=[self.sequences[index] for index in kept], recordings=recordings)

    def estimate(self, values: Float[Tensor, " sequences"]) -> ConfidenceInterval:
        """The mean over all samples of one value a sequence, with a confidence interval over recordings."""
        recordings = self.recordings or [None] * len(self.sequences)  # unknown ones might all be one
        return mean_bits(values, self.sequences, recordings)


class Report(NamedTuple):
    """What a metric found: a value, with a confidence interval where it has one, its unit, and the data."""

    value: ConfidenceInterval | float
    unit: str
    data: HeldOut

    @property
    def mean(self) -> float:
        """The value without its interval."""
        return self.value.mean if isinstance(self.value, ConfidenceInterval) else self.value


def bits(model: Model, data: HeldOut) -> Report:
    """The negative log-likelihood of held-out recordings in bits per sample, with a confidence interval.

    >>> from sashimi_lib.models import WaveRNN, WaveRNNConfig
    >>> data = HeldOut([torch.zeros(50, 2, dtype=torch.long)], sample_rate=100)
    >>> report = bits(WaveRNN(WaveRNNConfig(8)), data)
    >>> 10 < report.mean < 20, report.unit
    (True, 'bits per sample')

    Chapter: 7. Raises ValueError for a diffusion model, which has no likelihood.
    """
    if isinstance(model, DiffusionModel):
        raise ValueError("bits needs a model with a likelihood, got a DiffusionModel")
    values = clip_bits(model, data.sequences, data.batch_size)
    return Report(data.estimate(values), "bits per sample", data)


def spectrum(model: Model, data: HeldOut) -> Report:
    """How far the average spectrum of generated sounds is from that of the held-out ones, in dB: see
    `sashimi_lib.evaluation.distances.spectrum_distance`, here of 40 mel bands in windows of 50 ms.

    An unconditional model generates ``data.count`` sounds as long as the longest sequence, a vocoder one from
    the spectrogram of each sequence.

    Chapter: 9. Raises ImportError, saying what to install, where librosa is missing.
    """
    rate, real = data.sample_rate, _waveforms(model, data)
    mel = LogMelConfig(rate, n_mels=40, hop=rate // 80, window=rate // 20)
    generated = _resynthesized(model, data) if _is_vocoder(model) else list(_generated(model, data))
    return Report(spectrum_distance(generated, real, mel), "dB", data)


def resynthesis(model: Model, data: HeldOut) -> Report:
    """How far a vocoder's sounds are from the held-out ones whose spectrograms it was given, with a
    confidence interval: see `sashimi_lib.evaluation.distances.stft_distance`. Sequences that are too short
    for it are left out.

    Chapter: 9. Raises ValueError for any other model, whose sounds have no counterparts, and where all
    sequences are too short; and ImportError, saying what to install, where auraloss is missing.
    """
    if not _is_vocoder(model):
        raise ValueError(f"stft_distance needs a vocoder, got a {type(model).__name__} without a spectrogram")
    data = data.at_least(LONGEST // 2 + 1)
    if not data.sequences:
        raise ValueError(f"stft_distance needs sequences of more than {LONGEST // 2} samples, got none")
    pairs = zip(_resynthesized(model, data), _waveforms(model, data), strict=True)
    values = torch.cat([stft_distance(generated[None], real[None]) for generated, real in pairs])
    return Report(data.estimate(values), "(no unit)", data)


METRICS: dict[str, Callable[[Model, HeldOut], Report]] = {
    "bits": bits,
    "spectrum_distance": spectrum,
    "stft_distance": resynthesis,
}


def _is_vocoder(model: Model) -> bool:
    return isinstance(model, Vocoder) or (isinstance(model, DiffusionModel) and model.log_mel is not None)


def _waveforms(model: Model, data: HeldOut) -> list[Tensor]:
    """The held-out sounds, as the model's quantizer leaves them."""
    if isinstance(model, DiffusionModel):
        return list(data.sequences)
    return [model.quantizer.decode(sequence) for sequence in data.sequences]


def _generated(model: Model, data: HeldOut) -> Iterator[Tensor]:
    length, generator = max(map(len, data.sequences)), model.generator(data.seed)
    for start in range(0, data.count, data.batch_size):
        batch = min(data.batch_size, data.count - start)
        if isinstance(model, DiffusionModel):
            sounds = model.generate(length, batch, sampler=DPM_SOLVER, steps=STEPS, seed=generator)
        else:
            sounds = model.quantizer.decode(best_engine(model).generate(length, batch, seed=generator))
        yield from sounds.cpu()


def _resynthesized(model: Model, data: HeldOut) -> list[Tensor]:
    """A sound from the spectrogram of each sequence, in their order."""
    real, generator = _waveforms(model, data), model.generator(data.seed)
    sounds: list[Tensor] = list(real)
    for indices in batches_by_length([len(x) for x in real], data.batch_size, equal=True):
        batch = torch.stack([real[index] for index in indices]).to(model.device)
        for index, sound in zip(indices, _from_spectrogram(model, batch, generator), strict=True):
            sounds[index] = sound[: len(real[index])].cpu()
    return sounds


@torch.no_grad()
def _from_spectrogram(model: Model, real: Tensor, generator: torch.Generator) -> Tensor:
    if isinstance(model, DiffusionModel) and model.log_mel is not None:
        return model.synthesize(model.log_mel(real), DPM_SOLVER, STEPS, generator)
    assert isinstance(model, Vocoder)
    return model.quantizer.decode(model.synthesize(model.log_mel(real), seed=generator))
