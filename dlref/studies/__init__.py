"""Studies: demonstrations from the books that do not train one model. Each has a function `study` of plain settings."""

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
    """A table and figures by file name."""

    table: list[dict[str, float | str]]  # rows with the same columns
    figures: "dict[str, Figure]"


class Images(NamedTuple):
    """MNIST images and labels."""

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
    """Minimize the cross-entropy on batches sampled with replacement, and yield the loss of each batch in nats per image.

    As the books print it, it is the loss after the step on this batch.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(data[0]), (batch_size,), generator=generator)
        loss = F.cross_entropy(net(data[0][rows]), data[1][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            yield float(F.cross_entropy(net(data[0][rows]), data[1][rows]))


def train(
    axes: "Axes",
    name: str,
    build: Callable[[], tuple[nn.Module, torch.optim.Optimizer]],
    data: tuple[Tensor, Tensor],
    steps: int,
    seeds: Sequence[int],
) -> dict[str, float | str]:
    """Train what `build` returns with batches of 128, once per seed; plot the mean loss, and summarize the last 200 losses."""
    curves = []
    for seed in seeds:
        torch.manual_seed(seed)
        curves.append(list(descend(*build(), data, steps, 128, seed)))
    axes.plot(smooth([statistics.mean(at) for at in zip(*curves, strict=True)]), label=name)
    return spread([curve[-200:] for curve in curves])


def accuracy(net: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """The fraction of images classified correctly, in evaluation mode."""
    net.eval()
    with torch.no_grad():
        correct = float((net(data[0]).argmax(dim=1) == data[1]).float().mean())
    net.train()
    return correct


def smooth(losses: list[float], span: int = 50) -> list[float]:
    """Moving averages over the last `span` steps."""
    sums = torch.cumsum(torch.tensor([0.0, *losses], dtype=torch.float64), dim=0)
    return [float((sums[i] - sums[max(0, i - span)]) / min(i, span)) for i in range(1, len(sums))]


def spread(curves: Sequence[Sequence[float]]) -> dict[str, float | str]:
    """The mean loss over seeds, its standard deviation, and the range of nine of ten single batches."""
    means = [statistics.mean(curve) for curve in curves]
    quantiles = statistics.quantiles([loss for curve in curves for loss in curve], n=20)
    return {
        "loss": statistics.mean(means),
        "std": statistics.stdev(means) if len(means) > 1 else 0.0,
        "single batches": f"{quantiles[0]:.3f} to {quantiles[-1]:.3f}",
    }
