"""Overfitting to three hundred images (*Deep Learning from Scratch*, section 6.4)."""

from pathlib import Path
from typing import Any

import torch

from dlref.models.mlp import MLP
from dlref.studies import Result, accuracy, descend, mnist


def study(root: Path | None = None, epochs: int = 300, seed: int = 0) -> Result:
    """Training and test accuracy of seven layers with SGD at 0.01: plain, with weight decay 0.1, with dropout 0.2."""
    from matplotlib.figure import Figure

    images = mnist(root, 300)
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    table: list[dict[str, float | str]] = []
    variants = {"plain": (0.0, 0.0), "weight decay 0.1": (0.1, 0.0), "dropout 0.2": (0.0, 0.2)}
    for axes, (name, (decay, dropout)) in zip(figure.subplots(1, 3, sharey=True), variants.items(), strict=True):
        torch.manual_seed(seed)
        net = MLP(784, 10, [100] * 6, dropout=dropout, init="he")
        groups: list[dict[str, Any]] = [
            {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in net.parameters() if p.ndim == 1]},
        ]
        optimizer, curves = torch.optim.SGD(groups, lr=0.01), []
        for epoch in range(epochs):
            for _ in descend(net, optimizer, images.train, 3, 100, seed * epochs + epoch):
                pass
            curves.append((accuracy(net, images.train), accuracy(net, images.test)))
        train, test = (list(curve) for curve in zip(*curves, strict=True))
        axes.plot(train, label="300 training images")
        axes.plot(test, "--", label="10,000 test images")
        axes.set(title=f"{name}: {train[-1]:.1%} and {test[-1]:.1%}", xlabel="epochs", ylim=(0, 1.02))
        table.append({"network": name, "train": train[-1], "test": test[-1], "gap": train[-1] - test[-1]})
    figure.axes[0].set_ylabel("accuracy")
    figure.axes[0].legend(loc="lower right")
    return Result(table, {"overfitting": figure})
