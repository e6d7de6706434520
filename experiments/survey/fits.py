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
from attnreg.problems.checks import ProblemError, check_integer, replaced
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

    def starts(self, texts: Texts, products: int, batch: int = 0) -> np.ndarray:
        """Held-out losses (h,) of the closed-form start of every head; rotary heads have none.

        `batch` heads go through one compiled program together, a divisor of how many there are; 0 is all.

        Cost: `products` products with a full X of each head.
        """
        A, held = jnp.asarray(texts.A), jnp.asarray(texts.A_heldout)
        reads = LayerRegression(A, A, causal=self.causal)
        coordinates = whitened(reads)[0]
        white = coordinates.problem(reads).A
        seen = coordinates.problem(LayerRegression(held, held)).A
        maps, unseen = (jnp.swapaxes(jnp.asarray(part), 0, 1) for part in (texts.maps, texts.maps_heldout))
        train = AttentionRegression(white, white, maps[0], causal=self.causal)
        heldout = AttentionRegression(seen, seen, unseen[0], causal=self.causal)
        size = batch or len(maps)
        check_integer("fit.batch", batch, at_least=0, at_most=len(maps))
        if len(maps) % size:
            raise ProblemError(f"fit.batch is {batch}; it must divide the {len(maps)} heads of a layer")
        some = [slice(first, first + size) for first in range(0, len(maps), size)]
        found = [_starts(train, heldout, maps[part], unseen[part], self.rank, products) for part in some]
        return np.concatenate([np.asarray(losses) for losses in found])

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
