"""What all objectives that learn from play have in common: episodes to count."""

from typing import Any

import torch
from torch import nn

from dlref.metrics import Mean, Totals
from dlref.objectives import Objective


class FromPlay(Objective):
    """In training `learn(batch)` gives the totals of the loss; in evaluation a batch is a finished episode, counted alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.played = nn.Buffer(torch.zeros((), dtype=torch.int64))  # environment steps

    def learn(self, batch: Any) -> Totals:
        raise NotImplementedError

    def forward(self, batch: Any) -> Totals:
        if not self.training:
            return {"return": Mean(batch.returns, 1), "length": Mean(batch.length, 1)}
        self.played.fill_(batch.played)
        finished = batch.finished
        return self.learn(batch) | {
            "rl/return": Mean(finished.returns, finished.episodes),
            "rl/length": Mean(finished.length, finished.episodes),
        }

    def summarize(self, totals: Totals) -> dict[str, float]:
        """Also how far play had come, in steps of the environments."""
        name = "rl/environment_steps" if "loss" in totals else "environment_steps"
        return super().summarize(totals) | {name: float(self.played)}
