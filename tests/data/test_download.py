"""Files by address and hash, against a server on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dlref.data.download import RemoteFile, fetch
from dlref.errors import DataError

CONTENT = b"the right bytes" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = {"/good": CONTENT, "/wrong": CONTENT[:-1]}.get(self.path)
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def test_the_second_address_serves_what_the_first_does_not(address: str, tmp_path: Path) -> None:
    for bad in ("missing", "wrong"):
        file = RemoteFile(f"{bad}/file", DIGEST, [f"{address}/{bad}", f"{address}/good"])
        assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_without_the_right_bytes_no_file_stays_and_the_way_out_is_said(address: str, tmp_path: Path) -> None:
    file = RemoteFile("set/file", DIGEST, [f"{address}/wrong", f"{address}/missing", "http://127.0.0.1:9/nobody"])
    with pytest.raises(DataError, match=DIGEST) as raised:
        fetch(file, tmp_path)
    assert str(tmp_path / "set" / "file") in str(raised.value)
    assert {path.name for path in (tmp_path / "set").iterdir()} <= {"file.lock"}


def test_a_file_by_hand_is_found_without_asking_anyone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file").write_bytes(CONTENT)
    assert fetch(RemoteFile("set/file", DIGEST, ["http://127.0.0.1:9/nobody"]), tmp_path).read_bytes() == CONTENT


def test_a_damaged_file_is_neither_used_nor_overwritten(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DataError, match="sha256"):
        fetch(RemoteFile("file", DIGEST, [f"{address}/good"]), tmp_path)
    assert (tmp_path / "file").read_bytes() == b"mine"
