"""Classes told apart by a softmax: cross-entropy and accuracy."""

from collections.abc import Callable, Iterable
from typing import Any

import torch.nn.functional as F
from torch import nn

from dlref.errors import ConfigError
from dlref.metrics import Mean, Totals
from dlref.objectives import Objective, at_least_float32


class Classification(Objective):
    """The network's outputs [B, C] are log-odds. `nll` is in nats per sample; `loss` may smooth the labels besides."""

    def __init__(self, net: nn.Module, label_smoothing: float = 0.0) -> None:
        super().__init__(net)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"objective.label_smoothing is {label_smoothing}; it is a share from 0 to below 1")
        self.label_smoothing = label_smoothing

    def fit(self, batches: Iterable[Any]) -> None:
        fit: Callable[[Iterable[Any]], None] | None = getattr(self.net, "fit", None)
        if fit:
            fit(batch.inputs for batch in batches)

    def forward(self, batch: Any) -> Totals:
        logits = at_least_float32(self.net(batch.inputs))
        count = len(batch.targets)
        nll = F.cross_entropy(logits, batch.targets, reduction="sum")
        loss = nll
        if self.training and self.label_smoothing:
            loss = F.cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=self.label_smoothing)
        hits = (logits.argmax(dim=1) == batch.targets).sum()
        return {"loss": Mean(loss, count), "nll": Mean(nll, count), "accuracy": Mean(hits, count)}
