"""Evaluation: the metrics of an objective over one epoch of a split."""

from collections.abc import Callable
from typing import Any

import torch

from dlref.interfaces import CountedText, Data, Shard, declares
from dlref.metrics import Totals, add, plain, read, text_metrics
from dlref.objectives import Objective
from dlref.training import devices, distributed


class EvaluationStopped(Exception):
    """A signal has stopped the evaluation on every rank; it has no result, and training is as before."""


def evaluate(
    objective: Objective[Any],
    data: Data,
    split: str,
    shard: Shard,
    autocast: Callable[[], Any],
    device: torch.device,
    stop: Callable[[], int] = int,
) -> dict[str, float]:
    """Metrics of a split, over all ranks; random state and training mode are restored.

    Raises, on every rank, EvaluationStopped where `stop` becomes true on one, and a DlrefError that one of them raises.
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
                # `forward` is not compiled: the last batches have shapes of their own, each of which would be compiled.
                batch_totals = objective.forward(batch)
            totals = add(totals, read(batch_totals))
    objective.train(was_training)
    if distributed.sum_over_ranks({}, float(stop()))[1] != [0.0]:
        raise EvaluationStopped
    totals = distributed.sum_over_ranks(distributed.same_names(totals))[0]
    metrics = plain(objective.summarize(totals))
    if "nll" in totals and declares(data, CountedText):
        metrics |= text_metrics(totals["nll"], **data.text_size(split))
    return metrics
