"""Bounds entry by entry: how far any one entry moves, when no logit of its row moves by more than δ.

The operator-norm bounds of `attnreg.bounds.registry` limit sums of squares. These limit the largest entry, for one row
with `|s_i| ≤ M` and any moved logits with `|Δs_i| ≤ δ` in the same box: every constant is per unit of δ. In the data,
`|ΔS_ji| ≤ reach · max|ΔX_ab|` with `reach = max_j ‖a_j‖₁ · max_i ‖k_i‖₁`, and `M = reach · max|X_ab|`. Proofs:
docs/theory/bounds.md, section 3.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.bounds import constants
from attnreg.bounds.estimate import exp, times


class Elementwise(NamedTuple):
    """One quantity of a row: its constants, per unit of `max|Δs|`, as functions of n keys and the largest logit M."""

    name: str
    attained: str

    def norm_by_norm(self, n: int, M: float) -> float:
        """The published kind: `u ≤ e^M`, `α ≥ n e^{−M}` and the product rule, entry by entry; a scalar."""
        top = exp(M)
        alpha, inverse = times(n, top), times(top, 1.0 / n)
        f = times(inverse, top) + times(inverse, inverse, alpha, top)
        found = {"u": top, "alpha": alpha, "log_alpha": times(inverse, alpha)}
        found |= {"alpha_inverse": times(inverse, inverse, alpha), "f": f, "residual": f}
        return found[self.name]

    def sharp(self, n: int, M: float) -> float:
        """The constant proved here; a scalar."""
        top = exp(M)
        found = {"u": top, "alpha": times(n, top), "log_alpha": 1.0, "alpha_inverse": times(top, 1.0 / n)}
        found |= dict.fromkeys(("f", "residual"), largest_slope(n, M))
        return found[self.name]

    def value(self, s: jax.Array, b: jax.Array) -> jax.Array:
        """The quantity at logits s (n,) and targets b (n,): (n,), or a scalar."""
        total = jax.nn.logsumexp(s)
        found = {"u": jnp.exp(s), "alpha": jnp.exp(total), "log_alpha": total, "alpha_inverse": jnp.exp(-total)}
        found |= {"f": jax.nn.softmax(s), "residual": jax.nn.softmax(s) - b}
        return found[self.name]


def largest_slope(n: int, M: float) -> float:
    """`max 2 f_i (1 − f_i)` over |s| ≤ M, a scalar: ½ where f_i = ½ can be reached, else at the largest f_i.

    >>> largest_slope(2, 1.0), round(largest_slope(100, 0.0), 4)
    (0.5, 0.0198)
    """
    if n == 1:
        return 0.0
    peak = 1.0 / (1.0 + (n - 1) * exp(-2.0 * M))
    return constants.JACOBIAN if peak >= 0.5 else 2.0 * peak * (1.0 - peak)


def reach(A1: np.ndarray, A2: np.ndarray) -> float:
    """`max_j ‖a_j‖₁ · max_i ‖k_i‖₁`, a host float, for A1 (n, d1), A2 (m, d2): the move of a logit per unit of X."""
    rows = (float(np.abs(np.asarray(z, np.float64)).sum(axis=1).max()) for z in (A1, A2))
    return math.prod(rows)


ELEMENTWISE: Mapping[str, Elementwise] = {
    row.name: row
    for row in (
        Elementwise("u", "s_i = M"),
        Elementwise("alpha", "all logits at M"),
        Elementwise("log_alpha", "all logits move by the same"),
        Elementwise("alpha_inverse", "all logits at −M"),
        Elementwise("f", "f_i = ½, the others move against it"),
        Elementwise("residual", "as f"),
    )
}
