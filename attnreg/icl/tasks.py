"""Documents: context rows with targets, query rows with targets, drawn on the device from one frozen config.

    linear    b_i = ⟨a_i, w⟩ + ν ξ_i              softmax    b = softmax(A w + ν ξ)

with `w ~ N(0, ω² I)` (theory of the softmax task: ω² = σ²/d). A model or a descent algorithm reads
`context`, `targets` and `queries`; `answers` (noiseless) are what it is marked on.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.icl import draws

INPUTS = ("gaussian", "uniform", "laplace", "exponential", "rows")
STREAMS = ("train", "tune", "evaluate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One distribution of documents; hashable, so it is a static argument of compiled code.

    Attributes:
        problem: "linear" or "softmax".
        dimension: d, number of features.
        length: n, context rows.
        queries: m, query rows (the softmax answers are normalised over them).
        inputs: law of the features: "gaussian" N(0, 1), "uniform" U(−1, 1), "laplace" and "exponential"
            (both centred, variance 1), or "rows" (drawn without replacement from an array passed to `sample`).
        input_scale: factor on the features (a for U(−a, a)).
        weight_scale: ω, standard deviation of each coordinate of w.
        noise: ν, standard deviation of the label noise (softmax: on the logits), context rows only.
        distractors: number of context targets whose signal ⟨a_i, w⟩ is replaced by an independent N(0, E⟨a,w⟩²).
        pool: 0 for fresh documents, else the number of distinct training documents.
        dtype: "float32" or "float64".
    """

    problem: Literal["linear", "softmax"]
    dimension: int
    length: int
    queries: int
    inputs: str = "gaussian"
    input_scale: float = 1.0
    weight_scale: float = 1.0
    noise: float = 0.0
    distractors: int = 0
    pool: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        """Refuse at construction what would fail, or silently mean something else, inside compiled code."""
        if self.problem not in ("linear", "softmax"):
            raise ValueError(f"problem is {self.problem!r}; it must be 'linear' or 'softmax'")
        if self.inputs not in INPUTS:
            raise ValueError(f"inputs is {self.inputs!r}; it must be one of {', '.join(INPUTS)}")
        if min(self.dimension, self.length, self.queries) < 1:
            raise ValueError("dimension, length and queries must be at least 1")
        if self.problem == "softmax" and min(self.length, self.queries) < 2:
            raise ValueError("a softmax document needs length and queries of at least 2: one row is always 1")
        if not 0 <= self.distractors <= self.length:
            raise ValueError(f"distractors is {self.distractors}; it must lie in 0..length={self.length}")
        if min(self.input_scale, self.weight_scale) <= 0 or self.noise < 0 or self.pool < 0:
            raise ValueError("input_scale and weight_scale must be positive, noise and pool not negative")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {self.dtype!r}; it must be 'float32' or 'float64'")

    @property
    def scales(self):
        """The three factors that may differ between runs of one compiled program."""
        return Scales(*(jnp.asarray(v, self.dtype) for v in (self.input_scale, self.weight_scale, self.noise)))


class Scales(NamedTuple):
    """Dynamic factors of a document: traced, so that a sweep over them compiles once."""

    input: jax.Array
    weight: jax.Array
    noise: jax.Array


class Documents(NamedTuple):
    """A batch of documents, or one document without the leading axis (every function maps over it with vmap).

    context: B×n×d. targets: B×n. queries: B×m×d. answers: B×m. weights: B×d, the w that made the targets.
    """

    context: jax.Array
    targets: jax.Array
    queries: jax.Array
    answers: jax.Array
    weights: jax.Array


def stream(key, name):
    """Key of one of the disjoint streams "train", "tune", "evaluate", so that no task is tuned on and marked on.

    >>> import jax
    >>> bool(jax.numpy.array_equal(stream(jax.random.key(0), "tune"), stream(jax.random.key(0), "evaluate")))
    False
    """
    if name not in STREAMS:
        raise ValueError(f"stream is {name!r}; it must be one of {', '.join(STREAMS)}")
    return jax.random.fold_in(key, 0x1C1 + STREAMS.index(name))


def _features(key, config, batch, rows):
    """B×(n+m)×d features of unit scale."""
    count, d = config.length + config.queries, config.dimension
    shape = (batch, count, d)
    if config.inputs == "rows":
        if rows is None or rows.ndim != 2 or rows.shape[1] != d or rows.shape[0] < count:
            found = None if rows is None else rows.shape
            raise ValueError(f"inputs='rows' needs rows of shape (≥{count}, {d}), got {found}")
        picks = jax.vmap(lambda k: jax.random.choice(k, rows.shape[0], (count,), replace=False))
        return rows.astype(config.dtype)[picks(jax.random.split(key, batch))]
    if config.inputs == "gaussian":
        return draws.normal(key, shape, config.dtype)
    if config.inputs == "uniform":
        return draws.uniform(key, shape, config.dtype, low=-1.0, high=1.0)
    half = draws.uniform(key, shape, config.dtype, low=-1.0, high=1.0)
    tail = -jnp.log1p(-jnp.abs(half))  # Exp(1)
    if config.inputs == "laplace":
        return jnp.sign(half) * tail / math.sqrt(2)
    return tail - 1


def targets_of(problem, signal):
    """Targets from logits along the last axis: the identity (linear) or softmax."""
    return signal if problem == "linear" else jax.nn.softmax(signal, axis=-1)


def _fresh(key, config, batch, scales, rows):
    n = config.length
    of_features, of_weights, of_noise, of_distractors = jax.random.split(key, 4)
    features = _features(of_features, config, batch, rows) * scales.input
    weights = draws.normal(of_weights, (batch, config.dimension), config.dtype) * scales.weight
    signal = jnp.einsum("bnd,bd->bn", features, weights, precision="highest")
    read, asked = signal[:, :n], signal[:, n:]
    if config.distractors:
        size = scales.weight * jnp.sqrt(jnp.mean(jnp.sum(features**2, -1)))
        fake = size * draws.normal(of_distractors, (batch, config.distractors), config.dtype)
        read = read.at[:, : config.distractors].set(fake)
    read = read + scales.noise * draws.normal(of_noise, read.shape, config.dtype) if config.noise else read
    answer = targets_of(config.problem, asked)
    return Documents(features[:, :n], targets_of(config.problem, read), features[:, n:], answer, weights)


def sample(key, config, batch, *, scales=None, rows=None):
    """`batch` documents of the distribution `config`.

    `A_ij ~ input_scale · inputs`, `w ~ N(0, ω² I)`, targets and answers as the module says. With `config.pool`
    the documents are drawn uniformly, with replacement, from `pool` fixed ones, which are regenerated from
    their index and never stored.

    Args:
        key: a typed key of the stream wanted (see `stream`).
        config: `TaskConfig`, static.
        batch: number of documents, static.
        scales: `Scales` overriding the config's (traced); None takes the config's. A traced noise acts only
            where `config.noise > 0`: a noiseless config draws no noise at all.
        rows: N×d array of real feature rows, for `inputs="rows"` only.

    Returns: `Documents` with leading axis `batch`, of `config.dtype`.
    Precision: ⟨a, w⟩ at the highest matmul precision; `test_tasks` checks the targets against NumPy.
    Cost: batch · ((n+m+1) d) draws and 2 batch (n+m) d flops; one flat draw, no key per document (pool = 0).
    Raises: ValueError when `rows` is missing or has the wrong shape.
    Source: linear documents as in arXiv 2212.07677, softmax documents as in arXiv 2304.13276.

    >>> import jax
    >>> config = TaskConfig(problem="softmax", dimension=3, length=5, queries=4)
    >>> documents = sample(jax.random.key(0), config, 2)
    >>> documents.context.shape, documents.answers.shape, round(float(documents.answers.sum()), 5)
    ((2, 5, 3), (2, 4), 2.0)
    """
    scales = config.scales if scales is None else scales
    if not config.pool:
        return _fresh(key, config, batch, scales, rows)
    # The pool's documents hang on a constant key, not on the step's: they are the same for ever.
    home = jax.random.key(0x9001)
    index = jax.random.randint(key, (batch,), 0, config.pool)

    def one(i):
        document = _fresh(jax.random.fold_in(home, i), config, 1, scales, rows)
        return jax.tree.map(lambda leaf: leaf[0], document)

    return jax.vmap(one)(index)


def from_rows(key, features, targets, config, batch, *, standardise=True):
    """`batch` documents cut from a real data set: random rows with their real targets.

    `standardise` scales targets by the context's mean and standard deviation (never the queries'). For the softmax
    problem the targets are logits, and softmax is taken over context and queries apart. `weights` is zero: nobody
    knows the true one.

    Args:
        key: a typed key.
        features: N×d, already scaled.
        targets: N.
        config: `TaskConfig` with `inputs="rows"`; gives problem, n, m and dtype.
        batch: number of documents, static.
        standardise: see above.

    Returns: `Documents`.
    Precision: exact selection; the standardisation is checked against NumPy in `test_tasks`.
    Cost: one permutation of N a document.
    Raises: ValueError when features and targets disagree or N < n + m.

    >>> import jax, jax.numpy as jnp
    >>> config = TaskConfig(problem="linear", dimension=2, length=3, queries=1, inputs="rows")
    >>> from_rows(jax.random.key(0), jnp.ones((9, 2)), jnp.arange(9.0), config, 5).targets.shape
    (5, 3)
    """
    n, m = config.length, config.queries
    if features.ndim != 2 or targets.shape != features.shape[:1] or features.shape[0] < n + m:
        raise ValueError(f"features {features.shape} and targets {targets.shape} must be N×d and N with N ≥ {n + m}")
    features, targets = features.astype(config.dtype), targets.astype(config.dtype)

    def one(k):
        pick = jax.random.choice(k, features.shape[0], (n + m,), replace=False)
        rows, values = features[pick], targets[pick]
        if standardise:
            values = (values - jnp.mean(values[:n])) / jnp.maximum(jnp.std(values[:n]), 1e-6)
        answer = targets_of(config.problem, values[n:])
        return Documents(
            rows[:n],
            targets_of(config.problem, values[:n]),
            rows[n:],
            answer,
            jnp.zeros_like(rows[0]),
        )

    return jax.vmap(one)(jax.random.split(key, batch))
