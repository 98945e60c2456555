"""``python -m sdar_pl``."""

import sys

from sdar_pl.cli import main

if __name__ == "__main__":
    sys.exit(main())
