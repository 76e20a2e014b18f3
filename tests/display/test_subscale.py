"""The plot of the subscale ordering agrees with the ordering."""

from collections.abc import Iterator

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from sashimi_lib.display.plots import COLORS, style_context
from sashimi_lib.display.subscale import plot_subscale
from sashimi_lib.models.subscale import context_mask, generation_order
from tests.awkward import without_shape_checks


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with style_context():
        yield
    plt.close("all")


def test_numbers_colors_and_frames_show_step_context_and_samples_of_the_same_step() -> None:
    order, mask, sample = generation_order(8, 4, 1), context_mask(8, 4, 1, s=2, i=2), (2, 2)
    ax = plot_subscale(order, mask, sample)
    ax.figure.canvas.draw()
    texts = {(round(text.get_position()[1]), round(text.get_position()[0])): text for text in ax.texts}
    assert {cell: int(text.get_text()) for cell, text in texts.items()} == {
        (s, i): int(order[s, i]) for s in range(4) for i in range(8)
    }
    bold = {cell for cell, text in texts.items() if text.get_weight() == "bold"}
    assert bold == {tuple(cell) for cell in mask.nonzero().tolist()} | {sample}

    def center(box: Rectangle) -> tuple[int, int]:
        return round(box.get_y() + box.get_height() / 2), round(box.get_x() + box.get_width() / 2)

    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    frames = {center(box) for box in boxes if not box.get_fill()}
    assert frames == {tuple(cell) for cell in (order == order[sample]).nonzero().tolist()}
    filled = {center(box): to_hex(box.get_facecolor()) for box in boxes if box.get_fill()}
    assert filled[sample] == COLORS["vermillion"].lower()
    assert {cell for cell, color in filled.items() if color not in ("#ffffff", filled[sample])} == (
        bold - {sample}
    )


@pytest.mark.parametrize("sample", [(4, 0), (0, 8), (-1, 0)])
def test_a_sample_out_of_range_and_a_mask_of_another_shape_are_named(sample: tuple[int, int]) -> None:
    with without_shape_checks():
        with pytest.raises(ValueError, match=r"sample must be \(s, i\) with s below 4 and i below 8"):
            plot_subscale(generation_order(8, 4, 1), torch.zeros(4, 8, dtype=torch.bool), sample)
        with pytest.raises(ValueError, match="context_mask must have the shape of generation_order"):
            plot_subscale(generation_order(8, 4, 1), torch.zeros(4, 7, dtype=torch.bool), (0, 0))
