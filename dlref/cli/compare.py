"""dlref compare: runs side by side, and the mean and deviation of those that differ only in their seed."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dlref.cli.configs import flatten
from dlref.cli.main import take_flags
from dlref.errors import CheckpointError, ConfigError

HELP = """usage: dlref compare RUN… [metrics=accuracy,nll]

  one row a run: its last evaluation (evaluation.json), else its last figures while training; then one row for each
  group of runs that differ only in their seed: mean ± standard deviation"""
APART = ("seed", "run_dir", "resume", "plugins", "device", "threads", "data.root")


def main(arguments: Sequence[str]) -> int:
    rest = take_flags(arguments, {}, HELP)
    if rest is None:
        return 0
    wanted = [name for a in rest if a.startswith("metrics=") for name in a.removeprefix("metrics=").split(",")]
    rows = [read(Path(a)) for a in rest if not a.startswith("metrics=")]
    if not rows:
        raise ConfigError("dlref compare takes one run directory or more")
    names = wanted or list(dict.fromkeys(name for row in rows for name in row["metrics"] if name != "loss"))
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
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
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
            "key": json.dumps([alike, result["split"]], sort_keys=True),
        }
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{run} is not the directory of a run ({type(error).__name__}: {error})") from None


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def mean_and_deviation(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    return f"{statistics.mean(values):.5g} ± {statistics.stdev(values):.2g}"
