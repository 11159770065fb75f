"""What a long run must not do: take up more and more, or wait for a disk that has nothing to do with what is learned."""

import functools
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dlref.data.rl.experience import Experience
from dlref.errors import ConfigError
from dlref.interfaces import Shard
from tests.conftest import SMALL, first, needs_linux
from tests.data.rl import corridor  # noqa: F401  registers the environments
from tests.faults.processes import Child
from tests.faults.test_signals import events
from tests.training.test_resume import assert_same, everything, logged

pytestmark = pytest.mark.faults
Train = Callable[..., tuple[int, str]]
StartChild = Callable[..., Child]


def measure(early: int, late: int, file: Path) -> None:
    """Note at the end of two steps what this process holds: threads, KiB of memory, and what its descriptors lead to."""
    from dlref.training.trainer import Trainer

    original = Trainer.step

    def descriptors() -> list[str]:
        time.sleep(0.01)
        return sorted(os.path.realpath(entry.path) for entry in os.scandir("/proc/self/fd"))

    def step(self: Trainer, *arguments: Any) -> Any:
        result = original(self, *arguments)
        if self.progress.step in (early, late):
            status = Path("/proc/self/status").read_text()
            threads, memory = (int(status.partition(f"\n{name}:")[2].split()[0]) for name in ("Threads", "VmRSS"))
            # The least of many looks, as TensorBoard's thread opens its file anew for each event that it appends.
            held = min((descriptors() for _ in range(20)), key=len)
            with open(file, "a") as notes:
                notes.write(json.dumps([threads, memory, held]) + "\n")
        return result

    Trainer.step = step  # type: ignore[method-assign]


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings", "allowance"),
    [
        ("mlp", ["~reports", "trainer.eval_every=100"], 2),  # MiB, which are 260 bytes a step
        ("lstm_lm", ["~reports", "trainer.eval_every=100"], 2),
        ("dqn", ["~reports", "trainer.eval_every=100"], 2),
        # Drawing leaves holes in the heap, which grows for some fifty evaluations; a hundred kept pictures are far more.
        ("mlp", ["trainer.eval_every=400"], 32),
    ],
    ids=["mlp", "lstm_lm", "dqn", "mlp with pictures"],
)
def test_ten_thousand_steps_hold_no_more_than_two_thousand(
    model: str, settings: list[str], allowance: int, train_child: StartChild, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    often = [*settings, "trainer.max_steps=10001", "trainer.log_every=2", "trainer.save_every=50", "trainer.ema=0.9"]
    hurt = functools.partial(measure, 2000, 10_000, notes)
    code, said = train_child(*SMALL[model], *often, f"run_dir={tmp_path / 'run'}", hurt=hurt).ended(timeout=600)
    assert code == 0, said
    early, late = (json.loads(line) for line in notes.read_text().splitlines())
    assert len(late[2]) == len(early[2]), f"descriptors, which lead to {early[2]} and then to {late[2]}"
    assert late[0] == early[0], "threads"
    assert late[1] - early[1] < allowance * 1024, "memory"


@pytest.mark.parametrize("prioritized", [False, True])
def test_fault_27_a_full_replay_buffer_samples_only_stored_transitions(prioritized: bool) -> None:
    """From the first batch on, which is larger than the buffer; without priorities all rows are equally frequent."""
    settings: dict[str, Any] = {"buffer_size": 7, "batch_size": 20, "learning_starts": 2, "prioritized": prioritized}
    data, counts = Experience("Corridor-truncated-v0", **settings), torch.zeros(7)
    for number, batch in enumerate(islice(data.train_batches(nn.Linear(2, 3), Shard(), 0), 300)):
        # A step from state n leads to n + 1 and has that reward; rows that were not written have zeros.
        assert torch.equal(batch.next_states[:, 0], batch.states[:, 0] + 1)
        assert torch.equal(batch.rewards[:, 0], batch.states[:, 0] + 1)
        if number >= 10:
            counts += torch.from_numpy(data.prefetched.rows).bincount(minlength=7)
    assert data.replay.written > 40 * 7
    if not prioritized:
        torch.testing.assert_close(counts / counts.sum(), torch.full((7,), 1 / 7), rtol=0, atol=0.02)
    for wrong in ({"buffer_size": 0}, {"buffer_size": 2, "envs": 3}):
        with pytest.raises(ConfigError, match="buffer_size"):
            Experience("Corridor-truncated-v0", **wrong)  # type: ignore[arg-type]


def hang_the_board(patience: float, events: int) -> None:
    """TensorBoard's own thread hangs for ever while it writes the event after so many."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    from dlref.training import log

    log.PATIENCE = patience
    original, done = RecordWriter.write, 0

    def write(self: RecordWriter, data: bytes) -> None:
        nonlocal done
        done += 1
        if done > events:
            threading.Event().wait()
        original(self, data)

    RecordWriter.write = write


def hang_the_lines(patience: float) -> None:
    """metrics.jsonl is a pipe that nobody reads: it takes a page, and then a write waits for ever."""
    from dlref.training import log

    log.PATIENCE = patience
    _, full = os.pipe()
    os.set_blocking(full, False)
    try:
        while True:
            os.write(full, bytes(4096))
    except BlockingIOError:
        os.set_blocking(full, True)
    log.open = lambda path, *how, **more: open(full, *how, **more)  # type: ignore[attr-defined]  # noqa: SIM115


HUNG = {
    "TensorBoard from the start": functools.partial(hang_the_board, 2.0, 0),
    "TensorBoard": functools.partial(hang_the_board, 2.0, 30),
    "metrics.jsonl": functools.partial(hang_the_lines, 2.0),
}


@pytest.mark.parametrize("hung", first("metrics.jsonl", of=HUNG))
def test_fault_24_a_writer_that_hangs_stops_neither_training_nor_the_end_of_the_process(
    hung: str, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    # So many saves that none but the first can have waited.
    settings = [*SMALL["mlp"], "~reports", "trainer.max_steps=120", "trainer.log_every=1", "trainer.save_every=3"]
    run, writer = tmp_path / "run", hung.split()[0]
    code, said = train_child(*settings, f"run_dir={run}", hurt=HUNG[hung]).ended()
    assert code == 0, said
    assert "Traceback" not in said
    warnings = [line for line in said.splitlines() if line.startswith(writer) and "disk" in line]
    assert 1 <= len(warnings) <= 2, "one while it trains, and one where the end of the log is lost"
    assert train(*settings, f"run_dir={tmp_path / 'whole'}")[0] == 0
    assert_same(everything(run), everything(tmp_path / "whole"))
    if writer == "TensorBoard":  # one writer does not wait for the other
        assert logged(run) == logged(tmp_path / "whole")


def test_fault_24_what_waits_for_a_disk_is_limited_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dlref.training import background, log

    monkeypatch.setattr(background, "MAX_PENDING", 5)
    monkeypatch.setattr(log, "PATIENCE", 5.0)
    run, disk = log.Log(tmp_path, quiet=True), threading.Event()
    run.writers["metrics.jsonl"].submit(disk.wait)
    for step in range(20):
        run.metrics("train", step, 0.0, {"loss": 1.0})
    assert run.writers["metrics.jsonl"].tasks.qsize() <= 5
    disk.set()
    run.close()
    [warning] = [message for message in caplog.messages if message.startswith("metrics.jsonl")]
    assert "cannot be written" in warning
    assert [line["step"] for line in logged(tmp_path)] == list(range(len(logged(tmp_path)))), "a beginning of them"
    assert 3 <= len(logged(tmp_path)) <= 6


def late_lines(wait: Callable[[], Any]) -> None:
    """Each write to metrics.jsonl waits before."""
    from dlref.training import log

    class Late(io.FileIO):
        def write(self, line: Any) -> int:
            wait()
            return super().write(line)

    log.open = lambda path, *_, **__: Late(path, "ab")  # type: ignore[attr-defined]


def lines_after_the_last_step(notes: Path) -> None:
    """No write to metrics.jsonl is done before the last step is; notes how many were."""
    from dlref.training.trainer import Trainer

    trained, done, original = threading.Event(), [], Trainer.step

    def step(self: Trainer, *arguments: Any) -> Any:
        result = original(self, *arguments)
        if self.progress.step == self.config.max_steps:
            notes.write_text(str(len(done)))
            trained.set()
        return result

    late_lines(lambda: done.append(trained.wait()))
    Trainer.step = step  # type: ignore[method-assign]


def test_fault_24_a_slow_disk_under_the_log_slows_no_step_and_loses_no_line(
    train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*SMALL["mlp"], "~reports", "trainer.max_steps=15", "trainer.log_every=1", "trainer.monitor=null"]
    run, notes = tmp_path / "run", tmp_path / "notes"
    code, said = train_child(
        *settings, f"run_dir={run}", hurt=functools.partial(lines_after_the_last_step, notes)
    ).ended()
    assert code == 0, said
    assert train(*settings, f"run_dir={tmp_path / 'whole'}")[0] == 0
    assert logged(run) == logged(tmp_path / "whole")
    assert notes.read_text() == "0", "it had trained to its end before any line was written"


def die_with_the_checkpoint(step: int) -> None:
    """A disk that takes its time, and a process that is killed the moment a checkpoint has its name."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    from dlref.training import checkpoint
    from dlref.training.checkpoint import Checkpoints

    write = RecordWriter.write

    def write_slowly(self: RecordWriter, data: bytes) -> None:
        time.sleep(0.01)
        write(self, data)

    def die(folder: Path) -> None:
        if Checkpoints(folder).numbered("step")[-1].name == f"step-{step:08d}":
            os.kill(os.getpid(), signal.SIGKILL)

    late_lines(lambda: time.sleep(0.05))
    RecordWriter.write = write_slowly
    checkpoint.sync_folder = die


def test_fault_25_what_was_logged_before_a_checkpoint_is_there_as_soon_as_the_checkpoint_is(
    train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*SMALL["mlp"], "~reports", "trainer.max_steps=9", "trainer.save_every=3", "trainer.monitor=null"]
    settings += ["trainer.log_every=1", "trainer.eval_every=3"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    code, said = train_child(*settings, f"run_dir={run}", hurt=functools.partial(die_with_the_checkpoint, 6)).ended()
    assert code == -signal.SIGKILL, said
    time.sleep(1.01 - time.time() % 1)  # the names of event files begin with the second, and are read by name
    assert train(f"resume={run}")[0] == 0
    assert train(*settings, f"run_dir={whole}")[0] == 0
    assert logged(run) == logged(whole)
    shown, expected = events(run), events(whole)
    assert shown.keys() == expected.keys()
    for tag in shown:
        assert shown[tag] == expected[tag] or tag.endswith("_per_second"), tag
