"""Why gradients explode or vanish on the way back through time (*Deep Learning from Scratch 2*, section 6.1)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dlref.errors import ConfigError
from dlref.studies import Result

Network = Literal["linear", "tanh RNN", "LSTM"]
ALL: tuple[Network, ...] = ("linear", "tanh RNN", "LSTM")


def study(
    factors: Sequence[float] = (1.0, 0.8, 0.5),
    steps: int = 20,
    batch: int = 2,
    width: int = 3,
    inputs: float = 1.0,
    forget_bias: float = 1.0,
    seed: int = 3,
) -> Result:
    """The gradient of the last state's sum at every state before, where recurrent weights are `factor` times normal.

    Beside the book's product, which is the gradient of h_t = h_t-1 W + x_t, stand a tanh network and an LSTM with the same W
    and normal inputs of deviation `inputs`. The norm is the book's: over all numbers, divided by the batch. In a product of
    many W the spectral radius ρ decides; the largest singular value σ only bounds one step.
    """
    from matplotlib.figure import Figure

    if not factors or min(factors) <= 0 or seed >= 2**32:
        raise ConfigError(
            f"factors is {list(factors)} and seed {seed}; they take one or more numbers above 0, and one below 2**32"
        )
    draw = np.random.RandomState(seed)
    normal = torch.from_numpy(draw.randn(4, width, width))  # the first is the book's; the LSTM's gates take the others
    into = torch.from_numpy(draw.randn(4, width, width)) / width**0.5
    x = inputs * torch.from_numpy(draw.randn(steps, batch, width))

    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    table: list[dict[str, float | str]] = []
    back = sorted({1, *(-(-steps * quarter // 4) for quarter in range(1, 5))})
    for axes, network in zip(panels, ALL, strict=True):
        for number, factor in enumerate(factors):
            weights = factor * normal
            norms = norms_backward(states(network, weights, into, x, forget_bias))
            stretch = float(torch.linalg.matrix_norm(weights[0], 2))
            radius = float(torch.linalg.eigvals(weights[0]).abs().max())
            label = f"{factor:g}: σ = {stretch:.2f}, ρ = {radius:.2f}"
            axes.plot(range(1, steps + 1), norms, "o-", markersize=3, linewidth=1.4, color=f"C{number}", label=label)
            if network == "linear":
                course = norms[-1] * radius ** torch.arange(1 - steps, 1, dtype=x.dtype)
                name = "growth by ρ a step" if number == len(factors) - 1 else ""
                axes.plot(range(1, steps + 1), course, "k--", linewidth=0.8, label=name)
            table.append(
                {
                    "network": network,
                    "factor": float(factor),
                    "singular value": stretch,
                    "spectral radius": radius,
                    **{f"{k} back": norms[k - 1] for k in back},
                }
            )
    panels[0].set(
        title="$h_t = h_{t-1} W + x_t$: the book's product", yscale="log", ylabel="norm of the gradient ÷ batch"
    )
    panels[1].set(title="$h_t = \\tanh(h_{t-1} W + x_t U)$", xlabel="steps back in time")
    panels[2].set(title=f"cells of an LSTM, forget bias {forget_bias:g}")
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        title="deviation of the recurrent weights W, their largest singular value σ and spectral radius ρ",
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return Result(table, {"recurrent_gradients": figure})


def states(network: Network, recurrent: Tensor, into: Tensor, x: Tensor, forget_bias: float) -> list[Tensor]:
    """The state before the first of the inputs x [T, B, D], which is 0, and after each; of the LSTM its cells.

    Of the matrices recurrent and into [4, D, D] the LSTM's candidate has the first, its input, forget and output gate have
    the others; the tanh network has the first, the linear one the first of recurrent.
    """
    h = state = torch.zeros_like(x[0], requires_grad=True)
    found = [state]
    for row in x:
        if network == "linear":
            state = state @ recurrent[0] + row
        elif network == "tanh RNN":
            state = torch.tanh(state @ recurrent[0] + row @ into[0])
        else:
            g, i, f, o = h @ recurrent + row @ into
            state = torch.sigmoid(f + forget_bias) * state + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(state)
        found.append(state)
    return found


def norms_backward(states: Sequence[Tensor]) -> list[float]:
    """Of the gradient of the last state's sum at the state 1, 2, … steps before; √(sum of squares) / batch, as in the book."""
    *before, last = states
    return [float(slope.norm()) / len(slope) for slope in reversed(torch.autograd.grad(last.sum(), before))]
