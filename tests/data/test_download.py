"""Files by address and hash, against a server on this machine."""

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from dlref.data.download import RemoteFile, fetch
from dlref.errors import DataError

CONTENT = b"the right bytes" * 1000
pytestmark = pytest.mark.faults

DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    asked: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        times = self.asked[self.path] = self.asked.get(self.path, 0) + 1
        content = {"/missing": b"", "/wrong": CONTENT[:-1]}.get(self.path, CONTENT)
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content) + (100 if self.path == "/longer" else 0)))
        self.end_headers()
        if self.path == "/reset" or (self.path == "/reset-once" and times == 1):
            content = content[: len(content) // 2]
        pieces = [content] if self.path != "/slow" else [content[i : i + 3000] for i in range(0, len(content), 3000)]
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(0.1 if self.path == "/slow" else 0)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Server.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def test_fault_13_the_second_address_serves_what_the_first_does_not(address: str, tmp_path: Path) -> None:
    for bad in ("missing", "wrong", "reset", "longer"):
        file = RemoteFile(f"{bad}/file", DIGEST, [f"{address}/{bad}", f"{address}/good"])
        assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_fault_13_without_the_right_bytes_no_file_stays_and_the_way_out_is_said(address: str, tmp_path: Path) -> None:
    file = RemoteFile("set/file", DIGEST, [f"{address}/wrong", f"{address}/missing", "http://127.0.0.1:9/nobody"])
    with pytest.raises(DataError, match=DIGEST) as raised:
        fetch(file, tmp_path)
    assert str(tmp_path / "set" / "file") in str(raised.value)
    assert {path.name for path in (tmp_path / "set").iterdir()} <= {"file.lock"}


def test_fault_13_a_file_by_hand_is_found_without_asking_anyone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file").write_bytes(CONTENT)
    assert fetch(RemoteFile("set/file", DIGEST, ["http://127.0.0.1:9/nobody"]), tmp_path).read_bytes() == CONTENT


def test_fault_13_a_damaged_file_is_neither_used_nor_overwritten(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DataError, match="sha256"):
        fetch(RemoteFile("file", DIGEST, [f"{address}/good"]), tmp_path)
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("way", ["slow", "reset-once"])
def test_fault_13_a_slow_or_once_broken_connection_is_waited_for_or_tried_again(
    way: str, address: str, tmp_path: Path
) -> None:
    assert fetch(RemoteFile("file", DIGEST, [f"{address}/{way}"]), tmp_path).read_bytes() == CONTENT
    assert Server.asked == {f"/{way}": 2 if way == "reset-once" else 1}


def test_fault_13_what_is_not_there_is_not_asked_for_again(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fetch(RemoteFile("file", DIGEST, [f"{address}/missing"]), tmp_path)
    assert Server.asked == {"/missing": 1}


def test_fault_13_two_at_once_both_get_the_file(address: str, tmp_path: Path) -> None:
    file, found = RemoteFile("file", DIGEST, [f"{address}/slow"]), []
    threads = [threading.Thread(target=lambda: found.append(fetch(file, tmp_path).read_bytes())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT, CONTENT]
