"""Sliders: linked on the client, with a fallback for ipywidgets 7, and errors for invalid input."""

import ipywidgets
import pytest
from matplotlib import pyplot as plt

from sashimi_lib.display.interactive import figure_html, grid_stepper, stepper


def test_a_stepper_starts_at_the_given_page() -> None:
    box = stepper(["a", "b", "c"], ["1", "2", "3"], "bits", start=2)
    control, view = box.children[0].children[0], box.children[1]
    assert (control.index, view.selected_index) == (2, 2)
    assert [page.value for page in view.children] == ["a", "b", "c"]


def test_the_play_button_is_optional() -> None:
    box = stepper(["a", "b"], ["1", "2"], play=True)
    assert isinstance(box.children[0].children[0], ipywidgets.Play)


def test_without_stack_the_live_kernel_updates_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ipywidgets, "Stack")
    box = stepper(["a", "b"], ["1", "2"])
    box.children[0].children[0].index = 1
    assert box.children[1].value == "b"
    grid = grid_stepper([["a", "b"], ["c", "d"]], ["1", "2"], ["x", "y"])
    grid.children[0].index, grid.children[1].index = 1, 1
    assert grid.children[2].value == "d"


def test_a_grid_contains_every_page() -> None:
    grid = grid_stepper([["a", "b"], ["c", "d"]], ["1", "2"], ["x", "y"], start=(1, 0))
    rows = grid.children[2]
    assert rows.selected_index == 1
    assert [[page.value for page in row.children] for row in rows.children] == [["a", "b"], ["c", "d"]]


def test_a_figure_is_converted_to_html_and_closed() -> None:
    figure = plt.figure()
    html = figure_html(figure, "nothing")
    assert html.startswith('<img alt="nothing" src="data:image/webp;base64,')
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize(
    ("pages", "labels", "start", "message"),
    [
        ([], [], 0, "at least one page"),
        (["a"], ["1", "2"], 0, "labels must be one per page"),
        (["a", "b"], ["1", "1"], 0, "labels must be unique"),
        (["a", "b"], ["1", "2"], 2, "start must be a page"),
    ],
)
def test_invalid_arguments_of_a_stepper_are_refused(
    pages: list[str], labels: list[str], start: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stepper(pages, labels, start=start)


def test_grids_of_uneven_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pages\[1\] has 1"):
        grid_stepper([["a", "b"], ["c"]], ["1", "2"], ["x", "y"])
