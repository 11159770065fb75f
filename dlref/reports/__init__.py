"""Reports: each looks at a trained network and returns figures, pictures, text or histograms."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn


class Embedding(NamedTuple):
    """Vectors with a label each, to walk through in TensorBoard's projector."""

    vectors: Tensor  # [N, D]
    labels: Sequence[str]


class Report:
    """`report(net, data, split)` returns name -> figure of merit, picture, text, numbers for a histogram, or vectors,
    and nothing where it does not apply.

    `while_training` says that it is cheap enough to run at each evaluation during training too.
    The network is in evaluation mode, gradients are off, and the random state is put back afterwards.
    """

    while_training = False
    whole = False  # set by `dlref evaluate`: what is cut short while training is read to its end

    def begin(self, net: nn.Module, data: Any) -> None:
        """Is shown the network before it is trained: of a run that goes on, what that one began with."""

    def __call__(self, net: nn.Module, data: Any, split: str) -> dict[str, Any]:
        raise NotImplementedError
