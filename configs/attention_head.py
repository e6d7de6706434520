"""Any head of all-MiniLM-L6-v2 from its activations: full size (d = 384) or in principal components.

Shows: layer 2 head 3, 4 documents of 512 tokens, d = 384, as rank-32 factors X = QKᵀ (what a head is) by preconditioned
Gauss–Newton–CG in float32, against L-BFGS in the full X: training and held-out loss over time.
Commands: python -m attnreg.data.tools.fetch_minilm   (once: 84 MB)
          python -m experiments.run --config configs/attention_head.py
A head of your model: --config.data.source=model --config.data.model=FOLDER --config.data.text=FILE --config.rank=WIDTH
--config.compare_full=False (SmolLM2: configs/attention_head.py:smollm2). A file of arrays: --config.data.source=arrays
--config.data.path=x.npz; the numbers of data.train and data.heldout say how many documents are for what.
Other heads: --config.data.layer=5 --config.data.head=2; reduced: --config configs/attention_head.py:reduced
Expected: relative loss below 1e-6 and held-out loss below 1e-3 within a minute. Time: about 3 minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from configs.fit_defaults import fit_config
from experiments.runner.variants import vary

VARIANTS = {
    "reduced": {
        "precision": "float64",
        "rank": 0,
        "compare_full": False,
        "data.tokens": 256,
        "data.train": dict(docs=8),
        "data.heldout": dict(docs_heldout=4, card=2),
        "data.components": 32,
        "solver.method": "auto",
        "solver.tol": 1e-8,
        "solver.max_steps": 200,
    },
    "smollm2": {
        "rank": 64,
        "compare_full": False,
        "data.source": "model",
        "data.model": "smollm2",
        "data.tokens": 256,
        "data.train": dict(docs=8),
    },
    "smoke": {
        "data.tokens": 16,
        "data.train": dict(docs=2),
        "data.heldout": dict(docs_heldout=1),
        "solver.max_steps": 3,
        "compare_seconds": 0.2,
    },
}
EXPECTED = {"full": {"heldout": (None, 0.001), "loss": (None, 1e-06)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    data = dict(
        source="minilm",  # model: data.model; arrays: data.path
        model="",  # a name ("minilm", "smollm2") or a folder with config.json
        text="",  # a file of text for it; empty: the texts that ship
        path="",  # a .npz or .safetensors file: documents A, and maps, or Q and K
        # What a file cannot say of itself; a rotary width of 0 is none.
        arrays=dict(causal=False, rotary=dict(width=0, base=1e4, layout="half")),
        layer=2,
        head=3,
        tokens=512,
        train=dict(docs=4),
        heldout=dict(docs_heldout=1, card=1),
        components=0,  # 0: all 384 columns; else principal components, to which a column of ones is added
        store_maps=True,  # False rebuilds the target maps block by block: less memory, one more exp
    )
    config = fit_config(data=data, precision="float32", rank=32, compare=("lbfgs",), compare_full=True)
    config.compare_seconds = 60.0
    config.solver.update(dict(method="newton_cg", tol=1e-5, max_steps=60, seconds=60.0))
    # Strong damping keeps the small principal components back: they fit the training texts first and nothing else.
    config.solver.newton_cg.update(dict(curvature="gauss_newton", preconditioner_damping=1.0))
    return vary(config, variant, VARIANTS)
