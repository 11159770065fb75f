"""Policy evaluation, policy iteration and value iteration (*Deep Learning from Scratch 4*, chapter 4)."""

import numpy as np

from dlref.studies import Result
from dlref.studies._mdp import MDP, draw_map, greedy_policy, problems, two_cells


def study(threshold: float = 1e-3, in_place: bool = True) -> Result:
    """Values by dynamic programming, compared with exact solutions, and the number of sweeps that they take.

    The last sweep changes no value by `threshold`, or by a tenth of it on the two cells.
    """
    from matplotlib.figure import Figure

    table: list[dict[str, float | str]] = []
    for label, is_in_place in (("two arrays", False), ("in place", True)):
        mdp = two_cells()
        values = np.zeros(2)
        sweeps = iterate(mdp, mdp.random_policy, threshold / 10, is_in_place, values)
        error = np.abs(values - mdp.evaluate_exactly(mdp.random_policy)).max()
        table.append(
            table_row("two cells", f"evaluation of the random policy, {label}", sweeps, values[0], float(error))
        )
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2)
    for number, (name, mdp) in enumerate(problems().items()):
        random_values, optimal_values = mdp.evaluate_exactly(mdp.random_policy), mdp.solve()
        methods = {
            "evaluation of the random policy": mdp.random_policy,
            "policy iteration": None,
            "value iteration": None,
        }
        for method, policy in methods.items():
            if method == "policy iteration":
                values, sweeps = iterate_policies(mdp, threshold, in_place)
            else:
                values = np.zeros(mdp.states)
                sweeps = iterate(mdp, policy, threshold, in_place, values)
            exact = optimal_values if policy is None else random_values
            table.append(table_row(name, method, sweeps, values[mdp.start], float(np.abs(values - exact).max())))
        if number < 2:
            draw_map(axes[number, 0], mdp, random_values)
            draw_map(axes[number, 1], mdp, values, greedy_policy(mdp.action_values(values)))
            axes[number, 0].set_title(f"{name}: values of the random policy")
            axes[number, 1].set_title("optimal policy and values")
    return Result(table, {"dynamic_programming": figure})


def table_row(problem: str, method: str, sweeps: int, value: float, error: float) -> dict[str, float | str]:
    return {"problem": problem, "method": method, "sweeps": float(sweeps), "value at the start": value, "error": error}


def sweep(mdp: MDP, values: np.ndarray, policy: np.ndarray | None, in_place: bool) -> np.ndarray:
    """Apply the Bellman equation of a policy, or without one the Bellman optimality equation, to each state in turn."""
    old, new = (values, values) if in_place else (values, values.copy())
    for s in range(mdp.states):
        q = mdp.rewards[s] + mdp.discount * mdp.transitions[s] @ old
        new[s] = q.max() if policy is None else policy[s] @ q
    return new


def iterate(mdp: MDP, policy: np.ndarray | None, threshold: float, in_place: bool, values: np.ndarray) -> int:
    """Sweep until no value changes by `threshold`, and return the number of sweeps.

    Iterative evaluation of a policy [S, A] (Sutton & Barto 2018, section 4.1), or value iteration (section 4.4).
    """
    sweeps = 0
    while True:
        before = values.copy()
        values[:] = sweep(mdp, values, policy, in_place)
        sweeps += 1
        if np.abs(values - before).max() < threshold:
            return sweeps


def iterate_policies(mdp: MDP, threshold: float, in_place: bool = True) -> tuple[np.ndarray, int]:
    """Policy iteration (section 4.3): evaluate a policy and improve it, until it stays; values [S] and number of sweeps."""
    policy, values = mdp.random_policy, np.zeros(mdp.states)
    sweeps = 0
    while True:
        sweeps += iterate(mdp, policy, threshold, in_place, values)
        improved = greedy_policy(mdp.action_values(values))
        if (improved == policy).all():
            return values, sweeps
        policy = improved
