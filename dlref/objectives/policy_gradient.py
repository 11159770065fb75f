"""Policy gradients: REINFORCE (Williams 1992) and actor–critic with GAE(λ) (Schulman et al. 2016).

T steps of E environments.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import ActorCritic, RolloutBatch, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import at_least_float32
from dlref.objectives.rl import RLObjective


class PolicyGradient(RLObjective[RolloutBatch]):
    """-Σ_t A_t log π(a_t | s_t) of a network whose outputs are the logits of the policy.

    Without `value_coef` the advantage A_t is the return Σ_k γ^k r_(t+k), as far as the rollout goes: REINFORCE. With it the
    network is an `ActorCritic` and A_t = Σ_k (γλ)^k δ_(t+k), where δ_t = r_t + γ V(s_(t+1)) - V(s_t) and λ is `gae_lambda`:
    REINFORCE with a baseline at 1, one-step actor–critic at 0. The loss then has `value_coef` · ½ (V - target)² with the
    target A + V. It has -`entropy_coef` times the policy's entropy. `normalize_advantages` scales the A of a batch to mean 0
    and standard deviation 1. Raises ConfigError for a critic that the network lacks, and for a discount or λ outside [0, 1].
    """

    def __init__(
        self,
        net: nn.Module,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        value_coef: float | None = None,
        entropy_coef: float = 0.0,
        normalize_advantages: bool = False,
    ) -> None:
        super().__init__(net)
        if not 0 <= discount <= 1 or not 0 <= gae_lambda <= 1:
            raise ConfigError(f"objective.discount is {discount} and gae_lambda {gae_lambda}; they take 0 to 1")
        if value_coef is not None and not declares(net, ActorCritic):
            raise ConfigError(
                f"objective.value_coef is {value_coef}, and {type(net).__name__} has no critic; "
                "choose model=actor_critic, or leave out value_coef"
            )
        self.discount, self.gae_lambda, self.value_coef = discount, gae_lambda, value_coef
        self.entropy_coef, self.normalize_advantages = entropy_coef, normalize_advantages

    def learn(self, batch: RolloutBatch) -> Totals:
        valid, states = batch.valid, batch.states.flatten(0, 1)
        if self.value_coef is None:
            logits, values = self.net(states), torch.zeros_like(batch.rewards)
            next_values = values
        else:
            net: Any = self.net
            logits, values = net.policy_and_value(states)
            values = at_least_float32(values).view_as(batch.rewards)
            with torch.no_grad():
                next_values = at_least_float32(net.policy_and_value(batch.next_states.flatten(0, 1))[1]).view_as(values)
        advantages = self.advantages(batch, values, next_values)
        log_probs = at_least_float32(logits).log_softmax(1).view(*valid.shape, -1)  # [T, E, A]
        # Masks, not indices: the number of indices would be a shape that a compiled graph does not know.
        mask = valid.to(log_probs.dtype)
        steps = valid.sum()
        entropy = -(mask[..., None] * log_probs.exp() * log_probs).sum()
        loss = -self.entropy_coef * entropy
        totals = {"rl/entropy": Mean(entropy.detach(), steps)}
        if self.value_coef is not None:
            squared_errors = (mask * (values - (advantages + values).detach()).square()).sum()
            loss = loss + self.value_coef / 2 * squared_errors
            totals["rl/value"] = Mean((mask * values).detach().sum(), steps)
            totals["rl/value_error"] = Mean(squared_errors.detach(), steps)
        if self.normalize_advantages:
            advantages = normalized(advantages, mask, steps)
        chosen = log_probs.gather(2, batch.actions[..., None]).squeeze(2)
        loss = loss - (mask * advantages * chosen).sum()
        return totals | {"loss": Mean(loss, steps)}

    @torch.no_grad()
    def advantages(self, batch: Any, values: Tensor, next_values: Tensor) -> Tensor:  # [T, E]
        """GAE(λ) backwards in time: A_t = δ_t + γλ A_(t+1), without the second term at the end of an episode."""
        td_errors = batch.rewards.to(values.dtype) + self.discount * next_values * ~batch.terminated - values
        decay = self.discount * self.gae_lambda * (batch.valid & ~batch.ended).to(td_errors.dtype)
        advantages, following = torch.empty_like(td_errors), torch.zeros_like(td_errors[0])
        for t in reversed(range(len(td_errors))):
            # A step that only reset an environment has no error; the step before it ended an episode.
            following = td_errors[t] * batch.valid[t] + decay[t] * following
            advantages[t] = following
        return advantages


def normalized(advantages: Tensor, mask: Tensor, count: Tensor) -> Tensor:  # [T, E], [T, E], scalar -> [T, E]
    """Advantages with mean 0 and standard deviation 1 over the mask; 0 if they differ by rounding errors alone."""
    root_mean_square = ((mask * advantages.square()).sum() / count.clamp_min(1)).sqrt()
    rounding = 8 * torch.finfo(advantages.dtype).eps * root_mean_square
    advantages = advantages - (mask * advantages).sum() / count.clamp_min(1)
    std = ((mask * advantages.square()).sum() / (count - 1).clamp_min(1)).sqrt()
    return torch.where(std > rounding, advantages / std.clamp_min(1e-8), 0.0)
