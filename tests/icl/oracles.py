"""NumPy versions straight from the formulas; imports nothing from attnreg."""

import numpy as np


def softmax(s):
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention_layer(tokens, context, Q, K, P, V, kind, gate=0.0):
    """All tokens, separate projections, one head: what the merged query-rows-only model must equal."""
    scores = (tokens @ Q.T) @ (context @ K.T).T
    share = {"linear": 0.0, "softmax": 1.0, "mix": 1 / (1 + np.exp(-gate))}[kind]
    weights = (1 - share) * scores / len(context) + share * softmax(scores)
    return weights @ (context @ V.T) @ P.T


def layer_norm(tokens):
    centred = tokens - tokens.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)


def gelu(x):
    """The tanh form."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def transformer(A, y, queries, layers, kinds, *, mlps=None, normalised=False):
    """Logits of the queries: every layer updates every token, reading the context only.

    `layers` is a list of lists of heads (Q, K, P, V[, gate]), `mlps` a list of (in, out) matrices.
    """
    context = np.concatenate([A, y[:, None]], axis=1)
    tokens = np.concatenate([context, np.concatenate([queries, np.zeros((len(queries), 1))], axis=1)])
    n, norm = len(A), layer_norm if normalised else lambda tokens: tokens
    for depth, (heads, kind) in enumerate(zip(layers, kinds, strict=True)):
        read = norm(tokens)
        tokens = tokens + sum(attention_layer(read, read[:n], *head[:4], kind, *head[4:]) for head in heads)
        if mlps:
            tokens = tokens + gelu(norm(tokens) @ mlps[depth][0]) @ mlps[depth][1]
    return -tokens[n:, -1]


def linear_descent(A, b, eta, steps):
    w = np.zeros(A.shape[1])
    for _ in range(steps):
        w = w + eta / len(b) * A.T @ (b - A @ w)
    return w


def softmax_descent(A, b, eta, steps):
    """Gradient of ‖softmax(Aw) − b‖² by the full Jacobian."""
    w = np.zeros(A.shape[1])
    for _ in range(steps):
        f = softmax(A @ w)
        w = w - eta * A.T @ (2 * (np.diag(f) - np.outer(f, f)) @ (f - b))
    return w


def gd_plus(A, b, queries, etas, gammas):
    A, r, Q, answer = A.copy(), b.copy(), queries.copy(), np.zeros(len(queries))
    for eta, gamma in zip(etas, gammas, strict=True):
        w = eta / len(b) * A.T @ r
        r, answer = r - A @ w, answer + Q @ w
        A, Q = A - gamma * A @ (A.T @ A), Q - gamma * Q @ (A.T @ A)
    return answer


def irls(A, b, strength, steps):
    w = np.zeros(A.shape[1])
    for _ in range(steps):
        f = softmax(A @ w)
        H = A.T @ (np.diag(f) - np.outer(f, f)) @ A + strength * np.eye(len(w))
        direction = np.linalg.solve(H, A.T @ (f - b) + strength * w)

        def entropy(w):
            return np.log(np.exp(A @ w).sum()) - b @ A @ w + strength * w @ w / 2

        w = min((w - 2.0**-k * direction for k in range(8)), key=entropy)
    return w


def kernel_logits(name, beta, gain, A, y, queries):
    """`(gain/β) Σ_i κ(β⟨a_q, a_i⟩) y_i`, token by token, from the table of docs/guides/icl.md."""
    found = []
    for a_q in queries:
        s = [beta * float(a_q @ a) for a in A]
        n, size = len(s), beta**2 * float(a_q @ a_q)
        weights = {
            "linear": [x / n for x in s],
            "linear, step falls with |a_q|": [x * np.exp(-size / 2) / n for x in s],
            "linear + quadratic": [(x + x**2 / 2) / n for x in s],
            "exp, mean-field denominator": [np.exp(x) / np.exp(size / 2) / n for x in s],
            "softmax": [np.exp(x) / sum(np.exp(z) for z in s) for x in s],
            "softmax, two heads": [
                np.exp(x) / sum(np.exp(z) for z in s) / 2 - np.exp(-x) / sum(np.exp(-z) for z in s) / 2 for x in s
            ],
        }[name]
        found.append(gain / beta * sum(w * t for w, t in zip(weights, y, strict=True)))
    return np.array(found)
