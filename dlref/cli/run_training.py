"""One training run, from a checked config to the last line: set up, fit, explain what goes wrong, finish.

Every rank runs this; rank 0 alone has the run directory and writes.
"""

import contextlib
import inspect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from dlref import build
from dlref.build import Model
from dlref.cli.arguments import in_shell
from dlref.cli.compose import first_line, flatten, resolved, split_key
from dlref.cli.recorded import command_line, in_shell_all
from dlref.cli.resume import Start, steps_in, take_up
from dlref.cli.run_reports import prepare_reports, run_reports
from dlref.config_check import OPTIONAL, path_settings, with_defaults
from dlref.errors import ConfigError, DataError
from dlref.interfaces import Data, HasSummary, Shard, declares
from dlref.optimizers.muon import Muon, iteration_dtype
from dlref.training import checkpoint_check, closed_form, distributed
from dlref.training.checkpoint import Checkpoints
from dlref.training.closed_form import ClosedForm, training_data
from dlref.training.config import TrainerConfig
from dlref.training.devices import idle_accelerator
from dlref.training.log import Log
from dlref.training.memory import peak_memory
from dlref.training.precision import HALF, notes
from dlref.training.run import RunFolder, about, new_folder
from dlref.training.state import own_state, shared_state, weights
from dlref.training.trainer import Trainer

SAVED_MEANWHILE = "another process trained in {} just now; give the command again, to resume from what it saved"
logger = logging.getLogger("dlref")


@dataclass
class Command:
    """What was typed, and the config that it composes."""

    config: dict[str, Any]
    overrides: list[str]
    config_dirs: Sequence[str]
    plugins: list[str]
    start: Start

    @property
    def typed(self) -> list[str]:
        """The keys of the settings that were typed."""
        return [split_key(text)[0] for text in self.overrides]


@dataclass
class Run:
    """A run that is set up: its model, what trains it, and its directory."""

    command: Command
    model: Model
    trainer: Trainer | ClosedForm
    facts: dict[str, Any]  # command, code and machine
    folder: Path
    home: RunFolder | None  # the folder as rank 0 has locked it


def run(command: Command, shard: Shard, device: torch.device) -> int:
    """Train; returns the exit code."""
    if command.config["threads"]:
        torch.set_num_threads(command.config["threads"])
    home, folder = open_together(command, shard, device)
    try:
        return fit(set_up(command, shard, device, folder, home))
    finally:
        if home:
            home.release()


def open_together(command: Command, shard: Shard, device: torch.device) -> tuple[RunFolder | None, Path]:
    """The run directory, locked by rank 0; raises ConfigError on every rank where it cannot be had."""
    start, home, failure = command.start, None, None
    if not distributed.all_succeeded(distributed.from_first(start.seen) == start.seen, device):
        failure = SAVED_MEANWHILE.format(start.folder)
    elif shard.rank == 0:
        try:
            home = open_run(start, command.config)
        except ConfigError as error:
            failure = str(error)
    failure = distributed.from_first(failure)
    if failure:
        raise ConfigError(failure)
    return home, Path(distributed.from_first(str(home.path) if home else ""))


def open_run(start: Start, config: Mapping[str, Any]) -> RunFolder:
    """The directory, locked: of the run to resume, the one that was typed, or a new one."""
    folder, checkpoint = start.folder, start.checkpoint
    if folder is None and config["run_dir"]:
        folder = Path(os.path.expanduser(config["run_dir"]))
    home = RunFolder(folder or new_folder(Path("runs") / config["name"]))
    try:
        if start.folder and steps_in(start.folder) != start.seen:  # the process that had locked it has saved
            raise ConfigError(SAVED_MEANWHILE.format(start.folder))
        if checkpoint is None and (home.path / "checkpoints").exists() and config["resume"] != "auto":
            raise ConfigError(
                f"{home.path} already holds a run; resume it with resume={home.path}, or choose another run_dir="
            )
        if checkpoint is None:
            written = [*home.path.glob("events.out.tfevents.*"), *home.path.glob("metrics.jsonl")]
            if written and not home.info():
                raise ConfigError(
                    f"{home.path} holds {written[0].name}, which no run of dlref wrote; choose another run_dir="
                )
            # A run has ended there before its first checkpoint.
            for old in [*written, *home.path.glob(".*.json*.*")]:
                home.remove(old)
    except ConfigError:
        home.release()
        raise
    return home


def set_up(command: Command, shard: Shard, device: torch.device, folder: Path, home: RunFolder | None) -> Run:
    """Build the model and what trains it; restore the checkpoint that the command resumes, if any."""
    config, plugins, checkpoint = command.config, command.plugins, command.start.checkpoint
    model = build.build(config, device, plugins)
    config = command.config = with_defaults(config, plugins, model.data.sizes)
    if plugins:  # dlref's own parts take a batch of no rows
        require_rows(config, model.data, shard.ranks)
    if not model.data.has("eval"):
        raise ConfigError(
            "the data keep nothing for eval; set data.eval_size or data.eval_share above 0, or bring a longer data.eval"
        )
    trainer = make_trainer(command, model, shard, device)
    # Dropout differs between the ranks; the weights do not.
    torch.manual_seed((config["seed"] * 1_000_003 + shard.rank) % 2**63)
    facts = about(device, command.overrides, plugins)
    if home:
        prepare_reports(model.reports, model.objective.net, model.data, device)
    if checkpoint is not None:
        take_up(checkpoint, trainer, config, facts, path_settings(config, plugins))
    return Run(command, model, trainer, facts, folder, home)


def make_trainer(command: Command, model: Model, shard: Shard, device: torch.device) -> Trainer | ClosedForm:
    """What trains the model: gradient steps, after what has a closed form is fitted; or a closed form alone."""
    objective, data = model.objective, model.data
    settings = TrainerConfig(**command.config["trainer"])
    if objective.closed_form:
        used = [f"trainer.{name}" for name in closed_form.USED]
        groups = (*OPTIONAL, "trainer")
        if unused := [key for key in command.typed if key.partition(".")[0] in groups and key not in used]:
            logger.warning(
                "%s is fitted in closed form and does not use %s", type(objective).__name__, ", ".join(unused)
            )
        return ClosedForm(settings, objective, data, shard, device)
    optimizer, schedule = build.build_optimizer(command.config, objective, command.plugins)
    settings = settings.limit_steps(lambda: data.batches_per_epoch)
    if command.start.checkpoint is None:
        objective.fit(training_data(data, objective.net, device))
    return Trainer(settings, objective, data, optimizer, schedule, shard, device)


def require_rows(config: Mapping[str, Any], data: Data, ranks: int) -> None:
    """Raise an error, alike on every rank, where one of them would have no row of a batch, or of the data."""
    parameter = inspect.signature(type(data)).parameters.get("batch_size")
    size = config["data"].get("batch_size", parameter and parameter.default)
    if ranks == 1 or not isinstance(size, int):
        return
    if size < ranks:
        raise ConfigError(f"data.batch_size is {size}: {size} rows for {ranks} ranks; raise it, or start fewer ranks")
    with contextlib.suppress(ConfigError):  # data from an environment have no number of rows
        if (rows := round(data.batches_per_epoch * size)) < ranks:
            raise DataError(f"the data have {rows} rows to train on for {ranks} ranks; start fewer, or bring more data")


def fit(run: Run) -> int:
    """Train the model of a run that is set up, unless it is finished; returns the exit code."""
    trainer = run.trainer
    checkpoints = Checkpoints(run.folder / "checkpoints", trainer.shard.rank, trainer.device)
    if run.home:
        checkpoints.forget_after(trainer.progress.step)
    if trainer.is_finished():
        say_finished(run)
        return 0
    if run.home:
        record_start(run, run.home)
        introduce(run)
    folder, step = run.folder if run.home else None, trainer.progress.step
    if isinstance(trainer, Trainer):
        log = Log(folder, step, trainer.config.max_steps, in_window=bool(trainer.window.totals))
    else:
        log = Log(folder, step, steps=1)
    recorder = Recorder(run, checkpoints, log)
    try:
        with explained(run):
            signal = trainer.fit(log, recorder.save, recorder.report, recorder.check)
        log.settings(
            hyperparameters(run.command.config),
            {f"eval/{name}": value for name, value in trainer.progress.metrics.items()},
        )
    finally:
        log.close()
    if run.home:
        finish(run, run.home, signal, recorder.texts)
    return 128 + signal if signal else 0


class Recorder:
    """Writes checkpoints, on all ranks together, and reports, on rank 0 alone, while a run trains."""

    def __init__(self, run: Run, checkpoints: Checkpoints, log: Log) -> None:
        self.run, self.checkpoints, self.log = run, checkpoints, log
        self.first_step = run.trainer.progress.step
        self.overrides = resolved(run.command.overrides, run.command.config)
        self.texts: dict[str, str] = {}  # of the last reports

    def manifest(self) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        run, data = self.run, self.run.model.data
        facts = ("versions", "hardware", "git_commit", "plugins", "threads", "cwd")
        return {
            "config": run.command.config,
            "overrides": self.overrides,
            "sizes": data.sizes,
            "data": data.describe(),
            "metrics": run.trainer.progress.metrics,
            "ranks": run.trainer.shard.ranks,
        } | {name: run.facts[name] for name in facts}

    def check(self) -> None:
        """Raise ConfigError where a checkpoint could not be saved and resumed."""
        checkpoint_check.require_savable(
            self.run.trainer, self.manifest, self.run.trainer.progress.step > self.first_step
        )

    def save(self, kind: str) -> None:
        """A checkpoint: the weights, and if it is the `last`, what training needs to continue."""
        trainer = self.run.trainer
        shared, own = {"weights.pt": weights(trainer.eval_objective)}, dict[str, Any]()
        manifest = {"kind": kind} | self.manifest()
        self.log.flush()  # what was logged before the checkpoint is on disk before it
        if kind == "last" and isinstance(trainer, Trainer):
            shared["training.pt"] = shared_state(trainer)
            own[f"rank-{trainer.shard.rank}.pt"] = own_state(trainer)
        self.checkpoints.save("best" if kind == "best" else "step", trainer.progress.step, manifest, own, shared)

    def report(self, net: nn.Module, step: int) -> dict[str, float]:
        """Run the cheap reports on rank 0; returns their metrics on every rank."""
        metrics: dict[str, float] = {}
        cheap = {name: report for name, report in self.run.model.reports.items() if report.while_training}
        if self.run.home and cheap:
            found = run_reports(cheap, net, self.run.model.data, "eval", self.run.trainer.device)
            self.log.findings("eval", step, found)
            metrics = found.metrics
            self.texts.update(found.texts)
        return distributed.from_first(metrics)


@contextlib.contextmanager
def explained(run: Run) -> Iterator[None]:
    """A context in which errors of parts that do not suit each other become a ConfigError that names them."""
    trainer, plugins, first_step = run.trainer, run.command.plugins, run.trainer.progress.step
    try:
        yield
    except (AttributeError, RuntimeError, TypeError, ValueError, LookupError) as error:
        if any(f"{kind} gradients" in str(error) for kind in ("sparse", "dense")) and isinstance(trainer, Trainer):
            raise ConfigError(
                f"optimizer {type(trainer.optimizer).__name__} does not suit this network's gradients ({str(error)[:100]}); "
                "choose optimizer=sgd_rows or row_adagrad for sparse ones and another for dense ones, or set "
                "network.sparse"
            ) from error
        if isinstance(error, KeyError) and error.args == ("loss",):
            raise ConfigError(
                f"objective {type(run.model.objective).__name__} gives no 'loss', which is what the trainer minimizes; have "
                "its forward return one"
            ) from error
        # Parts that cannot be combined fail in the first step. The author of a plug-in needs the place instead.
        compiled = isinstance(trainer, Trainer) and trainer.config.compile
        if plugins or compiled or trainer.shard.ranks > 1 or trainer.progress.step > first_step:
            raise
        raise unsuitable(run, error) from error


def unsuitable(run: Run, error: Exception) -> ConfigError:
    objective, trainer = run.model.objective, run.trainer
    parts = f"objective {type(objective).__name__}, network {type(objective.net).__name__} and data "
    parts += type(run.model.data).__name__
    doubt = ""
    if trainer.device.type != "cpu" or trainer.computes_in in HALF:
        doubt = "; try trainer.precision=float32 device=cpu: if that works, this machine lacks a kernel they need"
    return ConfigError(
        f"{parts} do not go together ({type(error).__name__}: {first_line(error)[:160]}); choose parts that do, as a model= "
        f"has them{doubt}"
    )


def say_finished(run: Run) -> None:
    remedy = "a fit in closed form has no further steps"
    if isinstance(run.trainer, Trainer):
        remedy = f"raise trainer.{run.trainer.ended_by()} to train on"
    logger.info("%s is finished at step %d; %s", run.folder, run.trainer.progress.step, remedy)


def record_start(run: Run, home: RunFolder) -> None:
    """config.yaml and run.json."""
    trainer, config = run.trainer, run.command.config
    if isinstance(trainer, ClosedForm) or not trainer.ended_by():
        home.remove(run.folder / "evaluation.json")  # of weights that are now trained further
    home.write("config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    step = trainer.progress.step or None
    home.record(**run.facts, ranks=trainer.shard.ranks, resumed_at=step, finished=False)


def introduce(run: Run) -> None:
    """A summary of the run, in a few lines."""
    trainer, data, config = run.trainer, run.model.data, run.command.config
    net, limits = run.model.objective.net, "fitted in closed form"
    if isinstance(trainer, Trainer):
        steps, seconds = trainer.config.max_steps, trainer.config.max_seconds
        limits = " or ".join(([f"{steps:,} steps"] if steps else []) + ([f"{seconds:g} s"] if seconds else []))
    taken = inspect.signature(type(net)).parameters
    sizes = ", ".join(f"{name} {size:,}" for name, size in data.sizes.items() if name in taken)
    parameters = sum(p.numel() for p in net.parameters())
    logger.info("%s: %s, %s parameters", config["name"], type(net).__name__, f"{parameters:,}")
    logger.info("data %s (%s), seed %d", type(data).__name__, sizes, config["seed"])
    for line in data.summary() if declares(data, HasSummary) else []:
        logger.info("  %s", line)
    logger.info("%s, %s, %s", trainer.device, trainer.computes_in, limits)
    if idle := idle_accelerator(trainer.device) if config["device"] == "auto" else None:
        logger.info("%s is available but not used; set device=%s to use it", idle, idle.partition(":")[0])
    for note in notes(trainer.computes_in, trainer.device, run.model.objective):
        logger.info("%s", note)
    if isinstance(trainer, Trainer) and isinstance(trainer.optimizer, Muon) and trainer.computes_in != "float64":
        logger.info("Muon orthogonalizes in %s", str(iteration_dtype(trainer.device)).removeprefix("torch."))
    if trainer.progress.step:
        logger.info("resuming at step %d", trainer.progress.step)
    groups = ("data", "network", "objective", "optimizer", "schedule", "trainer")
    changed = [key for key in run.command.typed if key.partition(".")[0] in groups and key != "data.root"]
    if config["goal"] and not changed:  # a goal is that of the settings as they are
        logger.info("to reach: %s", config["goal"])
    if isinstance(trainer, Trainer) and trainer.config.max_seconds:
        logger.info("limited by seconds, so another run of it does not repeat bit for bit")
    logger.info("writing to %s", run.folder)


def finish(run: Run, home: RunFolder, signal: int, texts: Mapping[str, str]) -> None:
    """Complete run.json; print the last reports' texts and the command that comes next."""
    trainer, data, command = run.trainer, run.model.data, run.command
    progress, is_finished = trainer.progress, trainer.is_finished()
    speed = trainer.units_per_step * progress.step / max(progress.seconds, 1e-9)
    home.record(
        step=progress.step,
        seconds=round(progress.seconds, 2),
        **{f"{data.unit}_per_second": round(speed, 1)},
        **peak_memory(trainer.device),
        metrics=progress.metrics,
        finished=is_finished,
        repeatable_bit_for_bit=trainer.repeats_bit_for_bit,
    )
    for text in texts.values():
        logger.info("%s", text)
    logger.info("%.1f s of training; written to %s", progress.seconds, run.folder)
    code = [text for text in command.overrides if split_key(text)[0] == "plugins"][-1:]
    folder = f"./{run.folder}" if str(run.folder).startswith("-") else str(run.folder)
    if is_finished or not signal:
        then = command_line("evaluate", [folder, *code])
    else:
        then = command_line("train", [f"resume={run.folder}", *code], command.config_dirs)
    logger.info("next: %s  ·  tensorboard --logdir %s", in_shell_all(then), in_shell(folder))


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """What runs are compared by: the class names of the parts, and their settings."""
    parts = {key: value for key, value in config.items() if isinstance(value, dict) and key != "reports"}
    flat = {key: value for key, value in flatten(parts | {"seed": config["seed"]}).items() if value is not None}
    return {
        key.removesuffix("._target_"): value.rpartition(".")[2] if key.endswith("._target_") else value
        for key, value in flat.items()
    }
