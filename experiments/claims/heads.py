"""Claims about real heads: recovered, reduced, compressed, read from files."""

from experiments.claims.claim import Claim as C
from experiments.claims.claim import Section

# One claim a line, as far as it fits.
# fmt: off


def _levels(prefix: str, levels: dict[str, str], what: str) -> tuple[C, ...]:
    return tuple(C(f"{prefix}_{name}", what.format(level), digits=2) for name, level in levels.items())


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
        *_levels("outputs_cpu", {'1e3': '1e-3', '1e5': '1e-5', '1e8': '1e-8'}, "CPU seconds to a held-out loss of {}"),
        C("outputs_adam", "minibatch Adam, the best of 15 settings", "", "peer.heldout", digits=2),
        C("outputs_adam_cpu", "its CPU seconds", "", "peer.cpu_seconds"),
    ),
    "configs/recover_head.py", ("--config.rounds=1",),
    note="Layer 2 head 3, 36,864 unknowns, 100 texts of 256 tokens. CPU seconds: `tables/seconds_to.csv`.",
)
OUTPUTS_MORE = Section(
    "Seven other heads from 100 texts",
    (
        C("outputs_found", "of 7 heads of layers 0 to 5 below 1e-8", ">=7", digits=1),
        C("outputs_0_2", "held-out loss of layer 0 head 2", "<=1e-8", digits=1),
    ),
    command="python -m experiments.sweep --config configs/recover_head.py:alone",
    note="The six others within 131 s.",
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
            C(f"compress_{rank}", f"rank {rank}, median of 72 heads", ">=1", f"ranks.{rank}.gain.median")
            for rank in (2, 4, 8, 16)
        ),
        C("compress_worst", "worst head of all ranks", ">=1", digits=2),
        C("compress_8_ours", "rank 8, median error of ours", "", "ranks.8.errors.ours.test.maps", digits=2),
        C("compress_8_closed", "of activation-aware SVD, keys centred", "", "ranks.8.errors.centred.test.maps",
          digits=2),
    ),
    "configs/compress_heads.py:short",
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
    QUICKSTART, OUTPUTS, OUTPUTS_MORE, SWEEP, FULL_HEAD, REDUCED, COMPRESS, MODELS,
)
