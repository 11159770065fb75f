"""Deep Q-learning: Mnih et al. 2015, algorithm 1."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.metrics import Mean, Totals
from dlref.objectives import Objective, at_least_float32


class QLearning(Objective):
    """Huber loss between Q(s, a) and r + γ max_a' Q_target(s', a'), without the latter where the episode terminated.

    The target network is a copy of the network, renewed every `copy_every` steps. In evaluation a batch is a finished
    episode and only its return and length are counted.
    """

    def __init__(self, net: nn.Module, discount: float = 0.99, copy_every: int = 100) -> None:
        super().__init__(net)
        if not 0 <= discount <= 1 or copy_every < 1:
            raise ConfigError(f"objective.discount is {discount}, from 0 to 1, and copy_every {copy_every}, 1 or more")
        self.discount, self.copy_every = discount, copy_every
        self.target = copy.deepcopy(net).requires_grad_(False)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Any) -> Totals:
        if not self.training:
            return {"return": Mean(batch.returns, 1), "length": Mean(batch.length, 1)}
        q = at_least_float32(self.net(batch.states)).gather(1, batch.actions[:, None]).squeeze(1)
        with torch.no_grad():
            next_q = at_least_float32(self.target(batch.next_states)).max(dim=1).values
            target = batch.rewards + self.discount * next_q * ~batch.terminated
        count = len(q)
        return {
            "loss": Mean(F.smooth_l1_loss(q, target, reduction="sum"), count),
            "rl/q": Mean(q.sum(), count),
            "rl/return": Mean(batch.finished[:, 0].sum(), len(batch.finished)),
            "rl/length": Mean(batch.finished[:, 1].sum(), len(batch.finished)),
            "rl/epsilon": Mean(batch.epsilon, 1),
        }

    def after_step(self) -> None:
        self.steps += 1
        if self.steps % self.copy_every == 0:
            self.target.load_state_dict(self.net.state_dict())
