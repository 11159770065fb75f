"""Files by address and hash, against a server on this machine that misbehaves."""

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

CONTENT = b"".join(b"line %05d\n" % number for number in range(4000))  # 44,000 bytes, none of which could be elsewhere
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NOBODY = "http://127.0.0.1:9/nobody"
pytestmark = pytest.mark.faults


class Server(BaseHTTPRequestHandler):
    """The path says how it misbehaves; those with `ranges` in it know the header Range."""

    asked: ClassVar[dict[str, int]] = {}
    headers_of: ClassVar[list[tuple[str, str | None]]] = []  # path and Range, as they come
    drops: ClassVar[list[int]] = []  # how many bytes a dripping answer came to
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
        if self.path == "/elsewhere" and wanted:  # not what was asked for
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
        if "/hold" in self.path:  # half of it, and then nothing more
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
        """A byte now and then, for as long as anyone listens, but at most for some seconds."""
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
def address() -> Iterator[str]:
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
    """The seconds that would have been waited for, of those that are any."""
    waited: list[float] = []
    monkeypatch.setattr(download, "wait", lambda seconds: waited.append(seconds) if seconds > 0 else None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("DLREF_OFFLINE", raising=False)
    return waited


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands while an address is asked, so that what is waited for is the whole pause on a busy machine too."""
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: 0.0))


def file_from(*addresses: str) -> RemoteFile:
    return RemoteFile("set/file", DIGEST, addresses)


def left(root: Path) -> set[str]:
    """What lies in the folder of the set, locks apart, which stay."""
    return {path.name for path in root.glob("set/*") if path.suffix != ".lock"}


def test_fault_13_every_data_set_has_addresses_at_two_hosts() -> None:
    assert len(known_files()) > 25
    for file in known_files():
        hosts = {urlsplit(address).hostname for address in file.addresses}
        assert len(hosts) >= 2, file.name
        assert all(urlsplit(address).scheme in ("http", "https") for address in file.addresses)
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)


@pytest.mark.parametrize(
    "bad", ["missing", "forbidden", "wrong", "reset", "longer", "shorter", "down", "hangs-up", "elsewhere"]
)
def test_fault_13_the_second_address_serves_what_the_first_does_not(bad: str, address: str, tmp_path: Path) -> None:
    file = file_from(f"{address}/{bad}", f"{address}/good")
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert left(tmp_path) == {"file"}


def test_fault_13_the_second_address_is_not_waited_for(address: str, tmp_path: Path, waits: list[float]) -> None:
    Server.retry_after = "30"
    fetch(file_from(NOBODY, f"{address}/missing", f"{address}/down", f"{address}/reset", f"{address}/good"), tmp_path)
    assert waits == []
    assert set(Server.asked.values()) == {1}


def test_fault_13_without_the_right_bytes_no_file_stays_and_the_way_out_is_said(address: str, tmp_path: Path) -> None:
    file = file_from(f"{address}/wrong", f"{address}/missing", NOBODY)
    with pytest.raises(DataError, match=DIGEST) as raised:
        fetch(file, tmp_path)
    said = str(raised.value)
    assert f"put it at {tmp_path / 'set' / 'file'}" in said
    assert f"/wrong: {len(CONTENT) - 1:,} bytes with sha256 " in said
    assert "/missing: HTTP status 404" in said
    assert "nobody: no connection" in said
    assert "\n" not in said
    assert left(tmp_path) == set()


def test_fault_13_a_file_by_hand_is_found_without_asking_anyone(address: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file").write_bytes(CONTENT)
    assert fetch(file_from(f"{address}/good"), tmp_path).read_bytes() == CONTENT
    assert Server.asked == {}


def test_fault_13_a_damaged_file_is_neither_used_nor_overwritten(address: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file").write_bytes(b"mine")
    with pytest.raises(DataError, match="sha256"):
        fetch(file_from(f"{address}/good"), tmp_path)
    assert (tmp_path / "set" / "file").read_bytes() == b"mine"


@pytest.mark.parametrize(("way", "times"), [("slow", 1), ("reset-once", 2), ("down-once", 2)])
def test_fault_13_a_slow_or_once_broken_connection_is_waited_for_or_tried_again(
    way: str, times: int, address: str, tmp_path: Path
) -> None:
    assert fetch(file_from(f"{address}/{way}"), tmp_path).read_bytes() == CONTENT
    assert Server.asked == {f"/{way}": times}


@pytest.mark.parametrize("way", ["missing", "forbidden", "wrong"])
def test_fault_13_what_is_not_there_is_not_asked_for_again(way: str, address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fetch(file_from(f"{address}/{way}"), tmp_path)
    assert Server.asked == {f"/{way}": 1}


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("way", ["down", "reset", "hangs-up"])
def test_fault_13_pauses_double_and_have_an_end(
    way: str, address: str, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TRIES", 6)
    monkeypatch.setattr(download, "LONGEST_WAIT", 4.0)
    with pytest.raises(DataError):
        fetch(file_from(f"{address}/{way}"), tmp_path)
    assert Server.asked == {f"/{way}": 6}
    assert len(waits) == 5
    for waited, pause in zip(waits, (0.5, 1, 2, 4, 4), strict=True):
        assert 0.75 * pause < waited <= min(1.2 * pause, 4)


def test_fault_13_pauses_of_two_processes_differ(address: str, tmp_path: Path, waits: list[float]) -> None:
    for _ in range(2):
        with pytest.raises(DataError):
            fetch(file_from(f"{address}/down"), tmp_path)
    half = len(waits) // 2
    assert max(abs(one - other) for one, other in zip(waits[:half], waits[half:], strict=True)) > 0.02


def test_fault_13_without_a_network_nobody_waits_long(tmp_path: Path, waits: list[float]) -> None:
    with pytest.raises(DataError, match="no connection"):
        fetch(file_from(NOBODY, "http://127.0.0.1:9/other"), tmp_path)
    assert sum(waits) < 2


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("way", ["down", "busy"])
@pytest.mark.parametrize(
    ("asked", "low", "high"), [("7", 6, 7), ("date", 30, 40), ("86400", 59, 60), ("soon", 0.3, 0.6), (None, 0.3, 0.6)]
)
def test_fault_13_a_server_that_asks_for_time_gets_it_up_to_a_minute(
    way: str, asked: str | None, low: float, high: float, address: str, tmp_path: Path, waits: list[float]
) -> None:
    Server.retry_after = formatdate(time.time() + 40, usegmt=True) if asked == "date" else asked
    with pytest.raises(DataError, match=r"HTTP status (503|429)"):
        fetch(file_from(f"{address}/{way}"), tmp_path)
    assert low < waits[0] <= high


def test_fault_13_a_broken_download_goes_on_where_it_broke_off(address: str, tmp_path: Path) -> None:
    assert fetch(file_from(f"{address}/ranges-reset"), tmp_path).read_bytes() == CONTENT
    assert Server.headers_of == [
        ("/ranges-reset", None),
        ("/ranges-reset", "bytes=15000-"),
        ("/ranges-reset", "bytes=30000-"),
    ]
    assert left(tmp_path) == {"file"}


def test_fault_13_another_address_goes_on_with_what_the_first_began(address: str, tmp_path: Path) -> None:
    assert fetch(file_from(f"{address}/reset", f"{address}/ranges"), tmp_path).read_bytes() == CONTENT
    assert Server.headers_of[1:] == [("/ranges", "bytes=15000-")]


def test_fault_13_a_broken_download_is_kept_for_the_next_run(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="broke off"):
        fetch(file_from(f"{address}/reset"), tmp_path)
    assert left(tmp_path) == {"file.part"}
    Server.headers_of.clear()
    fetch(file_from(f"{address}/ranges"), tmp_path)
    assert Server.headers_of == [("/ranges", "bytes=15000-")]


@pytest.mark.parametrize("way", ["good", "ranges", "elsewhere"])
@pytest.mark.parametrize("leftover", [b"", b"no such beginning", CONTENT[:9000], CONTENT, CONTENT + b"and more"])
def test_fault_13_no_leftover_does_harm(way: str, leftover: bytes, address: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.part").write_bytes(leftover)
    assert fetch(file_from(f"{address}/{way}"), tmp_path).read_bytes() == CONTENT
    assert left(tmp_path) == {"file"}


def test_fault_13_another_range_than_the_one_asked_for_is_not_even_read(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.part").write_bytes(CONTENT[:9000])
    monkeypatch.setattr(download, "TRIES", 1)
    with pytest.raises(DataError, match="does not go on from byte 9,000"):
        fetch(file_from(f"{address}/elsewhere"), tmp_path)
    assert left(tmp_path) == set()


def test_fault_13_bytes_are_kept_as_they_come(address: str, tmp_path: Path) -> None:
    """Some servers declare a .gz file to be encoded by gzip; decoded it would not be the file any more."""
    assert fetch(file_from(f"{address}/encoded"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("way", first("drip", of=["silent", "hold", "drip"]))
def test_fault_13_a_server_that_stands_still_is_left_for_the_next(
    way: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL", 1.0)  # in which a busy machine still sends what the second one has
    start = time.monotonic()
    assert fetch(file_from(f"{address}/{way}", f"{address}/ranges"), tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - start < 60  # the server would have waited for longer
    assert Server.asked == {f"/{way}": 1, "/ranges": 1}
    began = Server.headers_of[1][1]  # behind what the first had sent
    assert began == "bytes=22000-" if way == "hold" else began is None if way == "silent" else began is not None
    assert Server.drops == [] if way != "drip" else Server.drops[0] < 400  # it would have gone on


def test_fault_13_where_all_stand_still_it_ends(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setattr(download, "STALL", 0.1)
    with pytest.raises(DataError, match=r"less than 32 KiB came in 0\.1 s"):
        fetch(file_from(f"{address}/silent", f"{address}/hold"), tmp_path)
    assert Server.asked == {"/silent": 5, "/hold": 5}


@pytest.mark.parametrize("value", ["1", "yes"])
def test_fault_13_offline_nobody_is_asked_and_the_way_out_is_said(
    value: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLREF_OFFLINE", value)
    with pytest.raises(DataError, match=f"DLREF_OFFLINE is {value}") as raised:
        fetch(file_from(f"{address}/good"), tmp_path)
    assert Server.asked == {}
    for expected in (DIGEST, f"{address}/good", f"put it at {tmp_path / 'set' / 'file'}"):
        assert expected in str(raised.value)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file").write_bytes(CONTENT)
    assert fetch(file_from(f"{address}/good"), tmp_path) == tmp_path / "set" / "file"


@pytest.mark.parametrize("value", ["0", ""])
def test_fault_13_online_as_long_as_nobody_forbids_it(
    value: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLREF_OFFLINE", value)
    assert fetch(file_from(f"{address}/good"), tmp_path).read_bytes() == CONTENT


def test_fault_13_a_full_disk_is_named_and_freed_of_what_came(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        fetch(file_from(f"{address}/good", f"{address}/ranges"), tmp_path)
    assert Server.asked == {"/good": 1}
    assert left(tmp_path) == set()


def test_fault_13_a_root_that_cannot_be_written_is_named(address: str, tmp_path: Path) -> None:
    (tmp_path / "set").write_bytes(b"a file where a folder should be")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "set"))):
        fetch(file_from(f"{address}/good"), tmp_path)


@pytest.mark.parametrize("way", ["missing", "down", "hangs-up", "nobody"])
def test_fault_13_a_root_is_not_made_before_something_comes(way: str, address: str, tmp_path: Path) -> None:
    file = file_from(NOBODY if way == "nobody" else f"{address}/{way}")
    with pytest.raises(DataError, match="mistyped"):
        fetch(file, tmp_path / "mistyped" / "root")
    assert list(tmp_path.iterdir()) == []
    assert fetch(file_from(f"{address}/good"), tmp_path / "meant" / "root").read_bytes() == CONTENT


def test_fault_13_two_at_once_both_get_the_file(address: str, tmp_path: Path) -> None:
    file, found = file_from(f"{address}/slow"), []
    threads = [threading.Thread(target=lambda: found.append(fetch(file, tmp_path).read_bytes())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT, CONTENT]
    assert Server.asked == {"/slow": 1}


def fetch_there(address: str, root: Path, unwinds: bool = False) -> int:
    """What a process of its own does; it `unwinds` where SIGTERM is handled as the command line does it."""
    if unwinds:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    fetch(file_from(address), root)
    return 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """`fetch` in a process of its own."""
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


def test_fault_13_two_processes_at_once_both_get_the_file_and_one_downloads(
    address: str, tmp_path: Path, start: Callable[..., Child]
) -> None:
    children = [start(f"{address}/slow", tmp_path) for _ in range(2)]
    assert [child.ended(300)[0] for child in children] == [0, 0]
    assert (tmp_path / "set" / "file").read_bytes() == CONTENT
    assert Server.asked == {"/slow": 1}


@pytest.mark.parametrize(
    ("number", "unwinds", "remains"),
    [(SIGKILL, False, {"file.part"}), (signal.SIGTERM, False, {"file.part"}), (signal.SIGTERM, True, set())],
)
def test_fault_13_killed_while_downloading_it_leaves_nothing_under_the_name_and_the_next_goes_on(
    number: int, unwinds: bool, remains: set[str], address: str, tmp_path: Path, start: Callable[..., Child]
) -> None:
    child, part = start(f"{address}/hold", tmp_path, unwinds), tmp_path / "set" / "file.part"
    child.waits_for(lambda: part.is_file() and part.stat().st_size > 10_000, 300)
    os.kill(child.pid, number)
    assert child.ended()[0] == (143 if unwinds else -number)
    assert left(tmp_path) == remains

    came = part.stat().st_size if remains else 0
    Server.headers_of.clear()
    assert fetch(file_from(f"{address}/ranges"), tmp_path).read_bytes() == CONTENT
    assert Server.headers_of == [("/ranges", f"bytes={came}-" if came else None)]
    assert left(tmp_path) == {"file"}
