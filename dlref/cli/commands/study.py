"""dlref study: run a demonstration of the books; its table and figures go to runs/studies/NAME."""

import ast
import importlib
import inspect
import json
import logging
import os
import time
import typing
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref.cli.arguments import Parser
from dlref.cli.compose import split_key, typed_value
from dlref.cli.main import print_rows, write_rows
from dlref.errors import ConfigError, did_you_mean

OF_EVERY_STUDY = {"run_dir": Path, "threads": int}
STUDIES = Path(__file__).parents[2] / "studies"
logger = logging.getLogger("dlref")


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "study", metavar="STUDY", nargs="?", choices=studies(), help="without one, the studies are listed"
    )
    parser.add_settings(keys, "a setting of the study, or one of the two below")
    parser.epilog = """settings of every study:
  run_dir=DIR     where the table and the figures go; default runs/studies/STUDY
  threads=N       of torch; default 1, which is fastest for networks this small

examples:
  dlref study
  dlref study gates steps=500 seeds=[0,1]"""


def main(arguments: Namespace) -> int:
    if arguments.study is None:
        for name in studies():
            print(f"{name:<22} {(ast.get_docstring(parsed(name)) or '').splitlines()[0]}")
        return 0
    return study(arguments.study, arguments.settings)


def parsed(name: str) -> ast.Module:
    """The source of a study, whose import would import torch."""
    return ast.parse((STUDIES / f"{name}.py").read_text(encoding="utf-8"))


def keys(words: Sequence[str]) -> list[str]:
    """The settings of the study among these words."""
    found = [*OF_EVERY_STUDY]
    for name in set(words) & set(studies()):
        for node in parsed(name).body:
            if isinstance(node, ast.FunctionDef) and node.name == "study":
                found += [argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]]
    return found


def studies() -> list[str]:
    return sorted(file.stem for file in STUDIES.glob("[a-z]*.py"))


def study(name: str, settings: Sequence[str]) -> int:
    import torch

    from dlref.training.checkpoint import write_whole
    from dlref.training.run import git_commit

    function = importlib.import_module(f"dlref.studies.{name}").study
    given = read_settings(name, function, settings)
    folder = Path(os.path.expanduser(given.pop("run_dir", None) or Path("runs") / "studies" / name))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be created ({error.strerror}); choose another run_dir=") from None
    threads = torch.get_num_threads()
    torch.set_num_threads(given.pop("threads", 1))
    start = time.perf_counter()
    result = function(**given)
    seconds = time.perf_counter() - start
    torch.set_num_threads(threads)
    print_rows(result.table)
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        write_rows(result.table, file)
    for title, figure in result.figures.items():
        figure.savefig(folder / f"{title}.png", dpi=120)
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    about = {"study": name, "settings": plain, "git_commit": git_commit(), "seconds": round(seconds, 1)}
    write_whole(folder / "study.json", json.dumps(about, indent=1))
    logger.info("%.1f s; %s and table.csv are in %s", seconds, ", ".join(f"{t}.png" for t in result.figures), folder)
    return 0


def read_settings(name: str, function: Any, settings: Sequence[str]) -> dict[str, Any]:
    """key=value as the study's signature has them; raises ConfigError for others."""
    from dlref.config_check import MOST_THREADS, check_value

    hints = typing.get_type_hints(function)
    known = {key: hints[key] for key in inspect.signature(function).parameters} | OF_EVERY_STUDY
    given: dict[str, Any] = {}
    for text in settings:
        key, _ = split_key(text)
        if "=" not in text or key not in known:
            raise ConfigError(f"{key} is not a setting of study {name}{did_you_mean(key, known)}")
        given[key] = typed_value(text, known[key])
        check_value(key, given[key], known[key])
        if key == "threads" and not 1 <= given[key] <= MOST_THREADS:
            raise ConfigError(f"threads is {given[key]}; it takes 1 to {MOST_THREADS}")
        counts = known[key] is int and key != "seed"  # steps, runs, episodes
        if (counts and given[key] < 1) or (key == "threshold" and not given[key]):
            raise ConfigError(f"{key} is {given[key]}; it takes {'1 or more' if counts else 'a number above 0'}")
        if known[key] == Path | None and given[key] is not None:
            given[key] = Path(given[key])
    return given
