"""Recordings for benchmarks: a folder with ``train``, ``valid`` and ``test``, read by `sashimi_lib.data`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sashimi_lib.audio import fit_length
from sashimi_lib.audio.quantizers import Quantizer
from sashimi_lib.data.clips import find_audio
from sashimi_lib.data.corpora import FOLDER
from sashimi_lib.data.corpora.corpus import Codes
from sashimi_lib.data.corpora.layouts import digit_of_name
from sashimi_lib.data.split import PARTS

CodesBySplit = dict[str, list[Tensor]]  # codes (L,) or (L, 2) of every recording


def load_codes(
    folder: Path, sample_rate: int, quantizer: Quantizer, splits: Sequence[str] = PARTS
) -> CodesBySplit:
    """Codes of every recording in each of the splits, sorted by file name."""
    parts = {split: read_codes(folder / split, sample_rate, quantizer) for split in splits}
    return {split: [codes[index] for index in range(len(codes))] for split, codes in parts.items()}


def read_codes(folder: Path, sample_rate: int, quantizer: Quantizer) -> Codes:
    """Codes of the recordings of one split. `Corpus.codes` would require all three; some benchmarks need
    fewer."""
    return replace(FOLDER, sample_rate=sample_rate, quantizer=quantizer).codes_of(find_audio(folder))


def segments(codes: list[Tensor], length: int) -> list[Tensor]:
    """Every recording cut into segments of ``length`` samples; the last one of a recording may be shorter."""
    return [segment for clip in codes for segment in clip.split(length)]


class Excerpts(NamedTuple):
    """Codes or waveforms of excerpts, and the index of the recording that each is from."""

    clips: list[Tensor]
    recordings: list[int]


def excerpts(codes: list[Tensor], length: int, max_samples: int) -> Excerpts:
    """Excerpts of ``length`` samples, evenly spread over all recordings, about ``max_samples`` in all.

    A shorter recording is taken whole; the incomplete excerpt at the end of a longer one is dropped.
    """
    candidates = [
        (piece, number)
        for number, clip in enumerate(codes)
        for piece in clip.split(length)
        if len(piece) == min(length, len(clip))
    ]
    chosen = candidates[:: -(-sum(len(piece) for piece, _ in candidates) // max_samples)]
    return Excerpts([piece for piece, _ in chosen], [number for _, number in chosen])


def whole_recordings(codes: list[Tensor]) -> Excerpts:
    """Every recording as one excerpt."""
    return Excerpts(codes, list(range(len(codes))))


def load_waveforms(folder: Path, sample_rate: int) -> list[Tensor]:
    """Waveforms of all recordings in a folder, sorted by file name."""
    return [x for x, _ in replace(FOLDER, sample_rate=sample_rate).segments(find_audio(folder))]


class Word(NamedTuple):
    """A recording of one word: waveform (L,), class label, speaker."""

    waveform: Tensor
    label: int
    speaker: str


def load_words(folder: Path, sample_rate: int) -> list[Word]:
    """The recordings of one split, whose files are named ``DIGIT_SPEAKER_NUMBER``."""
    found = replace(FOLDER, sample_rate=sample_rate).segments(find_audio(folder))
    return [Word(waveform, digit_of_name(path), path.stem.split("_")[1]) for waveform, path in found]


class LabelledAudio(NamedTuple):
    """Waveforms of one length (n, length), and their class labels (n,)."""

    waveform: Tensor
    label: Tensor

    def pairs(self) -> list[tuple[Tensor, int]]:
        """(waveform, label) pairs, as training takes them."""
        return list(zip(self.waveform, self.label.tolist(), strict=True))

    def balanced(self, n_per_class: int) -> "LabelledAudio":
        """``n_per_class`` examples of each class, evenly spread over all there are, and so over speakers."""
        chosen = []
        for label in self.label.unique():
            members = (self.label == label).nonzero()[:, 0]
            chosen.append(members[torch.linspace(0, len(members) - 1, n_per_class).round().long()])
        return LabelledAudio(*(x[torch.cat(chosen)] for x in self))


def load_digits(folder: Path, sample_rate: int, length: int) -> dict[str, LabelledAudio]:
    """The words of all splits, each fitted to ``length`` samples (`fit_length`)."""
    corpus = {}
    for split in PARTS:
        words = load_words(folder / split, sample_rate)
        waveforms = torch.stack([fit_length(word.waveform, length) for word in words])
        corpus[split] = LabelledAudio(waveforms, torch.tensor([word.label for word in words]))
    return corpus
