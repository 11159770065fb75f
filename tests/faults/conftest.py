"""Processes that train, and saves that no power cut threatens."""

import os
from collections.abc import Callable

import pytest

from tests.faults.processes import Child, Hurt, no_fsync


@pytest.fixture(autouse=True)
def quick_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_fsync)


@pytest.fixture
def train_child(child: Callable[..., Child]) -> Callable[..., Child]:
    """`dlref train …` there."""

    def start(*arguments: str, hurt: Hurt | None = None, **environment: str) -> Child:
        return child("train", "device=cpu", "threads=1", *arguments, hurt=hurt, **environment)

    return start
