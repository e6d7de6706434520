"""Random maps S of A1 ⊗ A2 to a few rows that never form the product: TensorSRHT and TensorSparse (arXiv 2309.07418).

Row (i, j) of `A1 ⊗ A2`, of n1·n2 rows, is `A1[i] ⊗ A2[j]`. A sketch has m rows and keeps lengths on average,
`E SᵀS = I`; with m of the order of `(d1·d2)/ε²` it keeps all lengths in the column space within ε
(docs/theory/greedy_newton.md has what is published and what is seen).
"""

from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.experimental import sparse

from attnreg.lift import tensor_trick as tt
from attnreg.problems.checks import ProblemError, check_integer, pytree_dataclass


def walsh_hadamard(A: jax.Array) -> jax.Array:
    """`H A` (n, d) for A (n, d), n a power of two and H the n×n matrix of ±1 in Sylvester's order.

    Cost: n·d·log₂ n additions (tests/lift/test_sketches.py).

    >>> import jax.numpy as jnp
    >>> walsh_hadamard(jnp.array([[1.0], [0.0], [0.0], [2.0]])).ravel().tolist()
    [3.0, -1.0, -1.0, 3.0]
    """
    n, d = A.shape
    if n < 1 or n & (n - 1):
        raise ProblemError(f"A has {n} rows; walsh_hadamard needs a power of two: pad with rows of zeros")
    half = 1
    while half < n:
        pairs = A.reshape(n // (2 * half), 2, half * d)
        A = jnp.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        half *= 2
    return A.reshape(n, d)


@pytree_dataclass()
class TensorSRHT:
    """`S = m^{-1/2} P (H D1 ⊗ H D2)`: random signs D, Walsh–Hadamard matrices H, and P, which draws m of the rows.

    Attributes:
        signs1, signs2: (n1,) and (n2,), ±1.
        rows1, rows2: (m,) each, int32: the row of each factor that a drawn row is the product of.

    Source: arXiv 2309.07418, Lemmas J.2 and J.3; n is padded to the next power of two.
    """

    signs1: jax.Array
    signs2: jax.Array
    rows1: jax.Array
    rows2: jax.Array

    @classmethod
    def draw(cls, key: jax.Array, n1: int, n2: int, *, rows: int, dtype: Any = None) -> Self:
        """A sketch of n1·n2 rows to `rows`, in `dtype` (JAX's default float where None)."""
        _check_sizes(n1=n1, n2=n2, rows=rows)
        keys, dtype = jax.random.split(key, 4), jnp.zeros((), dtype).dtype
        signs = (jax.random.rademacher(k, (n,), dtype) for k, n in zip(keys[:2], (n1, n2), strict=True))
        drawn = (
            jax.random.randint(k, (rows,), 0, _power(n), jnp.int32) for k, n in zip(keys[2:], (n1, n2), strict=True)
        )
        return cls(*signs, *drawn)

    def apply(self, A1: jax.Array, A2: jax.Array) -> jax.Array:
        """`S (A1 ⊗ A2)`, (m, d1·d2), for A1 (n1, d1) and A2 (n2, d2).

        Cost: `n·d·log₂ n` additions for each factor, and m·d1·d2 multiplications.
        """
        left, right = self._mixed("A1", A1, self.signs1), self._mixed("A2", A2, self.signs2)
        left = left[self.rows1] * jnp.asarray(self.rows1.shape[0] ** -0.5, left.dtype)
        return (left[:, :, None] * right[self.rows2][:, None, :]).reshape(left.shape[0], -1)

    @staticmethod
    def _mixed(name: str, A: jax.Array, signs: jax.Array) -> jax.Array:
        """`H D A`, A padded by rows of zeros."""
        if isinstance(A, sparse.BCOO):
            raise ProblemError(
                f"{name} is sparse; TensorSRHT mixes all rows, so pass {name}.todense(), or use TensorSparse"
            )
        _check_factor(name, A, signs)
        n = signs.shape[0]
        return walsh_hadamard(jnp.pad(signs[:, None] * A, ((0, _power(n) - n), (0, 0))))


@pytree_dataclass("buckets")
class TensorSparse:
    """s blocks of count sketches of both factors, multiplied as polynomials: each column of S has s entries ±1/√s.

    Block k sends row (i, j) to bucket `h1(i) + h2(j)` modulo `buckets` with sign `σ1(i) σ2(j)/√s`. So a block of
    `S (A1 ⊗ A2)` is a circular convolution of the factors' count sketches, taken by FFT.

    Attributes:
        hashes1, hashes2: (s, n1) and (s, n2), int32: buckets, drawn independently of each other.
        signs1, signs2: (s, n1) and (s, n2), ±1.
        buckets: m/s.

    Source: arXiv 2309.07418, Lemmas J.4 and J.5.
    """

    hashes1: jax.Array
    signs1: jax.Array
    hashes2: jax.Array
    signs2: jax.Array
    buckets: int

    @classmethod
    def draw(cls, key: jax.Array, n1: int, n2: int, *, rows: int, blocks: int, dtype: Any = None) -> Self:
        """A sketch of n1·n2 rows to `rows` in `blocks` blocks of equal size, in `dtype` (JAX's default float)."""
        _check_sizes(n1=n1, n2=n2, rows=rows, blocks=blocks)
        if rows % blocks:
            raise ProblemError(f"rows is {rows}; it must be a multiple of blocks, {blocks}")
        keys, dtype, buckets = jax.random.split(key, 4), jnp.zeros((), dtype).dtype, rows // blocks
        hashes1, hashes2 = (
            jax.random.randint(k, (blocks, n), 0, buckets, jnp.int32) for k, n in zip(keys[:2], (n1, n2), strict=True)
        )
        signs1, signs2 = (jax.random.rademacher(k, (blocks, n), dtype) for k, n in zip(keys[2:], (n1, n2), strict=True))
        return cls(hashes1, signs1, hashes2, signs2, buckets)

    def apply(self, A1: jax.Array | sparse.BCOO, A2: jax.Array | sparse.BCOO) -> jax.Array:
        """`S (A1 ⊗ A2)`, (m, d1·d2), for A1 (n1, d1) and A2 (n2, d2), each dense or a `jax.experimental.sparse.BCOO`.

        Cost: s additions for each stored entry of A1 and A2, `m·d1·d2·log₂(m/s)` for the FFT; one block at a time, so
        that beside the result nothing is larger than a factor or a block.
        """
        for name, A, signs in (("A1", A1, self.signs1), ("A2", A2, self.signs2)):
            _check_factor(name, A, signs[0])

        def block(drawn):
            left, right = (
                jnp.fft.rfft(count_sketch(A, *hashed, buckets=self.buckets), axis=0)
                for A, hashed in zip((A1, A2), drawn, strict=True)
            )
            return jnp.fft.irfft(left[:, :, None] * right[:, None, :], self.buckets, axis=0)

        blocks = jax.lax.map(block, ((self.hashes1, self.signs1), (self.hashes2, self.signs2)))
        blocks = blocks * jnp.asarray(self.signs1.shape[0] ** -0.5, blocks.dtype)
        return blocks.reshape(-1, A1.shape[1] * A2.shape[1])


def count_sketch(A: jax.Array | sparse.BCOO, hashes: jax.Array, signs: jax.Array, *, buckets: int) -> jax.Array:
    """Signed sums of the rows of A (n, d) that share a bucket, (buckets, d), for hashes (n,) and signs (n,).

    Cost: one addition for each stored entry of A.
    """
    if isinstance(A, sparse.BCOO):
        rows, columns = A.indices[:, 0], A.indices[:, 1]
        return jnp.zeros((buckets, A.shape[1]), A.dtype).at[hashes[rows], columns].add(signs[rows] * A.data)
    return jax.ops.segment_sum(signs[:, None] * A, hashes, buckets)


def sketched_gram(sketch: TensorSRHT | TensorSparse, A1: Any, A2: Any) -> jax.Array:
    """`(A1 ⊗ A2)ᵀ SᵀS (A1 ⊗ A2)`, (d1·d2, d1·d2), for A1 (n1, d1) and A2 (n2, d2).

    Cost: that of `sketch.apply`, and 2·m·(d1·d2)² flops.
    """
    image = sketch.apply(A1, A2)
    return tt.matmul(image.T, image)


def kronecker_gram(A1: jax.Array, A2: jax.Array) -> jax.Array:
    """What the sketches approximate, exactly: `(A1ᵀA1) ⊗ (A2ᵀA2)`, (d1·d2, d1·d2), for A1 (n1, d1) and A2 (n2, d2).

    Cost: 2·n1·d1² + 2·n2·d2² flops and (d1·d2)² entries.
    """
    return jnp.kron(tt.matmul(A1.T, A1), tt.matmul(A2.T, A2))


def _power(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        check_integer(name, value, at_least=1)


def _check_factor(name: str, A: Any, signs: jax.Array) -> None:
    n = signs.shape[0]
    if len(A.shape) != 2 or A.shape[0] != n:
        raise ProblemError(f"{name} has shape {tuple(A.shape)}; the sketch was drawn for ({n}, d)")
    if A.dtype != signs.dtype:
        raise ProblemError(f"{name} has dtype {A.dtype}, the sketch {signs.dtype}; draw it with dtype={A.dtype}")
