"""What is made once of files and settings, and found again under a name made of both."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import filelock

from dlref import filesystem
from dlref.data.download import user_cache
from dlref.errors import DataError

T = TypeVar("T")


def cache_folder() -> Path:
    """The environment variable DLREF_CACHE, else the user's cache folder."""
    if os.environ.get("DLREF_CACHE"):
        return Path(os.path.expanduser(os.environ["DLREF_CACHE"]))
    return user_cache() / "ids"


def cached(content: Any, build: Callable[[Path], None], load: Callable[[Path], T | None]) -> T:
    """What `load` reads of the folder that `build` has filled, in this run or another.

    The folder is found by its `content`: the hashes of files and the settings, as plain values. Several runs may want it at
    once: one builds, under another name until it is whole, and the others wait. Raises DataError for a cache that cannot
    be written.
    """
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    home = cache_folder()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(home / f"{key}.lock"):
            if (found := load(home / key)) is not None:
                return found
            unfinished = home / f"{key}.part"  # of a process that was killed
            for leftover in (unfinished, home / key):
                shutil.rmtree(leftover, ignore_errors=True)
            unfinished.mkdir()
            try:
                build(unfinished)
                filesystem.move(unfinished, home / key)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            found = load(home / key)
    except OSError as error:
        raise DataError(
            f"{home} cannot keep the encoded text ({error.strerror or error}); set DLREF_CACHE to a folder that can"
        ) from None
    assert found is not None
    return found
