"""Several processes: none is left behind, and none trains apart."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from dlref.training.checkpoint import Checkpoints
from tests.conftest import ALIKE, ROOT, SMALL, first, meeting, needs_linux, needs_posix
from tests.faults.processes import Child, refusal
from tests.faults.test_signals import last_step, lines, slow_steps
from tests.training.test_resume import FITTED, assert_same, everything, logged

pytestmark = [pytest.mark.faults, needs_posix]

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
    met = meeting()
    return [train_child(*arguments, **met, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]


def has_saved(run: Path) -> bool:
    return (run / "checkpoints" / "last").exists()


@pytest.mark.parametrize("lost", first(1, of=[0, 1]))
def test_fault_28_when_one_rank_dies_the_other_ends_and_the_checkpoint_is_whole(
    lost: int, train_child: Train, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ranks = two_ranks(train_child, *SETTINGS, f"run_dir={run}")
    ranks[lost].waits_for(lambda: has_saved(run))
    os.kill(ranks[lost].pid, signal.SIGKILL)
    code, said = ranks[1 - lost].ended(timeout=120)
    assert code == 6, said
    if lost == 1:  # rank 0 speaks for all
        assert "another rank was lost" in refusal(said)
    assert ranks[lost].ended()[0] == -signal.SIGKILL
    last = Checkpoints(run / "checkpoints").newest("step")
    assert last is not None
    assert last.step % 20 == 0


@pytest.mark.parametrize("told", first(0, of=[0, 1]))
def test_fault_28_a_signal_to_one_rank_saves_and_ends_all_and_they_resume_bit_for_bit(
    told: int, train_child: Train, tmp_path: Path
) -> None:
    run, whole, settings = tmp_path / "run", tmp_path / "whole", [*SETTINGS, "trainer.max_steps=60"]
    slowly = functools.partial(train_child, hurt=functools.partial(slow_steps, 0.01))
    ranks = two_ranks(slowly, *settings, f"run_dir={run}")
    ranks[told].waits_for(lambda: has_saved(run))
    os.kill(ranks[told].pid, signal.SIGTERM)
    assert [rank.ended()[0] for rank in ranks] == [143, 143]
    stopped = Checkpoints(run / "checkpoints").newest("step")
    assert stopped is not None
    assert stopped.step < 60
    assert [rank.ended()[0] for rank in two_ranks(train_child, f"resume={run}")] == [0, 0]
    assert [rank.ended()[0] for rank in two_ranks(train_child, *settings, f"run_dir={whole}")] == [0, 0]
    ends = [Checkpoints(folder / "checkpoints").newest("step") for folder in (run, whole)]
    weights = [end.read("weights.pt") for end in ends if end is not None]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    losses = [[json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()] for folder in (run, whole)]
    assert losses[0] == losses[1]


@pytest.mark.slow
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


def never_without_the_others(seconds: float) -> None:
    """Ranks wait for each other no longer than this."""
    from dlref.training import distributed

    distributed.TIMEOUT = timedelta(seconds=seconds)


@pytest.mark.slow
def test_fault_28_when_one_rank_hangs_the_other_ends_within_the_time_out(train_child: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    patient = functools.partial(train_child, hurt=functools.partial(never_without_the_others, 10))
    ranks = two_ranks(patient, *SETTINGS, f"run_dir={run}")
    ranks[1].waits_for(lambda: has_saved(run))
    os.kill(ranks[1].pid, signal.SIGSTOP)
    code, said = ranks[0].ended(timeout=120)
    assert code == 6, said
    assert "another rank was lost" in refusal(said)
    assert Checkpoints(run / "checkpoints").newest("step") is not None


@pytest.mark.slow
def test_fault_28_a_rank_that_is_alone_gives_up_within_the_time_out(train_child: Train, tmp_path: Path) -> None:
    alone = functools.partial(train_child, hurt=functools.partial(never_without_the_others, 3))
    rank, late = two_ranks(alone, *SETTINGS, f"run_dir={tmp_path / 'run'}")
    os.kill(late.pid, signal.SIGKILL)
    code, said = rank.ended()
    assert code == 6, said
    assert "the 2 ranks did not meet (" in refusal(said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    # By the running statistics of batch norm, each rank's own, a Q-network acts and judges.
    [m for m in SMALL if m not in (*ALIKE, "lstm_lm")] + ["actor_critic", "dqn network.norm=batch"],
)
def test_fault_28_ranks_of_every_kind_of_model_are_terminated_and_killed_and_resume_bit_for_bit(
    model: str, train_child: Train, tmp_path: Path
) -> None:
    """A signal to one rank ends both with a checkpoint; a rank that dies takes the other along, and nothing is lost."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    name, *more = model.split()
    settings = [*SMALL[name], *more, "~reports", "trainer.max_steps=80", "trainer.log_every=1", "trainer.save_every=6"]
    settings += ["trainer.eval_every=15"]
    slowly = functools.partial(train_child, hurt=functools.partial(slow_steps, 0.03))

    ranks = two_ranks(slowly, *settings, f"run_dir={run}")
    ranks[1].waits_for(lambda: lines(run) > 7)
    os.kill(ranks[1].pid, signal.SIGTERM)
    ended = [rank.ended() for rank in ranks]
    assert [code for code, _ in ended] == [143, 143], ended
    stopped = last_step(run)
    assert everything(run)["training.pt"]["progress"]["step"] == stopped < 70

    ranks = two_ranks(slowly, f"resume={run}")
    ranks[0].waits_for(lambda: last_step(run) > stopped + 3)
    os.kill(ranks[0].pid, signal.SIGKILL)
    ended = [rank.ended() for rank in ranks]
    assert [code for code, _ in ended] == [-signal.SIGKILL, 6], ended

    for line in ([f"resume={run}"], [*settings, f"run_dir={whole}"]):
        ended = [rank.ended() for rank in two_ranks(train_child, *line)]
        assert [code for code, _ in ended] == [0, 0], ended
    assert_same(everything(run), everything(whole))
    assert logged(run) == logged(whole)


@pytest.mark.parametrize("model", first("ngram", of=FITTED))
def test_fault_28_what_is_fitted_at_once_is_the_same_on_every_rank(
    model: str, train_child: Train, tmp_path: Path
) -> None:
    settings = [*FITTED[model], "~reports"]
    ranks = two_ranks(train_child, *settings, f"run_dir={tmp_path / 'two'}")
    assert [rank.ended()[0] for rank in ranks] == [0, 0]
    assert train_child(*settings, f"run_dir={tmp_path / 'one'}").ended()[0] == 0
    two, one = (everything(tmp_path / name) for name in ("two", "one"))
    assert_same(two["weights.pt"], one["weights.pt"])
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-6)


UNEVEN = {
    # Of 13 points in batches of 3, one rank has two and the other one, and at the end of an epoch and of eval one has none.
    "mlp": ["model=mlp", "network.widths=[9,7]", "data.batch_size=3", "data.points=13"],
    "perceptron": ["model=perceptron", "data.gate=xor"],  # whose batches of one row are for one rank alone
    "transformer": [
        *("model=transformer", "network.width=8", "network.layers=1", "network.heads=2"),
        *("data.size=50", "data.eval_size=7", "data.test_size=7", "data.batch_size=5"),
    ],
}


@pytest.mark.parametrize("model", first("mlp", of=UNEVEN))
def test_fault_28_uneven_batches_of_two_ranks_are_those_of_one_process(
    model: str, train_child: Train, tmp_path: Path
) -> None:
    settings = [*UNEVEN[model], "~reports", "trainer.precision=float64", "trainer.max_steps=20", "trainer.log_every=5"]
    settings += ["trainer.eval_every=10", "trainer.monitor=null"]
    assert train_child(*settings, f"run_dir={tmp_path / 'one'}").ended()[0] == 0
    ranks = two_ranks(train_child, *settings, f"run_dir={tmp_path / 'two'}")
    assert [rank.ended()[0] for rank in ranks] == [0, 0]
    one, two = (everything(tmp_path / name) for name in ("one", "two"))
    for name, weight in one["weights.pt"].items():
        torch.testing.assert_close(two["weights.pt"][name], weight, rtol=0, atol=1e-11)
    for mine, theirs in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        assert mine.pop("split") == theirs.pop("split")
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-12)


ALONE = """
from dlref.data.supervised.spiral import Spiral
from dlref.errors import ConfigError, DataError

class OnOneRank(Spiral):
    def __init__(self, wrong: str, points: int = 20, batch_size: int = 5, seed: int = 0) -> None:
        super().__init__(points, batch_size=batch_size, seed=seed)
        self.wrong, self.state = {"config": ConfigError, "data": DataError}.get(wrong), {}

    def batches(self, split, net, shard):
        batches = super().batches(split, net, shard)
        yield next(batches)
        if shard.rank == 1:
            if self.wrong:
                raise self.wrong("the rows of rank 1 have moved; say where they are")
            self.state = {"no value": lambda: 0}
        yield from batches

    def state_dict(self):
        return self.state
"""


@pytest.mark.parametrize(("wrong", "code"), first(("config", 2), of=[("config", 2), ("data", 3)]))
def test_fault_28_what_is_wrong_on_one_rank_in_evaluation_is_said_by_all_and_the_steps_are_saved(
    wrong: str, code: int, train_child: Train, tmp_path: Path
) -> None:
    plugin, run = tmp_path / "alone.py", tmp_path / "run"
    plugin.write_text(ALONE)
    settings = ["model=mlp", "network.widths=[4]", "data._target_=alone.OnOneRank", f"data.wrong={wrong}", "~reports"]
    settings += [f"plugins={plugin}", "trainer.max_steps=4", "trainer.eval_every=2", "trainer.save_every=null"]
    ended = [rank.ended(timeout=120) for rank in two_ranks(train_child, *settings, f"run_dir={run}")]
    assert [one for one, _ in ended] == [code, code], ended
    for _, said in ended:
        assert refusal(said) == "dlref: the rows of rank 1 have moved; say where they are"
    last = Checkpoints(run / "checkpoints").newest("step")
    assert last is not None
    assert (last.step, last.manifest["ranks"]) == (2, 2)


def test_fault_28_what_one_rank_cannot_save_is_said_by_all(train_child: Train, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(ALONE)
    settings = ["model=mlp", "network.widths=[4]", "data._target_=alone.OnOneRank", "data.wrong=state", "~reports"]
    settings += [
        f"plugins={tmp_path / 'alone.py'}",
        "trainer.max_steps=4",
        "trainer.eval_every=2",
        "trainer.save_every=2",
    ]
    ended = [rank.ended(timeout=120) for rank in two_ranks(train_child, *settings, f"run_dir={tmp_path / 'run'}")]
    assert [code for code, _ in ended] == [2, 2], ended
    said = {refusal(said) for _, said in ended}
    assert len(said) == 1
    assert "a checkpoint takes tensors and plain values" in said.pop()


def child_of(process: int, rank: str) -> int:
    """The process that torchrun has started as this rank."""
    for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"there is no rank {rank}")


@needs_linux
@pytest.mark.slow
def test_fault_28_torchrun_starts_ranks_again_and_they_go_on_bit_for_bit(train_child: Train, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command = [*torchrun, str(ROOT / "scripts" / "train.py"), *SETTINGS, "device=cpu", "threads=1", "resume=auto"]
    with (tmp_path / "said").open("w+") as said:
        agent = subprocess.Popen(
            [*command, f"run_dir={run}"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=said,
        )
        try:
            end = time.monotonic() + 240
            while not has_saved(run):
                assert agent.poll() is None, (tmp_path / "said").read_text()
                assert time.monotonic() < end
                time.sleep(0.002)
            os.kill(child_of(agent.pid, "1"), signal.SIGKILL)
            code = agent.wait(timeout=240)
        finally:
            agent.terminate()
            agent.wait(timeout=60)
    assert code == 0, (tmp_path / "said").read_text()
    assert "resuming at step " in (tmp_path / "said").read_text()
    assert [rank.ended()[0] for rank in two_ranks(train_child, *SETTINGS, f"run_dir={whole}")] == [0, 0]
    assert_same(everything(run), everything(whole))
    assert logged(run) == logged(whole)
