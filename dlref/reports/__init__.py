"""Reports: each looks at a trained network and returns figures, pictures, text or histograms."""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Report:
    """`report(net, data, split)` returns name -> figure of merit, picture, text, or numbers for a histogram,
    and nothing where it does not apply.

    `while_training` says that it is cheap enough to run at each evaluation during training too.
    The network is in evaluation mode, gradients are off, and the random state is put back afterwards.
    """

    while_training = False

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, float | Figure | str | Tensor]":
        raise NotImplementedError
