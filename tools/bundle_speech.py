"""Convert the speech that ships with the package to FLAC, losslessly.

    apt-get install asterisk-core-sounds-en-wav pocketsphinx-testdata
    python -m tools.bundle_speech --sentences FOLDER

Writes sashimi_lib/data/audio/digit_{0..9}.flac and sentence_{1,2}.flac. FOLDER holds the LibriVox test files
of pocketsphinx (``test/data/librivox`` in its source distribution 5.1.1).
"""

import argparse
from pathlib import Path

from sashimi_lib.audio import read, write

AUDIO = Path(__file__).resolve().parents[1] / "sashimi_lib" / "data" / "audio"
DIGITS = Path("/usr/share/asterisk/sounds/en_US_f_Allison/digits")
SENTENCES = [f"sense_and_sensibility_01_austen_64kb-{number}.wav" for number in ("0880", "0890")]


def convert(source: Path, target: Path) -> None:
    """Convert one file to FLAC; all 16 bits are preserved."""
    waveform, sample_rate = read(source)
    write(target, waveform, sample_rate)
    print(f"{target.name}: {len(waveform) / sample_rate:.2f} s, {target.stat().st_size:,} bytes")


def main() -> None:
    """Convert the ten digits and the two sentences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--digits", type=Path, default=DIGITS, help="folder of the digits' recordings")
    parser.add_argument("--sentences", type=Path, required=True, help="folder of the LibriVox files")
    options = parser.parse_args()
    for digit in range(10):
        convert(options.digits / f"{digit}.wav", AUDIO / f"digit_{digit}.flac")
    for number, name in enumerate(SENTENCES, start=1):
        convert(options.sentences / name, AUDIO / f"sentence_{number}.flac")


if __name__ == "__main__":
    main()
