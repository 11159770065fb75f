"""The multi-layer perceptron (Rumelhart, Hinton & Williams 1986); without hidden layers the perceptron."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from dlref.interfaces import FitsInputs
from dlref.models.layers import (
    Activation,
    Dropout,
    Dueling,
    Init,
    Noise,
    Norm,
    PrincipalComponents,
    fit_components,
    hidden_layers,
    initialize,
)


class MLP(nn.Module, FitsInputs):
    """Hidden layers of affine, (batch or layer norm,) activation, (dropout) for each width, then an affine output layer.

    With `pca_components` its inputs are replaced by that many principal components, which are fitted before training; input
    noise and dropout come after that. With `dueling` the last layer is a `Dueling` one, for action values. Raises ConfigError
    for widths below 1 and probabilities outside [0, 0.99].
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        activation: Activation = "relu",
        norm: Norm | None = None,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        input_noise: float = 0.0,
        pca_components: int | None = None,
        dueling: bool = False,
        init: Init = "torch",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if pca_components is not None:
            layers.append(PrincipalComponents(inputs, pca_components))
        if input_noise:
            layers.append(Noise(input_noise))
        if input_dropout:
            layers.append(Dropout(input_dropout))
        width = pca_components or inputs
        layers += hidden_layers(width, widths, activation, norm, dropout)
        layers.append((Dueling if dueling else nn.Linear)([width, *widths][-1], outputs))
        self.layers = nn.Sequential(*layers)
        initialize(self, init)

    def fit(self, inputs: Iterable[Tensor]) -> None:
        """Compute the principal components, if any, from all training inputs."""
        fit_components(self, inputs)

    def forward(self, x: Tensor) -> Tensor:  # [B, ...] -> [B, outputs]
        return self.layers(x.flatten(1))
