"""A classifier of spoken words, to evaluate generated speech (chapters 9 and 11).

The paper evaluates generated digits by a classifier of real ones, a ResNeXt on their spectrograms. This one
is a small residual network on a log-mel spectrogram. It gives two measures: its accuracy on the words that a
model was conditioned on, and the Fréchet distance between its features (the input of its last layer) of
generated and of real audio (`sashimi_lib.evaluation.distances.frechet`).
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sashimi_lib.audio.mel import LogMel, LogMelConfig
from sashimi_lib.checks import check_parameters
from sashimi_lib.ssm.precision import cudnn_as_matmul
from sashimi_lib.storage.tensor_file import read_tensors, write_tensors

BUNDLED_WEIGHTS = Path(__file__).parents[1] / "weights" / "judges" / "digits.safetensors"
KIND = "classifier 1"
MEL = LogMelConfig(8_000, n_mels=40, hop=80, window=256)  # windows of 32 ms every 10 ms
SILENCE_PEAK = 1e-4  # a waveform with a lower peak is silence


@dataclass(frozen=True)
class ClassifierConfig:
    """The number of classes, the spectrogram, and the width of the network: ``width`` channels in its first
    layers, two and four times as many at lower resolutions.

    Raises ValueError for a setting that is out of range.
    """

    n_classes: int = 10
    mel: LogMelConfig = MEL
    width: int = 16

    def __post_init__(self) -> None:
        for name, least in (("n_classes", 2), ("width", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


class Residual(nn.Module):
    """A residual block that halves the resolution: ``relu(skip(x) + conv(relu(conv(x))))``, with a 1x1
    convolution as skip, and batch norm after each convolution."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.first, self.second = _conv(d_in, d_out, 3, stride=2), _conv(d_out, d_out, 3)
        self.skip = _conv(d_in, d_out, 1, stride=2)

    def forward(self, x: Float[Tensor, "batch d_in height width"]) -> Float[Tensor, "batch d_out h w"]:
        """Map (batch, d_in, height, width) to (batch, d_out, ceil(height / 2), ceil(width / 2))."""
        return F.relu(self.skip(x) + self.second(F.relu(self.first(x))))


class Classifier(nn.Module):
    """A convolutional classifier: waveforms to one logit per word.

    Waveforms are normalized to a mean of 0 and a peak of 1, so loudness and offset make no difference. Their
    length makes little: features are maxima over time, and silence around a word does not reach them.

    >>> classifier = Classifier(ClassifierConfig(n_classes=3)).eval()
    >>> classifier(torch.zeros(2, 4_000)).shape, classifier.features(torch.zeros(2, 4_000)).shape
    (torch.Size([2, 3]), torch.Size([2, 64]))

    Call ``eval()`` for inference, as `load_classifier` does, so that batch norm uses its running statistics.

    Chapters: 9 and 11. Raises ImportError as `LogMel` does.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.mel = LogMel(config.mel)
        self.layers = nn.Sequential(
            _conv(1, width, 3),
            nn.ReLU(),
            Residual(width, width),
            Residual(width, 2 * width),
            Residual(2 * width, 4 * width),
        )
        self.head = nn.Linear(4 * width, config.n_classes)

    def forward(self, waveform: Float[Tensor, "batch length"]) -> Float[Tensor, "batch n_classes"]:
        """Return logits. Raises ValueError for a waveform that is not finite."""
        return self.head(self.features(waveform))

    def features(self, waveform: Float[Tensor, "batch length"]) -> Float[Tensor, "batch d_features"]:
        """Return the input of the last layer: ``4 width`` non-negative numbers. Raises ValueError as
        ``forward``."""
        x = waveform - waveform.mean(dim=1, keepdim=True)
        peak = x.abs().amax(dim=1, keepdim=True)
        x = torch.where(peak < SILENCE_PEAK, 0 * x, x / peak)
        log_mel = 1 + self.mel(x)  # silence is 0, like the padding of convolutions
        activations = self.layers(log_mel[:, None])  # (batch, channels, frames / 8, bands / 8)
        return activations.mean(dim=3).amax(dim=2)

    @torch.no_grad()
    @cudnn_as_matmul()
    def classify(
        self, waveform: Float[Tensor, "batch length"]
    ) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Return the most probable class of each waveform and its probability. Raises ValueError as
        ``forward``.

        >>> from sashimi_lib.data.bundled import spoken_digits
        >>> label, probability = load_classifier().classify(spoken_digits()[7].waveform[None])
        >>> label
        tensor([7])
        """
        probability, label = self(waveform).softmax(dim=1).max(dim=1)
        return label, probability


def save_classifier(
    path: str | Path, classifier: Classifier, notes: dict[str, str], dtype: torch.dtype = torch.float16
) -> None:
    """Write a classifier to a file for `load_classifier`, atomically.

    ``notes`` are stored with it: training data, credits.

    Raises FloatingPointError for weights that are not finite. Chapter: 11.
    """
    check_parameters(classifier)
    tensors = {
        name: tensor.to(dtype).cpu() if tensor.is_floating_point() else tensor.cpu()
        for name, tensor in classifier.state_dict().items()
    }
    header = json.dumps({"config": dataclasses.asdict(classifier.config), "notes": notes})
    write_tensors(path, KIND, header, tensors)


def load_classifier(path: str | Path = BUNDLED_WEIGHTS) -> Classifier:
    """Load the bundled classifier of spoken digits, or one that `save_classifier` wrote, for inference in
    float32 on the CPU. Nothing in the file is executed.

    >>> load_classifier().config.n_classes
    10

    Chapters: 9 and 11. Raises ValueError, naming the file and the problem, if it is missing, damaged,
    or of another kind or format.
    """
    try:
        return _read(Path(path))
    except Exception as error:  # a foreign file may fail anywhere; name the file
        raise ValueError(f"path must be a classifier that this library saved, got {path}: {error}") from error


def _read(path: Path) -> Classifier:
    header, tensors = read_tensors(path, KIND)
    entries = header["config"]
    config = ClassifierConfig(**entries | {"mel": LogMelConfig(**entries["mel"])})
    with torch.random.fork_rng(devices=[]):  # initial weights are random, and replaced below
        classifier = Classifier(config)
    classifier.load_state_dict(tensors)
    return classifier.eval()


def _conv(d_in: int, d_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a padded convolution, whose output has the size of the input over ``stride``, and batch norm."""
    conv = nn.Conv2d(d_in, d_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(d_out))
