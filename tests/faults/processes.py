"""Processes that can be hurt, and what one that gives up has to say.

Each is forked from a server that has imported everything once, so that one costs a tenth of a second rather than five,
and has none of the state that the tests' own process has gathered.
"""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tqdm import tqdm

from dlref.cli.main import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch._dynamo", "torch.utils.tensorboard", "hydra", "gymnasium.envs.classic_control", "pytest", "dlref.build"]
    + ["dlref.cli.train", "dlref.cli.evaluate", "torchtext.vocab", "torchtext.data.utils", "pooch", "requests"]
)
Action = Callable[[], int]  # its result is the exit code
Hurt = Callable[[], None]


class Child:
    """An action in a process of its own, after `hurt` has prepared what will go wrong there."""

    def __init__(self, folder: Path, action: Action, hurt: Hurt | None, environment: Mapping[str, str]) -> None:
        self.stderr = folder / f"stderr-{len(list(folder.glob('stderr-*')))}"
        self.stderr.touch()
        self.process = SERVER.Process(target=live, args=(folder, self.stderr, action, hurt, environment), daemon=True)
        self.process.start()
        assert self.process.pid
        self.pid: int = self.process.pid

    def said(self) -> str:
        return self.stderr.read_text(encoding="utf-8")

    def ended(self, timeout: float = 60) -> tuple[int, str]:
        """The exit code, waited for (negative for a signal that nothing handled), and what was said."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s: {self.said()}"
        return self.process.exitcode, self.said()

    def waits_for(self, moment: Callable[[], bool], timeout: float = 60) -> None:
        """Returns as soon as `moment` has come, with the process still running."""
        end = time.monotonic() + timeout
        while not moment():
            assert self.process.exitcode is None, f"ended too early: {self.said()}"
            assert time.monotonic() < end, f"did not happen within {timeout} s: {self.said()}"
            time.sleep(0.002)


def live(folder: Path, stderr: Path, action: Action, hurt: Hurt | None, environment: Mapping[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    descriptor = os.open(stderr, os.O_WRONLY | os.O_APPEND)
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
    sentences = [line for line in said.splitlines() if line.startswith("dlref: ")]
    assert len(sentences) == 1, said
    assert "Traceback" not in said, said
    return sentences[0]
