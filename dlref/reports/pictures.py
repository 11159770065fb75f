"""What a classifier has learned, to look at."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dlref.reports import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DecisionBoundary(Report):
    """The class that each point of the plane is given, under the points of the split; for two inputs only."""

    while_training = True

    def __init__(self, cells: int = 200) -> None:
        self.cells = cells

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str]":
        inputs, targets = data.split(split)
        if inputs.shape[1:] != (2,):
            return {}
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure

        place = next(net.parameters())
        low, high = inputs.min(dim=0).values - 0.1, inputs.max(dim=0).values + 0.1
        x, y = (torch.linspace(float(low[i]), float(high[i]), self.cells) for i in (0, 1))
        grid = torch.cartesian_prod(x, y).to(place)
        classes = net(grid).argmax(dim=1).view(self.cells, self.cells).T.cpu()
        colours = ListedColormap(
            [f"C{i % 10}" for i in range(len(data.classes))]
        )  # one a class, points and regions alike
        figure = Figure(figsize=(4.4, 4.2), layout="constrained")
        axes = figure.subplots()
        limits: dict[str, Any] = {"cmap": colours, "vmin": -0.5, "vmax": len(data.classes) - 0.5}
        axes.pcolormesh(x, y, classes, alpha=0.3, linewidth=0, rasterized=True, **limits)
        axes.scatter(inputs[:, 0], inputs[:, 1], c=targets, s=6, **limits)
        axes.set(xlabel="$x_1$", ylabel="$x_2$", title=f"decision regions and the {split} points", aspect="equal")
        return {"decision_boundary": figure}


class WorstMistakes(Report):
    """The images that the network is most wrong about: what they are, what it says, and how sure it is."""

    def __init__(self, count: int = 24) -> None:
        self.count = count

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str]":
        inputs, targets = data.split(split)
        if inputs.ndim != 3:
            return {}
        from matplotlib.figure import Figure

        place = next(net.parameters())
        chunks = inputs.split(1000)
        shares = torch.cat(
            [net(data.prepare(rows.to(place.device), place.dtype)).float().softmax(dim=1).cpu() for rows in chunks]
        )
        sure, said = shares.max(dim=1)
        wrong = (said != targets).nonzero().squeeze(1)
        worst = wrong[shares[wrong, targets[wrong]].argsort()][: self.count]
        if not len(worst):
            return {}
        columns = 8
        rows = -(-len(worst) // columns)
        figure = Figure(figsize=(1.25 * columns, 1.5 * rows + 0.4), layout="constrained")
        figure.suptitle(f"{len(wrong)} of {len(targets)} {split} images are mistaken; the worst: true → said (sure)")
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes in grid:
            axes.axis("off")
        for axes, i in zip(figure.axes, worst.tolist(), strict=False):
            axes.imshow(inputs[i], cmap="gray_r")
            label = f"{data.classes[targets[i]]} → {data.classes[said[i]]} ({float(sure[i]):.0%})"
            axes.set_title(label, fontsize=9)
        return {"worst_mistakes": figure}
