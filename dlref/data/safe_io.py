"""Files that anybody may have made: no more is taken out of one than it holds, and nothing that has no end is waited for."""

import codecs
import gzip
import os
import zipfile
from pathlib import Path
from typing import Any

PIECE = 2**22  # bytes that are read at once
SMALL = 2**26  # bytes that any compressed file may hold, and a larger one
GZIP = b"\x1f\x8b"  # how such a file begins, and no text does
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # how Windows begins such texts
PACKED = 200  # times its own size: beyond that it was made to fill a memory or a disk


def unpackable(entry: zipfile.ZipInfo, path: Path) -> zipfile.ZipInfo:
    """This entry of an archive, unless reading it may take any amount of memory; that raises ValueError.

    Of bzip2 and LZMA a few bytes are unpacked at once, however much they stand for.
    """
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed by another method than deflate")
    if entry.compress_size > path.stat().st_size:
        raise ValueError("it announces more than there is")
    return entry


def room(path: Path) -> int:
    """How many bytes may come out of a file, compressed or not; raises OSError for a pipe or a device, which may never end."""
    if not os.path.isfile(path):
        raise OSError("it is no file" if os.path.exists(path) else "there is no such file")
    return max(SMALL, PACKED * os.path.getsize(path))


def unpacked(path: Path) -> Any:
    """A file to read bytes from, through gzip where its name ends with .gz or it begins as such files do."""
    file = open(path, "rb")  # noqa: SIM115 # the caller closes it
    if path.suffix != ".gz" and not file.peek(2).startswith(GZIP):
        return file
    file.close()
    return gzip.open(path)


def taken(file: Any, size: int) -> bytearray:
    """The next `size` bytes of a file, or those that there are: memory is taken for what comes, not for what is announced."""
    found = bytearray()
    while len(found) < size and (block := file.read(min(PIECE, size - len(found)))):
        found += block
    return found
