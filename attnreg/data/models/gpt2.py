"""GPT-2: a causal decoder, learned positions, layer norms in front; its matrices are stored (inputs, outputs)."""

from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Dense, Layer, Parameters, Unembedding
from attnreg.data.models.reading import Options, Tensors

# Buffers of old files, which hold no weights: the causal mask and what it is filled with.
BUFFERS = (r"\.attn\.bias$", r"\.attn\.masked_bias$")


def config(options: Options) -> ModelConfig:
    """The numbers of a GPT-2; cross attention and a scale of its own in each layer are refused."""
    options.only("add_cross_attention", False)
    options.only("scale_attn_by_inverse_layer_idx", False)
    width, heads = options.integer("n_embd"), options.integer("n_head")
    scaled = options.flag("scale_attn_weights", True)
    return ModelConfig(
        family="gpt2",
        layers=options.integer("n_layer"),
        width=width,
        heads=heads,
        groups=heads,
        head_width=width // heads,
        mlp_width=options.integer("n_inner", 4 * width),
        vocabulary=options.integer("vocab_size"),
        longest=options.integer("n_positions", options.get("n_ctx")),
        norm="layer",
        epsilon=options.number("layer_norm_epsilon", 1e-5),
        norm_first=True,
        causal=True,
        activation=options.activation("activation_function", "gelu_new"),
        scale=(width // heads) ** -0.5 if scaled else 1.0,
    )


def parameters(config: ModelConfig, options: Options, tensors: Tensors) -> Parameters:
    """The weights of a GPT-2; without `lm_head` and untied it has no logits."""
    d, inner = config.width, tensors.under("transformer.")
    found = Parameters(
        words=inner.array("wte.weight", config.vocabulary, d),
        positions=inner.array("wpe.weight", config.longest, d),
        norm=None,
        layers=tuple(_layer(config, inner, f"h.{i}") for i in range(config.layers)),
        final_norm=inner.norm("ln_f", d),
    )
    inner.check_all_used("h.", BUFFERS)
    if options.flag("tie_word_embeddings", True):
        return found._replace(unembedding=Unembedding())
    bare = not tensors.has("transformer.") and "lm_head.weight" not in tensors
    rows = None if bare else tensors.array("lm_head.weight", config.vocabulary, d)
    return found if bare else found._replace(unembedding=Unembedding(rows))


def _layer(config: ModelConfig, tensors: Tensors, name: str) -> Layer:
    d, inner = config.width, config.mlp_width

    def dense(part: str, inputs: int, outputs: int) -> Dense:
        return tensors.dense(f"{name}.{part}", inputs, outputs, bias=True, transposed=False)

    joined = dense("attn.c_attn", d, 3 * d)
    assert joined.b is not None
    query, key, value = (Dense(joined.w[:, i * d : (i + 1) * d], joined.b[i * d : (i + 1) * d]) for i in range(3))
    return Layer(
        query=query,
        key=key,
        value=value,
        output=dense("attn.c_proj", d, d),
        attention_norm=tensors.norm(f"{name}.ln_1", d),
        up=dense("mlp.c_fc", d, inner),
        down=dense("mlp.c_proj", inner, d),
        output_norm=tensors.norm(f"{name}.ln_2", d),
    )
