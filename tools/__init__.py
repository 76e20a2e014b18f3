"""Tools of the project, run from its root: ``python -m tools.gpu --help``."""
