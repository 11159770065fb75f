"""Processes for one test, none of which outlives it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import POSIX
from tests.faults.processes import Action, Child, Dlref, Hurt, no_fsync


@pytest.fixture(autouse=True)
def quick_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_fsync)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """`dlref …` (or an action) in a process that can be killed, its current folder a fresh one."""
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
def train_child(child: Callable[..., Child]) -> Callable[..., Child]:
    """`dlref train …` there."""

    def start(*arguments: str, hurt: Hurt | None = None, **environment: str) -> Child:
        return child("train", "device=cpu", "threads=1", *arguments, hurt=hurt, **environment)

    return start
