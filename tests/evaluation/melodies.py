"""Melodies of decaying tones that ring over each other, as on a vibraphone, whose notes are known."""

import torch

RATE = 8_000


def tone(hertz, seconds, decay=3.0, rate=RATE):
    """A tone with a partial two octaves higher, an attack of 5 ms and an exponential decay."""
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    fundamental = torch.sin(2 * torch.pi * hertz * time)
    partial = 0.2 * torch.exp(-10 * time) * torch.sin(8 * torch.pi * hertz * time)
    return (1 - torch.exp(-time / 0.005)) * torch.exp(-decay * time) * (fundamental + partial)


def hertz_of(pitch, tuning=0.0):
    return 440 * 2 ** ((pitch - 69 + tuning / 100) / 12)


def render(pitches, onsets, seconds, tuning=0.0, rate=RATE):
    """A waveform of notes that ring for four seconds each, until they are 100 dB below their start."""
    waveform = torch.zeros(round((seconds + 4) * rate), dtype=torch.float64)
    for pitch, onset in zip(pitches, onsets, strict=True):
        start, note = round(onset * rate), 0.2 * tone(hertz_of(pitch, tuning), 4, rate=rate)
        waveform[start : start + len(note)] += note
    return waveform[: round(seconds * rate)].float()


def random_melody(count, seed=0, shortest=0.15):
    """Pitches of a random walk on a C major scale, and onsets; half of the notes are twice as long."""
    generator = torch.Generator().manual_seed(seed)
    scale = [12 * octave + step for octave in (5, 6) for step in (0, 2, 4, 5, 7, 9, 11)]
    steps = torch.randint(-2, 3, (count,), generator=generator).cumsum(0)
    pitches = [scale[int(step) % len(scale)] for step in steps]
    lengths = shortest * (1 + torch.randint(2, (count,), generator=generator))
    return pitches, (0.1 + lengths.cumsum(0) - lengths).tolist()


def white_noise(db, seconds, seed=0, rate=RATE):
    generator = torch.Generator().manual_seed(seed)
    return 10 ** (db / 20) * torch.randn(round(seconds * rate), generator=generator)
