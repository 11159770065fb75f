"""The directory of a run: its lock, and what `run.json` records of the run."""

import json
import logging
import os
import platform
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import torch

from dlref import plugins
from dlref.errors import ConfigError, brief
from dlref.hardware import instruction_set
from dlref.training.checkpoint import write_whole
from dlref.training.devices import device_name
from dlref.training.memory import cores

logger = logging.getLogger("dlref")


def new_folder(parent: Path) -> Path:
    """Make `<time>-<random>` below `parent`; the random part distinguishes runs that start within the same second."""
    while True:
        folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise unwritable(folder, "it is a file") from None
        except OSError as error:
            raise unwritable(folder, error) from None
        else:
            return folder


def unwritable(folder: Path, reason: object) -> ConfigError:
    return ConfigError(f"the run directory {folder} cannot be written ({reason}); choose another one with run_dir=")


def info(run: Path) -> dict[str, Any]:
    """The content of a run's `run.json`; empty where it cannot be read."""
    try:
        return json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def in_use(run: Path) -> ConfigError:
    owner = info(run)
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
    return ConfigError(f"{run} is in use by {who}; wait for it, or choose another run_dir=")


def require_unused(run: Path) -> None:
    """Raise ConfigError if a process trains in this directory, where it removes old checkpoints."""
    lock = filelock.FileLock(run / ".lock")
    if not (run / ".lock").exists():
        return
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise in_use(run) from None
    except OSError:  # nor could a run be there
        return
    lock.release()


class RunFolder:
    """A run directory that this process has locked; raises ConfigError if another one has, or it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = filelock.FileLock(path / ".lock")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(blocking=False)
        except filelock.Timeout:
            raise in_use(path) from None
        except OSError as error:
            raise unwritable(path, error) from None

    def info(self) -> dict[str, Any]:
        return info(self.path)

    def record(self, **values: Any) -> None:
        """Add values to `run.json`."""
        try:
            write_whole(self.path / "run.json", json.dumps(self.info() | values, indent=1, default=str))
        except OSError as error:
            raise unwritable(self.path, error) from None

    def write(self, name: str, text: str) -> None:
        try:
            write_whole(self.path / name, text)
        except OSError as error:
            raise unwritable(self.path, error) from None

    def remove(self, file: Path) -> None:
        """Remove a file if it is there; raises ConfigError where another program has it open, which Windows refuses."""
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{file} cannot be removed ({error}); close the program that has it open, or choose another run_dir="
            ) from None

    def release(self) -> None:
        self.lock.release()


def versions() -> dict[str, str]:
    names = ["dlref", "torch", "torchtext", "gymnasium", "hydra-core", "numpy"]
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found | {"python": platform.python_version()}


def hardware(device: torch.device) -> dict[str, Any]:
    return {
        "cpu": processor(),
        "instructions": instruction_set(),
        **cores(),
        "gpu": device_name(device),
        "system": platform.platform(),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of the checkout that this code is in, with `-dirty` for uncommitted changes; None outside of one."""
    folder = Path(__file__).resolve().parents[2]
    return commit_of(folder) if (folder / ".git").exists() else None


def commit_of(folder: Path) -> str | None:
    """The commit of the repository that a folder is in; None outside of one."""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def plugin_facts(names: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """The hash of each plug-in's source, and the commit of the repository that it is in, if any."""
    return {
        name: {"sha256": plugins.digest(name), "git_commit": commit_of(plugins.home(name).parent)} for name in names
    }


def warn_of_other_plugins(manifest: Mapping[str, Any], names: Sequence[str]) -> None:
    """Warn of plug-ins whose source has changed since a checkpoint was written."""
    recorded = manifest.get("plugins")  # an older checkpoint has none
    for name in names:
        then = recorded.get(name) if isinstance(recorded, Mapping) else None
        if isinstance(then, Mapping) and then.get("sha256") != plugins.digest(name):
            old, new = then.get("git_commit"), commit_of(plugins.home(name).parent)
            at = f" (commit {brief(old, 40)} → {new})" if old != new else ""
            logger.warning("the source of plug-in %s has changed since this checkpoint%s: results may differ", name, at)


def started_in() -> str | None:
    """The current folder, to which paths are relative; None where it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def about(device: torch.device, overrides: list[str], plugin_names: Sequence[str]) -> dict[str, Any]:
    """The command, code and machine of a run."""
    return {
        "overrides": overrides,
        "cwd": started_in(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git_commit": git_commit(),
        "plugins": plugin_facts(plugin_names),
        "versions": versions(),
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
