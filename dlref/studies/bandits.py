"""Multi-armed bandits (*Deep Learning from Scratch 4*, chapter 1): exploration, and what to forget when they change."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlref.studies import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def study(
    steps: int = 1000,
    runs: int = 200,
    arms: int = 10,
    epsilons: Sequence[float] = (0.01, 0.1, 0.3),
    rate: float = 0.8,
    drift: float = 0.1,
    seed: int = 0,
) -> Result:
    """The win rate so far of ε-greedy agents, averaged over runs. Win probabilities of arms are uniform in [0, 1].

    The agents estimate action values by sample means; on nonstationary bandits, whose probabilities take a normal step with
    standard deviation `drift` before each step, also by Q ← Q + α (R - Q) with α = `rate`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    stationary, nonstationary = figure.subplots(1, 2, sharey=True)
    table: list[dict[str, float | str]] = []

    def add(bandit: str, axes: "Axes", agent: str, epsilon: float, rate: float | None, drift: float) -> None:
        wins = play(steps, runs, arms, epsilon, rate, drift, seed)
        win_rates = wins.cumsum(1) / torch.arange(1, steps + 1)
        axes.plot(win_rates.mean(0), label=agent)
        final = win_rates[:, -1]
        table.append(
            {
                "bandit": bandit,
                "agent": agent,
                "win rate": float(final.mean()),
                "standard error": float(final.std() / runs**0.5),
                "last tenth": float(wins[:, -(steps // 10) :].mean()),
            }
        )

    for epsilon in epsilons:
        add("stationary", stationary, f"ε = {epsilon:g}", epsilon, None, 0.0)
    for agent, a in (("sample mean", None), (f"α = {rate:g}", rate)):
        add("nonstationary", nonstationary, agent, 0.1, a, drift)
    stationary.set(title="stationary bandit", xlabel="steps", ylabel="win rate")
    nonstationary.set(title="nonstationary bandit, ε = 0.1", xlabel="steps")
    for axes in (stationary, nonstationary):
        axes.legend()
    return Result(table, {"bandits": figure})


def play(steps: int, runs: int, arms: int, epsilon: float, rate: float | None, drift: float, seed: int) -> Tensor:
    """The reward of each step of each run [runs, steps], 0 or 1. All runs are computed at once."""
    generator = torch.Generator().manual_seed(seed)
    probabilities, rows = torch.rand(runs, arms, generator=generator), torch.arange(runs)
    values, counts = torch.zeros(runs, arms), torch.zeros(runs, arms)
    rewards = torch.empty(runs, steps)
    for step in range(steps):
        is_random = torch.rand(runs, generator=generator) < epsilon
        arm = torch.where(is_random, torch.randint(arms, (runs,), generator=generator), values.argmax(1))
        reward = (torch.rand(runs, generator=generator) < probabilities[rows, arm]).float()
        if drift:
            probabilities = probabilities + drift * torch.randn(runs, arms, generator=generator)
        counts[rows, arm] += 1
        step_size = rate if rate is not None else 1 / counts[rows, arm]
        values[rows, arm] += step_size * (reward - values[rows, arm])
        rewards[:, step] = reward
    return rewards
