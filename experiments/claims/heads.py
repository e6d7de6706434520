"""Claims about real heads: recovered, reduced, compressed, read from files."""

from experiments.claims.claim import Claim as C
from experiments.claims.claim import Section

# One claim a line, as far as it fits.
# fmt: off


def _levels(prefix: str, levels: dict[str, str], what: str, path: str = "") -> tuple[C, ...]:
    return tuple(
        C(f"{prefix}_{name}", what.format(level), path=path.format(level), digits=2) for name, level in levels.items()
    )


QUICKSTART = Section(
    "A real head at full width from its maps",
    (
        C("head_loss", "loss", "<=1e-9", "loss", digits=2),
        C("head_heldout", "loss on unseen texts", "<=1e-9", "heldout", digits=2),
        C("head_logits", "error of the logits there, %", "<=0.001", "heldout_logit_error", factor=100, digits=2),
        C("head_lbfgs", "L-BFGS, 500 steps: loss", "", "methods.lbfgs.loss", digits=2),
        C("head_lbfgs_heldout", "on unseen texts", "", "methods.lbfgs.heldout", digits=2),
        C("head_lbfgs_logits", "error of the logits, %", "", "methods.lbfgs.heldout_logit_error", factor=100, digits=2),
        C("head_adam", "Adam, 1,000 steps: loss", "", "methods.adam.loss", digits=2),
        C("head_adam_heldout", "on unseen texts", "", "methods.adam.heldout", digits=2),
        C("head_adam_logits", "error of the logits, %", "", "methods.adam.heldout_logit_error", factor=100, digits=2),
    ),
    "configs/quickstart.py", quick=True,
    note="Layer 2 head 3 of MiniLM, 147,456 unknowns, 4 texts of 512 tokens.",
)
OUTPUTS = Section(
    "Heads from their outputs alone",
    (
        C("outputs_heldout", "loss on unseen texts", "<=1e-8", "heldout", digits=2),
        *_levels("outputs_cpu", {'1e3': '1e-03', '1e5': '1e-05', '1e8': '1e-08'},
                 "CPU seconds to a held-out loss of {}", "cpu_reached.{}"),
        C("outputs_adam", "minibatch Adam, the best of 15 settings and of nine runs", "", "peer.heldout", digits=2),
        C("outputs_adam_cpu", "its CPU seconds", "", "peer.cpu_seconds", digits=2),
    ),
    "configs/recover_head.py", ("--config.peer.rates=(5e-3,)", "--config.peer.scales=(0.1,)"),
    note="Layer 2 head 3, 36,864 unknowns, 100 texts of 256 tokens, the first of three runs. Adam's rate and scale "
    "were the best of 15 in an earlier run without these two flags.",
)
OUTPUTS_MORE = Section(
    "All 72 heads from the outputs of 100 texts",
    (
        C("outputs_1e4", "heads with a held-out loss of at most 1e-4", ">=68", r"at most 1e-04: (\d+) of 72", digits=2),
        C("outputs_1e3", "of at most 1e-3", "", r"at most 1e-03: (\d+) of 72", digits=2),
    ),
    command="python -m experiments.recover.survey runs/recover_head-alone-sweep",
    note="The sweep: `python -m experiments.sweep --config configs/recover_head.py:alone --config.fit.seconds=300 "
    "--config.fit.tol=9e-5`.",
    reads="recover_head-alone-sweep",
)
LAYER = Section(
    "A whole layer, 12 heads that add up, from the outputs of 300 texts",
    (
        C("layer_heldout", "loss on unseen texts", "<=1e-3", "heldout", digits=2),
        C("layer_cpu", "CPU seconds in all", "", "cpu_seconds", digits=3),
        C("layer_found", "heads found, of 12 (cosine of logits above 0.99)", "", "heads_found", digits=2),
    ),
    "configs/recover_layer.py:alone", ("--config.fit.seconds=2400", "--config.fit.tol=9e-4"),
    note="Layer 2 of MiniLM, 589,824 unknowns, texts of 128 tokens.",
)
SWEEP = Section(
    "All 72 heads from the maps of 16 texts, 25 s each",
    (
        C("sweep_1e3", "heads with a held-out loss of at most 1e-3", ">=72", digits=2),
        C("sweep_1e6", "of at most 1e-6", "", digits=2),
    ),
    command="python -m experiments.sweep --config configs/recover_head.py:maps --config.fit.seconds=25",
)
FULL_HEAD = Section(
    "A full-size head from 4 texts, over time",
    (
        *_levels("full", {'1e3': '1e-3', '1e4': '1e-4', '1e6': '1e-6'}, "seconds to a loss of {}"),
        C("full_loss", "loss at the end", "<=1e-6", "loss", digits=2),
        C("full_heldout", "held out", "<=1e-3", "heldout", digits=2),
        C("full_lbfgs", "L-BFGS on the same closed form, 60 s", "", "methods.lbfgs.loss", digits=2),
        C("full_lbfgs_heldout", "held out", digits=2),
    ),
    "configs/attention_head.py",
)
REDUCED = Section(
    "The shipped reduced head, whose map no X gives exactly",
    (
        C("reduced_zero", "loss at X = 0", "", "loss_at_zero"),
        C("reduced_loss", "fitted", "<=0.114", "loss", digits=4),
        C("reduced_heldout_zero", "held out at X = 0", "", "heldout_at_zero"),
        C("reduced_heldout", "held out, fitted", "<=0.36", "heldout"),
        C("reduced_steps", "Newton steps", "", "steps"),
        C("reduced_lbfgs", "steps of L-BFGS on the same objective"),
    ),
    "configs/reduced_head.py", quick=True,
)
COMPRESS = Section(
    "Heads of smaller rank: map error of the best closed form over ours",
    (
        *(
            C(f"compress_{rank}", f"rank {rank}, median of 72 heads", ">=1.3", f"ranks.{rank}.gain.median")
            for rank in (2, 4, 8, 16)
        ),
        *(
            C(f"compress_{rank}_worst", f"rank {rank}, worst head", ">=1", f"ranks.{rank}.gain.worst", digits=2)
            for rank in (2, 4, 8, 16)
        ),
        C("compress_8_ours", "rank 8, median error of ours", "", "ranks.8.errors.ours.test.maps", digits=2),
        C("compress_8_closed", "of activation-aware SVD", "", "ranks.8.errors.logits.test.maps", digits=2),
        C("compress_8_whole", "all heads at rank 8: mean change of a cosine between two texts", "<=0.0469",
          "ranks.8.whole.ours.drift", digits=2),
        C("compress_8_whole_closed", "the same, activation-aware SVD", "", "ranks.8.whole.logits.drift", digits=2),
    ),
    "configs/compress_heads.py",
)
COMPRESS_ROTARY = Section(
    "The same for SmolLM2: rotary positions, keys that three heads share",
    (
        *(
            C(f"compress_rotary_{rank}", f"rank {rank}, median of 270 heads", ">=1", f"ranks.{rank}.gain.median")
            for rank in (8, 16, 32)
        ),
        *(
            C(f"compress_rotary_{rank}_better", f"rank {rank}, share that gains", ">=0.9", f"ranks.{rank}.better",
              digits=2)
            for rank in (8, 16, 32)
        ),
        C("compress_rotary_perplexity", "all heads at rank 32: perplexity", "<=54.7", "ranks.32.whole.ours.perplexity"),
        C("compress_rotary_closed", "the same, activation-aware SVD", "", "ranks.32.whole.logits.perplexity"),
    ),
    "configs/compress_heads.py:smollm2",
)
COMPRESS_OUTPUTS = Section(
    "The same, fitted to what heads write",
    (
        C("compress_outputs_8", "all heads at rank 8: perplexity", "<=224", "ranks.8.whole.ours.perplexity"),
        C("compress_outputs_8_closed", "the best closed form", "", "ranks.8.whole.logits.perplexity"),
        C("compress_outputs_32", "all heads at rank 32: perplexity", "<=54.7", "ranks.32.whole.ours.perplexity"),
    ),
    "configs/compress_heads.py:smollm2_outputs",
)
MODELS = Section(
    "Forward passes of five families against transformers",
    (
        C("models", "largest difference of a layer's quantities, of their largest entry, float32", "<=5e-6", digits=1),
    ),
    command="python -m tests.data.transformers_oracle",
    note="BERT, GPT-2, Llama, Mistral, Qwen2, and SmolLM2.",
)

HEADS = (
    QUICKSTART, OUTPUTS, OUTPUTS_MORE, LAYER, SWEEP, FULL_HEAD, REDUCED, COMPRESS, COMPRESS_ROTARY, COMPRESS_OUTPUTS,
    MODELS,
)
