"""Conversion of published weights into models of this library, one module per layout."""

from sashimi_lib.official.diffwave import load_diffwave
from sashimi_lib.official.diffwave_sashimi import load_diffwave_sashimi
from sashimi_lib.official.samplernn import load_samplernn
from sashimi_lib.official.sashimi import load_audio_lm, load_s4, load_sashimi
from sashimi_lib.official.wavenet import load_wavenet
from sashimi_lib.official.wavernn import load_wavernn

__all__ = [
    "load_audio_lm",
    "load_diffwave",
    "load_diffwave_sashimi",
    "load_s4",
    "load_samplernn",
    "load_sashimi",
    "load_wavenet",
    "load_wavernn",
]
