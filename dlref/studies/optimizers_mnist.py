"""Four optimizers on MNIST, five layers with 100 units each (*Deep Learning from Scratch*, section 6.1.8)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dlref.models.mlp import MLP
from dlref.studies import Result, mnist, train

Make = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "AdaGrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.001),
}
BOOK = {"SGD": 0.150, "momentum": 0.050, "AdaGrad": 0.016, "Adam": 0.032}


def study(root: Path | None = None, steps: int = 2000, seeds: Sequence[int] = (0, 1, 2)) -> Result:
    """Mean loss of the last 200 steps. The book prints that of a single batch of 128, so the table has their range too."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    table: list[dict[str, float | str]] = []
    images = mnist(root)
    for name, make in OPTIMIZERS.items():

        def build(make: Make = make) -> tuple[MLP, torch.optim.Optimizer]:
            net = MLP(784, 10, [100] * 4, init="he")
            return net, make(net.parameters())

        table.append({"optimizer": name, **train(axes, name, build, images.train, steps, seeds), "book": BOOK[name]})
    axes.set(xlabel="step", ylabel="loss in nats, mean of 50 steps", ylim=(0, 1))
    axes.legend()
    return Result(table, {"optimizers_mnist": figure})
