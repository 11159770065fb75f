"""The one training loop: minimise the total called `loss` over its count, whatever is learned from whatever data."""

import contextlib
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dlref.errors import ConfigError, DataError
from dlref.metrics import Totals, add, plain
from dlref.objectives import Objective
from dlref.signals import StopSignals
from dlref.training import devices, distributed, gradient_norm
from dlref.training.averaging import ExponentialAverage
from dlref.training.config import Settings
from dlref.training.evaluation import EvaluationStopped, evaluate
from dlref.training.log import Log
from dlref.training.precision import LossScale, autocast, resolve, run_in_float32
from dlref.training.progress import Progress, Window, monitored

Save = Callable[[str], None]  # "last" or "best"
Report = Callable[[nn.Module, int], dict[str, float]]  # of a network after a step


class Trainer(Settings):
    """Minimizes the objective's loss; each object trains one run."""

    def prepare(
        self, objective: Objective, data: Any, optimizer: Any, schedule: Any, shard: Any, device: torch.device
    ) -> None:
        """Take what is to be trained; then restore a checkpoint's state (`dlref.training.state`), or not, and `fit`."""
        self.objective, self.data, self.optimizer, self.schedule = objective, data, optimizer, schedule
        self.shard, self.device, self.progress = shard, device, Progress()
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.computes_in = distributed.agreed("precision", resolve(self.precision, device, objective))
        self.autocast = autocast(self.computes_in, device)
        run_in_float32(self.computes_in, device, objective)
        self.loss_scale = LossScale() if self.computes_in == "fp16" else None
        # A scale that is to be adapted, and sums over ranks, are read at each step anyway.
        self.window = Window(deferred=device.type != "cpu" and shard.ranks == 1 and not self.loss_scale)
        self.average = ExponentialAverage(objective, self.ema) if self.ema is not None else None

    @property
    def shown(self) -> Any:
        """The objective whose weights are evaluated and kept: the average, if there is one."""
        return self.average.module if self.average else self.objective

    def share_done(self, more: int = 0) -> float:
        """The fraction of the run that is done, with so many more steps."""
        steps, seconds = self.progress.step + more, self.progress.seconds
        return max(steps / (self.max_steps or math.inf), seconds / (self.max_seconds or math.inf))

    def ended(self) -> bool:
        return self.share_done() >= 1 or self.progress.since_best >= (self.patience or math.inf)

    def ended_by(self) -> str:
        """The name of the setting that ended it."""
        if self.progress.since_best >= (self.patience or math.inf):
            return "patience"
        return "max_steps" if self.progress.step >= (self.max_steps or math.inf) else "max_seconds"

    def due(self, every: int | None) -> bool:
        return every is not None and self.progress.step % every == 0

    def fit(self, log: Log, save: Save, report: Report, trial: Callable[[], None] = lambda: None) -> int:
        """Train to the end or to a signal, which is returned (0 for none). `trial` runs before and after the first step."""
        progress, began, saved = self.progress, self.progress.step, (self.progress.step, self.progress.evaluated)
        progress.step = progress.step or int(
            gradient_norm.none(self.objective)
        )  # a fit in closed form counts as a step
        self.compiler = devices.compile_in_place(self.objective, self.device) if self.compile else None
        model, stopped = distributed.parallel(self.objective), False
        batches = self.data.train_batches(self.objective.net, self.shard, progress.step * self.accumulate)
        self.objective.train()
        with StopSignals() as signals, devices.explained(), self.window.blamed():
            self.clock = time.perf_counter()
            while True:
                paused = time.perf_counter()
                if progress.step <= began + 1:
                    trial()
                if progress.evaluated < progress.step and not stopped and (self.ended() or self.due(self.eval_every)):
                    try:
                        self.evaluate(log, save, report, lambda: signals.received)
                    except EvaluationStopped:
                        stopped = True
                    except Exception as error:
                        # Of several ranks another one may not fail, and would not come to save.
                        if progress.step > saved[0] and (
                            self.shard.ranks == 1 or isinstance(error, ConfigError | DataError)
                        ):
                            save("last")
                        raise
                last = self.ended() or stopped
                if saved != (progress.step, progress.evaluated) and (last or self.due(self.save_every)):
                    save("last")
                    saved = (progress.step, progress.evaluated)
                if last:  # by a signal, if by one, that another rank may have received
                    return signals.received or (signal.SIGTERM if stopped else 0)
                self.clock += time.perf_counter() - paused
                stopped = self.step(model, batches, bool(signals.received))
                if stopped or self.ended() or any(map(self.due, (self.log_every, self.eval_every, self.save_every))):
                    self.read()
                if self.due(self.log_every):
                    self.log(log)
                    self.window.totals, progress.logged = {}, (progress.step, progress.seconds)  # the next window

    def step(self, model: nn.Module, batches: Any, stop: bool) -> bool:
        """One update from `accumulate` batches on every rank, and whether one of them is to stop.

        Raises DivergedError, weights untouched, if the loss or the gradient is not finite; a deferred window does so in `read`.
        """
        progress, loss_scale = self.progress, self.loss_scale.value if self.loss_scale else 1.0
        gradient_norm.clear(self.parameters)
        done, totals = self.share_done(), Totals()
        for left in reversed(range(self.accumulate)):
            with distributed.apart(model) if left else contextlib.nullcontext():
                with self.autocast():
                    part: Totals = model(next(batches))
                total = torch.as_tensor(part["loss"].total)
                total.backward(torch.full_like(total, loss_scale / progress.count))
            totals = add(totals, self.window.take(part))
        now, compiled = time.perf_counter(), self.compiler.take() if self.compiler else 0.0
        totals, (stops, seconds) = distributed.sum_over_ranks(totals, float(stop), now - self.clock - compiled)
        progress.seconds += seconds / self.shard.ranks  # all ranks follow one clock
        self.clock = now
        factor = self.schedule(done, self.share_done(1))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        gradient = gradient_norm.values(self.parameters)
        # The ranks' gradients of summed losses were averaged: times the ranks, over the count, is that of the mean. They
        # were divided beforehand by the count of the step before, mostly the same, so that nothing is left to scale.
        count = max(int(totals["loss"].count), 1)
        scale = self.shard.ranks * progress.count / count / loss_scale
        norm = (gradient_norm.norm_on_device if self.window.deferred else gradient_norm.norm)(gradient) * scale
        figures = {"lr": self.rates[0] * factor, "grad_norm": norm}
        figures |= {"loss_scale": loss_scale} if self.loss_scale else {}
        # A gradient that overflowed float16 is skipped; its step and its batches count as used.
        overflowed = self.loss_scale is not None and self.loss_scale.overflowed(totals["loss"].value, norm)
        self.window.add(progress.step + 1, totals, figures, overflowed)
        if not overflowed:
            gradient_norm.scale_(gradient, scale * gradient_norm.clip_factor(norm, self.clip_norm))
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
        progress, units = self.progress, self.data.units_per_batch(self.shard.ranks) * self.accumulate
        steps, seconds = progress.step - progress.logged[0], progress.seconds - progress.logged[1]
        figures = plain(self.objective.summarize(self.window.totals)) | self.window.last
        figures |= {f"{self.data.unit}_per_second": units * steps / max(seconds, 1e-9)}
        log.figures("train", progress.step, progress.seconds, figures)

    def evaluate(self, log: Log, save: Save, report: Report, stop: Callable[[], int]) -> None:
        progress = self.progress
        figures = evaluate(self.shown, self.data, "eval", self.shard, self.autocast, self.device, stop)
        figures |= report(self.shown.net, progress.step)
        value = monitored(self.monitor, figures, self.objective.nll_unit is not None)
        progress.evaluated, progress.figures = progress.step, figures
        better = value is not None and value == value and (progress.best is None or value > progress.best)
        if better:
            progress.best, progress.since_best = value, 0
        elif value is not None:
            progress.since_best += 1
        if self.ended() and self.window.totals:  # of the last steps, fewer than log_every
            self.log(log)
        log.figures("eval", progress.step, progress.seconds, figures)
        if better:
            save("best")
