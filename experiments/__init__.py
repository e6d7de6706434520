"""Experiments: each module has `run(config, record)`; `python -m experiments.run --config configs/x.py` runs one."""

import importlib.util
import os

# The library does without these, so an environment may lack them all.
_NEEDED = ("absl", "cycler", "matplotlib", "ml_collections", "orbax", "rich")
if _missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
    raise ModuleNotFoundError(
        f"the laboratory needs {', '.join(_missing)}: pip install -e '.[lab]' in a checkout, "
        "pip install 'attnreg[lab]' elsewhere"
    )

# OpenBLAS (LAPACK's Cholesky and eigh, through SciPy) spins its threads at barriers: on a machine that does anything
# else a 1024×1024 Cholesky then takes 10 to 100 times longer. Measured in docs/decisions.md, 2026-11-22. XLA's own
# products keep all cores. Must be set before SciPy is loaded; a user's own setting wins.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
