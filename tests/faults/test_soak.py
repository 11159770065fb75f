"""One training that is killed and terminated again and again, whenever it happens to be, and loses nothing by it."""

import functools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dlref.training.checkpoint import Checkpoints
from tests.conftest import ALIKE, SMALL, first, needs_posix
from tests.faults.processes import Child
from tests.faults.test_signals import slow_steps
from tests.training.test_resume import assert_same, everything, logged

pytestmark = [pytest.mark.faults, needs_posix]
Train = Callable[..., tuple[int, str]]
StartChild = Callable[..., Child]
SETTINGS = [
    "~reports",
    *("trainer.log_every=1", "trainer.eval_every=7", "trainer.save_every=3"),
    *("trainer.accumulate=2", "trainer.ema=0.9", "trainer.clip_norm=0.5"),
]
# At most three saves are waited for, and the rest of a life is short: some ten steps, of which many are trained again.
STEPS_PER_LIFE = 30


def saved(run: Path) -> int:
    """The step of the newest checkpoint, whole or not."""
    found = Checkpoints(run / "checkpoints").numbered("step")
    return int(found[-1].name[5:]) if found else 0


def live_and_die(chance: random.Random, run: Path, child: Child) -> signal.Signals:
    """End this life at a random moment: as it starts, or some time after it has saved up to three times."""
    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
    saves, rest = chance.choice([0, 1, 1, 2, 3]), chance.random()
    if saves:
        before = saved(run)
        child.waits_for(lambda: saved(run) > before + 3 * (saves - 1))
    time.sleep(0.04 * rest if saves else 0.4 * rest)
    os.kill(child.pid, number)
    return number


def soak(model: str, deaths: int, train: Train, train_child: StartChild, folder: Path) -> None:
    steps = STEPS_PER_LIFE * deaths
    settings = [*SMALL[model], *SETTINGS, f"trainer.max_steps={steps}"]
    run, whole, chance = folder / "run", folder / "whole", random.Random(deaths)
    line = [*settings, f"run_dir={run}", "resume=auto"]
    for _ in range(deaths):
        child = train_child(*line, hurt=functools.partial(slow_steps, 0.004))
        number = live_and_die(chance, run, child)
        code, said = child.ended()
        # Whoever is told to stop before anything listens to signals ends by the signal itself.
        assert code in ({-number} if number == signal.SIGKILL else {143, -number}), said
        assert "Traceback" not in said
    assert saved(run) < steps, "it has died as often as it should"
    code, said = train_child(*line).ended()
    assert code == 0, said
    assert train(*settings, f"run_dir={whole}")[0] == 0
    assert_same(everything(run), everything(whole))
    assert logged(run) == logged(whole)
    trained = [line["step"] for line in logged(run) if line["split"] == "train"]
    assert trained == list(range(1, steps + 1)), "each step is there once and in order"


@pytest.mark.slow
@pytest.mark.parametrize("model", first("dqn", of=[m for m in SMALL if m not in ALIKE]))
def test_fault_04_a_run_that_dies_six_times_is_the_uninterrupted_one(
    model: str, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    soak(model, 6, train, train_child, tmp_path)


@pytest.mark.slow
def test_fault_04_a_run_that_dies_fifty_times_is_the_uninterrupted_one(
    train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    """With a replay memory, priorities and episodes under way, of which each life takes up what the last has left."""
    soak("dqn", 50, train, train_child, tmp_path)
