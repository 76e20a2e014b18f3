"""FluidSynth, for the tools that render music: a MIDI file and a SoundFont to a waveform.

apt-get install fluidsynth fluid-soundfont-gm        (Debian; tested with 2.3.1 and 3.1-5.3)
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.signal import resample_poly

SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
SYNTH_RATE = 48_000  # a synthesizer aliases less at a high rate


def synthesize(
    midi: Path, sample_rate: int, soundfont: Path = SOUNDFONT, reverb: Sequence[str] = ("-R", "0")
) -> Float[np.ndarray, " length"]:
    """Render a MIDI file: the mean of both channels, resampled from 48 kHz, without chorus. ``reverb`` are
    FluidSynth's options. Same input, same versions: the same samples.

    Raises ValueError for a sample rate that does not divide 48 kHz, and CalledProcessError where FluidSynth
    fails.
    """
    if SYNTH_RATE % sample_rate:
        raise ValueError(f"sample_rate must divide {SYNTH_RATE}, got {sample_rate}")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "stereo.raw")
        play = ["fluidsynth", "-ni", "-q", "-g", "0.6", "-r", str(SYNTH_RATE), "-C", "0", *reverb]
        keep = ["-T", "raw", "-O", "float", "-F", str(raw), str(soundfont), str(midi)]
        subprocess.run([*play, *keep], check=True, stdout=subprocess.DEVNULL)
        stereo = np.fromfile(raw, "<f4").reshape(-1, 2)
    return resample_poly(stereo.mean(axis=1, dtype=np.float64), 1, SYNTH_RATE // sample_rate)
