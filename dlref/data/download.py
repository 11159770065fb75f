"""Downloads of files known by URL and sha256 into the data root."""

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

CONNECT_SECONDS = 10.0  # timeout of a connection
STALL_SECONDS = 30.0  # timeout of a read, and the time in which at least
MIN_BYTES = 2**15  # have to arrive
MAX_ATTEMPTS = 5  # per URL, where the failure may be temporary
MAX_WAIT = 60.0  # seconds between two attempts, whatever Retry-After says

logger = logging.getLogger("dlref")


class RemoteFile(NamedTuple):
    name: str  # path below the data root, such as mnist/train-images-idx3-ubyte.gz
    sha256: str
    urls: Sequence[str]  # mirrors of the same bytes


class Failure(NamedTuple):
    reason: str
    attempts: int  # how many the URL gets in all
    retry_after: float = 0.0  # seconds that the server asks to wait


def github(repository: str, branch: str, path: str) -> list[str]:
    """URLs of a file in a public GitHub repository: at GitHub and at jsDelivr, which mirrors it."""
    raw = f"https://raw.githubusercontent.com/{repository}/{branch}/{path}"
    return [raw, f"https://cdn.jsdelivr.net/gh/{repository}@{branch}/{path}"]


def data_root(root: str | Path | None) -> Path:
    """`data.root` if given, else the environment variable DLREF_DATA, else the user's cache folder."""
    if root or os.environ.get("DLREF_DATA"):
        return Path(os.path.expanduser(root or os.environ["DLREF_DATA"]))
    return user_cache()


def user_cache() -> Path:
    """The user's cache folder; a temporary folder for a user without a home, such as a bare user id in a container."""
    import pooch

    try:
        return Path(pooch.os_cache("dlref"))
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"dlref-{os.getuid()}"
        if folder.exists() and folder.stat().st_uid != os.getuid():
            raise ConfigError(
                f"{folder} belongs to another user and this user has no home; set HOME to a folder"
            ) from None
        return folder


def offline() -> bool:
    """Whether the environment variable DLREF_OFFLINE forbids downloads."""
    return os.environ.get("DLREF_OFFLINE", "0") not in ("", "0")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(file: RemoteFile, root: Path) -> Path:
    """The path of the file below `root`, downloaded from the first URL that serves the right bytes if it is missing.

    Raises DataError with hash, URL and path where no URL serves it, and where downloads are forbidden.
    """
    path = root / file.name
    if path.is_file():
        if sha256(path) == file.sha256:
            return path
        raise DataError(
            f"{path} has the sha256 {sha256(path)[:12]}…, not {file.sha256[:12]}…; remove it to download it again, or "
            f"replace it from {file.urls[0]}"
        )

    failures = [f"DLREF_OFFLINE is {os.environ['DLREF_OFFLINE']}"] if offline() else []
    try:
        if not failures:
            failures = download(file, path)
    except OSError as error:
        failures = [str(error)]
    if not path.is_file():
        raise DataError(
            f"{file.name} is not under {root} and could not be downloaded ({'; '.join(failures)}); fetch "
            f"{file.urls[0]} (sha256 {file.sha256}) and put it at {path}, or set data.root or DLREF_DATA"
        )
    return path


def part_path(path: Path) -> Path:
    """The path of an incomplete download, which resumes after a killed process or a broken connection."""
    return path.with_name(path.name + ".part")


def lock_for_missing_folder(path: Path) -> Path:
    """A lock file in the temporary folder, for a download whose own folder does not exist yet."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(
        tempfile.gettempdir(), f"dlref-{hashlib.sha256(f'{user} {path.absolute()}'.encode()).hexdigest()[:16]}.lock"
    )


def download(file: RemoteFile, path: Path) -> list[str]:
    """Download from the URLs in turn, with retries; returns the failures, none once the file exists.

    Of two runs at once, one downloads and the other waits. The folder is created only once a URL has answered, so not for a
    mistyped root; until then the lock is in the temporary folder.
    """
    part, failures, attempts = part_path(path), dict[str, str](), Counter[str]()
    due = dict.fromkeys(file.urls, 0.0)  # next attempt of each URL, by the monotonic clock
    lock, folder_lock = (
        filelock.FileLock(path.with_name(path.name + ".lock")),
        filelock.FileLock(lock_for_missing_folder(path)),
    )

    def missing() -> bool:
        """Lock the file, waiting for another run; whether it is still missing then."""
        if not lock.is_locked:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        return not path.is_file()

    try:
        if not path.parent.is_dir():
            folder_lock.acquire()
        if path.parent.is_dir() and not missing():
            return []
        while due:
            url = min(due, key=due.__getitem__)
            wait(due[url] - time.monotonic())
            if (failure := receive(url, part, file.sha256, missing)) is None:
                if missing():
                    filesystem.move(part, path)
                return []
            failures[url] = failure.reason
            attempts[url] += 1
            if attempts[url] < failure.attempts:
                # Jitter, so that clients that lost the same server do not come back at the same moment.
                pause = 2.0 ** (attempts[url] - 2) * random.SystemRandom().uniform(0.8, 1.2)
                due[url] = time.monotonic() + min(max(pause, failure.retry_after), MAX_WAIT)
            else:
                del due[url]
    except BaseException:  # a signal, a full disk
        if lock.is_locked:
            part.unlink(missing_ok=True)
        raise
    finally:
        lock.release()
        folder_lock.release()
    return [f"{url}: {failure}" for url, failure in failures.items()]


def wait(seconds: float) -> None:
    time.sleep(max(seconds, 0.0))


def receive(url: str, part: Path, digest: str, missing: Callable[[], bool]) -> Failure | None:
    """Download into `part`, resuming what it holds; None once it has the sha256 `digest`, else the failure.

    None too if the file is no longer `missing` when the server answers.
    """
    import requests
    import urllib3

    start = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS)) as response:
            status, content_range = response.status_code, response.headers.get("Content-Range", "")
            if status == 416 or (status == 206 and not content_range.startswith(f"bytes {start}-")):
                part.unlink(missing_ok=True)
                return Failure(f"it does not resume from byte {start:,}", MAX_ATTEMPTS)
            if status not in (200, 206):
                temporary = status in (408, 425, 429) or status >= 500
                return Failure(f"HTTP status {status}", MAX_ATTEMPTS if temporary else 1, retry_after(response))
            if not missing():
                return None
            start = start if status == 206 else 0  # not every server can resume
            logger.info("downloading %s from %s", part.stem, url)
            save(response, part, start)
    except requests.ConnectionError as error:
        # Mostly there is no network, which a retry does not change.
        unreached = error.args and isinstance(error.args[0], urllib3.exceptions.MaxRetryError)
        return Failure("no connection", 2 if unreached else MAX_ATTEMPTS)
    except (requests.Timeout, urllib3.exceptions.HTTPError, TimeoutError):
        return Failure(
            f"the connection broke, or less than {MIN_BYTES // 2**10} KiB arrived in {STALL_SECONDS:g} s", MAX_ATTEMPTS
        )
    except (requests.RequestException, ValueError) as error:
        return Failure((str(error).splitlines() or [type(error).__name__])[0][:120], 1)

    if (found := sha256(part)) == digest:
        return None
    failure = f"{part.stat().st_size:,} bytes with sha256 {found[:12]}…, not {digest[:12]}…"
    part.unlink()
    return Failure(failure, MAX_ATTEMPTS if start else 1)  # the resumed part may have been wrong


def retry_after(response: Any) -> float:
    """Seconds to wait by the header Retry-After, which holds seconds or a date; 0 without one."""
    import urllib3

    with contextlib.suppress(urllib3.exceptions.HTTPError):
        return urllib3.Retry().get_retry_after(response.raw) or 0.0
    return 0.0


def save(response: Any, part: Path, start: int) -> None:
    """Write the response into `part` from byte `start`; raises TimeoutError where too few bytes arrive."""
    with open(part, "ab" if start else "wb") as file:
        since, received = time.monotonic(), 0
        while chunk := response.raw.read1(2**16, decode_content=False):
            file.write(chunk)
            received += len(chunk)
            if time.monotonic() - since > STALL_SECONDS:
                if received < MIN_BYTES:
                    raise TimeoutError
                since, received = time.monotonic(), 0
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the name without its content
