"""How the heads of a layer attend, all of them in one compiled program, one document at a time."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnreg.data.models.blocks import LayerTrace, block
from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Layer
from attnreg.lift.tensor_trick import einsum

STATISTICS = ("entropy", "of_uniform", "sharpness", "token_0", "at_zero")


class Sums(NamedTuple):
    """Sums over rows (h,), and what they are divided by (); a row counts if it may attend two keys or more.

    entropy: `−Σ p log p` of each row, in nats; of_uniform: over the logarithm of its number of keys. rows: how many.
    square: of row-centred logits. entries: how many. token_0: mass on the first key. apart: `‖map − uniform‖²`.
    size: `‖map‖²`.
    """

    entropy: Array
    of_uniform: Array
    rows: Array
    square: Array
    entries: Array
    token_0: Array
    apart: Array
    size: Array


class Passed(NamedTuple):
    """A layer on documents: what it leaves (k, n, d), the sums of each head over all of them, inputs and maps."""

    hidden: Array
    sums: Sums
    inputs: Array | None
    maps: Array | None


@partial(jax.jit, static_argnames=("config", "keep"))
def layer_pass(config: ModelConfig, layer: Layer, hidden: Array, *, keep: bool) -> Passed:
    """One layer on hidden states (k, n, d); with `keep`, also what its projections read and its maps (k, h, n, n).

    Compiled once for all layers of a model, as they are alike.
    """
    n = hidden.shape[1]
    allowed = np.tri(n, dtype=bool) if config.causal else np.ones((n, n), bool)

    def one(document: Array) -> tuple[Any, ...]:
        after, trace = block(config, layer, document, jnp.asarray(allowed))
        kept = (trace.inputs, trace.maps) if keep else (None, None)
        return after, sums_of(config, trace, allowed), *kept

    after, sums, inputs, maps = jax.lax.map(one, hidden)
    return Passed(after, jax.tree.map(lambda x: jnp.sum(x, axis=0), sums), inputs, maps)


def sums_of(config: ModelConfig, trace: LayerTrace, allowed: np.ndarray) -> Sums:
    """The sums of every head on one document."""
    dtype, p = trace.maps.dtype, trace.maps
    keys = jnp.repeat(trace.k_rotated, config.shared, axis=0)
    logits = einsum("hic,hjc->hij", trace.q_rotated, keys) * config.scale
    counts = allowed.sum(axis=1)
    live = allowed & (counts >= 2)[:, None]
    seen, many = jnp.asarray(live)[None], jnp.asarray(counts, dtype)[None, :, None]
    mean = jnp.sum(jnp.where(seen, logits, 0), axis=2, keepdims=True) / many
    # A row of one key has entropy 0 without a condition.
    row = -jnp.sum(jax.scipy.special.xlogy(p, p), axis=2)
    uniform = jnp.asarray(allowed / counts[:, None], dtype)[None]
    longest = jnp.asarray(np.log(np.maximum(counts, 2)), dtype)[None]
    return Sums(
        entropy=jnp.sum(row, axis=1),
        of_uniform=jnp.sum(row / longest, axis=1),
        rows=jnp.asarray(np.sum(counts >= 2), dtype),
        square=jnp.sum(jnp.where(seen, logits - mean, 0) ** 2, axis=(1, 2)),
        entries=jnp.asarray(live.sum(), dtype),
        token_0=jnp.sum(p[:, counts >= 2, 0], axis=1),
        apart=jnp.sum((p - uniform) ** 2, axis=(1, 2)),
        size=jnp.sum(p**2, axis=(1, 2)),
    )


def table_of(sums: Sums) -> np.ndarray:
    """The statistics of every head, (h, 5), in the order of `STATISTICS`."""
    s = {name: np.asarray(x, np.float64) for name, x in sums._asdict().items()}
    each_row = [s[name] / s["rows"] for name in ("entropy", "of_uniform", "token_0")]
    sharpness, zero = np.sqrt(s["square"] / s["entries"]), s["apart"] / s["size"]
    return np.stack([*each_row[:2], sharpness, each_row[2], zero], axis=1)
