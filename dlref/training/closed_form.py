"""Fitting in closed form: n-gram counts, PPMI-SVD. No gradient, no optimizer, no schedule."""

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dlref.interfaces import Data, Shard, TokenizedText, declares
from dlref.objectives import Objective
from dlref.training import devices
from dlref.training.config import TrainerConfig
from dlref.training.evaluation import evaluate
from dlref.training.log import Log
from dlref.training.precision import autocast, resolve
from dlref.training.progress import Progress, monitored
from dlref.training.recording import Check, Report, Save

CHUNK = 2**20  # tokens that an objective is fitted to at once
USED = ("precision", "monitor")  # the settings of the trainer that mean something here


def training_data(data: Data, net: nn.Module, device: torch.device) -> Iterable[Any]:
    """The training split once, for `Objective.fit`: a text in consecutive chunks of ids [N], other data in batches."""
    if not declares(data, TokenizedText):
        return data.batches("train", net, Shard())
    return (chunk.to(device) for chunk in data.split("train").split(CHUNK))


class ClosedForm:
    """One run of an objective that is `closed_form`: fit, evaluate, log, save.

    Commands read of it what they read of a `Trainer`. The fit is logged and saved as step 1; each rank makes the same one.
    """

    def __init__(
        self, config: TrainerConfig, objective: Objective[Any], data: Data, shard: Shard, device: torch.device
    ) -> None:
        self.config, self.objective, self.data, self.shard, self.device = config, objective, data, shard, device
        self.eval_objective = objective
        self.computes_in = resolve(config.precision, device, objective)
        self.progress = Progress()
        self.units_per_step = data.units_per_batch(shard.ranks) * data.batches_per_epoch
        self.repeats_bit_for_bit = device.type == "cpu"

    def is_finished(self) -> bool:
        return self.progress.step == 1

    def fit(self, log: Log, save: Save, report: Report, check: Check = lambda: None) -> int:
        """Fit to the training split, evaluate, log and save; returns 0, since a signal unwinds it with nothing saved."""
        check()
        progress, started = self.progress, time.perf_counter()
        with devices.explained():
            self.objective.fit(training_data(self.data, self.objective.net, self.device))
        progress.step, progress.seconds = 1, time.perf_counter() - started
        context = autocast(self.computes_in, self.device)
        metrics = evaluate(self.objective, self.data, "eval", self.shard, context, self.device)
        progress.metrics = metrics | report(self.objective.net, progress.step)
        progress.evaluated = progress.step
        log.metrics("eval", progress.step, progress.seconds, progress.metrics)
        save("last")
        monitored(self.config.monitor, progress.metrics, self.objective.nll_unit is not None)  # which a search reads
        return 0
