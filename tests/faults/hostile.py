"""Input that nobody meant: how whole files are spoilt, and what a reader may do with them."""

import contextlib
import io
import os
import signal
import struct
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dlref.data.safe_io import CHUNK
from dlref.errors import DataError, DlrefError
from tests.conftest import POSIX, resource

SECONDS = 20  # of computing, for a file of a few bytes: a busy machine does not fail a test, an endless loop does
WAITING = 120  # seconds for what does not even compute
MEMORY = 2**29  # bytes on top of what the process has, for anything
ENOUGH = 2 * CHUNK  # bytes that refusing a file may take, of which one chunk was read and one is kept

NUMBERS = [0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1]
PACKED = [struct.pack(f"{order}{size}", number & (2**bits - 1))
          for number in NUMBERS for order in "<>" for size, bits in (("H", 16), ("I", 32), ("Q", 64))]  # fmt: skip
LETTERS = ["\x1b[2J", "\u2028\u200b", "nan", "-inf", "1e999", "1e308", "1_0", "0x10", "<unk>", "<pad>", "▁", "中" * 50]
LETTERS += [*map(str, NUMBERS), "9" * 400, "x" * 3000, "\r\n", "\r", "\n\n", " ", "\t", ",", ";", '"', "\0", "\ufeff"]
TOKENS = [b"\xff", b"\x80", b"\xed\xa0\x80", *(text.encode() for text in LETTERS)]


class Late(BaseException):
    """Not an Exception, so that nobody who catches those hides it."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A context that ends by an exception what takes too long or asks for too much memory; without POSIX it does not."""
    if not POSIX:
        yield
        return

    def ring(*_: Any) -> None:
        raise Late

    before = {sign: signal.signal(sign, ring) for sign in (signal.SIGPROF, signal.SIGALRM)}
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError):  # elsewhere than on Linux no limit is set
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    try:
        yield
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        for sign, handler in before.items():
            signal.signal(sign, handler)


def refusal_of(read: Callable[[], Any], *kinds: type[DlrefError]) -> str | None:
    """What is said where `read` refuses its input, or None where it reads it; anything else fails the test.

    A refusal is an error of one of these kinds, DataError unless others are named, of one line, and no attempt to take
    memory was behind it.
    """
    try:
        with bounded():
            read()
    except DlrefError as refused:
        error: BaseException | None = refused
    else:
        return None
    said = str(error)
    assert isinstance(error, kinds or DataError), repr(error)
    assert not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in said), repr(said)
    assert len(said) < 2000
    while error is not None:
        assert not isinstance(error, MemoryError), said
        assert "can't allocate" not in str(error), said
        error = error.__context__
    return said


def assert_refused(
    said: str, read: Callable[..., Any], *given: Any, kinds: Sequence[type[DlrefError]] = (), most: int = ENOUGH
) -> None:
    """`read(*given)` is refused in a sentence with these words, for which Python and NumPy take so many bytes at the most."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        sentence = refusal_of(lambda: read(*given), *kinds)
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert sentence is not None, "it was read"
    assert said in sentence, sentence
    assert grown < most, f"{grown:,} bytes"


@st.composite
def spoilt(draw: st.DrawFn, contents: Sequence[bytes]) -> bytes:
    """One of these, with bytes flipped, cut out, doubled, put in, or taken from another one, a few times."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        stop = min(start + draw(st.sampled_from([1, 2, 4, 8, 30, 1000])), len(content))
        match draw(st.sampled_from(["flip", "cut", "end", "double", "put", "over", "splice"])):
            case "flip" if content:
                content[start] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[start:stop]
            case "end":
                del content[start:]
            case "double":
                content[start:start] = content[start:stop]
            case "put":
                content[start:start] = draw(st.sampled_from(TOKENS))
            case "over":
                token = draw(st.sampled_from(PACKED))
                content[start : start + len(token)] = token
            case "splice":
                content[start:stop] = draw(st.sampled_from(contents))[start:]
    return bytes(content)


VALUES = [
    None,
    True,
    False,
    *NUMBERS,
    10**30,
    -(2**63),
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a\nb",
    "\ud800",
]
VALUES += ["x" * 3000, "os.system", "dlref.models.mlp.MLP", "${oc.env:HOME}", "../../etc", "\0", [], [[]], [-1], ["a"]]
VALUES += [{}, [float("nan")], [[2**40]], {"a": 1}, {"_target_": "os.system", "command": "exit"}, {"": None}]
NAMES = ["", "a\nb", "x" * 300, "\ud800", "_target_", "step", "width"]


@st.composite
def misspoken(draw: st.DrawFn, plain: Any) -> Any:
    """A nest of lists and mappings in which one value is another one, or gone, or under another name."""
    if not isinstance(plain, dict | list) or not plain or draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(VALUES))
    place = draw(st.sampled_from(sorted(plain) if isinstance(plain, dict) else range(len(plain))))
    changed = dict(plain) if isinstance(plain, dict) else list(plain)
    match draw(st.integers(0, 9)), changed:
        case 0, _:
            del changed[place]
        case 1, dict():
            changed[draw(st.sampled_from(NAMES))] = changed.pop(place)
        case _:
            changed[place] = draw(misspoken(plain[place]))
    return changed


class Call:
    """Unpickled by a reader that runs what it reads, what a call returns."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def bomb(marker: Path) -> Call:
    """Run, it leaves a file behind."""
    return Call(os.system, f"touch {marker}")


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, method)
    return archive.getvalue()


def npy(shape: str, dtype: str, data: bytes = b"", version: int = 1) -> bytes:
    """An array of NumPy's format whose header says this, whatever there is."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + data


def saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def idx(shape: Sequence[int], data: bytes, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data
