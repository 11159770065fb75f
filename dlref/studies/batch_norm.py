"""Batch norm and the scale of the initial weights (*Deep Learning from Scratch*, section 6.3)."""

from pathlib import Path

import torch
from torch import nn

from dlref.models.mlp import MLP
from dlref.studies import Result, accuracy, descend, mnist


def study(root: Path | None = None, scales: int = 16, epochs: int = 20, seed: int = 0) -> Result:
    """Accuracy on 1,000 training images, five hidden layers of 100 units, SGD at 0.01, with and without batch norm."""
    from matplotlib.figure import Figure

    data = mnist(root, 1000).train
    rows = -(-scales // 4)
    figure = Figure(figsize=(9, 2 * rows), layout="constrained")
    table: list[dict[str, float | str]] = []
    grid = list(figure.subplots(rows, 4, sharex=True, sharey=True, squeeze=False).flat)
    for axes, std in zip(grid, torch.logspace(0, -4, scales).tolist(), strict=False):
        final = {}
        for norm in ("batch", None):
            torch.manual_seed(seed)
            net = MLP(784, 10, [100] * 5, norm=norm, init=std)
            for layer in net.modules():
                if isinstance(layer, nn.BatchNorm1d):
                    layer.eps = 1e-6  # as in the book; torch's 1e-5 exceeds the variance at the smallest scales
            optimizer, curve = torch.optim.SGD(net.parameters(), lr=0.01), [accuracy(net, data)]
            for epoch in range(epochs):
                for _ in descend(net, optimizer, data, len(data[0]) // 100, 100, seed * epochs + epoch):
                    pass
                curve.append(accuracy(net, data))
            label = "batch norm" if norm else "without"
            axes.plot(curve, "-" if norm else "--", label=label)
            final[label] = curve[-1]
        axes.set_title(f"std {std:.2g}", fontsize=9)
        better = [label for label in final if final[label] == max(final.values())]
        table.append({"std": std, **final, "better": better[0] if len(better) == 1 else "neither"})
    grid[0].legend(fontsize=8)
    figure.supxlabel("epochs")
    figure.supylabel("training accuracy")
    wins = sum(row["better"] == "batch norm" for row in table)
    figure.suptitle(f"with batch norm the network learns more at {wins} of {scales} scales of the initial weights")
    return Result(table, {"batch_norm": figure})
