"""The Hessian of arXiv 2309.07418's regularizer, sketched: the H̃ of its Algorithm 1 as published."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnreg.lift.sketches import TensorSparse, TensorSRHT, kronecker_gram, sketched_gram
from attnreg.objectives.one_layer import OneLayerObjective, value_curvature
from attnreg.objectives.one_layer_hessian import Parts
from attnreg.problems.checks import ProblemError, check_choice, check_integer
from attnreg.problems.one_layer import OneLayerRegression, Unknowns


@dataclasses.dataclass(frozen=True)
class RegularizerHessian:
    """A sampler for `SketchedNewton`: the sketched Gram matrix of `(W A1) ⊗ A2` for X, and that of `W A3` for Y.

    `SketchedNewton(RegularizerHessian("srht"), rows, safeguard=False)` is Algorithm 1 of arXiv 2309.07418. The rest of
    the Hessian is left out, which is right only where the regularizer outweighs it.

    Args:
        kind: "srht" (`TensorSRHT`), "sparse" (`TensorSparse`), or "exact": the Gram matrix is a Kronecker product.
        blocks: s of TensorSparse; `samples` must be a multiple of it.

    Precision: against the dense sketch and the dense Gram matrix (tests/objectives/test_regularizer.py).
    Cost: "exact" `2·n·d²` a factor; else that of the sketch and `2·samples·(d1·d2)²`. No pass over n·m pairs. The Y
    block is exact: its Gram matrix is cheaper than a sketch of it.
    Raises: ProblemError for a problem whose regularizer has no such Hessian, or options that are none.
    Source: arXiv 2309.07418, Algorithm 1, Definition A.14 and Lemma J.6; docs/theory/greedy_newton.md.
    """

    kind: str = "exact"
    blocks: int = 1

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("srht", "sparse", "exact"))
        check_integer("blocks", self.blocks, at_least=1)

    def __call__(self, key: jax.Array, objective: Any, params: Unknowns, *, samples: int) -> jax.Array:
        """H̃ over `ravel_pytree(params)`; params are not read, as the regularizer is quadratic."""
        if not isinstance(objective, OneLayerObjective):
            raise ProblemError(f"RegularizerHessian takes a OneLayerObjective, not a {type(objective).__name__}")
        problem = objective.problem
        A1, A2 = weighted_factors(problem)
        (d1, d2), (d3, c) = problem.shapes
        keys = jax.random.split(key, A1.shape[0])
        documents = (self._gram(*of, samples) for of in zip(keys, A1, A2, strict=True))
        xx = sum(documents, problem.ridge * jnp.eye(d1 * d2, dtype=problem.dtype))
        xy = jnp.zeros((d1 * d2, d3 * c), problem.dtype)
        return Parts(xx, xy, value_curvature(problem)).dense(c)

    def _gram(self, key: jax.Array, A1: jax.Array, A2: jax.Array, samples: int) -> jax.Array:
        """Of one document."""
        if self.kind == "exact":
            return kronecker_gram(A1, A2)
        options: dict[str, Any] = dict(rows=samples, dtype=A1.dtype)
        if self.kind == "sparse":
            return sketched_gram(
                TensorSparse.draw(key, A1.shape[0], A2.shape[0], blocks=self.blocks, **options), A1, A2
            )
        return sketched_gram(TensorSRHT.draw(key, A1.shape[0], A2.shape[0], **options), A1, A2)


def weighted_factors(problem: OneLayerRegression) -> tuple[jax.Array, jax.Array]:
    """A1 (k, n, d1) and A2 (k, m, d2), one of them times W, such that `W∘(A1 X A2ᵀ)` is the logits of the two.

    W weighs queries in Definition A.14 and keys in Lemma F.1; a weight for each pair has no such form.
    """
    weight = problem.weight
    if weight is None or problem.value_weight is None:
        missing = "weight" if weight is None else "value_weight"
        raise ProblemError(f"the problem has no {missing}; the published algorithm needs both regularizers of X and Y")
    if problem.mask is not None or problem.causal:
        raise ProblemError(
            "the problem has a mask; the regularizer then weighs allowed pairs and is no Kronecker product: "
            "use sampled_joint_hessian"
        )
    if weight.shape[1] > 1 and weight.shape[2] > 1:
        raise ProblemError(
            f"weight has shape {weight.shape}, one a pair; it must be one a query, (n, 1), or one a key, (1, m)"
        )
    if weight.shape[2] == 1:
        return weight * problem.A1, problem.A2
    return problem.A1, jnp.swapaxes(weight, 1, 2) * problem.A2
