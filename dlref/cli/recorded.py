"""Files and folders of data that a run has recorded, and which of them a later command reads without being told again.

A checkpoint may come from somebody else, and its config is data. So it brings no code, and of this machine it may name
only what is a regular file or a folder, which a command then says.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from dlref.cli.arguments import in_shell
from dlref.cli.values import spell
from dlref.errors import brief

NO_PATHS = "--no-recorded-paths"
SPECIAL = tuple(map(Path, ("/dev", "/proc", "/sys")))  # where files are of the system, and reading one may never end
logger = logging.getLogger("dlref")


def found_again(recorded: Any, started_in: Any) -> Any:
    """A recorded path made absolute, or all in lists and mappings; None unless these are regular files or folders.

    What is no text there, as null, stays as it is.
    """
    places = {text: place_of(text, started_in) for text in texts_of(recorded)}
    return None if None in places.values() else replaced(recorded, places)


def checked(checkpoint: Any, plugins: Sequence[str]) -> Any:
    """The checkpoint with its config checked and normalized.

    Raises CheckpointError where the config is wrong, or names what this version of dlref does not have.
    """
    from dlref.config_check import normalized  # which imports torch
    from dlref.training.checkpoint import as_data

    with as_data(checkpoint):
        config = normalized(checkpoint.manifest["config"], plugins)
    return checkpoint._replace(manifest=checkpoint.manifest | {"config": config})


def place_of(recorded: str, started_in: Any) -> str | None:
    """One of them."""
    path = os.path.join(started_in if isinstance(started_in, str) else "", os.path.expanduser(recorded))
    if PureWindowsPath(path).drive.startswith("\\\\") or path.startswith("\\??\\"):  # a server, which learns who asks
        return None
    try:
        real = Path(path).resolve()
        usable = (real.is_file() or real.is_dir()) and not any(real.is_relative_to(folder) for folder in SPECIAL)
    except (OSError, ValueError, RuntimeError):
        return None
    return os.path.abspath(path) if usable else None


def texts_of(value: Any) -> list[str]:
    from dlref.config_check import leaves  # which imports torch

    return [leaf for leaf in leaves(value) if isinstance(leaf, str)]


def replaced(value: Any, texts: Mapping[str, str | None]) -> Any:
    """The same nest with other texts."""
    if isinstance(value, list):
        return [replaced(one, texts) for one in value]
    if isinstance(value, Mapping):
        return {name: replaced(one, texts) for name, one in value.items()}
    return texts[value] if isinstance(value, str) else value


def within(key: str, settings: Collection[str]) -> bool:
    """Whether a setting is one of these, or a part of one."""
    return any(key == setting or key.startswith(f"{setting}.") for setting in settings)


def untyped(key: str, value: Any, typed: Collection[str]) -> Any:
    """What is left of a recorded value: None where its setting is typed, and of a mapping no part that is."""
    if key in typed or not isinstance(value, Mapping):
        return None if key in typed else value
    left = {name: untyped(f"{key}.{name}", one, typed) for name, one in value.items()}
    return {name: one for name, one in left.items() if one is not None}


def say_used(key: str, value: Any) -> None:
    paths = ", ".join(map(brief, texts_of(value)))
    logger.info("%s=%s, as the run has recorded it (add %s to read only what is typed)", key, paths, NO_PATHS)


def typed_again(command: Sequence[str], missing: Mapping[str, Any], allowed: bool) -> str:
    """What is to be typed for recorded paths that are not read: the end of a sentence, with the whole command."""
    gone = [key for key in missing if allowed and key.startswith("data.")]
    typed = {key: path if isinstance(path, str) else spell(path) for key, path in missing.items()}
    again = list(command)
    for key, path in missing.items():
        hidden = key in gone or not typed[key].isprintable()
        to_type = replaced(path, dict.fromkeys(texts_of(path), "PATH")) if hidden else path
        again.append(f"{key}={to_type if isinstance(to_type, str) else spell(to_type)}")
    named = ", ".join(f"{key}={brief(path)}" for key, path in typed.items())
    why = "is no file or folder here; type where it is" if gone else "a checkpoint may not set; type it again"
    return f"{named}, which {why}: {in_shell_all(again)}"


def command_line(
    name: str, arguments: Sequence[str], config_dirs: Sequence[str] = (), recorded: bool = True
) -> list[str]:
    """A command of dlref's as it is typed again, for a line that is printed (`in_shell_all`)."""
    folders = [part for folder in config_dirs for part in ("--config-dir", folder)]
    return [name, *([] if recorded else [NO_PATHS]), *folders, *arguments]


def in_shell_all(command: Sequence[str]) -> str:
    return " ".join(map(in_shell, ["dlref", *command]))
