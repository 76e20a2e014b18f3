"""Sliders that work on a static page: every state is drawn ahead of time, the browser picks one.

No kernel is needed (ipywidgets 8: the slider is linked to a Stack on the client). With ipywidgets 7, which
has no Stack (Colab), the same call falls back on the live kernel. A page is a string of HTML, so it may hold
a figure, a player, or both.
"""

from collections.abc import Sequence

import ipywidgets as W
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sashimi_lib.display.players import image_html


def figure_html(figure: Figure, alt: str) -> str:
    """A matplotlib figure as HTML for one page of a `stepper`; closes it, so that it is not shown twice.

    ``alt`` says in words what it shows. Raises ValueError when that is missing.

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
    """A slider that shows one of ``pages`` (HTML strings), its position named by ``labels``.

    ``start`` is the page seen first: choose the one that tells the story untouched. ``play`` adds a play
    button. Raises ValueError for no pages, another number of labels, equal labels, or a ``start`` that does
    not exist.

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
    """Two sliders for a table of ``pages``: the first picks the row, the second the column.

    Raises ValueError for an uneven table or labels that do not fit it.

    >>> box = grid_stepper([["a", "b"], ["c", "d"]], ["1", "2"], ["x", "y"], ("row", "column"))
    >>> len(box.children)
    3

    Chapter: all.
    """
    _check(len(pages), row_labels, start[0], "pages")
    for number, row in enumerate(pages):
        _check(len(row), column_labels, start[1], f"pages[{number}]")
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
        raise ValueError(f"labels must be one a page: {name} has {count}, got {len(labels)} labels")
    if len(set(labels)) != count:
        raise ValueError(f"labels must differ from each other, got {list(labels)}")
    if not 0 <= start < count:
        raise ValueError(f"start must be a page from 0 to {count - 1}, got {start}")


def _slider(labels: Sequence[str], description: str, start: int) -> W.SelectionSlider:
    return W.SelectionSlider(
        options=[(label, number) for number, label in enumerate(labels)],
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
    """One page, as wide as the text around it, so that cards on it stand side by side where there is room."""
    return W.HTML(html, layout=W.Layout(width="100%"))


def _view(children: list[W.Widget], control: W.SelectionSlider, pages: list[str]) -> W.Widget:
    if hasattr(W, "Stack"):
        view = W.Stack(children, selected_index=control.index, layout=W.Layout(width="100%"))
        W.jslink((control, "index"), (view, "selected_index"))
        return view
    view = _page(pages[control.index])
    control.observe(lambda change: setattr(view, "value", pages[change["new"]]), "index")
    return view
