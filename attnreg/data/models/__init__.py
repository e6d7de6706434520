"""Transformers of the BERT, GPT-2 and Llama families: read from a folder, run in JAX, taken apart layer by layer."""

from attnreg.data.models.blocks import LayerTrace
from attnreg.data.models.compressed import (
    CompressedHeads,
    Projections,
    key_cache_bytes,
    load_compressed,
    replace_heads,
    save_compressed,
)
from attnreg.data.models.config import ModelConfig
from attnreg.data.models.factors import LayerFactors, layer_factors, layer_weights
from attnreg.data.models.families import Family, register_family
from attnreg.data.models.language import continued, next_token_losses, perplexity, text_losses
from attnreg.data.models.named import NAMED, load_model, load_tokenizer
from attnreg.data.models.parameters import Model
from attnreg.data.models.passes import Pass, forward, trace_layer, trace_layers
from attnreg.data.models.regression import rotary_of
from attnreg.data.models.rotary import rotate
from attnreg.data.models.tokens import Tokenizer

__all__ = [
    "NAMED",
    "CompressedHeads",
    "Family",
    "LayerFactors",
    "LayerTrace",
    "Model",
    "ModelConfig",
    "Pass",
    "Projections",
    "Tokenizer",
    "continued",
    "forward",
    "key_cache_bytes",
    "layer_factors",
    "layer_weights",
    "load_compressed",
    "load_model",
    "load_tokenizer",
    "next_token_losses",
    "perplexity",
    "register_family",
    "replace_heads",
    "rotary_of",
    "rotate",
    "save_compressed",
    "text_losses",
    "trace_layer",
    "trace_layers",
]
