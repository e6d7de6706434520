"""`python -m experiments.report RUN_OR_SWEEP…`."""

import sys

from experiments.report import main

if __name__ == "__main__":
    sys.exit(main())
