"""What the tests share: small runs of every model, in this process or in one that can be killed."""

import contextlib
import copy
import ctypes
import functools
import hashlib
import importlib
import io
import itertools
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

# Before torch and numpy are loaded: tests that run side by side, and the processes that they start, take one thread each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings as hypothesis_settings

from dlref.cli.main import main
from dlref.filesystem import printable
from tests.faults.processes import POSIX, Action, Child, Dlref, Hurt

# The machine may be busy: no test fails by the clock, and all runs try the same cases.
hypothesis_settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis_settings.load_profile("repeatable")

# What the tests themselves need: to fork, kill, limit and link (POSIX), and to see files and processes in /proc (Linux).
needs_posix = pytest.mark.skipif(not POSIX, reason="the test forks, kills or limits processes, or makes links or pipes")
needs_linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="the test reads /proc, which only Linux has")
resource: Any = importlib.import_module("resource") if POSIX else None
SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # so that a test that is skipped can be collected

ROOT = Path(__file__).resolve().parents[1]
DATASETS = Path(os.environ.get("DLREF_DATA") or ROOT.parent / "shared" / "datasets").absolute()

# Every model in seconds: small, and with carried state, dropout, replay and evaluation all in use.
SMALL = {
    "mlp": [
        "model=mlp",
        "network.widths=[16,12]",
        "network.dropout=0.2",
        "network.norm=batch",
        "network.pca_components=2",
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
        "data.seq_len=9",
        "data.min_freq=20",
    ],
    "seq2seq": [
        "model=seq2seq",
        "network.width=6",
        "network.hidden=8",
        "network.bidirectional=true",
        "network.dropout=0.2",
        "objective.label_smoothing=0.1",
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
        "objective.label_smoothing=0.1",
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
        "data.seq_len=10",
        "data.min_freq=20",
        "data.eval_stride=6",
        "trainer.ema=0.8",
    ],
    "word2vec": [
        "model=word2vec",
        "trainer.max_epochs=null",
        "network.width=6",
        "data.batch_size=6",
        "data.seq_len=40",
        "data.min_freq=20",
        "objective.block_size=8",
        "objective.shared_negatives=4",
    ],
    "dqn": [
        "model=dqn",
        "network.widths=[16]",
        "network.dueling=true",
        "data.envs=3",
        "data.n_step=3",
        "data.prioritized=true",
        "data.learning_starts=50",
        "data.exploration_steps=60",
        "data.episodes=2",
        "data.buffer_size=40",
        "objective.target_update_interval=3",
        "objective.double=true",
    ],
    "reinforce": [
        "model=reinforce",
        "network.widths=[8]",
        "data.envs=2",
        "data.episodes=2",
        "objective.entropy_coef=0.01",
    ],
    "actor_critic": [
        "model=actor_critic",
        "network.widths=[8]",
        "data.envs=3",
        "data.rollout_steps=7",
        "data.episodes=2",
    ],
}


# These share data and objective with another model, or nearly.
ALIKE = ("transformer", "reinforce", "actor_critic")


def first(*cases: Any, of: Iterable[Any]) -> list[Any]:
    """The cases of a parametrized test: `make test` runs these, `make slow` the others. A tuple is one case."""
    every = list(of)
    assert all(case in every for case in cases), f"not all are cases: {cases}"
    found = []
    for case in every:
        values = case if isinstance(case, tuple) else (case,)
        name = "-".join(str(getattr(value, "name", value)) for value in values)
        found.append(pytest.param(*values, id=name, marks=[pytest.mark.slow] * (case not in cases)))
    return found


# Batches of rows, a state that is carried from batch to batch, and a replay buffer.
MODELS = first("mlp", "lstm_lm", "dqn", of=SMALL)


def pytest_configure(config: pytest.Config) -> None:
    """pytest-randomly shuffles the tests; its seeds, which differ from run to run, are not for what tests compute."""
    config.option.randomly_reset_seed = False


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Print the seed of the order, which pytest-randomly leaves out of a quiet run."""
    seed, printer = session.config.getoption("randomly_seed", None), session.config.pluginmanager
    if seed is not None and (terminal := printer.get_plugin("terminalreporter")):
        terminal.write_line(f"tests in random order; the same again with --randomly-seed={seed}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before its fixtures: what a test computes depends neither on the order of the tests nor on their number."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """A worker sends its reports as UTF-8, and what a test has said may hold names of files that are not."""
    report = yield
    report.sections = [(name, printable(text)) for name, text in report.sections]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A case of half precision depends on the instruction set of the CPU."""
    for item in items:
        if any(name in item.name for name in ("bf16", "fp16")):
            item.add_marker("half")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks are faster on one, and runs in this process may change the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def returned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a slow test has freed goes back to the system: `memory.keep_memory` has the process keep it for its next step."""
    yield
    if request.node.get_closest_marker("slow"):
        with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc keeps it
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True, scope="session")
def composed_once() -> Iterator[None]:
    """Hydra composes each choice of groups once per process; of a run of tiny models composition is most of the time."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    composed: dict[Any, Any] = {}

    @functools.wraps(hydra.compose)
    def compose(name: str, overrides: list[str], **settings: Any) -> Any:
        if any(override.startswith("hydra.searchpath") for override in overrides):  # folders that tests write
            return original(name, overrides, **settings)
        folders = [part.path for part in GlobalHydra.instance().config_loader().get_search_path().get_path()]
        key = (name, *folders, *settings.items(), *overrides)
        if key not in composed:
            composed[key] = original(name, overrides, **settings)
        return copy.deepcopy(composed[key])

    original, hydra.compose = hydra.compose, compose
    yield
    hydra.compose = original


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


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The directory of the uninterrupted run that these settings make, trained once per process and only to be read."""
    folder, numbers = tmp_path_factory.mktemp("trained"), itertools.count()

    @functools.cache
    def run(*settings: str) -> Path:
        home = folder / str(next(numbers))
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = main(["train", "device=cpu", "threads=1", *settings, f"run_dir={home}"])
        assert code == 0, said.getvalue()
        return home

    return run


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """`dlref …` (or an action) in a process that can be killed, its current folder a fresh one; none outlives its test."""
    if not POSIX:
        pytest.skip("the test forks and kills processes")
    children: list[Child] = []

    def start(*arguments: str, action: Action | None = None, hurt: Hurt | None = None, **environment: str) -> Child:
        children.append(Child(tmp_path, action or Dlref(*arguments), hurt, environment))
        return children[-1]

    yield start
    for one in children:
        one.end()


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
    from dlref.data.text import corpora

    (root / "text8").mkdir()
    path = root / "text8" / "text8.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text8", " one two three" * 2000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(corpora, "TEXT8", corpora.TEXT8._replace(sha256=digest))


def command(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """`dlref …` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dlref", *arguments], capture_output=True, text=True, timeout=300, **settings
    )  # type: ignore[call-overload]


def start(*arguments: str, **settings: object) -> subprocess.Popen[str]:
    """The same, not waited for."""
    line = [sys.executable, "-m", "dlref", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)  # type: ignore[call-overload]


def meeting() -> dict[str, str]:
    """Where two ranks meet, as torchrun tells them: a port that is free, and that no connection is given meanwhile.

    Tests that run side by side choose among different ones; connections get those from 32,768 on.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4
    while True:
        port = 20_000 + 3_000 * worker + random.SystemRandom().randrange(3_000)
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
