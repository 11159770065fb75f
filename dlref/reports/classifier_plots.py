"""What a classifier has learned, to look at."""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.interfaces import LinearProjection, NamedTargets, Rows, declares
from dlref.reports import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rows_of(data: Any, split: str) -> tuple[Tensor, Tensor] | None:
    """Inputs [N, ...] and targets of a split; None for data that do not consist of such rows, as text or play."""
    return data.split(split) if declares(data, Rows) else None


def predicts_numbers(data: Any) -> bool:
    """Whether the targets are numbers, not classes or labels."""
    return declares(data, NamedTargets) and data.kind == "numbers"


def outputs_of(net: nn.Module, data: Any, inputs: Tensor) -> Tensor:
    """What the network puts out for rows as the data store them, float32 on the CPU."""
    place = next(net.parameters())
    pieces = (data.prepare(rows.to(place.device), place.dtype) for rows in inputs.split(1000))
    return torch.cat([net(piece).float().cpu() for piece in pieces])


def said(outputs: Tensor) -> Tensor:
    """The class of each row: the largest output, or of a single one its sign."""
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(dim=1)


class DecisionBoundary(Report):
    """The class that each point of the plane is given, under the points of the split; for two inputs and one class only."""

    while_training = True

    def __init__(self, cells: int = 200) -> None:
        self.cells = cells

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        rows = rows_of(data, split)
        if rows is None or predicts_numbers(data):
            return {}
        inputs, targets = rows
        if inputs.shape[1:] != (2,) or targets.numel() != len(targets):
            return {}
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure

        place = next(net.parameters())
        low, high = inputs.min(dim=0).values - 0.1, inputs.max(dim=0).values + 0.1
        x, y = (torch.linspace(float(low[i]), float(high[i]), self.cells) for i in (0, 1))
        grid = torch.cartesian_prod(x, y).to(place)
        classes = said(net(grid)).view(self.cells, self.cells).T.cpu()
        count = max(2, len(data.classes))  # a single output tells two apart
        colours = ListedColormap([f"C{i % 10}" for i in range(count)])  # one a class, points and regions alike
        figure = Figure(figsize=(4.4, 4.2), layout="constrained")
        axes = figure.subplots()
        limits: dict[str, Any] = {"cmap": colours, "vmin": -0.5, "vmax": count - 0.5}
        axes.pcolormesh(x, y, classes, alpha=0.3, linewidth=0, rasterized=True, **limits)
        axes.scatter(inputs[:, 0], inputs[:, 1], c=targets.flatten(), s=6 if len(inputs) > 50 else 60, **limits)
        axes.set(xlabel="$x_1$", ylabel="$x_2$", title=f"decision regions and the {split} points", aspect="equal")
        return {"decision_boundary": figure}


class WorstMistakes(Report):
    """The images that the network is most wrong about: what they are, what it says, and how sure it is."""

    def __init__(self, count: int = 24) -> None:
        self.count = count

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        rows = rows_of(data, split)
        if rows is None or rows[0].ndim != 3:
            return {}
        inputs, targets = rows
        from matplotlib.figure import Figure

        shares = outputs_of(net, data, inputs).softmax(dim=1)
        sure, said = shares.max(dim=1)
        wrong = (said != targets).nonzero().squeeze(1)
        worst = wrong[shares[wrong, targets[wrong]].argsort()][: self.count]
        if not len(worst):
            return {}
        columns = 8
        lines = -(-len(worst) // columns)
        figure = Figure(figsize=(1.25 * columns, 1.5 * lines + 0.4), layout="constrained")
        figure.suptitle(f"{len(wrong)} of {len(targets)} {split} images are mistaken; the worst: true → said (sure)")
        grid = figure.subplots(lines, columns, squeeze=False).flat
        for axes in grid:
            axes.axis("off")
        for axes, i in zip(figure.axes, worst.tolist(), strict=False):
            axes.imshow(inputs[i], cmap="gray_r")
            label = f"{data.classes[targets[i]]} → {data.classes[said[i]]} ({float(sure[i]):.0%})"
            axes.set_title(label, fontsize=9)
        return {"worst_mistakes": figure}


class ConfusionMatrix(Report):
    """How often each class was taken for each; for up to `most` classes."""

    def __init__(self, most: int = 50) -> None:
        self.most = most

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        rows = rows_of(data, split)
        if rows is None or rows[1].ndim != 1 or not 2 <= len(data.classes) <= self.most:
            return {}
        (inputs, targets), count = rows, len(data.classes)
        from matplotlib.figure import Figure

        matrix = torch.bincount(count * targets + said(outputs_of(net, data, inputs)), minlength=count**2)
        matrix = matrix.view(count, count)
        figure = Figure(figsize=(1.8 + 0.42 * count, 1.6 + 0.42 * count), layout="constrained")
        axes = figure.subplots()
        shares = matrix / matrix.sum(dim=1, keepdim=True).clamp_min(1)
        # Mistakes are few: the colour is of the root of the share, so that one in a hundred can still be seen.
        axes.imshow(shares.sqrt(), cmap="Blues", vmin=0, vmax=1)
        if count <= 20:
            for i, j in torch.cartesian_prod(torch.arange(count), torch.arange(count)).tolist():
                if matrix[i, j]:
                    ink = "white" if shares[i, j] > 0.3 else "black"
                    axes.text(j, i, f"{matrix[i, j]}", ha="center", va="center", fontsize=7, color=ink)
        turned = 90 if max(map(len, data.classes)) > 3 else 0
        axes.set_xticks(range(count), data.classes, rotation=turned)
        axes.set_yticks(range(count), data.classes)
        axes.set(xlabel="said", ylabel="true", title=f"{split}: {int(matrix.trace())} of {len(targets)} right")
        return {"confusion_matrix": figure}


class Filters(Report):
    """What the units of the first layer look for: weights as images, dark below zero, light above, each on its own scale.

    In training those that it began with are shown beside those that have been learned.
    """

    while_training = True

    def __init__(self, count: int = 32) -> None:
        self.count = count
        self.before: Tensor | None = None

    def prepare(self, net: nn.Module, data: Any) -> None:
        weights = self.weights(net, data)
        self.before = None if weights is None else weights.clone()

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        now = self.weights(net, data)
        if now is None:
            return {}
        from matplotlib import colormaps
        from matplotlib.figure import Figure

        shades = colormaps["gray"].with_extremes(bad="lightsteelblue")  # a white weight shows on it
        parts = [("now", now)]
        if self.before is not None and not torch.equal(self.before, now):
            parts = [("before training", self.before), ("now", now)]
        figure = Figure(figsize=(4.6 * len(parts), 0.58 * -(-len(now) // 8) + 0.4), layout="constrained")
        for axes, (title, weights) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            axes.imshow(mosaic(weights, columns=8), cmap=shades, vmin=0, vmax=1)
            axes.set_title(f"filters of the first layer, {title}", fontsize=9)
            axes.axis("off")
        return {"filters": figure}

    def weights(self, net: nn.Module, data: Any) -> Tensor | None:
        """[units, rows, columns], or None where the first layer does not look at images."""
        rows = rows_of(data, "train")
        if rows is None:
            return None
        inputs: Tensor = rows[0]
        directions: Any = None
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                return layer.weight[: self.count].mean(dim=1).detach().cpu()
            if declares(layer, LinearProjection):
                directions = layer.directions
            if isinstance(layer, nn.Linear):
                weight = layer.weight[: self.count] if directions is None else layer.weight[: self.count] @ directions.T
                return weight.view(-1, *inputs.shape[1:]).detach().cpu() if inputs.ndim == 3 else None
        return None


def mosaic(images: Tensor, columns: int) -> Tensor:
    """Images [N, Y, X] in rows of `columns`, each from 0 for its least to 1 for its largest number, a line of NaN between."""
    low, high = (end(images, dim=(1, 2), keepdim=True) for end in (torch.amin, torch.amax))
    shown = F.pad((images - low) / (high - low).clamp_min(1e-12), (0, 1, 0, 1), value=math.nan)
    shown = F.pad(shown, (0, 0, 0, 0, 0, -len(shown) % columns), value=math.nan)
    rows, (height, width) = len(shown) // columns, shown.shape[1:]
    return shown.view(rows, columns, height, width).transpose(1, 2).reshape(rows * height, columns * width)


class PredictedAgainstTrue(Report):
    """Numbers that were predicted against the true ones, in the units of the table, and the error of each."""

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        rows = rows_of(data, split)
        if rows is None or not predicts_numbers(data):
            return {}
        inputs, targets = rows
        from matplotlib.figure import Figure

        outputs = outputs_of(net, data, inputs)
        found: dict[str, Any] = {}
        figure = Figure(figsize=(3.6 * len(data.goals), 3.6), layout="constrained")
        for i, (axes, goal) in enumerate(
            zip(figure.subplots(1, len(data.goals), squeeze=False)[0], data.goals, strict=True)
        ):
            true, predicted = (
                goal["mean"] + goal["deviation"] * column[:, i].double() for column in (targets, outputs)
            )
            error = float((predicted - true).square().mean().sqrt())
            found[f"rmse.{goal['name']}"] = error
            low, high = (
                float(torch.minimum(true.min(), predicted.min())),
                float(torch.maximum(true.max(), predicted.max())),
            )
            axes.plot([low, high], [low, high], color="0.6", linewidth=1)
            axes.scatter(true, predicted, s=8, alpha=0.6)
            axes.set(xlabel=f"true {goal['name']}", ylabel="predicted", title=f"{split}: off by {error:.3g} (rms)")
        return found | {"predicted_against_true": figure}


class Histograms(Report):
    """Activations of each nonlinearity for a thousand rows, weights, and in training the gradients of the last step.

    On request: +reports.histograms._target_=dlref.reports.classifier_plots.Histograms. They go to TensorBoard.
    """

    while_training = True

    def __init__(self, rows: int = 1000) -> None:
        self.rows = rows

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        rows = rows_of(data, split)
        if rows is None:
            return {}
        found: dict[str, Any] = {}

        def keep(name: str) -> Any:
            return lambda layer, given, activations: found.setdefault(f"activations/{name}", activations.float().cpu())

        layers = [(name, layer) for name, layer in net.named_modules() if not list(layer.children())]
        nonlinear = [(name, layer) for name, layer in layers if not list(layer.parameters()) and name]
        handles = [layer.register_forward_hook(keep(name)) for name, layer in nonlinear]
        try:
            outputs_of(net, data, rows[0][: self.rows])
        finally:
            for handle in handles:
                handle.remove()
        for name, parameter in net.named_parameters():
            found[f"weights/{name}"] = parameter.detach().float().cpu()
            if parameter.grad is not None:
                found[f"gradients/{name}"] = parameter.grad.detach().float().cpu()
        return found
