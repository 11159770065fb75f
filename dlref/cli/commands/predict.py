"""dlref predict: what a trained model predicts for files: for the rows of a table, or for images."""

import logging
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from dlref.cli.arguments import Parser, add_loading, add_run
from dlref.cli.compose import load_plugins
from dlref.cli.loading import load
from dlref.cli.main import write_rows
from dlref.errors import CheckpointError, brief
from dlref.filesystem import printable

logger = logging.getLogger("dlref")


def add_arguments(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="a .csv or .npz table with the columns of training, or images (PNG, JPEG …)",
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="invert the gray levels of images: dark on light becomes light on dark, as in MNIST",
    )
    parser.add_argument(
        "--decimal", choices=("point", "comma"), help="how these tables write numbers, if not as those of training"
    )
    add_loading(parser)
    parser.epilog = """Prints CSV, one line a row or image: numbers in the units of the table, a class with its probability,
or the probability of each label.

examples:
  dlref predict RUN new.csv --decimal comma
  dlref predict RUN digits/*.png --invert"""


def main(arguments: Namespace) -> int:
    plugins = load_plugins(arguments.plugins)
    rows = predict(arguments.run, arguments.files, arguments.invert, plugins, arguments.device, arguments.decimal)
    write_rows([{printable(name): printable(cell) for name, cell in row.items()} for row in rows], sys.stdout)
    return 0


def predict(
    run: str,
    files: Sequence[str],
    invert: bool,
    plugins: Sequence[str],
    device: str = "cpu",
    decimal: Literal["point", "comma"] | None = None,
) -> list[dict[str, str]]:
    import torch

    from dlref import build, config_check
    from dlref.data.supervised import images, tables
    from dlref.hardware import device_and_dtype
    from dlref.objectives.supervised import Supervised
    from dlref.training.checkpoint import as_data, find
    from dlref.training.devices import explained

    net = load(run, plugins, device)
    checkpoint = find(run)
    with as_data(checkpoint):
        section = checkpoint.manifest["config"].get("objective")
        config_check.check_section("objective", section, "objective", plugins)
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
                    predictions = objective.predictions(net(inputs)).cpu()
                    predictions[inputs.isnan().any(dim=1).cpu()] = math.nan
                    rows += tables.prediction_rows(predictions, about)
                    continue
                inputs = images.read_image(Path(file), about, invert, notes).to(*place)
                probabilities = objective.predictions(net(inputs))[0]
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
