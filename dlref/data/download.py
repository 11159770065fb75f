"""Files that are known by address and hash: found under the data root, or downloaded there."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import filelock

from dlref.errors import DataError


class RemoteFile(NamedTuple):
    name: str  # below the data root, as in mnist/train-images-idx3-ubyte.gz
    sha256: str
    addresses: Sequence[str]  # any of them serves the same bytes


def data_root(root: str | Path | None) -> Path:
    """`data.root` if given, else the environment variable DLREF_DATA, else the user's cache folder."""
    if root or os.environ.get("DLREF_DATA"):
        return Path(os.path.expanduser(root or os.environ["DLREF_DATA"]))
    import pooch

    return Path(pooch.os_cache("dlref"))


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(file: RemoteFile, root: Path) -> Path:
    """The path of the file below `root`, downloaded from the first address that serves the right bytes.

    Raises DataError where no address does, saying what was expected and where to put the file by hand.
    """
    path = root / file.name
    if path.is_file():
        if sha256(path) == file.sha256:
            return path
        found = f"{path} is there, but its sha256 is {sha256(path)[:12]}…, not {file.sha256[:12]}…"
        raise DataError(f"{found}; remove it to download it again, or replace it from {file.addresses[0]}")

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(path.name + ".lock")):  # two runs may want it at once
            failures = [] if path.is_file() else download(file, path)
    except OSError as error:
        failures = [str(error)]
    if not path.is_file():
        raise DataError(
            f"{file.name} is not under {root} and could not be downloaded ({'; '.join(failures)}); fetch "
            f"{file.addresses[0]} (sha256 {file.sha256}) and put it at {path}, or set data.root or DLREF_DATA"
        )
    return path


def download(file: RemoteFile, path: Path, attempts: int = 2) -> list[str]:
    """Try each address, again where the connection broke; what went wrong, one line each, empty once the file is there."""
    import pooch
    import requests
    import urllib3

    failures: dict[str, str] = {}
    addresses = list(file.addresses)
    for _ in range(attempts):
        broken = []
        for address in addresses:
            try:  # pooch writes to a temporary name, compares the hash, and only then moves the file into place
                fetcher = pooch.HTTPDownloader(timeout=30, progressbar=False)
                pooch.retrieve(address, f"sha256:{file.sha256}", path.name, path.parent, downloader=fetcher)
                return []
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError,
                    urllib3.exceptions.ProtocolError):  # fmt: skip  # whose messages nest those of three libraries
                failures[address] = "no connection, or it broke"
                broken.append(address)
            except (requests.RequestException, OSError, ValueError) as error:
                failures[address] = (str(error).splitlines() or [type(error).__name__])[0][:120]
        addresses = broken
    return [f"{address}: {failure}" for address, failure in failures.items()]
