"""Metrics of trained models on held-out recordings.

A metric is a function of ``(model, data)`` that returns a `Report`, with an entry in `METRICS`.

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
from sashimi_lib.evaluation.distances import MAX_FFT_SIZE, spectrum_distance, stft_distance
from sashimi_lib.evaluation.likelihood import ConfidenceInterval, clip_bits, mean_bits
from sashimi_lib.evaluation.losses import batches_by_length
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.streaming import best_engine

Model = DiscreteAudioModel | DiffusionModel
SAMPLER_STEPS = 20  # of a diffusion model


@dataclass(frozen=True)
class HeldOut:
    """Held-out recordings, split into sequences for the model, and the settings of evaluation.

    ``sequences`` are codes, or waveforms for a diffusion model, at ``sample_rate`` Hz; ``recordings``
    identifies the recording of each, None if that is not known. ``batch_size`` sequences are evaluated or
    generated per batch. Unconditional models generate ``count`` waveforms, from ``seed``.
    """

    sequences: Sequence[Tensor]
    sample_rate: int
    recordings: Sequence[Hashable] | None = None
    batch_size: int = 8
    count: int = 8
    seed: int = 0

    @property
    def seconds(self) -> float:
        """The total length of all sequences in seconds."""
        return sum(map(len, self.sequences)) / self.sample_rate

    def at_least(self, samples: int) -> "HeldOut":
        """Return the data without sequences of fewer samples."""
        long = [index for index, sequence in enumerate(self.sequences) if len(sequence) >= samples]
        recordings = self.recordings and [self.recordings[index] for index in long]
        return replace(self, sequences=[self.sequences[index] for index in long], recordings=recordings)

    def estimate(self, values: Float[Tensor, " sequences"]) -> ConfidenceInterval:
        """Return the mean over all samples, given a value per sequence, with an interval over recordings."""
        recordings = self.recordings or [None] * len(self.sequences)  # if unknown, they might all be the same
        return mean_bits(values, self.sequences, recordings)


class Report(NamedTuple):
    """The result of a metric: a value, possibly with a confidence interval, its unit, and the data."""

    value: ConfidenceInterval | float
    unit: str
    data: HeldOut

    @property
    def mean(self) -> float:
        """The value without its confidence interval."""
        return self.value.mean if isinstance(self.value, ConfidenceInterval) else self.value


def bits(model: Model, data: HeldOut) -> Report:
    """Return the negative log-likelihood of held-out recordings in bits per sample.

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
    """Return the distance between the average spectra of generated and held-out audio, in dB: see
    `sashimi_lib.evaluation.distances.spectrum_distance`, with 40 mel bands and windows of 50 ms.

    An unconditional model generates ``data.count`` waveforms of the length of the longest sequence, a vocoder
    one from the spectrogram of each sequence.

    Chapter: 9. Raises ImportError, naming the extra to install, if librosa is missing.
    """
    rate, real = data.sample_rate, _waveforms(model, data)
    mel = LogMelConfig(rate, n_mels=40, hop=rate // 80, window=rate // 20)
    generated = _resynthesized(model, data) if _is_vocoder(model) else list(_generated(model, data))
    return Report(spectrum_distance(generated, real, mel), "dB", data)


def resynthesis(model: Model, data: HeldOut) -> Report:
    """Return the distance between held-out audio and its resynthesis by a vocoder, with a confidence
    interval: see `sashimi_lib.evaluation.distances.stft_distance`. Sequences that are too short are excluded.

    Chapter: 9. Raises ValueError for a model that is not a vocoder, and if all sequences are too short; and
    ImportError, naming the extra to install, if auraloss is missing.
    """
    if not _is_vocoder(model):
        raise ValueError(f"stft_distance needs a vocoder, got a {type(model).__name__} without a spectrogram")
    data = data.at_least(MAX_FFT_SIZE // 2 + 1)
    if not data.sequences:
        raise ValueError(f"stft_distance needs sequences of more than {MAX_FFT_SIZE // 2} samples, got none")
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
    """Return the held-out waveforms, quantized as the model quantizes them."""
    if isinstance(model, DiffusionModel):
        return list(data.sequences)
    return [model.quantizer.decode(sequence) for sequence in data.sequences]


def _generated(model: Model, data: HeldOut) -> Iterator[Tensor]:
    length, generator = max(map(len, data.sequences)), model.generator(data.seed)
    for start in range(0, data.count, data.batch_size):
        size = min(data.batch_size, data.count - start)
        if isinstance(model, DiffusionModel):
            sounds = model.generate(length, size, sampler=DPM_SOLVER, steps=SAMPLER_STEPS, seed=generator)
        else:
            sounds = model.quantizer.decode(best_engine(model).generate(length, size, seed=generator))
        yield from sounds.cpu()


def _resynthesized(model: Model, data: HeldOut) -> list[Tensor]:
    """Return a waveform from the spectrogram of each sequence, in the same order."""
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
        return model.synthesize(model.log_mel(real), DPM_SOLVER, SAMPLER_STEPS, generator)
    assert isinstance(model, Vocoder)
    return model.quantizer.decode(model.synthesize(model.log_mel(real), seed=generator))
