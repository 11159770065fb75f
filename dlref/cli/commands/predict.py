"""dlref predict: what a trained model says of files: rows of a table, or pictures."""

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref.cli.compose import load_plugins, plugin_files, split_key
from dlref.cli.loading import load
from dlref.cli.main import require_no_settings, take_flags, write_rows
from dlref.errors import CheckpointError, ConfigError, brief
from dlref.filesystem import printable

HELP = """usage: dlref predict RUN_OR_CHECKPOINT FILE… [invert=true] [decimal=comma] [--device cpu] [plugins=my.py]

  FILE         a .csv or .npz table with the columns that the model was trained on, or pictures (PNG, JPEG …)
  invert=true  dark on light becomes light on dark, as in MNIST
  decimal=…    point or comma, if these tables write numbers in another way than those of training
  --device cpu or cuda, cuda:N, mps, auto: where to compute

  prints CSV: one line a row or picture; numbers in the units of the table, classes with their probability, the
  probability of yes for each label"""
SETTINGS = ("decimal", "invert", "plugins")

logger = logging.getLogger("dlref")


def main(arguments: Sequence[str]) -> int:
    flags: dict[str, Any] = {"--device": []}
    rest = take_flags(arguments, flags, HELP)
    if rest is None:
        return 0
    typed = dict(split_key(a) for a in rest if split_key(a)[0] in SETTINGS and "=" in a)
    names = [a for a in rest if not ("=" in a and split_key(a)[0] in SETTINGS)]
    if len(names) < 2:
        raise ConfigError("dlref predict takes a run and the files to look at: dlref predict RUN FILE…")
    require_no_settings("predict", names[1:], flags, SETTINGS)
    if (invert := typed.get("invert", "false").lower()) not in ("true", "false"):
        raise ConfigError(f"invert={invert} is neither true nor false")
    if (decimal := typed.get("decimal")) not in (None, "point", "comma"):
        raise ConfigError(f"decimal={decimal} is neither point nor comma")
    plugins = load_plugins(plugin_files(rest))
    rows = predict(names[0], names[1:], invert == "true", plugins, flags["--device"], decimal)
    write_rows([{printable(name): printable(cell) for name, cell in row.items()} for row in rows], sys.stdout)
    return 0


def predict(
    run: str,
    files: Sequence[str],
    invert: bool,
    plugins: Sequence[str],
    device: Sequence[str] = (),
    decimal: Any = None,
) -> list[dict[str, str]]:
    import torch

    from dlref import build
    from dlref.data.supervised import images, tables
    from dlref.hardware import device_and_dtype
    from dlref.objectives.supervised import Supervised
    from dlref.training.checkpoint import as_data, find
    from dlref.training.devices import explained

    net = load(run, plugins, device)
    checkpoint = find(run)
    with as_data(checkpoint):
        section = checkpoint.manifest["config"].get("objective")
        build.check_section("objective", section, "objective", plugins)
        objective: Any = build.make(section, "objective", plugins, net=net)
    about: Any = net.description
    place = device_and_dtype(net)
    if not isinstance(objective, Supervised) or about.get("reads") not in ("table", "image"):
        raise CheckpointError(f"{checkpoint.path} is no model of tables or images; dlref predict reads only these")
    rows: list[dict[str, str]] = []
    notes: dict[str, list[Path]] = {}
    try:
        with torch.no_grad(), explained():
            for file in files:
                if about["reads"] == "table":
                    inputs = tables.read_inputs(Path(file), about, decimal).to(*place)
                    answers = objective.answers(net(inputs)).cpu()
                    answers[inputs.isnan().any(dim=1).cpu()] = math.nan
                    rows += tables.read_out(answers, about)
                    continue
                inputs = images.read_image(Path(file), about, invert, notes).to(*place)
                probabilities = objective.answers(net(inputs))[0]
                best = int(probabilities.argmax())
                rows.append(
                    {"file": file, "class": about["classes"][best], "probability": f"{float(probabilities[best]):.4g}"}
                )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if plugins:  # whose author wants the traceback
            raise
        raise CheckpointError(
            f"{checkpoint.path} does not describe what its network reads ({type(error).__name__}: {brief(error)}); use "
            "another checkpoint"
        ) from error
    for note, paths in notes.items():
        logger.info("%s", f"{paths[0]}, {note}" if len(paths) == 1 else f"{len(paths)} pictures, {note}")
    return rows
