"""The description of a trained model in its file: the card, and the reference outputs of the self-test."""

from dataclasses import dataclass

from sashimi_lib import __version__
from sashimi_lib.data.split import FileLists
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.registry import register

SavableModel = DiscreteAudioModel | DiffusionModel


@register
@dataclass(frozen=True)
class GoldenOutputs:
    """Reference outputs of a model of codes: the first codes that it samples with seed 0, their waveform, and
    their bits per sample. A 16-bit sample is a pair of codes.

    The bits are the same on every machine, and `sashimi_lib.pretrained.load` checks them. The codes are the
    same wherever PyTorch's generator gives the same random numbers.
    """

    codes: tuple[int, ...] | tuple[tuple[int, int], ...]
    waveform: tuple[float, ...]
    bits: float


@register
@dataclass(frozen=True)
class GoldenAudio:
    """Reference outputs of a diffusion model: the first samples that it generates with seed 0, and its
    estimate of the noise in the first eight of them, at the middle of its schedule: one row for each class,
    or a single row.

    The noise is the same on every machine, and `sashimi_lib.pretrained.load` checks it.
    """

    waveform: tuple[float, ...]
    noise: tuple[tuple[float, ...], ...]


@register
@dataclass(frozen=True)
class ModelCard:
    """The description of a model in its file. Bits are bits per sample; None where they were not measured.

    ``data`` is the training data, ``credit`` its authors and license; ``steps`` and ``samples`` are the steps
    and samples of training, ``hours`` its CPU-core or GPU hours on ``hardware``.

    ``test_bits`` are the bits of held-out recordings, ``test_interval`` their 95 % confidence interval over
    ``test_recordings`` recordings (None for too few), as of
    `sashimi_lib.evaluation.likelihood.ConfidenceInterval`. ``bigram_bits`` and ``linear_prediction_bits`` are
    baselines on the same recordings: `sashimi_lib.evaluation.likelihood.bigram_bits` and
    `sashimi_lib.evaluation.linear_prediction.linear_prediction_bits`. ``bundled_bits`` is what
    `sashimi_lib.pretrained.bundled_bits` returns for the clips ``bundled_clips``. ``test_loss`` is the mean
    squared error of a diffusion model on held-out recordings. ``recordings`` are the files of each part of a
    user's folder. `sashimi_lib.pretrained.save` sets the last three.
    """

    name: str
    data: str = ""
    credit: str = ""
    steps: int = 0
    samples: int = 0
    hours: float | None = None
    hardware: str = ""
    test_bits: float | None = None
    test_interval: tuple[float, float] | None = None
    test_recordings: int = 0
    bigram_bits: float | None = None
    linear_prediction_bits: float | None = None
    bundled_clips: str = ""
    bundled_bits: float | None = None
    test_loss: float | None = None
    recordings: FileLists | None = None
    parameters: int = 0
    library: str = __version__
    expected: GoldenOutputs | GoldenAudio | None = None


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained model, its sampling rate in Hz, and its card."""

    model: SavableModel
    sample_rate: int
    card: ModelCard
