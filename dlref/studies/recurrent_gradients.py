"""Exploding and vanishing gradients in backpropagation through time (*Deep Learning from Scratch 2*, section 6.1)."""

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
    """Norms of the gradient of the last state's sum with respect to each earlier state; W is `factor` times normal.

    The book's product of matrices is the gradient of h_t = h_t-1 W + x_t. A tanh network and an LSTM have the same W and
    normal inputs with standard deviation `inputs`. As in the book the norm is over all elements, divided by the batch size.
    The spectral radius ρ determines the growth of a product of many W; the largest singular value σ only bounds one step.
    """
    from matplotlib.figure import Figure

    if not factors or min(factors) <= 0 or seed >= 2**32:
        raise ConfigError(
            f"factors is {list(factors)} and seed {seed}; they take one or more numbers above 0, and one below 2**32"
        )
    rng = np.random.RandomState(seed)
    normal = torch.from_numpy(
        rng.randn(4, width, width)
    )  # the first is the book's W, the others are for the LSTM's gates
    input_weights = torch.from_numpy(rng.randn(4, width, width)) / width**0.5
    x = inputs * torch.from_numpy(rng.randn(steps, batch, width))

    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    table: list[dict[str, float | str]] = []
    back = sorted({1, *(-(-steps * quarter // 4) for quarter in range(1, 5))})
    for axes, network in zip(panels, ALL, strict=True):
        for number, factor in enumerate(factors):
            weights = factor * normal
            norms = norms_backward(states(network, weights, input_weights, x, forget_bias))
            sigma = float(torch.linalg.matrix_norm(weights[0], 2))
            radius = float(torch.linalg.eigvals(weights[0]).abs().max())
            label = f"{factor:g}: σ = {sigma:.2f}, ρ = {radius:.2f}"
            axes.plot(range(1, steps + 1), norms, "o-", markersize=3, linewidth=1.4, color=f"C{number}", label=label)
            if network == "linear":
                growth = norms[-1] * radius ** torch.arange(1 - steps, 1, dtype=x.dtype)
                name = "growth by ρ per step" if number == len(factors) - 1 else ""
                axes.plot(range(1, steps + 1), growth, "k--", linewidth=0.8, label=name)
            table.append(
                {
                    "network": network,
                    "factor": float(factor),
                    "singular value": sigma,
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
        title="factor of the recurrent weights W, their largest singular value σ and spectral radius ρ",
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return Result(table, {"recurrent_gradients": figure})


def states(network: Network, recurrent: Tensor, input_weights: Tensor, x: Tensor, forget_bias: float) -> list[Tensor]:
    """The initial state, which is 0, and the state after each of the inputs x [T, B, D]; the LSTM's states are its cells.

    The weights [4, D, D] are those of the LSTM's candidate, input, forget and output gate; the other networks use the first.
    """
    h = state = torch.zeros_like(x[0], requires_grad=True)
    all_states = [state]
    for row in x:
        if network == "linear":
            state = state @ recurrent[0] + row
        elif network == "tanh RNN":
            state = torch.tanh(state @ recurrent[0] + row @ input_weights[0])
        else:
            g, i, f, o = h @ recurrent + row @ input_weights
            state = torch.sigmoid(f + forget_bias) * state + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(state)
        all_states.append(state)
    return all_states


def norms_backward(states: Sequence[Tensor]) -> list[float]:
    """Norms of the gradient of the last state's sum 1, 2, … steps back; √(sum of squares) / batch size, as in the book."""
    *before, last = states
    return [float(gradient.norm()) / len(gradient) for gradient in reversed(torch.autograd.grad(last.sum(), before))]
