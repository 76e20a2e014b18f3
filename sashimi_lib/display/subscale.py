"""The subscale ordering drawn: when each sample is made, and what one of them may hear (chapter 8)."""

from jaxtyping import Bool, Int
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from sashimi_lib.display.plots import COLORS


def plot_subscale(
    generation_order: Int[Tensor, "factor places"],
    context_mask: Bool[Tensor, "factor places"],
    sample: tuple[int, int],
    ax: Axes | None = None,
) -> Axes:
    """Sub-sequences as rows, their places as columns; the number in a cell is the tick that makes it.

    The one ``sample``, (s, i), is in inverse; what it may hear is blue and bold, what is made in the same
    tick has a thick frame. In time the samples follow each other down a column, then down the next one.
    Raises ValueError for masks of another shape than the ticks, and for a sample that is not among them.

    >>> import torch
    >>> generation_order, context_mask = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[True, False], [False, False]])
    >>> ax = plot_subscale(generation_order, context_mask, sample=(1, 0))
    >>> [text.get_text() for text in ax.texts]
    ['0', '1', '1', '2']

    Chapter: 8. WaveRNN paper, section 4.
    """
    factor, positions = generation_order.shape
    if context_mask.shape != generation_order.shape:
        raise ValueError(
            f"context_mask must have the shape of ticks, {factor, positions}, got {tuple(context_mask.shape)}"
        )
    s, i = sample
    if not (0 <= s < factor and 0 <= i < positions):
        raise ValueError(f"sample must be (s, i) with s below {factor} and i below {positions}, got {sample}")
    if ax is None:
        ax = plt.subplots(figsize=(6.0, 1.5 + 0.4 * factor))[1]
    for z in range(factor):
        for k in range(positions):
            here, hears = (z, k) == sample, bool(context_mask[z, k])
            fill = COLORS["vermillion"] if here else "#bfe0f5" if hears else "white"
            ax.add_patch(Rectangle((k - 0.5, z - 0.5), 1, 1, facecolor=fill, edgecolor="#c8c8c8"))
            ink = "white" if here else COLORS["black"] if hears else "#666666"
            weight = "bold" if here or hears else "normal"
            ax.text(
                k, z, str(int(generation_order[z, k])), ha="center", va="center", color=ink, weight=weight
            )
    for z, k in (generation_order == generation_order[s, i]).nonzero().tolist():
        frame = Rectangle(
            (k - 0.46, z - 0.46), 0.92, 0.92, fill=False, edgecolor=COLORS["black"], linewidth=2.2
        )
        ax.add_patch(frame).set_zorder(2)
    ax.set(
        xlim=(-0.52, positions - 0.48),
        ylim=(factor - 0.48, -0.52),
        xticks=range(positions),
        yticks=range(factor),
        xlabel=f"place i  (sample t = {factor} i + s)",
        ylabel="sub-sequence s",
    )
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.legend(
        handles=[
            Patch(facecolor=COLORS["vermillion"], label="this sample"),
            Patch(facecolor="#bfe0f5", edgecolor="#c8c8c8", label="it may hear"),
            Patch(fill=False, edgecolor=COLORS["black"], linewidth=2.2, label="same tick"),
        ],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        columnspacing=1.2,
    )
    return ax
