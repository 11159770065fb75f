"""Ten slot machines (*Deep Learning from Scratch 4*, chapter 1): how much to explore, and what to forget when they drift."""

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
    """The share of wins so far, averaged over runs; each machine wins with a chance drawn from [0, 1].

    ε-greedy play of machines that stay, by the mean of what each has given; and of machines whose chances take a normal
    step of deviation `drift` before each game, by that mean and by the estimate Q ← Q + α (R - Q) with α = `rate`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    staying, drifting = figure.subplots(1, 2, sharey=True)
    table: list[dict[str, float | str]] = []

    def add(name: str, axes: "Axes", label: str, epsilon: float, rate: float | None, drift: float) -> None:
        wins = play(steps, runs, arms, epsilon, rate, drift, seed)
        shares = wins.cumsum(1) / torch.arange(1, steps + 1)
        axes.plot(shares.mean(0), label=label)
        last = shares[:, -1]
        table.append(
            {
                "machines": name,
                "play": label,
                "wins": float(last.mean()),
                "± of the mean": float(last.std() / runs**0.5),
                "last tenth": float(wins[:, -(steps // 10) :].mean()),
            }
        )

    for epsilon in epsilons:
        add("stay", staying, f"ε = {epsilon:g}", epsilon, None, 0.0)
    for label, a in (("sample mean", None), (f"α = {rate:g}", rate)):
        add("drift", drifting, label, 0.1, a, drift)
    staying.set(title="machines that stay", xlabel="games", ylabel="share of wins")
    drifting.set(title="machines that drift, ε = 0.1", xlabel="games")
    for axes in (staying, drifting):
        axes.legend()
    return Result(table, {"bandits": figure})


def play(steps: int, runs: int, arms: int, epsilon: float, rate: float | None, drift: float, seed: int) -> Tensor:
    """What each game of each run gave, [runs, steps] of 0 and 1; all runs are played at once."""
    draw = torch.Generator().manual_seed(seed)
    chances, rows = torch.rand(runs, arms, generator=draw), torch.arange(runs)
    values, played = torch.zeros(runs, arms), torch.zeros(runs, arms)
    wins = torch.empty(runs, steps)
    for step in range(steps):
        at_random = torch.rand(runs, generator=draw) < epsilon
        arm = torch.where(at_random, torch.randint(arms, (runs,), generator=draw), values.argmax(1))
        win = (torch.rand(runs, generator=draw) < chances[rows, arm]).float()
        if drift:
            chances = chances + drift * torch.randn(runs, arms, generator=draw)
        played[rows, arm] += 1
        share = rate if rate is not None else 1 / played[rows, arm]
        values[rows, arm] += share * (win - values[rows, arm])
        wins[:, step] = win
    return wins
