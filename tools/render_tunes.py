"""Render tunes, MIDI files, with an instrument of a General MIDI SoundFont: the training data of ``tunes``.

    apt-get install fluidsynth fluid-soundfont-gm; pip install mido
    python -m tools.render_tunes folk_tunes runs/data/tunes --instrument vibraphone --rate 8000

The first folder holds ``midi.zip`` and ``tunes.csv``, whose columns ``file`` and ``split`` name each file and
its split. The output has one 16-bit mono wav for each tune, in ``train``, ``valid`` and ``test``. All tunes
have the same gain, so that their levels differ as the player meant them to; no reverb.
"""

import argparse
import csv
import io
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mido
import torch
from tqdm import tqdm

from sashimi_lib.audio import write
from tools.synthesizer import SOUNDFONT, synthesize

# General MIDI programs, from 0. All are struck or plucked: sums of decaying modes.
INSTRUMENTS = {"celesta": 8, "music-box": 10, "vibraphone": 11, "marimba": 12, "harp": 46, "kalimba": 108}
GAIN = 4.0


def with_program(midi: bytes, program: int) -> mido.MidiFile:
    """A MIDI file with all its notes played by one instrument."""
    song = mido.MidiFile(file=io.BytesIO(midi))
    for track in song.tracks:
        for message in track:
            if message.type == "program_change":
                message.program = program
    return song


def render(midi: bytes, program: int, sample_rate: int, gain: float, soundfont: Path) -> torch.Tensor:
    """The waveform of a MIDI file. ValueError if it clips."""
    with tempfile.NamedTemporaryFile(suffix=".mid") as file:
        with_program(midi, program).save(file.name)
        waveform = gain * synthesize(Path(file.name), sample_rate, soundfont)
    if (peak := abs(waveform).max()) >= 1:
        raise ValueError(f"peak must be below 1, got {peak:.2f}: choose a smaller --gain")
    return torch.from_numpy(waveform).float()


def main() -> None:
    """Render all tunes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tunes", type=Path, help="folder with midi.zip and tunes.csv")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--instrument", choices=INSTRUMENTS, default="vibraphone")
    parser.add_argument("--rate", type=int, default=8000, help="sample rate in Hz (default: 8000)")
    parser.add_argument("--gain", type=float, default=GAIN, help=f"factor of amplitude (default: {GAIN})")
    parser.add_argument("--soundfont", type=Path, default=SOUNDFONT)
    options = parser.parse_args()
    archive = zipfile.ZipFile(options.tunes / "midi.zip")
    with (options.tunes / "tunes.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    files = {row["file"]: archive.read(row["file"]) for row in rows}

    def render_row(row: dict[str, str]) -> None:
        waveform = render(
            files[row["file"]], INSTRUMENTS[options.instrument], options.rate, options.gain, options.soundfont
        )
        folder = options.output / row["split"]
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / f"{Path(row['file']).stem}.wav", waveform, options.rate)

    with ThreadPoolExecutor(2) as pool:  # each thread waits for its FluidSynth
        for _ in tqdm(pool.map(render_row, rows), total=len(rows)):
            pass


if __name__ == "__main__":
    main()
