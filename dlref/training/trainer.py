"""The training loop of all models: minimize the total named `loss` over its count by gradient steps."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from dlref.errors import ConfigError, DataError
from dlref.interfaces import Data, Shard
from dlref.metrics import Totals, add, plain
from dlref.objectives import Objective
from dlref.operators import CompileTime
from dlref.signals import StopSignals
from dlref.training import devices, distributed, gradient_norm
from dlref.training.averaging import ExponentialAverage
from dlref.training.config import TrainerConfig
from dlref.training.evaluation import EvaluationStopped, evaluate
from dlref.training.log import Log
from dlref.training.precision import LossScale, autocast, resolve, run_in_float32
from dlref.training.progress import Progress, Window, monitored
from dlref.training.recording import Check, Report, Save

Schedule = Callable[[float, float], float]  # fractions done before and after a step -> factor on learning rates


class Trainer:
    """Trains an objective that has been fitted to its data (`Objective.fit`); `training.state` restores a checkpoint."""

    def __init__(
        self,
        config: TrainerConfig,
        objective: Objective[Any],
        data: Data,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        shard: Shard,
        device: torch.device,
    ) -> None:
        self.config, self.objective, self.data = config, objective, data
        self.optimizer, self.schedule, self.shard, self.device = optimizer, schedule, shard, device
        self.progress = Progress()
        self.units_per_step = data.units_per_batch(shard.ranks) * config.accumulate
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.learning_rates = [group["lr"] for group in optimizer.param_groups]
        self.computes_in = distributed.agreed("precision", resolve(config.precision, device, objective))
        self.autocast = autocast(self.computes_in, device)
        run_in_float32(self.computes_in, device, objective)
        self.loss_scale = LossScale() if self.computes_in == "fp16" else None
        # A loss scale that adapts, and sums over ranks, are read at each step anyway.
        self.window = Window(deferred=device.type != "cpu" and shard.ranks == 1 and not self.loss_scale)
        self.average = ExponentialAverage(objective, config.ema) if config.ema is not None else None
        self.repeats_bit_for_bit = config.max_seconds is None and not config.compile and device.type == "cpu"
        self.compiler: CompileTime | None = None
        self.clock = 0.0  # when the step began

    @property
    def eval_objective(self) -> Objective[Any]:
        """The objective whose weights are evaluated and kept: the average, if there is one."""
        return self.average.module if self.average else self.objective

    def fraction_done(self, more: int = 0) -> float:
        """The fraction of the run that is done after `more` further steps."""
        steps, seconds = self.progress.step + more, self.progress.seconds
        return max(steps / (self.config.max_steps or math.inf), seconds / (self.config.max_seconds or math.inf))

    def ended_by(self) -> str | None:
        """The name of the setting that has ended the run, if one has."""
        if self.progress.since_best >= (self.config.patience or math.inf):
            return "patience"
        if self.fraction_done() < 1:
            return None
        return "max_steps" if self.progress.step >= (self.config.max_steps or math.inf) else "max_seconds"

    def is_finished(self) -> bool:
        return self.ended_by() is not None and self.progress.evaluated == self.progress.step

    def is_due(self, every: int | None) -> bool:
        return every is not None and self.progress.step % every == 0

    def fit(self, log: Log, save: Save, report: Report, check: Check = lambda: None) -> int:
        """Train to the end or to a signal, which is returned (0 for none). `check` runs before and after the first step."""
        config, progress = self.config, self.progress
        first_step, saved = progress.step, (progress.step, progress.evaluated)
        if first_step == 0:
            report(self.eval_objective.net, 0)
        self.compiler = devices.compile_in_place(self.objective, self.device) if config.compile else None
        model, stopped = distributed.parallel(self.objective), False
        batches = self.data.train_batches(self.objective.net, self.shard, progress.step * config.accumulate)
        self.objective.train()
        with StopSignals() as signals, devices.explained(), self.window.blamed():
            self.clock = time.perf_counter()
            while True:
                paused = time.perf_counter()
                if progress.step <= first_step + 1:
                    check()
                evaluates = self.ended_by() or self.is_due(config.eval_every)
                if progress.evaluated < progress.step and not stopped and evaluates:
                    try:
                        self.evaluate(log, save, report, lambda: signals.received)
                    except EvaluationStopped:
                        stopped = True
                    except Exception as error:
                        # Of several ranks another one may not fail, and would not come to save.
                        on_all_ranks = self.shard.ranks == 1 or isinstance(error, ConfigError | DataError)
                        if progress.step > saved[0] and on_all_ranks:
                            save("last")
                        raise
                last = bool(stopped or self.ended_by())
                if saved != (progress.step, progress.evaluated) and (last or self.is_due(config.save_every)):
                    save("last")
                    saved = (progress.step, progress.evaluated)
                if last:  # another rank may have received the signal
                    return signals.received or (signal.SIGTERM if stopped else 0)
                self.clock += time.perf_counter() - paused
                stopped = self.step(model, batches, bool(signals.received))
                is_due = any(map(self.is_due, (config.log_every, config.eval_every, config.save_every)))
                if stopped or is_due or self.ended_by():
                    self.read()
                if self.is_due(config.log_every):
                    self.log(log)
                    self.window.totals, progress.logged = {}, (progress.step, progress.seconds)  # the next window

    def step(self, model: nn.Module, batches: Iterator[Any], stop: bool) -> bool:
        """One update from `accumulate` batches on every rank, and whether one of them is to stop.

        Raises DivergedError, weights untouched, if the loss or the gradient is not finite; a deferred window does so in `read`.
        """
        progress, loss_scale = self.progress, self.loss_scale.value if self.loss_scale else 1.0
        gradient_norm.clear(self.parameters)
        done, totals = self.fraction_done(), Totals()
        for remaining in reversed(range(self.config.accumulate)):
            with distributed.no_sync(model) if remaining else contextlib.nullcontext():
                with self.autocast():
                    batch_totals: Totals = model(next(batches))
                gradient_norm.backward(batch_totals["loss"], loss_scale / progress.count)
            totals = add(totals, self.window.take(batch_totals))
        now, compiled = time.perf_counter(), self.compiler.take() if self.compiler else 0.0
        totals, (stops, seconds) = distributed.sum_over_ranks(totals, float(stop), now - self.clock - compiled)
        progress.seconds += seconds / self.shard.ranks  # all ranks follow one clock
        self.clock = now
        factor = self.schedule(done, self.fraction_done(1))
        for group, rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = rate * factor
        gradient = gradient_norm.values(self.parameters)
        # From the average over ranks of summed losses' gradients, scaled in `backward`, to the gradient of the mean loss.
        count = max(int(totals["loss"].count), 1)
        scale = self.shard.ranks * progress.count / count / loss_scale
        norm = (gradient_norm.norm_on_device if self.window.deferred else gradient_norm.norm)(gradient) * scale
        metrics = {"lr": self.learning_rates[0] * factor, "grad_norm": norm}
        metrics |= {"loss_scale": loss_scale} if self.loss_scale else {}
        # A gradient that overflowed float16 is skipped; its step and its batches count as used.
        overflowed = self.loss_scale is not None and self.loss_scale.overflowed(totals["loss"].value, float(norm))
        self.window.add(progress.step + 1, totals, metrics, overflowed)
        if not overflowed:
            gradient_norm.scale_(gradient, scale * gradient_norm.clip_factor(norm, self.config.clip_norm))
            self.optimizer.step()
            self.objective.after_step()
            if self.average:
                self.average.update_parameters(self.objective)
        progress.step, progress.count = progress.step + 1, count
        return stops > 0

    def read(self) -> None:
        """Wait for an accelerator and read what it has computed; that time is of training too."""
        if self.window.waiting:
            self.window.read()
            now = time.perf_counter()
            self.progress.seconds, self.clock = self.progress.seconds + now - self.clock, now

    def log(self, log: Log) -> None:
        progress = self.progress
        steps, seconds = progress.step - progress.logged[0], progress.seconds - progress.logged[1]
        metrics = plain(self.objective.summarize(self.window.totals)) | self.window.last
        metrics |= {f"{self.data.unit}_per_second": self.units_per_step * steps / max(seconds, 1e-9)}
        log.metrics("train", progress.step, progress.seconds, metrics)

    def evaluate(self, log: Log, save: Save, report: Report, stop: Callable[[], int]) -> None:
        progress = self.progress
        metrics = evaluate(self.eval_objective, self.data, "eval", self.shard, self.autocast, self.device, stop)
        metrics |= report(self.eval_objective.net, progress.step)
        value = monitored(self.config.monitor, metrics, self.objective.nll_unit is not None)
        progress.evaluated, progress.metrics = progress.step, metrics
        is_better = value is not None and value == value and (progress.best is None or value > progress.best)
        if is_better:
            progress.best, progress.since_best = value, 0
        elif value is not None:
            progress.since_best += 1
        if self.ended_by() and self.window.totals:  # the steps since the last line, fewer than log_every
            self.log(log)
        log.metrics("eval", progress.step, progress.seconds, metrics)
        if is_better:
            save("best")
