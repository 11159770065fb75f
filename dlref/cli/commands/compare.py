"""dlref compare: the metrics of runs side by side, and their mean and standard deviation over seeds."""

import json
import statistics
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dlref.cli.arguments import Parser, file_ending
from dlref.cli.compose import flatten
from dlref.cli.main import print_table
from dlref.errors import CheckpointError, ConfigError, did_you_mean
from dlref.filesystem import printable

AXES = {"steps": "step", "seconds": "seconds"}
PER_RUN = (
    "seed",
    "run_dir",
    "resume",
    "plugins",
    "device",
    "threads",
    "data.root",
)  # may differ within a group of runs


def add_arguments(parser: Parser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run directory")
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        type=lambda typed: typed.split(","),
        default=[],
        help="separated by commas; default: all",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=file_ending(".png", ".pdf", ".svg"),
        help="plot each metric during training; one curve a group, mean ± standard deviation",
    )
    parser.add_argument("--over", choices=AXES, default="steps", help="the x axis of the plot; default steps")
    parser.epilog = """One row a run: the metrics of its last evaluation (evaluation.json), else the last ones logged in
training; then one row for each group of runs that differ only in their seed: mean ± standard deviation.

examples:
  dlref compare runs/mlp/*
  dlref compare RUN RUN RUN --metrics accuracy,loss --plot curves.png --over seconds"""


def main(arguments: Namespace) -> int:
    rows = [read(run) for run in arguments.runs]
    logged_names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    unknown = [name for name in arguments.metrics if name not in logged_names]
    if unknown and not arguments.plot:
        raise ConfigError(f"none of these runs has the metric '{unknown[0]}'{did_you_mean(unknown[0], logged_names)}")
    names = arguments.metrics or logged_names
    table = [["run", "split", "seed", "commit", "seconds", *names]]
    table += [[*identity(row), *(formatted(row["metrics"].get(name)) for name in names)] for row in rows]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["key"], []).append(row)
    for group in groups.values():
        if len(group) > 1:
            seconds = f"{statistics.mean(row['seconds'] for row in group):.1f}"
            seeds = " ".join(str(row["seed"]) for row in group)
            spread = [mean_and_std([row["metrics"][name] for row in group if name in row["metrics"]]) for name in names]
            table.append(
                [f"{group[0]['name']} × {len(group)}", group[0]["split"], seeds, group[0]["commit"], seconds, *spread]
            )
    print_table(table)
    if arguments.plot:
        plot(list(groups.values()), names, AXES[arguments.over], arguments.plot)
    return 0


def identity(row: dict[str, Any]) -> list[str]:
    return [row["run"], row["split"], str(row["seed"]), row["commit"], f"{row['seconds']:.1f}"]


def read(run: Path) -> dict[str, Any]:
    """Settings and metrics of a run directory; raises CheckpointError for another folder."""
    try:
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        evaluation = run / "evaluation.json"
        result = (
            json.loads(evaluation.read_text(encoding="utf-8"))
            if evaluation.is_file()
            else {"split": "eval", "metrics": about.get("metrics", {})}
        )
        settings = {key: value for key, value in flatten(config).items() if key not in PER_RUN}
        return {
            "run": f"{run.resolve().parent.name}/{run.resolve().name}",
            "name": config["name"],
            "seed": config["seed"],
            "commit": (about.get("git_commit") or "")[:18],
            "seconds": about.get("seconds", 0.0),
            "split": result["split"],
            "metrics": result["metrics"],
            "path": run,
            "settings": settings,
            "key": json.dumps([settings, result["split"]], sort_keys=True),
        }
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{run} is not the directory of a run ({type(error).__name__}: {error})") from None


def plot(groups: Sequence[Sequence[dict[str, Any]]], names: Sequence[str], over: str, file: Path) -> None:
    """Plot each metric over steps or seconds, as evaluated during training, else as trained; one curve a group of seeds."""
    from matplotlib.figure import Figure

    logs = [[logged(row["path"]) for row in group] for group in groups]
    names = [name for name in names if any(curve(lines, name) for group in logs for lines in group)]
    if not names:
        raise ConfigError("there is nothing to plot; --metrics takes names that these runs logged during training")
    labels = [label_of([other[0]["settings"] for other in groups], group[0]) for group in groups]
    figure = Figure(figsize=(4.4 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for index, (label, group) in enumerate(zip(labels, logs, strict=True)):
            by_step: dict[int, list[dict[str, Any]]] = {}
            for line in (line for lines in group for line in curve(lines, name)):
                by_step.setdefault(line["step"], []).append(line)
            points = [by_step[step] for step in sorted(by_step)]
            x = [statistics.mean(line[over] for line in lines) for lines in points]
            means = [statistics.mean(line[name] for line in lines) for lines in points]
            stds = [statistics.stdev(line[name] for line in lines) if len(lines) > 1 else 0.0 for lines in points]
            marker = {"marker": "o", "markersize": 3} if len(x) < 20 else {}
            axes.plot(x, means, color=f"C{index}", label=printable(label), **marker)
            band = [[mean + sign * std for mean, std in zip(means, stds, strict=True)] for sign in (-1, 1)]
            axes.fill_between(x, *band, color=f"C{index}", alpha=0.2, linewidth=0)
        axes.set(xlabel="seconds of training" if over == "seconds" else over, ylabel=name)
    figure.axes[0].legend(fontsize=8)
    try:
        figure.savefig(file, dpi=120)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written ({error.strerror}); choose another --plot") from None
    print(f"plot {file}")


def logged(run: Path) -> list[dict[str, Any]]:
    """The events of metrics.jsonl; none where there is no such file or it is damaged."""
    try:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []


def curve(lines: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The logged events that have a metric: those of eval where it was evaluated, else of train."""
    for split in ("eval", "train"):
        found = [line for line in lines if line["split"] == split and name in line]
        if found:
            return found
    return []


def label_of(settings: Sequence[dict[str, Any]], row: dict[str, Any]) -> str:
    """The label of a group: its name, and up to three settings in which the groups differ."""
    keys = [key for key in row["settings"] if len({json.dumps(other.get(key)) for other in settings}) > 1]
    values = [f"{key.rpartition('.')[2]} {row['settings'][key]}" for key in keys if key not in ("name", "goal")]
    return ", ".join([row["name"], *values[:3]])


def formatted(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def mean_and_std(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    return f"{statistics.mean(values):.5g} ± {statistics.stdev(values):.2g}"
