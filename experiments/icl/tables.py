"""Real tables for in-context documents: a bundled data set and the activations of a bundled attention head."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.icl.tasks import Documents, TaskConfig, from_table
from experiments.runner.config import UsageError

NAMES = ("diabetes", "activations")


class Table(NamedTuple):
    """Real features and targets, cut into a training part (inputs, tuning) and a test part (marking).

    A part is a pair: features (P, N, d), P sets of the vectors that a document may be cut from, and targets (P, N). The
    diabetes table is one set; in the attention head every query token has one: its targets are its attention logits
    over the tokens of its text.
    """

    train: tuple[Any, Any]
    test: tuple[Any, Any]


def load(name: str) -> Table:
    """ "diabetes" (scikit-learn's, (442, 10), cut in half) or "activations" (the shipped attention head, d = 16)."""
    return _diabetes() if name == "diabetes" else _activations()


def _diabetes() -> Table:
    try:
        from sklearn.datasets import load_diabetes
    except ImportError as error:
        raise UsageError("config.table='diabetes' needs scikit-learn: pip install 'attnreg[tabular]'") from error
    features, targets = (np.asarray(leaf) for leaf in load_diabetes(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(features))
    train, test = order[:221], order[221:]
    centre, size = features[train].mean(0), features[train].std(0)
    features = (features - centre) / size
    return Table((features[None, train], targets[None, train]), (features[None, test], targets[None, test]))


def _activations() -> Table:
    from attnreg.data import load_embedded_head

    head = load_embedded_head()
    scale = np.asarray(head.A[..., :-1]).std()
    parts = []
    for A, Q, K in ((head.A, head.Q, head.K), (head.A_heldout, head.Q_heldout, head.K_heldout)):
        A = np.asarray(A)[..., :-1] / scale
        logits = np.einsum("tid,tjd->tij", np.asarray(Q), np.asarray(K))
        texts, n, d = A.shape
        features = np.broadcast_to(A[:, None], (texts, n, n, d)).reshape(texts * n, n, d)
        parts.append((features, logits.reshape(texts * n, n)))
    return Table(*parts)


def features(name: str, dtype: str) -> jax.Array | None:
    """All training feature vectors (N, d), for tasks with `inputs="real"`; None for the empty name."""
    if not name:
        return None
    sets = load(name).train[0]
    if name == "activations":  # the sets of one text's tokens hold the same vectors
        sets = sets[:: sets.shape[1]]
    return jnp.asarray(sets.reshape(-1, sets.shape[-1]), dtype)


def real_documents(
    key: jax.Array, part: tuple[Any, Any], task: TaskConfig, count: int, *, standardise: bool
) -> Documents:
    """`count` documents with real targets, each from a random set of vectors."""
    sets, targets = (jnp.asarray(leaf, task.dtype) for leaf in part)

    def one(key):
        of_set, of_rows = jax.random.split(key)
        i = jax.random.randint(of_set, (), 0, sets.shape[0])
        cut = from_table(of_rows, sets[i], targets[i], task, 1, standardise=standardise)
        return jax.tree.map(lambda leaf: leaf[0], cut)

    return jax.jit(jax.vmap(one))(jax.random.split(key, count))
