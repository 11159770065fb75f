"""dlref completion: what may follow, for bash (and zsh after `bashcompinit`), read from the YAMLs without Hydra or torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref.cli.compose import configs_folder, groups

SCRIPT = """_dlref() {
    COMPREPLY=($(dlref completion --words "${COMP_LINE:0:$COMP_POINT}" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}
complete -o default -F _dlref dlref"""


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--words"]:
        print("\n".join(complete(arguments[1] if len(arguments) > 1 else "")))
    else:
        print(SCRIPT)
    return 0


def complete(line: str) -> list[str]:
    """The words that the last, unfinished word of a command line may become."""
    from dlref.cli.main import COMMANDS

    words = line.split()
    current = "" if line.endswith(" ") or not words else words.pop()
    if len(words) <= 1:
        return [command for command in COMMANDS if command.startswith(current)]
    if words[1] not in ("train", "evaluate"):
        return []
    options = groups([configs_folder()])
    key, equals, value = current.partition("=")
    if equals:
        return [f"{key}={option}" for option in options.get(key, []) if option.startswith(value)]
    if words[1] == "evaluate":
        choices = ["split=eval", "split=test", "split=train", "data.root=", "device=", "threads="]
    else:
        choices = [f"{name}=" for name in options if name != "trainer"] + [f"{name}=" for name in typed_keys(words)]
    return sorted({choice for choice in choices if choice.startswith(current)})


def typed_keys(words: Sequence[str]) -> list[str]:
    """Dotted settings in the YAMLs that the words so far select."""
    import yaml

    def read(path: Path) -> dict[str, Any]:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return (yaml.load(path.read_text(encoding="utf-8"), loader) or {}) if path.is_file() else {}

    folder = configs_folder()
    typed = dict(word.split("=", 1) for word in words if "=" in word)
    base = read(folder / "train.yaml")
    chosen = {
        name: option for entry in base.pop("defaults") if isinstance(entry, dict) for name, option in entry.items()
    }
    base.pop("hydra")
    keys = [key for key in base if not isinstance(base[key], dict)] + ["trainer.max_epochs", "trainer.max_seconds"]
    for layer in ("experiment", "model"):
        choice = typed.get(layer) or chosen.get(layer)
        content = read(folder / layer / f"{choice}.yaml")
        for entry in content.pop("defaults", []):
            for name, option in entry.items() if isinstance(entry, dict) else ():
                group = name.removeprefix("override /")
                typed.setdefault(group, option)
        keys += [f"{group}.{key}" for group, section in content.items() if isinstance(section, dict) for key in section]
    for group in ("data", "objective", "optimizer", "schedule", "trainer"):
        keys += [f"{group}.{key}" for key in read(folder / group / f"{typed.get(group) or chosen.get(group)}.yaml")]
    return [key for key in keys if not key.endswith("_target_")]
