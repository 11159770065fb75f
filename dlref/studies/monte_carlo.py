"""Values and policies from whole episodes (*Deep Learning from Scratch 4*, chapter 5), on and off the policy."""

import numpy as np

from dlref.studies import Result
from dlref.studies._mdp import Decisions, deterministic, draw_map, grid, line


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
    """Action values [S, A] from ε-greedy episodes: of the ε-greedy policy itself (Sutton & Barto 2018, section 5.4), or, `off`
    the policy, of the greedy one by per-decision importance sampling (section 5.9).

    The ratios of an episode are those of the two policies at its beginning: its own returns do not choose among them.
    """
    q = np.zeros((decisions.states, decisions.actions))
    target, behavior = decisions.chance.copy(), decisions.chance
    for _ in range(episodes):
        states, actions, rewards, *_ = map(np.array, zip(*decisions.episode(behavior, longest, draw), strict=True))
        ratios = target[states, actions] / behavior[states, actions] if off else np.ones(len(states))
        gains = returns(rewards, ratios, decisions.discount)
        for state, action, gain in zip(states[::-1], actions[::-1], gains[::-1], strict=True):
            q[state, action] += rate * (gain - q[state, action])
        target[states] = np.eye(decisions.actions)[q[states].argmax(1)]
        behavior = (1 - epsilon) * target + epsilon * decisions.chance
    return q


def returns(rewards: np.ndarray, ratios: np.ndarray, discount: float) -> np.ndarray:  # [T], [T] -> [T]
    """G_t = r_t + γ ρ_(t+1) G_(t+1): each later action's importance ratio once; that of the action itself is not part of its
    value. `equations.reinforcement.per_decision_returns`."""
    gains, after = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        gains[t] = rewards[t] + discount * after
        after = ratios[t] * gains[t]
    return gains
