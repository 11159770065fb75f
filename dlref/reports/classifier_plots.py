"""Plots of supervised models: decision boundaries, mistakes, filters, regression errors, histograms."""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.interfaces import LinearProjection, NamedTargets, Rows, declares
from dlref.reports import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def examples_of(data: Any, split: str) -> tuple[Tensor, Tensor] | None:
    """Inputs [N, ...] and targets of a split; None for data that do not hold examples, such as text."""
    return data.split(split) if declares(data, Rows) else None


def is_regression(data: Any) -> bool:
    return declares(data, NamedTargets) and data.task == "regression"


def outputs_of(net: nn.Module, data: Any, inputs: Tensor) -> Tensor:
    """Network outputs for inputs as the data store them, float32 on the CPU."""
    weight = next(net.parameters())
    batches = (data.prepare(rows.to(weight.device), weight.dtype) for rows in inputs.split(1000))
    return torch.cat([net(batch).float().cpu() for batch in batches])


def predicted_classes(outputs: Tensor) -> Tensor:
    """The class of each row [N]: the argmax of the outputs, or whether a single output is positive."""
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(dim=1)


class DecisionBoundary(Report):
    """The predicted class at each point of the plane, and the points of the split; for two inputs and one class per point."""

    while_training = True

    def __init__(self, cells: int = 200) -> None:
        self.cells = cells

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        examples = examples_of(data, split)
        if examples is None or is_regression(data):
            return {}
        inputs, targets = examples
        if inputs.shape[1:] != (2,) or targets.numel() != len(targets):
            return {}
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure

        weight = next(net.parameters())
        low, high = inputs.min(dim=0).values - 0.1, inputs.max(dim=0).values + 0.1
        x, y = (torch.linspace(float(low[i]), float(high[i]), self.cells) for i in (0, 1))
        grid = torch.cartesian_prod(x, y).to(weight)
        classes = predicted_classes(net(grid)).view(self.cells, self.cells).T.cpu()
        count = max(2, len(data.classes))  # a single output separates two classes
        colors = ListedColormap([f"C{i % 10}" for i in range(count)])  # by class, for points and regions
        figure = Figure(figsize=(4.4, 4.2), layout="constrained")
        axes = figure.subplots()
        limits: dict[str, Any] = {"cmap": colors, "vmin": -0.5, "vmax": count - 0.5}
        axes.pcolormesh(x, y, classes, alpha=0.3, linewidth=0, rasterized=True, **limits)
        axes.scatter(inputs[:, 0], inputs[:, 1], c=targets.flatten(), s=6 if len(inputs) > 50 else 60, **limits)
        axes.set(xlabel="$x_1$", ylabel="$x_2$", title=f"decision regions and the {split} points", aspect="equal")
        return {"decision_boundary": figure}


class WorstMistakes(Report):
    """The misclassified images with the lowest probability of the true class, with the predicted class and its probability."""

    def __init__(self, count: int = 24) -> None:
        self.count = count

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        examples = examples_of(data, split)
        if examples is None or examples[0].ndim != 3:
            return {}
        inputs, targets = examples
        from matplotlib.figure import Figure

        probabilities = outputs_of(net, data, inputs).softmax(dim=1)
        confidence, predicted = probabilities.max(dim=1)
        wrong = (predicted != targets).nonzero().squeeze(1)
        worst = wrong[probabilities[wrong, targets[wrong]].argsort()][: self.count]
        if not len(worst):
            return {}
        columns = 8
        lines = -(-len(worst) // columns)
        figure = Figure(figsize=(1.25 * columns, 1.5 * lines + 0.4), layout="constrained")
        figure.suptitle(
            f"{len(wrong)} of {len(targets)} {split} images are misclassified; the worst: true → predicted (probability)"
        )
        grid = figure.subplots(lines, columns, squeeze=False).flat
        for axes in grid:
            axes.axis("off")
        for axes, i in zip(figure.axes, worst.tolist(), strict=False):
            axes.imshow(inputs[i], cmap="gray_r")
            label = f"{data.classes[targets[i]]} → {data.classes[predicted[i]]} ({float(confidence[i]):.0%})"
            axes.set_title(label, fontsize=9)
        return {"worst_mistakes": figure}


class ConfusionMatrix(Report):
    """Counts of each pair of true and predicted class; for up to `max_classes` classes."""

    def __init__(self, max_classes: int = 50) -> None:
        self.max_classes = max_classes

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        examples = examples_of(data, split)
        if examples is None or examples[1].ndim != 1 or not 2 <= len(data.classes) <= self.max_classes:
            return {}
        (inputs, targets), count = examples, len(data.classes)
        from matplotlib.figure import Figure

        matrix = torch.bincount(count * targets + predicted_classes(outputs_of(net, data, inputs)), minlength=count**2)
        matrix = matrix.view(count, count)
        figure = Figure(figsize=(1.8 + 0.42 * count, 1.6 + 0.42 * count), layout="constrained")
        axes = figure.subplots()
        fractions = matrix / matrix.sum(dim=1, keepdim=True).clamp_min(1)
        # Mistakes are few: the color is the square root of the fraction, so that one in a hundred is still visible.
        axes.imshow(fractions.sqrt(), cmap="Blues", vmin=0, vmax=1)
        if count <= 20:
            for i, j in torch.cartesian_prod(torch.arange(count), torch.arange(count)).tolist():
                if matrix[i, j]:
                    color = "white" if fractions[i, j] > 0.3 else "black"
                    axes.text(j, i, f"{matrix[i, j]}", ha="center", va="center", fontsize=7, color=color)
        rotation = 90 if max(map(len, data.classes)) > 3 else 0
        axes.set_xticks(range(count), data.classes, rotation=rotation)
        axes.set_yticks(range(count), data.classes)
        axes.set(xlabel="predicted", ylabel="true", title=f"{split}: {int(matrix.trace())} of {len(targets)} correct")
        return {"confusion_matrix": figure}


class Filters(Report):
    """Weights of the first layer as images, each scaled from its smallest (black) to its largest weight (white).

    During training also the weights before training.
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

        colormap = colormaps["gray"].with_extremes(bad="lightsteelblue")  # of the borders
        parts = [("now", now)]
        if self.before is not None and not torch.equal(self.before, now):
            parts = [("before training", self.before), ("now", now)]
        figure = Figure(figsize=(4.6 * len(parts), 0.58 * -(-len(now) // 8) + 0.4), layout="constrained")
        for axes, (title, weights) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            axes.imshow(mosaic(weights, columns=8), cmap=colormap, vmin=0, vmax=1)
            axes.set_title(f"filters of the first layer, {title}", fontsize=9)
            axes.axis("off")
        return {"filters": figure}

    def weights(self, net: nn.Module, data: Any) -> Tensor | None:
        """Weights [units, rows, columns] of the first layer; None where its inputs are not images."""
        examples = examples_of(data, "train")
        if examples is None:
            return None
        inputs: Tensor = examples[0]
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
    """Images [N, Y, X] tiled in rows of `columns`, each scaled to 0 to 1, with a line of NaN between them."""
    low, high = (reduce(images, dim=(1, 2), keepdim=True) for reduce in (torch.amin, torch.amax))
    tiles = F.pad((images - low) / (high - low).clamp_min(1e-12), (0, 1, 0, 1), value=math.nan)
    tiles = F.pad(tiles, (0, 0, 0, 0, 0, -len(tiles) % columns), value=math.nan)
    rows, (height, width) = len(tiles) // columns, tiles.shape[1:]
    return tiles.view(rows, columns, height, width).transpose(1, 2).reshape(rows * height, columns * width)


class PredictedAgainstTrue(Report):
    """Scatter plots of predicted against true target numbers, in the units of the table, and the rmse of each target."""

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        examples = examples_of(data, split)
        if examples is None or not is_regression(data):
            return {}
        inputs, targets = examples
        from matplotlib.figure import Figure

        outputs = outputs_of(net, data, inputs)
        metrics: dict[str, Any] = {}
        columns = data.target_columns
        figure = Figure(figsize=(3.6 * len(columns), 3.6), layout="constrained")
        for i, (axes, column) in enumerate(
            zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True)
        ):
            true, predicted = (column["mean"] + column["std"] * values[:, i].double() for values in (targets, outputs))
            rmse = float((predicted - true).square().mean().sqrt())
            metrics[f"rmse.{column['name']}"] = rmse
            low, high = (
                float(torch.minimum(true.min(), predicted.min())),
                float(torch.maximum(true.max(), predicted.max())),
            )
            axes.plot([low, high], [low, high], color="0.6", linewidth=1)
            axes.scatter(true, predicted, s=8, alpha=0.6)
            axes.set(xlabel=f"true {column['name']}", ylabel="predicted", title=f"{split}: rmse {rmse:.3g}")
        return metrics | {"predicted_against_true": figure}


class Histograms(Report):
    """Histograms for TensorBoard: activations of each nonlinearity for `rows` inputs, weights, gradients of the last step.

    To add it: +reports.histograms._target_=dlref.reports.classifier_plots.Histograms.
    """

    while_training = True

    def __init__(self, rows: int = 1000) -> None:
        self.rows = rows

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        examples = examples_of(data, split)
        if examples is None:
            return {}
        found: dict[str, Any] = {}

        def hook(name: str) -> Any:
            return lambda layer, given, activations: found.setdefault(f"activations/{name}", activations.float().cpu())

        layers = [(name, layer) for name, layer in net.named_modules() if not list(layer.children())]
        nonlinear = [(name, layer) for name, layer in layers if not list(layer.parameters()) and name]
        handles = [layer.register_forward_hook(hook(name)) for name, layer in nonlinear]
        try:
            outputs_of(net, data, examples[0][: self.rows])
        finally:
            for handle in handles:
                handle.remove()
        for name, parameter in net.named_parameters():
            found[f"weights/{name}"] = parameter.detach().float().cpu()
            if parameter.grad is not None:
                found[f"gradients/{name}"] = parameter.grad.detach().float().cpu()
        return found
