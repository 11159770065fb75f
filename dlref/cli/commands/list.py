"""dlref list: the models, experiments and other parts, with the first comment of their YAML."""

from argparse import Namespace

from dlref.cli.arguments import Parser, add_config_dir
from dlref.cli.compose import config_dir, configs_folder, groups
from dlref.errors import ConfigError, brief, did_you_mean

DEFAULT_GROUPS = ("model", "experiment", "data")


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "groups",
        metavar="GROUP",
        nargs="*",
        default=[],
        help="a folder of configs/, such as optimizer; default model experiment data",
    )
    add_config_dir(parser)
    parser.epilog = "examples:\n  dlref list\n  dlref list optimizer schedule"


def main(arguments: Namespace) -> int:
    folders = [configs_folder(), *map(config_dir, arguments.config_dir)]
    found = groups(folders)
    if unknown := [name for name in arguments.groups if name not in found]:
        raise ConfigError(f"there is no group '{brief(unknown[0])}'{did_you_mean(unknown[0], found)}")
    for group, options in found.items():
        if group in (arguments.groups or DEFAULT_GROUPS):
            print(f"{group}=")
            for option in options:
                files = [folder / group / f"{option}.yaml" for folder in folders]
                text = next(file for file in files if file.is_file()).read_text(encoding="utf-8")
                comments = [
                    line[1:].strip() for line in text.splitlines() if line.startswith("#") and "@package" not in line
                ]
                print(f"  {option:<18} {comments[0] if comments else ''}".rstrip())
    return 0
