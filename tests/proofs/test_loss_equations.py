"""Losses of feed-forward networks as printed equal those of the objectives."""

from typing import Any

import torch
from torch import Tensor, nn

from dlref.data.supervised.in_memory import Examples
from dlref.equations import losses
from dlref.objectives.supervised import Classification, MultiLabel, Regression, Supervised
from tests.proofs.harness import agree, proves, random


def loss_of(objective: type[Supervised], outputs: Tensor, targets: Tensor, **settings: Any) -> Tensor:
    return torch.as_tensor(objective(nn.Identity(), **settings)(Examples(outputs, targets))["loss"].total)


@proves(losses.squared_error)
def squared_error(equation: Any) -> None:
    agree(equation, lambda y, t: loss_of(Regression, y, t), random(4, 3), random(4, 3, seed=1))


@proves(losses.cross_entropy)
def cross_entropy(equation: Any) -> None:
    targets = torch.tensor([3, 0, 1, 3])
    for smoothing in (0.0, 0.2):
        agree(
            lambda z, s=smoothing: equation(z, targets, s),
            lambda z, s=smoothing: loss_of(Classification, z, targets, label_smoothing=s),
            2 * random(4, 5),
        )


@proves(losses.binary_cross_entropy)
def binary_cross_entropy(equation: Any) -> None:
    targets = torch.tensor([[0, 1, 1], [1, 0, 1]], dtype=torch.float64)
    agree(lambda z: equation(z, targets), lambda z: loss_of(MultiLabel, z, targets), 2 * random(2, 3))
