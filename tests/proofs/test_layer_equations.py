"""Layers of feed-forward networks as printed equal those of torch and of the networks."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.equations import layers
from dlref.models.ladder import Lateral
from dlref.models.layers import Dropout
from tests.proofs.harness import EXACT, agree, proves, random


@proves(layers.affine)
def affine(equation: Any) -> None:
    agree(equation, F.linear, random(2, 3), random(5, 3), random(5))


@proves(layers.step)
def step(equation: Any) -> None:
    x = torch.tensor([[-1.5, 0.0, 2.5], [1e-9, -1e-9, 0.5]], dtype=torch.float64)
    agree(equation, lambda x: torch.heaviside(x, torch.zeros_like(x)).detach(), x)


@proves(layers.sigmoid)
def sigmoid(equation: Any) -> None:
    agree(equation, torch.sigmoid, 2 * random(2, 3))


@proves(layers.tanh)
def tanh(equation: Any) -> None:
    agree(equation, torch.tanh, 2 * random(2, 3))


@proves(layers.relu)
def relu(equation: Any) -> None:
    agree(equation, F.relu, random(3, 4))
    agree(equation, F.relu, torch.zeros(2, 1, dtype=torch.float64))  # the gradient at 0 is 0


@proves(layers.gelu)
def gelu(equation: Any) -> None:
    agree(equation, F.gelu, 2 * random(2, 3))


@proves(layers.softmax)
def softmax(equation: Any) -> None:
    agree(equation, lambda x: F.softmax(x, dim=1), 2 * random(2, 3))


@proves(layers.convolution)
def convolution(equation: Any) -> None:
    for stride, padding in ((1, 0), (2, 1)):
        agree(
            lambda x, w, b, s=stride, p=padding: equation(x, w, b, s, p),
            lambda x, w, b, s=stride, p=padding: F.conv2d(x, w, b, stride=s, padding=p),
            random(2, 3, 6, 5),
            random(4, 3, 3, 2),
            random(4),
        )


@proves(layers.positions)
def positions(equation: Any) -> None:
    for size, kernel, stride, padding in ((7, 3, 1, 0), (7, 3, 2, 0), (8, 3, 2, 1), (6, 2, 4, 2), (5, 5, 1, 0)):
        image, weight = torch.zeros(1, 1, size, kernel), torch.zeros(1, 1, kernel, kernel)
        expected = F.conv2d(image, weight, stride=stride, padding=(padding, 0)).shape[2]
        assert equation(size, kernel, stride, padding) == expected


@proves(layers.max_pooling)
def max_pooling(equation: Any) -> None:
    for size, stride in ((2, 2), (3, 2), (2, 1)):
        agree(
            lambda x, k=size, s=stride: equation(x, k, s),
            lambda x, k=size, s=stride: F.max_pool2d(x, k, s),
            random(2, 3, 6, 5),
        )


@proves(layers.batch_norm)
def batch_norm(equation: Any) -> None:
    x = 3 * random(5, 3) + 2
    agree(
        lambda x, g, b: equation(x, g, b, 1e-3),
        lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True, eps=1e-3),
        x,
        random(3),
        random(3, seed=1),
    )


@proves(layers.layer_norm)
def layer_norm(equation: Any) -> None:
    agree(
        lambda x, g, b: equation(x, g, b, 1e-3),
        lambda x, g, b: F.layer_norm(x, [3], g, b, eps=1e-3),
        3 * random(5, 3) + 2,
        random(3),
        random(3, seed=1),
    )


@proves(layers.running_statistics)
def running_statistics(equation: Any) -> None:
    layer, x = nn.BatchNorm1d(3, momentum=0.3).double(), 3 * random(5, 3) + 2
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    for batch in (x, x**2):
        expected = equation(batch, mean.clone(), variance.clone(), 0.3)
        layer(batch)
        torch.testing.assert_close((mean, variance), expected, **EXACT)


@proves(layers.dropout)
def dropout(equation: Any) -> None:
    layer, x = Dropout(0.25), random(6, 7)

    def fast(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return layer(x)

    kept = fast(torch.ones_like(x)) > 0  # the same seed gives the same mask
    agree(lambda x: equation(x, kept, 0.25), fast, x)


@proves(layers.elementwise)
def elementwise(equation: Any) -> None:
    agree(lambda x: equation(x, lambda a: a**3 + 1), lambda x: x**3 + 1, random(2, 3, 4))


@proves(layers.lateral)
def lateral(equation: Any) -> None:
    shape = Lateral(3).double()

    def fast(z: Tensor, u: Tensor, *numbers: Tensor) -> Tensor:
        return torch.func.functional_call(shape, dict(zip("abcd", numbers, strict=True)), (z, u))

    agree(equation, fast, random(2, 3), random(2, 3, seed=1), *(random(3, seed=seed) for seed in range(2, 6)))
