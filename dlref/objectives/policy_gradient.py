"""Policy gradients: REINFORCE (Williams 1992) and actor–critic with traces (Schulman et al. 2016)."""

from typing import Any

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import ActorCritic, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import at_least_float32
from dlref.objectives.rl import FromPlay


class PolicyGradient(FromPlay):
    """-Σ_t A_t log π(a_t | s_t), for a network whose outputs are the log-chances of actions up to a constant.

    Without a critic A_t is the return from there on, Σ_k γ^k r_(t+k), as far as the rollout goes: REINFORCE. With one,
    that is a network with `policy_and_value(states) -> (outputs, values)`, A_t = Σ_k (γλ)^k δ_(t+k), where
    δ_t = r_t + γ V(s_(t+1)) - V(s_t) and λ is the `trace`: REINFORCE with a baseline at 1, the actor–critic of one step at
    0; and V is drawn to A + V by ½ (V - target)² times `critic`. `entropy` rewards policies that leave more open, and
    `standardize` brings the A of a batch to mean 0 and deviation 1. In evaluation a batch is a finished episode and only
    its return and length are counted. Raises ConfigError for a network that judges nothing, and shares outside [0, 1].
    """

    def __init__(
        self,
        net: nn.Module,
        discount: float = 0.99,
        trace: float = 1.0,
        critic: float | None = None,
        entropy: float = 0.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(net)
        if not 0 <= discount <= 1 or not 0 <= trace <= 1:
            raise ConfigError(f"objective.discount is {discount} and trace {trace}; they take a share from 0 to 1")
        if critic is not None and not declares(net, ActorCritic):
            raise ConfigError(
                f"objective.critic is {critic}, and {type(net).__name__} has no values to judge states by; "
                "choose model=actor_critic, or leave out the critic"
            )
        self.discount, self.trace, self.critic = discount, trace, critic
        self.entropy, self.standardize = entropy, standardize

    def learn(self, batch: Any) -> Totals:
        taken, states = batch.taken, batch.states.flatten(0, 1)
        if self.critic is None:
            logits, values = self.net(states), torch.zeros_like(batch.rewards)
            following = values
        else:
            policy_and_value: Any = self.net.policy_and_value
            logits, values = policy_and_value(states)
            values = at_least_float32(values).view_as(batch.rewards)
            with torch.no_grad():
                following = at_least_float32(policy_and_value(batch.next_states.flatten(0, 1))[1]).view_as(values)
        advantages = self.advantages(batch, values, following)
        logs = at_least_float32(logits).log_softmax(1).view(*taken.shape, -1)
        # Masks, not indices, whose number would be a shape that a compiled graph does not know.
        mask = taken.to(logs.dtype)
        steps = taken.sum()
        entropy = -(mask[..., None] * logs.exp() * logs).sum()
        loss = -self.entropy * entropy
        totals = {"rl/entropy": Mean(entropy.detach(), steps)}
        if self.critic is not None:
            wrong = (mask * (values - (advantages + values).detach()).square()).sum()
            loss = loss + self.critic / 2 * wrong
            totals["rl/value"] = Mean((mask * values).detach().sum(), steps)
            totals["rl/value_error"] = Mean(wrong.detach(), steps)
        if self.standardize:
            # Where all are equal, what remains is rounding, which is not to be scaled up.
            size = ((mask * advantages.square()).sum() / steps.clamp_min(1)).sqrt()
            rounding = 8 * torch.finfo(advantages.dtype).eps * size
            advantages = advantages - (mask * advantages).sum() / steps.clamp_min(1)
            std = ((mask * advantages.square()).sum() / (steps - 1).clamp_min(1)).sqrt()
            advantages = torch.where(std > rounding, advantages / std.clamp_min(1e-8), 0.0)
        chosen = logs.gather(2, batch.actions[..., None]).squeeze(2)
        loss = loss - (mask * advantages * chosen).sum()
        return totals | {"loss": Mean(loss, steps)}

    @torch.no_grad()
    def advantages(self, batch: Any, values: Tensor, following: Tensor) -> Tensor:  # [T, E], of states and next states
        """Backwards in time: A_t = δ_t + γλ A_(t+1), which begins anew where an episode ended."""
        errors = batch.rewards.to(values.dtype) + self.discount * following * ~batch.terminated - values
        carried = self.discount * self.trace * (batch.taken & ~batch.ended).to(errors.dtype)
        found, after = torch.empty_like(errors), torch.zeros_like(errors[0])
        for t in reversed(range(len(errors))):
            # A step that only reset an environment hands on what came after it to nobody: the one before it ended.
            after = errors[t] * batch.taken[t] + carried[t] * after
            found[t] = after
        return found
