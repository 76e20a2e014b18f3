"""A listener that says which word it hears, to judge by what a model says (chapters 9 and 11).

The paper judges generated digits by a classifier of real ones, a ResNeXt of their spectrograms. This one is
of the same kind and small: a residual network over a log-mel spectrogram. Two things are read off it: how
often it hears the word that was asked for, and its *features*, the vectors that its last layer decides by,
whose distribution over generated sounds is compared with that over real ones
(`sashimi_lib.evaluation.distances.frechet`).
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

SHIPPED = Path(__file__).parents[1] / "weights" / "judges" / "digits.safetensors"
KIND = "classifier 1"
HEARD = LogMelConfig(8_000, n_mels=40, hop=80, window=256)  # a spectrum of 32 ms every 10 ms
SILENT = 1e-4  # a peak below this is silence


@dataclass(frozen=True)
class ClassifierConfig:
    """How many words there are, what is heard of them, and how wide the network is: ``width`` channels at
    first, twice and four times as many where it is coarser.

    Raises ValueError for a setting that is out of range.
    """

    n_classes: int = 10
    mel: LogMelConfig = HEARD
    width: int = 16

    def __post_init__(self) -> None:
        for name, least in (("n_classes", 2), ("width", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


class Residual(nn.Module):
    """Half the resolution in time and pitch: ``relu(skip(x) + conv(relu(conv(x))))``, each convolution
    followed by batch norm, all skips 1x1."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.first, self.second = _conv(d_in, d_out, 3, stride=2), _conv(d_out, d_out, 3)
        self.skip = _conv(d_in, d_out, 1, stride=2)

    def forward(self, x: Float[Tensor, "batch d_in height width"]) -> Float[Tensor, "batch d_out h w"]:
        """(batch, d_in, height, width) -> (batch, d_out, ceil(height / 2), ceil(width / 2))."""
        return F.relu(self.skip(x) + self.second(F.relu(self.first(x))))


class Classifier(nn.Module):
    """Waveforms to one logit a word.

    How loud a waveform is makes no difference: its mean is taken off and its peak brought to 1 before
    anything is heard. Its length makes little: the features are the largest over time of what the network
    finds, and the silence around a word is not that.

    >>> classifier = Classifier(ClassifierConfig(n_classes=3)).eval()
    >>> classifier(torch.zeros(2, 4_000)).shape, classifier.features(torch.zeros(2, 4_000)).shape
    (torch.Size([2, 3]), torch.Size([2, 64]))

    While it trains (``train()``), batch norm looks at the other waveforms of a batch; to judge, call
    ``eval()``, as `load_classifier` does. Chapters: 9 and 11. Raises ImportError as `LogMel` does.
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
        """Logits. Raises ValueError for a waveform that is not finite."""
        return self.head(self.features(waveform))

    def features(self, waveform: Float[Tensor, "batch length"]) -> Float[Tensor, "batch d_features"]:
        """What the last layer decides by: ``4 width`` numbers, none below zero. Raises ValueError as
        ``forward``."""
        x = waveform - waveform.mean(dim=1, keepdim=True)
        peak = x.abs().amax(dim=1, keepdim=True)
        x = torch.where(peak < SILENT, 0 * x, x / peak)
        heard = 1 + self.mel(x)  # silence is 0, as is what convolutions put around it
        found = self.layers(heard[:, None])  # (batch, channels, frames / 8, bands / 8)
        return found.mean(dim=3).amax(dim=2)

    @torch.no_grad()
    @cudnn_as_matmul()
    def classify(
        self, waveform: Float[Tensor, "batch length"]
    ) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The likeliest word of each waveform, and how likely it is. Raises ValueError as ``forward``.

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
    """Write a classifier so that `load_classifier` can bring it back; an interruption leaves the old file as
    it was. ``notes`` travel with it: what it learnt from, whom to thank.

    Raises FloatingPointError for weights that are not finite. Chapter: 11.
    """
    check_parameters(classifier)
    tensors = {
        name: tensor.to(dtype).cpu() if tensor.is_floating_point() else tensor.cpu()
        for name, tensor in classifier.state_dict().items()
    }
    header = json.dumps({"config": dataclasses.asdict(classifier.config), "notes": notes})
    write_tensors(path, KIND, header, tensors)


def load_classifier(path: str | Path = SHIPPED) -> Classifier:
    """The classifier of spoken digits that ships, or one that `save_classifier` wrote; ready to judge, in
    float32, on the CPU. Nothing in the file is executed.

    >>> load_classifier().config.n_classes
    10

    Chapters: 9 and 11. Raises ValueError, naming the file and what is wrong, for one that is missing,
    damaged, of another kind or of another format.
    """
    try:
        return _read(Path(path))
    except Exception as error:  # a foreign file may fail anywhere, and a reader wants to know which it was
        raise ValueError(f"path must be a classifier that this library saved, got {path}: {error}") from error


def _read(path: Path) -> Classifier:
    header, tensors = read_tensors(path, KIND)
    entries = header["config"]
    config = ClassifierConfig(**entries | {"mel": LogMelConfig(**entries["mel"])})
    with torch.random.fork_rng(devices=[]):  # the first weights are random, and do not last
        classifier = Classifier(config)
    classifier.load_state_dict(tensors)
    return classifier.eval()


def _conv(d_in: int, d_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, divided by its stride, and batch norm."""
    conv = nn.Conv2d(d_in, d_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(d_out))
