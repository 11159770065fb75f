"""dlref list: the models, experiments and other parts, with the first comment of their YAML."""

from collections.abc import Sequence
from typing import Any

from dlref.cli.compose import config_dir, configs_folder, groups
from dlref.cli.main import take_flags
from dlref.errors import ConfigError, did_you_mean

HELP = "usage: dlref list [GROUP …] [--config-dir DIR]      GROUP is model, experiment, data, objective, …"
GROUPS = ("model", "experiment", "data")


def main(arguments: Sequence[str]) -> int:
    flags: dict[str, Any] = {"--config-dir": []}
    wanted = take_flags(arguments, flags, HELP)
    if wanted is None:
        return 0
    folders = [configs_folder(), *map(config_dir, flags["--config-dir"])]
    found = groups(folders)
    if unknown := [name for name in wanted if name not in found]:
        raise ConfigError(f"there is no group '{unknown[0]}'{did_you_mean(unknown[0], found)}")
    for group, options in found.items():
        if group in (wanted or GROUPS):
            print(f"{group}=")
            for option in options:
                files = [folder / group / f"{option}.yaml" for folder in folders]
                text = next(file for file in files if file.is_file()).read_text(encoding="utf-8")
                comments = [
                    line[1:].strip() for line in text.splitlines() if line.startswith("#") and "@package" not in line
                ]
                print(f"  {option:<18} {comments[0] if comments else ''}".rstrip())
    return 0
