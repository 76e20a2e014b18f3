"""Render the book's piano clip: Beethoven, Sonata Op. 79, second movement, its first 80 seconds.

    apt-get install fluidsynth fluid-soundfont-gm        (Debian; tested with 2.3.1 and 3.1-5.3)
    python -m tools.render_piano                         writes sashimi_lib/data/audio/piano.flac

The notes are tools/op79_2.mid: a public-domain score of the Mutopia Project (2007/04/15-956, typeset by
Stelios Samelis after Breitkopf & Haertel, 1862-65), played by a program that gives it tempo, dynamics and
pedal as a pianist would; one tick is one millisecond. The piano is preset 0 of FluidR3_GM.sf2 by Frank Wen
(MIT licence). Same input, same versions: the same file, bit for bit.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from sashimi_lib.audio import write
from sashimi_lib.data.bundled import AUDIO
from tools.synthesizer import SOUNDFONT, synthesize

MIDI = Path(__file__).with_name("op79_2.mid")
CLIP = AUDIO / "piano.flac"

SAMPLE_RATE = 16_000  # as in the paper
SECONDS = 80  # ends before the first theme returns, so that the held-out end is new music
GAIN = 3.6  # brings the clip to -24 dBFS, about the level of the speech beside it
REVERB = ("-R", "1", "-o", "synth.reverb.room-size=0.4", "-o", "synth.reverb.level=0.4")  # a small room


def render(midi: Path = MIDI, soundfont: Path = SOUNDFONT) -> torch.Tensor:
    """The finished clip, mono at 16 kHz: cut, faded over its last 30 ms."""
    clip = GAIN * synthesize(midi, SAMPLE_RATE, soundfont, REVERB)[: SECONDS * SAMPLE_RATE]
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
