"""Sliders that work on a static page: all states are rendered in advance, and the browser shows one.

No kernel is needed with ipywidgets 8, where the slider is linked to a Stack on the client. ipywidgets 7
(Colab) has no Stack; there the same call uses the live kernel. A page is an HTML string, for example a
figure, an audio player, or both.
"""

from collections.abc import Sequence

import ipywidgets as W
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sashimi_lib.display.players import image_html


def figure_html(figure: Figure, alt: str) -> str:
    """Convert a matplotlib figure to HTML for a page of a `stepper`, and close it.

    ``alt`` is the text alternative of the figure. Raises ValueError if it is empty.

    >>> figure_html(plt.figure(figsize=(1, 1)), "nothing")[:18]
    '<img alt="nothing"'

    Chapter: all.
    """
    text = image_html(figure, alt, style="max-width:100%;height:auto")
    plt.close(figure)
    return text


def stepper(
    pages: Sequence[str], labels: Sequence[str], description: str = "", play: bool = False, start: int = 0
) -> W.VBox:
    """Create a slider that selects one of ``pages`` (HTML strings); ``labels`` are its positions.

    ``start`` is the index of the page shown first. ``play`` adds a play button. Raises ValueError for no
    pages, a different number of labels, duplicate labels, or a ``start`` out of range.

    >>> box = stepper(["<p>one</p>", "<p>two</p>"], ["1", "2"], "step", start=1)
    >>> box.children[0].children[0].index
    1

    Chapter: all.
    """
    _check(len(pages), labels, start, "pages")
    control = _slider(labels, description, start)
    view = _view([_page(page) for page in pages], control, list(pages))
    return W.VBox([_controls(control, len(pages), start, play), view])


def grid_stepper(
    pages: Sequence[Sequence[str]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    descriptions: tuple[str, str] = ("", ""),
    start: tuple[int, int] = (0, 0),
) -> W.VBox:
    """Create two sliders for a table of ``pages``: the first selects the row, the second the column.

    Raises ValueError for rows of different lengths, and as `stepper` does.

    >>> box = grid_stepper([["a", "b"], ["c", "d"]], ["1", "2"], ["x", "y"], ("row", "column"))
    >>> len(box.children)
    3

    Chapter: all.
    """
    _check(len(pages), row_labels, start[0], "pages")
    for index, row in enumerate(pages):
        _check(len(row), column_labels, start[1], f"pages[{index}]")
    row_control = _slider(row_labels, descriptions[0], start[0])
    column_control = _slider(column_labels, descriptions[1], start[1])
    if hasattr(W, "Stack"):
        rows = [_view([_page(page) for page in row], column_control, list(row)) for row in pages]
        view: W.Widget = _view(rows, row_control, [])
    else:
        view = _page(pages[start[0]][start[1]])

        def show(_: object) -> None:
            view.value = pages[row_control.index][column_control.index]

        row_control.observe(show, "index")
        column_control.observe(show, "index")
    return W.VBox([row_control, column_control, view])


def _check(count: int, labels: Sequence[str], start: int, name: str) -> None:
    if count == 0:
        raise ValueError(f"{name} must hold at least one page, got none")
    if len(labels) != count:
        raise ValueError(f"labels must be one per page: {name} has {count}, got {len(labels)} labels")
    if len(set(labels)) != count:
        raise ValueError(f"labels must be unique, got {list(labels)}")
    if not 0 <= start < count:
        raise ValueError(f"start must be a page index from 0 to {count - 1}, got {start}")


def _slider(labels: Sequence[str], description: str, start: int) -> W.SelectionSlider:
    return W.SelectionSlider(
        options=[(label, index) for index, label in enumerate(labels)],
        index=start,
        description=description,
        style={"description_width": "initial"},
        layout=W.Layout(width="28rem", max_width="100%"),
    )


def _controls(control: W.SelectionSlider, count: int, start: int, play: bool) -> W.HBox:
    row: list[W.Widget] = [control]
    if play:
        player = W.Play(min=0, max=count - 1, value=start, interval=800)
        W.jslink((player, "value"), (control, "index"))
        row.insert(0, player)
    return W.HBox(row, layout=W.Layout(flex_flow="row wrap", max_width="100%"))


def _page(html: str) -> W.HTML:
    """Create a page as wide as the text, so that cards are side by side if there is room."""
    return W.HTML(html, layout=W.Layout(width="100%"))


def _view(children: list[W.Widget], control: W.SelectionSlider, pages: list[str]) -> W.Widget:
    if hasattr(W, "Stack"):
        view = W.Stack(children, selected_index=control.index, layout=W.Layout(width="100%"))
        W.jslink((control, "index"), (view, "selected_index"))
        return view
    view = _page(pages[control.index])
    control.observe(lambda change: setattr(view, "value", pages[change["new"]]), "index")
    return view
