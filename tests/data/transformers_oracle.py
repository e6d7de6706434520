"""Our forward passes against the package transformers: small random models of each family, written by it, read by us.

    python -m tests.data.transformers_oracle

by a Python that has `attnreg[models]`, torch and transformers (no GPU is needed); none of the quick tests does:

    python -m venv /tmp/oracle && /tmp/oracle/bin/pip install -e '.[models]' torch transformers accelerate
    /tmp/oracle/bin/python -m tests.data.transformers_oracle

Prints, for each model and quantity, the worst error in units of the largest entry, in float32 and in float64, and ends
with an error where one is above 1e-5. Queries, keys, values and outputs are what their projections return there, heads
what the last of them is given; maps, hidden states and logits what the model returns. Cosines and sines of rotary
positions are float32 there, whatever the dtype. The last row is SmolLM2, if it has been fetched: both read its file.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

from attnreg.data.cache import SMOLLM2, cached_file, is_cached
from attnreg.data.models import forward, load_model, load_tokenizer, trace_layer
from attnreg.data.models.folder import INDEX
from attnreg.data.tools.look import story

BOUND = 1e-5
TOKENS, PADDING = 40, 7
# Of the random weights. The default there, 0.02, makes every map uniform, where a fault hides; with 0.3 logits are near
# 30, and the rounding of one cosine is 1e-5 of a map.
SPREAD = 0.15
QUANTITIES = ("hidden", "q", "k", "v", "maps", "heads", "output", "logits")
_SIZES = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=6, intermediate_size=80, vocab_size=97)
_LLAMA = _SIZES | dict(num_key_value_heads=2, max_position_embeddings=256, rope_theta=5e3)
_SLOW = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 5e3,
}
_GPT2 = dict(n_embd=48, n_layer=3, n_head=6, vocab_size=97, n_positions=64)


class Case(NamedTuple):
    """One model: its class and configuration there, where its layers are, and how large a shard of it may be."""

    name: str
    model: str
    config: str
    options: dict[str, Any]
    layers: Callable[[Any], Any]
    shard: str = "50GB"


def _decoder(model):
    return model.model.layers


CASES = (
    Case("bert", "BertForMaskedLM", "BertConfig", _SIZES, lambda m: m.bert.encoder.layer),
    Case("bert (sharded)", "BertForMaskedLM", "BertConfig", _SIZES, lambda m: m.bert.encoder.layer, "40KB"),
    Case("gpt2", "GPT2LMHeadModel", "GPT2Config", _GPT2, lambda m: m.transformer.h),
    Case("llama", "LlamaForCausalLM", "LlamaConfig", _LLAMA, _decoder),
    Case("llama (tied, biases, head_dim)", "LlamaForCausalLM", "LlamaConfig",
         _LLAMA | dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=12), _decoder),
    Case("llama (rope llama3, sharded)", "LlamaForCausalLM", "LlamaConfig",
         _LLAMA | dict(rope_parameters=_SLOW), _decoder, "40KB"),
    Case("llama (rope linear)", "LlamaForCausalLM", "LlamaConfig",
         _LLAMA | dict(rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 5e3}), _decoder),
    Case("mistral", "MistralForCausalLM", "MistralConfig", _LLAMA | dict(sliding_window=64), _decoder),
    Case("qwen2", "Qwen2ForCausalLM", "Qwen2Config", _LLAMA, _decoder),
)  # fmt: skip


def build(case: Case, folder: Path, dtype: str) -> Any:
    """A random model, written to the folder in this precision; biases and norms are random too."""
    torch.manual_seed(20270101)
    config = getattr(transformers, case.config)(**case.options, attn_implementation="eager", initializer_range=SPREAD)
    model = getattr(transformers, case.model)(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.randn_like(weight) * 0.3 + (1.0 if "bias" not in name else 0.1))
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=case.shard)
    if case.shard != "50GB":
        assert (folder / INDEX).is_file(), "the model was to be written in shards"
    return model


def theirs(case: Case, model: Any, ids: np.ndarray, mask: np.ndarray) -> dict[str, list[np.ndarray]]:
    """The quantities of one document as transformers computes them, layer by layer; heads first."""
    caught: dict[str, list[np.ndarray]] = {name: [] for name in ("q", "k", "v", "heads", "output")}
    heads, groups = model.config.num_attention_heads, getattr(model.config, "num_key_value_heads", None)
    hooks = []

    def catch(module: Any, names: tuple[str, ...]) -> None:
        def hook(_module, inputs, output):
            if names == ("output",):
                caught["heads"].append(inputs[0][0].detach().numpy())
            for name, part in zip(names, torch.chunk(output[0], len(names), dim=-1), strict=True):
                caught[name].append(part.detach().numpy())

        hooks.append(module.register_forward_hook(hook))

    for layer in case.layers(model):
        for module, names in projections(layer):
            catch(module, names)
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(ids)[None],
            attention_mask=torch.tensor(mask)[None].long(),
            output_hidden_states=True,
            output_attentions=True,
        )
    for hook in hooks:
        hook.remove()
    for name in ("q", "k", "v", "heads"):
        count = heads if name in ("q", "heads") or groups is None else groups
        caught[name] = [x.reshape(len(ids), count, -1).transpose(1, 0, 2) for x in caught[name]]
    hidden, maps = ([x[0].numpy() for x in found] for found in (out.hidden_states, out.attentions))
    return caught | dict(hidden=hidden, maps=maps, logits=[out.logits[0].numpy()])


def projections(layer: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """The modules of a layer that make q, k, v and the output of its attention, whatever they are called."""
    if hasattr(layer, "attn"):
        yield layer.attn.c_attn, ("q", "k", "v")
        yield layer.attn.c_proj, ("output",)
    elif hasattr(layer, "self_attn"):
        for name in "qkv":
            yield getattr(layer.self_attn, f"{name}_proj"), (name,)
        yield layer.self_attn.o_proj, ("output",)
    else:
        for name, part in (("q", "query"), ("k", "key"), ("v", "value")):
            yield getattr(layer.attention.self, part), (name,)
        yield layer.attention.output.dense, ("output",)


def ours(folder: Path | str, ids: np.ndarray, mask: np.ndarray | None, dtype: str) -> dict[str, list[np.ndarray]]:
    """The same quantities from our loader and forward pass."""
    model = load_model(folder, dtype=dtype)
    allowed = None if mask is None else jnp.asarray(mask)
    done = forward(model, jnp.asarray(ids), mask=allowed)
    traces = [trace_layer(model, jnp.asarray(ids), layer, mask=allowed) for layer in range(model.config.layers)]
    found: dict[str, list[Any]] = {name: [getattr(t, name) for t in traces] for name in QUANTITIES[1:-1]}
    found |= dict(hidden=[*done.hidden[:-1], done.final], logits=[done.logits])
    assert all(x.dtype == dtype for arrays in found.values() for x in arrays)
    return {name: [np.asarray(x, np.float64) for x in arrays] for name, arrays in found.items()}


def errors(case: Case, dtype: str, padding: int) -> dict[str, float]:
    """The worst error of each quantity in units of its largest entry, on the rows of the text."""
    ids = np.random.default_rng(7).integers(0, 97, TOKENS)
    mask = np.arange(TOKENS) < TOKENS - padding
    with tempfile.TemporaryDirectory() as folder:
        model = build(case, Path(folder), dtype)
        wanted = theirs(case, model, ids, mask)
        found = ours(Path(folder), ids, mask if padding else None, dtype)
    worst = {}
    for name in QUANTITIES:
        assert len(found[name]) == len(wanted[name]) > 0
        pairs = [(x[..., mask, :], y[..., mask, :]) for x, y in zip(found[name], wanted[name], strict=True)]
        worst[name] = max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)
    return worst


def smollm2_errors() -> dict[str, float]:
    """The same for SmolLM2 in float32, on 256 tokens of English; token ids must be equal too."""
    path = cached_file(next(iter(SMOLLM2.files)), None, SMOLLM2)
    where = dict(pretrained_model_name_or_path=path.parent, gguf_file=path.name)
    tokenizer = load_tokenizer("smollm2")
    reference = transformers.AutoTokenizer.from_pretrained(**where)
    for text in (story(), "In 2024, 1234567 people's   cats\n\n\tsaid: “naïve” 東京 🙂<|im_end|>"):
        assert tokenizer.encode(text).tolist() == list(reference(text)["input_ids"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **where, attn_implementation="eager", dtype=torch.float32
    ).eval()
    ids = tokenizer.encode(story())[:256]
    wanted = theirs(CASES[3], model, ids, np.ones(len(ids), bool))
    found = ours("smollm2", ids, None, "float32")
    return {
        name: max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(found[name], wanted[name], strict=True))
        for name in QUANTITIES
    }


def main() -> int:
    """Print the table; the exit code is 1 where an error is above the bound."""
    jax.config.update("jax_enable_x64", True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}; {TOKENS} tokens, 3 layers, width 48")
    print(f"{'model':<34}{'dtype':<9}{'padding':<8}" + "".join(f"{name:>9}" for name in QUANTITIES))
    failed = False
    for case in CASES:
        for dtype, padding in (("float32", 0), ("float32", PADDING), ("float64", 0)):
            found = errors(case, dtype, padding)
            print(f"{case.name:<34}{dtype:<9}{padding:<8}" + "".join(f"{found[name]:>9.1e}" for name in QUANTITIES))
            failed |= not all(error <= BOUND for error in found.values())
    if is_cached(None, SMOLLM2):
        found = smollm2_errors()
        print(f"{'SmolLM2-135M':<34}{'float32':<9}{0:<8}" + "".join(f"{found[name]:>9.1e}" for name in QUANTITIES))
        failed |= not all(error <= BOUND for error in found.values())
    else:
        print(f"SmolLM2: not fetched, skipped; {SMOLLM2.command}")
    print(f"above {BOUND:g}" if failed else f"all within {BOUND:g}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
