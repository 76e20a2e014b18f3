"""What each command but ``train`` can be told: its fields are the arguments, its ``run`` does it.

What does it is imported only then, so that help comes at once: PyTorch takes seconds.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import tyro

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
CorpusName = Literal["folder", "sc09", "beethoven", "youtubemix", "fsdd", "ljspeech"]
Device = Literal["auto", "cpu", "cuda"]


def _default(value: object) -> Any:
    """What the help says of an option that is left out of a dictionary where it is not given."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {value})")


# Those fields of `sashimi_lib.models.SamplingConfig` that are given: a saved stream has its own defaults.
class SamplingOptions(TypedDict, total=False):
    """How values are sampled."""

    temperature: Annotated[float, _default(1.0)]
    """Softmax temperature: below 1 more conservative."""
    top_p: Annotated[float, _default(1.0)]
    """Nucleus sampling: draw from the fewest values whose probability reaches it."""
    top_k: Annotated[int | None, _default(None)]
    """Draw from so many of the most likely values; None draws from all."""


@dataclass(frozen=True)
class StreamCommand:
    """Make sound, and write it or play it as it comes, until there is enough, or until Ctrl-C, SIGTERM or a
    closed terminal ends it."""

    model: Model
    """The name of a model that ships, such as piano, or the file of one."""
    seconds: float | None = 10.0
    """How much to make; None goes on until Ctrl-C."""
    out: Path | None = None
    """Where to write it: a .wav or .flac file, whole after Ctrl-C too."""
    play: bool = False
    """Play it (pip install sashimi_lib[play])."""
    sampling: tyro.conf.OmitArgPrefixes[SamplingOptions] = field(default_factory=SamplingOptions)
    seed: int | None = None
    """Which random numbers; 0 unless said, or those that --state-in holds."""
    prompt: Path | None = None
    """A recording to go on from."""
    state_in: Path | None = None
    """Go on from where --state-out left off, with its sampling options where they are not given here."""
    state_out: Path | None = None
    """Where to keep what it takes to go on from the end."""
    chunk: float | None = None
    """Seconds to make at once: 0.1 unless said, or those of --state-in."""

    def run(self) -> int:
        """Make the sound; returns the exit code. Raises ValueError for what cannot be."""
        from sashimi_lib.cli.stream import run

        return run(self)


@dataclass(frozen=True)
class GenerateCommand:
    """Make sounds with a trained model, and write them: one, or several side by side. After Ctrl-C or SIGTERM
    what is there of them is kept, where a model makes them sample by sample."""

    model: Model
    """The name of a model that ships, such as piano, or the file that sashimi train wrote."""
    out: Path
    """Where to write: a .wav or .flac file. Several sounds are numbered: x.wav becomes x_1.wav, x_2.wav."""
    seconds: float = 5.0
    """How long a sound is to be."""
    count: int = 1
    """How many sounds to make; together they take less time than one by one."""
    prompt: Path | None = None
    """A recording to go on from. It is not written again."""
    sampling: tyro.conf.OmitArgPrefixes[SamplingOptions] = field(default_factory=SamplingOptions)
    label: int | None = None
    """Which class of sound, where a diffusion model knows classes: a digit, of digits_diffusion."""
    seed: int = 0
    """Which random numbers: the same ones make the same sounds."""
    device: Device = "auto"
    """Where to compute; auto takes the GPU if there is one."""

    def run(self) -> int:
        """Make the sounds; returns the exit code. Raises ValueError for what cannot be."""
        from sashimi_lib.cli.generate import run

        return run(self)


@dataclass(frozen=True)
class EvaluateCommand:
    """Bits per sample of recordings under a model, with a 95 % confidence interval over recordings."""

    model: Model
    """The name of a model that ships, such as piano, or the file that sashimi train wrote."""
    data: Path
    """The folder of recordings."""
    part: Literal["test", "valid", "train", "all"] = "test"
    """Which of them, as they were split in training: the file of a model of your own says how. It learnt from
    train alone; all is for recordings that it has never learnt from."""
    corpus: CorpusName = "folder"
    """What the folder holds: recordings of your own, or a corpus that sashimi data fetched."""
    seconds: float | None = None
    """Recordings are heard in pieces of so many seconds, each from silence; 4 unless said, or the corpus's
    own."""
    batch_size: int = 8
    """How many pieces to hear at once."""
    device: Device = "auto"
    """Where to compute; auto takes the GPU if there is one."""

    def run(self) -> None:
        """Judge the model. Raises ValueError for what cannot be."""
        from sashimi_lib.cli.evaluate import run

        run(self)


@dataclass(frozen=True)
class ListCommand:
    """List the corpora: what each is, how large, under which licence, and where it comes from."""

    def run(self) -> None:
        """Print the list."""
        from sashimi_lib.cli.data import show

        show()


@dataclass(frozen=True)
class FetchCommand:
    """Download a corpus, check it and unpack it; or say what to do by hand. It goes on where it broke off."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """One of those that sashimi data list shows."""
    to: Path = Path("data")
    """The folder to put it in, in a folder of its own name."""

    def run(self) -> None:
        """Fetch it. Raises ValueError for a name that is none, and as `Corpus.fetch` does."""
        from sashimi_lib.cli.data import fetch

        fetch(self)
