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
    rewards: Tensor, values: Tensor, next_values: Tensor, terminated: bool, discount: float, trace: float
) -> Tensor:
    """A_t = Σ_k (γλ)^k δ_(t+k) with δ_t = r_t + γ V(s_(t+1)) - V(s_t), up to the end of an episode or of what is known of it.

    All [T]. Nothing follows the last transition of an episode that terminated (Schulman et al. 2016, equation 16).
    """
    errors = []
    for t in range(len(rewards)):
        follows = 0 if terminated and t == len(rewards) - 1 else next_values[t]
        errors.append(rewards[t] + discount * follows - values[t])
    return tensor(
        [total((discount * trace) ** k * errors[t + k] for k in range(len(errors) - t)) for t in range(len(errors))]
    )


def policy_gradient(logits: Tensor, actions: Tensor, weights: Tensor) -> Tensor:  # [T, A], [T], [T] -> scalar
    """-Σ_t A_t log π(a_t | s_t), whose gradient is that of expected return (Williams 1992; section 13.3)."""
    shares = softmax(logits)
    return total(-weights[t] * torch.log(shares[t, actions[t]]) for t in range(len(actions)))


def entropy(logits: Tensor) -> Tensor:  # [T, A] -> scalar
    """-Σ_t Σ_a π log π, in nats."""
    return -total(share * torch.log(share) for shares in softmax(logits) for share in shares)


def bellman_target(reward: Tensor, terminated: bool, next_values: Tensor, discount: float) -> Tensor:
    """r + γ max_a Q(s', a), and r alone where nothing follows (Watkins & Dayan 1992)."""
    return reward if terminated else reward + discount * largest(next_values)


def double_target(reward: Tensor, terminated: bool, own: Tensor, others: Tensor, discount: float) -> Tensor:
    """r + γ Q'(s', argmax_a Q(s', a)): the network chooses, the target network judges (van Hasselt et al. 2016, equation 4)."""
    if terminated:
        return reward
    best = 0
    for action in range(len(own)):
        if own[action] > own[best]:
            best = action
    return reward + discount * others[best]


def n_step(
    rewards: Tensor, terminated: Sequence[bool], truncated: Sequence[bool], start: int, steps: int, discount: float
) -> tuple[Tensor, int, float]:
    """From transition `start` on: Σ_k γ^k r_(start+k), the last transition taken, and the factor of what follows it (7.1).

    Up to `steps` transitions are taken, fewer where the episode or what is known of it ends before. Where it terminated the
    factor is 0.
    """
    sum_, last = rewards[start], start
    while last < min(start + steps, len(rewards)) - 1 and not terminated[last] and not truncated[last]:
        last += 1
        sum_ = sum_ + discount ** (last - start) * rewards[last]
    return sum_, last, 0.0 if terminated[last] else discount ** (last - start + 1)


def huber(error: Tensor, limit: float) -> Tensor:  # [T] -> scalar
    """Σ of e²/2 up to |e| = L, from there L (|e| - L/2) (Huber 1964)."""
    return total(e**2 / 2 if abs(e) <= limit else limit * (abs(e) - limit / 2) for e in error)


def dueling(value: Tensor, advantages: Tensor) -> Tensor:  # [], [A] -> [A]
    """Q_a = V + A_a - mean of A (Wang et al. 2016, equation 9)."""
    mean = total(advantages) / len(advantages)
    return tensor([value + a - mean for a in advantages])


def priorities(errors: Tensor, exponent: float, least: float) -> Tensor:  # [N] -> [N]
    """P_i = p_i^α / Σ_k p_k^α with p_i = |δ_i| + ε (Schaul et al. 2016, equation 1)."""
    powers = [(abs(error) + least) ** exponent for error in errors]
    return tensor([power / total(powers) for power in powers])


def importance_weights(chances: Tensor, size: int, exponent: float) -> Tensor:  # [B] -> [B]
    """w_i = (N P_i)^-β, over the largest of the batch (Schaul et al. 2016, section 3.4)."""
    weights = [(size * chance) ** -exponent for chance in chances]
    return tensor([weight / largest(weights) for weight in weights])
