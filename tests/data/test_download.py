"""Downloads from a local server that misbehaves."""

import errno
import functools
import hashlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from dlref.cli.commands.doctor import known_files
from dlref.data import download
from dlref.data.download import RemoteFile, fetch
from dlref.errors import DataError
from tests.conftest import POSIX, SIGKILL, first
from tests.faults.processes import Child

CONTENT = b"".join(b"line %05d\n" % number for number in range(4000))  # 44,000 bytes, each line unique
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NOBODY = "http://127.0.0.1:9/nobody"
pytestmark = pytest.mark.faults


class Server(BaseHTTPRequestHandler):
    """The path says how the server misbehaves; paths with `ranges` support the header Range."""

    asked: ClassVar[dict[str, int]] = {}
    headers_of: ClassVar[list[tuple[str, str | None]]] = []  # path and Range of each request
    drops: ClassVar[list[int]] = []  # how many bytes each dripping response has sent
    closing: ClassVar[threading.Event] = threading.Event()
    retry_after: ClassVar[str | None] = None

    def do_GET(self) -> None:
        times = self.asked[self.path] = self.asked.get(self.path, 0) + 1
        wanted = self.headers.get("Range")
        self.headers_of.append((self.path, wanted))
        start = int(wanted[6:-1]) if wanted and "ranges" in self.path else 0
        status = {"/missing": 404, "/forbidden": 403, "/down": 503, "/busy": 429}.get(self.path, 200)
        if self.path == "/down-once" and times == 1:
            status = 503
        if self.path == "/silent":
            self.closing.wait(100)
            return
        if self.path == "/hangs-up":
            self.close_connection = True
            return
        if status != 200:
            content = b""
        elif start >= len(CONTENT):
            status, content = 416, b""
        else:
            status, content = (206 if start else 200), CONTENT[start:]
        if self.path == "/wrong":
            content = content[:-1]
        if self.path == "/elsewhere" and wanted:  # another range than requested
            status, start = 206, 1
            content = CONTENT[1:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) + {"/longer": 100, "/shorter": -100}.get(self.path, 0)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if status in (429, 503) and self.retry_after is not None:
            self.send_header("Retry-After", self.retry_after)
        if self.path == "/encoded":
            self.send_header("Content-Encoding", "gzip" if self.headers["Accept-Encoding"] == "identity" else "br")
        self.end_headers()
        if "reset" in self.path and ("once" not in self.path or times == 1):
            content = content[:15_000]
        if "/hold" in self.path:  # half of it, then nothing
            self.wfile.write(content[:22_000])
            self.wfile.flush()
            self.closing.wait(100)
        elif self.path == "/drip":
            self.drip(content)
        else:
            for begin in range(0, len(content), 11_000):
                self.wfile.write(content[begin : begin + 11_000])
                self.wfile.flush()
                time.sleep(0.1 if self.path == "/slow" else 0)
        self.close_connection = True

    def drip(self, content: bytes) -> None:
        """One byte now and then, as long as the client listens, but at most for some seconds."""
        self.drops.append(0)
        while self.drops[-1] < 400 and not self.closing.wait(0.02):
            try:
                self.wfile.write(content[self.drops[-1] :][:1])
                self.wfile.flush()
            except OSError:
                return
            self.drops[-1] += 1

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Server.asked.clear()
    Server.headers_of.clear()
    Server.drops.clear()
    Server.closing.clear()
    Server.retry_after = None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The positive waiting times, which are recorded and not waited for."""
    waited: list[float] = []
    monkeypatch.setattr(download, "wait", lambda seconds: waited.append(seconds) if seconds > 0 else None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("DLREF_OFFLINE", raising=False)
    return waited


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped clock, so that waiting times are the whole pauses, on a busy machine too."""
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: 0.0))


def file_from(*urls: str) -> RemoteFile:
    return RemoteFile("set/file", DIGEST, urls)


def left(root: Path) -> set[str]:
    """The files in the folder of the data set, without locks, which stay."""
    return {path.name for path in root.glob("set/*") if path.suffix != ".lock"}


def test_fault_13_every_file_has_urls_at_two_hosts() -> None:
    assert len(known_files()) > 25
    for file in known_files():
        hosts = {urlsplit(url).hostname for url in file.urls}
        assert len(hosts) >= 2, file.name
        assert all(urlsplit(url).scheme in ("http", "https") for url in file.urls)
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)


@pytest.mark.parametrize(
    "bad", ["missing", "forbidden", "wrong", "reset", "longer", "shorter", "down", "hangs-up", "elsewhere"]
)
def test_fault_13_the_second_url_serves_what_the_first_does_not(bad: str, url: str, tmp_path: Path) -> None:
    file = file_from(f"{url}/{bad}", f"{url}/good")
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert left(tmp_path) == {"file"}


def test_fault_13_the_second_url_is_asked_at_once(url: str, tmp_path: Path, waits: list[float]) -> None:
    Server.retry_after = "30"
    fetch(file_from(NOBODY, f"{url}/missing", f"{url}/down", f"{url}/reset", f"{url}/good"), tmp_path)
    assert waits == []
    assert set(Server.asked.values()) == {1}


def test_fault_13_without_the_right_bytes_no_file_stays_and_the_error_says_what_to_do(url: str, tmp_path: Path) -> None:
    file = file_from(f"{url}/wrong", f"{url}/missing", NOBODY)
    with pytest.raises(DataError, match=DIGEST) as raised:
        fetch(file, tmp_path)
    said = str(raised.value)
    assert f"put it at {tmp_path / 'set' / 'file'}" in said
    assert f"/wrong: {len(CONTENT) - 1:,} bytes with sha256 " in said
    assert "/missing: HTTP status 404" in said
    assert "nobody: no connection" in said
    assert "\n" not in said
    assert left(tmp_path) == set()


def test_fault_13_a_file_put_there_by_hand_needs_no_download(url: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file").write_bytes(CONTENT)
    assert fetch(file_from(f"{url}/good"), tmp_path).read_bytes() == CONTENT
    assert Server.asked == {}


def test_fault_13_a_damaged_file_is_neither_used_nor_overwritten(url: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file").write_bytes(b"mine")
    with pytest.raises(DataError, match="sha256"):
        fetch(file_from(f"{url}/good"), tmp_path)
    assert (tmp_path / "set" / "file").read_bytes() == b"mine"


@pytest.mark.parametrize(("way", "times"), [("slow", 1), ("reset-once", 2), ("down-once", 2)])
def test_fault_13_a_slow_connection_is_waited_for_and_a_broken_one_retried(
    way: str, times: int, url: str, tmp_path: Path
) -> None:
    assert fetch(file_from(f"{url}/{way}"), tmp_path).read_bytes() == CONTENT
    assert Server.asked == {f"/{way}": times}


@pytest.mark.parametrize("way", ["missing", "forbidden", "wrong"])
def test_fault_13_a_refusal_or_wrong_bytes_are_not_retried(way: str, url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fetch(file_from(f"{url}/{way}"), tmp_path)
    assert Server.asked == {f"/{way}": 1}


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("way", ["down", "reset", "hangs-up"])
def test_fault_13_pauses_between_attempts_double_up_to_a_limit(
    way: str, url: str, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_ATTEMPTS", 6)
    monkeypatch.setattr(download, "MAX_WAIT", 4.0)
    with pytest.raises(DataError):
        fetch(file_from(f"{url}/{way}"), tmp_path)
    assert Server.asked == {f"/{way}": 6}
    assert len(waits) == 5
    for waited, pause in zip(waits, (0.5, 1, 2, 4, 4), strict=True):
        assert 0.75 * pause < waited <= min(1.2 * pause, 4)


def test_fault_13_pauses_of_two_processes_differ(url: str, tmp_path: Path, waits: list[float]) -> None:
    for _ in range(2):
        with pytest.raises(DataError):
            fetch(file_from(f"{url}/down"), tmp_path)
    half = len(waits) // 2
    assert max(abs(one - other) for one, other in zip(waits[:half], waits[half:], strict=True)) > 0.02


def test_fault_13_without_a_network_the_download_fails_fast(tmp_path: Path, waits: list[float]) -> None:
    with pytest.raises(DataError, match="no connection"):
        fetch(file_from(NOBODY, "http://127.0.0.1:9/other"), tmp_path)
    assert sum(waits) < 2


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("way", ["down", "busy"])
@pytest.mark.parametrize(
    ("asked", "low", "high"), [("7", 6, 7), ("date", 30, 40), ("86400", 59, 60), ("soon", 0.3, 0.6), (None, 0.3, 0.6)]
)
def test_fault_13_retry_after_is_respected_up_to_a_minute(
    way: str, asked: str | None, low: float, high: float, url: str, tmp_path: Path, waits: list[float]
) -> None:
    Server.retry_after = formatdate(time.time() + 40, usegmt=True) if asked == "date" else asked
    with pytest.raises(DataError, match=r"HTTP status (503|429)"):
        fetch(file_from(f"{url}/{way}"), tmp_path)
    assert low < waits[0] <= high


def test_fault_13_a_broken_download_resumes_where_it_broke(url: str, tmp_path: Path) -> None:
    assert fetch(file_from(f"{url}/ranges-reset"), tmp_path).read_bytes() == CONTENT
    assert Server.headers_of == [
        ("/ranges-reset", None),
        ("/ranges-reset", "bytes=15000-"),
        ("/ranges-reset", "bytes=30000-"),
    ]
    assert left(tmp_path) == {"file"}


def test_fault_13_another_url_resumes_what_the_first_began(url: str, tmp_path: Path) -> None:
    assert fetch(file_from(f"{url}/reset", f"{url}/ranges"), tmp_path).read_bytes() == CONTENT
    assert Server.headers_of[1:] == [("/ranges", "bytes=15000-")]


def test_fault_13_a_broken_download_is_kept_for_the_next_run(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="connection broke"):
        fetch(file_from(f"{url}/reset"), tmp_path)
    assert left(tmp_path) == {"file.part"}
    Server.headers_of.clear()
    fetch(file_from(f"{url}/ranges"), tmp_path)
    assert Server.headers_of == [("/ranges", "bytes=15000-")]


@pytest.mark.parametrize("way", ["good", "ranges", "elsewhere"])
@pytest.mark.parametrize("leftover", [b"", b"no such beginning", CONTENT[:9000], CONTENT, CONTENT + b"and more"])
def test_fault_13_any_leftover_part_ends_in_the_right_file(way: str, leftover: bytes, url: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.part").write_bytes(leftover)
    assert fetch(file_from(f"{url}/{way}"), tmp_path).read_bytes() == CONTENT
    assert left(tmp_path) == {"file"}


def test_fault_13_a_response_of_another_range_is_not_read(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.part").write_bytes(CONTENT[:9000])
    monkeypatch.setattr(download, "MAX_ATTEMPTS", 1)
    with pytest.raises(DataError, match="does not resume from byte 9,000"):
        fetch(file_from(f"{url}/elsewhere"), tmp_path)
    assert left(tmp_path) == set()


def test_fault_13_a_declared_content_encoding_is_not_decoded(url: str, tmp_path: Path) -> None:
    """Some servers declare a .gz file as gzip-encoded content; decoding it would change the file."""
    assert fetch(file_from(f"{url}/encoded"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("way", first("drip", of=["silent", "hold", "drip"]))
def test_fault_13_a_stalled_server_is_left_for_the_next_url(
    way: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 1.0)  # enough for the second URL on a busy machine
    start = time.monotonic()
    assert fetch(file_from(f"{url}/{way}", f"{url}/ranges"), tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - start < 60  # the server would have waited for longer
    assert Server.asked == {f"/{way}": 1, "/ranges": 1}
    began = Server.headers_of[1][1]  # after what the first has sent
    assert began == "bytes=22000-" if way == "hold" else began is None if way == "silent" else began is not None
    assert Server.drops == [] if way != "drip" else Server.drops[0] < 400  # it would have continued


def test_fault_13_where_all_servers_stall_the_download_fails(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 0.1)
    with pytest.raises(DataError, match=r"less than 32 KiB arrived in 0\.1 s"):
        fetch(file_from(f"{url}/silent", f"{url}/hold"), tmp_path)
    assert Server.asked == {"/silent": 5, "/hold": 5}


@pytest.mark.parametrize("value", ["1", "yes"])
def test_fault_13_offline_no_server_is_asked_and_the_error_says_what_to_do(
    value: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLREF_OFFLINE", value)
    with pytest.raises(DataError, match=f"DLREF_OFFLINE is {value}") as raised:
        fetch(file_from(f"{url}/good"), tmp_path)
    assert Server.asked == {}
    for expected in (DIGEST, f"{url}/good", f"put it at {tmp_path / 'set' / 'file'}"):
        assert expected in str(raised.value)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file").write_bytes(CONTENT)
    assert fetch(file_from(f"{url}/good"), tmp_path) == tmp_path / "set" / "file"


@pytest.mark.parametrize("value", ["0", ""])
def test_fault_13_downloads_are_allowed_by_default(
    value: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLREF_OFFLINE", value)
    assert fetch(file_from(f"{url}/good"), tmp_path).read_bytes() == CONTENT


def test_fault_13_a_full_disk_is_reported_and_the_part_removed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        fetch(file_from(f"{url}/good", f"{url}/ranges"), tmp_path)
    assert Server.asked == {"/good": 1}
    assert left(tmp_path) == set()


def test_fault_13_a_root_that_cannot_be_written_is_reported(url: str, tmp_path: Path) -> None:
    (tmp_path / "set").write_bytes(b"a file where a folder should be")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "set"))):
        fetch(file_from(f"{url}/good"), tmp_path)


@pytest.mark.parametrize("way", ["missing", "down", "hangs-up", "nobody"])
def test_fault_13_a_folder_is_created_only_once_a_server_answers(way: str, url: str, tmp_path: Path) -> None:
    file = file_from(NOBODY if way == "nobody" else f"{url}/{way}")
    with pytest.raises(DataError, match="mistyped"):
        fetch(file, tmp_path / "mistyped" / "root")
    assert list(tmp_path.iterdir()) == []
    assert fetch(file_from(f"{url}/good"), tmp_path / "meant" / "root").read_bytes() == CONTENT


def test_fault_13_two_threads_at_once_download_once(url: str, tmp_path: Path) -> None:
    file, found = file_from(f"{url}/slow"), []
    threads = [threading.Thread(target=lambda: found.append(fetch(file, tmp_path).read_bytes())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT, CONTENT]
    assert Server.asked == {"/slow": 1}


def fetch_there(url: str, root: Path, unwinds: bool = False) -> int:
    """Fetch in a child process; `unwinds` handles SIGTERM as the command line does."""
    if unwinds:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    fetch(file_from(url), root)
    return 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Starts `fetch` in a child process."""
    if not POSIX:
        pytest.skip("the test forks and kills processes")
    children = []

    def begin(*arguments: object) -> Child:
        action = functools.partial(fetch_there, *arguments)
        children.append(Child(tmp_path, action, None, {"NO_PROXY": "127.0.0.1", "DLREF_OFFLINE": ""}))
        return children[-1]

    yield begin
    for child in children:
        child.end()


def test_fault_13_two_processes_at_once_download_once(url: str, tmp_path: Path, start: Callable[..., Child]) -> None:
    children = [start(f"{url}/slow", tmp_path) for _ in range(2)]
    assert [child.ended(300)[0] for child in children] == [0, 0]
    assert (tmp_path / "set" / "file").read_bytes() == CONTENT
    assert Server.asked == {"/slow": 1}


@pytest.mark.parametrize(
    ("number", "unwinds", "remains"),
    [(SIGKILL, False, {"file.part"}), (signal.SIGTERM, False, {"file.part"}), (signal.SIGTERM, True, set())],
)
def test_fault_13_a_killed_download_leaves_no_file_and_the_next_run_resumes_it(
    number: int, unwinds: bool, remains: set[str], url: str, tmp_path: Path, start: Callable[..., Child]
) -> None:
    child, part = start(f"{url}/hold", tmp_path, unwinds), tmp_path / "set" / "file.part"
    child.waits_for(lambda: part.is_file() and part.stat().st_size > 10_000, 300)
    os.kill(child.pid, number)
    assert child.ended()[0] == (143 if unwinds else -number)
    assert left(tmp_path) == remains

    came = part.stat().st_size if remains else 0
    Server.headers_of.clear()
    assert fetch(file_from(f"{url}/ranges"), tmp_path).read_bytes() == CONTENT
    assert Server.headers_of == [("/ranges", f"bytes={came}-" if came else None)]
    assert left(tmp_path) == {"file"}
