"""Returns, targets and gradients of reinforcement learning, one transition at a time. T transitions, A actions.

Section and equation numbers are those of Sutton & Barto 2018, *Reinforcement Learning*, unless a function names its own source.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dlref.equations import largest, tensor, total
from dlref.equations.layers import softmax


def returns(rewards: Tensor, discount: float) -> Tensor:  # [T] of one episode -> [T]
    """G_t = Σ_k γ^k r_(t+k) (equation 3.8)."""
    return tensor([total(discount**k * rewards[t + k] for k in range(len(rewards) - t)) for t in range(len(rewards))])


def per_decision_returns(rewards: Tensor, ratios: Tensor, discount: float) -> Tensor:  # [T], [T] of one episode -> [T]
    """Off-policy returns of state-action pairs, G_t = Σ_k γ^k ρ_(t+1) … ρ_(t+k) r_(t+k), with ρ = π(a|s) / b(a|s).

    A reward carries the ratios of the actions after a_t that led to it, each once (section 5.9).
    """
    found = []
    for t in range(len(rewards)):
        sum_, weight = rewards[t], torch.ones_like(rewards[t])
        for later in range(t + 1, len(rewards)):
            weight = weight * ratios[later]
            sum_ = sum_ + discount ** (later - t) * weight * rewards[later]
        found.append(sum_)
    return tensor(found)


def advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminated: bool, discount: float, gae_lambda: float
) -> Tensor:
    """GAE(λ): A_t = Σ_k (γλ)^k δ_(t+k) with δ_t = r_t + γ V(s_(t+1)) - V(s_t), up to the end of the episode or rollout.

    All [T]. V is 0 after the last transition of an episode that terminated (Schulman et al. 2016, equation 16).
    """
    errors = []
    for t in range(len(rewards)):
        follows = 0 if terminated and t == len(rewards) - 1 else next_values[t]
        errors.append(rewards[t] + discount * follows - values[t])
    return tensor(
        [
            total((discount * gae_lambda) ** k * errors[t + k] for k in range(len(errors) - t))
            for t in range(len(errors))
        ]
    )


def policy_gradient(logits: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:  # [T, A], [T], [T] -> scalar
    """-Σ_t A_t log π(a_t | s_t); its gradient is minus that of the expected return (Williams 1992; section 13.3)."""
    probabilities = softmax(logits)
    return total(-advantages[t] * torch.log(probabilities[t, actions[t]]) for t in range(len(actions)))


def entropy(logits: Tensor) -> Tensor:  # [T, A] -> scalar
    """-Σ_t Σ_a π log π, in nats."""
    return -total(p * torch.log(p) for probabilities in softmax(logits) for p in probabilities)


def bellman_target(reward: Tensor, terminated: bool, next_values: Tensor, discount: float) -> Tensor:
    """r + γ max_a Q(s', a), or r alone where s' is terminal (Watkins & Dayan 1992)."""
    return reward if terminated else reward + discount * largest(next_values)


def double_target(reward: Tensor, terminated: bool, next_q: Tensor, next_target_q: Tensor, discount: float) -> Tensor:
    """r + γ Q⁻(s', argmax_a Q(s', a)) with the target network's Q⁻ [A] (van Hasselt et al. 2016, equation 4)."""
    if terminated:
        return reward
    best = 0
    for action in range(len(next_q)):
        if next_q[action] > next_q[best]:
            best = action
    return reward + discount * next_target_q[best]


def n_step(
    rewards: Tensor, terminated: Sequence[bool], truncated: Sequence[bool], start: int, steps: int, discount: float
) -> tuple[Tensor, int, float]:
    """n-step return Σ_k γ^k r_(start+k), index of its last transition, and discount of the value after it (equation 7.1).

    It has up to `steps` transitions, fewer where the episode or the data end before. The discount is 0 where the episode
    terminated.
    """
    sum_, last = rewards[start], start
    while last < min(start + steps, len(rewards)) - 1 and not terminated[last] and not truncated[last]:
        last += 1
        sum_ = sum_ + discount ** (last - start) * rewards[last]
    return sum_, last, 0.0 if terminated[last] else discount ** (last - start + 1)


def huber(errors: Tensor, delta: float) -> Tensor:  # [T] -> scalar
    """Σ of e²/2 for |e| ≤ δ, of δ (|e| - δ/2) for larger errors (Huber 1964)."""
    return total(e**2 / 2 if abs(e) <= delta else delta * (abs(e) - delta / 2) for e in errors)


def dueling(value: Tensor, advantages: Tensor) -> Tensor:  # [], [A] -> [A]
    """Q_a = V + A_a - mean(A) (Wang et al. 2016, equation 9)."""
    mean = total(advantages) / len(advantages)
    return tensor([value + a - mean for a in advantages])


def priorities(td_errors: Tensor, alpha: float, epsilon: float) -> Tensor:  # [N] -> [N]
    """Sampling probabilities P_i = p_i^α / Σ_k p_k^α with p_i = |δ_i| + ε (Schaul et al. 2016, equation 1)."""
    powers = [(abs(error) + epsilon) ** alpha for error in td_errors]
    return tensor([power / total(powers) for power in powers])


def importance_weights(probabilities: Tensor, size: int, beta: float) -> Tensor:  # [B] -> [B]
    """w_i = (N P_i)^-β, divided by the largest of the batch (Schaul et al. 2016, section 3.4)."""
    weights = [(size * p) ** -beta for p in probabilities]
    return tensor([weight / largest(weights) for weight in weights])
