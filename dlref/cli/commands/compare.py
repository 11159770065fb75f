"""dlref compare: runs side by side, and the mean and deviation of those that differ only in their seed."""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dlref.cli.compose import flatten
from dlref.cli.main import print_table, take_flags
from dlref.errors import CheckpointError, ConfigError, did_you_mean
from dlref.filesystem import printable

HELP = """usage: dlref compare RUN… [metrics=accuracy,loss] [plot=FILE.png] [over=steps]

  one row a run: its last evaluation (evaluation.json), else its last figures while training; then one row for each
  group of runs that differ only in their seed: mean ± standard deviation
  plot=FILE draws the figures over the steps of training: a line a group, the band its deviation (.png, .pdf, .svg)
  over=seconds draws them over the seconds of training, the mean of a group's runs"""
AXES = {"steps": "step", "seconds": "seconds"}
APART = ("seed", "run_dir", "resume", "plugins", "device", "threads", "data.root")


def main(arguments: Sequence[str]) -> int:
    rest = take_flags(arguments, {}, HELP)
    if rest is None:
        return 0
    wanted = [name for a in rest if a.startswith("metrics=") for name in a.removeprefix("metrics=").split(",")]
    plot = next((a.removeprefix("plot=") for a in rest if a.startswith("plot=")), None)
    if plot is not None and Path(plot).suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"plot={plot} must end in .png, .pdf or .svg")
    over = next((a.removeprefix("over=") for a in rest if a.startswith("over=")), "steps")
    if over not in AXES:
        raise ConfigError(f"over={over} is unknown{did_you_mean(over, AXES)}")
    rows = [read(Path(a)) for a in rest if not a.startswith(("metrics=", "plot=", "over="))]
    if not rows:
        raise ConfigError("dlref compare takes one run directory or more")
    figures = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    if not plot and (unknown := [name for name in wanted if name not in figures]):
        raise ConfigError(f"none of these runs has the figure '{unknown[0]}'{did_you_mean(unknown[0], figures)}")
    names = wanted or figures
    table = [["run", "split", "seed", "commit", "seconds", *names]]
    table += [[*facts(row), *(shown(row["metrics"].get(name)) for name in names)] for row in rows]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["key"], []).append(row)
    for group in groups.values():
        if len(group) > 1:
            seconds = f"{statistics.mean(row['seconds'] for row in group):.1f}"
            seeds = " ".join(str(row["seed"]) for row in group)
            spread = [
                mean_and_deviation([row["metrics"][name] for row in group if name in row["metrics"]]) for name in names
            ]
            table.append(
                [f"{group[0]['name']} × {len(group)}", group[0]["split"], seeds, group[0]["commit"], seconds, *spread]
            )
    print_table(table)
    if plot:
        draw(list(groups.values()), names, AXES[over], Path(os.path.expanduser(plot)))
    return 0


def facts(row: dict[str, Any]) -> list[str]:
    return [row["run"], row["split"], str(row["seed"]), row["commit"], f"{row['seconds']:.1f}"]


def read(run: Path) -> dict[str, Any]:
    """What a run directory says of itself; raises CheckpointError for another folder."""
    try:
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        evaluation = run / "evaluation.json"
        result = (
            json.loads(evaluation.read_text(encoding="utf-8"))
            if evaluation.is_file()
            else {"split": "eval", "metrics": about.get("metrics", {})}
        )
        alike = {key: value for key, value in flatten(config).items() if key not in APART}
        return {
            "run": f"{run.resolve().parent.name}/{run.resolve().name}",
            "name": config["name"],
            "seed": config["seed"],
            "commit": (about.get("git_commit") or "")[:18],
            "seconds": about.get("seconds", 0.0),
            "split": result["split"],
            "metrics": result["metrics"],
            "path": run,
            "settings": alike,
            "key": json.dumps([alike, result["split"]], sort_keys=True),
        }
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{run} is not the directory of a run ({type(error).__name__}: {error})") from None


def draw(groups: Sequence[Sequence[dict[str, Any]]], names: Sequence[str], over: str, file: Path) -> None:
    """Each figure over steps or seconds, as evaluated while training, else as trained; a line for each group of seeds."""
    from matplotlib.figure import Figure

    logs = [[logged(row["path"]) for row in group] for group in groups]
    names = [name for name in names if any(curve(lines, name) for group in logs for lines in group)]
    if not names:
        raise ConfigError("there is nothing to draw; metrics= names figures that these runs logged while training")
    labels = [apart([other[0]["settings"] for other in groups], group[0]) for group in groups]
    figure = Figure(figsize=(4.4 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for number, (label, group) in enumerate(zip(labels, logs, strict=True)):
            curves: dict[int, list[dict[str, Any]]] = {}
            for line in (line for lines in group for line in curve(lines, name)):
                curves.setdefault(line["step"], []).append(line)
            together = [curves[step] for step in sorted(curves)]
            places = [statistics.mean(line[over] for line in lines) for lines in together]
            middle = [statistics.mean(line[name] for line in lines) for lines in together]
            spread = [statistics.stdev(line[name] for line in lines) if len(lines) > 1 else 0.0 for lines in together]
            mark = {"marker": "o", "markersize": 3} if len(places) < 20 else {}
            axes.plot(places, middle, color=f"C{number}", label=printable(label), **mark)
            band = [[m + sign * s for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1)]
            axes.fill_between(places, *band, color=f"C{number}", alpha=0.2, linewidth=0)
        axes.set(xlabel="seconds of training" if over == "seconds" else over, ylabel=name)
    figure.axes[0].legend(fontsize=8)
    try:
        figure.savefig(file, dpi=120)
    except OSError as error:
        raise ConfigError(f"plot={file} cannot be written ({error.strerror}); choose another place") from None
    print(f"plot {file}")


def logged(run: Path) -> list[dict[str, Any]]:
    """The events of metrics.jsonl; none where there is no such file or it is damaged."""
    try:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []


def curve(lines: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The logged events that have a figure: those of eval where it was evaluated, else of train."""
    for split in ("eval", "train"):
        found = [line for line in lines if line["split"] == split and name in line]
        if found:
            return found
    return []


def apart(settings: Sequence[dict[str, Any]], row: dict[str, Any]) -> str:
    """What tells one group from the others: its name, and the settings in which they differ."""
    keys = [key for key in row["settings"] if len({json.dumps(other.get(key)) for other in settings}) > 1]
    shortest = [f"{key.rpartition('.')[2]} {row['settings'][key]}" for key in keys if key not in ("name", "goal")]
    return ", ".join([row["name"], *shortest[:3]])


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def mean_and_deviation(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    return f"{statistics.mean(values):.5g} ± {statistics.stdev(values):.2g}"
