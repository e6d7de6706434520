"""A BERT encoder in NumPy loops, written from the published formulas; imports nothing from attnreg."""

import math

import numpy as np


def forward(tensors, ids, layers, heads=12):
    """Hidden states, and per layer the lists of maps and head outputs, from the tensors under their published names."""
    hidden = [_norm(tensors, "embeddings.LayerNorm", _embedding(tensors, ids))]
    maps, outputs = [], []
    for i in range(layers):
        name = f"encoder.layer.{i}"
        h = hidden[-1]
        query, key, value = (_dense(tensors, f"{name}.attention.self.{x}", h) for x in ("query", "key", "value"))
        width = h.shape[1] // heads
        maps.append([])
        outputs.append([])
        for j in range(heads):
            columns = slice(j * width, (j + 1) * width)
            weights = np.exp(query[:, columns] @ key[:, columns].T / math.sqrt(width))
            maps[-1].append(weights / weights.sum(axis=1, keepdims=True))
            outputs[-1].append(maps[-1][-1] @ value[:, columns])
        attended = _dense(tensors, f"{name}.attention.output.dense", np.hstack(outputs[-1]))
        z = _norm(tensors, f"{name}.attention.output.LayerNorm", h + attended)
        lifted = _gelu(_dense(tensors, f"{name}.intermediate.dense", z))
        hidden.append(_norm(tensors, f"{name}.output.LayerNorm", z + _dense(tensors, f"{name}.output.dense", lifted)))
    return hidden, maps, outputs


def _embedding(tensors, ids):
    words, positions, segments = (
        tensors[f"embeddings.{kind}_embeddings.weight"].astype(np.float64)
        for kind in ("word", "position", "token_type")
    )
    return np.stack([words[token] + positions[i] + segments[0] for i, token in enumerate(ids)])


def _dense(tensors, name, h):
    return h @ tensors[f"{name}.weight"].astype(np.float64).T + tensors[f"{name}.bias"].astype(np.float64)


def _norm(tensors, name, h):
    mean, variance = h.mean(axis=1, keepdims=True), h.var(axis=1, keepdims=True)
    scaled = (h - mean) / np.sqrt(variance + 1e-12)
    return scaled * tensors[f"{name}.weight"].astype(np.float64) + tensors[f"{name}.bias"].astype(np.float64)


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
