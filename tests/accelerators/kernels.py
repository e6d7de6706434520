"""Errors of the hand-written kernels on JAX's default device: `python -m tests.accelerators.kernels [--most 512]`.

Value, gradient and product in float32, by kernels and streamed, against NumPy in float64: formulas of whole maps, and
differences of their gradients for products. Exit code 1 where a kernel is worse than the streamed rows by more than
`WORSE`. On a CPU kernels are interpreted: `--most 64` takes a minute.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from attnreg.objectives import AttentionObjective, OneLayerObjective
from attnreg.problems import AttentionRegression, OneLayerRegression, Teacher, Unknowns

EPS = float(np.finfo(np.float32).eps)
# Times the streamed error, plus so many eps.
WORSE, FLOOR = 4.0, 64 * EPS
HEAD = ("case", *(f"{what}: fused, streamed" for what in ("value", "gradient", "product")))
Gradient = Callable[..., tuple[Any, list[np.ndarray]]]


def main(argv: Sequence[str] | None = None) -> int:
    """A line a case; those that are worse at the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.accelerators.kernels", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--most", type=int, default=2048, help="rows of the longest case")
    options = parser.parse_args(argv)
    print(f"{jax.devices()[0].device_kind}: relative errors\n" + " | ".join(HEAD), flush=True)
    worse = []
    for name, pairs in found(options.most):
        print(" | ".join([name, *(f"{mine:.1e}, {theirs:.1e}" for mine, theirs in pairs)]), flush=True)
        worse += [name] if not all(mine <= WORSE * theirs + FLOOR for mine, theirs in pairs) else []
    print("\n".join(["", "worse than the streamed rows:", *worse]) if worse else "\nas exact as the streamed rows")
    return int(bool(worse))


def found(most: int) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Name of a case, and the errors of value, gradient and product: by kernels, streamed."""
    rng = np.random.default_rng(0)
    n = most - 3  # no multiple of any tile
    mask = rng.random((n, n)) < 0.7
    for name, options in {
        "dense targets": {},
        "causal, targets from factors": {"causal": True, "teacher": True},
        "a mask of pairs": {"mask": mask},
        "logits of 300": {"size": 100.0},
    }.items():
        objective, arguments, gradient = attention(rng, n, 24, **options)
        yield name, errors(objective, arguments, gradient)
    yield "one layer, causal", errors(*one_layer(rng, n, 24))


def errors(objective: Callable[[str], Any], arguments: Any, gradient: Gradient) -> list[tuple[float, float]]:
    """Relative errors of value, gradient and product, for both kernels."""
    x, v = arguments
    step = 1e-5
    of_x, of_v = ([np.asarray(part, np.float64) for part in jax.tree.leaves(tree)] for tree in (x, v))
    value, slopes = gradient(*of_x)
    ahead, behind = (gradient(*(a + h * b for a, b in zip(of_x, of_v, strict=True)))[1] for h in (step, -step))
    want = [[value], slopes, [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]]

    def each(kernel):
        program = jax.jit(lambda o, x, v: (*o.value_and_grad(x), o.linearize(x, cache="none").hvp(v)))
        have = program(objective(kernel), x, v)
        return [apart(jax.tree.leaves(mine), theirs) for mine, theirs in zip(have, want, strict=True)]

    return list(zip(each("fused"), each("streamed"), strict=True))


def apart(have: Sequence[Any], want: Sequence[Any]) -> float:
    """The distance of two lists of arrays, relative to the second; infinite where one is not a number."""
    error = sum(np.sum((np.asarray(a, np.float64) - b) ** 2) for a, b in zip(have, want, strict=True))
    relative = float(np.sqrt(error / sum(np.sum(np.square(b)) for b in want)))
    return relative if np.isfinite(relative) else np.inf


def softmax(s: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Of rows (n, m), over the allowed keys."""
    s = np.where(allowed, s, -np.inf)
    e = np.exp(s - np.max(s, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)


def attention(rng, n: int, d: int, *, causal=False, teacher=False, mask=None, size=1.0):
    """Objectives by kernel, a point and a direction, and value and gradient in float64."""
    A1, A2, Q, K = (rng.normal(size=(n, d)).astype("f") for _ in range(4))
    X, V = (rng.normal(size=(d, d)).astype("f") / np.float32(d) for _ in range(2))
    X = np.float32(size) * X
    allowed = np.ones((n, n), bool) if mask is None else mask
    allowed = np.tri(n, dtype=bool) if causal else allowed
    Q = Q / np.float32(d**0.5)
    B = softmax(Q.astype(float) @ K.astype(float).T, allowed)
    B = B if teacher else B.astype("f")
    problem = AttentionRegression(A1, A2, Teacher(Q, K) if teacher else B, mask=mask, causal=causal)
    left, right = A1.astype(float), A2.astype(float)

    def gradient(X):
        f = softmax(left @ X @ right.T, allowed)
        c = np.where(allowed, f - B, 0)
        p = f * (c - np.sum(f * c, axis=1, keepdims=True))
        return np.sum(c * c), [2 * left.T @ p @ right]

    return (lambda kernel: AttentionObjective(problem, kernel=kernel)), (X, V), gradient


def one_layer(rng, n: int, d: int):
    """The same of a causal one-layer problem."""
    A1, A2, A3 = (rng.normal(size=(n, d)).astype("f") for _ in range(3))
    B = rng.normal(size=(n, 5)).astype("f")
    x, v = (Unknowns(*(rng.normal(size=(d, w)).astype("f") / np.float32(d) for w in (d, 5))) for _ in range(2))
    problem = OneLayerRegression(A1, A2, A3, B, causal=True)
    left, right, values, allowed = *(A.astype(float) for A in (A1, A2, A3)), np.tri(n, dtype=bool)

    def gradient(X, Y):
        f = softmax(left @ X @ right.T, allowed)
        r = f @ values @ Y - B
        q = r @ (values @ Y).T
        p = f * (q - np.sum(f * q, axis=1, keepdims=True))
        return np.sum(r * r), [2 * left.T @ p @ right, 2 * (f @ values).T @ r]

    return (lambda kernel: OneLayerObjective(problem, kernel=kernel)), (x, v), gradient


if __name__ == "__main__":
    sys.exit(main())
