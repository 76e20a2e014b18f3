"""Audio: reading and writing files, resampling, loudness, quantizers and mel spectrograms."""

from sashimi_lib.audio.io import MP3_RATES, Decoded, decode, encode_bytes, open_audio_writer, read, write
from sashimi_lib.audio.resampling import REACH, resample, resampled, resampling_periods
from sashimi_lib.audio.waveform import (
    check_sample_rate,
    check_waveform,
    normalize_loudness,
    rms_db,
    spectrogram_db,
)

__all__ = [
    "MP3_RATES",
    "REACH",
    "Decoded",
    "check_sample_rate",
    "check_waveform",
    "decode",
    "encode_bytes",
    "normalize_loudness",
    "open_audio_writer",
    "read",
    "resample",
    "resampled",
    "resampling_periods",
    "rms_db",
    "spectrogram_db",
    "write",
]
