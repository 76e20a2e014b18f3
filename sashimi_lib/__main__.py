"""``python -m sashimi_lib``: the command ``sashimi``."""

import sys

from sashimi_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
