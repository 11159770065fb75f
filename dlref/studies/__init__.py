"""Studies: the books' demonstrations that are not the training of one model. Each is a function `study` of plain settings."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.data.supervised.images import MNIST

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Result(NamedTuple):
    table: list[dict[str, float | str]]  # one row each, all with the same columns
    pictures: "dict[str, Figure]"


class Images(NamedTuple):
    train: tuple[Tensor, Tensor]  # float32 [N, 784] from 0 to 1, int64 [N]
    test: tuple[Tensor, Tensor]


def mnist(root: Path | None, samples: int | None = None) -> Images:
    """MNIST as the books use it: pixels divided by 255; all training images or the first `samples`."""
    splits = MNIST(root, eval_size=0).splits
    train, test = ((images.flatten(1) / 255, labels) for images, labels in (splits["train"], splits["test"]))
    return Images((train[0][:samples], train[1][:samples]), test)


def descend(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    steps: int,
    batch_size: int,
    seed: int,
) -> Iterator[float]:
    """Minimise the cross-entropy on batches drawn with replacement; yields the loss of each batch in nats per image,
    as the books print it: after the step that the batch caused."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(data[0]), (batch_size,), generator=draw)
        loss = F.cross_entropy(net(data[0][chosen]), data[1][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            yield float(F.cross_entropy(net(data[0][chosen]), data[1][chosen]))


def learn(
    axes: "Axes",
    name: str,
    begin: Callable[[], tuple[nn.Module, torch.optim.Optimizer]],
    data: tuple[Tensor, Tensor],
    steps: int,
    seeds: Sequence[int],
) -> dict[str, float | str]:
    """Batches of 128 from what `begin` makes for each seed: a curve into the picture, the last 200 losses for the table."""
    curves = []
    for seed in seeds:
        torch.manual_seed(seed)
        curves.append(list(descend(*begin(), data, steps, 128, seed)))
    axes.plot(smooth([statistics.mean(at) for at in zip(*curves, strict=True)]), label=name)
    return spread([curve[-200:] for curve in curves])


def accuracy(net: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """The share of images told right, in evaluation mode."""
    net.eval()
    with torch.no_grad():
        share = float((net(data[0]).argmax(dim=1) == data[1]).float().mean())
    net.train()
    return share


def smooth(losses: list[float], span: int = 50) -> list[float]:
    """Means over the `span` steps up to each."""
    sums = torch.cumsum(torch.tensor([0.0, *losses], dtype=torch.float64), dim=0)
    return [float((sums[i] - sums[max(0, i - span)]) / min(i, span)) for i in range(1, len(sums))]


def spread(curves: Sequence[Sequence[float]]) -> dict[str, float | str]:
    """The mean of the losses of each seed, the deviation of these means, and where nine of ten single batches lie."""
    means = [statistics.mean(curve) for curve in curves]
    twentieths = statistics.quantiles([loss for curve in curves for loss in curve], n=20)
    return {
        "loss": statistics.mean(means),
        "deviation": statistics.stdev(means) if len(means) > 1 else 0.0,
        "single batches": f"{twentieths[0]:.3f} to {twentieths[-1]:.3f}",
    }
