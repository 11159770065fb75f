"""One pass over a split: what a network is worth."""

from collections.abc import Callable
from typing import Any

import torch

from dlref.metrics import Totals, add, read
from dlref.objectives import Objective
from dlref.training import devices, distributed


def evaluate(
    objective: Objective, data: Any, split: str, shard: Any, autocast: Callable[[], Any], device: torch.device
) -> dict[str, float]:
    """The objective's figures over one pass of a split, over all ranks; random state and training mode are put back."""
    totals: Totals = {}
    was_training = objective.training
    objective.eval()
    with torch.no_grad(), devices.forked_random(device):
        for batch in data.batches(split, objective.net, shard):
            with autocast():
                # Not as it may be compiled: the last batches have shapes of their own, each of which would be.
                part = objective.forward(batch)
            totals = add(totals, read(part))
    objective.train(was_training)
    return objective.summarize(distributed.sum_over_ranks(distributed.same_names(totals))[0])
