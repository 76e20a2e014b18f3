"""The bits per sample of the bundled audio, which everyone can measure again (chapter 7)."""

from sashimi_lib.data import bundled
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.training.validation import validation_loss


def bundled_bits(model: DiscreteAudioModel, sample_rate: int) -> float:
    """Return the bits per sample of the audio that ships with the library: of the held-out piano in clips of
    two seconds, for a model at 16 kHz; of the ten spoken digits, for a model at 8 kHz.

    The bundled audio differs from the training data of the library's models: the piano is a louder rendering,
    the digits are those of another speaker. So these figures compare models; `ModelCard.test_bits` evaluates
    them.

    Chapter: 7. Raises ValueError for another rate.
    """
    if sample_rate == 16_000:
        clips = list(bundled.piano().test.split(2 * sample_rate))
    elif sample_rate == 8_000:
        clips = [clip.waveform for clip in bundled.spoken_digits().values()]
    else:
        raise ValueError(f"sample_rate must be 8000 or 16000, as of the bundled clips, got {sample_rate}")
    return validation_loss(model, [model.quantizer.encode(clip) for clip in clips], tbptt_length=4096)
