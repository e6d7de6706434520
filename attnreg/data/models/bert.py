"""BERT: an encoder with layer norms behind the sums. Texts are single segments (segment 0)."""

from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Layer, Parameters, Unembedding
from attnreg.data.models.reading import Options, Tensors


def config(options: Options) -> ModelConfig:
    """The numbers of a BERT; decoders, relative positions and cross attention are refused."""
    options.only("is_decoder", False)
    options.only("add_cross_attention", False)
    options.only("position_embedding_type", "absolute")
    width, heads = options.integer("hidden_size"), options.integer("num_attention_heads")
    return ModelConfig(
        family="bert",
        layers=options.integer("num_hidden_layers"),
        width=width,
        heads=heads,
        groups=heads,
        head_width=width // heads,
        mlp_width=options.integer("intermediate_size"),
        vocabulary=options.integer("vocab_size"),
        longest=options.integer("max_position_embeddings"),
        norm="layer",
        epsilon=options.number("layer_norm_eps", 1e-12),
        norm_first=False,
        causal=False,
        activation=options.activation("hidden_act", "gelu"),
        scale=(width // heads) ** -0.5,
    )


def parameters(config: ModelConfig, options: Options, tensors: Tensors) -> Parameters:
    """The weights of a BERT, with the head for masked words where the file has one."""
    d, segments = config.width, options.integer("type_vocab_size", 2)
    unembedding = _unembedding(config, options, tensors)
    tensors = tensors.under("bert.")
    # Texts are single segments, so the embedding of segment 0 is added to every position once and for all.
    segment = tensors.array("embeddings.token_type_embeddings.weight", segments, d)[:1]
    found = Parameters(
        words=tensors.array("embeddings.word_embeddings.weight", config.vocabulary, d),
        positions=tensors.array("embeddings.position_embeddings.weight", config.longest, d) + segment,
        norm=tensors.norm("embeddings.LayerNorm", d),
        layers=tuple(_layer(config, tensors, f"encoder.layer.{i}") for i in range(config.layers)),
        unembedding=unembedding,
    )
    tensors.check_all_used("encoder.")
    return found


def _layer(config: ModelConfig, tensors: Tensors, name: str) -> Layer:
    d, inner, joined = config.width, config.mlp_width, config.heads * config.head_width
    query, key, value = (
        tensors.dense(f"{name}.attention.self.{part}", d, joined, bias=True) for part in ("query", "key", "value")
    )
    return Layer(
        query=query,
        key=key,
        value=value,
        output=tensors.dense(f"{name}.attention.output.dense", joined, d, bias=True),
        attention_norm=tensors.norm(f"{name}.attention.output.LayerNorm", d),
        up=tensors.dense(f"{name}.intermediate.dense", d, inner, bias=True),
        down=tensors.dense(f"{name}.output.dense", inner, d, bias=True),
        output_norm=tensors.norm(f"{name}.output.LayerNorm", d),
    )


def _unembedding(config: ModelConfig, options: Options, tensors: Tensors) -> Unembedding | None:
    """The head for masked words, which lies beside the encoder; None for a bare encoder."""
    if not tensors.has("cls.predictions."):
        return None
    tensors, d = tensors.under("cls.predictions."), config.width
    tied = options.flag("tie_word_embeddings", True)
    return Unembedding(
        rows=None if tied else tensors.array("decoder.weight", config.vocabulary, d),
        b=tensors.array("bias" if "bias" in tensors else "decoder.bias", config.vocabulary),
        transform=tensors.dense("transform.dense", d, d, bias=True),
        norm=tensors.norm("transform.LayerNorm", d),
    )
