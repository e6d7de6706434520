"""Coordinates of a layer's inputs and outputs in which its weights are well scaled, and the way back."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.problems.arrays import placed
from attnreg.problems.checks import replaced
from attnreg.problems.layer import LayerRegression, LayerWeights

# Standard deviation of the outputs in these coordinates. Below that of the inputs, the values keep pace with the logits
# in the first phase, where all weights move at one speed.
OUTPUT_SIZE = 0.3


def tokens_that_count(problem: LayerRegression) -> tuple[np.ndarray, np.ndarray]:
    """(k, n) booleans: tokens that some query may attend or that attend one; queries that may attend some key."""
    k, n = problem.sizes[:2]
    if problem.mask is None:
        return np.ones((k, n), bool), np.ones((k, n), bool)
    mask = np.asarray(problem.mask)
    if problem.causal:
        mask = mask & np.tril(np.ones((n, n), bool))
    queries = np.broadcast_to(mask.any(axis=2), (k, n))
    return queries | np.broadcast_to(mask.any(axis=1), (k, n)), queries


def variation(problem: LayerRegression) -> float:
    """`‖B − column mean‖²` over the queries that count: the loss of the best constant output, the unit of losses."""
    rows = np.asarray(problem.B, np.float64)[tokens_that_count(problem)[1]]
    return float(np.sum((rows - rows.mean(axis=0)) ** 2)) if rows.size else 0.0


def squared_norm(x: Any) -> float:
    """`‖x‖²` of an array with a leading axis, on the host, added up in float64."""
    return sum(float(np.vdot(part, part)) for part in np.asarray(x))


class Coordinates(NamedTuple):
    """Inputs are read as A `into`, outputs in units of `size`; weights for them become true ones by `weights_back`."""

    into: np.ndarray
    out_of: np.ndarray
    size: float

    def problem(self, problem: LayerRegression) -> LayerRegression:
        """The same problem in these coordinates."""
        return replaced(problem, A=self.inputs(problem.A), B=problem.B / jnp.asarray(self.size, problem.dtype))

    def inputs(self, A: jax.Array) -> jax.Array:
        """Inputs in these coordinates, shaped like A (…, d)."""
        return jnp.matmul(A, placed(self.into.astype(A.dtype)), precision="highest")

    def weights_back(self, weights: LayerWeights) -> LayerWeights:
        """Weights for these coordinates as weights for the inputs and outputs themselves."""
        return self._moved(weights, self.into, self.size)

    def weights_in(self, weights: LayerWeights) -> LayerWeights:
        """Weights for the inputs and outputs themselves as weights for these coordinates."""
        return self._moved(weights, self.out_of, 1 / self.size)

    @staticmethod
    def _moved(weights: LayerWeights, matrix: np.ndarray, size: float) -> LayerWeights:
        def move(W, factor=1.0):
            return placed((matrix @ np.asarray(W, np.float64) * factor).astype(W.dtype))

        Q, K, V, O = weights
        if O is None:
            return LayerWeights(move(Q), move(K), move(V, size))
        return LayerWeights(move(Q), move(K), move(V), placed((np.asarray(O, np.float64) * size).astype(O.dtype)))


def _outputs(problem: LayerRegression) -> float:
    count = int(tokens_that_count(problem)[1].sum()) * problem.sizes[3]
    return float(np.sqrt(variation(problem) / max(count, 1))) / OUTPUT_SIZE or 1.0


def scaled(problem: LayerRegression) -> Coordinates:
    """Inputs divided by their standard deviation, outputs so that theirs is `OUTPUT_SIZE`."""
    A = np.asarray(problem.A)[tokens_that_count(problem)[0]]
    size = float(np.std(A, dtype=np.float64)) or 1.0
    eye = np.eye(A.shape[1])
    return Coordinates(eye / size, eye * size, _outputs(problem))


def whitened(problem: LayerRegression) -> tuple[Coordinates, int]:
    """Inputs with identity second moments, and their rank; directions that the inputs lack get zero weights.

    Cost: the (d, d) second moments in float64 and their eigendecomposition.
    """
    A = np.asarray(problem.A)[tokens_that_count(problem)[0]]
    moments = np.zeros((A.shape[1], A.shape[1]))
    for part in np.array_split(A, -(-A.shape[0] // 4096)):
        wide = np.asarray(part, np.float64)
        moments += wide.T @ wide
    values, vectors = np.linalg.eigh(moments / max(A.shape[0], 1))
    # Entries rounded to eps move singular values by about eps times the largest, and these by its square.
    kept = values > (100 * float(jnp.finfo(problem.dtype).eps)) ** 2 * max(values[-1], np.finfo(float).tiny)
    root = np.sqrt(np.where(kept, values, 1))
    into = (vectors * (kept / root)) @ vectors.T
    out_of = (vectors * (kept * root)) @ vectors.T
    return Coordinates(into, out_of, _outputs(problem)), int(kept.sum())


def batch(problem: LayerRegression, index: jax.Array) -> LayerRegression:
    """The documents `index` of a problem."""
    return problem.documents(lambda array: array[index])
