"""Seeded synthetic instances, and real attention heads of a pretrained transformer."""

from attnreg.data.example import ExampleLayer, example_layer
from attnreg.data.layers import layer_maps, layer_outputs
from attnreg.data.minilm.embedded import load_embedded_head, load_full_head, load_head, save_head
from attnreg.data.minilm.instance import HeadInstance, attention_map, head_instance, minilm_head
from attnreg.data.minilm.texts import windows
from attnreg.data.synthetic import Instance, attention_instance, vector_instance

__all__ = [
    "ExampleLayer",
    "HeadInstance",
    "Instance",
    "attention_instance",
    "attention_map",
    "example_layer",
    "head_instance",
    "layer_maps",
    "layer_outputs",
    "load_embedded_head",
    "load_full_head",
    "load_head",
    "minilm_head",
    "save_head",
    "vector_instance",
    "windows",
]
