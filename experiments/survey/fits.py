"""The heads of a layer fitted from their maps: the start of all of them in one batch, the steps one head at a time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnreg.fit import fit_attention
from attnreg.fit.coordinates import whitened
from attnreg.fit.determined import determined_maps
from attnreg.fit.from_maps import logarithm_start
from attnreg.objectives.factored import FactoredObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import replaced
from attnreg.problems.layer import LayerRegression
from attnreg.problems.rotary import Rotary

FITS = ("heldout", "train", "seconds")


class Texts(NamedTuple):
    """What the heads of a layer read, (k, n, d), and their maps (k, h, n, n): training and held-out documents."""

    A: np.ndarray
    maps: np.ndarray
    A_heldout: np.ndarray
    maps_heldout: np.ndarray


class Heads(NamedTuple):
    """What the heads of a model have in common."""

    rank: int
    causal: bool
    rotary: Rotary | None

    def known(self, texts: Texts) -> tuple[int, int]:
        """Unknowns of one head, and how many of them the training documents determine."""
        A, maps = jnp.asarray(texts.A), jnp.asarray(texts.maps[:, 0])
        problem = AttentionRegression(A, A, maps, causal=self.causal, rotary=self.rotary)
        found = determined_maps(problem, self.rank, whitened(LayerRegression(A, A, causal=self.causal))[1], self.rotary)
        return found.unknowns, found.unknowns - found.free

    def starts(self, texts: Texts, products: int) -> np.ndarray:
        """Held-out losses (h,) of the closed-form start of every head; rotary heads have none.

        Cost: one compiled program for all heads, `products` products with a full X of each.
        """
        A, held = jnp.asarray(texts.A), jnp.asarray(texts.A_heldout)
        reads = LayerRegression(A, A, causal=self.causal)
        coordinates = whitened(reads)[0]
        white = coordinates.problem(reads).A
        seen = coordinates.problem(LayerRegression(held, held)).A
        maps, unseen = (jnp.swapaxes(jnp.asarray(part), 0, 1) for part in (texts.maps, texts.maps_heldout))
        train = AttentionRegression(white, white, maps[0], causal=self.causal)
        heldout = AttentionRegression(seen, seen, unseen[0], causal=self.causal)
        return np.asarray(_starts(train, heldout, maps, unseen, self.rank, products))

    def fit(self, texts: Texts, head: int, *, tol: float, seconds: float) -> tuple[float, float, float]:
        """Held-out loss, training loss and seconds of one head."""
        found = fit_attention(
            texts.A, texts.maps[:, head], rank=self.rank, causal=self.causal, rotary=self.rotary,
            heldout=(texts.A_heldout, texts.maps_heldout[:, head]), tol=tol, seconds=seconds,
        )  # fmt: skip
        return found.heldout, found.train, found.seconds


@jax.jit(static_argnums=(4, 5))
def _starts(
    train: AttentionRegression, heldout: AttentionRegression, maps: Array, unseen: Array, rank: int, products: int
) -> Array:
    def one(B: Array, B_heldout: Array) -> Any:
        x = logarithm_start(FactoredObjective(replaced(train, B=B), rank), products)
        return FactoredObjective(replaced(heldout, B=B_heldout), rank).value(x) / jnp.sum(B_heldout**2)

    return jax.vmap(one)(maps, unseen)
