"""Run the command ``sashimi`` as ``python -m sashimi_lib``."""

import sys

from sashimi_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
