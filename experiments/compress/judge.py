"""How far compressed heads are from a model's own: map by map, output by output, and the model as a whole."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.data.models import Model, Projections, forward, text_losses
from attnreg.lift.tensor_trick import einsum
from experiments.compress.data import LayerTexts


class Errors(NamedTuple):
    """Squared errors relative to squared norms: of each head's maps (h,) and outputs (h,), of the layer's output."""

    maps: np.ndarray
    heads: np.ndarray
    layer: float


def layer_errors(model: Model, layer: int, texts: LayerTexts, projections: Projections) -> Errors:
    """The errors of one layer with all its heads replaced, on the hidden states of the model as it is."""
    config = model.config
    O = model.parameters.layers[layer].output.w.reshape(config.heads, config.head_width, -1)
    shared = np.repeat(projections.key, config.shared, axis=0)
    both = np.asarray(projections.query) @ shared.swapaxes(1, 2)
    away, size = _errors(config.causal, texts, O, jnp.asarray(both, jnp.float32))
    maps, heads, whole = (
        np.asarray(a, np.float64) / np.asarray(b, np.float64) for a, b in zip(away, size, strict=True)
    )
    return Errors(maps, heads, float(whole))


@partial(jax.jit, static_argnums=0)
def _errors(causal: bool, texts: LayerTexts, O: Any, both: Any) -> Any:
    n, g, h = texts.q.shape[2], texts.k.shape[1], texts.q.shape[1]
    allowed = jnp.asarray(np.tri(n, dtype=bool)) if causal else jnp.ones((n, n), bool)

    def sums(maps: Any, heads: Any) -> Any:
        return jnp.sum(maps**2, axis=(1, 2)), jnp.sum(heads**2, axis=(1, 2)), jnp.sum(jnp.sum(heads, axis=0) ** 2)

    def one(total: Any, text: LayerTexts) -> Any:
        q = einsum("hic,hce->hie", text.q, both).reshape(g, h // g, n, -1)
        logits = einsum("gsic,gjc->gsij", q, text.k).reshape(h, n, n)
        change = jax.nn.softmax(jnp.where(allowed[None], logits, -jnp.inf), axis=-1) - text.maps
        written = [_written(maps, text.v, O) for maps in (change, text.maps)]
        found = sums(change, written[0]), sums(text.maps, written[1])
        return jax.tree.map(jnp.add, total, found), None

    zero = (jnp.zeros(h), jnp.zeros(h), jnp.zeros(()))
    return jax.lax.scan(one, (zero, zero), texts)[0]


def _written(maps: Any, v: Any, O: Any) -> Any:
    """What each head adds to the layer's output, (h, n, d)."""
    grouped = maps.reshape(v.shape[0], -1, *maps.shape[1:])
    heads = einsum("gsij,gjc->gsic", grouped, v).reshape(maps.shape[0], maps.shape[1], -1)
    return einsum("hic,hcd->hid", heads, O)


class ModelJudge:
    """The whole model on texts (k, n), beside the model as it is."""

    def __init__(self, model: Model, ids: np.ndarray) -> None:
        self.ids, self.causal = ids, model.config.causal
        self.own = self._of(model)

    def numbers(self, compressed: Model) -> dict[str, float]:
        """Perplexity of a decoder; of an encoder the drift of the cosines between texts, and their rank correlation."""
        new = self._of(compressed)
        if self.causal:
            return {"perplexity": float(np.exp(np.mean(new))), "excess_nats": float(np.mean(new) - np.mean(self.own))}
        return {"drift": float(np.mean(np.abs(new - self.own))), "rank_correlation": rank_correlation(self.own, new)}

    def _of(self, model: Model) -> np.ndarray:
        """Losses of all next tokens, or cosines of all pairs of texts."""
        if self.causal:
            return np.concatenate([np.asarray(text_losses(model, text), np.float64) for text in self.ids])
        rows = np.stack([np.asarray(forward(model, jnp.asarray(text)).final, np.float64).mean(0) for text in self.ids])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows @ rows.T)[np.triu_indices(len(rows), 1)]


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's, (m,) against (m,); ties, which cosines of texts do not have, are broken by order."""
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (x, y)]
    return float(np.asarray(np.corrcoef(np.stack(ranks)))[0, 1])
