"""The ladder network (Rasmus et al. 2015, *Semi-supervised learning with ladder networks*)."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.interfaces import Denoiser, FitsInputs
from dlref.models.layers import Noise, PrincipalComponents, fit_components, require_units


class Lateral(nn.Module):
    """Combinator: a unit's estimated value without noise, (z - m) σ(c u + d) + m with m = a u + b, from its noisy value z and
    the signal u from the layer above (section 3, where m and the gate are sums of a sigmoid and a linear function)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Parameter(torch.zeros(width)) for _ in range(4))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        middle = torch.addcmul(self.b, self.a, u)
        # Under autocast z may be a product in half precision, which lerp would not mix.
        return torch.lerp(middle, z.to(middle.dtype), torch.sigmoid(torch.addcmul(self.d, self.c, u)))


class Ladder(nn.Module, Denoiser, FitsInputs):
    """A multi-layer perceptron with batch norm, which in training also reconstructs its inputs from noisy ones.

    The encoder adds normal noise to the inputs, or to `pca_components` of their principal components, and to every layer after
    its batch norm. The decoder estimates each layer from the one above and from its own noisy values (`Lateral`). Only the
    reconstruction of the inputs has a cost, the paper's "bottom-level cost". In evaluation there is no decoder.
    Raises ConfigError for widths below 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        noise: float = 0.3,
        input_noise: float = 0.3,
        pca_components: int | None = None,
    ) -> None:
        super().__init__()
        require_units(widths)
        self.preprocess = nn.Sequential(nn.Flatten())
        if pca_components is not None:
            self.preprocess.append(PrincipalComponents(inputs, pca_components))
        sizes = [pca_components or inputs, *widths, outputs]
        self.input_noise, self.noise = Noise(input_noise), Noise(noise)
        self.up = nn.ModuleList(nn.Linear(below, above, bias=False) for below, above in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size, affine=False) for size in sizes[1:])
        self.biases = nn.ParameterList(torch.zeros(size) for size in sizes[1:])
        self.scale = nn.Parameter(torch.ones(outputs))  # needless below, because ReLU is followed by batch norm
        self.down = nn.ModuleList(nn.Linear(above, below, bias=False) for below, above in pairwise(sizes))
        self.down_norms = nn.ModuleList(nn.BatchNorm1d(size, affine=False, track_running_stats=False) for size in sizes)
        self.laterals = nn.ModuleList(Lateral(size) for size in sizes)

    def fit(self, inputs: Iterable[Tensor]) -> None:
        """Compute the principal components, if any, from all training inputs."""
        fit_components(self, inputs)

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Outputs [B, outputs], and the noisy values [B, width] of each layer from the preprocessed inputs up to the last."""
        h = self.input_noise(x)
        values = [h]
        for up, norm, bias in zip(self.up, self.norms, self.biases, strict=True):
            if len(values) > 1:
                h = F.relu(h)
            values.append(self.noise(norm(up(h))))
            h = values[-1] + bias
        return h * self.scale, values

    def forward(self, x: Tensor) -> Tensor:  # [B, ...] -> [B, outputs]
        return self.encode(self.preprocess(x))[0]

    def denoise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [B, outputs], and the squared error of each sample's reconstructed inputs [B], summed over the inputs."""
        inputs = self.preprocess(x)
        outputs, values = self.encode(inputs)
        decoded = outputs.softmax(dim=1)
        for layer in reversed(range(len(values))):
            estimate = self.laterals[layer](values[layer], self.down_norms[layer](decoded))
            decoded = self.down[layer - 1](estimate) if layer else estimate
        return outputs, (decoded - inputs).square().sum(dim=1)
