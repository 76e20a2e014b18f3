"""Sounds in a notebook: `listen` puts a waveform, its spectrogram and an audio player on one card.

The player plays the clip at the loudness it has and says how loud that is; `IPython.display.Audio` would
stretch every clip to full scale and so hide what a model gets wrong. Cards hold no random ids: the same clip
gives the same HTML.
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

GUARD_DB = -12.0  # above any recorded clip of the book, below what hurts in headphones


@dataclass(frozen=True)
class Player:
    """One card, or several side by side, as HTML. What a notebook shows is ``_repr_html_``."""

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
    """A card with picture and player; with ``reference``, the real clip on a card beside it.

    MP3, or FLAC with ``lossless`` (where the artefacts are the lesson). Values beyond [-1, 1] are clipped, a
    clip louder than ``guard_db`` dBFS (RMS) is turned down to it, and the card says both. Raises ValueError
    for NaN, infinite or empty audio, for more than one channel, and for a bad rate.

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
    """Several clips side by side, titles as keys; ``sample_rate`` is one for all or one a title.

    Raises what `listen` raises, naming the clip; and ValueError for no clips.

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
    columns = "repeat(auto-fit,minmax(min(100%,15rem),1fr))"  # as many as fit, all of one width
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
    """The clip as it may be played, and what to say about it."""
    name = f"waveform {title!r}"
    if not isinstance(waveform, Tensor) or waveform.ndim != 1:
        raise ValueError(f"{name} must be one clip, a tensor of shape (L,), got {_what(waveform)}")
    if waveform.is_floating_point() and waveform.numel() and torch.isfinite(waveform).all():
        beyond = float((waveform.detach().abs() > 1).float().mean())
        safe = waveform.detach().cpu().float().clamp(-1, 1)
    else:
        beyond, safe = 0.0, waveform  # the check below says what is wrong with it
    check_waveform(safe, name)
    level = rms_db(safe)
    notes = ["silence" if level < -120 else f"{level:.1f} dBFS"]
    if beyond:
        notes.append(f"{100 * beyond:.2g} % of samples clipped")
    if level > guard_db:
        safe = safe * 10 ** ((guard_db - level) / 20)
        notes.append(f"played {level - guard_db:.1f} dB softer to spare your ears")
    return safe, notes


def _what(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def audio_html(waveform: Float[Tensor, " length"], sample_rate: int, lossless: bool = False) -> str:
    """An ``<audio>`` element that carries its sound with it.

    Browsers play any rate, MP3 knows nine: other rates are resampled up to the next of them. Clips under a
    tenth of a second go as FLAC in any case, because an MP3 frame is about that long. Raises ValueError for
    bad audio.

    >>> audio_html(torch.zeros(8000), 8000)[:38]
    '<audio controls preload="metadata" src'

    Chapter: 1.
    """
    check_waveform(waveform)
    lossless = lossless or len(waveform) < 0.1 * sample_rate
    if sample_rate < MP3_RATES[0] or (sample_rate not in MP3_RATES and not lossless):
        playable = next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])
        waveform, sample_rate = resample(waveform, sample_rate, playable), playable
    data = encode_bytes(waveform, sample_rate, "flac" if lossless else "mp3")
    kind = "audio/flac" if lossless else "audio/mpeg"
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return f'<audio controls preload="metadata" src="{source}" style="width:20rem;max-width:100%"></audio>'


def image_html(figure: Figure, alt: str, style: str = "width:100%;height:auto") -> str:
    """A figure as an ``<img>`` that carries its picture (WebP) with it.

    ``alt`` says in words what it shows, for readers who cannot see it.
    Raises ValueError without an ``alt`` text.

    >>> image_html(Figure(figsize=(1, 1)), "an empty figure")[:24]
    '<img alt="an empty figur'

    Chapter: all.
    """
    if not alt.strip():
        raise ValueError("alt must say in words what the figure shows, got an empty text")
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
