"""dlref evaluate: the metrics and all reports of a trained model, on screen and in its run directory."""

import contextlib
import json
import logging
import math
from argparse import Namespace
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from dlref.cli.arguments import Parser, add_run
from dlref.cli.compose import flatten, hint, load_plugins, plugin_files, split_key, typed_value
from dlref.cli.recorded import (
    NO_PATHS,
    checked,
    command_line,
    found_again,
    in_shell_all,
    say_used,
    typed_again,
    untyped,
    within,
)
from dlref.cli.values import spell
from dlref.errors import CheckpointError, ConfigError, DataError, brief, did_you_mean
from dlref.filesystem import file_name

SPLITS = ("train", "eval", "test")
SETTINGS = (
    "data.root",
    "device",
    "threads",
    "trainer.precision",
    "seed",
    "reports",
    "plugins",
)  # that completion offers
UNBUILT = ("optimizer", "schedule")  # in evaluation
OPEN = ("data", "device", "threads", "trainer.precision", "seed", "reports")
LEARNED = {  # by the data from their training split, and what it is called
    "vocabulary": "vocabulary",
    "source": "vocabulary",
    "target": "vocabulary",
    "columns": "mean, std or values of its columns",
    "targets": "mean, std or values of its targets",
    "classes": "list of classes",
    "mean": "mean of its pixels",
    "std": "standard deviation of its pixels",
    "permutation": "order of the pixels",
}

logger = logging.getLogger("dlref")


def add_arguments(parser: Parser) -> None:
    add_run(parser)
    parser.add_settings(lambda _: SETTINGS, "a setting that differs from training, see below")
    parser.add_argument("--split", choices=SPLITS, help="default test, or eval where there is no test split")
    parser.add_argument(NO_PATHS, action="store_true", help="read no data file that only the checkpoint names")
    parser.epilog = """settings:
  data.root=DIR         and other settings of the data
  device=cuda threads=2 trainer.precision=float32
  seed=1                of data that are generated
  reports=null          no reports; reports.NAME.KEY=VALUE sets what a report takes
  plugins=my.py         your own code, if the model was trained with it

examples:
  dlref evaluate RUN
  dlref evaluate RUN/checkpoints/last --split eval data.root=datasets"""


def main(arguments: Namespace) -> int:
    if others := [word for word in arguments.settings if "=" not in word]:
        raise ConfigError(
            f"'{brief(others[0])}' is not key=value; dlref evaluate takes one run or checkpoint, and settings after it"
        )
    return evaluate(arguments.run, arguments.settings, arguments.split, not arguments.no_recorded_paths)


def evaluate(path: str, settings: list[str], split: str | None = None, recorded: bool = True) -> int:
    """Evaluate one checkpoint on a split, by default the test split if there is one; the exit code.

    `recorded`: whether the data paths that the checkpoint has recorded are read.
    """
    from dlref.cli.run_reports import run_reports
    from dlref.interfaces import Shard
    from dlref.training import devices
    from dlref.training.checkpoint import find
    from dlref.training.evaluation import evaluate as evaluate_split
    from dlref.training.precision import autocast, resolve, run_in_float32
    from dlref.training.run import warn_of_other_plugins

    checkpoint = find(path)
    command = command_line("evaluate", [path, *settings, *(["--split", split] if split else [])], recorded=recorded)
    with code_named(checkpoint, command):
        plugins = load_plugins(plugin_files(settings))
        checkpoint = checked(checkpoint, plugins)
        config, own = amended(checkpoint, command, settings, recorded, plugins)
    warn_of_other_plugins(checkpoint.manifest, plugins)
    import torch

    if config["threads"]:
        torch.set_num_threads(config["threads"])
    device = devices.choose_device(config["device"])
    devices.make_current(device)
    with code_named(checkpoint, command):
        model = fitted_as_typed(checkpoint, config, own, device, plugins)
    if split is None:
        split = "test" if model.data.has("test") else "eval"
        if split == "eval":
            logger.info("this data has no test split, so these are the metrics of eval")

    precision = resolve(config["trainer"].get("precision", "auto"), device, model.objective)
    run_in_float32(precision, device, model.objective)
    with devices.explained():
        metrics = evaluate_split(model.objective, model.data, split, Shard(), autocast(precision, device), device)
        found = run_reports(model.reports, model.objective.net, model.data, split, device, full_split=True)
    metrics |= found.metrics
    run = checkpoint.path.parents[1] if checkpoint.path.parent.name == "checkpoints" else checkpoint.path
    print(f"{checkpoint.path.relative_to(run.parent)}, step {checkpoint.step}, {split}:")
    width = max(map(len, metrics), default=0)
    for name, value in metrics.items():
        print(f"  {name:<{width}}  {value:.6g}")
    for text in found.texts.values():
        print(text)
    keep(run, checkpoint, split, config["seed"], metrics, found)
    return 0


def fitted_as_typed(
    checkpoint: Any, config: dict[str, Any], own: dict[str, Any], device: Any, plugins: Sequence[str]
) -> Any:
    """The model of `config`; raises ConfigError naming what was typed where the checkpoint's `own` one is sound."""
    from dlref.training.checkpoint import as_data

    if config == own:
        return fitted(checkpoint, config, device, plugins, as_data(checkpoint))
    try:
        return fitted(checkpoint, config, device, plugins)
    except (CheckpointError, ConfigError, DataError) as error:
        fitted(checkpoint, own, device, plugins, as_data(checkpoint))
        then, now = flatten(own), flatten(config)
        typed = [key for key in now if key not in ("device", "threads") and now[key] != then.get(key)]
        if not typed or any(key in str(error) for key in typed):
            raise ConfigError(str(error)) from error
        changes = ", ".join(f"{key}={brief(spell(now[key]))}" for key in typed)
        raise ConfigError(f"{changes} does not suit this model: {error}") from error


def fitted(checkpoint: Any, config: dict[str, Any], device: Any, plugins: Sequence[str], at_fault: Any = None) -> Any:
    """The model of a config with the weights of the checkpoint, built within the context `at_fault`."""
    from dlref import build
    from dlref.config_check import path_settings
    from dlref.interfaces import FixedContext, declares
    from dlref.training import devices
    from dlref.training.state import load_weights

    with at_fault or contextlib.nullcontext(), devices.explained():
        model = build.build(config, device, plugins)
    trained, wanted = (sizes.get("context") for sizes in (checkpoint.manifest["sizes"], model.data.sizes))
    # Of positions that are computed a longer context would tell nothing.
    if declares(model.objective.net, FixedContext) and trained and wanted and wanted > trained:
        raise ConfigError(
            f"data.seq_len is {wanted:,}, and the network was trained to see {trained:,} tokens; take these or fewer"
        )
    require_held_out(model.data, checkpoint.manifest["config"], config, path_settings(config, plugins))
    load_weights(model.objective, checkpoint.read("weights.pt"), str(checkpoint.path))
    described, here = checkpoint.manifest["data"], model.data.describe()
    checkpoint.require_described(here)
    if other := [name for name in LEARNED if not alike(described.get(name), here.get(name))]:
        raise CheckpointError(
            f"{checkpoint.path} was trained with another {LEARNED[other[0]]} than these data have; bring its own data, and "
            "have others read by dlref predict, translate or generate"
        )
    return model


@contextlib.contextmanager
def code_named(checkpoint: Any, command: Sequence[str]) -> Iterator[None]:
    """Where a checkpoint lacks the plug-ins that it was trained with, the error ends with the command that brings them."""
    try:
        yield
    except CheckpointError as error:
        code = checkpoint.manifest["config"].get("plugins")
        if not code or plugin_files(command):
            raise
        again = f"plugins={spell(code)}"
        raise CheckpointError(
            f"{error}; it was trained with {again}, code that a checkpoint may not bring: if you trust it, type "
            f"{in_shell_all([*command, again])}"
        ) from error


def amended(
    checkpoint: Any, command: Sequence[str], settings: Sequence[str], recorded: bool, plugins: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The checkpoint's config with what was typed on top, and the same with no more than typed paths.

    Code is the command line's alone, and so are places on this machine, except data files that are `recorded` and found
    again.
    """
    from dlref.config_check import at, normalized, path_settings, without_defaults

    typed = {split_key(text)[0]: text for text in settings}
    typed.pop("plugins", None)
    missing = dict[str, Any]()
    config = dict(checkpoint.manifest["config"])
    places = path_settings(config, plugins)
    open_keys = {*OPEN, *(place for place in places if "." in place)}  # paths of other groups too are this machine's
    for key in typed:
        if not within(key, open_keys) or key == "data":
            raise ConfigError(f"{key} cannot be changed in evaluation{did_you_mean(key, known(config))}")
    for place in sorted(places):
        group, _, name = place.rpartition(".")
        if not group:
            config[name] = [] if name == "plugins" else None
        elif group not in UNBUILT and (then := at(config, place)):
            then = untyped(place, then, typed)
            found = found_again(then, checkpoint.manifest.get("cwd")) if recorded and group == "data" else None
            put(config, group, {key: value for key, value in at(config, group).items() if key != name})
            if found:
                put(config, place, found)
                say_used(place, found)
            elif then and place != "data.root":  # which has a default, and the files in it a hash
                missing[place] = then
    if missing:
        raise ConfigError(f"this model was trained with {typed_again(command, missing, recorded)}")
    own = config
    for key in sorted(typed, key=lambda key: (not within(key, places), key)):  # a part of a setting after the whole
        if not within(key, places):
            config = dict(config) if config is own else config
        if key.endswith("._target_") and (section := at(config, group := key.removesuffix("._target_"))):
            put(config, group, without_defaults(section, group, plugins))  # the other class has its own
        put(config, key, typed_value(typed[key], hint(config, key, plugins)))
    return normalized(config, plugins), normalized(own, plugins)


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested sections, each of which is copied."""
    *sections, name = key.split(".")
    for section in sections:
        inner = config.get(section)
        config[section] = dict(inner) if isinstance(inner, dict) else {}
        config = config[section]
    config[name] = value


def require_held_out(data: Any, trained: dict[str, Any], config: dict[str, Any], files: Collection[str]) -> None:
    """Raise ConfigError for settings by which rows that were trained on would be evaluated as held out; some name `files`."""
    from dlref.config_check import at
    from dlref.interfaces import HeldOut, declares

    for name in data.split_settings if declares(data, HeldOut) else ():
        key = name if name == "seed" else f"data.{name}"
        then, now = (at(c, key) for c in (trained, config))
        if key in files:  # another copy of a file holds out the same rows
            then, now = ("a file" if value else "no file" for value in (then, now))
        if then != now:
            raise ConfigError(
                f"{key} was {then} in training and is {now}, which may hold out rows that were trained on; leave it out"
            )


def alike(one: Any, other: Any, near: float = 1e-9) -> bool:
    """Whether two descriptions say the same; another machine may sum up means to other last digits."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=near)
    if isinstance(one, dict) and isinstance(other, dict):
        std = one.get("std")  # by which a mean that is almost 0 is measured, in whatever units
        near = 1e-9 * abs(std) if isinstance(std, float) else near
        return one.keys() == other.keys() and all(alike(one[key], other[key], near) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def known(config: dict[str, Any]) -> list[str]:
    names = [key for key in flatten(config) if key.startswith(("data.", "reports.")) and not key.endswith("_target_")]
    return ["plugins", *OPEN, *names]


def save_plot(name: str, figure: Any, file: Path) -> bool:
    """Write a plot, and whether matplotlib could draw it; if not, a warning is logged."""
    try:
        figure.savefig(file, dpi=120)
    except OSError:
        raise
    except Exception as error:
        file.unlink(missing_ok=True)
        logger.warning("picture %s cannot be drawn (%s: %s)", name, type(error).__name__, brief(error))
        return False
    return True


def keep(run: Path, checkpoint: Any, split: str, seed: int, metrics: dict[str, float], found: Any) -> None:
    """evaluation.json, pictures/, TensorBoard and metrics.jsonl; a run that another process holds gets only the files."""
    from dlref.training.checkpoint import write_whole
    from dlref.training.log import Log
    from dlref.training.run import RunFolder

    finite = {name: value for name, value in metrics.items() if value == value}
    result = {"checkpoint": checkpoint.path.name, "step": checkpoint.step, "split": split, "seed": seed}
    try:
        write_whole(run / "evaluation.json", json.dumps(result | {"metrics": finite}, indent=1))
        for name, figure in list(found.plots.items()):
            file = run / "pictures" / file_name(f"{split}_{name}.png")
            file.parent.mkdir(exist_ok=True)
            if save_plot(name, figure, file):
                print(f"  picture {file}")
            else:
                del found.plots[name]
    except OSError as error:
        raise CheckpointError(f"{run} cannot be written ({error}), so the metrics above are only on screen") from None
    if not (run / "metrics.jsonl").exists():
        return
    try:
        home = RunFolder(run)
    except ConfigError:
        return
    try:
        log = Log(run, quiet=True)
        log.metrics(split, checkpoint.step, home.info().get("seconds", 0.0), metrics)
        log.findings(split, checkpoint.step, found)
        log.close()
    finally:
        home.release()
