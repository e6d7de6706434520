"""Which accelerators a process takes, from faked variables of Slurm, MPI and CUDA; what each worker of a sweep gets."""

from pathlib import Path

import jax
import pytest

from experiments import sweep
from experiments.runner import devices, distributed
from experiments.runner.config import UsageError
from experiments.runner.devices import Machine, local_device_ids, shares

CONFIG = Path(__file__).parents[2] / "configs" / "selfcheck.py:smoke"
EIGHT = "0,1,2,3,4,5,6,7"


def slurm(local, tasks, gpus=None, node=0, **more):
    """The environment of one task of a Slurm step."""
    names = dict(SLURM_JOB_ID="77", SLURM_LOCALID=str(local), SLURM_NODEID=str(node), SLURM_STEP_TASKS_PER_NODE=tasks)
    given = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
    return names | given | {f"SLURM_{name}": value for name, value in more.items()}


@pytest.mark.parametrize(
    ("environ", "taken"),
    [
        # --ntasks-per-node=1 --gpus-per-node=8: all of them
        (slurm(0, "1(x4)", EIGHT, GPUS_ON_NODE="8"), []),
        # --ntasks-per-node=8 --gpus-per-node=8: all see all, one each
        (slurm(3, "8(x4)", EIGHT, GPUS_ON_NODE="8"), [3]),
        (slurm(7, "8", EIGHT), [7]),
        # --ntasks-per-node=2 --gpus-per-node=8: half each
        (slurm(1, "2", EIGHT), [4, 5, 6, 7]),
        # --gpus-per-task=1: bound, whatever the only visible one is called
        (slurm(3, "8", "3"), []),
        (slurm(3, "8", "0", GPUS_PER_TASK="1"), []),
        (slurm(1, "4", "2,3", GPUS_PER_TASK="2"), []),
        (slurm(1, "4", "2,3", TRES_PER_TASK="cpu=8,gres/gpu=2"), []),
        (slurm(1, "2", "2,3", GPU_BIND="single:2"), []),
        # bound by other means: fewer are visible than the node has
        (slurm(1, "4", "2,3", GPUS_ON_NODE="8"), []),
        # names instead of numbers; unequal nodes
        (slurm(1, "2", "GPU-a,GPU-b"), [1]),
        (slurm(0, "2,1", EIGHT, node=1), []),
        (slurm(0, "2(x2),1", EIGHT, node=2), []),
        # no GPU was given, or nothing was said
        (slurm(1, "2", ""), []),
        (slurm(1, "2", "NoDevFiles"), []),
        (slurm(3, "8"), []),
        ({}, []),
        # Open MPI
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, [1]),
    ],
)
def test_a_task_takes_what_is_its_own(environ, taken):
    assert local_device_ids(environ) == taken


def test_tasks_of_a_node_take_every_gpu_once():
    for tasks in (1, 2, 4, 8):
        taken = [local_device_ids(slurm(i, str(tasks), EIGHT)) or range(8) for i in range(tasks)]
        assert sorted(device for part in taken for device in part) == list(range(8))


def test_parts_that_are_not_whole_are_refused_with_the_ways_out():
    with pytest.raises(
        UsageError, match=r"3 tasks on this node see the same 8 GPUs.*--ntasks-per-node=1 .*--gpus-per-t"
    ):
        local_device_ids(slurm(0, "3", EIGHT))


def test_a_sweep_gives_each_worker_its_gpu_and_its_part_of_the_memory():
    given = shares(5, Machine("gpu", 2), {"CUDA_VISIBLE_DEVICES": "4,6"})
    assert [share["CUDA_VISIBLE_DEVICES"] for share in given.environments] == ["4", "6", "4", "6", "4"]
    parts = {"4": 0.0, "6": 0.0}
    for share in given.environments:
        parts[share["CUDA_VISIBLE_DEVICES"]] += float(share["XLA_PYTHON_CLIENT_MEM_FRACTION"])
    assert parts == pytest.approx({"4": 0.9, "6": 0.9})
    assert given.words == "5 workers on 2 GPUs: one GPU each, 30% of its memory"
    alone = shares(2, Machine("gpu", 8), {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"})
    assert [share["CUDA_VISIBLE_DEVICES"] for share in alone.environments] == ["0", "1"]
    assert alone.environments[0]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.500"
    assert "6 GPUs are left idle, --jobs 8 takes all" in alone.words


def test_a_tpu_chip_has_one_worker():
    given = shares(4, Machine("tpu", 4), {})
    assert [share["TPU_VISIBLE_CHIPS"] for share in given.environments] == ["0", "1", "2", "3"]
    with pytest.raises(UsageError, match="--jobs 2: a TPU chip belongs to one process, and there is 1; use --jobs 1"):
        shares(2, Machine("tpu", 1), {})
    assert shares(1, Machine("tpu", 1), {}).environments == [{}]


def test_on_a_cpu_nothing_is_set_and_nothing_is_said():
    assert shares(3, Machine("cpu", 1), {}) == ([{}, {}, {}], "")
    assert devices.machine({"JAX_PLATFORMS": "cpu"}) == Machine("cpu", 1)


def test_what_jax_finds_is_asked_of_another_process(monkeypatch):
    monkeypatch.setattr(devices, "_PLUGINS", ("jax",))  # as if an accelerator's plugin were installed
    assert devices.machine({"PATH": "/usr/bin"}).platform == jax.default_backend()
    with pytest.raises(UsageError, match="JAX does not start on this machine"):
        devices.machine({"PATH": "/usr/bin", "JAX_PLATFORMS": "nonsense"})


def test_two_jobs_on_one_tpu_are_refused_before_anything_is_started(monkeypatch, capsys):
    monkeypatch.setattr(devices, "machine", lambda environ: Machine("tpu", 1))
    monkeypatch.setattr("experiments.runner.local._drive", lambda *_: pytest.fail("workers were started"))
    code = sweep.main(["--config", str(CONFIG), "--workdir", "sweep", "--jobs", "2"])
    assert code == 2
    assert "a TPU chip belongs to one process" in capsys.readouterr().err


def test_workers_get_their_share_and_the_sweep_says_so(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(devices, "machine", lambda environ: Machine("gpu", 2))
    monkeypatch.setattr("experiments.runner.local._Worker", lambda number, work, before, share: seen.append(share))
    with pytest.raises(AttributeError):  # our worker is None, and has nothing to wait for
        sweep.main(["--config", str(CONFIG), "--workdir", "sweep", "--jobs", "3"])
    assert [share["CUDA_VISIBLE_DEVICES"] for share in seen] == ["0", "1", "0"]
    assert "3 workers on 2 GPUs: one GPU each, 45% of its memory" in capsys.readouterr().out


def test_what_a_task_takes_is_what_jax_is_told(monkeypatch):
    told = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **options: told.append(options["local_device_ids"]))
    for name in ("JAX_LOCAL_DEVICE_IDS", *devices._LISTS):
        monkeypatch.delenv(name, raising=False)
    for environ in (slurm(0, "1(x4)", EIGHT), slurm(5, "8", EIGHT), slurm(3, "8", "3")):
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            distributed.join_cluster()
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "2")
    distributed.join_cluster()
    assert told == [[], [5], [], None]  # [] is all that is visible; None leaves it to JAX
