"""Files and folders of data that a run has recorded, and which of them a later command reads without being told again.

A checkpoint may come from somebody else, and its config is data. So it brings no code, and of this machine it may name
only what is a regular file or a folder, which a command then says.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from dlref.cli.main import in_shell
from dlref.cli.values import spell
from dlref.errors import brief

NO_PATHS = "--no-recorded-paths"
SPECIAL = tuple(map(Path, ("/dev", "/proc", "/sys")))  # where files are of the system, and reading one may never end
logger = logging.getLogger("dlref")


def found_again(recorded: Any, started_in: Any) -> Any:
    """A recorded path, or a list of them, made absolute; None unless all are regular files or folders."""
    if isinstance(recorded, list):
        paths = [found_again(path, started_in) for path in recorded]
        return None if None in paths else paths
    if not isinstance(recorded, str):
        return None
    path = os.path.join(started_in if isinstance(started_in, str) else "", os.path.expanduser(recorded))
    if PureWindowsPath(path).drive.startswith("\\\\") or path.startswith("\\??\\"):  # a server, which learns who asks
        return None
    try:
        real = Path(path).resolve()
        usable = (real.is_file() or real.is_dir()) and not any(real.is_relative_to(folder) for folder in SPECIAL)
    except (OSError, ValueError, RuntimeError):
        return None
    return os.path.abspath(path) if usable else None


def say_used(key: str, value: Any) -> None:
    logger.info("%s=%s, as the run has recorded it (add %s to read only what is typed)", key, brief(value), NO_PATHS)


def typed_again(command: Sequence[str], missing: Mapping[str, Any], allowed: bool) -> str:
    """What is to be typed for recorded paths that are not read: the end of a sentence, with the whole command."""
    gone = [key for key in missing if allowed and key.startswith("data.")]
    typed = {key: path if isinstance(path, str) else spell(path) for key, path in missing.items()}
    again = [
        *command,
        *(f"{key}={'PATH' if key in gone or not path.isprintable() else path}" for key, path in typed.items()),
    ]
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
