"""What the inputs of a fit determine, by counting."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.fit.coordinates import tokens_that_count
from attnreg.objectives.layer import LayerObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.layer import LayerRegression
from attnreg.problems.rotary import Rotary


class Determined(NamedTuple):
    """What the inputs determine, by counting: unknowns, the rank of the inputs, and directions that change no output.

    free: per head of keys, r² for (QG, KG⁻ᵀ); s² for (VG, G⁻¹O); the unknowns outside the span of the inputs; and where
    some w has A w = 1, r for K + w cᵀ, which softmax ignores, and the constant outputs that one head can hand to
    another. With rotary positions G must commute with the turns: a complex number for each pair of columns, two
    directions, and any matrix on the columns that stay; and K + w cᵀ is free on those only, with a soft cap nowhere.
    equations: numbers written on the queries that count; uniqueness needs at least `unknowns - free` of them.
    """

    unknowns: int
    input_rank: int
    free: int
    equations: int

    def describe(self) -> str:
        """One line.

        >>> Determined(36864, 384, 1056, 819200).describe()
        '35808 of 36864 unknowns determined by 819200 numbers; inputs of rank 384'
        """
        known = self.unknowns - self.free
        return (
            f"{known} of {self.unknowns} unknowns determined by {self.equations} numbers; "
            f"inputs of rank {self.input_rank}"
        )


def gauge(rotary: Rotary | None, rank: int) -> tuple[int, int]:
    """Dimension of the r×r matrices that commute with all turns, and how many columns never turn.

    >>> gauge(None, 8), gauge(Rotary(8), 8), gauge(Rotary(4), 8)
    ((64, 8), (8, 0), (20, 4))
    """
    if rotary is None:
        return rank**2, rank
    sizes, pairs = np.unique(np.abs(rotary.turns()), return_counts=True)
    still = rank - rotary.width + 2 * int(pairs[sizes == 0].sum())
    # Pairs of one frequency mix by a complex matrix: twice its entries.
    return still**2 + 2 * int(np.sum(pairs[sizes > 0] ** 2)), still


def determined(objective: LayerObjective, input_rank: int, rotary: Rotary | None = None) -> Determined:
    """`Determined` of an objective whose inputs have this rank; `rotary` is what its problem was made with."""
    _, _, d, c = objective.problem.sizes
    h, g, r, s = objective.heads, objective.key_heads or objective.heads, objective.rank, objective.value_rank
    queries = tokens_that_count(objective.problem)[1]
    values, width = (h, c) if s is None else (g, s)
    mixed, still = gauge(rotary, r)
    constant = _reads_a_constant(objective.problem)
    ignored = still if constant and objective.problem.soft_cap is None else 0
    per_key_head = mixed + (0 if s is None else s * s) + ignored
    outside = (d - input_rank) * ((h + g) * r + values * width)
    handed = max(values * width - c, 0) if constant else 0
    unknowns = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(objective.zeros)))
    return Determined(unknowns, input_rank, g * per_key_head + outside + handed, int(queries.sum()) * c)


def determined_maps(
    problem: AttentionRegression, rank: int, input_rank: int, rotary: Rotary | None = None
) -> Determined:
    """`Determined` of queries and keys seen through their maps; `rotary` is what the problem was made with."""
    k, n, m, d, _ = problem.sizes
    reads = LayerRegression(problem.A1, problem.A1, problem.mask, problem.causal)
    mixed, still = gauge(rotary, rank)
    ignored = still if problem.soft_cap is None and _reads_a_constant(reads) else 0
    free = mixed + ignored + 2 * (d - input_rank) * rank
    # A row of p numbers that sum to 1; query i of a causal map sees i + 1 keys.
    each_document = sum(min(i, m - 1) for i in range(n)) if problem.causal else n * (m - 1)
    return Determined(2 * d * rank, input_rank, free, k * each_document)


def _reads_a_constant(problem: LayerRegression) -> bool:
    """Whether some w has A w = 1 on every token: adding it to the keys changes no map."""
    A = np.asarray(problem.A, np.float64)[tokens_that_count(problem)[0]]
    w = np.linalg.lstsq(A, np.ones(A.shape[0]), rcond=None)[0]
    return bool(np.max(np.abs(A @ w - 1)) <= 1e4 * float(jnp.finfo(problem.dtype).eps))
