"""`python -m fwd2bot`."""

import sys

from fwd2bot.cli import main

if __name__ == "__main__":
    sys.exit(main())
