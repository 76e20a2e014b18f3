"""librosa, for the measures of one waveform: an optional package, imported when a measure needs it."""

from types import ModuleType

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sashimi_lib.audio import check_sample_rate, check_waveform


def import_librosa() -> ModuleType:
    """Return librosa. Raises ImportError, naming the extra to install, if it is missing."""
    try:
        import librosa
    except ImportError as error:
        raise ImportError('librosa is missing: pip install "sashimi_lib[evaluation]"') from error
    return librosa


def as_array(
    waveform: Float[Tensor, " length"], sample_rate: int, seconds: float
) -> Float[np.ndarray, " length"]:
    """Return one waveform as librosa takes it. Raises ValueError for invalid audio or an invalid rate, and
    for less than ``seconds`` of audio."""
    check_waveform(waveform)
    check_sample_rate(sample_rate)
    if waveform.ndim != 1 or len(waveform) < seconds * sample_rate:
        raise ValueError(
            f"waveform must be one clip of at least {seconds:g} s at {sample_rate} Hz, "
            f"got shape {tuple(waveform.shape)}"
        )
    return waveform.detach().cpu().float().numpy()
