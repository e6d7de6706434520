"""Look at a language model: its perplexity on a text, how it goes on, and how much attention its first token takes.

    python -m attnreg.data.tools.look smollm2 [--text FILE] [--tokens 256] [--prompt TEXT] [--continue 8]

MODEL is a name or a folder, as for `attnreg.data.models.load_model`. The text is 256 tokens of a story that ships with
the package. Perplexity is that of the tokens after the first, each from all before it.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from attnreg.data.cache import ModelDamagedError, ModelMissingError
from attnreg.data.models import Model, continued, load_model, load_tokenizer, perplexity, trace_layers
from attnreg.problems.checks import ProblemError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m attnreg.data.tools.look", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("model", help="a name, a folder or a .gguf file")
    parser.add_argument("--text", type=Path, default=None, help="a file of text (default: the story that ships)")
    parser.add_argument("--tokens", type=int, default=256, help="how many tokens of the text are read")
    parser.add_argument("--prompt", default="The capital of France is", help="what the model is to go on from")
    parser.add_argument("--continue", dest="count", type=int, default=8, help="for how many tokens")
    options = parser.parse_args(argv)
    try:
        model, tokenizer = load_model(options.model), load_tokenizer(options.model)
        ids = tokenizer.encode(story() if options.text is None else options.text.read_text(encoding="utf-8"))
        ids = ids[: options.tokens]
        print(f"perplexity on {len(ids)} tokens: {perplexity(model, ids):.2f}")
        after = continued(model, tokenizer.encode(options.prompt), options.count)
        print(f"{options.prompt!r} goes on {tokenizer.decode(after)!r}")
        mass = sink(model, ids)
    except (ProblemError, ModelMissingError, ModelDamagedError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("layer: mean attention on token 0 of the tokens after it, over all heads, and of the head with most")
    for layer, each in enumerate(mass):
        print(f"{layer:>5}: {each.mean():.3f} {each.max():.3f}")
    return 0


def story() -> str:
    """The text that ships with the package."""
    return resources.files("attnreg.data").joinpath("embedded/prose.txt").read_text(encoding="utf-8")


def sink(model: Model, ids: np.ndarray) -> np.ndarray:
    """How much attention token 0 takes, in the mean over the queries of ids (n,) after it: (layers, heads).

    Cost: one forward pass, the memory of one layer's maps.
    """
    return np.stack([np.asarray(trace.maps)[:, 1:, 0].mean(axis=1) for trace in trace_layers(model, jnp.asarray(ids))])


if __name__ == "__main__":
    sys.exit(main())
