"""Audio players for notebooks: `listen` shows a waveform, its spectrogram and an audio element on one card.

Clips are played at their own level, which the card states; `IPython.display.Audio` normalizes every clip to
full scale and so hides errors of a model. The HTML is deterministic, without random ids.
"""

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sashimi_lib.audio import MP3_RATES, check_sample_rate, check_waveform, encode_bytes, resample, rms_db
from sashimi_lib.display.plots import plot_spectrogram, plot_waveform, style_context

GUARD_DB = -12.0  # dBFS, maximum playback level: above all clips of the book, safe for headphones


@dataclass(frozen=True)
class Player:
    """One or several cards side by side as HTML, displayed by a notebook."""

    name: str
    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Player({self.name})"


def listen(
    waveform: Float[Tensor, " length"],
    sample_rate: int,
    title: str = "clip",
    reference: Float[Tensor, " real_length"] | None = None,
    reference_title: str = "the real clip",
    lossless: bool = False,
    guard_db: float | int = GUARD_DB,
) -> Player:
    """Create a card with figure and audio player; with ``reference``, another card for the real clip.

    Audio is encoded as MP3, or as FLAC with ``lossless``. Values outside [-1, 1] are clipped, and clips above
    ``guard_db`` dBFS (RMS) are attenuated to it; the card states both. Raises ValueError for NaN, infinite or
    empty audio, for several channels, and for an invalid sample rate.

    >>> listen(torch.zeros(8000), 8000, "silence")
    Player(silence, 1.00 s)

    Chapter: 1.
    """
    clips = {title: waveform}
    if reference is not None:
        clips[reference_title] = reference
    return listen_many(clips, sample_rate, lossless=lossless, guard_db=guard_db)


def listen_many(
    clips: Mapping[str, Float[Tensor, " _"]],
    sample_rate: int | Mapping[str, int],
    lossless: bool = False,
    guard_db: float | int = GUARD_DB,
) -> Player:
    """Create a card for each clip; keys are titles, and ``sample_rate`` is one for all or one per title.

    Raises as `listen` does, naming the clip, and ValueError for no clips.

    >>> listen_many({"a": torch.zeros(800), "b": torch.zeros(1600)}, 8000)
    Player(a, 0.10 s; b, 0.20 s)

    Chapter: 1.
    """
    if not clips:
        raise ValueError("clips must hold at least one waveform, got none")
    cards, names = [], []
    for title, waveform in clips.items():
        rate = sample_rate.get(title, 0) if isinstance(sample_rate, Mapping) else sample_rate
        cards.append(_card(waveform, rate, title, lossless, guard_db))
        names.append(f"{title}, {len(waveform) / rate:.2f} s")
    columns = "repeat(auto-fit,minmax(min(100%,15rem),1fr))"  # as many columns as fit, of equal width
    style = f"display:grid;grid-template-columns:{columns};gap:1rem"
    return Player("; ".join(names), f'<div style="{style}">{"".join(cards)}</div>')


def _card(waveform: Tensor, sample_rate: int, title: str, lossless: bool, guard_db: float | int) -> str:
    check_sample_rate(sample_rate)
    safe, notes = _guard(waveform, title, guard_db)
    seconds = len(safe) / sample_rate
    facts = [f"{seconds:.2f} s", f"{sample_rate / 1000:g} kHz", *notes]
    alt = f"Waveform and spectrogram of {title}, {seconds:.2f} seconds"
    return (
        '<figure style="min-width:0;max-width:30rem;margin:0 0 0.5rem 0">'
        f'<figcaption style="margin:0;font-weight:600">{html.escape(title)}</figcaption>'
        f"{image_html(_picture(safe, sample_rate), alt)}"
        f"{audio_html(safe, sample_rate, lossless)}"
        f'<div style="font-size:0.85em">{", ".join(facts)}</div>'
        "</figure>"
    )


def _guard(waveform: Tensor, title: str, guard_db: float | int) -> tuple[Tensor, list[str]]:
    """Clip and attenuate a waveform for playback; return it with notes about its level and these changes."""
    name = f"waveform {title!r}"
    if not isinstance(waveform, Tensor) or waveform.ndim != 1:
        raise ValueError(f"{name} must be one clip, a tensor of shape (L,), got {_describe(waveform)}")
    if waveform.is_floating_point() and waveform.numel() and torch.isfinite(waveform).all():
        beyond = float((waveform.detach().abs() > 1).float().mean())
        safe = waveform.detach().cpu().float().clamp(-1, 1)
    else:
        beyond, safe = 0.0, waveform  # the check below raises
    check_waveform(safe, name)
    level = rms_db(safe)
    notes = ["silence" if level < -120 else f"{level:.1f} dBFS"]
    if beyond:
        notes.append(f"{100 * beyond:.2g} % of samples clipped")
    if level > guard_db:
        safe = safe * 10 ** ((guard_db - level) / 20)
        notes.append(f"played {level - guard_db:.1f} dB softer to spare your ears")
    return safe, notes


def _describe(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def audio_html(waveform: Float[Tensor, " length"], sample_rate: int, lossless: bool = False) -> str:
    """Create an ``<audio>`` element with embedded audio data.

    MP3 supports nine sample rates; other rates are resampled to the next higher one. Clips shorter than a
    tenth of a second are always encoded as FLAC, because an MP3 frame is about that long. Raises ValueError
    for invalid audio.

    >>> audio_html(torch.zeros(8000), 8000)[:38]
    '<audio controls preload="metadata" src'

    Chapter: 1.
    """
    check_waveform(waveform)
    lossless = lossless or len(waveform) < 0.1 * sample_rate
    if sample_rate < MP3_RATES[0] or (sample_rate not in MP3_RATES and not lossless):
        supported = next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])
        waveform, sample_rate = resample(waveform, sample_rate, supported), supported
    data = encode_bytes(waveform, sample_rate, "flac" if lossless else "mp3")
    media_type = "audio/flac" if lossless else "audio/mpeg"
    source = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return f'<audio controls preload="metadata" src="{source}" style="width:20rem;max-width:100%"></audio>'


def image_html(figure: Figure, alt: str, style: str = "width:100%;height:auto") -> str:
    """Convert a figure to an ``<img>`` element with embedded data (WebP).

    ``alt`` is the text alternative of the figure. Raises ValueError if it is empty.

    >>> image_html(Figure(figsize=(1, 1)), "an empty figure")[:24]
    '<img alt="an empty figur'

    Chapter: all.
    """
    if not alt.strip():
        raise ValueError("alt must describe the figure, got an empty text")
    buffer = io.BytesIO()
    with style_context():
        figure.savefig(buffer, format="png")
    picture = io.BytesIO()
    Image.open(buffer).convert("RGB").save(picture, "WEBP", quality=70)
    source = f"data:image/webp;base64,{base64.b64encode(picture.getvalue()).decode()}"
    return f'<img alt="{html.escape(alt)}" src="{source}" style="{style}">'


def _picture(waveform: Tensor, sample_rate: int) -> Figure:
    with style_context():
        figure = Figure(figsize=(3.8, 2.7), dpi=130, layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.7])
        plot_waveform(waveform, sample_rate, top)
        plot_spectrogram(waveform, sample_rate, bottom)
        top.set(xlabel="", ylabel="", ylim=(-1.05, 1.05), yticks=[-1, 0, 1])
        bottom.set(xlabel="seconds", ylabel="kHz")
        for ax in (top, bottom):
            ax.tick_params(labelsize=9)
        bottom.xaxis.label.set_size(10)
        bottom.yaxis.label.set_size(10)
    return figure
