"""Audio: reading and writing files, resampling, loudness, quantizers and mel spectrograms."""

from sashimi_lib.audio.io import MP3_RATES, Decoded, decode, encode_bytes, open_audio_writer, read, write
from sashimi_lib.audio.mel import LogMel, LogMelConfig
from sashimi_lib.audio.quantizers import CoarseFine, Linear, MuLaw, Quantizer, check_codes
from sashimi_lib.audio.resampling import resample, resample_stream, resampling_periods
from sashimi_lib.audio.waveform import (
    check_sample_rate,
    check_waveform,
    fit_length,
    normalize_loudness,
    rms_db,
    spectrogram_db,
)

__all__ = [
    "MP3_RATES",
    "CoarseFine",
    "Decoded",
    "Linear",
    "LogMel",
    "LogMelConfig",
    "MuLaw",
    "Quantizer",
    "check_codes",
    "check_sample_rate",
    "check_waveform",
    "decode",
    "encode_bytes",
    "fit_length",
    "normalize_loudness",
    "open_audio_writer",
    "read",
    "resample",
    "resample_stream",
    "resampling_periods",
    "rms_db",
    "spectrogram_db",
    "write",
]
