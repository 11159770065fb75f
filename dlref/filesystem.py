"""What systems do differently with files and folders."""

import os
import re
import time
from pathlib import Path

WINDOWS = os.name == "nt"
BUSY = 2.0  # seconds for which Windows may refuse a rename because a scanner of files is reading what is new


def move(source: Path, target: Path) -> None:
    """Rename a file, or a folder where there is no `target`, in one step; raises OSError where that is refused."""
    until = time.monotonic() + BUSY
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() >= until:
                raise
        time.sleep(0.02)


def printable(text: object) -> str:
    """As text that any encoding of Unicode takes: bytes of a file's name that are no UTF-8 are escaped."""
    return str(text).encode(errors="backslashreplace").decode()


def file_name(text: str) -> str:
    """`text` as the name of a file on any system: what Windows reserves becomes an underscore."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", text)
