"""The Llama family: causal, rotary positions, grouped keys, RMS norms in front, a gated MLP.

Llama and SmolLM as they are; Mistral has a sliding window, Qwen2 biases of queries, keys and values.
"""

from typing import Any

from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Layer, Parameters, Unembedding
from attnreg.data.models.reading import Options, Tensors
from attnreg.data.models.rotary import frequencies, slowed
from attnreg.problems.checks import ProblemError, check_number

SCALINGS = ("default", "linear", "llama3")
# Buffers of old files, which hold no weights.
BUFFERS = (r"\.rotary_emb\.inv_freq$",)


def config(options: Options) -> ModelConfig:
    """The numbers of a Llama, Mistral or Qwen2; ways to scale rotary positions other than `SCALINGS` are refused."""
    width, heads = options.integer("hidden_size"), options.integer("num_attention_heads")
    head_width = options.integer("head_dim", width // heads)
    base, angles = _rotary(options, head_width)
    return ModelConfig(
        family="llama",
        layers=options.integer("num_hidden_layers"),
        width=width,
        heads=heads,
        groups=options.integer("num_key_value_heads", heads),
        head_width=head_width,
        mlp_width=options.integer("intermediate_size"),
        vocabulary=options.integer("vocab_size"),
        longest=options.integer("max_position_embeddings"),
        norm="rms",
        epsilon=options.number("rms_norm_eps", 1e-6),
        norm_first=True,
        causal=True,
        activation=options.activation("hidden_act", "silu"),
        scale=head_width**-0.5,
        window=_window(options),
        rotary_frequencies=angles,
        rotary_base=base,
        rotary_layout="half",
    )


def parameters(config: ModelConfig, options: Options, tensors: Tensors) -> Parameters:
    """The weights of a Llama, Mistral or Qwen2; without `lm_head` and untied it has no logits."""
    d, inner = config.width, tensors.under("model.")
    found = Parameters(
        words=inner.array("embed_tokens.weight", config.vocabulary, d),
        positions=None,
        norm=None,
        layers=tuple(_layer(config, options, inner, f"layers.{i}") for i in range(config.layers)),
        final_norm=inner.norm("norm", d, bias=False),
    )
    inner.check_all_used("layers.", BUFFERS)
    if options.flag("tie_word_embeddings", False):
        return found._replace(unembedding=Unembedding())
    bare = not tensors.has("model.") and "lm_head.weight" not in tensors
    rows = None if bare else tensors.array("lm_head.weight", config.vocabulary, d)
    return found if bare else found._replace(unembedding=Unembedding(rows))


def _layer(config: ModelConfig, options: Options, tensors: Tensors, name: str) -> Layer:
    d, inner = config.width, config.mlp_width
    joined, shared = config.heads * config.head_width, config.groups * config.head_width
    biased = options.get("model_type") == "qwen2" or options.flag("attention_bias", False)
    # Qwen2 has no bias behind the heads.
    out = biased and options.get("model_type") != "qwen2"
    inside = options.flag("mlp_bias", False)
    return Layer(
        query=tensors.dense(f"{name}.self_attn.q_proj", d, joined, bias=biased),
        key=tensors.dense(f"{name}.self_attn.k_proj", d, shared, bias=biased),
        value=tensors.dense(f"{name}.self_attn.v_proj", d, shared, bias=biased),
        output=tensors.dense(f"{name}.self_attn.o_proj", joined, d, bias=out),
        attention_norm=tensors.norm(f"{name}.input_layernorm", d, bias=False),
        up=tensors.dense(f"{name}.mlp.up_proj", d, inner, bias=inside),
        down=tensors.dense(f"{name}.mlp.down_proj", inner, d, bias=inside),
        output_norm=tensors.norm(f"{name}.post_attention_layernorm", d, bias=False),
        gate=tensors.dense(f"{name}.mlp.gate_proj", d, inner, bias=inside),
    )


def _window(options: Options) -> int | None:
    """The sliding window of the layers that have one; None if none has."""
    kinds = options.get("layer_types", ())
    if options.get("model_type") == "mistral":
        # Absence is not null here: the first Mistral had 4096, and its successors say null.
        return options.get("sliding_window") if "sliding_window" in options.fields else 4096
    if options.get("use_sliding_window", False) or "sliding_attention" in kinds:
        slides = "sliding_attention" in kinds or options.integer("num_hidden_layers") > options.get(
            "max_window_layers", 28
        )
        return options.integer("sliding_window", 4096) if slides else None
    return None


def _rotary(options: Options, width: int) -> tuple[float, tuple[float, ...]]:
    """Base and frequencies of `width` columns, from `rope_parameters` or the older `rope_theta` and `rope_scaling`."""
    scaling: dict[str, Any] = options.get("rope_parameters") or options.get("rope_scaling") or {}
    where = f"rope parameters in {options.where}"
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in SCALINGS:
        raise ProblemError(
            f"rope_type of the {where} is {kind!r}; supported are {', '.join(SCALINGS)}: take a model with one of them"
        )
    partial = scaling.get("partial_rotary_factor", options.get("partial_rotary_factor", 1.0))
    if partial != 1:
        raise ProblemError(f"partial_rotary_factor of the {where} is {partial}; only 1.0 is supported in this family")
    base = scaling.get("rope_theta", options.get("rope_theta", 10000.0))
    check_number(f"rope_theta of the {where}", base, above=0)
    angles = frequencies(float(base), width)
    if kind == "default":
        return float(base), angles
    factor = _positive(scaling, "factor", where)
    if kind == "linear":
        return float(base), tuple(angle / factor for angle in angles)
    names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    low, high, context = (_positive(scaling, name, where) for name in names)
    return float(base), slowed(angles, factor=factor, low=low, high=high, context=context)


def _positive(scaling: dict[str, Any], name: str, where: str) -> float:
    if name not in scaling:
        raise ProblemError(f"the {where} have no {name}, which their rope_type needs")
    check_number(f"{name} of the {where}", scaling[name], above=0)
    return float(scaling[name])
