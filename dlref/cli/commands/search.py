"""dlref search: train with sampled settings, and keep a table; an interrupted search is resumed."""

import functools
import json
import logging
import math
import os
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref.cli.arguments import Parser, add_config_dir, whole
from dlref.cli.commands.compare import logged
from dlref.cli.commands.train import SETTINGS, train
from dlref.cli.completion import config_keys
from dlref.cli.compose import configured, load_plugins, plugin_files, split_key
from dlref.cli.main import exit_code_of, print_rows, write_rows
from dlref.cli.values import elements, spell
from dlref.errors import ConfigError, DivergedError

RANGE = re.compile(r"(log|uniform|int|choice)\((.*)\)$")
logger = logging.getLogger("dlref")


def add_arguments(parser: Parser) -> None:
    parser.add_settings(config_keys, "as in dlref train, or a range to sample from")
    parser.add_argument(
        "--trials",
        metavar="N",
        type=whole(1),
        default=20,
        help="runs in all; a search is continued with more; default 20",
    )
    parser.add_argument(
        "--sampler",
        choices=("random", "tpe"),
        default="random",
        help="random (Bergstra & Bengio 2012), or tree-structured Parzen estimator (Bergstra et al. 2011)",
    )
    parser.add_argument("--search-dir", metavar="DIR", help="where to write; default runs/search/<experiment or model>")
    add_config_dir(parser)
    parser.epilog = f"""ranges:
  optimizer.lr=log(1e-4,1e-1)          log-uniform
  network.dropout=uniform(0,0.5)       uniform
  network.layers=int(1,4)              uniform over whole numbers
  network.widths=choice([100],[200])   one of these

{SETTINGS}

Trials are compared by the metric that trainer.monitor names. Each is a run of its own.
Needs the extra dlref[search].

examples:
  dlref search model=mlp 'optimizer.lr=log(1e-4,1e-1)' --trials 50 --sampler tpe"""


def main(arguments: Namespace) -> int:
    fixed, spaces = [], {}
    for text in arguments.settings:
        key, value = split_key(text)
        if found := RANGE.match(value):
            spaces[key] = space(text, found[1], found[2])
        else:
            fixed.append(text)
    if not spaces:
        raise ConfigError("nothing is searched for; write as in optimizer.lr=log(1e-4,1e-1) (dlref search --help)")
    return search(fixed, spaces, arguments.trials, arguments.sampler, arguments.search_dir, arguments.config_dir)


def space(text: str, kind: str, inside: str) -> tuple[str, list[Any]]:
    """log(1e-4,1e-1) -> ("log", [0.0001, 0.1])."""
    parts = elements(inside)
    if kind == "choice":
        return kind, parts
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise ConfigError(f"{text}: {kind} takes two numbers, the lowest and the highest") from None
    if not (math.isfinite(low) and low < high < math.inf) or (kind == "log" and low <= 0):
        raise ConfigError(f"{text}: the lowest is below the highest, and for log above 0")
    return kind, [low, high]


def search(
    fixed: Sequence[str],
    spaces: dict[str, tuple[str, list[Any]]],
    trials: int,
    sampler: str,
    search_dir: str | None,
    config_dirs: Sequence[str],
) -> int:
    try:
        import optuna
    except ImportError:
        raise ConfigError("dlref search needs optuna, which is not installed: pip install 'dlref[search]'") from None

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plugins = load_plugins(plugin_files(fixed))
    config = configured(fixed, config_dirs, plugins)
    # With the lowest or first values too, before anything is written: a mistyped key would spoil the folder.
    sampled = [f"{key}={int(values[0]) if kind == 'int' else values[0]}" for key, (kind, values) in spaces.items()]
    configured([*fixed, *sampled], config_dirs, plugins)
    if not (monitor := config["trainer"]["monitor"]):
        raise ConfigError(
            "dlref search needs trainer.monitor, as trainer.monitor='eval/loss min': the metric to optimize"
        )
    name, direction = monitor.removeprefix("eval/").split()
    folder = Path(os.path.expanduser(search_dir or Path("runs") / "search" / config["name"]))
    if "?" in str(folder.resolve()):  # where the address of a database ends
        raise ConfigError(f"--search-dir {folder} has a question mark in it; choose another folder")
    searched = json.dumps([sorted(fixed), spaces, sampler, *config_dirs], sort_keys=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "search.json"
        if note.exists() and note.read_text(encoding="utf-8") != searched:
            raise ConfigError(f"{folder} holds a search of other settings; choose another --search-dir")
        note.write_text(searched, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another --search-dir") from None
    study = optuna.create_study(
        study_name=config["name"],
        storage=f"sqlite:///{folder.resolve() / 'search.db'}",
        direction="maximize" if direction == "max" else "minimize",
        load_if_exists=True,
    )
    while True:
        waiting = [trial.number for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]
        if not waiting and len(study.trials) >= trials:
            break
        if not waiting:
            # Random numbers of its own for each trial: an interrupted search samples what it would have sampled.
            seed = config["seed"] * 1_000_003 + len(study.trials)
            samplers = optuna.samplers
            study.sampler = samplers.TPESampler(seed=seed) if sampler == "tpe" else samplers.RandomSampler(seed)
            trial = study.ask()
            for key, where in spaces.items():
                suggest(trial, key, *where)
            waiting = [trial.number]
        number = waiting[0]
        run = folder / f"{number:04d}"
        sampled = [f"{key}={value}" for key, value in study.trials[number].params.items()]
        logger.info("trial %d of %d: %s", number + 1, trials, " ".join(sampled))
        code = exit_code_of(
            functools.partial(train, [*fixed, *sampled, f"run_dir={spell(str(run))}", "resume=auto"], config_dirs)
        )
        if code not in (0, DivergedError.exit_code):
            return code  # the trial waits for the next call
        value = best(run, name, direction) if code == 0 else None
        study.tell(number, value, state=None if value is not None else optuna.trial.TrialState.FAIL)
    report(study, folder, name, direction)
    return 0


def suggest(trial: Any, key: str, kind: str, values: list[Any]) -> None:
    if kind == "choice":
        trial.suggest_categorical(key, values)
    elif kind == "int":
        trial.suggest_int(key, int(values[0]), int(values[1]))
    else:
        trial.suggest_float(key, values[0], values[1], log=kind == "log")


def best(run: Path, name: str, direction: str) -> float | None:
    """The best value of a metric in the evaluations of a run."""
    lines = [line for line in logged(run) if line["split"] == "eval"]
    name = name.rpartition("/")[2]  # as the log calls it
    key = "loss" if name == "nll" and not any(name in line for line in lines) else name  # training has checked the name
    values = [line[key] for line in lines if key in line]
    return (max(values) if direction == "max" else min(values)) if values else None


def report(study: Any, folder: Path, name: str, direction: str) -> None:
    """Print the trials, best first, and write table.csv; plot the metric over each setting in search.png."""
    from matplotlib.figure import Figure

    finished = [trial for trial in study.trials if trial.value is not None]
    finished.sort(key=lambda trial: trial.value, reverse=direction == "max")
    rows = [{name: trial.value, **trial.params, "run": f"{trial.number:04d}"} for trial in finished]
    if not rows:
        raise ConfigError(f"none of {len(study.trials)} trials in {folder} finished; search smaller rates")
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        write_rows(rows, file)
    print_rows(rows[:10])
    keys = list(finished[0].params)
    figure = Figure(figsize=(3.6 * len(keys), 3.2), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        axes.scatter([trial.params[key] for trial in finished], [trial.value for trial in finished], s=14)
        distribution = finished[0].distributions[key]
        axes.set(xlabel=key, ylabel=name, xscale="log" if getattr(distribution, "log", False) else "linear")
    figure.savefig(folder / "search.png", dpi=120)
    failed = len(study.trials) - len(finished)
    logger.info("%d trials%s; all in %s", len(finished), f", {failed} diverged" if failed else "", folder)
