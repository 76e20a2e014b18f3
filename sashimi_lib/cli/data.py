"""``sashimi data``: the corpora, listed and fetched."""

from sashimi_lib.cli.arguments import FetchCommand
from sashimi_lib.data.corpora import CORPORA


def show() -> None:
    """Print what there is."""
    for corpus in CORPORA.values():
        size = "" if corpus.archive is None else f" ({corpus.archive.size})"
        print(f"{corpus.name}{size}: {corpus.description}", f"license: {corpus.license}", sep="\n    ")
        if corpus.homepage:
            print(f"    {corpus.homepage}")


def fetch(command: FetchCommand) -> None:
    """Fetch a corpus, and say what to do with it. Raises ValueError for a name that is none of them."""
    if command.name not in CORPORA:
        raise ValueError(f"NAME must be one of {', '.join(CORPORA)}, got {command.name!r}")
    home = CORPORA[command.name].fetch(command.to)
    print(f"{command.name} is in {home}; train on it with --data {command.to}")
