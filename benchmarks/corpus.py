"""A corpus as the benchmarks take it: folders ``train``, ``valid`` and ``test``, whole recordings in each."""

from pathlib import Path

from torch import Tensor

from sashimi_lib.audio import read, resample
from sashimi_lib.data.clips import find_audio
from sashimi_lib.quantize import Quantizer

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


def excerpts(codes: list[Tensor], length: int, samples: int) -> list[Tensor]:
    """Excerpts of ``length`` samples, evenly spread over all recordings, at most ``samples`` in all.

    A recording that is shorter goes whole; what is left at the end of a longer one is left out.
    """
    whole = [piece for clip in codes for piece in clip.split(length) if len(piece) == min(length, len(clip))]
    return whole[:: -(-sum(map(len, whole)) // samples)]
