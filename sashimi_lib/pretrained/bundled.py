"""The bits per sample of the bundled audio, which everyone can measure again (chapter 7)."""

from sashimi_lib.data import bundled
from sashimi_lib.data.bundled import Clip
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.training.validation import validation_loss


def _held_out_piano() -> list[Clip]:
    """Return the held-out piano in pieces of two seconds."""
    piano = bundled.piano()
    pieces = piano.test.split(2 * piano.sample_rate)
    return [Clip(piece, piano.sample_rate, piano.title, piano.credit) for piece in pieces]


BUNDLED_CLIPS = {
    "piano": _held_out_piano,
    "spoken_digits": lambda: list(bundled.spoken_digits().values()),
    "tunes": bundled.tunes,
}


def bundled_bits(model: DiscreteAudioModel, sample_rate: int, clips: str) -> float:
    """Return the bits per sample of clips that ship with the library: of the held-out ``"piano"``, 16 kHz, in
    pieces of two seconds; of the ten ``"spoken_digits"``, 8 kHz; or of the two ``"tunes"``, 8 kHz. Choose
    those that resemble the training data of the model.

    Piano and digits still differ from the training data of the library's models: the piano is a louder
    rendering, the digits are those of another speaker. So these figures compare models;
    `ModelCard.test_bits` evaluates them.

    Chapter: 7. Raises ValueError for other clips, and for a model of another rate than theirs.
    """
    if clips not in BUNDLED_CLIPS:
        raise ValueError(f"clips must be one of {', '.join(BUNDLED_CLIPS)}, got {clips!r}")
    chosen = BUNDLED_CLIPS[clips]()
    if sample_rate != chosen[0].sample_rate:
        raise ValueError(f"sample_rate must be {chosen[0].sample_rate}, that of {clips}, got {sample_rate}")
    codes = [model.quantizer.encode(clip.waveform) for clip in chosen]
    return validation_loss(model, codes, tbptt_length=4096)
