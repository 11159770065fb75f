"""dlref search: draw settings, train with each, and keep a table; it goes on where it was interrupted."""

import functools
import json
import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref.cli.commands.compare import logged
from dlref.cli.commands.train import train
from dlref.cli.compose import compose, load_plugins, plugin_files, split_key, typed_value
from dlref.cli.main import explained, show_rows, take_flags, write_rows
from dlref.cli.values import elements, spell
from dlref.errors import ConfigError, DivergedError

HELP = """usage: dlref search model=NAME key=value … key=log(LOW,HIGH) … [trials=20] [sampler=random] [search_dir=DIR]
                    [--config-dir DIR]

  optimizer.lr=log(1e-4,1e-1)          drawn evenly on a logarithmic scale
  network.dropout=uniform(0,0.5)       drawn evenly
  network.widths=choice([100],[200])   one of these
  trials=N                             how many runs there shall be in all; asked again with more, it goes on
  sampler=random or tpe                at random (Bergstra & Bengio 2012), or by Parzen estimators (2011)
  search_dir=DIR                       default runs/search/<experiment or model>
  --config-dir DIR                     a folder of your own with model/ experiment/ data/ …

  The figure of trainer.monitor is what counts. Every trial is a run of its own. Needs the extra: pip install dlref[search]"""
RANGE = re.compile(r"(log|uniform|int|choice)\((.*)\)$")
logger = logging.getLogger("dlref")


def main(arguments: Sequence[str]) -> int:
    flags: dict[str, Any] = {"--config-dir": []}
    rest = take_flags(arguments, flags, HELP)
    if rest is None:
        return 0
    own: dict[str, Any] = {"trials": "20", "sampler": "random", "search_dir": None}
    fixed, spaces = [], {}
    for text in rest:
        key, value = split_key(text)
        if key in own:
            own[key] = typed_value(text, Path | None) if key == "search_dir" else value
        elif found := RANGE.match(value):
            spaces[key] = space(text, found[1], found[2])
        else:
            fixed.append(text)
    if not spaces:
        raise ConfigError("nothing is searched for; write as in optimizer.lr=log(1e-4,1e-1) (dlref search --help)")
    if not own["trials"].isdigit() or own["sampler"] not in ("random", "tpe"):
        raise ConfigError(f"trials={own['trials']} is a whole number, sampler={own['sampler']} is random or tpe")
    return search(fixed, spaces, int(own["trials"]), own["sampler"], own["search_dir"], flags["--config-dir"])


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

    from dlref import build
    from dlref.training.trainer import Trainer

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plugins = load_plugins(plugin_files(fixed))
    config = compose(fixed, config_dirs, plugins)
    build.check(config, plugins)
    # With the lowest or first values too, before anything is written: a mistyped key would spoil the folder.
    drawn = [f"{key}={int(values[0]) if kind == 'int' else values[0]}" for key, (kind, values) in spaces.items()]
    build.check(compose([*fixed, *drawn], config_dirs, plugins), plugins)
    monitor = Trainer(**config["trainer"]).monitor
    if not monitor:
        raise ConfigError("dlref search needs trainer.monitor, as trainer.monitor='eval/loss min': what is to be best")
    name, direction = monitor.removeprefix("eval/").split()
    folder = Path(os.path.expanduser(search_dir or Path("runs") / "search" / config["name"]))
    if "?" in str(folder.resolve()):  # where the address of a database ends
        raise ConfigError(f"search_dir={folder} has a question mark in it; choose another folder")
    asked = json.dumps([sorted(fixed), spaces, sampler, *config_dirs], sort_keys=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "search.json"
        if note.exists() and note.read_text(encoding="utf-8") != asked:
            raise ConfigError(f"{folder} holds a search of other settings; choose another search_dir=")
        note.write_text(asked, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another search_dir=") from None
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
            # Random numbers of its own for each trial: an interrupted search draws what it would have drawn.
            seed = config["seed"] * 1_000_003 + len(study.trials)
            samplers = optuna.samplers
            study.sampler = samplers.TPESampler(seed=seed) if sampler == "tpe" else samplers.RandomSampler(seed)
            asked_for = study.ask()
            for key, where in spaces.items():
                draw(asked_for, key, *where)
            waiting = [asked_for.number]
        number = waiting[0]
        run = folder / f"{number:04d}"
        drawn = [f"{key}={value}" for key, value in study.trials[number].params.items()]
        logger.info("trial %d of %d: %s", number + 1, trials, " ".join(drawn))
        code = explained(
            functools.partial(train, [*fixed, *drawn, f"run_dir={spell(str(run))}", "resume=auto"], config_dirs)
        )
        if code not in (0, DivergedError.exit_code):
            return code  # the trial waits for the next call
        value = best(run, name, direction) if code == 0 else None
        study.tell(number, value, state=None if value is not None else optuna.trial.TrialState.FAIL)
    show(study, folder, name, direction)
    return 0


def draw(trial: Any, key: str, kind: str, values: list[Any]) -> None:
    if kind == "choice":
        trial.suggest_categorical(key, values)
    elif kind == "int":
        trial.suggest_int(key, int(values[0]), int(values[1]))
    else:
        trial.suggest_float(key, values[0], values[1], log=kind == "log")


def best(run: Path, name: str, direction: str) -> float | None:
    """The best value of a figure in the evaluations of a run."""
    lines = [line for line in logged(run) if line["split"] == "eval"]
    name = name.rpartition("/")[2]  # as the log calls it
    key = "loss" if name == "nll" and not any(name in line for line in lines) else name  # training has checked the name
    values = [line[key] for line in lines if key in line]
    return (max(values) if direction == "max" else min(values)) if values else None


def show(study: Any, folder: Path, name: str, direction: str) -> None:
    """Best first, on screen and in table.csv; and each setting against the figure, in search.png."""
    from matplotlib.figure import Figure

    told = [trial for trial in study.trials if trial.value is not None]
    told.sort(key=lambda trial: trial.value, reverse=direction == "max")
    rows = [{name: trial.value, **trial.params, "run": f"{trial.number:04d}"} for trial in told]
    if not rows:
        raise ConfigError(f"none of {len(study.trials)} trials in {folder} came to an end; search smaller rates")
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        write_rows(rows, file)
    show_rows(rows[:10])
    keys = list(told[0].params)
    figure = Figure(figsize=(3.6 * len(keys), 3.2), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        axes.scatter([trial.params[key] for trial in told], [trial.value for trial in told], s=14)
        distribution = told[0].distributions[key]
        axes.set(xlabel=key, ylabel=name, xscale="log" if getattr(distribution, "log", False) else "linear")
    figure.savefig(folder / "search.png", dpi=120)
    failed = len(study.trials) - len(told)
    logger.info("%d trials%s; all in %s", len(told), f", {failed} diverged" if failed else "", folder)
