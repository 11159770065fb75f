"""Files of unknown origin: reading one never takes more memory than it holds, and never waits for a file without an end."""

import codecs
import gzip
import os
import zipfile
from pathlib import Path
from typing import IO, Any

CHUNK = 2**22  # bytes read at once
SMALL = 2**26  # unpacked bytes that any compressed file may have
MAX_RATIO = 200  # of unpacked to packed bytes in larger files; a higher one was made to fill a memory or a disk
GZIP = b"\x1f\x8b"  # the first bytes of a gzip file, and of no text
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # byte order marks that Windows writes


def checked_entry(entry: zipfile.ZipInfo, path: Path) -> zipfile.ZipInfo:
    """This entry of an archive; raises ValueError where reading a few of its bytes may take any amount of memory.

    That is so with bzip2 and LZMA, whose readers unpack a whole block at once.
    """
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed by another method than deflate")
    if entry.compress_size > path.stat().st_size:
        raise ValueError("it announces more than there is")
    return entry


def max_unpacked_size(path: Path) -> int:
    """The most bytes that a file may unpack to; raises OSError for a pipe or a device, which may never end."""
    if not os.path.isfile(path):
        raise OSError("it is no file" if os.path.exists(path) else "there is no such file")
    return max(SMALL, MAX_RATIO * os.path.getsize(path))


def open_unpacked(path: Path) -> Any:
    """The file opened for reading bytes, through gzip if its name ends with .gz or its first bytes say so."""
    file = open(path, "rb")  # noqa: SIM115 # the caller closes it
    if path.suffix != ".gz" and not file.peek(2).startswith(GZIP):
        return file
    file.close()
    return gzip.open(path)


def read_up_to(file: IO[bytes] | gzip.GzipFile, size: int) -> bytearray:
    """The next `size` bytes of a file, or as many as there are: memory is taken for what is read, not for what is announced."""
    content = bytearray()
    while len(content) < size and (chunk := file.read(min(CHUNK, size - len(content)))):
        content += chunk
    return content
