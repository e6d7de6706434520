"""Tiny random models of each family: the fields of their config.json, their tensors under the published names."""

import json

import numpy as np
from safetensors.numpy import save_file

D, INNER, WORDS, LONGEST, LAYERS = 12, 20, 23, 32, 2


class Draw:
    """Random float32 tensors, collected under their names."""

    def __init__(self, seed):
        self.rng, self.tensors = np.random.default_rng(seed), {}

    def put(self, name, *shape, scale=None, centre=0.0):
        scale = shape[-1] ** -0.5 if scale is None else scale
        self.tensors[name] = (centre + scale * self.rng.standard_normal(shape)).astype(np.float32)

    def norm(self, name, *, bias=True):
        self.put(f"{name}.weight", D, scale=0.2, centre=1.0)
        if bias:
            self.put(f"{name}.bias", D, scale=0.2, centre=0.1)

    def dense(self, name, *shape, bias=True, outputs=0):
        self.put(f"{name}.weight", *shape, scale=1.5 * D**-0.5)
        if bias:
            self.put(f"{name}.bias", shape[outputs], scale=0.3)


def bert(**fields):
    """A BERT with the head for masked words."""
    draw = Draw(1)
    for kind, rows in (("word", WORDS), ("position", LONGEST), ("token_type", 2)):
        draw.put(f"bert.embeddings.{kind}_embeddings.weight", rows, D, scale=1.0)
    draw.norm("bert.embeddings.LayerNorm")
    for i in range(LAYERS):
        name = f"bert.encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            draw.dense(f"{name}.attention.{part}", D, D)
        draw.norm(f"{name}.attention.output.LayerNorm")
        draw.dense(f"{name}.intermediate.dense", INNER, D)
        draw.dense(f"{name}.output.dense", D, INNER)
        draw.norm(f"{name}.output.LayerNorm")
    draw.dense("cls.predictions.transform.dense", D, D)
    draw.norm("cls.predictions.transform.LayerNorm")
    draw.put("cls.predictions.bias", WORDS)
    own = dict(model_type="bert", hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=3, hidden_act="gelu")
    own |= dict(intermediate_size=INNER, vocab_size=WORDS, max_position_embeddings=LONGEST, layer_norm_eps=1e-12)
    return own | fields, draw.tensors


def gpt2(**fields):
    """A GPT-2, its unembedding tied."""
    draw = Draw(2)
    draw.put("transformer.wte.weight", WORDS, D, scale=1.0)
    draw.put("transformer.wpe.weight", LONGEST, D, scale=0.5)
    for i in range(LAYERS):
        name = f"transformer.h.{i}"
        draw.norm(f"{name}.ln_1")
        draw.dense(f"{name}.attn.c_attn", D, 3 * D, outputs=1)
        draw.dense(f"{name}.attn.c_proj", D, D, outputs=1)
        draw.norm(f"{name}.ln_2")
        draw.dense(f"{name}.mlp.c_fc", D, 4 * D, outputs=1)
        draw.dense(f"{name}.mlp.c_proj", 4 * D, D, outputs=1)
    draw.norm("transformer.ln_f")
    own = dict(model_type="gpt2", n_embd=D, n_layer=LAYERS, n_head=3, vocab_size=WORDS, n_positions=LONGEST)
    return own | fields, draw.tensors


def llama(kind="llama", *, biases=False, tied=False, **fields):
    """A Llama with two key heads for four of queries, each of width 6; `kind` and `biases` make it a Qwen2."""
    draw, heads, groups, width = Draw(3), 4, 2, 6
    draw.put("model.embed_tokens.weight", WORDS, D, scale=1.0)
    for i in range(LAYERS):
        name = f"model.layers.{i}"
        draw.norm(f"{name}.input_layernorm", bias=False)
        for part, count in (("q", heads), ("k", groups), ("v", groups)):
            draw.dense(f"{name}.self_attn.{part}_proj", count * width, D, bias=biases)
        draw.dense(f"{name}.self_attn.o_proj", D, heads * width, bias=False)
        draw.norm(f"{name}.post_attention_layernorm", bias=False)
        for part in ("gate", "up"):
            draw.dense(f"{name}.mlp.{part}_proj", INNER, D, bias=False)
        draw.dense(f"{name}.mlp.down_proj", D, INNER, bias=False)
    draw.norm("model.norm", bias=False)
    if not tied:
        draw.put("lm_head.weight", WORDS, D)
    own = dict(model_type=kind, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=heads, head_dim=width)
    own |= dict(num_key_value_heads=groups, intermediate_size=INNER, vocab_size=WORDS, rms_norm_eps=1e-6)
    own |= dict(max_position_embeddings=LONGEST, rope_theta=100.0, tie_word_embeddings=tied, hidden_act="silu")
    return own | fields, draw.tensors


def write(folder, fields, tensors):
    """The folder in the usual layout."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    save_file(tensors, folder / "model.safetensors")
    return folder
