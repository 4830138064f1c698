"""`python -m experiments.sizes`."""

import sys

from experiments.sizes.cli import main

if __name__ == "__main__":
    sys.exit(main())
