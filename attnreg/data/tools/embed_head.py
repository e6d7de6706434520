"""Make the shipped attention head anew from the fetched model.

    python -m attnreg.data.tools.embed_head OUTPUT.npz

Computes in float64 and keeps half precision, so another machine can differ only where an entry lies within
1e-12 of the middle between two half-precision numbers, and then by one unit in its last place.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from attnreg.data.minilm.cache import ModelDamagedError, ModelMissingError
from attnreg.data.minilm.embedded import recompute_embedded_head, save_head


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m attnreg.data.tools.embed_head", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("output", type=Path, help="the .npz file to write")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    try:
        instance = recompute_embedded_head()
    except (ModelMissingError, ModelDamagedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    save_head(options.output, instance)
    print(f"{instance.name}: {options.output.stat().st_size} bytes in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
