"""Plot the subscale ordering: generation step of each sample, and the context of one (chapter 8)."""

from typing import Any

from jaxtyping import Bool, Int
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from sashimi_lib.display.plots import COLORS

CONTEXT_COLOR = "#bfe0f5"
GRID_COLOR = "#c8c8c8"


def plot_subscale(
    generation_order: Int[Tensor, "factor length"],
    context_mask: Bool[Tensor, "factor length"],
    sample: tuple[int, int],
    ax: Axes | None = None,
) -> Axes:
    """Plot sub-sequences as rows and positions as columns; the number in a cell is its generation step.

    The highlighted ``sample`` is (s, i); its context is blue and bold, and samples generated in the same step
    have a thick frame. In time order, samples run down a column, then down the next one. Raises ValueError
    for a mask of another shape than ``generation_order``, and for a sample out of range.

    >>> import torch
    >>> order, mask = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[True, False], [False, False]])
    >>> ax = plot_subscale(order, mask, sample=(1, 0))
    >>> [text.get_text() for text in ax.texts]
    ['0', '1', '1', '2']

    Chapter: 8. WaveRNN paper, section 4.
    """
    factor, positions = generation_order.shape
    if context_mask.shape != generation_order.shape:
        raise ValueError(
            f"context_mask must have the shape of generation_order, {factor, positions}, got "
            f"{tuple(context_mask.shape)}"
        )
    s, i = sample
    if not (0 <= s < factor and 0 <= i < positions):
        raise ValueError(f"sample must be (s, i) with s below {factor} and i below {positions}, got {sample}")
    if ax is None:
        ax = plt.subplots(figsize=(6.0, 1.5 + 0.4 * factor))[1]
    for z in range(factor):
        for k in range(positions):
            _draw_cell(ax, z, k, int(generation_order[z, k]), (z, k) == sample, bool(context_mask[z, k]))
    for z, k in (generation_order == generation_order[s, i]).nonzero().tolist():
        frame = _cell(z, k, 0.92, fill=False, edgecolor=COLORS["black"], linewidth=2.2)
        ax.add_patch(frame).set_zorder(2)
    _style_axes(ax, factor, positions)
    return ax


def _cell(row: int, column: int, size: float, **style: Any) -> Rectangle:
    """Return a square of one cell, centered on it."""
    return Rectangle((column - size / 2, row - size / 2), size, size, **style)


def _draw_cell(ax: Axes, row: int, column: int, step: int, is_sample: bool, in_context: bool) -> None:
    fill = COLORS["vermillion"] if is_sample else CONTEXT_COLOR if in_context else "white"
    ax.add_patch(_cell(row, column, 1.0, facecolor=fill, edgecolor=GRID_COLOR))
    color = "white" if is_sample else COLORS["black"] if in_context else "#666666"
    weight = "bold" if is_sample or in_context else "normal"
    ax.text(column, row, str(step), ha="center", va="center", color=color, weight=weight)


def _style_axes(ax: Axes, factor: int, positions: int) -> None:
    """Set ticks, labels and legend."""
    ax.set(
        xlim=(-0.52, positions - 0.48),
        ylim=(factor - 0.48, -0.52),
        xticks=range(positions),
        yticks=range(factor),
        xlabel=f"position i  (sample t = {factor} i + s)",
        ylabel="sub-sequence s",
    )
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.legend(
        handles=[
            Patch(facecolor=COLORS["vermillion"], label="this sample"),
            Patch(facecolor=CONTEXT_COLOR, edgecolor=GRID_COLOR, label="its context"),
            Patch(fill=False, edgecolor=COLORS["black"], linewidth=2.2, label="same step"),
        ],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        columnspacing=1.2,
    )
