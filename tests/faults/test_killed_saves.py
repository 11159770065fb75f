"""A save that is cut short, wherever: what was there before is whole, and what was left behind goes."""

import builtins
import functools
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlref.training import checkpoint
from dlref.training.checkpoint import Checkpoints
from tests.conftest import SMALL, first, needs_posix
from tests.faults.processes import Child
from tests.training.test_resume import assert_same, everything, logged

pytestmark = [pytest.mark.faults, needs_posix]
FILE_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "shutil.rmtree"}
WHAT = {"config": {}, "overrides": [], "sizes": {}, "data": {}, "ranks": 1, "versions": {}}
Train = Callable[..., tuple[int, str]]
StartChild = Callable[..., Child]


def die_while_saving(moment: int) -> None:
    """Count what saves do to files, each write included, and kill this process before the given one."""
    done = 0
    saving = False
    original = Checkpoints.save

    def count() -> None:
        nonlocal done
        done += saving
        if saving and done == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    class Mortal:
        """A file each of whose writes reaches the disk, and may be the last."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, part: Any) -> int:
            count()
            written = self.file.write(part)
            self.file.flush()
            return written

        def __enter__(self) -> "Mortal":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def save(self: Checkpoints, *arguments: Any) -> None:
        nonlocal saving
        saving = True
        original(self, *arguments)
        saving = False

    sys.addaudithook(lambda event, _: count() if event in FILE_OPERATIONS else None)
    checkpoint.open = lambda *arguments, **named: Mortal(builtins.open(*arguments, **named))  # type: ignore[attr-defined]  # noqa: SIM115
    Checkpoints.save = save  # type: ignore[method-assign]


def content(kind: str, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The files of a rank, and those of all ranks."""
    weights = {"weight": torch.full((50, 7), float(step))}
    return ({}, {"weights.pt": weights}) if kind == "best" else ({"rank-0.pt": [step]}, {"weights.pt": weights})


class KilledSaves:
    """Saves step 3 over steps 1 and 2 in one folder a moment, killed at that moment, until one save survives."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind

    def __call__(self) -> int:
        for moment in itertools.count(1):
            folder = self.folder / f"{moment:04d}"
            save(folder, self.kind, 1)
            save(folder, self.kind, 2)
            one = os.fork()
            if one == 0:
                die_while_saving(moment)
                save(folder, self.kind, 3)
                os._exit(0)
            if os.waitpid(one, 0)[1] != signal.SIGKILL:
                break
        return 0


def test_fault_01_the_best_as_of_each_checkpoint_is_kept(tmp_path: Path) -> None:
    """A run that dies goes on from a checkpoint, and may then not come upon what was best after it."""
    for step in range(1, 9):
        if step in (1, 3, 4, 7, 8):
            save(tmp_path, "best", step)
        if step % 2 == 0 and step < 8:
            save(tmp_path, "step", step)
    assert [path.name[-1] for path in Checkpoints(tmp_path).numbered("step")] == ["4", "6"]
    assert [path.name[-1] for path in Checkpoints(tmp_path).numbered("best")] == ["4", "8"]
    Checkpoints(tmp_path).forget_after(6)
    assert (tmp_path / "best").resolve().name == "best-00000004"
    assert (tmp_path / "last").resolve().name == "step-00000006"


def save(folder: Path, kind: str, step: int) -> None:
    Checkpoints(folder).save(kind, step, WHAT, *content(kind, step))


@pytest.mark.parametrize("kind", first("step", of=["step", "best"]))
def test_fault_01_a_save_killed_at_any_moment_leaves_a_whole_checkpoint(
    kind: str, child: StartChild, tmp_path: Path
) -> None:
    assert child(action=KilledSaves(tmp_path / "killed", kind)).ended()[0] == 0
    *killed, survived = sorted((tmp_path / "killed").iterdir())
    assert len(killed) > 30, "there were as many moments at least to be killed in"
    steps = []
    for folder in [*killed, survived]:
        assert (folder / {"step": "last", "best": "best"}[kind]).exists(), "the link leads somewhere at any moment"
        found = Checkpoints(folder).newest(kind)
        assert found is not None
        assert_same(found.read("weights.pt"), content(kind, found.step)[1]["weights.pt"])
        steps.append(found.step)

        Checkpoints(folder).forget_after(found.step)
        left = {path.name for path in folder.iterdir()} - {"last", "best"}
        assert left <= {f"{kind}-{step:08d}" for step in (1, 2, 3)}, "nothing of the killed save is left"
        save(folder, kind, 3)
        again = Checkpoints(folder).newest(kind)
        assert again is not None
        assert again.step == 3
    assert steps == sorted(steps), "the new one is there from one moment on"
    assert set(steps) == {2, 3}
    assert steps[-1] == 3


@pytest.mark.parametrize("model", first("mlp", of=SMALL))
def test_fault_01_a_run_killed_within_a_save_goes_on_bit_for_bit(
    model: str, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*SMALL[model], "~reports", *SAVES]
    # The first one is killed before it has any checkpoint.
    assert killed_in_its_saves(settings, range(10, 10_000, 290), train, train_child, tmp_path) > 600


SAVES = ["trainer.max_steps=8", "trainer.eval_every=4", "trainer.save_every=2"]


def killed_in_its_saves(
    settings: list[str], moments: Iterable[int], train: Train, train_child: StartChild, folder: Path
) -> int:
    """Runs that are killed at each of these writes to their ends, and go on; the first moment that comes after all saves."""
    whole = folder / "whole"
    assert train(*settings, f"run_dir={whole}")[0] == 0
    for moment in moments:
        run = folder / f"killed-{moment}"
        line = [*settings, f"run_dir={run}", "resume=auto"]
        code, said = train_child(*line, hurt=functools.partial(die_while_saving, moment)).ended()
        if code == 0:
            return moment
        assert code == -signal.SIGKILL, said
        assert train(*line)[0] == 0
        assert_same(everything(run), everything(whole))
        assert logged(run) == logged(whole)
        left, expected = ({path.name for path in (r / "checkpoints").iterdir()} for r in (run, whole))
        assert left == expected, "nothing of the killed save is left"
    raise AssertionError("there are more writes than moments")


def test_fault_01_what_a_last_save_had_not_come_to_remove_goes_when_its_run_is_resumed(
    train: Train, tmp_path: Path
) -> None:
    """Killed between the new checkpoint and the removal of an old one, a run is finished and has one too many."""
    run = tmp_path / "run"
    assert train(*SMALL["mlp"], "~reports", "trainer.max_steps=4", "trainer.save_every=2", f"run_dir={run}")[0] == 0
    folder = run / "checkpoints"
    before = {path.name for path in folder.iterdir()}
    shutil.copytree(folder / "step-00000002", folder / "step-00000001")
    code, said = train(f"resume={run}")
    assert code == 0
    assert "finished at step 4" in said
    assert {path.name for path in folder.iterdir()} == before
