"""The multi-layer perceptron.

Rumelhart, Hinton & Williams 1986; batch norm: Ioffe & Szegedy 2015; dropout: Srivastava et al. 2014.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError


class PrincipalComponents(nn.Module):
    """The coordinates of inputs along their directions of largest variance (Pearson 1901), which `fit` finds.

    A first layer behind it costs `components` rather than `inputs` multiplications a unit, and noise added to it does not
    touch the directions that are left out. What it yields does not depend on the order of the inputs.
    """

    def __init__(self, inputs: int, components: int) -> None:
        super().__init__()
        if not 1 <= components <= inputs:
            raise ConfigError(
                f"network.components is {components}; it takes 1 to {inputs}, as many as there are inputs"
            )
        self.mean = nn.Buffer(torch.zeros(inputs))
        self.directions = nn.Buffer(torch.eye(inputs, components))

    def fit(self, inputs: Iterable[Tensor]) -> None:
        """Take the directions from all training inputs, in pieces [B, inputs]; sums are taken in float64."""
        count, width = 0, len(self.mean)
        total, products = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
        for piece in inputs:
            rows = piece.flatten(1).to("cpu", torch.float64)
            count, total, products = count + len(rows), total + rows.sum(0), products.addmm_(rows.T, rows)
        mean = total / count
        _, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))  # by rising variance
        self.mean.copy_(mean)
        self.directions.copy_(vectors.flip(1)[:, : self.directions.shape[1]])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.directions


class Noise(nn.Module):
    """Adds normal noise of the given deviation in training."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.deviation * torch.randn_like(x) if self.training else x


class Dropout(nn.Module):
    """Srivastava et al. 2014, the share of dropped units rounded to a 256th.

    One random number of 64 bits decides for eight units: drawing one for each takes a quarter of a step on a CPU.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped = round(256 * share)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        bits = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        # Compared straight into floating point: by way of booleans it takes five times as long.
        kept = torch.ge(bits.view(torch.uint8)[: x.numel()].view(x.shape), self.dropped, out=torch.empty_like(x))
        return x * kept.mul_(256 / (256 - self.dropped))


class MLP(nn.Module):
    """Affine, (batch norm,) ReLU, (dropout) for each width, then affine; weights and shifts begin as torch draws them.

    With `components` it reads that many principal components of its inputs, and is fitted to them before training.
    Raises ConfigError for widths below 1 and shares outside [0, 1).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        batch_norm: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        input_noise: float = 0.0,
        components: int | None = None,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in widths):
            raise ConfigError(f"network.widths is {list(widths)}; each hidden layer takes 1 unit or more")
        if not (0 <= dropout <= 0.99 and 0 <= input_dropout <= 0.99):
            raise ConfigError(f"network.dropout {dropout} and input_dropout {input_dropout} are shares from 0 to 0.99")
        layers: list[nn.Module] = [nn.Flatten()]
        if components is not None:
            layers.append(PrincipalComponents(inputs, components))
        if input_noise:
            layers.append(Noise(input_noise))
        if input_dropout:
            layers.append(Dropout(input_dropout))
        width = components or inputs
        for next_width in widths:
            layers.append(nn.Linear(width, next_width, bias=not batch_norm))  # the norm brings its own shift
            if batch_norm:
                layers.append(nn.BatchNorm1d(next_width))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(Dropout(dropout))
            width = next_width
        layers.append(nn.Linear(width, outputs))
        self.layers = nn.Sequential(*layers)

    def fit(self, inputs: Iterable[Tensor]) -> None:
        """What is computed from all training inputs before the first step."""
        for layer in self.layers:
            if isinstance(layer, PrincipalComponents):
                layer.fit(inputs)

    def forward(self, x: Tensor) -> Tensor:  # [B, ...] -> [B, outputs]
        return self.layers(x)
