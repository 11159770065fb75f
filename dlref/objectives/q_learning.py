"""Deep Q-learning: Mnih et al. 2015, algorithm 1."""

import copy
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref import operators
from dlref.errors import ConfigError
from dlref.interfaces import TransitionBatch
from dlref.metrics import Mean, Totals
from dlref.objectives import at_least_float32
from dlref.objectives.rl import RLObjective


class QLearning(RLObjective[TransitionBatch]):
    """Huber loss between Q(s, a) and the n-step target Σ_k γ^k r_k + γ^n max_a' Q_target(s', a').

    The second term is 0 where the episode terminated. The loss is linear for errors above `huber_delta`. The target network
    is a hard copy every `target_update_interval` updates or, with `tau`, a Polyak average θ⁻ ← (1 − τ) θ⁻ + τ θ after each
    update (Lillicrap et al. 2016). With `double` the network selects a' and the target network evaluates it (van Hasselt et
    al. 2016). Raises ConfigError for a discount or tau outside [0, 1].
    """

    def __init__(
        self,
        net: nn.Module,
        discount: float = 0.99,
        target_update_interval: int = 100,
        tau: float | None = None,
        double: bool = False,
        huber_delta: float = 1.0,
    ) -> None:
        super().__init__(net)
        if not 0 <= discount <= 1 or not 0 <= (tau or 0) <= 1 or target_update_interval < 1 or huber_delta <= 0:
            raise ConfigError(
                f"objective.discount is {discount} and tau {tau}, which take 0 to 1, target_update_interval "
                f"{target_update_interval}, which takes 1 or more, and huber_delta {huber_delta}, above 0"
            )
        self.discount, self.target_update_interval, self.tau = discount, target_update_interval, tau
        self.is_double, self.huber_delta = double, huber_delta
        self.target = copy.deepcopy(net).requires_grad_(False)
        self.updates = nn.Buffer(torch.zeros((), dtype=torch.int64))
        # Between hard copies targets are constant, except by buffers (batch norm's), which ranks share now and then.
        self.has_constant_targets = tau is None and not double and not list(self.target.buffers())
        self.prefetched: Any = None  # batches whose targets are cached

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.target.eval()
        return self

    def learn(self, batch: Any) -> Totals:
        q = at_least_float32(self.net(batch.states)).gather(1, batch.actions[:, None]).squeeze(1)
        targets = self.prefetched_targets(batch)
        losses = F.huber_loss(q, targets, reduction="none", delta=self.huber_delta)
        loss = (losses if batch.weights is None else losses * batch.weights).sum()
        if batch.td_errors is not None:
            batch.td_errors.copy_(q.detach() - targets)
        count = len(q)
        return {
            "loss": Mean(loss, count),
            "rl/q": Mean(q.detach().sum(), count),
            "rl/epsilon": Mean(batch.epsilon, 1),
            "rl/replay_ratio": Mean(count, batch.new_env_steps),  # sampled transitions per new transition
        }

    @torch.no_grad()
    def targets(self, batch: Any) -> Tensor:  # [B]
        """Σ_k γ^k r_k + γ^n max_a' Q_target(s', a'), or the rewards alone where s' is terminal."""
        next_q = at_least_float32(self.target(batch.next_states))  # [B, A]
        if self.is_double:
            next_values = next_q.gather(1, self.net(batch.next_states).argmax(1, keepdim=True)).squeeze(1)
        else:
            next_values = next_q.amax(1)
        n = batch.rewards.shape[1]
        discounts = self.discount ** torch.arange(n + 1, device=next_q.device).to(next_q.dtype)  # γ^0 … γ^n
        returns = (batch.rewards.to(next_q.dtype) * discounts[:n]).sum(1)
        return returns + discounts[batch.steps] * ~batch.terminated * next_values

    def prefetched_targets(self, batch: Any) -> Tensor:  # [B]
        """Equals `targets(batch)`; where targets are constant, they are computed at once for all prefetched batches."""
        if batch.prefetched is None or not self.has_constant_targets:
            return self.targets(batch)
        if self.prefetched is not batch.prefetched:  # to set an attribute of a module is slow
            self.prefetched = batch.prefetched
        if self.prefetched.targets is None:
            self.prefetched.targets = self.targets(self.prefetched.transitions)
        return self.prefetched.targets[batch.part]

    def after_step(self) -> None:
        """Update the target network."""
        updates = int(self.updates.add_(1))
        if self.tau is not None:
            with torch.no_grad():
                operators.interpolate_(list(self.target.parameters()), list(self.net.parameters()), self.tau)
            for target, source in zip(self.target.buffers(), self.net.buffers(), strict=True):
                target.copy_(source)
        elif updates % self.target_update_interval == 0:
            self.target.load_state_dict(self.net.state_dict())
            if self.prefetched is not None:
                self.prefetched.targets = None

    def summarize(self, totals: Totals) -> dict[str, float]:
        """Adds the number of updates."""
        metrics = super().summarize(totals)
        return metrics | {"rl/updates": float(self.updates)} if "loss" in totals else metrics
