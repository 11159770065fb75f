"""dlref train: compose, build or restore, train, and leave a run directory that says what happened."""

import contextlib
import inspect
import logging
import os
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dlref.cli.arguments import Parser, add_config_dir, in_shell
from dlref.cli.completion import config_keys
from dlref.cli.compose import (
    config_dir,
    configs_folder,
    configured,
    first_line,
    flatten,
    groups,
    job_override,
    load_plugins,
    plugin_files,
    require_text,
    resolved,
    searched,
    split_key,
    sweep_override,
    typed_places,
)
from dlref.cli.main import configure_logging, exit_code_of
from dlref.cli.recorded import NO_PATHS, command_line, in_shell_all
from dlref.cli.resume import Start, resumed, steps_in, take_up, to_resume
from dlref.cli.values import require_decoded
from dlref.errors import ConfigError, DataError

SETTINGS = """settings:
  model=mlp data=mnist          select whole systems and exchange their parts; dlref list names them
  network.widths=[200,100]      a setting of the network, optimizer, data, objective, schedule or trainer
  seed=1 device=cuda threads=2  settings of every run
  plugins=my.py                 your own classes, for _target_"""
WENT_ON = "another process trained in {} just now; give the command again, to go on from what it saved"
FITTED_AT_ONCE = 2**20  # tokens
logger = logging.getLogger("dlref")


def add_arguments(parser: Parser) -> None:
    parser.add_settings(config_keys, "see below")
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="several runs, one for each combination of values, by Hydra's launchers",
    )
    parser.add_argument("--cfg", choices=["job"], help="print the config and stop")
    add_config_dir(parser)
    parser.add_argument(
        NO_PATHS, action="store_true", help="with resume=, read no data file that only the checkpoint names"
    )
    parser.epilog = f"""{SETTINGS}
  run_dir=DIR                   where to write; default runs/<name>/<time>-<random>
  resume=RUN  or  resume=auto   resume a run, bit for bit; auto: the one in run_dir, if it holds a checkpoint

examples:
  dlref train model=mlp network.widths=[200,200] optimizer.lr=3e-3
  dlref train experiment=mlp_mnist_fast trainer.max_steps=500 run_dir=runs/first
  dlref train resume=runs/first trainer.max_steps=1000
  dlref train -m model=mlp seed=0,1,2"""


def main(arguments: Namespace) -> int:
    overrides, config_dirs = arguments.settings, arguments.config_dir
    if arguments.multirun:
        return sweep(overrides, config_dirs, not arguments.no_recorded_paths)
    if arguments.cfg:
        import yaml

        config = config_of(overrides, config_dirs, not arguments.no_recorded_paths)[3]
        print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")
        return 0
    return train(overrides, config_dirs, not arguments.no_recorded_paths)


def sweep(overrides: Sequence[str], config_dirs: Sequence[str], recorded: bool) -> int:
    """Hand `-m` to Hydra: its grammar of sweeps, and whichever launcher is selected.

    `hydra.main` would do the same, but parses the command line with a parser that Python 3.14 refuses (Hydra 1.3.8).
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    starter = os.getpid()

    def job(_: Any) -> None:
        logger.disabled = False  # which setting up Hydra's own logging leaves so
        configure_logging()  # a launcher may have started this process
        task: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
        typed = [job_override(text) for text in task]
        if code := exit_code_of(lambda: train(typed, config_dirs, recorded)):
            if os.getpid() == starter:
                sys.exit(code)  # which ends the sweep
            raise FailedJobError(code)

    folders = [configs_folder(), *map(config_dir, config_dirs)]
    known = groups(folders)
    require_text(overrides)
    for text in overrides:  # which travel through Hydra
        require_decoded(text)
    spelled = [*searched(folders[1:]), *(sweep_override(text, known) for text in overrides), "hydra.mode=MULTIRUN"]
    with initialize_config_dir(str(folders[0]), job_name="train", version_base="1.3"):
        try:
            GlobalHydra.instance().hydra.multirun("train", job, spelled)  # type: ignore[union-attr] # initialized above
        except FailedJobError as failed:
            return int(failed.args[0])
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(
                f"the sweep does not fit: {first_line(error)[:400]} (typed: {' '.join(overrides)[:400]})"
            ) from None
    return 0


class FailedJobError(Exception):
    """A job in a process of its own has ended with this exit code, and said why."""


def train(overrides: list[str], config_dirs: Sequence[str] = (), recorded: bool = True) -> int:
    """One run; the exit code. `recorded`: whether data paths that a checkpoint has recorded are used again."""
    from dlref.training import distributed

    rank, local_rank, ranks = distributed.launched(os.environ)
    start, plugins, overrides, config = config_of(overrides, config_dirs, recorded)

    from dlref.interfaces import Shard
    from dlref.training import devices, memory

    device = devices.choose_device(config["device"], local_rank)
    memory.keep_memory()
    with distributed.group(ranks, device), devices.explained(), devices.flushed():
        return run(config, overrides, config_dirs, plugins, start, Shard(rank, ranks), device)


def config_of(
    overrides: list[str], config_dirs: Sequence[str], recorded: bool
) -> tuple[Start, list[str], list[str], dict[str, Any]]:
    """Where a run with these overrides begins, its plug-ins, its overrides with those that it resumes, and its config."""
    start = to_resume(typed_places(overrides))
    plugins = load_plugins(plugin_files(overrides))
    if start.checkpoint is None:
        return start, plugins, overrides, configured(overrides, config_dirs, plugins)
    checkpoint, overrides, config = resumed(start.checkpoint, overrides, config_dirs, plugins, recorded)
    return start._replace(checkpoint=checkpoint), plugins, overrides, config


def run(
    config: dict[str, Any],
    overrides: list[str],
    config_dirs: Sequence[str],
    plugins: list[str],
    start: Start,
    shard: Any,
    device: Any,
) -> int:
    """Everything between a checked config and the last line; every rank runs it, rank 0 writes."""
    import torch

    from dlref import build
    from dlref.cli.run_reports import prepare_reports, run_reports
    from dlref.config_check import path_settings, with_defaults
    from dlref.training import distributed, gradient_norm
    from dlref.training.checkpoint import Checkpoints
    from dlref.training.checkpoint_check import require_savable
    from dlref.training.log import Log
    from dlref.training.memory import peak_memory
    from dlref.training.run import RunFolder, about, new_folder
    from dlref.training.state import own_state, shared_state, weights

    if config["threads"]:
        torch.set_num_threads(config["threads"])
    checkpoint, home = start.checkpoint, None
    alike = distributed.all_succeeded(distributed.from_first(start.seen) == start.seen, device)
    failure = None if alike else WENT_ON.format(start.folder)
    if shard.rank == 0 and alike:
        try:
            home = open_run(start, config, RunFolder, new_folder)
        except ConfigError as error:
            failure = str(error)
    failure = distributed.from_first(failure)
    if failure:
        raise ConfigError(failure)
    folder = Path(distributed.from_first(str(home.path) if home else ""))
    try:
        model = build.build(config, device, plugins)
        objective, data = model.objective, model.data
        config = with_defaults(config, plugins, data.sizes)
        if plugins:  # dlref's own parts take a batch of no rows
            require_rows(config, data, shard.ranks)
        if not data.has("eval"):
            raise ConfigError(
                "the data keep nothing for eval; set data.eval_size or data.eval_share above 0, or bring a longer data.eval"
            )
        optimizer, schedule, trainer = build.build_trainer(config, objective, plugins)
        trainer.limit_steps(lambda: data.batches_per_epoch)
        clock = time.perf_counter()
        if checkpoint is None:
            objective.fit(training_set(data, objective.net, device))
        fitted = time.perf_counter() - clock
        trainer.prepare(objective, data, optimizer, schedule, shard, device)
        if gradient_norm.none(objective):  # so that was the training
            trainer.progress.seconds = fitted
        torch.manual_seed(
            (config["seed"] * 1_000_003 + shard.rank) % 2**63
        )  # dropout differs by rank; the weights do not
        checkpoints = Checkpoints(folder / "checkpoints", shard.rank, device)
        facts = about(device, overrides, plugins)
        if home:
            prepare_reports(model.reports, objective.net, data, device)
        if checkpoint is not None:
            take_up(checkpoint, trainer, config, facts, path_settings(config, plugins))
        if home:
            checkpoints.forget_after(trainer.progress.step)
        if trainer.ended() and trainer.progress.evaluated == trainer.progress.step:
            way = f"raise trainer.{trainer.ended_by()} to train on"
            if gradient_norm.none(objective):
                way = "what is fitted at once takes no more steps"
            logger.info("%s is finished at step %d; %s", folder, trainer.progress.step, way)
            return 0
        if home:
            import yaml

            if not trainer.ended():
                home.remove(folder / "evaluation.json")  # of weights that are now trained on
            home.write("config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
            home.record(**facts, ranks=shard.ranks, resumed_at=trainer.progress.step or None, finished=False)
            introduce(config, objective, data, trainer, folder, [split_key(text)[0] for text in overrides])
        within = bool(trainer.window.totals)
        log = Log(folder if home else None, trainer.progress.step, trainer.max_steps, in_window=within)

        settings = resolved(overrides, config)

        def manifest() -> dict[str, Any]:
            said = {"config": config, "overrides": settings, "sizes": data.sizes, "data": data.describe()}
            said |= {"metrics": trainer.progress.figures, "ranks": shard.ranks}
            return said | {
                name: facts[name] for name in ("versions", "hardware", "git_commit", "plugins", "threads", "cwd")
            }

        def save(kind: str) -> None:
            common, about_it = {"weights.pt": weights(trainer.shown)}, {"kind": kind} | manifest()
            log.flush()  # whoever finds the checkpoint finds what was logged before it
            if kind == "best":
                checkpoints.save("best", trainer.progress.step, about_it, {}, common)
            else:
                common["training.pt"] = shared_state(trainer)
                checkpoints.save(
                    "step", trainer.progress.step, about_it, {f"rank-{shard.rank}.pt": own_state(trainer)}, common
                )

        def trial() -> None:
            require_savable(trainer, manifest, trainer.progress.step > began + gradient_norm.none(objective))

        texts: dict[str, str] = {}  # of the last reports

        def report(net: Any, step: int) -> dict[str, float]:
            figures: dict[str, float] = {}
            if home and (cheap := {name: r for name, r in model.reports.items() if r.while_training}):
                found = run_reports(cheap, net, data, "eval", device)
                log.findings("eval", step, found)
                figures = found.metrics
                texts.update(found.texts)
            return distributed.from_first(figures)

        began = trainer.progress.step
        try:
            if began == 0:
                report(trainer.shown.net, 0)  # what there was before training
            signal = trainer.fit(log, save, report, trial)
            if home:
                results = {f"eval/{name}": value for name, value in trainer.progress.figures.items()}
                log.settings(hyper_parameters(config), results)
        except AttributeError as error:
            if not is_batch(error, objective):
                if plugins or error.obj is not objective.net:
                    raise
                raise unsuitable(objective, data, error, trainer) from error
            fields = ", ".join(inspect.get_annotations(type(error.obj))) or f"a {type(error.obj).__name__}"
            raise ConfigError(
                f"objective {type(objective).__name__} reads '{error.name}' of a batch, which data {type(data).__name__} do "
                f"not give (they give {fields}); choose ones that suit each other"
            ) from error
        except (RuntimeError, TypeError, ValueError, LookupError) as error:
            if any(f"{kind} gradients" in str(error) for kind in ("sparse", "dense")):
                raise ConfigError(
                    f"optimizer {type(optimizer).__name__} does not suit this network's gradients ({str(error)[:100]}); "
                    "choose optimizer=sgd_rows or row_adagrad for sparse ones and another for dense ones, or set "
                    "network.sparse"
                ) from error
            if isinstance(error, KeyError) and error.args == ("loss",):
                raise ConfigError(
                    f"objective {type(objective).__name__} gives no 'loss', which is what the trainer minimizes; have its "
                    "forward return one"
                ) from error
            # Parts that cannot be combined fail at once; a plug-in's author wants to know where.
            later = trainer.progress.step > began + gradient_norm.none(objective)
            if plugins or trainer.compile or shard.ranks > 1 or later:
                raise
            raise unsuitable(objective, data, error, trainer) from error
        finally:
            log.close()
        if home:
            progress = trainer.progress
            finished = trainer.ended() and progress.evaluated == progress.step
            units = data.units_per_batch(shard.ranks) * trainer.accumulate * progress.step
            if gradient_norm.none(objective):  # one look at everything
                units *= data.batches_per_epoch
            speed = units / max(progress.seconds, 1e-9)
            home.record(
                step=progress.step,
                seconds=round(progress.seconds, 2),
                **{f"{data.unit}_per_second": round(speed, 1)},
                **peak_memory(device),
                metrics=progress.figures,
                finished=finished,
                repeatable_bit_for_bit=trainer.max_seconds is None and not trainer.compile and device.type == "cpu",
            )
            for text in texts.values():
                logger.info("%s", text)
            logger.info("%.1f s of training; written to %s", progress.seconds, folder)
            code = [text for text in overrides if split_key(text)[0] == "plugins"][-1:]
            named = f"./{folder}" if str(folder).startswith("-") else str(folder)
            if finished or not signal:
                again = command_line("evaluate", [named, *code])
            else:
                again = command_line("train", [f"resume={folder}", *code], config_dirs)
            logger.info("next: %s  ·  tensorboard --logdir %s", in_shell_all(again), in_shell(named))
        return 128 + signal if signal else 0
    finally:
        if home:
            home.release()


def open_run(start: Start, config: dict[str, Any], RunFolder: Any, new_folder: Any) -> Any:
    """This run's directory, locked: the one to go on in, the one that was named, or a new one."""
    folder, checkpoint = start.folder, start.checkpoint
    if folder is None and config["run_dir"]:
        folder = Path(os.path.expanduser(config["run_dir"]))
    home = RunFolder(folder or new_folder(Path("runs") / config["name"]))
    if start.folder and steps_in(start.folder) != start.seen:  # who held it until now has saved
        home.release()
        raise ConfigError(WENT_ON.format(start.folder))
    if checkpoint is None and (home.path / "checkpoints").exists() and config["resume"] != "auto":
        home.release()
        raise ConfigError(f"{home.path} already holds a run; go on with resume={home.path}, or choose another run_dir=")
    if checkpoint is None:
        written = [*home.path.glob("events.out.tfevents.*"), *home.path.glob("metrics.jsonl")]
        if written and not home.info():
            home.release()
            raise ConfigError(
                f"{home.path} holds {written[0].name}, which no run of dlref wrote; choose another run_dir="
            )
        # Left by a life that ended before its first checkpoint.
        for old in [*written, *home.path.glob(".*.json*.*")]:
            home.remove(old)
    return home


def training_set(data: Any, net: Any, device: Any) -> Iterable[Any]:
    """All training data once, for `Objective.fit`: a text in consecutive parts, whatever its batches are; else the batches."""
    from dlref.interfaces import Shard, TokenizedText, declares

    if not declares(data, TokenizedText):
        return data.batches("train", net, Shard())
    return (part.to(device) for part in data.split("train").split(FITTED_AT_ONCE))


def require_rows(config: dict[str, Any], data: Any, ranks: int) -> None:
    """Raise ConfigError, alike on every rank, where one of them would have no row of a batch, or of the data."""
    parameter = inspect.signature(type(data)).parameters.get("batch_size")
    size = config["data"].get("batch_size", parameter and parameter.default)
    if ranks == 1 or not isinstance(size, int):
        return
    if size < ranks:
        raise ConfigError(f"data.batch_size is {size}: {size} rows for {ranks} ranks; raise it, or start fewer ranks")
    with contextlib.suppress(ConfigError):  # play has no number of rows
        if (rows := round(data.batches_per_epoch * size)) < ranks:
            raise DataError(f"the data have {rows} rows to train on for {ranks} ranks; start fewer, or bring more data")


def is_batch(error: AttributeError, objective: Any) -> bool:
    """Whether the object that lacks an attribute is the batch that the objective was called with."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code, given = frame.f_code, frame.f_locals
        if code.co_name == "forward" and code.co_argcount > 1 and given.get(code.co_varnames[0]) is objective:
            return given.get(code.co_varnames[1]) is error.obj
    return False


def unsuitable(objective: Any, data: Any, error: Exception, trainer: Any) -> ConfigError:
    from dlref.training.precision import HALF

    parts = (
        f"objective {type(objective).__name__}, network {type(objective.net).__name__} and data {type(data).__name__}"
    )
    reason = f"{type(error).__name__}: {first_line(error)[:160]}"
    doubt = ""
    if trainer.device.type != "cpu" or trainer.computes_in in HALF:
        doubt = "; try trainer.precision=float32 device=cpu: if that works, this machine lacks a kernel they need"
    return ConfigError(f"{parts} do not go together ({reason}); choose parts that do, as a model= has them{doubt}")


def hyper_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """What runs are compared by: the classes of the parts by their short names, and their settings."""
    parts = {key: value for key, value in config.items() if isinstance(value, dict) and key != "reports"}
    flat = {key: value for key, value in flatten(parts | {"seed": config["seed"]}).items() if value is not None}
    return {
        k.removesuffix("._target_"): v.rpartition(".")[2] if k.endswith("._target_") else v for k, v in flat.items()
    }


def introduce(
    config: dict[str, Any], objective: Any, data: Any, trainer: Any, folder: Path, typed: Sequence[str]
) -> None:
    """What is about to happen, in a few lines."""
    from dlref.interfaces import HasSummary, declares
    from dlref.optimizers.muon import Muon, iteration_dtype
    from dlref.training.devices import idle_accelerator
    from dlref.training.precision import notes

    parameters = sum(p.numel() for p in objective.net.parameters())
    limits = [
        f"{trainer.max_steps:,} steps" if trainer.max_steps else "",
        f"{trainer.max_seconds:g} s" if trainer.max_seconds else "",
    ]
    taken = inspect.signature(type(objective.net)).parameters
    sizes = ", ".join(f"{name} {size:,}" for name, size in data.sizes.items() if name in taken)
    precision = trainer.computes_in
    logger.info("%s: %s, %s parameters", config["name"], type(objective.net).__name__, f"{parameters:,}")
    logger.info("data %s (%s), seed %d", type(data).__name__, sizes, config["seed"])
    for line in data.summary() if declares(data, HasSummary) else []:
        logger.info("  %s", line)
    logger.info("%s, %s, %s", trainer.device, precision, " or ".join(limit for limit in limits if limit))
    if idle := idle_accelerator(trainer.device) if config["device"] == "auto" else None:
        logger.info("%s is available but not used; set device=%s to use it", idle, idle.partition(":")[0])
    for note in notes(precision, trainer.device, objective):
        logger.info("%s", note)
    if isinstance(trainer.optimizer, Muon) and precision != "float64":
        logger.info("Muon orthogonalizes in %s", str(iteration_dtype(trainer.device)).removeprefix("torch."))
    if trainer.progress.step:
        logger.info("going on at step %d", trainer.progress.step)
    parts = ("data", "network", "objective", "optimizer", "schedule", "trainer")
    if config["goal"] and not any(key.partition(".")[0] in parts and key != "data.root" for key in typed):
        logger.info("to reach: %s", config["goal"])  # as it stands; with other settings nobody knows
    if trainer.max_seconds:
        logger.info("limited by seconds, so another run of it does not repeat bit for bit")
    logger.info("writing to %s", folder)
