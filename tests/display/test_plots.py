"""Figures: the style, and the features that the chapters refer to."""

from collections.abc import Iterator

import matplotlib as mpl
import pytest
import torch
from hypothesis import given, settings
from matplotlib import pyplot as plt
from matplotlib.patches import Circle

from sashimi_lib.display import plots
from tests.awkward import bad_waveforms, good_waveforms, without_shape_checks


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with plots.style_context():
        yield
    plt.close("all")


def test_the_style_is_set_by_one_call_or_inside_a_context() -> None:
    mpl.rcdefaults()
    with plots.style_context():
        assert mpl.rcParams["font.size"] == plots.STYLE["font.size"]
    assert mpl.rcParams["font.size"] != plots.STYLE["font.size"]
    plots.use_style()
    assert mpl.rcParams["figure.facecolor"] == "white"
    mpl.rcdefaults()


@settings(max_examples=12)
@given(good_waveforms(max_length=6000))
def test_any_clip_is_plotted_to_its_full_length(x: torch.Tensor) -> None:
    for plot in (plots.plot_waveform, plots.plot_spectrogram):
        ax = plot(x, 8000)
        assert ax.get_xlim() == pytest.approx((0, len(x) / 8000))
        ax.figure.canvas.draw()
        plt.close("all")


@given(bad_waveforms())
def test_invalid_clips_are_named(case: tuple[torch.Tensor, str]) -> None:
    with without_shape_checks():
        for plot in (plots.plot_waveform, plots.plot_spectrogram):
            with pytest.raises(ValueError, match="waveform must"):
                plot(case[0], 8000)


def test_two_channels_are_refused() -> None:
    with without_shape_checks():
        for plot in (plots.plot_waveform, plots.plot_spectrogram):
            with pytest.raises(ValueError, match=r"shape \(L,\)"):
                plot(torch.zeros(2, 100), 8000)


def test_a_long_waveform_keeps_its_peaks() -> None:
    x = torch.zeros(100_000)
    x[54_321] = 0.9
    _, high = plots.plot_waveform(x, 16000).collections[0].get_datalim(plt.gca().transData).intervaly
    assert high == pytest.approx(0.9)


def test_unstable_eigenvalues_are_crosses_right_of_the_axis_or_outside_the_circle() -> None:
    z = torch.tensor([-1 + 1j, 0.5 + 2j])
    stable, unstable = plots.plot_eigenvalues(z).lines[-2:]
    assert stable.get_xdata().tolist() == [-1]
    assert unstable.get_xdata().tolist() == [0.5]
    ax = plots.plot_eigenvalues(z, discrete=True)
    assert len(ax.lines[-1].get_xdata()) == 2
    assert any(isinstance(patch, Circle) for patch in ax.patches)


@pytest.mark.parametrize("bad", [torch.tensor([float("nan")]), torch.zeros(0)])
def test_invalid_eigenvalues_and_kernels_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="eigenvalues must be finite"):
        plots.plot_eigenvalues(bad)
    with pytest.raises(ValueError, match="kernel must be finite"):
        plots.plot_kernel(bad)


def test_a_kernel_has_one_line_per_channel() -> None:
    ax = plots.plot_kernel(torch.rand(3, 50), seconds_per_step=0.1)
    assert len(ax.lines) == 3
    assert ax.get_xlim()[1] == pytest.approx(4.9)
