"""Render the book's piano clip: Beethoven, Sonata Op. 79, second movement, its first 80 seconds.

    apt-get install fluidsynth fluid-soundfont-gm        (Debian; tested with 2.3.1 and 3.1-5.3)
    python -m tools.render_piano                         writes sashimi_lib/data/audio/piano.flac

The notes are tools/op79_2.mid: a public-domain score of the Mutopia Project (2007/04/15-956, typeset by
Stelios Samelis after Breitkopf & Haertel, 1862-65), played by a program that gives it tempo, dynamics and
pedal as a pianist would; one tick is one millisecond. The piano is preset 0 of FluidR3_GM.sf2 by Frank Wen
(MIT licence). Same input, same versions: the same file, bit for bit.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly

from sashimi_lib.audio import write

ROOT = Path(__file__).resolve().parents[1]
MIDI = ROOT / "tools" / "op79_2.mid"
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
CLIP = ROOT / "sashimi_lib" / "data" / "audio" / "piano.flac"

SYNTH_RATE, SAMPLE_RATE = 48_000, 16_000  # the synthesiser aliases less at a high rate; the paper uses 16 kHz
SECONDS = 80  # ends before the first theme returns, so that the held-out end is new music
GAIN = 3.6  # brings the clip to -24 dBFS, about the level of the speech beside it
REVERB = ["-o", "synth.reverb.room-size=0.4", "-o", "synth.reverb.level=0.4"]  # a small room


def synthesise(midi: Path, soundfont: Path) -> np.ndarray:
    """Render ``midi`` with FluidSynth: float stereo (L, 2) at 48 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "stereo.raw")
        play = ["fluidsynth", "-ni", "-q", "-g", "0.6", "-r", str(SYNTH_RATE), "-R", "1", "-C", "0", *REVERB]
        keep = ["-T", "raw", "-O", "float", "-F", str(raw), str(soundfont), str(midi)]
        subprocess.run([*play, *keep], check=True, stdout=subprocess.DEVNULL)
        return np.fromfile(raw, "<f4").reshape(-1, 2)


def render(midi: Path = MIDI, soundfont: Path = SOUNDFONT) -> torch.Tensor:
    """The finished clip, mono at 16 kHz: mixed down, resampled, cut, faded over its last 30 ms."""
    mono = synthesise(midi, soundfont)[: SYNTH_RATE * (SECONDS + 1)].mean(axis=1, dtype=np.float64)
    clip = GAIN * resample_poly(mono, 1, SYNTH_RATE // SAMPLE_RATE)[: SECONDS * SAMPLE_RATE]
    fade = SAMPLE_RATE * 30 // 1000
    clip[-fade:] *= np.linspace(1, 0, fade)
    return torch.from_numpy(clip).float()


def main() -> None:
    """Render to the file that ships with the library, or to another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=CLIP, help="file to write (default: the one that ships)"
    )
    parser.add_argument("--soundfont", type=Path, default=SOUNDFONT, help="SoundFont of the piano")
    options = parser.parse_args()
    write(options.output, render(soundfont=options.soundfont), SAMPLE_RATE)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
