"""Values and policies from whole episodes (*Deep Learning from Scratch 4*, chapter 5), on and off the policy."""

import numpy as np

from dlref.studies import Result
from dlref.studies._decisions import Decisions, deterministic, draw_map, grid, line


def study(
    episodes: int = 10_000,
    prediction_episodes: int = 1000,
    rate: float = 0.1,
    off_policy_rate: float = 0.2,
    epsilon: float = 0.1,
    longest: int = 1000,
    seed: int = 0,
) -> Result:
    """On the 3 × 4 grid: the values of chance as means of returns; control by ε-greedy play, and control that learns the
    greedy policy from ε-greedy play, each return weighted by how much likelier that policy makes it. Beside the exact values.
    """
    from matplotlib.figure import Figure

    decisions = grid()
    best, start = decisions.solve(), decisions.start
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2).flat
    draw = np.random.default_rng(seed)
    values = predict(decisions, decisions.chance, prediction_episodes, longest, draw)
    exact = decisions.evaluate_exactly(decisions.chance)
    draw_map(axes[0], decisions, values)
    axes[0].set_title(f"values of chance after {prediction_episodes:,} episodes")
    error = float(np.abs(values - exact)[decisions.visited()].max())
    table = [line("3 × 4 grid", "prediction", values[start], exact[start], error)]
    ways = {"control on the policy": (rate, False), "control off the policy": (off_policy_rate, True)}
    for (name, (alpha, off)), place in zip(ways.items(), (axes[1], axes[2]), strict=True):
        q = control(decisions, episodes, alpha, epsilon, off, longest, draw)
        policy = deterministic(q)
        reached = decisions.evaluate_exactly(policy)
        draw_map(place, decisions, q.max(1), policy)
        place.set_title(f"{name} after {episodes:,} episodes")
        table.append(line("3 × 4 grid", name, q[start].max(), reached[start], abs(reached[start] - best[start])))
    draw_map(axes[3], decisions, best, deterministic(decisions.action_values(best)))
    axes[3].set_title("exact")
    return Result(table, {"monte_carlo": figure})


def predict(
    decisions: Decisions, policy: np.ndarray, episodes: int, longest: int, draw: np.random.Generator
) -> np.ndarray:
    """The mean return from each visit of each state (Sutton & Barto 2018, section 5.1)."""
    values, visits = np.zeros(decisions.states), np.zeros(decisions.states)
    for _ in range(episodes):
        gain = 0.0
        for state, _, reward, *_ in reversed(list(decisions.episode(policy, longest, draw))):
            gain = reward + decisions.discount * gain
            visits[state] += 1
            values[state] += (gain - values[state]) / visits[state]
    return values


def control(
    decisions: Decisions, episodes: int, rate: float, epsilon: float, off: bool, longest: int, draw: np.random.Generator
) -> np.ndarray:
    """Values of actions [S, A] (sections 5.4 and 5.7)."""
    q = np.zeros((decisions.states, decisions.actions))
    target, behaviour = decisions.chance.copy(), decisions.chance.copy()
    for _ in range(episodes):
        gain, weight = 0.0, 1.0
        for state, action, reward, *_ in reversed(list(decisions.episode(behaviour, longest, draw))):
            gain = reward + decisions.discount * weight * gain
            q[state, action] += rate * (gain - q[state, action])
            if off:  # of what follows this step: how much likelier the greedy policy is to do it
                weight *= target[state, action] / behaviour[state, action]
            best = np.eye(decisions.actions)[q[state].argmax()]
            target[state] = best
            behaviour[state] = (1 - epsilon) * best + epsilon * decisions.chance[state]
    return q
