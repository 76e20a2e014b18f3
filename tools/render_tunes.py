"""Render tunes, MIDI files, with an instrument of a General MIDI SoundFont: the training data of ``tunes``.

    apt-get install fluidsynth fluid-soundfont-gm; pip install mido
    python -m tools.render_tunes folk_tunes runs/data/tunes
    python -m tools.render_tunes my_midi_files my_recordings --instrument harp --rate 16000

A folder with ``tunes.csv`` and ``midi.zip`` is split as the columns ``file`` and ``split`` of the table say.
In any other folder, all .mid and .midi files are split by their names, as `sashimi_lib.data.split` splits
recordings. The output has one 16-bit mono wav for each tune, in ``train``, ``valid`` and ``test``. All tunes
have the same gain, so that their levels differ as the player meant them to; no reverb. Each ends a quarter of
a second after its last sound.
"""

import argparse
import csv
import io
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from sashimi_lib.audio import write
from sashimi_lib.data.split import relative_name, split_files
from tools.synthesizer import SOUNDFONT, synthesize

# General MIDI programs, from 0. All are struck or plucked: sums of decaying modes.
INSTRUMENTS = {"celesta": 8, "music-box": 10, "vibraphone": 11, "marimba": 12, "harp": 46, "kalimba": 108}
INSTRUMENT = "vibraphone"
SAMPLE_RATE = 8000
GAIN = 4.0
AUDIBLE = 1e-3  # amplitude: -60 dBFS
TAIL = 0.25  # seconds of silence that are kept at the end
PERCUSSION = 9  # the channel whose programs are drum kits


class Tune(NamedTuple):
    """A MIDI file: its name within its collection, its split, and its content."""

    name: str
    split: str
    midi: bytes


def read_tunes(folder: Path) -> list[Tune]:
    """The tunes of a collection. Raises ValueError for fewer than three files without ``tunes.csv``."""
    if (folder / "tunes.csv").is_file():
        with (folder / "tunes.csv").open(newline="", encoding="utf-8") as table:
            rows = list(csv.DictReader(table))
        with zipfile.ZipFile(folder / "midi.zip") as archive:
            return [Tune(row["file"], row["split"], archive.read(row["file"])) for row in rows]
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in (".mid", ".midi")]
    return [
        Tune(relative_name(path, folder), split, path.read_bytes())
        for split, files in split_files(paths, folder).items()
        for path in files
    ]


def with_program(midi: bytes, program: int) -> mido.MidiFile:
    """A MIDI file with all notes played by one instrument, except those of the percussion channel."""
    song = mido.MidiFile(file=io.BytesIO(midi))
    for track in song.tracks:
        for message in track:
            if message.type == "program_change":
                message.program = program
    channels = [channel for channel in range(16) if channel != PERCUSSION]
    song.tracks[0][:0] = [mido.Message("program_change", channel=c, program=program) for c in channels]
    return song


def render(
    midi: bytes,
    instrument: str = INSTRUMENT,
    sample_rate: int = SAMPLE_RATE,
    gain: float = GAIN,
    soundfont: Path = SOUNDFONT,
) -> torch.Tensor:
    """The waveform of a MIDI file. Raises ValueError if it clips, or is silent."""
    with tempfile.NamedTemporaryFile(suffix=".mid") as file:
        with_program(midi, INSTRUMENTS[instrument]).save(file.name)
        waveform = gain * synthesize(Path(file.name), sample_rate, soundfont)
    if (peak := abs(waveform).max()) >= 1:
        raise ValueError(f"peak must be below 1, got {peak:.2f}: choose a smaller --gain")
    return torch.from_numpy(trim_end(waveform, sample_rate)).float()


def trim_end(waveform: Float[np.ndarray, " length"], sample_rate: int) -> Float[np.ndarray, " shorter"]:
    """A waveform until `TAIL` after its last sound. Raises ValueError for silence."""
    sounding = np.flatnonzero(abs(waveform) > AUDIBLE)
    if len(sounding) == 0:
        raise ValueError(f"waveform must exceed {AUDIBLE} somewhere, got silence")
    return waveform[: sounding[-1] + 1 + round(TAIL * sample_rate)]


def main() -> None:
    """Render all tunes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tunes", type=Path, help="folder of MIDI files")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--instrument", choices=INSTRUMENTS, default=INSTRUMENT)
    parser.add_argument("--rate", type=int, default=SAMPLE_RATE, help="Hz (default: %(default)s)")
    parser.add_argument("--gain", type=float, default=GAIN, help="factor (default: %(default)s)")
    parser.add_argument("--soundfont", type=Path, default=SOUNDFONT)
    options = parser.parse_args()

    def render_to_file(tune: Tune) -> None:
        try:
            waveform = render(tune.midi, options.instrument, options.rate, options.gain, options.soundfont)
        except ValueError as error:
            raise ValueError(f"{tune.name}: {error}") from error
        path = (options.output / tune.split / tune.name).with_suffix(".wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, waveform, options.rate)

    tunes = read_tunes(options.tunes)
    with ThreadPoolExecutor(2) as pool:  # each thread waits for its FluidSynth
        for _ in tqdm(pool.map(render_to_file, tunes), total=len(tunes), disable=None):
            pass


if __name__ == "__main__":
    main()
