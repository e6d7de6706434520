"""Documents: context with targets, queries with answers, drawn on the device from one frozen config.

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
from attnreg.lift import tensor_trick as tt
from attnreg.problems.checks import ProblemError, check_choice, check_integer, check_number
from attnreg.problems.reprs import compact_repr

KINDS = ("linear", "softmax")
INPUTS = ("gaussian", "uniform", "laplace", "exponential", "real")
DTYPES = ("float32", "float64")
STREAMS = ("train", "tune", "evaluate")
# Seed of the documents of `sample_pool`.
_POOL = 0x9001


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One distribution of documents; hashable, so it is a static argument of compiled code.

    Attributes:
        kind: "linear" or "softmax" regression.
        dimension: d, number of features.
        length: n, context rows.
        queries: m, query rows (the softmax answers are normalised over them).
        inputs: law of the features: "gaussian" N(0, 1), "uniform" U(−1, 1), "laplace" and "exponential" (both
            centred, variance 1), or "real" (drawn without replacement from the `features` passed to `sample`).
        input_scale: factor on the features (a for U(−a, a)).
        weight_scale: ω, standard deviation of each coordinate of w.
        noise: ν, standard deviation of the label noise (softmax: on the logits), context rows only.
        distractors: number of context targets whose signal ⟨a_i, w⟩ is replaced by an independent N(0, E⟨a,w⟩²).
        dtype: "float32" or "float64".

    Raises: ProblemError for a field of another type, out of range, or for an unknown name.
    """

    kind: Literal["linear", "softmax"]
    dimension: int
    length: int
    queries: int
    inputs: str = "gaussian"
    input_scale: float = 1.0
    weight_scale: float = 1.0
    noise: float = 0.0
    distractors: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuse at construction what would fail, or silently mean something else, inside compiled code."""
        check_choice("kind", self.kind, KINDS)
        # One row of a softmax is always 1.
        rows = 2 if self.kind == "softmax" else 1
        check_integer("dimension", self.dimension, at_least=1)
        check_integer("length", self.length, at_least=rows)
        check_integer("queries", self.queries, at_least=rows)
        check_choice("inputs", self.inputs, INPUTS)
        check_number("input_scale", self.input_scale, above=0)
        check_number("weight_scale", self.weight_scale, above=0)
        check_number("noise", self.noise, at_least=0)
        check_integer("distractors", self.distractors, at_least=0, at_most=self.length)
        check_choice("dtype", self.dtype, DTYPES)

    @property
    def scales(self) -> "Scales":
        """The three factors that may differ between calls of one compiled program."""
        return Scales(*(jnp.asarray(v, self.dtype) for v in (self.input_scale, self.weight_scale, self.noise)))


class Scales(NamedTuple):
    """Factors of a document: input, weight, noise are scalars; traced, so that a sweep over them compiles once."""

    input: jax.Array
    weight: jax.Array
    noise: jax.Array


@compact_repr
class Documents(NamedTuple):
    """A batch of documents, or one document without the leading axis (every function maps over it with vmap).

    context: (B, n, d). targets: (B, n). queries: (B, m, d). answers: (B, m). weights: (B, d), the w that made the
    targets.
    """

    context: jax.Array
    targets: jax.Array
    queries: jax.Array
    answers: jax.Array
    weights: jax.Array


def stream(key: jax.Array, name: str) -> jax.Array:
    """Key, a scalar, of the stream "train", "tune" or "evaluate": disjoint, so no task is both tuned on and marked on.

    >>> import jax
    >>> bool(jax.numpy.array_equal(stream(jax.random.key(0), "tune"), stream(jax.random.key(0), "evaluate")))
    False
    """
    check_choice("stream", name, STREAMS)
    return jax.random.fold_in(key, 0x1C1 + STREAMS.index(name))


def targets_of(task: TaskConfig, signal: jax.Array) -> jax.Array:
    """Targets of a signal (…, n) of logits, shaped like it: the identity (linear) or softmax along the last axis."""
    return signal if task.kind == "linear" else jax.nn.softmax(signal, axis=-1)


def sample(
    key: jax.Array, task: TaskConfig, batch: int, *, scales: Scales | None = None, features: jax.Array | None = None
) -> Documents:
    """`batch` documents of the distribution `task`.

    `A_ij ~ input_scale · inputs`, `w ~ N(0, ω² I)`, targets and answers as the module says.

    Args:
        key: a typed key of the stream wanted (see `stream`).
        task: `TaskConfig`, static.
        batch: number of documents, static.
        scales: `Scales` overriding the task's (traced); None takes the task's. A traced noise acts only
            where `task.noise > 0`: a noiseless task draws no noise at all.
        features: (N, d) real feature vectors, for `inputs="real"` only.

    Returns: `Documents` with leading axis `batch`, of `task.dtype`.
    Precision: ⟨a, w⟩ at the highest matmul precision; `test_tasks` checks the targets against NumPy.
    Cost: batch · ((n+m+1) d) draws and 2 batch (n+m) d flops; one flat draw, no key per document.
    Raises: ProblemError when `features` are missing or have the wrong shape.
    Source: linear documents as in arXiv 2212.07677, softmax documents as in arXiv 2304.13276.

    >>> import jax
    >>> task = TaskConfig(kind="softmax", dimension=3, length=5, queries=4)
    >>> documents = sample(jax.random.key(0), task, 2)
    >>> documents.context.shape, documents.answers.shape, round(float(documents.answers.sum()), 5)
    ((2, 5, 3), (2, 4), 2.0)
    """
    scales = task.scales if scales is None else scales
    n = task.length
    of_features, of_weights, of_noise, of_distractors = jax.random.split(key, 4)
    inputs = _inputs(of_features, task, batch, features) * scales.input
    weights = draws.normal(of_weights, (batch, task.dimension), task.dtype) * scales.weight
    signal = tt.einsum("bnd,bd->bn", inputs, weights)
    read, asked = signal[:, :n], signal[:, n:]
    if task.distractors:
        size = scales.weight * jnp.sqrt(jnp.mean(jnp.sum(inputs**2, -1)))
        fake = size * draws.normal(of_distractors, (batch, task.distractors), task.dtype)
        read = read.at[:, : task.distractors].set(fake)
    read = read + scales.noise * draws.normal(of_noise, read.shape, task.dtype) if task.noise else read
    return Documents(inputs[:, :n], targets_of(task, read), inputs[:, n:], targets_of(task, asked), weights)


def _inputs(key: jax.Array, task: TaskConfig, batch: int, features: jax.Array | None) -> jax.Array:
    """(batch, n + m, d) features of unit scale."""
    count, d = task.length + task.queries, task.dimension
    shape = (batch, count, d)
    if task.inputs == "real":
        if features is None or features.ndim != 2 or features.shape[1] != d or features.shape[0] < count:
            found = "are None" if features is None else f"have shape {features.shape}"
            raise ProblemError(f"features {found}; inputs='real' needs vectors of shape (N ≥ {count}, {d})")
        picks = jax.vmap(lambda k: jax.random.choice(k, features.shape[0], (count,), replace=False))
        return features.astype(task.dtype)[picks(jax.random.split(key, batch))]
    if task.inputs == "gaussian":
        return draws.normal(key, shape, task.dtype)
    if task.inputs == "uniform":
        return draws.uniform(key, shape, task.dtype, low=-1.0, high=1.0)
    half = draws.uniform(key, shape, task.dtype, low=-1.0, high=1.0)
    tail = -jnp.log1p(-jnp.abs(half))  # Exp(1)
    if task.inputs == "laplace":
        return jnp.sign(half) * tail / math.sqrt(2)
    return tail - 1


def sample_pool(
    key: jax.Array, task: TaskConfig, batch: int, *, pool: int, features: jax.Array | None = None
) -> Documents:
    """`batch` documents drawn uniformly, with replacement, from `pool` fixed documents of the distribution `task`.

    The fixed documents hang on a constant key, so all steps and seeds have the same; they are drawn again from their
    number and never stored. The other arguments, features (N, d) among them, result, cost and errors are those of
    `sample`, with a key for each document.

    >>> import jax
    >>> task = TaskConfig(kind="linear", dimension=3, length=5, queries=4)
    >>> len(set(sample_pool(jax.random.key(0), task, 50, pool=2).weights[:, 0].tolist()))
    2
    """

    def one(number):
        document = sample(jax.random.fold_in(jax.random.key(_POOL), number), task, 1, features=features)
        return jax.tree.map(lambda leaf: leaf[0], document)

    return jax.vmap(one)(jax.random.randint(key, (batch,), 0, pool))


def from_table(
    key: jax.Array, features: jax.Array, targets: jax.Array, task: TaskConfig, batch: int, *, standardise: bool = True
) -> Documents:
    """`batch` documents cut from a real data set: random entries with their real targets.

    `standardise` scales targets by the context's mean and standard deviation (never the queries'). For the softmax
    task the targets are logits, and softmax is taken over context and queries apart. `weights` is zero: nobody
    knows the true one.

    Args:
        key: a typed key.
        features: (N, d), already scaled.
        targets: (N,).
        task: gives kind, n, m and dtype.
        batch: number of documents, static.
        standardise: see above.

    Returns: `Documents`.
    Precision: exact selection; the standardisation is checked against NumPy in `test_tasks`.
    Cost: one permutation of N a document.
    Raises: ProblemError when features and targets disagree or N < n + m.

    >>> import jax, jax.numpy as jnp
    >>> task = TaskConfig(kind="linear", dimension=2, length=3, queries=1)
    >>> from_table(jax.random.key(0), jnp.ones((9, 2)), jnp.arange(9.0), task, 5).targets.shape
    (5, 3)
    """
    n, m = task.length, task.queries
    if features.ndim != 2 or targets.shape != features.shape[:1] or features.shape[0] < n + m:
        raise ProblemError(
            f"features have shape {features.shape} and targets {targets.shape}; they must be (N, d) and (N,) "
            f"with N ≥ {n + m}"
        )
    features, targets = features.astype(task.dtype), targets.astype(task.dtype)

    def one(k):
        pick = jax.random.choice(k, features.shape[0], (n + m,), replace=False)
        chosen, values = features[pick], targets[pick]
        if standardise:
            values = (values - jnp.mean(values[:n])) / jnp.maximum(jnp.std(values[:n]), 1e-6)
        read, asked = targets_of(task, values[:n]), targets_of(task, values[n:])
        return Documents(chosen[:n], read, chosen[n:], asked, jnp.zeros_like(chosen[0]))

    return jax.vmap(one)(jax.random.split(key, batch))
