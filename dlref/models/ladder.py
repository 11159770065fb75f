"""The ladder network: Rasmus et al. 2015, *Semi-supervised learning with ladder networks*."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.interfaces import Denoiser, FitsInputs
from dlref.models.layers import Noise, PrincipalComponents, fit_components, require_units


class Lateral(nn.Module):
    """What a unit was without its noise: (z - m) σ(c u + d) + m with m = a u + b, from its noisy value z and what the layers
    above tell of it, u (section 3; there m and the gate are sums of a sigmoid and a line)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Parameter(torch.zeros(width)) for _ in range(4))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        middle = torch.addcmul(self.b, self.a, u)
        # Under autocast z may be a product in half precision, which lerp would not mix.
        return torch.lerp(middle, z.to(middle.dtype), torch.sigmoid(torch.addcmul(self.d, self.c, u)))


class Ladder(nn.Module, Denoiser, FitsInputs):
    """A multi-layer perceptron with batch norm, which in training also tells its inputs from noisy ones.

    Going up, normal noise is added to the inputs, or to their principal `pca_components`, and to every layer after its batch
    norm. Going down, each layer is estimated from the one above and from its own noisy values (`Lateral`). Of all layers
    the inputs' estimate alone is judged, which is the paper's "bottom-level cost". In evaluation nothing goes down.
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
        self.read = nn.Sequential(nn.Flatten())
        if pca_components is not None:
            self.read.append(PrincipalComponents(inputs, pca_components))
        sizes = [pca_components or inputs, *widths, outputs]
        self.input_noise, self.noise = Noise(input_noise), Noise(noise)
        self.up = nn.ModuleList(nn.Linear(below, above, bias=False) for below, above in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size, affine=False) for size in sizes[1:])
        self.shifts = nn.ParameterList(torch.zeros(size) for size in sizes[1:])
        self.gain = nn.Parameter(torch.ones(outputs))  # which ReLU makes needless below
        self.down = nn.ModuleList(nn.Linear(above, below, bias=False) for below, above in pairwise(sizes))
        self.down_norms = nn.ModuleList(nn.BatchNorm1d(size, affine=False, track_running_stats=False) for size in sizes)
        self.laterals = nn.ModuleList(Lateral(size) for size in sizes)

    def fit(self, inputs: Iterable[Tensor]) -> None:
        """What is computed from all training inputs before the first step."""
        fit_components(self, inputs)

    def climb(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Outputs [B, outputs], and each layer's values [B, width] from the inputs `x` as read up to the last, with noise."""
        h = self.input_noise(x)
        values = [h]
        for up, norm, shift in zip(self.up, self.norms, self.shifts, strict=True):
            if len(values) > 1:
                h = F.relu(h)
            values.append(self.noise(norm(up(h))))
            h = values[-1] + shift
        return h * self.gain, values

    def forward(self, x: Tensor) -> Tensor:  # [B, ...] -> [B, outputs]
        return self.climb(self.read(x))[0]

    def denoise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [B, outputs], and the squared error of each sample's estimated inputs [B], summed over them."""
        inputs = self.read(x)
        outputs, values = self.climb(inputs)
        told = outputs.softmax(dim=1)
        for layer in reversed(range(len(values))):
            estimate = self.laterals[layer](values[layer], self.down_norms[layer](told))
            told = self.down[layer - 1](estimate) if layer else estimate
        return outputs, (told - inputs).square().sum(dim=1)
