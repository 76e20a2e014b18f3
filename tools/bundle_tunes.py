"""Render the tunes that ship with the package, as `tools.render_tunes` renders training data.

    apt-get install fluidsynth fluid-soundfont-gm; pip install mido
    python -m tools.bundle_tunes

Writes sashimi_lib/data/audio/tune_1.flac and tune_2.flac. The notes are tools/tune_1.mid and tune_2.mid, "Pop
Goes the Weasel" and "Inman Line" of Ryan's Mammoth Collection (Boston, 1883), transcribed by Ray Davies and
others for the ``ryansMammoth`` corpus of music21; tempo, dynamics and timing are a program's. Both are in the
test split: no model learns from them.
"""

import argparse
from pathlib import Path

from sashimi_lib.audio import write
from sashimi_lib.data.bundled import AUDIO
from tools.render_tunes import SAMPLE_RATE, render
from tools.synthesizer import SOUNDFONT

TUNES = [Path(__file__).with_name(f"tune_{number}.mid") for number in (1, 2)]


def main() -> None:
    """Render both tunes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=AUDIO, help="folder to write (default: %(default)s)")
    parser.add_argument("--soundfont", type=Path, default=SOUNDFONT)
    options = parser.parse_args()
    for midi in TUNES:
        path = (options.output / midi.name).with_suffix(".flac")
        write(path, render(midi.read_bytes(), soundfont=options.soundfont), SAMPLE_RATE)
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
