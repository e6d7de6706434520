"""The benchmark's problems by name, as our problem and as the plain loss and residuals that peers differentiate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.data.synthetic import attention_instance, layer_instance, vector_instance
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.objectives.layer import LayerObjective
from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.problems import losses
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.layer import LayerRegression
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from experiments.benchmarks import layers
from experiments.runner.config import UsageError

NOISE = 1e-3
WINDOWS = 8  # texts of a real head
TOKENS = 256


class Cell(NamedTuple):
    """One benchmark problem.

    Attributes:
        problem: what our objectives take.
        data: the arrays that the plain functions take, so that nothing is folded into a program.
        x0: the start, in the plain loss's own shape; `ours` maps it to our objective's. Any pytree of arrays will do.
        loss: plain loss, `(x, data) -> scalar`, written without any closed form of this package.
        residuals: `(x, data) -> vector` with `loss = Σ r²`, or None where peers are given no residuals.
        unit: `data -> scalar`, what peers find the loss divided by.
        draw: `(key, data, run) -> x`, where run number 0, 1, … starts; None where nothing restarts.
    """

    name: str
    problem: Any
    data: Any
    x0: Any
    loss: Callable[[Any, Any], jax.Array]
    residuals: Callable[[Any, Any], jax.Array] | None
    unit: Callable[[Any], jax.Array]
    draw: Callable[[jax.Array, Any, int], Any] | None = None

    @property
    def objective(self) -> AttentionObjective | OneLayerObjective | LayerObjective | FactoredObjective:
        """Our objective of the problem."""
        if isinstance(self.problem, LayerRegression):
            heads, _, rank = self.x0.Q.shape
            value_rank = None if self.x0.O is None else self.x0.O.shape[1]
            return LayerObjective(self.problem, heads, rank, value_rank, key_heads=len(self.x0.K))
        if isinstance(self.problem, OneLayerRegression):
            return OneLayerObjective(self.problem)
        if isinstance(self.x0, Factors):
            return FactoredObjective(self.problem, self.x0.Q.shape[1])
        return AttentionObjective(self.problem)

    def ours(self, x: Any) -> Any:
        """x as our objective's unknown (a vector is a matrix of one row, or X and Y one after the other)."""
        if isinstance(self.problem, LayerRegression) or isinstance(x, Factors):
            return x
        if not isinstance(self.problem, OneLayerRegression):
            return x.reshape(self.problem.shape)
        X, Y = self.problem.shapes
        return Unknowns(x[: X[0] * X[1]].reshape(X), x[X[0] * X[1] :].reshape(Y))


def make_cell(name: str, *, seed: int) -> Cell:
    """The cell of a name such as "normalized-512-16", "single-1000-20", "one_layer-64-4" or "head-5-2-16".

    normalized, rescaled, one_layer: n and d of a synthetic instance. one_layer_reduced: the same with Y eliminated.
    single: a single softmax regression. head: layer, head and components of the fetched MiniLM, 8 texts of 256 tokens.
    """
    kind, *numbers = name.split("-")
    if kind not in MAKERS or len(numbers) != MAKERS[kind][0] or not all(part.isdigit() for part in numbers):
        raise UsageError(
            f"cell {name!r}: it must be normalized-n-d, rescaled-n-d, single-n-d, one_layer-n-d, one_layer_reduced-n-d "
            "or head-layer-head-components"
        )
    return MAKERS[kind][1](name, seed, *map(int, numbers))


def _synthetic(loss: str) -> Callable[..., Cell]:
    def make(name: str, seed: int, n: int, d: int) -> Cell:
        made = attention_instance(jax.random.key(seed), n=n, d=d, loss=loss, noise=NOISE, dtype=jnp.float64)
        return _matrix(name, made.problem)

    return make


def _single(name: str, seed: int, n: int, d: int) -> Cell:
    problem = vector_instance(jax.random.key(seed), n=n, d=d, noise=NOISE, dtype=jnp.float64).problem
    data = {"A": problem.A2[0], "b": jnp.asarray(problem.B)[0, 0]}
    x0 = jnp.zeros(problem.shape[1], problem.dtype)
    return Cell(name, problem, data, x0, _vector_loss, _vector_residuals, lambda data: _vector_loss(x0, data))


def _head(name: str, seed: int, layer: int, head: int, components: int) -> Cell:
    from attnreg.data.minilm.instance import attention_map, minilm_head

    del seed  # the texts are frozen
    made = minilm_head(
        layer,
        head,
        n=TOKENS,
        train={"docs": WINDOWS},
        heldout={"docs_heldout": 1},
        components=components,
        dtype=np.float64,
    )
    return _matrix(name, AttentionRegression(made.A, made.A, attention_map(made.Q, made.K)))


def _one_layer(reduced: bool) -> Callable[..., Cell]:
    def make(name: str, seed: int, n: int, d: int) -> Cell:
        data = layer_instance(jax.random.key(seed), n=n, d=d)
        draw = layers.reduced_start if reduced else layers.joint_start
        loss = layers.reduced_loss if reduced else layers.joint_loss
        x0 = draw(jax.random.key(seed), data, 0)
        given = None if reduced else layers.residuals
        return Cell(name, OneLayerRegression(*data), data, x0, loss, given, layers.variation, draw)

    return make


def _matrix(name: str, problem: AttentionRegression) -> Cell:
    data = {"A1": problem.A1, "A2": problem.A2, "B": problem.B}
    x0 = jnp.zeros(problem.shape, problem.dtype)
    loss, residuals = _matrix_functions(problem.loss)
    return Cell(name, problem, data, x0, loss, residuals, lambda data: loss(x0, data))


def _vector_loss(x: jax.Array, data: dict[str, jax.Array]) -> jax.Array:
    return losses.softmax_regression(x, data["A"], data["b"])


def _vector_residuals(x: jax.Array, data: dict[str, jax.Array]) -> jax.Array:
    return jax.nn.softmax(jnp.matmul(data["A"], x, precision=losses.PRECISION)) - data["b"]


def _matrix_functions(loss: str) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    plain = {"normalized": losses.attention_regression, "rescaled": losses.rescaled_attention_regression}[loss]

    def value(X: jax.Array, data: dict[str, jax.Array]) -> jax.Array:
        return jnp.sum(jax.vmap(plain, (None, 0, 0, 0))(X, data["A1"], data["A2"], data["B"]))

    def residuals(X: jax.Array, data: dict[str, jax.Array]) -> jax.Array:
        left = jnp.matmul(data["A1"], X, precision=losses.PRECISION)
        s = jnp.einsum("knd,kmd->knm", left, data["A2"], precision=losses.PRECISION)
        if loss == "normalized":
            return (jax.nn.softmax(s, axis=-1) - data["B"]).ravel()
        u = jnp.exp(s)
        return (u - jnp.sum(u, axis=-1, keepdims=True) * data["B"]).ravel()

    return value, residuals


MAKERS: dict[str, tuple[int, Callable[..., Cell]]] = {
    "normalized": (2, _synthetic("normalized")),
    "rescaled": (2, _synthetic("rescaled")),
    "single": (2, _single),
    "head": (3, _head),
    "one_layer": (2, _one_layer(reduced=False)),
    "one_layer_reduced": (2, _one_layer(reduced=True)),
}
