"""Fields shared by the configs of `experiments.recover`; every knob is declared here. No config itself."""

from typing import Any

from ml_collections import ConfigDict


def recover_config(**changes: Any) -> ConfigDict:
    """The declared fields with their defaults, and `changes` to top-level ones."""
    config = ConfigDict(
        dict(
            experiment="recover.head",
            seed=0,
            precision="float32",
            rank=32,  # of queries, keys and values
            data=dict(
                # minilm; synthetic: a random layer of the sizes below; model: data.model; arrays: data.path
                source="minilm",
                model="",  # a name ("minilm", "smollm2") or a folder with config.json
                text="",  # a file of text for it; empty: the texts that ship
                path="",  # a .npz or .safetensors file: documents A, and B, or maps, or Q and K
                layer=2,
                documents=100,
                tokens=256,
                heldout_documents=16,  # decide when to stop and which weights to keep; half of another kind of text
                test_documents=8,  # looked at once, at the end
                arrays=dict(  # what a file cannot say of itself; a model's own config says it of a model
                    causal=False,
                    heads=1,  # of recover.layer
                    key_heads=0,  # 0: as many
                    rotary=dict(width=0, base=1e4, layout="half"),  # width 0: no rotary positions
                ),
                synthetic=dict(width=384, heads=12, sharpness=3.0, condition=10.0),
            ),
            fit=dict(seconds=180.0, tol=1e-9),
            rounds=3,  # ours and the tuned peer in turn, each round with another seed
            peer=dict(
                rates=(1e-3, 2e-3, 3e-3, 5e-3, 1e-2),  # none: no peer
                scales=(0.1, 0.3, 1.0),  # of the start, times N(0, 1/d)
                tune_steps=1500,
                steps=(500, 1500, 6000),  # its schedules in a round: a short one leads early, a long one ends lower
                documents=8,  # of a batch
            ),
            texts=(),  # numbers of training texts to try as well, ours only
            texts_targets=("outputs",),
        )
    )
    config.update(changes)
    return config


# A random layer and a few steps of everything.
SMOKE: dict[str, Any] = {
    "rank": 2,
    "data.source": "synthetic",
    "data.documents": 8,
    "data.tokens": 12,
    "data.heldout_documents": 4,
    "data.test_documents": 2,
    "data.synthetic": dict(width=6, heads=2, sharpness=1.0, condition=2.0),
    "fit.seconds": 3.0,
    "fit.tol": 1e-3,
    "rounds": 1,
    "peer.rates": (3e-3, 1e-2),
    "peer.scales": (0.3,),
    "peer.tune_steps": 50,
    "peer.steps": (100,),
    "peer.documents": 4,
}
