"""The benchmark's problems by name, as our problem and as the plain loss and residuals that peers differentiate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.data.synthetic import attention_instance, vector_instance
from attnreg.problems import losses
from attnreg.problems.attention import AttentionRegression

NOISE = 1e-3
WINDOWS = 8  # texts of a real head
TOKENS = 256


class Cell(NamedTuple):
    """One benchmark problem.

    loss(x, data) and residuals(x, data) are written with `attnreg.problems.losses` and `jax.nn.softmax` only: no closed
    form of this package. `data` are the arrays (a dict, an argument so that nothing is folded into a program), `x0`
    the start in the plain loss's own shape; `ours` maps it to the shape our objective takes.
    """

    name: str
    problem: AttentionRegression
    data: dict[str, jax.Array]
    x0: jax.Array
    loss: Callable[[jax.Array, dict[str, jax.Array]], jax.Array]
    residuals: Callable[[jax.Array, dict[str, jax.Array]], jax.Array]

    @property
    def residual_count(self) -> int:
        """How many residuals there are."""
        return int(np.prod(self.problem.B.shape))

    def ours(self, x: jax.Array) -> jax.Array:
        """x as our objective's unknown (a vector is a matrix of one row)."""
        return x.reshape(self.problem.shape)


def make_cell(name: str, *, seed: int) -> Cell:
    """The cell of a name such as "normalized-512-16", "rescaled-64-4", "single-1000-20" or "head-5-2-16".

    normalized, rescaled: n and d of a synthetic instance. single: a single softmax regression. head: layer, head and
    principal components of the fetched MiniLM, 8 texts of 256 tokens.
    """
    kind, *numbers = name.split("-")
    makers: dict[str, tuple[int, Callable[..., AttentionRegression]]] = {
        "normalized": (2, _synthetic("normalized")),
        "rescaled": (2, _synthetic("rescaled")),
        "single": (2, _single),
        "head": (3, _head),
    }
    if kind not in makers or len(numbers) != makers[kind][0] or not all(part.isdigit() for part in numbers):
        raise ValueError(
            f"cell {name!r}: it must be normalized-n-d, rescaled-n-d, single-n-d or head-layer-head-components"
        )
    problem = makers[kind][1](seed, *map(int, numbers))
    return cell_of(name, problem)


def _synthetic(loss: str) -> Callable[..., AttentionRegression]:
    def make(seed: int, n: int, d: int) -> AttentionRegression:
        key = jax.random.key(seed)
        return attention_instance(key, n=n, d=d, loss=loss, noise=NOISE, dtype=jnp.float64).problem

    return make


def _single(seed: int, n: int, d: int) -> AttentionRegression:
    return vector_instance(jax.random.key(seed), n=n, d=d, noise=NOISE, dtype=jnp.float64).problem


def _head(seed: int, layer: int, head: int, components: int) -> AttentionRegression:
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
    return AttentionRegression(made.A, made.A, attention_map(made.Q, made.K))


def cell_of(name: str, problem: AttentionRegression) -> Cell:
    """A cell from a dense, unmasked problem."""
    k, n, _, d1, _ = problem.sizes
    if (k, n, d1) == (1, 1, 1):
        data = {"A": problem.A2[0], "b": problem.B[0, 0]}  # pyright: ignore[reportIndexIssue]
        x0, loss, residuals = jnp.zeros(problem.shape[1], problem.dtype), *_vector(problem.loss)
    else:
        data = {"A1": problem.A1, "A2": problem.A2, "B": problem.B}
        x0, loss, residuals = jnp.zeros(problem.shape, problem.dtype), *_matrix(problem.loss)
    return Cell(name, problem, data, x0, loss, residuals)


def _vector(loss: str) -> Any:
    plain = {"normalized": losses.softmax_regression, "rescaled": losses.rescaled_softmax_regression}[loss]

    def value(x, data):
        return plain(x, data["A"], data["b"])

    def residuals(x, data):
        s = jnp.matmul(data["A"], x, precision=losses.PRECISION)
        if loss == "normalized":
            return jax.nn.softmax(s) - data["b"]
        u = jnp.exp(s)
        return u - jnp.sum(u) * data["b"]

    return value, residuals


def _matrix(loss: str) -> Any:
    plain = {"normalized": losses.attention_regression, "rescaled": losses.rescaled_attention_regression}[loss]

    def value(X, data):
        return jnp.sum(jax.vmap(plain, (None, 0, 0, 0))(X, data["A1"], data["A2"], data["B"]))

    def residuals(X, data):
        left = jnp.matmul(data["A1"], X, precision=losses.PRECISION)
        s = jnp.einsum("knd,kmd->knm", left, data["A2"], precision=losses.PRECISION)
        if loss == "normalized":
            return (jax.nn.softmax(s, axis=-1) - data["B"]).ravel()
        u = jnp.exp(s)
        return (u - jnp.sum(u, axis=-1, keepdims=True) * data["B"]).ravel()

    return value, residuals
