"""Averaged weights are evaluated with averaged statistics of batch norm, and nothing else of a network is averaged."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.data.supervised.in_memory import Examples
from dlref.models.ladder import Ladder
from dlref.models.layers import PrincipalComponents
from dlref.models.mlp import MLP
from dlref.objectives.denoising import Denoising
from dlref.objectives.supervised import Classification
from dlref.training.averaging import ExponentialAverage, statistics

DECAY = 0.8


def mlp() -> Classification:
    return Classification(MLP(4, 3, [6, 5], norm="batch"))


def ladder() -> Classification:
    return Denoising(Ladder(4, 3, [6, 5]), denoising_coef=1.0)


def train(
    objective: Any, steps: int, rate: float, decay: float = DECAY
) -> tuple[ExponentialAverage, list[list[Tensor]]]:
    """The average after so many steps of gradient descent, and the trained statistics after each."""
    average, history = ExponentialAverage(objective, decay), []
    for step in range(steps):
        objective.zero_grad()
        torch.as_tensor(objective(Examples(*examples(step)))["loss"].total).backward()
        with torch.no_grad():
            for p in objective.parameters():
                p -= rate * p.grad
        average.update_parameters(objective)
        history.append([part.clone() for part in statistics(objective)])
    return average, history


def examples(seed: int, count: int = 20) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=draw)
    return x, (x[:, :3] + torch.randn(count, 3, generator=draw)).argmax(1)


@pytest.mark.parametrize("kind", [mlp, ladder])
def test_statistics_are_averaged_as_the_weights_are(kind: Any) -> None:
    torch.manual_seed(0)
    average, history = train(kind(), 7, rate=0.02)
    expected = history[0]
    for now in history[1:]:
        expected = [DECAY * old + (1 - DECAY) * new for old, new in zip(expected, now, strict=True)]
    found = statistics(average.module)
    assert len(found) == 2 * (2 if kind is mlp else 3)
    for a, b, c in zip(found, expected, history[-1], strict=True):
        torch.testing.assert_close(a, b)
        assert not torch.allclose(a, c, rtol=1e-3)


@pytest.mark.slow
def test_averaged_weights_are_as_good_as_with_statistics_of_their_own() -> None:
    """Those are the means over all training batches; with the trained weights' statistics the average is worse."""
    torch.manual_seed(1)
    objective = mlp()
    average = train(objective, 300, rate=0.1, decay=0.98)[0].module
    copied, own = copy.deepcopy(average), copy.deepcopy(average).train()
    for part, of_trained in zip(statistics(copied), statistics(objective), strict=True):
        part.copy_(of_trained)
    for layer in own.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.reset_running_stats()
            layer.momentum = None
    for step in range(300):
        own.net(examples(step)[0])
    batch = Examples(*examples(10_000, 5000))
    losses = [m.eval()(batch)["nll"].value for m in (average, copied, own)]
    assert losses[0] < losses[2] + 0.005
    assert losses[1] > losses[2] + 0.02


def test_other_buffers_are_copied() -> None:
    layer = PrincipalComponents(3, 2)
    net = nn.Sequential(layer, nn.Linear(2, 2))
    average = ExponentialAverage(net, DECAY)
    for mean in (1.0, 2.0):
        layer.mean.fill_(mean)
        average.update_parameters(net)
        assert torch.equal(average.module[0].mean, layer.mean)
