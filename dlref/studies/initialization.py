"""Weight initialization and whether a deep network learns (*Deep Learning from Scratch*, section 6.2)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dlref.models.layers import ACTIVATIONS, Activation, Init
from dlref.models.mlp import MLP
from dlref.studies import Result, mnist, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INITS: dict[str, tuple[Init, float]] = {  # with the loss that the book prints at step 1900
    "std 0.01": (0.01, 2.303),
    "Xavier": ("xavier", 0.377),
    "He": ("he", 0.286),
}


def study(
    root: Path | None = None, activation: Activation = "relu", steps: int = 2000, seeds: Sequence[int] = (0, 1, 2)
) -> Result:
    """Losses of five layers of 100 units with SGD at 0.01; activations of five layers before training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    table: list[dict[str, float | str]] = []
    images = mnist(root)
    for name, (init, book) in INITS.items():

        def build(init: Init = init) -> tuple[MLP, torch.optim.Optimizer]:
            net = MLP(784, 10, [100] * 4, activation=activation, init=init)
            return net, torch.optim.SGD(net.parameters(), lr=0.01)

        table.append({"init": name, **train(axes, name, build, images.train, steps, seeds), "book": book})
    axes.axhline(math.log(10), color="0.7", linewidth=0.8, label="ln 10: uniform")
    axes.set(xlabel="step", ylabel="loss in nats, mean of 50 steps", ylim=(0, 2.5))
    axes.legend()
    return Result(table, {"initialization": figure, f"activations_{activation}": histograms(activation)})


def histograms(activation: Activation, units: int = 100, layers: int = 5, samples: int = 1000) -> "Figure":
    """Histograms of each layer's activations up to 1 for normal inputs, by initialization, as in the book."""
    from matplotlib.figure import Figure

    inits: dict[str, Init] = {"std 1": 1.0, "std 0.01": 0.01, "Xavier": "xavier", "He": "he"}
    figure = Figure(figsize=(2.1 * layers, 1.7 * len(inits)), layout="constrained")
    grid = figure.subplots(len(inits), layers, sharex=True)
    for row, (name, init) in zip(grid, inits.items(), strict=True):
        torch.manual_seed(0)
        net, h = MLP(units, units, [units] * layers, activation=activation, init=init), torch.randn(samples, units)
        number = 0
        with torch.no_grad():
            for layer in net.layers:
                h = layer(h)
                if isinstance(layer, ACTIVATIONS[activation]):
                    axes = row[number]
                    axes.hist(h.flatten(), bins=30, range=(-1 if activation == "tanh" else 0, 1), color="C0")
                    axes.set_yticks([])
                    axes.set_title(f"layer {number + 1}: σ = {float(h.std()):.2g}", fontsize=8)
                    axes.tick_params(labelsize=7)
                    number += 1
        row[0].set_ylabel(name, fontsize=9)
    figure.suptitle(f"{activation}: activations of {layers} layers, before training")
    return figure
