"""NumPy versions straight from the formulas; imports nothing from attnreg."""

import numpy as np


def softmax(s):
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention_layer(tokens, context, Q, K, P, V, kind):
    """All tokens, separate projections, one head: what the merged query-rows-only model must equal."""
    scores = (tokens @ Q.T) @ (context @ K.T).T
    weights = scores / len(context) if kind == "linear" else softmax(scores)
    return weights @ (context @ V.T) @ P.T


def transformer(A, y, queries, layers, kinds):
    """Logits of the queries: every layer updates every token, reading the context only.

    `layers` is a list of lists of heads (Q, K, P, V).
    """
    context = np.concatenate([A, y[:, None]], axis=1)
    tokens = np.concatenate([context, np.concatenate([queries, np.zeros((len(queries), 1))], axis=1)])
    n = len(A)
    for heads, kind in zip(layers, kinds, strict=True):
        tokens = tokens + sum(attention_layer(tokens, tokens[:n], *head, kind) for head in heads)
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
