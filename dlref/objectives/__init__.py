"""Base classes of objectives: each owns a network and maps a batch to totals and counts."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.metrics import Totals, perplexity

Batch = TypeVar("Batch")


class Objective(nn.Module, Generic[Batch]):
    """The loss that training minimizes, and the metrics of training and evaluation.

    `forward(batch)` returns totals, among them `loss`, whose total over its count is minimized; in evaluation mode it may
    return others. State that is carried from batch to batch (truncated back-propagation) is this rank's own and belongs into
    `get_extra_state`, which checkpoints store separately from the weights. The type argument is the type of batches, as
    `TokenBatch` in `dlref.interfaces`: data whose batches lack its attributes are refused before training.
    """

    nll_unit: str | None = None  # `nll` is a mean over this: token, sample, label; None without a likelihood
    closed_form: ClassVar[bool] = False  # `fit` is all of the training: the network has no trainable parameters

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Batch) -> Totals:
        raise NotImplementedError

    def fit(self, batches: Iterable[Any]) -> None:
        """Compute what has a closed form, before the first step, from the training batches of one epoch.

        For a text (`interfaces.TokenizedText`) these are its consecutive chunks, tensors of ids [N].
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


class Carrying(Objective[Batch]):
    """An objective that carries hidden states from batch to batch, separately for training and evaluation.

    Those of training are saved with a checkpoint, separately from the weights.
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


def text_chunks(batches: Iterable[Any]) -> Iterator[Tensor]:  # int64 [N] each
    """The chunks of a text that `fit` is given; raises ConfigError for batches of other data."""
    for chunk in batches:
        if not isinstance(chunk, Tensor):
            raise ConfigError(
                "this objective is fitted to a text as a whole, and the data have batches only; let their class inherit "
                "dlref.interfaces.TokenizedText, or choose another objective"
            )
        yield chunk.long()


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32 or better, in which losses and sums are computed whatever the network computes in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
