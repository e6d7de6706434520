"""Real feature rows for in-context documents: a bundled table and the activations of a bundled attention head."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.icl.tasks import TaskConfig, from_rows


class Table(NamedTuple):
    """Real features and targets, cut into a training part (inputs, tuning) and a test part (marking).

    pools: P×N×d features a document may be cut from, targets: P×N. The diabetes table is one pool; in the
    attention head every query token is one: its targets are its attention logits over the tokens of its text.
    """

    train: tuple[Any, Any]
    test: tuple[Any, Any]


def load(name: str) -> Table:
    """ "diabetes" (scikit-learn's, 442×10, split in half) or "activations" (the shipped attention head, d = 16)."""
    if name == "diabetes":
        try:
            from sklearn.datasets import load_diabetes
        except ImportError as error:
            raise ImportError("rows='diabetes' needs scikit-learn: pip install 'attnreg[tabular]'") from error
        features, targets = (np.asarray(leaf) for leaf in load_diabetes(return_X_y=True))
        order = np.random.default_rng(0).permutation(len(features))
        train, test = order[:221], order[221:]
        centre, size = features[train].mean(0), features[train].std(0)
        features = (features - centre) / size
        return Table((features[None, train], targets[None, train]), (features[None, test], targets[None, test]))
    if name == "activations":
        from attnreg.data import load_embedded_head

        head = load_embedded_head()
        scale = np.asarray(head.A[..., :-1]).std()
        parts = []
        for A, Q, K in ((head.A, head.Q, head.K), (head.A_heldout, head.Q_heldout, head.K_heldout)):
            A = np.asarray(A)[..., :-1] / scale
            logits = np.einsum("tid,tjd->tij", np.asarray(Q), np.asarray(K))
            texts, n, d = A.shape
            pools = np.broadcast_to(A[:, None], (texts, n, n, d)).reshape(texts * n, n, d)
            parts.append((pools, logits.reshape(texts * n, n)))
        return Table(*parts)
    raise ValueError(f"rows is {name!r}; it must be '', 'diabetes' or 'activations'")


def features(name: str, dtype: str) -> Any:
    """All training rows N×d for tasks with `inputs="rows"`; None for the empty name."""
    if not name:
        return None
    pools = load(name).train[0]
    if name == "activations":  # the pools of one text's tokens share their rows
        pools = pools[:: pools.shape[1]]
    return jnp.asarray(pools.reshape(-1, pools.shape[-1]), dtype)


def real_documents(key: Any, part: tuple[Any, Any], task: TaskConfig, count: int, *, standardise: bool) -> Any:
    """`count` documents with real targets, each from a random pool."""
    pools, targets = (jnp.asarray(leaf, task.dtype) for leaf in part)
    config = dataclasses.replace(task, inputs="rows", pool=0)

    def one(key):
        of_pool, of_rows = jax.random.split(key)
        i = jax.random.randint(of_pool, (), 0, pools.shape[0])
        cut = from_rows(of_rows, pools[i], targets[i], config, 1, standardise=standardise)
        return jax.tree.map(lambda leaf: leaf[0], cut)

    return jax.jit(jax.vmap(one))(jax.random.split(key, count))
