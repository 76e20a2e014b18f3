"""The figure style of the book, and plots of waveforms, spectrograms, eigenvalues and kernels.

The colors are those of Okabe and Ito, which color-blind readers can distinguish; important differences are
also shown by shape or text. Fonts remain legible when a figure is scaled to the width of a phone.
"""

import io
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from IPython import get_ipython
from jaxtyping import Float, Shaped
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image
from torch import Tensor

from sashimi_lib.audio import check_sample_rate, check_waveform, spectrogram_db

COLORS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#222222",
    "grey": "#888888",
}

STYLE: Any = {  # a dict; matplotlib's types require literal keys
    "figure.figsize": (6.0, 3.0),
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.facecolor": "white",  # on dark pages too: the colors were chosen for white
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so figures are the same everywhere
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "image.cmap": "magma",
    "axes.prop_cycle": cycler(color=list(COLORS.values())),
}


def use_style() -> None:
    """Set the book's style for all figures. Call once, in the first cell of a chapter.

    In a notebook, figures are also reduced to a palette of 128 colors, a third of the file size.

    >>> use_style()

    Chapter: all.
    """
    mpl.rcParams.update(STYLE)
    shell = get_ipython()
    if shell is not None:
        plt.switch_backend(mpl.get_backend())  # loading it later would undo the next line
        shell.display_formatter.formatters["image/png"].for_type(Figure, small_png)


def small_png(figure: Figure) -> bytes:
    """Render a figure as a PNG of at most 128 colors.

    >>> small_png(Figure(figsize=(1, 1)))[1:4]
    b'PNG'

    Chapter: all.
    """
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight")
    picture = Image.open(full).convert("RGB")
    palette = picture.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(small, "PNG", optimize=True)
    return small.getvalue()


def style_context() -> AbstractContextManager[None]:
    """Return a context manager that applies the book's style inside a ``with`` block.

    >>> with style_context():
    ...     mpl.rcParams["figure.facecolor"]
    'white'

    Chapter: all.
    """
    return mpl.rc_context(STYLE)


def _envelope(x: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return start, minimum and maximum of ``points`` equal segments of a waveform."""
    edges = np.linspace(0, len(x), points + 1).astype(int)[:-1]
    return edges, np.minimum.reduceat(x, edges), np.maximum.reduceat(x, edges)


def plot_waveform(
    waveform: Float[Tensor, " length"],
    sample_rate: int,
    ax: Axes | None = None,
    color: str = COLORS["blue"],
    label: str | None = None,
) -> Axes:
    """Plot amplitude over time in seconds; above 4,000 samples, the envelope (minimum and maximum).

    Raises ValueError as `sashimi_lib.audio.check_waveform` does, and for several channels.

    >>> import torch
    >>> ax = plot_waveform(torch.zeros(100), 8000)
    >>> ax.get_xlabel()
    'time in seconds'

    Chapter: 1.
    """
    check_waveform(waveform)
    check_sample_rate(sample_rate)
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be one clip of shape (L,), got shape {tuple(waveform.shape)}")
    ax = plt.subplots()[1] if ax is None else ax
    x = waveform.detach().cpu().float().numpy()
    if len(x) > 4000:
        at, low, high = _envelope(x, 1000)
        ax.fill_between(at / sample_rate, low, high, color=color, linewidth=0.6, label=label)
    else:
        ax.plot(np.arange(len(x)) / sample_rate, x, color=color, label=label)
    ax.set(xlabel="time in seconds", ylabel="amplitude", xlim=(0, len(x) / sample_rate))
    return ax


def plot_spectrogram(
    waveform: Float[Tensor, " length"],
    sample_rate: int,
    ax: Axes | None = None,
    window_seconds: float | int = 0.032,
    db_range: tuple[float | int, float | int] = (-100.0, -20.0),
    colorbar: bool = False,
) -> Axes:
    """Plot a spectrogram; the color is the level in dB relative to a full-scale sine.

    The color scale is fixed, so that clips are comparable. ``window_seconds`` trades resolution in time for
    resolution in frequency. Raises ValueError as `sashimi_lib.audio.check_waveform` does, and for several
    channels.

    >>> import torch
    >>> plot_spectrogram(torch.zeros(4000), 8000).get_ylabel()
    'frequency in kHz'

    Chapter: 1.
    """
    check_waveform(waveform)
    check_sample_rate(sample_rate)
    window = max(4, 2 * round(window_seconds * sample_rate / 2))
    hop = max(1, window // 4, waveform.shape[-1] // 800)
    db = spectrogram_db(waveform, window, hop).cpu().numpy()
    ax = plt.subplots()[1] if ax is None else ax
    image = ax.imshow(
        db.T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        vmin=db_range[0],
        vmax=db_range[1],
        extent=(-hop / 2 / sample_rate, (len(db) - 0.5) * hop / sample_rate, 0, sample_rate / 2000),
    )
    ax.set(xlabel="time in seconds", ylabel="frequency in kHz", xlim=(0, len(waveform) / sample_rate))
    ax.grid(False)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="level in dB", pad=0.02)
    return ax


def plot_eigenvalues(
    eigenvalues: Shaped[Tensor, "..."],
    ax: Axes | None = None,
    discrete: bool = False,
    color: str = COLORS["blue"],
    label: str | None = None,
) -> Axes:
    """Plot eigenvalues in the complex plane, with the unstable region shaded.

    It is the right half plane in continuous time, and the outside of the unit circle if ``discrete``. Stable
    eigenvalues are dots, unstable ones crosses in another color. Raises ValueError for NaN, infinite, or no
    eigenvalues.

    >>> import torch
    >>> ax = plot_eigenvalues(torch.tensor([-0.5 + 1j, -0.5 - 1j]))
    >>> ax.get_xlabel()
    'real part'

    Chapter: 5.
    """
    z = np.atleast_1d(eigenvalues.detach().cpu().numpy()).ravel()
    if z.size == 0 or not np.isfinite(z).all():
        raise ValueError(
            f"eigenvalues must be finite and at least one, got {z.size}, of which "
            f"{np.sum(~np.isfinite(z))} are not finite"
        )
    ax = plt.subplots(figsize=(5, 4))[1] if ax is None else ax
    if discrete:
        _unit_disc(ax, z)
    else:
        _left_half_plane(ax, z)
    unstable = np.abs(z) > 1 if discrete else z.real > 0
    ax.plot(z[~unstable].real, z[~unstable].imag, "o", color=color, ms=5, alpha=0.8, label=label)
    ax.plot(
        z[unstable].real,
        z[unstable].imag,
        "X",
        color=COLORS["vermillion"],
        ms=8,
        label="unstable" if unstable.any() else None,
    )
    ax.set(xlabel="real part", ylabel="imaginary part")
    return ax


def _unit_disc(ax: Axes, z: np.ndarray) -> None:
    limit = 1.15 * max(1.0, float(np.abs(z).max()))
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", facecolor="#fbe9e0")
    ax.add_patch(Circle((0, 0), 1, facecolor="white", edgecolor=COLORS["black"], linewidth=1.2, zorder=0.5))


def _left_half_plane(ax: Axes, z: np.ndarray) -> None:
    width = max(float(np.ptp(np.append(z.real, 0))), 1e-3)
    left, right = min(float(z.real.min()), 0) - 0.1 * width, max(float(z.real.max()), 0) + 0.15 * width
    ax.axvspan(0, right, color="#fbe9e0", zorder=0)
    ax.axvline(0, color=COLORS["black"], linewidth=1.2, zorder=0.5)
    ax.set_xlim(left, right)


def plot_kernel(
    kernel: Float[Tensor, "*channels length"],
    ax: Axes | None = None,
    seconds_per_step: float | int | None = None,
    label: str | None = None,
) -> Axes:
    """Plot a convolution kernel over time steps, or over seconds if ``seconds_per_step`` is given.

    Several channels are drawn as several lines. Raises ValueError for an empty or non-finite kernel.

    >>> import torch
    >>> plot_kernel(torch.ones(8)).get_xlabel()
    'steps ago'

    Chapter: 3.
    """
    k = np.atleast_2d(kernel.detach().cpu().numpy())
    if k.size == 0 or not np.isfinite(k).all():
        raise ValueError(f"kernel must be finite and not empty, got shape {tuple(kernel.shape)}")
    ax = plt.subplots()[1] if ax is None else ax
    at = np.arange(k.shape[-1]) * (1.0 if seconds_per_step is None else seconds_per_step)
    lines = ax.plot(at, k.reshape(-1, k.shape[-1]).T)
    lines[0].set_label(label)
    ax.set(
        xlabel="steps ago" if seconds_per_step is None else "seconds ago",
        ylabel="weight",
        xlim=(0, at[-1] or 1),
    )
    return ax
