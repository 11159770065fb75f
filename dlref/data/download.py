"""Files that are known by address and hash: found under the data root, or downloaded there."""

import contextlib
import hashlib
import logging
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from dlref import filesystem
from dlref.errors import ConfigError, DataError

CONNECT = 10.0  # seconds for a server to take the connection
STALL = 30.0  # seconds within which something has to come, and
LEAST = 2**15  # so many bytes in all
TRIES = 5  # of an address whose trouble may pass
LONGEST_WAIT = 60.0  # seconds between two of them, whatever a server asks for

logger = logging.getLogger("dlref")


class RemoteFile(NamedTuple):
    name: str  # below the data root, as in mnist/train-images-idx3-ubyte.gz
    sha256: str
    addresses: Sequence[str]  # any of them serves the same bytes


class Failure(NamedTuple):
    reason: str
    tries: int  # that an address is worth which fails like this
    asked: float = 0.0  # seconds for which the server wants to be left alone


def github(repository: str, branch: str, path: str) -> list[str]:
    """Where a file of a public repository lies: at GitHub, and at jsDelivr, which serves the files of all."""
    raw = f"https://raw.githubusercontent.com/{repository}/{branch}/{path}"
    return [raw, f"https://cdn.jsdelivr.net/gh/{repository}@{branch}/{path}"]


def data_root(root: str | Path | None) -> Path:
    """`data.root` if given, else the environment variable DLREF_DATA, else the user's cache folder."""
    if root or os.environ.get("DLREF_DATA"):
        return Path(os.path.expanduser(root or os.environ["DLREF_DATA"]))
    return user_cache()


def user_cache() -> Path:
    """The user's cache folder; below the temporary files where the user has no home, as a number in a container."""
    import pooch

    try:
        return Path(pooch.os_cache("dlref"))
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"dlref-{os.getuid()}"
        if folder.exists() and folder.stat().st_uid != os.getuid():
            raise ConfigError(f"{folder} is somebody else's and this user has no home; set HOME to a folder") from None
        return folder


def offline() -> bool:
    """Whether the environment variable DLREF_OFFLINE forbids to connect to anyone."""
    return os.environ.get("DLREF_OFFLINE", "0") not in ("", "0")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(file: RemoteFile, root: Path) -> Path:
    """The path of the file below `root`, downloaded from the first address that serves the right bytes.

    Raises DataError where no address does, or none may be asked, saying what was expected and where to put it by hand.
    """
    path = root / file.name
    if path.is_file():
        if sha256(path) == file.sha256:
            return path
        found = f"{path} is there, but its sha256 is {sha256(path)[:12]}…, not {file.sha256[:12]}…"
        raise DataError(f"{found}; remove it to download it again, or replace it from {file.addresses[0]}")

    failures = [f"DLREF_OFFLINE is {os.environ['DLREF_OFFLINE']}"] if offline() else []
    try:
        if not failures:
            failures = download(file, path)
    except OSError as error:
        failures = [str(error)]
    if not path.is_file():
        raise DataError(
            f"{file.name} is not under {root} and could not be downloaded ({'; '.join(failures)}); fetch "
            f"{file.addresses[0]} (sha256 {file.sha256}) and put it at {path}, or set data.root or DLREF_DATA"
        )
    return path


def partial(path: Path) -> Path:
    """Where a file lies until it is whole: what a killed process or a broken connection leaves there is gone on with."""
    return path.with_name(path.name + ".part")


def lock_elsewhere(path: Path) -> Path:
    """A file of the user's own in the folder of temporary files, for what lies where there is no folder yet."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(
        tempfile.gettempdir(), f"dlref-{hashlib.sha256(f'{user} {path.absolute()}'.encode()).hexdigest()[:16]}.lock"
    )


def download(file: RemoteFile, path: Path) -> list[str]:
    """Ask the addresses in turn, again after a while where that may help; what went wrong, nothing once the file is there.

    Two runs may want it at once: one downloads, the other waits. A folder is made once an address serves something to put
    there, and not for a mistyped root; until then there is a lock elsewhere, by which the runs of one machine wait.
    """
    part, failures, tries = partial(path), dict[str, str](), Counter[str]()
    due = dict.fromkeys(file.addresses, 0.0)  # when to ask each of them, by the monotonic clock
    lock, first = filelock.FileLock(path.with_name(path.name + ".lock")), filelock.FileLock(lock_elsewhere(path))

    def missing() -> bool:
        """Whether the file is still to be had, now that no other run is at it."""
        if not lock.is_locked:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        return not path.is_file()

    try:
        if not path.parent.is_dir():
            first.acquire()
        if path.parent.is_dir() and not missing():
            return []
        while due:
            address = min(due, key=due.__getitem__)
            wait(due[address] - time.monotonic())
            if (failure := receive(address, part, file.sha256, missing)) is None:
                if missing():
                    filesystem.move(part, path)
                return []
            failures[address] = failure.reason
            tries[address] += 1
            if tries[address] < failure.tries:
                # The jitter keeps apart the many who lost the same server at the same moment.
                pause = 2.0 ** (tries[address] - 2) * random.SystemRandom().uniform(0.8, 1.2)
                due[address] = time.monotonic() + min(max(pause, failure.asked), LONGEST_WAIT)
            else:
                del due[address]
    except BaseException:  # a signal, a full disk
        if lock.is_locked:
            part.unlink(missing_ok=True)
        raise
    finally:
        lock.release()
        first.release()
    return [f"{address}: {failure}" for address, failure in failures.items()]


def wait(seconds: float) -> None:
    time.sleep(max(seconds, 0.0))


def receive(address: str, part: Path, digest: str, missing: Callable[[], bool]) -> Failure | None:
    """Make `part` the content with this hash, whose beginning it may hold; None once it is, else why it is not.

    None too if the file turns out to be no longer `missing` when an address serves it.
    """
    import requests
    import urllib3

    start = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with requests.get(address, headers=headers, stream=True, timeout=(CONNECT, STALL)) as response:
            status, place = response.status_code, response.headers.get("Content-Range", "")
            if status == 416 or (status == 206 and not place.startswith(f"bytes {start}-")):
                part.unlink(missing_ok=True)
                return Failure(f"it does not go on from byte {start:,}", TRIES)
            if status not in (200, 206):
                passes = status in (408, 425, 429) or status >= 500
                return Failure(f"HTTP status {status}", TRIES if passes else 1, asked_to_wait(response))
            if not missing():
                return None
            start = start if status == 206 else 0  # not every server can go on
            logger.info("%s is downloaded from %s", part.stem, address)
            save(response, part, start)
    except requests.ConnectionError as error:
        # Who cannot be reached at all mostly stays so: there is no network, and nobody wants to wait for that.
        unreached = error.args and isinstance(error.args[0], urllib3.exceptions.MaxRetryError)
        return Failure("no connection", 2 if unreached else TRIES)
    except (requests.Timeout, urllib3.exceptions.HTTPError, TimeoutError):
        return Failure(f"it broke off, or less than {LEAST // 2**10} KiB came in {STALL:g} s", TRIES)
    except (requests.RequestException, ValueError) as error:
        return Failure((str(error).splitlines() or [type(error).__name__])[0][:120], 1)

    if (found := sha256(part)) == digest:
        return None
    failure = f"{part.stat().st_size:,} bytes with sha256 {found[:12]}…, not {digest[:12]}…"
    part.unlink()
    return Failure(failure, TRIES if start else 1)  # the beginning may have been what was wrong


def asked_to_wait(response: Any) -> float:
    """Seconds by the header Retry-After, which has them or a date; 0 without one."""
    import urllib3

    with contextlib.suppress(urllib3.exceptions.HTTPError):
        return urllib3.Retry().get_retry_after(response.raw) or 0.0
    return 0.0


def save(response: Any, part: Path, start: int) -> None:
    """Write what comes as it comes; raises TimeoutError where it is so little that it would never end."""
    with open(part, "ab" if start else "wb") as file:
        since, came = time.monotonic(), 0
        while piece := response.raw.read1(2**16, decode_content=False):
            file.write(piece)
            came += len(piece)
            if time.monotonic() - since > STALL:
                if came < LEAST:
                    raise TimeoutError
                since, came = time.monotonic(), 0
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the name without the content
