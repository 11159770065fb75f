"""Reports: each evaluates a trained network and returns metrics, plots, text or histograms."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Union

from torch import Tensor, nn

from dlref.interfaces import Data

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LabeledVectors(NamedTuple):
    """Vectors with a label each, for TensorBoard's projector."""

    vectors: Tensor  # [N, D]
    labels: Sequence[str]


Result: TypeAlias = Union[float, str, Tensor, LabeledVectors, "Figure"]


class Report:
    """`report(net, data, split)` evaluates a network and returns its results by name, none where it does not apply.

    A result is a metric (a number), a plot (a matplotlib Figure), text, a tensor to make a histogram of, or
    LabeledVectors. The network is in evaluation mode, gradients are disabled, and the random state is restored afterwards.
    """

    while_training = False  # cheap enough to run at each evaluation during training too
    full_split = False  # set by `dlref evaluate`: evaluates a whole split, of which training takes a part

    def prepare(self, net: nn.Module, data: Data) -> None:
        """Called before training with the initial network, in a resumed run with the one that the run began with."""

    def __call__(self, net: nn.Module, data: Data, split: str) -> Mapping[str, Result]:
        raise NotImplementedError
