"""One pass over a split: what a network is worth."""

from collections.abc import Callable
from typing import Any

import torch

from dlref.interfaces import CountedText, declares
from dlref.metrics import Totals, add, plain, read, text_metrics
from dlref.objectives import Objective
from dlref.training import devices, distributed


class EvaluationStopped(Exception):
    """A signal came to one of the ranks: none has a result, and training stands where it stood before."""


def evaluate(
    objective: Objective,
    data: Any,
    split: str,
    shard: Any,
    autocast: Callable[[], Any],
    device: torch.device,
    stop: Callable[[], int] = int,
) -> dict[str, float]:
    """The objective's figures over one pass of a split, over all ranks; random state and training mode are put back.

    Raises, on every rank, EvaluationStopped where `stop` becomes true on one, and a DlrefError that one of them meets.
    """
    distributed.share_buffers(objective)
    totals: Totals = {}
    was_training = objective.training
    objective.eval()
    with distributed.together(), torch.no_grad(), devices.forked_random(device):
        for batch in data.batches(split, objective.net, shard):
            if stop():
                break
            with autocast():
                # Not as it may be compiled: the last batches have shapes of their own, each of which would be.
                part = objective.forward(batch)
            totals = add(totals, read(part))
    objective.train(was_training)
    if distributed.sum_over_ranks({}, float(stop()))[1] != [0.0]:
        raise EvaluationStopped
    totals = distributed.sum_over_ranks(distributed.same_names(totals))[0]
    figures = plain(objective.summarize(totals))
    if "nll" in totals and declares(data, CountedText):
        figures |= text_metrics(totals["nll"], **data.text_size(split))
    return figures
