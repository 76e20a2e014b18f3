"""A corpus as the benchmarks take it: folders ``train``, ``valid`` and ``test``, whole recordings in each."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sashimi_lib.audio import read, resample
from sashimi_lib.audio.quantizers import Quantizer
from sashimi_lib.data.clips import find_audio

Corpus = dict[str, list[Tensor]]  # codes (L,) or (L, 2) of every recording, by split


def load(folder: Path, sample_rate: int, quantizer: Quantizer) -> Corpus:
    """Codes of every recording, as loud as it is, in the order of the files' names."""
    return {split: recordings(folder / split, sample_rate, quantizer) for split in ("train", "valid", "test")}


def recordings(folder: Path, sample_rate: int, quantizer: Quantizer) -> list[Tensor]:
    """Codes of the recordings of one folder."""
    codes = []
    for file in find_audio(folder):
        waveform, rate = read(file.path)
        codes.append(quantizer.encode(resample(waveform, rate, sample_rate)))
    return codes


def pieces(codes: list[Tensor], length: int) -> list[Tensor]:
    """Every recording cut into pieces of ``length`` samples; what is left at its end is a shorter one."""
    return [piece for clip in codes for piece in clip.split(length)]


class Excerpts(NamedTuple):
    """Codes of pieces (L,) or (L, 2), and the number of the recording that each is from."""

    clips: list[Tensor]
    recordings: list[int]


def excerpts(codes: list[Tensor], length: int, samples: int) -> Excerpts:
    """Excerpts of ``length`` samples, evenly spread over all recordings, about ``samples`` in all: every
    second, third, ... of those that there are.

    A recording that is shorter goes whole; what is left at the end of a longer one is left out.
    """
    every = [
        (piece, number)
        for number, clip in enumerate(codes)
        for piece in clip.split(length)
        if len(piece) == min(length, len(clip))
    ]
    chosen = every[:: -(-sum(len(piece) for piece, _ in every) // samples)]
    return Excerpts([piece for piece, _ in chosen], [number for _, number in chosen])


def whole(codes: list[Tensor]) -> Excerpts:
    """Recordings as they are, each its own excerpt."""
    return Excerpts(codes, list(range(len(codes))))


class Word(NamedTuple):
    """A recording of one word: waveform (L,), which word it is, whose voice it is."""

    waveform: Tensor
    label: int
    speaker: str


def words(folder: Path, sample_rate: int) -> list[Word]:
    """The recordings of one folder, whose files are called ``LABEL_SPEAKER_NUMBER``, as spoken digits are."""
    found = []
    for file in find_audio(folder):
        label, speaker, _ = file.path.stem.split("_")
        waveform, rate = read(file.path)
        found.append(Word(resample(waveform, rate, sample_rate), int(label), speaker))
    return found


def fitted(waveform: Tensor, length: int) -> Tensor:
    """A word of exactly ``length`` samples, its mean taken off and its peak at 1.

    A longer one loses what comes before it rises above a twentieth of its peak, and then its end, or the
    end of the silence; a shorter one gets silence after it. Some speakers are 30 dB louder than others, and
    to a network that hears them among noise of one loudness they would be other tasks.
    """
    x = waveform - waveform.mean()
    x = x / x.abs().max().clamp(min=1e-4)
    silence = int((x.abs() > 0.05).int().argmax())
    x = x[min(silence, max(0, len(x) - length)) :][:length]
    return F.pad(x, (0, length - len(x)))


class Sounds(NamedTuple):
    """Recordings of one length (n, length), and what is said in each (n,)."""

    waveform: Tensor
    label: Tensor

    def pairs(self) -> list[tuple[Tensor, int]]:
        """As training takes them."""
        return list(zip(self.waveform, self.label.tolist(), strict=True))

    def each(self, number: int) -> "Sounds":
        """So many of every class, evenly spread over those there are, and so over the speakers."""
        chosen = []
        for label in self.label.unique():
            those = (self.label == label).nonzero()[:, 0]
            chosen.append(those[torch.linspace(0, len(those) - 1, number).round().long()])
        return Sounds(*(x[torch.cat(chosen)] for x in self))


def sounds(folder: Path, sample_rate: int, length: int) -> dict[str, Sounds]:
    """Words of all splits, every one of so many samples (`fitted`)."""
    corpus = {}
    for split in ("train", "valid", "test"):
        found = words(folder / split, sample_rate)
        waveforms = torch.stack([fitted(word.waveform, length) for word in found])
        corpus[split] = Sounds(waveforms, torch.tensor([word.label for word in found]))
    return corpus
