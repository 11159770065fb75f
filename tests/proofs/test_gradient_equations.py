"""Numerical gradients and back-propagation written out equal those of autograd."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.data.supervised.in_memory import Examples
from dlref.equations import gradients
from dlref.models.cnn import CNN
from dlref.models.ladder import Ladder
from dlref.models.mlp import MLP
from dlref.objectives.denoising import Denoising
from dlref.objectives.supervised import Classification
from tests.conftest import first
from tests.proofs.harness import EXACT, proves, random


@proves(gradients.numerical_gradient)
def numerical_gradient(equation: Any) -> None:
    x = random(2, 3)
    torch.testing.assert_close(equation(lambda x: (x**3).sum(), x), 3 * x**2, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(equation(lambda x: (x**2).sum(), x, h=0.5), 2 * x, **EXACT)  # exact for a parabola


def by_autograd(function: Any, grad_out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*leaves), leaves, grad_out)


@proves(gradients.affine_backward)
def affine_backward(equation: Any) -> None:
    x, weight, grad_out = random(2, 3), random(5, 3), random(2, 5)
    expected = by_autograd(F.linear, grad_out, x, weight, random(5))
    torch.testing.assert_close(equation(x, weight, grad_out), expected, **EXACT)


@proves(gradients.relu_backward)
def relu_backward(equation: Any) -> None:
    x, grad_out = random(3, 4), random(3, 4, seed=1)
    x[0, 0] = 0
    torch.testing.assert_close((equation(x, grad_out),), by_autograd(F.relu, grad_out, x), **EXACT)


@proves(gradients.sigmoid_backward)
def sigmoid_backward(equation: Any) -> None:
    x, grad_out = random(3, 4), random(3, 4, seed=1)
    torch.testing.assert_close(
        (equation(torch.sigmoid(x), grad_out),), by_autograd(torch.sigmoid, grad_out, x), **EXACT
    )


@proves(gradients.cross_entropy_backward)
def cross_entropy_backward(equation: Any) -> None:
    logits, targets = random(4, 5), torch.tensor([3, 0, 1, 3])
    expected = by_autograd(lambda z: F.cross_entropy(z, targets, reduction="sum"), torch.tensor(1.0), logits)
    torch.testing.assert_close((equation(F.softmax(logits, dim=1), targets),), expected, **EXACT)


@proves(gradients.batch_norm_backward)
def batch_norm_backward(equation: Any) -> None:
    x, scale, grad_out = 3 * random(5, 3) + 2, random(3), random(5, 3, seed=1)
    fast = lambda x, g, s: F.batch_norm(x, None, None, g, s, training=True, eps=1e-3)  # noqa: E731
    expected = by_autograd(fast, grad_out, x, scale, random(3, seed=1))
    torch.testing.assert_close(equation(x, scale, grad_out, 1e-3), expected, **EXACT)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: MLP(12, 3, [5, 6]),
    "batch norm": lambda: MLP(12, 3, [5, 6], norm="batch"),
    "layer norm": lambda: MLP(12, 3, [5, 6], norm="layer"),
    "tanh, GELU and sigmoid": lambda: nn.Sequential(
        MLP(12, 7, [5], activation="tanh"), MLP(7, 6, [4], activation="gelu"), MLP(6, 3, [5], activation="sigmoid")
    ),
    "convolutions": lambda: CNN(4, 3, 3, blocks=[[2, 3]], widths=[4], norm="batch"),
    "convolutions with layer norm": lambda: CNN(4, 3, 3, blocks=[[2, 3]], widths=[4], norm="layer"),
    "ladder": lambda: Ladder(12, 3, [5, 6], noise=0, input_noise=0),
}


@pytest.mark.parametrize("name", first(*(name for name in NETWORKS if name != "ladder"), of=NETWORKS))
def test_the_gradient_of_a_network_equals_the_numerical_one(name: str) -> None:
    torch.manual_seed(0)
    net = NETWORKS[name]()
    objective = (Denoising if isinstance(net, Ladder) else Classification)(net, label_smoothing=0.1).double()
    batch = Examples(random(7, 4, 3), torch.tensor([0, 1, 2, 0, 1, 2, 2]))
    parameters = dict(objective.named_parameters())
    loss: Any = objective(batch)["loss"].total
    found = torch.autograd.grad(loss, list(parameters.values()))

    def at(parameter: str, value: Tensor) -> Tensor:
        state = {k: v.detach().clone() for k, v in objective.state_dict().items()} | {parameter: value}
        return torch.func.functional_call(objective, state, (batch,))["loss"].total

    for (parameter, value), gradient in zip(parameters.items(), found, strict=True):
        expected = gradients.numerical_gradient(lambda x, p=parameter: at(p, x), value.detach())
        torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-7)


def test_back_propagation_written_out_equals_autograd() -> None:
    """Affine, ReLU, affine, cross-entropy: the backward pass layer by layer."""
    torch.manual_seed(0)
    net = MLP(4, 3, [5]).double()
    x, targets = random(6, 4), torch.tensor([0, 2, 1, 1, 2, 0])
    first, second = (layer for layer in net.layers if isinstance(layer, nn.Linear))
    Classification(net)(Examples(x, targets))["loss"].total.backward()
    with torch.no_grad():
        h = first(x)
        grad_out = gradients.cross_entropy_backward(F.softmax(second(F.relu(h)), dim=1), targets)
        grad_h, *second_gradients = gradients.affine_backward(F.relu(h), second.weight, grad_out)
        _, *first_gradients = gradients.affine_backward(x, first.weight, gradients.relu_backward(h, grad_h))
    expected = [parameter.grad for layer in (first, second) for parameter in (layer.weight, layer.bias)]
    torch.testing.assert_close([*first_gradients, *second_gradients], expected, **EXACT)
