"""Finite pools of tasks: documents whose weights come from k fixed ones, and the answer of one who knows the pool.

With few tasks the Bayes answer is a mean of the k weights (dMMSE); with weights from N(0, ω²I) it is ridge regression
(`attnreg.icl.descent.ridge`). A learner that generalises to fresh tasks is nearer to the second.
"""

from typing import Any

import jax
import jax.numpy as jnp

from attnreg.icl.tasks import Documents
from attnreg.lift import tensor_trick as tt


def from_pool(key: jax.Array, documents: Documents, pool: jax.Array) -> Documents:
    """The same linear documents, inputs and label noise, with weights drawn from a pool.

    Args:
        key: a typed key.
        documents: `Documents` of a linear task, B of them.
        pool: weights (k, d).

    Returns: `Documents`.
    Cost: 4 B (n + m) d flops.

    >>> import jax
    >>> from attnreg.icl.tasks import TaskConfig, sample
    >>> task = TaskConfig(kind="linear", dimension=2, length=3, queries=1)
    >>> moved = from_pool(jax.random.key(0), sample(jax.random.key(1), task, 4), jnp.ones((1, 2)))
    >>> bool(jnp.allclose(moved.answers[:, 0], moved.queries.sum(axis=(1, 2)), atol=1e-5))
    True
    """
    drawn = jax.random.randint(key, documents.weights.shape[:1], 0, pool.shape[0])
    chosen = pool[drawn].astype(documents.weights.dtype)
    change = chosen - documents.weights
    return documents._replace(
        targets=documents.targets + tt.einsum("bnd,bd->bn", documents.context, change),
        answers=documents.answers + tt.einsum("bmd,bd->bm", documents.queries, change),
        weights=chosen,
    )


def discrete_mean(document: Documents, pool: jax.Array, noise: Any) -> jax.Array:
    """dMMSE: the mean (d,) of the pool's weights under their posterior, `∝ e^{−‖b − Aw‖²/(2ν²)}`.

    Args:
        document: one linear `Documents` without batch axis.
        pool: (k, d), all equally likely.
        noise: ν, the standard deviation of the labels' noise, above 0.

    Returns: (d,), the weights with the least mean square on tasks of the pool.
    Cost: 2 k n d flops.
    Source: arXiv 2306.15063.

    >>> import jax
    >>> from attnreg.icl.tasks import TaskConfig, sample
    >>> task = TaskConfig(kind="linear", dimension=2, length=9, queries=1)
    >>> document = jax.tree.map(lambda leaf: leaf[0], sample(jax.random.key(1), task, 1))
    >>> pool = jnp.stack([document.weights, document.weights + 1.0])
    >>> bool(jnp.allclose(discrete_mean(document, pool, 0.1), document.weights, atol=1e-4))
    True
    """
    left = document.targets[None, :] - tt.matmul(pool, document.context.T)
    posterior = jax.nn.softmax(-jnp.sum(left**2, axis=1) / (2.0 * jnp.asarray(noise, left.dtype) ** 2))
    return tt.matmul(posterior, pool)
