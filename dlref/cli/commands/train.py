"""dlref train: compose, build or restore, train, and leave a run directory that says what happened."""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from dlref.cli.arguments import Parser, add_config_dir
from dlref.cli.completion import config_keys
from dlref.cli.compose import (
    config_dir,
    configs_folder,
    configured,
    first_line,
    groups,
    job_override,
    load_plugins,
    plugin_files,
    require_text,
    searched,
    sweep_override,
    typed_places,
)
from dlref.cli.main import configure_logging, exit_code_of
from dlref.cli.recorded import NO_PATHS
from dlref.cli.resume import Start, resumed, to_resume
from dlref.cli.values import require_decoded
from dlref.errors import ConfigError

SETTINGS = """settings:
  model=mlp data=mnist          select whole systems and exchange their parts; dlref list names them
  network.widths=[200,100]      a setting of the network, optimizer, data, objective, schedule or trainer
  seed=1 device=cuda threads=2  settings of every run
  plugins=my.py                 your own classes, for _target_"""
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

    from dlref.cli.run_training import Command, run
    from dlref.interfaces import Shard
    from dlref.training import devices, memory

    device = devices.choose_device(config["device"], local_rank)
    devices.make_current(device)
    memory.keep_memory()
    with distributed.group(ranks, device), devices.explained(), devices.flushed():
        return run(Command(config, overrides, config_dirs, plugins, start), Shard(rank, ranks), device)


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
