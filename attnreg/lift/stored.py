"""`A x`, `Aᵀ v` and `Aᵀ diag(w) A` from the stored entries of a sparse A (n, d): nothing of size n·d is formed.

Rows are grouped by how many entries they have, up to 1, 2, 4, …, and padded within their group. So a compiled program
knows how many products there are, and one long row does not lengthen the others.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from attnreg.lift.tensor_trick import triangle
from attnreg.problems.checks import ProblemError, pytree_dataclass


class Group(NamedTuple):
    """Rows of about as many stored entries: rows (r,), columns (r, s), both int32, and values (r, s); 0 pads."""

    rows: jax.Array
    columns: jax.Array
    values: jax.Array


@pytree_dataclass("shape")
class StoredRows:
    """The stored entries of a matrix, row by row.

    Attributes:
        groups: a `Group` for each power of two; every row with an entry is in one.
        shape: (n, d).
    """

    groups: tuple[Group, ...]
    shape: tuple[int, int]

    @classmethod
    def of(cls, A: Any) -> "StoredRows":
        """The entries of a BCOO matrix A (n, d), read on the host; those of one place are added, zeros left out.

        Cost: one sort of the entries.

        Raises: ProblemError for another type or shape, and where all entries are zero.
        """
        if not isinstance(A, sparse.BCOO) or A.ndim != 2 or A.n_batch or A.n_dense:
            shape = f" of shape {tuple(A.shape)}" if hasattr(A, "shape") else ""
            raise ProblemError(f"A is a {type(A).__name__}{shape}; it must be a BCOO matrix (n, d) without batch axes")
        n, d = A.shape
        places, values = np.asarray(A.indices), np.asarray(A.data)
        inside = (places < (n, d)).all(axis=1)  # what BCOO pads with lies outside
        flat, back = np.unique(places[inside] @ np.array([d, 1], np.int64), return_inverse=True)
        summed = np.zeros(flat.size, values.dtype)
        np.add.at(summed, back, values[inside])
        flat, summed = flat[summed != 0], summed[summed != 0]
        row, column = np.divmod(flat, d)
        which, first, count = np.unique(row, return_index=True, return_counts=True)
        level = np.ceil(np.log2(count)).astype(int)
        groups = []
        for size in np.unique(level):
            here = level == size
            slot = np.arange(count[here].max())
            kept = slot < count[here][:, None]
            entry = np.where(kept, first[here][:, None] + slot, 0)
            padded = np.where(kept, summed[entry], np.zeros((), values.dtype))
            columns = np.where(kept, column[entry], 0).astype(np.int32)
            groups.append(Group(*(jnp.asarray(x) for x in (which[here].astype(np.int32), columns, padded))))
        if not groups:
            raise ProblemError(f"A of shape ({n}, {d}) has no entry that is not zero")
        return cls(tuple(groups), (n, d))

    @property
    def dtype(self) -> Any:
        """Of the entries."""
        return self.groups[0].values.dtype

    @property
    def stored(self) -> int:
        """Entries in memory, with padding: less than twice as many as A has, as no row is padded to twice its own."""
        return sum(group.values.size for group in self.groups)

    @property
    def pairs(self) -> int:
        """Products of two entries of one row, with padding: what `gram` adds up."""
        return sum(r * s * (s + 1) // 2 for r, s in (group.values.shape for group in self.groups))

    def times(self, x: jax.Array) -> jax.Array:
        """`A x` (n,) for x (d,). Cost: two flops for each entry."""
        out = jnp.zeros(self.shape[0], x.dtype)
        for rows, columns, values in self.groups:
            out = out.at[rows].set(jnp.sum(values * x[columns], axis=1), unique_indices=True)
        return out

    def transposed_times(self, v: jax.Array) -> jax.Array:
        """`Aᵀ v` (d,) for v (n,). Cost: two flops for each entry."""
        out = jnp.zeros(self.shape[1], v.dtype)
        for rows, columns, values in self.groups:
            out = out.at[columns.reshape(-1)].add((values * v[rows][:, None]).reshape(-1))
        return out

    def gram(self, weights: jax.Array) -> jax.Array:
        """`Aᵀ diag(weights) A` (d, d) for weights (n,).

        Cost: s(s + 1)/2 additions, at scattered places, and s(s + 3)/2 multiplications for a row of s entries
        (tests/lift/test_stored.py); d² entries of memory, and one number for each pair of a row's entries.
        """
        d = self.shape[1]
        half = jnp.zeros(d * d, weights.dtype)
        for rows, columns, values in self.groups:
            i, j = triangle(values.shape[1])
            # Columns rise along a row, but for padding, whose product is zero: these are places in an upper triangle.
            places = columns[:, i] * d + columns[:, j]
            products = (values * weights[rows][:, None])[:, i] * values[:, j]
            half = half.at[places.reshape(-1)].add(products.reshape(-1))
        upper = half.reshape(d, d)
        return upper + upper.T - jnp.diag(jnp.diagonal(upper))
