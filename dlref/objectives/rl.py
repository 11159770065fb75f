"""Base class of reinforcement learning objectives."""

from typing import Any

import torch
from torch import nn

from dlref.metrics import Mean, Totals
from dlref.objectives import Batch, Objective


class RLObjective(Objective[Batch]):
    """Adds the returns of finished episodes to the totals that `learn(batch)` computes from a training batch.

    In evaluation a batch is one finished episode, of which only return and length are counted.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.env_steps = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def learn(self, batch: Batch) -> Totals:
        raise NotImplementedError

    def forward(self, batch: Any) -> Totals:
        if not self.training:
            return {"return": Mean(batch.episode_return, 1), "length": Mean(batch.length, 1)}
        self.env_steps.fill_(batch.env_steps)
        finished = batch.finished
        return self.learn(batch) | {
            "rl/return": Mean(finished.returns, finished.episodes),
            "rl/length": Mean(finished.lengths, finished.episodes),
        }

    def summarize(self, totals: Totals) -> dict[str, float]:
        """Adds the number of environment steps."""
        name = "rl/environment_steps" if "loss" in totals else "environment_steps"
        return super().summarize(totals) | {name: float(self.env_steps)}
