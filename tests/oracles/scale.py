"""The natural scale of every quantity: what one unit of rounding, eps, means for it.

The scale of a sum is the same sum with every term in absolute value (no cancellation), and every row is multiplied by
its condition number `κ_j = 1 + 2 max_i σ_ji`, `σ = |A1||X||A2|ᵀ`, because a logit carries an error eps·σ_ji and exp
turns an absolute error into a relative one (twice, for the squares of the rescaled family). The scale is entry by
entry, so an error of C·eps·scale is a statement about each entry of a gradient or Hessian, not about norms.

Entries below eps² of the largest in their row count as that large: exp underflows there.
"""

import numpy as np

from tests.oracles import lifted, rows


def sigma(A1, X, A2):
    """`|A1||X||A2|ᵀ` per document, (k, n, m)."""
    return np.abs(A1) @ np.abs(X) @ np.abs(A2).swapaxes(1, 2)


def _row(loss, s, b, sigma, allowed, eps) -> rows.Row:
    m, keys = len(s), np.flatnonzero(allowed)
    if keys.size == 0:
        return rows.row(loss, s, b, allowed)
    s, b, sigma = s[keys], np.abs(b[keys]), sigma[keys]
    kappa = 1 + 2 * np.max(sigma)
    if loss == "linear":
        eye = np.eye(len(s), dtype=s.dtype)
        return rows.embed(rows.Row(np.sum((sigma + b) ** 2), 2 * (sigma + b), 2 * eye, 2 * eye), keys, m)
    if loss == "kl":
        unit, floor = rows.kl(s, b, sign=1), eps**2 * np.sum(b)
        return rows.embed(rows.Row(*(kappa * (x + floor) for x in unit)), keys, m)
    if loss == "normalized":
        f = rows.softmax(s)
        r, J, K = rows.softmax_residual(f + eps**2, b, sign=1)
    else:
        g = [np.abs(x) for x in rows.activation(loss, s)]
        small = np.minimum(sigma, 1)
        g, g1, g2 = g[0] + small * g[1], g[1] + small * g[2], g[2] + small * g[1]
        floor = eps**2 * np.max(g + g1)
        r, J, K = rows.rescaled_residual(g + floor, g1 + floor, g2 + floor, b, sign=1)
    return rows.embed(rows.Row(*(kappa * x for x in rows.assemble(r, J, K))), keys, m)


def natural(data: lifted.Data, X, eps, *, size=None) -> lifted.Quantities:
    """The natural scale of value, gradient, Hessian and Gauss–Newton matrix at X, entry by entry.

    `size` replaces |X| where X was itself computed: |Q||K|ᵀ for X = QKᵀ.
    """
    A1, A2, B, x = (lifted.extended(y) for y in (data.A1, data.A2, data.B, np.ravel(X)))
    sizes = sigma(A1, x.reshape(np.shape(X)) if size is None else size, A2)

    def terms():
        for document, j, allowed in lifted.each_row(data):
            A = np.kron(A1[document, j][None, :], A2[document])
            row = _row(data.loss, A @ x, B[document, j], sizes[document, j], allowed, eps)
            if data.weight is not None:
                weight = lifted.extended(data.weight)[document, j]
                row = lifted.regularized(row, sizes[document, j], weight, allowed)
            yield np.abs(A), row

    return lifted.lift(terms(), abs(lifted.extended(data.ridge)), np.abs(x if size is None else size).ravel())


def worst(got, expected, scale, eps) -> float:
    """The largest error in units of eps × scale; infinite when anything is NaN or a zero scale has an error."""
    error = np.abs(lifted.extended(got) - lifted.extended(expected))
    unit = np.broadcast_to(eps * lifted.extended(scale), error.shape)
    ratio = np.where(error == 0, 0, error / np.where(unit > 0, unit, np.finfo(unit.dtype).tiny))
    return float(np.max(np.where(np.isnan(ratio), np.inf, ratio)))
