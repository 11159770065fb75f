"""Temporal-difference learning: TD(0), SARSA and Q-learning (*Deep Learning from Scratch 4*, chapter 6)."""

import numpy as np

from dlref.studies import Result
from dlref.studies._mdp import MDP, draw_map, greedy_policy, grid, table_row, toy_text


def study(
    episodes: int = 10_000,
    prediction_episodes: int = 1000,
    prediction_rate: float = 0.01,
    rate: float = 0.8,
    epsilon: float = 0.1,
    environment: str | None = None,
    max_steps: int = 1000,
    seed: int = 0,
) -> Result:
    """TD(0) for the random policy; control by SARSA, off-policy SARSA with importance sampling, and Q-learning.

    On the 3 × 4 grid, or on an environment of gymnasium's toy_text (environment=CliffWalking-v1 rate=0.1 episodes=2000);
    compared with exact values. The `error` of control is the exact value that its policy loses at the start.
    """
    from matplotlib.figure import Figure

    rng = np.random.default_rng(seed)
    name, mdp = environment or "3 × 4 grid", toy_text(environment, 0.99) if environment else grid()
    exact, optimal_values, start = mdp.evaluate_exactly(mdp.random_policy), mdp.solve(), mdp.start
    values = predict(mdp, mdp.random_policy, prediction_episodes, prediction_rate, max_steps, rng)
    error = float(np.abs(values - exact)[mdp.reachable()].max())
    table = [table_row(name, "TD(0), random policy", values[start], exact[start], error)]
    maps: dict[str, tuple[np.ndarray, np.ndarray | None]] = {"TD(0), random policy": (values, None)}
    for method in ("SARSA", "off-policy SARSA", "Q-learning"):
        q = control(mdp, method, episodes, rate, epsilon, max_steps, rng)
        policy = greedy_policy(q)
        exact = mdp.evaluate_exactly(policy)
        table.append(table_row(name, method, q[start].max(), exact[start], abs(exact[start] - optimal_values[start])))
        maps[method] = q.max(1), policy
    if not mdp.arrows:
        return Result(table, {})
    rows, columns = mdp.shape or (1, 1)
    figure = Figure(figsize=(max(9, 1.2 * columns), max(6, rows)), layout="constrained")
    for axes, (title, (values_, policy_)) in zip(figure.subplots(2, 2).flat, maps.items(), strict=True):
        draw_map(axes, mdp, values_, policy_)
        axes.set_title(title)
    return Result(table, {"temporal_difference": figure})


def predict(
    mdp: MDP, policy: np.ndarray, episodes: int, rate: float, max_steps: int, rng: np.random.Generator
) -> np.ndarray:
    """TD(0): V(s) ← V(s) + α (r + γ V(s') - V(s)) (Sutton & Barto 2018, equation 6.2)."""
    values = np.zeros(mdp.states)
    for _ in range(episodes):
        for state, _, reward, next_state, terminated in mdp.episode(policy, max_steps, rng):
            target = reward + (0.0 if terminated else mdp.discount * values[next_state])
            values[state] += rate * (target - values[state])
    return values


def control(
    mdp: MDP, method: str, episodes: int, rate: float, epsilon: float, max_steps: int, rng: np.random.Generator
) -> np.ndarray:
    """Action values [S, A] from ε-greedy episodes: SARSA (equation 6.7), SARSA with the importance ratio of the next action
    under the greedy policy, or Q-learning (equation 6.8)."""
    q = np.zeros((mdp.states, mdp.actions))

    def act(state: int) -> int:
        if rng.random() < epsilon:
            return int(rng.integers(mdp.actions))
        return int(q[state].argmax())

    for _ in range(episodes):
        state, terminated, steps = mdp.reset(rng), False, 0
        action = act(state)
        while not terminated and steps < max_steps:
            next_state, reward, terminated = mdp.step(state, action, rng)
            next_action = act(next_state)
            next_value, ratio = (0.0, 1.0) if terminated else (q[next_state, next_action], 1.0)
            if method == "Q-learning":
                next_value = 0.0 if terminated else q[next_state].max()
            elif method == "off-policy SARSA" and not terminated:
                # Probability of the next action under the greedy policy, divided by that under the ε-greedy policy.
                is_greedy = next_action == int(q[next_state].argmax())
                ratio = is_greedy / ((1 - epsilon) * is_greedy + epsilon / mdp.actions)
            q[state, action] += rate * (ratio * (reward + mdp.discount * next_value) - q[state, action])
            state, action, steps = next_state, next_action, steps + 1
    return q
