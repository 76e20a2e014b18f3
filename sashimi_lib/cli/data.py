"""``sashimi data``: list and fetch corpora."""

from sashimi_lib.cli.arguments import FetchCommand, ListCommand
from sashimi_lib.data.corpora import CORPORA


def show(command: ListCommand) -> int:
    """Print the list."""
    for corpus in CORPORA.values():
        size = "" if corpus.archive is None else f" ({corpus.archive.size})"
        print(f"{corpus.name}{size}: {corpus.description}", f"license: {corpus.license}", sep="\n    ")
        if corpus.homepage:
            print(f"    {corpus.homepage}")
    return 0


def fetch(command: FetchCommand) -> int:
    """Fetch a corpus. Raises ValueError for an unknown name, and as `Corpus.fetch` does."""
    if command.name not in CORPORA:
        raise ValueError(f"NAME must be one of {', '.join(CORPORA)}, got {command.name!r}")
    home = CORPORA[command.name].fetch(command.to)
    print(f"{command.name} is in {home}; train on it with --data {command.to}")
    return 0
