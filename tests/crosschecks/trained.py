"""Training as the command does it, on batches that a test gives."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from dlref.build import build_optimizer
from dlref.cli.compose import compose
from dlref.interfaces import Shard
from dlref.objectives import Objective
from dlref.training.config import TrainerConfig
from dlref.training.log import Log
from dlref.training.trainer import Trainer


class InOrder:
    """Data whose training batches are those given, one after the other."""

    unit, batches_per_epoch = "samples", 1.0

    def __init__(self, given: Sequence[Any]) -> None:
        self.given = given

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Any]:
        return iter(self.given)

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Any]:
        return iter(self.given[:1])

    def units_per_batch(self, ranks: int) -> float:
        return 1.0


class Losses(Log):
    """Keeps the loss of each training step."""

    def __init__(self) -> None:
        super().__init__(None)
        self.kept: list[float] = []

    def metrics(self, split: str, step: int, seconds: float, metrics: dict[str, float]) -> None:
        if split == "train":
            self.kept.append(metrics["loss"])


def train(objective: Objective, batches: Sequence[Any], *typed: str) -> list[float]:
    """One update for each batch, with the optimizer that these settings of `dlref train` build; the loss before each."""
    limits = [f"trainer.max_steps={len(batches)}", "trainer.log_every=1", "trainer.eval_every=null"]
    config = compose(
        ["model=mlp", "schedule=constant", "trainer.precision=float64", "trainer.monitor=null", *limits, *typed]
    )
    optimizer, schedule = build_optimizer(config, objective)
    settings, data = TrainerConfig(**config["trainer"]), InOrder(batches)
    trainer = Trainer(settings, objective, data, optimizer, schedule, Shard(), torch.device("cpu"))  # type: ignore[arg-type]
    log = Losses()
    trainer.fit(log, lambda _: None, lambda *_: {})
    return log.kept
