"""A cache on disk of encoded texts, addressed by the content of the files and the settings they were encoded with."""

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
    """What `load` reads from a cache folder, which `build` fills if `load` returns None.

    The folder's name is a hash of `content`, plain values: the hashes of the files and the settings. If several processes
    ask for it at once, one builds it under another name and renames it when it is complete, while the others wait. Raises
    DataError for a cache that cannot be written.
    """
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    home = cache_folder()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(home / f"{key}.lock"):
            if (loaded := load(home / key)) is not None:
                return loaded
            unfinished = home / f"{key}.part"
            for leftover in (unfinished, home / key):  # of a process that was killed, or damaged
                shutil.rmtree(leftover, ignore_errors=True)
            unfinished.mkdir()
            try:
                build(unfinished)
                filesystem.move(unfinished, home / key)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            loaded = load(home / key)
    except OSError as error:
        raise DataError(
            f"{home} cannot keep the encoded text ({error.strerror or error}); set DLREF_CACHE to a folder that can"
        ) from None
    assert loaded is not None
    return loaded
