"""Overrides are typed and named, and every mistake on the command line is one clear line and exit code 2."""

import pytest

from experiments import run, sweep
from experiments.runner.config import UsageError, as_flags, resolve
from tests.experiments.conftest import SELFCHECK

CONFIG = """
from ml_collections import ConfigDict
VARIANTS = {}
def get_config(variant="full"):
    return ConfigDict(dict(experiment="selfcheck", seed=0, precision="float64", flag=False, text="a", sizes=(1, 2),
                           rate=0.1, steps=3, solver=dict(tol=1e-3)))
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(CONFIG)
    return path


def test_overrides_of_every_type(config):
    flags = {"flag": True, "text": "x=$(y) ;", "sizes": (4, 5, 6), "rate": 1e-9, "steps": 7, "solver.tol": 2.0}
    found = resolve(str(config), as_flags(flags)).config
    assert found.to_dict() == {
        "experiment": "selfcheck",
        "seed": 0,
        "precision": "float64",
        "flag": True,
        "text": "x=$(y) ;",
        "sizes": (4, 5, 6),
        "rate": 1e-9,
        "steps": 7,
        "solver": {"tol": 2.0},
    }


def test_an_integer_is_a_valid_float_and_stays_exact(config):
    assert resolve(str(config), ["--config.rate=1"]).config.rate == 1.0
    assert resolve(str(config), ["--config.rate", "0.1"]).config.rate == 0.1


def test_the_resolved_config_cannot_be_changed_or_read_wrongly(config):
    found = resolve(str(config)).config
    with pytest.raises(AttributeError):
        found.missing  # noqa: B018
    with pytest.raises((AttributeError, KeyError)):
        found.missing = 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.solver.tols=1"], "no field 'solver.tols'; did you mean solver.tol?"),
        (["--config.zzz=1"], "no field 'zzz'; it has"),
        (["--config.steps=3.5"], "3.5"),
        (["--config.rate=fast"], "rate=fast"),
        (["--config.flag", "False"], "leftover argument 'False'"),
        (["--config.flag=perhaps"], "flag=perhaps"),
        (["--config.steps=3", "more"], "leftover argument 'more'"),
        (["--config.precision=float16"], "float16"),
        (["--config.experiment=../x"], "must name a module"),
        (["--config.experiment=os"], "there is no experiments/os.py"),
        (["--config.experiment=sweep"], "has no run(config, record)"),
        (["--confg.steps=1"], "confg.steps"),
        (["--config.solver=__import__('os')"], "solver"),
    ],
)
def test_every_mistake_is_one_line_and_exit_code_two(config, capsys, flags, message):
    assert run.main(["--config", str(config), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no config file"),
        ("x = (", "does not import: SyntaxError"),
        ("x = 1", "has no get_config"),
        ("def get_config(variant='full'): return {}", "has no VARIANTS"),
        ("VARIANTS = ['smoke']\ndef get_config(variant='full'): return {}", "has no VARIANTS"),
        ("VARIANTS = {}\ndef get_config(variant='full'): return {}", "returned a dict"),
        ("VARIANTS = {}\ndef get_config(): return 1", 'must take variant="full"'),
        ("VARIANTS = {}\ndef get_config(variant='full'): raise KeyError(variant)", "get_config('full') failed"),
        (CONFIG.replace("seed=0,", ""), "has no field 'seed'"),
        (CONFIG.replace("seed=0", "seed=0.5"), "must be an integer"),
    ],
)
def test_a_bad_config_file_is_one_line_and_exit_code_two(tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "bad.py").write_text(text)
    assert run.main(["--config", str(tmp_path / "bad.py")]) == 2
    assert message in capsys.readouterr().err


def test_flags_of_a_sweep_refuse_what_the_command_line_cannot_carry():
    with pytest.raises(UsageError, match="must be a number"):
        as_flags({"a": {"b": 1}})


def test_a_literal_true_is_not_taken_for_a_variant():
    with pytest.raises(UsageError, match="nothing after the colon"):
        resolve(SELFCHECK.split(":")[0] + ":")


def test_a_misspelt_variant_lists_the_declared_ones(capsys):
    assert run.main(["--config", SELFCHECK.replace(":smoke", ":smkoe")]) == 2
    error = capsys.readouterr().err
    assert "has no variant 'smkoe'; it has full, smoke, slow; did you mean :smoke?" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("main", [run.main, sweep.main])
def test_help_with_a_config_lists_its_variants_and_fields(config, capsys, main):
    config.write_text(CONFIG.replace("VARIANTS = {}", "VARIANTS = {'tiny': {'steps': 1, 'solver.tol': 0.5}}"))
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(config), "--config.rate=0.25", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for line in ("  full\n", "  tiny: steps=1, solver.tol=0.5\n", "  solver.tol = 0.001\n", "  rate = 0.25\n"):
        assert line in out
    assert "--workdir" in out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--config FILE --help lists the variants and fields" in capsys.readouterr().out
    assert main(["--config", str(config) + ":tyni", "--help"]) == 2


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        (run, [], "--config FILE is needed"),
        (run, ["--config=C", "--process=1"], "need --coordinator"),
        (run, ["--config=C", "--checkpoint-seconds=nan"], "must be at least 0"),
        (run, ["--config=C", f"--workdir={'x' * 300}"], "too long"),
        (run, ["--config=C", f"--workdir={'x/' * 3000}"], "too long"),
        (run, ["--config=C", "--workdir=a\nb"], "control character"),
        (sweep, ["--config=S", "--workdir=a\n#SBATCH --wrap=x", "--submit=slurm"], "control character"),
        (sweep, ["--config=S", "--batch=0"], "at least one task"),
        (sweep, ["--config=S", "--pack=0", "--submit=slurm"], "at least one task a job"),
        (sweep, ["--config=S", "--slurm=nodes=0", "--submit=slurm"], "nodes is 0; it must be positive"),
        (sweep, ["--config=C"], "has no sweep()"),
        (sweep, ["--config=B"], "sweep() failed: ZeroDivisionError"),
    ],
)
def test_impossible_options_are_one_line_and_exit_code_two(config, tmp_path, capsys, command, flags, message):
    broken = tmp_path / "b.py"
    broken.write_text(CONFIG + "def sweep(): return 1 / 0\n")
    named = {"--config=C": str(config), "--config=S": SELFCHECK, "--config=B": str(broken)}
    flags = [f"--config={named[flag]}" if flag in named else flag for flag in flags]
    assert command.main(flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
