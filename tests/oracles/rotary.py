"""Rotary logits with complex numbers, written from the formula: pairs of columns times `e^{iθp}`, in jnp or NumPy."""

import numpy as np


def complex_columns(x, width, layout):
    """The pairs of the first `width` columns as complex numbers, and the columns that stay."""
    if layout == "half":
        return x[..., : width // 2] + 1j * x[..., width // 2 : width], x[..., width:]
    return x[..., 0:width:2] + 1j * x[..., 1:width:2], x[..., width:]


def frequencies(width, base):
    return np.array([1 / base ** (2 * f / width) for f in range(width // 2)])


def logits(q, k, theta, layout="half", positions=None, key_positions=None):
    """`Re Σ_f e^{iθp} q conj(e^{iθp'} k) + ⟨rest, rest⟩` (…, n, m) of projected rows q (…, n, r), k (…, m, r)."""
    positions = np.arange(q.shape[-2]) if positions is None else positions
    key_positions = np.arange(k.shape[-2]) if key_positions is None else key_positions
    (u, u0), (v, v0) = (complex_columns(x, 2 * len(theta), layout) for x in (q, k))
    u = u * np.exp(1j * np.asarray(positions)[..., None] * theta)
    v = v * np.exp(1j * np.asarray(key_positions)[..., None] * theta)
    return (u @ v.conj().swapaxes(-1, -2)).real + u0 @ v0.swapaxes(-1, -2)


def softmax(s, mask):
    """NumPy's softmax over the allowed keys; every row allows one."""
    s = np.where(mask, s, -np.inf)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
