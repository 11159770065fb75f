"""What the tests share: small runs of every model, in this process or in one that can be killed."""

import contextlib
import hashlib
import importlib
import os
import random
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings as hypothesis_settings

from dlref.cli.main import main

# The machine may be busy: no test fails by the clock, and all runs try the same cases.
hypothesis_settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis_settings.load_profile("repeatable")

# What the tests themselves need: to fork, kill, limit and link (POSIX), and to see files and processes in /proc (Linux).
POSIX = hasattr(os, "fork")
needs_posix = pytest.mark.skipif(not POSIX, reason="the test forks, kills or limits processes, or makes links or pipes")
needs_linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="the test reads /proc, which only Linux has")
resource: Any = importlib.import_module("resource") if POSIX else None
SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # so that a test that is skipped can be collected

ROOT = Path(__file__).resolve().parents[1]
DATASETS = Path(os.environ.get("DLREF_DATA") or ROOT.parent / "shared" / "datasets")

# Every model in seconds: small, and with carried state, dropout, replay and evaluation all in use.
SMALL = {
    "mlp": [
        "model=mlp",
        "network.widths=[16,12]",
        "network.dropout=0.2",
        "network.norm=batch",
        "network.components=2",
        "data.points=50",
    ],
    "cnn": [
        "model=cnn",
        "network.blocks=[[3],[4]]",
        "network.kernel=3",
        "network.widths=[5]",
        "network.dropout=0.2",
        "network.norm=batch",
        "data.samples=100",
        "data.batch_size=9",
        "objective.max_norm=1.5",
    ],
    "lstm_lm": [
        "model=lstm_lm",
        "network.width=12",
        "network.layers=2",
        "data.batch_size=12",
        "data.length=9",
        "data.minimum=20",
    ],
    "seq2seq": [
        "model=seq2seq",
        "network.width=6",
        "network.hidden=8",
        "network.bidirectional=true",
        "network.dropout=0.2",
        "objective.smoothing=0.1",
        "data.size=150",
        "data.eval_size=20",
        "data.test_size=20",
        "data.batch_size=20",
    ],
    "transformer": [
        "model=transformer",
        "network.width=8",
        "network.layers=1",
        "network.heads=2",
        "network.dropout=0.2",
        "objective.smoothing=0.1",
        "data.size=150",
        "data.eval_size=20",
        "data.test_size=20",
        "data.batch_size=20",
    ],
    "transformer_lm": [
        "model=transformer_lm",
        "network.width=8",
        "network.layers=1",
        "network.heads=2",
        "network.dropout=0.2",
        "data.batch_size=12",
        "data.length=10",
        "data.minimum=20",
        "data.eval_stride=6",
        "trainer.ema=0.8",
    ],
    "word2vec": [
        "model=word2vec",
        "trainer.passes=null",
        "network.width=6",
        "data.batch_size=6",
        "data.length=40",
        "data.minimum=20",
        "objective.block=8",
        "objective.shared=4",
    ],
    "dqn": [
        "model=dqn",
        "network.widths=[16]",
        "network.dueling=true",
        "data.envs=3",
        "data.n_step=3",
        "data.prioritised=true",
        "data.warmup_steps=50",
        "data.explore_steps=60",
        "data.episodes=2",
        "data.replay=40",
        "objective.copy_every=3",
        "objective.double=true",
    ],
    "reinforce": [
        "model=reinforce",
        "network.widths=[8]",
        "data.envs=2",
        "data.episodes=2",
        "objective.entropy=0.01",
    ],
    "actor_critic": [
        "model=actor_critic",
        "network.widths=[8]",
        "data.envs=3",
        "data.length=7",
        "data.episodes=2",
    ],
}


# The faults that treat all models alike: those that share data and objective with another one, or nearly, wait for CI.
ALIKE = ("transformer", "reinforce", "actor_critic")


def first(*names: str, of: Iterable[str]) -> list[Any]:
    """What a test is tried with: these by `make test`, the others by `make slow`."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in names)) for name in of]


MODELS = first(*(m for m in SMALL if m not in ALIKE), of=SMALL)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks are faster on one, and runs in this process may change the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def text_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where encoded texts are kept, for all tests together, so that they neither use the user's nor fill it."""
    before, folder = os.environ.get("DLREF_CACHE"), tmp_path_factory.mktemp("texts")
    os.environ["DLREF_CACHE"] = str(folder)
    yield folder
    os.environ.pop("DLREF_CACHE") if before is None else os.environ.update(DLREF_CACHE=before)


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`dlref train` in this process: exit code and what was said."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["train", "device=cpu", "threads=1", *arguments])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def datasets() -> Path:
    """The folder of real data; a test that needs it is skipped without, and fails in CI where it should be there."""
    if not (DATASETS / "mnist").is_dir():
        if os.environ.get("CI") and (ROOT.parent / "shared" / "datasets").is_dir():
            pytest.fail(f"real data should be under {DATASETS}")
        pytest.skip(f"no real data under {DATASETS}")
    return DATASETS


def accelerators(monkeypatch: pytest.MonkeyPatch, kind: str | None, count: int = 1) -> None:
    """As if torch had found so many accelerators of this kind, or none."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: kind and torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)


def small_text8(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6,000 words where text8 would lie; the real one is not at hand."""
    from dlref.data import corpora

    (root / "text8").mkdir()
    path = root / "text8" / "text8.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text8", " one two three" * 2000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(corpora, "TEXT8", corpora.TEXT8._replace(sha256=digest))


def command(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """`dlref …` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dlref", *arguments], capture_output=True, text=True, timeout=120, **settings
    )  # type: ignore[call-overload]


def start(*arguments: str, **settings: object) -> subprocess.Popen[str]:
    """The same, not waited for."""
    line = [sys.executable, "-m", "dlref", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)  # type: ignore[call-overload]


def meeting() -> dict[str, str]:
    """Where two ranks meet, as torchrun tells them: a port that is free, and that no connection is given meanwhile."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)  # connections get those from 32,768 on
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def assert_one_sentence(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command is refused with this exit code, by one line that says this."""
    assert main(arguments) == code
    out, errors = capsys.readouterr()
    assert said in errors
    assert len(errors.splitlines()) == 1
    assert not out
