"""Layers of feed-forward networks: noise, dropout, principal components, dueling; and initialization."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import LinearProjection

Activation = Literal["relu", "gelu", "sigmoid", "tanh"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
Norm = Literal["batch", "layer"]
Init = float | Literal["torch", "lecun", "xavier", "he"]


class PrincipalComponents(nn.Module, LinearProjection):
    """Projection of the inputs onto their principal components (Pearson 1901), which `fit` computes.

    The first layer after it costs `components` instead of `inputs` multiplications per unit, and noise added to it leaves out
    the directions of small variance. The coordinates do not depend on the order of the inputs.
    """

    def __init__(self, inputs: int, components: int) -> None:
        super().__init__()
        if not 1 <= components <= inputs:
            raise ConfigError(
                f"network.pca_components is {components}; it takes 1 to {inputs}, as many as there are inputs"
            )
        self.mean = nn.Buffer(torch.zeros(inputs))
        self.directions = nn.Buffer(torch.eye(inputs, components))

    def fit(self, inputs: Iterable[Tensor]) -> None:
        """Compute mean and directions from all training inputs, in chunks [B, inputs], in float64."""
        count, width = 0, len(self.mean)
        total, products = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
        for chunk in inputs:
            rows = chunk.flatten(1).to("cpu", torch.float64)
            count, total, products = count + len(rows), total + rows.sum(0), products.addmm_(rows.T, rows)
        mean = total / count
        _, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))  # by rising variance
        self.mean.copy_(mean)
        self.directions.copy_(vectors.flip(1)[:, : self.directions.shape[1]])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.directions


def fit_components(net: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Fit the network's principal components, if it has any, to all training inputs, in chunks [B, ...]."""
    for layer in net.modules():
        if isinstance(layer, PrincipalComponents):
            layer.fit(inputs)


def require_units(widths: Sequence[int]) -> None:
    """Raise ConfigError for widths below 1."""
    if any(width < 1 for width in widths):
        raise ConfigError(f"network.widths is {list(widths)}; each hidden layer takes 1 unit or more")


def require_one_vocabulary(source_vocab_size: int, target_vocab_size: int) -> None:
    """Raise ConfigError if source and target, whose embeddings are to be shared, have two vocabularies."""
    if source_vocab_size != target_vocab_size:
        sizes = f"{source_vocab_size:,} and {target_vocab_size:,}"
        raise ConfigError(f"network.shared_embeddings is for one vocabulary, not two of {sizes}; set it to false")


class Noise(nn.Module):
    """Adds normal noise with this standard deviation in training."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x) if self.training else x


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014); the probability is rounded to a 256th, unless that would be 0.

    If `variational`, one mask serves all time steps, the second dimension (Gal & Ghahramani 2016, section 4). One random
    number of 64 bits serves eight units: a random number for each would take a quarter of a step on a CPU.
    """

    def __init__(self, probability: float, variational: bool = False) -> None:
        super().__init__()
        if not 0 <= probability <= 0.99:
            raise ConfigError(f"a dropout of the network is {probability}; it takes a probability from 0 to 0.99")
        self.probability, self.dropped, self.variational = probability, round(256 * probability), variational

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.probability):
            return x
        return x * self.mask(x[:, :1]) if self.variational else x * self.mask(x)

    def mask(self, x: Tensor) -> Tensor:
        """Factors for a tensor of this shape: 0 for dropped units, 1 / (1 - probability) for the others."""
        if not self.dropped:
            return F.dropout(torch.ones_like(x), self.probability)
        bits = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        # Compared directly into floating point: by way of booleans it takes five times as long.
        # Contiguous, as otherwise `out` breaks a compiled graph, and torch 2.13 rebuilds the view of another dtype wrongly.
        kept = torch.empty_like(x, memory_format=torch.contiguous_format)
        torch.ge(bits.view(torch.uint8)[: x.numel()].view(x.shape), self.dropped, out=kept)
        return kept.mul_(256 / (256 - self.dropped))


class Dueling(nn.Module):
    """Dueling head: Q = V + A - mean of A over actions; state value V, advantages A (Wang et al. 2016, equation 9)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.both = nn.Linear(inputs, 1 + outputs)

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs] -> [B, outputs]
        value, advantages = self.both(x).split([1, self.both.out_features - 1], dim=1)
        return value + advantages - advantages.mean(1, keepdim=True)


def activate(activation: Activation) -> nn.Module:
    """The activation layer; ReLU is in place, because the layer before it, affine or a norm, does not need its own output."""
    return nn.ReLU(inplace=True) if activation == "relu" else ACTIVATIONS[activation]()


def hidden_layers(
    inputs: int, widths: Sequence[int], activation: Activation, norm: Norm | None, dropout: float
) -> list[nn.Module]:
    """Layers of affine, (norm,) activation, (dropout) for each width. Raises ConfigError for widths below 1."""
    require_units(widths)
    layers: list[nn.Module] = []
    for width, next_width in zip([inputs, *widths], widths, strict=False):
        layers.append(nn.Linear(width, next_width, bias=norm != "batch"))  # which has its own bias
        if norm is not None:
            layers.append({"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[norm](next_width))
        layers.append(activate(activation))
        if dropout:
            layers.append(Dropout(dropout))
    return layers


def initialize(net: nn.Module, init: Init) -> None:
    """Initialize weights of affine, recurrent and convolutional layers normal with mean 0, biases at 0; `torch` keeps torch's.

    A number is the standard deviation itself; `lecun` makes it √(1 / inputs) of the layer (LeCun et al. 1998, *Efficient
    backprop*, equation 16), `xavier` √(2 / (inputs + outputs)) (Glorot & Bengio 2010, equation 12), `he` √(2 / inputs) (He et
    al. 2015, equation 10). Inputs and outputs of a convolution include the pixels of its kernel; outputs of a recurrent layer
    include all its gates.
    """
    if init == "torch":
        return
    for layer in net.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.RNNBase):
            continue
        for weights in layer.parameters(recurse=False):
            if weights.ndim == 1:
                nn.init.zeros_(weights)
                continue
            inputs, outputs = weights[0].numel(), weights.shape[0] * weights[0, 0].numel()
            variances = {"lecun": 1 / inputs, "xavier": 2 / (inputs + outputs), "he": 2 / inputs}
            nn.init.normal_(weights, 0.0, math.sqrt(variances[init]) if isinstance(init, str) else init)
