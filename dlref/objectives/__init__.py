"""Base classes of objectives: each owns a network and maps a batch to totals and counts."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.metrics import Totals, perplexity


class Objective(nn.Module):
    """The loss that training minimizes, and the metrics of training and evaluation.

    `forward(batch)` returns totals, among them `loss`, whose total over its count is minimized; in evaluation mode it may
    return others. State that is carried from batch to batch (truncated back-propagation) is this rank's own and belongs into
    `get_extra_state`, which checkpoints store separately from the weights.
    """

    nll_unit: str | None = None  # `nll` is a mean over this: token, sample, label; None without a likelihood

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Any) -> Totals:
        raise NotImplementedError

    def fit(self, batches: Iterable[Any]) -> None:
        """Compute what has a closed form, before the first step, from the training batches of one epoch.

        For a text (`interfaces.TokenizedText`) these are its consecutive parts, tensors of ids [N].
        """

    def after_step(self) -> None:
        """Called after each update of the weights."""

    def summarize(self, totals: Totals) -> dict[str, float]:
        """Metrics by name: the means of the totals, and the perplexity of an `nll` per token.

        `nll`, in nats, is left out where it equals `loss`: where nothing else is minimized, and in evaluation.
        """
        metrics = {name: mean.value for name, mean in totals.items() if float(mean.count)}
        if "nll" in metrics:
            nll = metrics["nll"]
            if self.nll_unit == "token":
                metrics["perplexity"] = perplexity(nll)
            if str(nll) == str(metrics.get("loss")):  # as text, since NaN does not equal itself
                del metrics["nll"]
        return metrics


class Carrying(Objective):
    """Hands state from each batch to the next: tensors by `self.training`, so that training and evaluation have their own.

    That of training is kept with a checkpoint, apart from the weights.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.states: dict[bool, tuple[Tensor, ...] | None] = {True: None, False: None}

    def get_extra_state(self) -> Any:
        state = self.states[True]
        return None if state is None else list(state)

    def set_extra_state(self, state: Any) -> None:
        self.states[True] = None
        if state is not None:
            device = next(self.parameters()).device
            self.states[True] = tuple(part.to(device) for part in state)


def text_parts(batches: Iterable[Any]) -> Iterator[Tensor]:  # int64 [N] each
    """The parts of a text that `fit` was given; raises ConfigError for batches of other data."""
    for part in batches:
        if not isinstance(part, Tensor):
            raise ConfigError(
                "this objective is fitted to a text as a whole, and the data have batches only; let their class inherit "
                "dlref.interfaces.TokenizedText, or choose another objective"
            )
        yield part.long()


def at_least_float32(x: Tensor) -> Tensor:
    """Losses and sums are taken in float32 or better, whatever the network ran in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
