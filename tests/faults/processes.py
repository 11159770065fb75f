"""Processes that can be hurt, and what one that gives up has to say.

Each is forked from a server that has imported everything once, so that one costs a tenth of a second rather than five,
and has none of the state that the tests' own process has gathered.
"""

import contextlib
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dlref.cli.main import main

POSIX = hasattr(os, "fork")
SERVER: Any = multiprocessing.get_context("forkserver" if POSIX else None)  # without it `child` skips its test
SERVER.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch.utils.tensorboard",
        "hydra",
        "gymnasium.envs.classic_control",
        "torchtext.vocab",
        "torchtext.data.utils",
        "pooch",
        "requests",
        "tests.faults.preloaded",
        # Each process imports the module that holds its action; one that these tests do without is passed over.
        *sorted(path.stem for path in Path(__file__).parent.glob("test_*.py")),
    ]
)
Action = Callable[[], int]  # its result is the exit code
Hurt = Callable[[], None]


class Child:
    """An action in a process of its own, after `hurt` has prepared what will go wrong there."""

    def __init__(self, folder: Path, action: Action, hurt: Hurt | None, environment: Mapping[str, str]) -> None:
        # A pipe rather than a file, which would be subject to what the child's disk suffers.
        path = folder / f".stderr-{time.monotonic_ns()}"
        os.mkfifo(path)
        self.pipe, self.words = os.open(path, os.O_RDONLY | os.O_NONBLOCK), b""
        self.process = SERVER.Process(target=live, args=(folder, path, action, hurt, environment), daemon=True)
        self.process.start()
        assert self.process.pid
        self.pid: int = self.process.pid

    def said(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.pipe, 2**16):
                self.words += part
        return self.words.decode()

    def ended(self, timeout: float = 300) -> tuple[int, str]:
        """The exit code, waited for (negative for a signal that nothing handled), and what was said."""
        self.wait(lambda: self.process.exitcode is not None, timeout)
        assert self.process.exitcode is not None
        return self.process.exitcode, self.said()

    def waits_for(self, moment: Callable[[], bool], timeout: float = 300) -> None:
        """Returns as soon as `moment` has come, with the process still running."""
        self.wait(lambda: moment() or self.process.exitcode is not None, timeout)
        assert self.process.exitcode is None, f"ended too early: {self.said()}"

    def wait(self, moment: Callable[[], bool], timeout: float) -> None:
        end = time.monotonic() + timeout
        while not moment():
            assert time.monotonic() < end, f"did not happen within {timeout} s: {self.said()}"
            self.said()  # a full pipe would hold the process up
            time.sleep(0.002)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        os.close(self.pipe)


def live(folder: Path, pipe: Path, action: Action, hurt: Hurt | None, environment: Mapping[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    descriptor = os.open(pipe, os.O_WRONLY)
    pipe.unlink()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    os.fsync = no_fsync
    tqdm.set_lock(threading.RLock())  # its own is shared between processes, and remains when one is killed
    if hurt:
        hurt()
    sys.exit(action())


def no_fsync(descriptor: int) -> None:
    """What a killed process has written stays; only a power cut needs more, and no test can cause one."""


class Dlref:
    """`dlref …` as an action."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments

    def __call__(self) -> int:
        return main(self.arguments)


def refusal(said: str) -> str:
    """The one sentence with which a command gives up."""
    sentences = [line for line in said.splitlines() if re.match(r"dlref( [a-z]+)?: ", line)]
    assert len(sentences) == 1, said
    assert "Traceback" not in said, said
    return sentences[0]
