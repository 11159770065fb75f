"""A machine that gives no more: full disks, folders that cannot be written or are taken, too little memory."""

import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch

from dlref.cli.main import main
from dlref.training.checkpoint import Checkpoints
from tests.conftest import ROOT, SMALL, command, first, needs_linux, needs_posix, resource
from tests.faults.processes import Child, refusal
from tests.training.test_resume import assert_same, everything, logged

pytestmark = [pytest.mark.faults, needs_posix]
Train = Callable[..., tuple[int, str]]
StartChild = Callable[..., Child]
Trained = Callable[..., Path]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def fill_disk(share: float) -> None:
    """From the second checkpoint on no file may grow beyond this share of the largest file of the first one."""
    original = Checkpoints.save

    def save(self: Checkpoints, *arguments: Any) -> None:
        files = [path.stat().st_size for path in self.folder.glob("step-*/*.pt")]
        if files:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * max(files)), resource.RLIM_INFINITY))
        original(self, *arguments)

    Checkpoints.save = save  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("share", "model"),
    first(
        *((0, "mlp"), (0.3, "dqn")),
        of=itertools.product([0, 0.3, 0.999], SMALL),
    ),
)
def test_fault_10_a_full_disk_leaves_the_checkpoint_before_and_nothing_half(
    share: float, model: str, train: Train, trained: Trained, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*SMALL[model], "~reports", "trainer.max_steps=9", "trainer.save_every=3", "trainer.monitor=null"]
    run = tmp_path / "run"
    code, said = train_child(*settings, f"run_dir={run}", hurt=functools.partial(fill_disk, share)).ended()
    assert code == 6
    assert str(run / "checkpoints") in refusal(said)
    assert "make room" in refusal(said)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last", "step-00000003"]
    assert train(f"resume={run}")[0] == 0
    assert_same(everything(run), everything(trained(*settings)))
    assert logged(run) == logged(trained(*settings))


def fill_logs(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_fault_10_a_full_disk_under_the_logs_is_warned_of_once_and_training_goes_on(
    train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*SMALL["mlp"], "~reports", "trainer.max_steps=300", "trainer.log_every=1", "trainer.monitor=null"]
    run = tmp_path / "run"
    code, said = train_child(*settings, f"run_dir={run}", hurt=functools.partial(fill_logs, 20_000)).ended()
    assert code == 0
    assert "Traceback" not in said
    assert said.count("TensorBoard cannot be written") == 1
    assert said.count("metrics.jsonl cannot be written") == 1
    assert train(*settings, f"run_dir={tmp_path / 'whole'}")[0] == 0
    assert_same(everything(run), everything(tmp_path / "whole"))


def fill_what_is_said() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    os.dup2(full, 2)


@needs_linux
def test_fault_10_a_full_disk_under_what_is_said_stops_nothing(train_child: StartChild, tmp_path: Path) -> None:
    settings = [*SMALL["mlp"], "trainer.max_steps=20", "trainer.log_every=1"]
    (tmp_path / "file").touch()
    assert train_child(*settings, "run_dir=run", hurt=fill_what_is_said).ended() == (0, "")
    assert everything(tmp_path / "run")["training.pt"]["progress"]["step"] == 20
    assert train_child(*settings, "run_dir=file/run", hurt=fill_what_is_said).ended() == (2, "")


@pytest.fixture
def unprivileged() -> list[str]:
    """What makes a command one that permissions bind, for whoever runs the tests as root."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.fail("run these tests as a user, or install setpriv (util-linux): permissions do not bind root")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]


def test_fault_11_a_read_only_run_directory_is_named(unprivileged: list[str], tmp_path: Path) -> None:
    """Where it is the directory itself, one above it, or that of all runs, which is there without being named."""
    for name in ("closed", "runs"):
        (tmp_path / name).mkdir(mode=0o555)
    lines = {"run_dir=closed/run": "closed", "run_dir=closed": "closed", "data=spiral": "runs"}
    code = """
import sys
from dlref.cli.main import main
for line in sys.argv[1:]:
    code = main(["train", "model=mlp", "device=cpu", "trainer.max_steps=1", line])
    print(f"ended with {code}", file=sys.stderr, flush=True)
"""
    ended = subprocess.run(
        [*unprivileged, sys.executable, "-c", code, *lines],
        cwd=tmp_path,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    *sentences, rest = ended.stderr.split("ended with 2\n")
    assert not rest
    for said, name in zip(sentences, lines.values(), strict=True):
        assert name in refusal(said)
        assert "run_dir=" in refusal(said)
        assert list((tmp_path / name).iterdir()) == []


@pytest.mark.parametrize("below", ["", "/run"])
def test_fault_11_a_run_directory_that_is_a_file_is_named(below: str, train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, said = train("model=mlp", f"run_dir={tmp_path / 'file'}{below}")
    assert code == 2
    assert str(tmp_path / "file") in refusal(said)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    first(
        *("two words", "日本語", "a=b", "it's", "~$x\\"),
        of=["two words", "Übung é", "日本語", "a=b", "a,b", "it's", "a (b) [c] {d}", "#1", "~$x\\", "2024"],
    ),
)
def test_fault_11_any_name_of_a_folder_works(
    name: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [*SMALL["mlp"], "~reports", "trainer.max_steps=2"]
    for run in (name, str(tmp_path / "runs" / name)):
        assert train(*settings, f"run_dir={run}")[0] == 0
        assert train(f"resume={run}", "trainer.max_steps=3")[0] == 0
        assert main(["evaluate", run]) == 0
        assert json.loads((tmp_path / run / "evaluation.json").read_text())["step"] in (2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "runs"})


@pytest.mark.parametrize("reports", first("~reports", of=["~reports", "trainer.eval_every=2"]))
def test_fault_11_without_home_and_from_another_folder_it_works(reports: str, tmp_path: Path) -> None:
    """Without a place to keep it, matplotlib makes its list of fonts anew, which takes seconds."""
    environment = {name: value for name, value in ONE_THREAD.items() if name != "HOME"}
    ended = command("train", "model=mlp", "device=cpu", "trainer.max_steps=2", reports, cwd=tmp_path, env=environment)
    assert ended.returncode == 0, ended.stderr
    [run] = (tmp_path / "runs" / "mlp").iterdir()
    assert everything(run)["training.pt"]["progress"]["step"] == 2


@pytest.mark.slow
def test_fault_11_an_installed_wheel_works_from_another_folder(tmp_path: Path) -> None:
    quiet: dict[str, Any] = {"check": True, "capture_output": True, "timeout": 300}
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, **quiet)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    installed = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(installed), str(wheel)], **quiet
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # Its own configs are read, not those of the checkout: one that only it has is found.
    shutil.copy(
        installed / "dlref" / "configs" / "model" / "mlp.yaml", installed / "dlref" / "configs" / "model" / "mine.yaml"
    )
    for model in (*SMALL, "mine"):
        settings = [*SMALL.get(model, ["model=mine"]), "device=cpu", "trainer.max_steps=2", f"run_dir={model}"]
        ended = command("train", *settings, cwd=elsewhere, env=ONE_THREAD | {"PYTHONPATH": str(installed)})
        assert ended.returncode == 0, ended.stderr
        assert everything(elsewhere / model)["training.pt"]["progress"]["step"] == 2


def test_fault_12_a_second_process_in_a_run_directory_is_told_who_has_it(
    train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = [*SMALL["mlp"], "~reports", "trainer.max_steps=1000000", "trainer.save_every=1", "trainer.log_every=1"]
    child = train_child(*settings, f"run_dir={run}")
    child.waits_for(lambda: (run / "checkpoints" / "last").exists())
    for line in ([*settings, f"run_dir={run}"], [f"resume={run}"], [*settings, f"run_dir={run}", "resume=auto"]):
        code, said = train_child(*line).ended()
        assert code == 2
        assert f"{run} is in use by process {child.pid} on " in refusal(said)
    assert child.process.is_alive()
    os.kill(child.pid, signal.SIGKILL)
    child.ended()
    assert train(f"resume={run}", "trainer.max_steps=1")[0] == 0, "nobody holds what a killed process held"


@pytest.mark.parametrize("wish", ["resume={run}", "resume={run}/checkpoints/last", "resume=auto run_dir={run}"])
def test_fault_12_checkpoints_that_another_process_removes_meanwhile_are_not_called_damaged(
    wish: str, train: Train, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(*SMALL["mlp"], "~reports", "trainer.max_steps=2", f"run_dir={run}")[0] == 0
    for manifest in run.glob("checkpoints/*-0*/weights.pt"):
        manifest.unlink()
    line = wish.format(run=run).split()
    assert train(*line)[0] == 4
    with filelock.FileLock(run / ".lock"):
        code, said = train(*line)
    assert code == 2
    assert f"{run} is in use by process" in said


def same_second() -> None:
    time.strftime = lambda _: "20240229-235959"  # type: ignore[assignment]


def test_fault_12_eight_runs_of_one_second_are_eight_directories(train_child: StartChild, tmp_path: Path) -> None:
    line = [*SMALL["mlp"], "~reports", "trainer.max_steps=2"]
    children = [train_child(*line, hurt=same_second) for _ in range(8)]
    assert [child.ended()[0] for child in children] == [0] * 8
    runs = list((tmp_path / "runs" / "mlp").iterdir())
    assert len(runs) == 8
    assert {run.name.rpartition("-")[0] for run in runs} == {"20240229-235959"}
    pids = {json.loads((run / "run.json").read_text())["pid"] for run in runs}
    assert pids == {child.pid for child in children}


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("mlp", "widths=[400000,400000]"),
        ("lstm_lm", "width=400000"),
        ("seq2seq", "hidden=400000"),
        ("transformer", "hidden=400000000"),
        ("transformer_lm", "width=400000"),
        ("dqn", "widths=[400000,400000]"),
    ],
)
def test_fault_20_a_model_that_does_not_fit_is_refused_before_it_is_made(
    model: str, size: str, train: Train, tmp_path: Path
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, said = train(*SMALL[model], f"network.{size}", f"run_dir={tmp_path / 'run'}")
    assert code == 6
    assert "training this network takes " in refusal(said)
    assert_says_what_to_turn_down(refusal(said))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB
    assert not (tmp_path / "run" / "checkpoints").exists()


def assert_says_what_to_turn_down(sentence: str) -> None:
    assert all(name in sentence for name in ("data.batch_size", "data.seq_len", "width", "trainer.accumulate"))


def little_memory(spare: int) -> None:
    """No more than `spare` bytes beyond what this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


@needs_linux
@pytest.mark.parametrize(
    "settings", [["data.batch_size=3000000"], ["data.points=300000000"], ["data.points=999999999999999999"]]
)
def test_fault_20_memory_that_runs_out_is_answered_with_what_to_turn_down(
    settings: list[str], train_child: StartChild, tmp_path: Path
) -> None:
    line = ["model=mlp", *settings, f"run_dir={tmp_path / 'run'}"]
    code, said = train_child(*line, hurt=functools.partial(little_memory, 2**30)).ended()
    assert code == 6
    assert "out of memory (" in refusal(said)
    assert_says_what_to_turn_down(refusal(said))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB\nmore"
        ),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("model", first("cnn", "seq2seq", "dqn", of=SMALL))
def test_fault_20_memory_that_runs_out_elsewhere_is_answered_alike(
    model: str, error: Exception, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlref.models.cnn import CNN
    from dlref.models.mlp import MLP
    from dlref.models.recurrent_lm import RecurrentLM
    from dlref.models.seq2seq import Seq2Seq
    from dlref.models.transformer import Transformer
    from dlref.models.transformer_lm import TransformerLM
    from dlref.objectives.word2vec import SkipGram

    def run_out(*_: Any) -> None:
        raise error

    settings = [*SMALL[model], "~reports", "trainer.save_every=3", "trainer.monitor=null"]
    assert train(*settings, f"run_dir={tmp_path / 'run'}", "trainer.max_steps=3")[0] == 0
    networks: dict[str, type] = {"cnn": CNN, "word2vec": SkipGram, "lstm_lm": RecurrentLM, "seq2seq": Seq2Seq}
    network = (networks | {"transformer": Transformer, "transformer_lm": TransformerLM}).get(model, MLP)
    monkeypatch.setattr(network, "hidden" if hasattr(network, "hidden") else "forward", run_out)
    code, said = train(f"resume={tmp_path / 'run'}", "trainer.max_steps=9")
    assert code == 6
    assert "out of memory (" in refusal(said)
    assert_says_what_to_turn_down(refusal(said))
    assert everything(tmp_path / "run")["training.pt"]["progress"]["step"] == 3


def test_where_the_c_library_cannot_be_asked_memory_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of glibc both limits are set; other libraries lack the call, or cannot be opened by no name."""
    import ctypes

    from dlref.training.memory import keep_memory

    asked: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: None) -> None:
            self.mallopt = lambda what, value: asked.append((what, value))

    monkeypatch.setattr(ctypes, "CDLL", Library)
    keep_memory()
    assert dict(asked) == {-1: -1, -3: 2**30}
    for error in (OSError, TypeError):
        monkeypatch.setattr(ctypes, "CDLL", lambda name, error=error: (_ for _ in ()).throw(error()))
        keep_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_memory()
