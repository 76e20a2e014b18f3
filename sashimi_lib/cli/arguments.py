"""The arguments of each command, as data: a dataclass each, whose fields are the options.

The docstring of a field is its line of help. The options of ``train`` follow from its recipe, and stand in
`sashimi_lib.cli.train_arguments`. Nothing here imports PyTorch, so that help comes at once.
"""

from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import tyro

from sashimi_lib.sampling_config import SamplingConfig


def default_is(what: str) -> Any:
    """What help says of an option whose default is None, where that stands for something else."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {what})")


Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
CorpusName = Literal["folder", "sc09", "beethoven", "youtubemix", "fsdd", "ljspeech"]
Device = Literal["auto", "cpu", "cuda"]
Part = Literal["test", "valid", "train", "all"]


def _option(option: Field[Any]) -> Any:
    """A field of `SamplingConfig` as an option of the command line."""
    hint = f"(default: {option.default})"
    return Annotated[option.type, tyro.conf.arg(help=option.metadata["help"], help_behavior_hint=hint)]


# The fields of `SamplingConfig` that are given, and no others: a saved stream has its own defaults.
SamplingOptions: Any = TypedDict(  # type: ignore[misc]
    "SamplingOptions", {option.name: _option(option) for option in fields(SamplingConfig)}, total=False
)


@dataclass(frozen=True)
class StreamCommand:
    """Generate sound without a fixed end, and write or play it as it is made.

    Ctrl-C, SIGTERM and a closed terminal end it after the current chunk.
    """

    model: Model
    """Name of a bundled model, such as piano, or a file that sashimi train wrote."""
    seconds: float | None = 10.0
    """Length of the sound in seconds; None goes on until Ctrl-C."""
    out: Path | None = None
    """Output file, .wav or .flac; it is complete after Ctrl-C too."""
    play: bool = False
    """Play the sound (needs pip install "sashimi_lib[play]")."""
    sampling: tyro.conf.OmitArgPrefixes[SamplingOptions] = field(default_factory=SamplingOptions)
    seed: Annotated[int | None, default_is("0, or the generator of --state-in")] = None
    """Random seed."""
    prompt: Path | None = None
    """Recording to continue; it is not part of the output."""
    state_in: Path | None = None
    """State to resume from, as --state-out wrote it, with its sampling options where none are given."""
    state_out: Path | None = None
    """Where to save the state at the end."""
    chunk: Annotated[float | None, default_is("0.1, or that of --state-in")] = None
    """Seconds that are generated at once."""


@dataclass(frozen=True)
class GenerateCommand:
    """Generate one or several sounds with a trained model, and write them to files.

    After Ctrl-C or SIGTERM an autoregressive model's files keep what was generated so far.
    """

    model: Model
    """Name of a bundled model, such as piano, or a file that sashimi train wrote."""
    out: Path
    """Output file, .wav or .flac; several sounds are numbered, x_1.wav, x_2.wav."""
    seconds: float = 5.0
    """Length of a sound in seconds."""
    count: int = 1
    """Number of sounds; a batch takes less time than one by one."""
    prompt: Path | None = None
    """Recording to continue; it is not part of the output."""
    sampling: tyro.conf.OmitArgPrefixes[SamplingOptions] = field(default_factory=SamplingOptions)
    label: int | None = None
    """Class of the sounds, for class-conditional diffusion models: a digit of digits_diffusion."""
    seed: int = 0
    """Random seed; the same seed generates the same sounds."""
    device: Device = "auto"
    """Device to compute on; auto is the GPU if there is one."""


@dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate a trained model on held-out recordings.

    Metrics:

    - bits: negative log-likelihood in bits per sample, with a 95 % confidence interval over recordings
    - spectrum_distance: difference between the average spectra of generated and held-out sound, in dB
    - stft_distance: spectral distance between held-out sound and a vocoder's reconstruction of it
    """

    model: Model
    """Name of a bundled model, such as piano, or a file that sashimi train wrote."""
    data: Path
    """Folder of recordings."""
    metrics: Annotated[str, tyro.conf.arg(metavar="NAMES")] = "bits"
    """Metrics to compute, separated by commas."""
    part: Part = "test"
    """Same split as sashimi train; only train was used for training; all is for unseen recordings."""
    corpus: CorpusName = "folder"
    """What DATA holds: a folder of your own recordings, or a corpus from sashimi data fetch."""
    seconds: Annotated[float | None, default_is("4, or as the corpus has it")] = None
    """Recordings are cut into sequences of so many seconds."""
    batch_size: int = 8
    """Sequences that are scored or generated at once."""
    count: int = 8
    """Sounds to generate for spectrum_distance, except by a vocoder."""
    seed: int = 0
    """Random seed of generated sounds."""
    device: Device = "auto"
    """Device to compute on; auto is the GPU if there is one."""


@dataclass(frozen=True)
class ListCommand:
    """List the corpora: content, size, licence and source."""


@dataclass(frozen=True)
class FetchCommand:
    """Download a corpus, verify and unpack it, or say how to get it by hand. Resumes where it stopped."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Corpus to fetch, one of sashimi data list."""
    to: Path = Path("data")
    """Parent folder; the corpus goes into a folder of its own name there."""
