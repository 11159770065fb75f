"""Values and policies from single steps (*Deep Learning from Scratch 4*, chapter 6): TD(0), SARSA and Q-learning."""

from collections.abc import Sequence

import numpy as np

from dlref.studies import Result
from dlref.studies._decisions import Decisions, deterministic, draw_map, grid, line, toy_text


def study(
    episodes: int = 10_000,
    prediction_episodes: int = 1000,
    prediction_rate: float = 0.01,
    rate: float = 0.8,
    epsilon: float = 0.1,
    environments: Sequence[str] = ("CliffWalking-v1",),
    longest: int = 1000,
    seed: int = 0,
) -> Result:
    """On the 3 × 4 grid, and on tables of gymnasium: the values of chance by TD(0); control by SARSA on the policy and off
    it, by importance weights, and by Q-learning. Beside the exact values.
    """
    from matplotlib.figure import Figure

    draw = np.random.default_rng(seed)
    problems = {"3 × 4 grid": grid()} | {name: toy_text(name, 0.99) for name in environments}
    methods = ("SARSA", "SARSA off the policy", "Q-learning")
    figure = Figure(figsize=(4.2 * (1 + len(methods)), 3 * len(problems)), layout="constrained")
    axes = figure.subplots(len(problems), 1 + len(methods), squeeze=False)
    table: list[dict[str, float | str]] = []
    for row, (name, decisions) in zip(axes, problems.items(), strict=True):
        chance = np.full((decisions.states, decisions.actions), 1 / decisions.actions)
        exact, best, start = decisions.evaluate_exactly(chance), decisions.solve(), int(decisions.starts.argmax())
        values = predict(decisions, chance, prediction_episodes, prediction_rate, longest, draw)
        wrong = float(np.abs(values - exact)[decisions.can_be_left()].max())
        table.append(line(name, "TD(0), chance", values[start], exact[start], wrong))
        draw_map(row[0], decisions, values)
        row[0].set_title(f"{name}: TD(0), values of chance")
        for place, method in zip(row[1:], methods, strict=True):
            q = control(decisions, method, episodes, rate, epsilon, longest, draw)
            policy = deterministic(q)
            reached = decisions.evaluate_exactly(policy)
            missing = abs(reached[start] - best[start])
            table.append(line(name, method, q[start].max(), reached[start], missing))
            draw_map(place, decisions, q.max(1), policy)
            place.set_title(method)
    return Result(table, {"temporal_difference": figure})


def predict(
    decisions: Decisions, policy: np.ndarray, episodes: int, rate: float, longest: int, draw: np.random.Generator
) -> np.ndarray:
    """TD(0): V(s) ← V(s) + α (r + γ V(s') - V(s)) (Sutton & Barto 2018, equation 6.2)."""
    values, sums = np.zeros(decisions.states), policy.cumsum(1)
    for _ in range(episodes):
        state, over, steps = decisions.begin(draw), False, 0
        while not over and steps < longest:
            action = min(int(np.searchsorted(sums[state], draw.random(), side="right")), decisions.actions - 1)
            after, reward, over = decisions.act(state, action, draw)
            target = reward + (0.0 if over else decisions.discount * values[after])
            values[state] += rate * (target - values[state])
            state, steps = after, steps + 1
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
