"""The model of a survey and its texts: one of yours, or a random one."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from attnreg.data.models import Model, load_model, load_tokenizer
from attnreg.data.models.random import random_model
from attnreg.data.models.windows import text_windows
from attnreg.problems.checks import ProblemError, check_integer


def load(config: Any) -> tuple[Model, np.ndarray]:
    """The model that `config.data` names, and its documents (k, n): training ones, then held-out ones."""
    data = config.data
    counts = (data.documents, data.heldout_documents)
    for name in ("documents", "heldout_documents", "tokens"):
        check_integer(f"data.{name}", data[name], at_least=1)
    dtype = jnp.dtype(config.precision)
    if data.model == "random":
        ids = np.random.default_rng(config.seed).integers(0, data.random.vocabulary, (sum(counts), data.tokens))
        return random_model("decoder", config.seed, **data.random, dtype=dtype), ids.astype(np.int32)
    if not data.model:
        raise ProblemError("data.model is empty; name a model ('minilm', 'smollm2', 'random') or a folder")
    model = load_model(data.model, dtype=dtype)
    return model, np.concatenate(text_windows(load_tokenizer(data.model), counts, data.tokens, text=data.text))
