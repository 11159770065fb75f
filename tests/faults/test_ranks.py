"""Several processes: none is left behind, and none trains apart."""

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dlref.training.checkpoint import Checkpoints
from tests.conftest import SMALL
from tests.faults.processes import Child, refusal

pytestmark = pytest.mark.faults

Train = Callable[..., Child]
SETTINGS = [
    *SMALL["lstm_lm"],
    "trainer.max_steps=400",
    "trainer.log_every=5",
    "trainer.save_every=20",
    "trainer.monitor=null",
]


def two_ranks(train_child: Train, *arguments: str) -> list[Child]:
    """The same command in two processes as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [train_child(*arguments, **meeting, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]


def has_saved(run: Path) -> bool:
    return (run / "checkpoints" / "last").exists()


@pytest.mark.parametrize("lost", [0, 1])
def test_fault_28_when_one_rank_dies_the_other_ends_and_the_checkpoint_is_whole(
    lost: int, train_child: Train, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ranks = two_ranks(train_child, *SETTINGS, f"run_dir={run}")
    ranks[lost].waits_for(lambda: has_saved(run))
    os.kill(ranks[lost].pid, signal.SIGKILL)
    code, said = ranks[1 - lost].ended(timeout=60)
    assert code == 6, said
    if lost == 1:  # rank 0 speaks for all
        assert "another rank was lost" in refusal(said)
    assert ranks[lost].ended()[0] == -signal.SIGKILL
    last = Checkpoints(run / "checkpoints").newest("step")
    assert last is not None
    assert last.step % 20 == 0


@pytest.mark.parametrize("told", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_fault_28_a_signal_to_one_rank_saves_and_ends_all_and_they_resume_bit_for_bit(
    told: int, train_child: Train, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    ranks = two_ranks(train_child, *SETTINGS, f"run_dir={run}")
    ranks[told].waits_for(lambda: has_saved(run))
    os.kill(ranks[told].pid, signal.SIGTERM)
    assert [rank.ended()[0] for rank in ranks] == [143, 143]
    stopped = Checkpoints(run / "checkpoints").newest("step")
    assert stopped is not None
    assert stopped.step < 400
    assert [rank.ended()[0] for rank in two_ranks(train_child, f"resume={run}")] == [0, 0]
    assert [rank.ended()[0] for rank in two_ranks(train_child, *SETTINGS, f"run_dir={whole}")] == [0, 0]
    ends = [Checkpoints(folder / "checkpoints").newest("step") for folder in (run, whole)]
    weights = [end.read("weights.pt") for end in ends if end is not None]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    losses = [[json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()] for folder in (run, whole)]
    assert losses[0] == losses[1]


def test_fault_28_another_number_of_ranks_is_refused(train_child: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_child(*SMALL["mlp"], "trainer.max_steps=4", f"run_dir={run}").ended()[0] == 0
    ranks = two_ranks(train_child, f"resume={run}", "trainer.max_steps=8")
    assert [rank.ended()[0] for rank in ranks] == [4, 4]
    assert "trained by 1 ranks and this is 2" in refusal(ranks[0].said())


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "start ranks with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE"),
    ],
)
def test_fault_28_processes_that_cannot_meet_never_train_apart(
    environment: dict[str, str], said: str, train_child: Train, tmp_path: Path
) -> None:
    one = train_child(*SMALL["mlp"], f"run_dir={tmp_path / 'run'}", **environment)
    assert one.ended()[0] == 2
    assert said in refusal(one.said())
    assert not (tmp_path / "run").exists()
