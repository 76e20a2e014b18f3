"""Recordings for small benchmarks."""

import pytest
import torch

from sashimi_lib.audio import write


@pytest.fixture
def tones(tmp_path):
    """A function that writes recordings of a tone in noise into ``tmp_path/tones``, by split."""

    def make(samples, sample_rate, train=1, valid=1, test=6):
        for split, count in (("train", train), ("valid", valid), ("test", test)):
            folder = tmp_path / "tones" / split
            folder.mkdir(parents=True)
            for number in range(count):
                time = torch.arange(samples + number)
                tone = 0.3 * torch.sin(0.1 * time) + 0.01 * torch.randn(len(time))
                write(folder / f"{number}.wav", tone, sample_rate)
        return tmp_path / "tones"

    return make
