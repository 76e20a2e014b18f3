"""Clips bundled with the package: ten spoken digits, two sentences, eighty seconds of piano, two tunes.

Recorded speech and rendered music, less than 2.6 MB, freely redistributable. Each clip has its credit
(``Clip.credit``); full credits and licenses are in ``sashimi_lib/data/audio/CREDITS.md``.

Chapter: 1 and all that follow.
"""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from sashimi_lib.audio import read

AUDIO = Path(__file__).parent / "audio"

_DIGITS = 'Allison Smith / Digium, "Asterisk Core Sounds", CC BY-SA 3.0, converted to FLAC'
_SENTENCES = "LibriVox volunteer reading Jane Austen, Sense and Sensibility, public domain, converted to FLAC"
_PIANO = (
    "Beethoven, Sonata Op. 79, second movement; score Mutopia 2007/04/15-956 (Stelios Samelis), "
    "public domain; rendered for this project with FluidR3_GM by Frank Wen (MIT)"
)
_TUNES = (
    "Ryan's Mammoth Collection, 1883, public domain, transcribed by Ray Davies and others (ryansMammoth in "
    "music21); rendered for this project with FluidR3_GM by Frank Wen (MIT)"
)
_TRANSCRIPTS = (
    "He was not an ill-disposed young man,",
    "unless to be rather cold hearted and rather selfish is to be ill-disposed.",
)


@dataclass(frozen=True, eq=False)
class Clip:
    """A waveform with its sample rate in Hz, its title (the transcript, for speech) and its credit."""

    waveform: Float[Tensor, " length"]
    sample_rate: int
    title: str
    credit: str

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.waveform) / self.sample_rate


@dataclass(frozen=True, eq=False)
class PianoClip(Clip):
    """The piano clip; its last ``test_seconds`` are held out from training in the whole book."""

    test_seconds: int = 16

    @property
    def train(self) -> Float[Tensor, " length"]:
        """All but the last ``test_seconds``."""
        return self.waveform[: -self.test_seconds * self.sample_rate]

    @property
    def test(self) -> Float[Tensor, " length"]:
        """The held-out end, music that does not occur in ``train``."""
        return self.waveform[-self.test_seconds * self.sample_rate :]


def spoken_digits() -> dict[int, Clip]:
    """Return the digits "zero" to "nine" of one speaker, each about 0.8 s at 8 kHz.

    >>> digits = spoken_digits()
    >>> digits[7].title, digits[7].sample_rate, round(digits[7].seconds, 2)
    ('seven', 8000, 0.82)

    Chapter: 1.
    """
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return {
        digit: Clip(*read(AUDIO / f"digit_{digit}.flac"), title=word, credit=_DIGITS)
        for digit, word in enumerate(words)
    }


def sentences() -> list[Clip]:
    """Return the two halves of a read sentence by Jane Austen: 3.0 and 5.3 s at 16 kHz.

    ``title`` is the transcript.

    >>> sentences()[0].title
    'He was not an ill-disposed young man,'

    Chapter: 1.
    """
    return [
        Clip(*read(AUDIO / f"sentence_{index}.flac"), title=text, credit=_SENTENCES)
        for index, text in enumerate(_TRANSCRIPTS, start=1)
    ]


def piano() -> PianoClip:
    """Return eighty seconds of Beethoven at 16 kHz: 64 for training (``train``), 16 for testing (``test``).

    >>> clip = piano()
    >>> clip.seconds, len(clip.train) / clip.sample_rate, len(clip.test) / clip.sample_rate
    (80.0, 64.0, 16.0)

    Chapter: 1.
    """
    return PianoClip(*read(AUDIO / "piano.flac"), title="Beethoven, Op. 79, second movement", credit=_PIANO)


def tunes() -> list[Clip]:
    """Return two dance tunes, 33 and 23 s at 8 kHz. They are in the test split of the tunes from which
    ``tunes`` was trained: no model of the book has seen them.

    >>> [clip.title for clip in tunes()]
    ['Pop Goes the Weasel', 'Inman Line']

    Chapter: 7.
    """
    return [
        Clip(*read(AUDIO / f"tune_{index}.flac"), title=title, credit=_TUNES)
        for index, title in enumerate(("Pop Goes the Weasel", "Inman Line"), start=1)
    ]
