"""Claims about derivatives, memory and the time to a solution, against autodiff and other libraries."""

from experiments.claims.claim import Claim as C
from experiments.claims.claim import Section

# One claim a line, as far as it fits.
# fmt: off


def _against_peer(cell: str, text: str, *, least: float = 1) -> C:
    """Time of the best peer over ours."""
    path = f"summary.[cell={cell}].over_ours"
    return C(f"solvers_{cell.replace('-', '_')}", text, f">={least:g}", path, digits=2)


DERIVATIVES = Section(
    "Closed forms against autodiff",
    (
        C("difference", "largest difference, eps × natural scale", "<=8", r"apart +([\d.]+)", digits=2),
        C("difference_closed", "closed forms against 80-bit arithmetic", "<=4", r"closed form +([\d.]+)", digits=2),
        C("difference_autodiff", "autodiff against 80-bit arithmetic", "", r"autodiff +([\d.]+)", digits=2),
    ),
    command="python -m pytest tests/contract/test_losses_contract.py -k worst -n 0 -s", quick=True,
    note="Five losses, with masks and documents, in float32 and float64.",
)
HESSIANS = Section(
    "Exact Hessians",
    (
        C("hessian", "times faster than `jax.hessian`, 512 queries, 256 unknowns", ">=100",
          "hessian.[cell=normalized-512-16].speedup"),
        C("hessian_rescaled", "the same, rescaled loss", ">=100", "hessian.[cell=rescaled-512-16].speedup"),
    ),
    "configs/benchmark_closed_forms.py", ("--config.parts=hessian",), quick=True,
)
CLOSED_FORMS = Section(
    "Gradients, and memory",
    (
        C("hessian_as_hvps", "full Hessian, n = 2048, d = 32: times faster than two autodiff products", ">=1",
          "hessian_as_hvps.0.speedup", digits=2),
        C("gradient_2048", "value and gradient, n = 2048: times faster than autodiff", ">=2",
          "gradient.[cell=normalized-2048-32].speedup", digits=2),
        C("gradient_4096", "n = 4096, by the clock", ">=2", "gradient.[cell=normalized-4096-32].speedup", digits=2),
        C("gradient_4096_cpu", "n = 4096, by CPU time", ">=2", "gradient.[cell=normalized-4096-32].speedup_cpu",
          digits=2),
        C("gradient_mb", "MB of temporaries, n = 2048, below a map of 33", "<=33",
          "gradient.[cell=normalized-2048-32].ours_mb", digits=2),
        C("gradient_mb_autodiff", "MB of autodiff's", "", "gradient.[cell=normalized-2048-32].autodiff_mb"),
        C("large_gb", "GB resident at most, n = 16384", "<=2", "large.[kind=attention].peak_bytes", factor=1e-9,
          digits=2),
    ),
    "configs/benchmark_closed_forms.py", ("--config.parts=('hessian_as_hvps','gradient','large')",),
)
SOLVERS = Section(
    "Time to a gradient of 1e-8: best peer over ours",
    (
        _against_peer("normalized-512-16", "synthetic, n = 512, d = 16"),
        _against_peer("normalized-1024-16", "synthetic, n = 1024, d = 16"),
        _against_peer("normalized-2048-32", "synthetic, n = 2048, d = 32"),
        _against_peer("single-1000-20", "single softmax, n = 1,000, d = 20"),
        _against_peer("single-100000-50", "single softmax, n = 100,000, d = 50"),
        _against_peer("single-1000000-50", "single softmax, n = 1,000,000, d = 50"),
        _against_peer("head-5-2-16", "real head, layer 5 head 2, d = 16", least=5),
        _against_peer("head-5-2-32", "layer 5 head 2, d = 32", least=5),
        _against_peer("head-2-3-16", "layer 2 head 3, d = 16", least=5),
        _against_peer("head-2-3-32", "layer 2 head 3, d = 32", least=5),
    ),
    "configs/benchmark_solvers.py", ("--config.basins.cells=()",),
    note='Peers: scipy and optax L-BFGS, jaxopt Gauss–Newton. Real heads: `coarse_dtype="float32"`.',
)
SOLVERS_DEFAULT = Section(
    "The same real heads with default options",
    (
        C("solvers_default_head_5_2_16", "layer 5 head 2, d = 16", ">=5", digits=2),
        C("solvers_default_head_5_2_32", "layer 5 head 2, d = 32", ">=5", digits=2),
        C("solvers_default_head_2_3_16", "layer 2 head 3, d = 16", ">=5", digits=2),
        C("solvers_default_head_2_3_32", "layer 2 head 3, d = 32", ">=5", digits=2),
    ),
    command="python -m experiments.run --config configs/benchmark_solvers.py",
    note="Read from the rows of our default method in `tables/methods.csv`.",
)
BASINS = Section(
    "The good minimum of 50 random instances, rescaled loss",
    (
        C("basins", "instances where ours finds it", ">=48"),
        C("basins_peer", "where the best peer does"),
        C("basins_most", "where most peers do"),
    ),
    command="python -m experiments.run --config configs/benchmark_solvers.py --config.basins.instances=50",
    note="Counted in `tables/good_minima.csv`.",
)
MULTI_START = Section(
    "One-layer problems in X and Y, noiseless, 60 CPU s each",
    (
        *(
            C(f"layer_{n}", f"({n}, {d}): solved of {of}", f">={of}",
              f"summary.[n={n},d={d},method=attnreg].solved", digits=2)
            for n, d, of in ((64, 4, 50), (256, 8, 20), (512, 16, 10), (1024, 24, 5))
        ),
        C("layer_256_peer", "(256, 8): best peer's CPU time over ours", ">=3", digits=2),
        C("layer_512_peer", "(512, 16): the same", ">=3", digits=2),
        C("layer_64_peer", "(64, 4): the same", ">=3", digits=2),
    ),
    "configs/multi_start.py",
    note="Peers may restart; they get the first few of the same instances.",
)
ONE_LAYER = Section(
    "The joint Hessian of one layer",
    (
        C("layer_hessian", "times less CPU than `jax.hessian`, (256, 8)", ">=1", "hessian.0.speedup_cpu"),
    ),
    "configs/one_layer.py", ("--config.parts=hessian",), quick=True,
)
ONE_LAYER_MEMORY = Section(
    "Memory of one layer, n = 131,072, d = 16",
    (
        C("layer_gb", "GB resident at most: value, gradient, product", "<=4", "large.0.peak_bytes", factor=1e-9,
          digits=2),
        C("layer_gb_autodiff", "GB that autodiff would need", "",
          "temporaries.[cell=one_layer-131072-16,what=autodiff value and gradient].temporary_gb"),
    ),
    "configs/one_layer.py", ("--config.parts=('temporaries','large')",),
)

COSTS = (
    DERIVATIVES, HESSIANS, CLOSED_FORMS, SOLVERS, SOLVERS_DEFAULT, BASINS, MULTI_START, ONE_LAYER,
    ONE_LAYER_MEMORY,
)
