"""What may follow on a command line, from the parsers and the YAMLs, without torch or Hydra."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref.cli.arguments import COMMANDS, Parser, command_parser
from dlref.cli.compose import configs_folder, groups


def complete(line: str) -> list[str]:
    """The words that the last, unfinished word of a command line may become."""
    words = line.split()
    current = "" if line.endswith(" ") or not words else words.pop()
    if len(words) <= 1:
        choices = list(COMMANDS)
    elif words[1] not in COMMANDS:
        choices = []
    else:
        choices = choices_after(command_parser(words[1]), words[2:], current)
    return [choice for choice in choices if choice.startswith(current)]


def choices_after(parser: Parser, words: Sequence[str], current: str) -> list[str]:
    """All words that may follow these: values of a flag, flags, settings and their options, or a positional's choices."""
    flags = parser.flags()
    takes_value = [words[i] in flags and flags[words[i]].nargs != 0 for i in range(len(words))]
    name, equals, _ = current.partition("=")
    if takes_value[-1:] == [True]:
        return choices_of(flags[words[-1]])
    if name in flags:
        return [f"{name}={choice}" for choice in choices_of(flags[name])] if equals else [name]
    if current.startswith("-"):
        return list(flags)
    typed = [word for i, word in enumerate(words) if not word.startswith("-") and not any(takes_value[i - 1 : i])]
    positionals = parser.positionals()
    following = positionals[min(len(typed), len(positionals) - 1)] if positionals else None
    if following is None or following.dest != "settings" or parser.settings is None:
        return choices_of(following)
    if equals:
        return [f"{name}={option}" for option in groups([configs_folder()]).get(name, [])]
    return sorted(f"{key}=" for key in {*parser.settings(words)})


def choices_of(action: argparse.Action | None) -> list[str]:
    return [str(choice) for choice in (action.choices if action else None) or ()]


def config_keys(words: Sequence[str]) -> list[str]:
    """The config groups, and the settings in the YAMLs that these words select."""
    import yaml

    folder = configs_folder()
    options = groups([folder])

    def read(path: Path) -> dict[str, Any]:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.load(path.read_text(encoding="utf-8"), loader) or {}

    def read_option(group: str) -> dict[str, Any]:
        option = selected.get(group)
        return read(folder / group / f"{option}.yaml") if option in options[group] else {}

    def select(defaults: Sequence[Any]) -> None:
        for group, option in (item for entry in defaults if isinstance(entry, dict) for item in entry.items()):
            selected.setdefault(group.removeprefix("override /"), option)

    base = read(folder / "train.yaml")
    selected = dict(word.split("=", 1) for word in words if "=" in word)
    defaults = {
        group: option for entry in base["defaults"] if isinstance(entry, dict) for group, option in entry.items()
    }
    keys = [*options, "reports", "trainer.max_epochs", "trainer.max_seconds"]
    keys += [key for key, value in base.items() if key != "defaults" and not isinstance(value, dict)]
    for layer in ("experiment", "model"):  # each selects options for what is not selected yet
        selected.setdefault(layer, defaults[layer])
        content = read_option(layer)
        select(content.pop("defaults", []))
        keys += [f"{group}.{key}" for group, section in content.items() if isinstance(section, dict) for key in section]
    select([defaults])
    for group in ("data", "objective", "optimizer", "schedule", "trainer"):
        keys += [f"{group}.{key}" for key in read_option(group)]
    return [key for key in keys if not key.endswith("_target_")]
