"""What `experiments.fit.map` fits: a shipped or fetched attention head, or a generated problem."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.data import HeadInstance, load_embedded_head, minilm_head
from attnreg.data.synthetic import attention_instance, targets, vector_instance
from attnreg.objectives.factors import Factors
from attnreg.problems.attention import AttentionRegression, Teacher
from attnreg.problems.checks import ProblemError, replaced
from attnreg.problems.rotary import Rotary
from experiments.fit import sources
from experiments.runner.config import UsageError

SOURCES = ("embedded", "minilm", "synthetic", "model", "arrays")


class Labels(NamedTuple):
    """Token strings of one document, for the axes of its map; None when there are none."""

    train: tuple[str, ...] | None
    heldout: tuple[str, ...] | None


class FitData(NamedTuple):
    """A problem, unseen documents of the same kind, the true unknown where one exists, and what to call it.

    The truth is X, or its factors for a rotary head, whose turns are `rotary`.
    """

    problem: AttentionRegression
    heldout: AttentionRegression
    truth: jax.Array | Factors | None
    labels: Labels
    title: str
    rotary: Rotary | None = None


def load(config: Any) -> FitData:
    """The data that `config.data` names, in the dtype of `config.precision`."""
    data = config.data
    dtype = jnp.dtype(config.precision)
    if data.source == "embedded":
        return _from_head(load_embedded_head(dtype=dtype), config, store=True)
    if data.source == "minilm":
        head = minilm_head(
            data.layer,
            data.head,
            n=data.tokens,
            train=dict(data.train),
            heldout=dict(data.heldout),
            components=data.components or None,
            dtype=dtype,
        )
        return _from_head(head, config, store=data.store_maps)
    if data.source == "synthetic":
        return _synthetic(config, dtype)
    if data.source in ("model", "arrays"):
        return _from_source(sources.model(config) if data.source == "model" else sources.arrays(config), config, dtype)
    raise UsageError(f"config.data.source is {data.source!r}; it must be one of {', '.join(SOURCES)}")


def _from_head(head: HeadInstance, config: Any, *, store: bool) -> FitData:
    def problem(A, Q, K):
        teacher = Teacher(Q, K)
        # A stored map costs n² numbers a document and saves an exp per entry and pass.
        B = jax.nn.softmax(jnp.einsum("knr,kmr->knm", teacher.Q, teacher.K), axis=-1) if store else teacher
        return AttentionRegression(A, A, B, loss=config.loss, ridge=config.ridge, weight=config.weight or None)

    truth = None
    if head.true_factors is not None:
        truth = Factors(*(jnp.asarray(part) for part in head.true_factors)).product()
    return FitData(
        problem(head.A, head.Q, head.K),
        problem(head.A_heldout, head.Q_heldout, head.K_heldout),
        truth,
        Labels(head.tokens[0], head.tokens_heldout[0]),
        head.name,
    )


def _from_source(head: sources.Head, config: Any, dtype: Any) -> FitData:
    if head.rotary is not None and (not config.rank or (config.compare and config.compare_full)):
        raise ProblemError(
            f"rank is {config.rank}, compare_full is {config.compare_full}: a head with rotary positions has no "
            f"full X; set rank to its width, at least {head.rotary.width}, and compare_full=False"
        )

    def problem(part: int) -> AttentionRegression:
        A = head.inputs[part].astype(dtype)
        if head.logits is None or config.data.store_maps:
            B = sources.targets(head, part).astype(dtype)
        else:
            B = Teacher(*(x.astype(dtype) for x in head.logits[part]))
        options: dict[str, Any] = dict(loss=config.loss, ridge=config.ridge, weight=config.weight or None)
        return AttentionRegression(A, A, B, causal=head.causal, rotary=head.rotary, **options)

    truth = head.truth
    if truth is not None and head.rotary is None:
        truth = truth.product()
    return FitData(problem(0), problem(1), truth, Labels(*head.labels), head.title, head.rotary)


def _synthetic(config: Any, dtype: Any) -> FitData:
    data = config.data
    key = jax.random.key(config.seed)
    sizes: dict[str, Any] = dict(n=data.n, d=data.d, loss=config.loss, noise=data.noise, logit_scale=data.logit_scale)
    sizes |= dict(condition=data.condition, ridge=config.ridge, dtype=dtype)
    if data.kind == "vector":
        problem, truth = vector_instance(key, **sizes)
        # A vector problem has one row; unseen data are fresh rows with the same unknown.
        heldout, _ = vector_instance(jax.random.fold_in(key, 1), **sizes)
        heldout = _retarget(heldout, truth)
    elif data.kind == "matrix":
        both: dict[str, Any] = dict(rank=data.rank or None, weight=config.weight or None)
        problem, truth = attention_instance(key, documents=data.documents, **sizes, **both)
        heldout, _ = attention_instance(jax.random.fold_in(key, 1), documents=1, **sizes, **both)
        heldout = _retarget(heldout, truth)
    else:
        raise UsageError(f"config.data.kind is {data.kind!r}; it must be 'matrix' or 'vector'")
    title = f"synthetic {data.kind}, {config.loss}, n = {data.n}, d = {data.d}"
    return FitData(problem, heldout, truth, Labels(None, None), title)


def _retarget(problem: AttentionRegression, X: jax.Array) -> AttentionRegression:
    """The same documents with noiseless targets from X."""
    S = jnp.einsum("kna,ab,kmb->knm", problem.A1, X, problem.A2, precision="highest")
    return replaced(problem, B=targets(S, problem.loss))
