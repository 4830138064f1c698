"""`python -m experiments.threads`."""

import sys

from experiments.threads.cli import main

if __name__ == "__main__":
    sys.exit(main())
