"""Values and policies by planning (*Deep Learning from Scratch 4*, chapter 4): sweeps over all states until nothing moves."""

import numpy as np

from dlref.studies import Result
from dlref.studies._mdp import Decisions, deterministic, draw_map, problems, two_cells


def study(threshold: float = 1e-3, in_place: bool = True) -> Result:
    """Policy evaluation, policy iteration and value iteration on tables, each beside the exact solution.

    A sweep ends the matter when it moves no value by `threshold`; the two cells are evaluated to a tenth of it.
    """
    from matplotlib.figure import Figure

    table: list[dict[str, float | str]] = []
    for way, at_once in (("two arrays", False), ("in place", True)):
        decisions = two_cells()
        values = np.zeros(2)
        sweeps = settle(decisions, decisions.chance, threshold / 10, at_once, values)
        error = np.abs(values - decisions.evaluate_exactly(decisions.chance)).max()
        table.append(row("two cells", f"evaluation of chance, {way}", sweeps, values[0], float(error)))
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2)
    for number, (name, decisions) in enumerate(problems().items()):
        random, best = decisions.evaluate_exactly(decisions.chance), decisions.solve()
        ways = {"evaluation of chance": decisions.chance, "policy iteration": None, "value iteration": None}
        for way, policy in ways.items():
            if way == "policy iteration":
                values, sweeps = iterate_policies(decisions, threshold, in_place)
            else:
                values = np.zeros(decisions.states)
                sweeps = settle(decisions, policy, threshold, in_place, values)
            exact = best if policy is None else random
            table.append(row(name, way, sweeps, values[decisions.start], float(np.abs(values - exact).max())))
        if number < 2:
            draw_map(axes[number, 0], decisions, random)
            draw_map(axes[number, 1], decisions, values, deterministic(decisions.action_values(values)))
            axes[number, 0].set_title(f"{name}: values of chance")
            axes[number, 1].set_title("the best policy and its values")
    return Result(table, {"dynamic_programming": figure})


def row(problem: str, way: str, sweeps: int, start: float, error: float) -> dict[str, float | str]:
    return {"problem": problem, "method": way, "sweeps": float(sweeps), "value at the start": start, "error": error}


def sweep(decisions: Decisions, values: np.ndarray, policy: np.ndarray | None, in_place: bool) -> np.ndarray:
    """One application of Bellman's equation to each state in turn: of a policy's values, or of the best ones."""
    old, new = (values, values) if in_place else (values, values.copy())
    for s in range(decisions.states):
        q = decisions.rewards[s] + decisions.discount * decisions.going_on[s] @ old
        new[s] = q.max() if policy is None else policy[s] @ q
    return new


def settle(
    decisions: Decisions, policy: np.ndarray | None, threshold: float, in_place: bool, values: np.ndarray
) -> int:
    """Sweep until nothing moves by `threshold`: to the values of a policy [S, A] (Sutton & Barto 2018, section 4.1), or to
    the best ones (section 4.4). Counts the sweeps."""
    sweeps = 0
    while True:
        before = values.copy()
        values[:] = sweep(decisions, values, policy, in_place)
        sweeps += 1
        if np.abs(values - before).max() < threshold:
            return sweeps


def iterate_policies(decisions: Decisions, threshold: float, in_place: bool = True) -> tuple[np.ndarray, int]:
    """The best values by evaluating a policy, improving it, and so on until it stays (section 4.3); all sweeps."""
    policy, values = decisions.chance, np.zeros(decisions.states)
    sweeps = 0
    while True:
        sweeps += settle(decisions, policy, threshold, in_place, values)
        better = deterministic(decisions.action_values(values))
        if (better == policy).all():
            return values, sweeps
        policy = better
