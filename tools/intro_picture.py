"""Draw the book's opening picture, book/assets/three-modes.svg: what you hear follows from where an
eigenvalue lies.

    python -m tools.intro_picture
"""

from argparse import ArgumentParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from sashimi_lib.display.plots import COLORS, use_style

TARGET = Path(__file__).resolve().parents[1] / "book" / "assets" / "three-modes.svg"
MODES = [  # radius, angle per step, colour, what it does
    (0.930, 0.62, COLORS["blue"], "inside: it fades"),
    (1.000, 0.30, COLORS["green"], "on the circle: it rings for ever"),
    (1.040, 1.00, COLORS["vermillion"], "outside: it blows up"),
]


def draw_plane(ax: Axes) -> None:
    """Draw the unit disc and the three pairs of eigenvalues."""
    ax.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", facecolor="#fbe9e0", xticks=[], yticks=[])
    ax.add_patch(Circle((0, 0), 1, facecolor="white", edgecolor=COLORS["black"], linewidth=1.4))
    ax.axhline(0, color="#dddddd", linewidth=1)
    ax.axvline(0, color="#dddddd", linewidth=1)
    for radius, angle, color, _ in MODES:
        z = radius * np.exp(1j * angle * np.array([1, -1]))
        ax.plot(z.real, z.imag, "X" if radius > 1 else "o", color=color, ms=10, zorder=3)
    ax.set_title("eigenvalues of one step")


def draw_sound(ax: Axes, radius: float, angle: float, color: str, text: str) -> None:
    """Draw what one mode does, step after step."""
    steps = np.arange(0, 80)
    wave = radius**steps * np.cos(angle * steps)
    ax.plot(steps, wave, color=color, linewidth=1.8)
    ax.set(xlim=(0, 79), xticks=[], yticks=[], ylim=1.15 * np.array([-1, 1]) * np.abs(wave).max())
    ax.set_title(text, loc="left", color=color)
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)


def main() -> None:
    """Draw and save the picture, the same bytes each time."""
    ArgumentParser(description=__doc__).parse_args()
    use_style()
    mpl.rcParams["svg.hashsalt"] = "three-modes"
    figure, axes = plt.subplot_mosaic("ab;ac;ad", figsize=(8, 3.8), width_ratios=[1, 1.35])
    draw_plane(axes["a"])
    for name, mode in zip("bcd", MODES, strict=True):
        draw_sound(axes[name], *mode)
    figure.savefig(TARGET, metadata={"Date": None})


if __name__ == "__main__":
    main()
