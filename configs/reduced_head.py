"""The reduced head that ships with the package, whose map no X gives exactly: the noise-limited case.

Shows: layer 5, head 2 of all-MiniLM-L6-v2, 8 documents of 64 tokens in 16 principal components and a constant; the
exact Newton method against L-BFGS and Adam on the same closed-form objective; the fitted map on a text it has not seen.
Command: python -m experiments.run --config configs/reduced_head.py
Expected: relative loss 0.752 at X = 0, 0.1134 fitted; held out 0.786 and 0.359; 272 of 289 directions identified.
Time: about 20 s on two CPU cores, start-up and compilation included.
"""

from ml_collections import ConfigDict

from configs.fit_defaults import fit_config
from experiments.runner.variants import vary

VARIANTS = {"smoke": {"compare_seconds": 0.3}}
EXPECTED = {"full": {"heldout": (0.358, 0.36), "loss": (0.1133, 0.1135)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    config = fit_config(data=dict(source="embedded"), compare=("lbfgs", "adam"), compare_seconds=5.0)
    return vary(config, variant, VARIANTS)
