"""GPT-2 and the Llama family in NumPy loops, written from the published formulas; imports nothing from attnreg.

Each takes the fields of a config.json and the tensors under their published names, and one text; it gives the hidden
states (the last one behind the final norm), per layer a dict of lists of heads, and the logits.
"""

import math

import numpy as np


def gpt2(fields, tensors, ids):
    """GPT-2 of one text."""
    w = {name.removeprefix("transformer."): x.astype(np.float64) for name, x in tensors.items()}
    h = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    hidden, layers, eps = [h], [], fields.get("layer_norm_epsilon", 1e-5)

    def norm(x, name):
        centred = x - x.mean(axis=1, keepdims=True)
        return centred / np.sqrt(x.var(axis=1, keepdims=True) + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    for i in range(fields["n_layer"]):
        read = norm(h, f"h.{i}.ln_1")
        q, k, v = (_heads(part, fields["n_head"]) for part in np.split(dense(read, f"h.{i}.attn.c_attn"), 3, axis=1))
        maps = [_map(q[j] @ k[j].T / math.sqrt(q[j].shape[1])) for j in range(len(q))]
        heads = [maps[j] @ v[j] for j in range(len(q))]
        output = dense(np.hstack(heads), f"h.{i}.attn.c_proj")
        layers.append(dict(inputs=read, q=q, k=k, v=v, maps=maps, heads=heads, output=output))
        h = h + output
        lifted = dense(norm(h, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        bent = 0.5 * lifted * (1 + np.tanh(math.sqrt(2 / math.pi) * (lifted + 0.044715 * lifted**3)))
        h = h + dense(bent, f"h.{i}.mlp.c_proj")
        hidden.append(h)
    hidden[-1] = norm(h, "ln_f")
    return hidden, layers, hidden[-1] @ w["wte.weight"].T


def llama(fields, tensors, ids):
    """Llama, Mistral or Qwen2 of one text, with rotary positions as turns of complex numbers."""
    w = {name.removeprefix("model."): x.astype(np.float64) for name, x in tensors.items()}
    h = w["embed_tokens.weight"][ids]
    hidden, layers, eps = [h], [], fields["rms_norm_eps"]

    def norm(x, name):
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * w[f"{name}.weight"]

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    for i in range(fields["num_hidden_layers"]):
        name = f"layers.{i}"
        read = norm(h, f"{name}.input_layernorm")
        q = _heads(dense(read, f"{name}.self_attn.q_proj"), fields["num_attention_heads"])
        k, v = (_heads(dense(read, f"{name}.self_attn.{x}_proj"), fields["num_key_value_heads"]) for x in "kv")
        turned = [[turn(x, fields["rope_theta"]) for x in part] for part in (q, k)]
        share = len(q) // len(k)
        maps = [_map(turned[0][j] @ turned[1][j // share].T / math.sqrt(q[j].shape[1])) for j in range(len(q))]
        heads = [maps[j] @ v[j // share] for j in range(len(q))]
        output = dense(np.hstack(heads), f"{name}.self_attn.o_proj")
        layers.append(
            dict(
                inputs=read,
                q=q,
                k=k,
                v=v,
                q_rotated=turned[0],
                k_rotated=turned[1],
                maps=maps,
                heads=heads,
                output=output,
            )
        )
        h = h + output
        read = norm(h, f"{name}.post_attention_layernorm")
        gate = dense(read, f"{name}.mlp.gate_proj")
        h = h + dense(gate / (1 + np.exp(-gate)) * dense(read, f"{name}.mlp.up_proj"), f"{name}.mlp.down_proj")
        hidden.append(h)
    hidden[-1] = norm(h, "norm")
    return hidden, layers, hidden[-1] @ w.get("lm_head.weight", w["embed_tokens.weight"]).T


def turn(x, base):
    """Column i and column i + width/2 as one complex number, multiplied by exp(i · position · base^(−2i/width))."""
    n, width = x.shape
    z = x[:, : width // 2] + 1j * x[:, width // 2 :]
    angle = np.arange(n)[:, None] * base ** (-2 * np.arange(width // 2) / width)[None, :]
    z = z * np.exp(1j * angle)
    return np.hstack([z.real, z.imag])


def _heads(x, count):
    return np.split(x, count, axis=1)


def _map(logits):
    """Row by row over the keys that come no later."""
    out = np.zeros_like(logits)
    for i, row in enumerate(logits):
        weights = np.exp(row[: i + 1] - row[: i + 1].max())
        out[i, : i + 1] = weights / weights.sum()
    return out
