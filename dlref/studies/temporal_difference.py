"""Values and policies from single steps (*Deep Learning from Scratch 4*, chapter 6): TD(0), SARSA and Q-learning."""

import numpy as np

from dlref.studies import Result
from dlref.studies._mdp import Decisions, deterministic, draw_map, grid, line, toy_text


def study(
    episodes: int = 10_000,
    prediction_episodes: int = 1000,
    prediction_rate: float = 0.01,
    rate: float = 0.8,
    epsilon: float = 0.1,
    environment: str | None = None,
    longest: int = 1000,
    seed: int = 0,
) -> Result:
    """On the 3 × 4 grid, or on a table of gymnasium, as environment=CliffWalking-v1 rate=0.1 episodes=2000: the values of
    chance by TD(0); control by SARSA on the policy and off it, by importance weights, and by Q-learning.

    Beside the exact values; `error` is what a control's policy loses at the start.
    """
    from matplotlib.figure import Figure

    draw = np.random.default_rng(seed)
    name, decisions = environment or "3 × 4 grid", toy_text(environment, 0.99) if environment else grid()
    exact, best, start = decisions.evaluate_exactly(decisions.chance), decisions.solve(), decisions.start
    values = predict(decisions, decisions.chance, prediction_episodes, prediction_rate, longest, draw)
    wrong = float(np.abs(values - exact)[decisions.visited()].max())
    table = [line(name, "TD(0), chance", values[start], exact[start], wrong)]
    maps: dict[str, tuple[np.ndarray, np.ndarray | None]] = {"TD(0), values of chance": (values, None)}
    for method in ("SARSA", "SARSA off the policy", "Q-learning"):
        q = control(decisions, method, episodes, rate, epsilon, longest, draw)
        policy = deterministic(q)
        reached = decisions.evaluate_exactly(policy)
        table.append(line(name, method, q[start].max(), reached[start], abs(reached[start] - best[start])))
        maps[method] = q.max(1), policy
    if not decisions.arrows:
        return Result(table, {})
    rows, columns = decisions.shape or (1, 1)
    figure = Figure(figsize=(max(9, 1.2 * columns), max(6, rows)), layout="constrained")
    for axes, (title, (shown, policy_shown)) in zip(figure.subplots(2, 2).flat, maps.items(), strict=True):
        draw_map(axes, decisions, shown, policy_shown)
        axes.set_title(title)
    return Result(table, {"temporal_difference": figure})


def predict(
    decisions: Decisions, policy: np.ndarray, episodes: int, rate: float, longest: int, draw: np.random.Generator
) -> np.ndarray:
    """TD(0): V(s) ← V(s) + α (r + γ V(s') - V(s)) (Sutton & Barto 2018, equation 6.2)."""
    values = np.zeros(decisions.states)
    for _ in range(episodes):
        for state, _, reward, after, over in decisions.episode(policy, longest, draw):
            target = reward + (0.0 if over else decisions.discount * values[after])
            values[state] += rate * (target - values[state])
    return values


def control(
    decisions: Decisions,
    method: str,
    episodes: int,
    rate: float,
    epsilon: float,
    longest: int,
    draw: np.random.Generator,
) -> np.ndarray:
    """Values of actions [S, A] from ε-greedy play: SARSA (equation 6.7), the same weighted by what the greedy policy would
    do next, or Q-learning (equation 6.8)."""
    q = np.zeros((decisions.states, decisions.actions))

    def act(state: int) -> int:
        if draw.random() < epsilon:
            return int(draw.integers(decisions.actions))
        return int(q[state].argmax())

    for _ in range(episodes):
        state, over, steps = decisions.begin(draw), False, 0
        action = act(state)
        while not over and steps < longest:
            after, reward, over = decisions.act(state, action, draw)
            following = act(after)
            future, weight = (0.0, 1.0) if over else (q[after, following], 1.0)
            if method == "Q-learning":
                future = 0.0 if over else q[after].max()
            elif method == "SARSA off the policy" and not over:
                # Chance of the next action by the greedy policy over that by the ε-greedy one.
                best = following == int(q[after].argmax())
                weight = best / ((1 - epsilon) * best + epsilon / decisions.actions)
            q[state, action] += rate * (weight * (reward + decisions.discount * future) - q[state, action])
            state, action, steps = after, following, steps + 1
    return q
