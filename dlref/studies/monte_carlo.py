"""Monte Carlo prediction and control, on-policy and off-policy (*Deep Learning from Scratch 4*, chapter 5)."""

import numpy as np

from dlref.studies import Result
from dlref.studies._mdp import MDP, draw_map, greedy_policy, grid, table_row


def study(
    episodes: int = 10_000,
    prediction_episodes: int = 1000,
    rate: float = 0.1,
    off_policy_rate: float = 0.2,
    epsilon: float = 0.1,
    max_steps: int = 1000,
    seed: int = 0,
) -> Result:
    """On the 3 × 4 grid, compared with exact values: prediction for the random policy, and control.

    On-policy control learns the ε-greedy policy, off-policy control the greedy policy from ε-greedy episodes, by importance
    sampling.
    """
    from matplotlib.figure import Figure

    mdp = grid()
    optimal_values, start = mdp.solve(), mdp.start
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2).flat
    rng = np.random.default_rng(seed)
    values = predict(mdp, mdp.random_policy, prediction_episodes, max_steps, rng)
    exact = mdp.evaluate_exactly(mdp.random_policy)
    draw_map(axes[0], mdp, values)
    axes[0].set_title(f"random policy after {prediction_episodes:,} episodes")
    error = float(np.abs(values - exact)[mdp.reachable()].max())
    table = [table_row("3 × 4 grid", "prediction", values[start], exact[start], error)]
    methods = {"on-policy control": (rate, False), "off-policy control": (off_policy_rate, True)}
    for (name, (alpha, off_policy)), panel in zip(methods.items(), (axes[1], axes[2]), strict=True):
        q = control(mdp, episodes, alpha, epsilon, off_policy, max_steps, rng)
        policy = greedy_policy(q)
        exact = mdp.evaluate_exactly(policy)
        draw_map(panel, mdp, q.max(1), policy)
        panel.set_title(f"{name} after {episodes:,} episodes")
        table.append(
            table_row("3 × 4 grid", name, q[start].max(), exact[start], abs(exact[start] - optimal_values[start]))
        )
    draw_map(axes[3], mdp, optimal_values, greedy_policy(mdp.action_values(optimal_values)))
    axes[3].set_title("exact")
    return Result(table, {"monte_carlo": figure})


def predict(mdp: MDP, policy: np.ndarray, episodes: int, max_steps: int, rng: np.random.Generator) -> np.ndarray:
    """Every-visit Monte Carlo prediction [S]: the mean return after visits of a state (Sutton & Barto 2018, section 5.1)."""
    values, visits = np.zeros(mdp.states), np.zeros(mdp.states)
    for _ in range(episodes):
        return_ = 0.0
        for state, _, reward, *_ in reversed(list(mdp.episode(policy, max_steps, rng))):
            return_ = reward + mdp.discount * return_
            visits[state] += 1
            values[state] += (return_ - values[state]) / visits[state]
    return values


def control(
    mdp: MDP, episodes: int, rate: float, epsilon: float, off_policy: bool, max_steps: int, rng: np.random.Generator
) -> np.ndarray:
    """Action values [S, A] from ε-greedy episodes: of the ε-greedy policy (Sutton & Barto 2018, section 5.4), or,
    `off_policy`, of the greedy policy by per-decision importance sampling (section 5.9).

    Importance ratios are those of the two policies at the start of an episode, so its returns do not influence them.
    """
    q = np.zeros((mdp.states, mdp.actions))
    target, behavior = mdp.random_policy.copy(), mdp.random_policy
    for _ in range(episodes):
        states, actions, rewards, *_ = map(np.array, zip(*mdp.episode(behavior, max_steps, rng), strict=True))
        ratios = target[states, actions] / behavior[states, actions] if off_policy else np.ones(len(states))
        found = returns(rewards, ratios, mdp.discount)
        for state, action, return_ in zip(states[::-1], actions[::-1], found[::-1], strict=True):
            q[state, action] += rate * (return_ - q[state, action])
        target[states] = np.eye(mdp.actions)[q[states].argmax(1)]
        behavior = (1 - epsilon) * target + epsilon * mdp.random_policy
    return q


def returns(rewards: np.ndarray, ratios: np.ndarray, discount: float) -> np.ndarray:  # [T], [T] -> [T]
    """G_t = r_t + γ ρ_(t+1) G_(t+1): each later action's importance ratio once, not that of a_t itself.

    `equations.reinforcement.per_decision_returns`.
    """
    found, following = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        found[t] = rewards[t] + discount * following
        following = ratios[t] * found[t]
    return found
