"""Plug-ins: Python files and packages of a user's own, named by `plugins=` on the command line.

Of what files their source consists, and where in it an error arose.
"""

import ast
import hashlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

loaded: set[str] = set()  # names of the modules that the command line has named in this process


def home(name: str) -> Path:
    """The file of a module, or the folder of a package."""
    file = Path(sys.modules[name].__file__ or "").resolve()
    return file.parent if file.name == "__init__.py" else file


def sources(name: str) -> list[Path]:
    """The files of a plug-in: all of a package, else its own and what it imports from its folder, directly or indirectly."""
    start = home(name)
    waiting, found = [start], list[Path]()
    while waiting:
        path = waiting.pop()
        files = path.rglob("*.py") if path.is_dir() else [path]
        new = [file for file in files if file not in found and file.is_file()]
        found += new
        if not start.is_dir():
            waiting += [other for file in new for other in imported_from(file, start.parent)]
    return sorted(found)


def imported_from(file: Path, folder: Path) -> Iterator[Path]:
    """The files and packages of a folder that a file imports."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for top in {folder / name.partition(".")[0] for name in names if name}:
            if top.with_suffix(".py").is_file():
                yield top.with_suffix(".py")
            elif (top / "__init__.py").is_file():
                yield top


def digest(name: str) -> str:
    """The sha256 of all files of a plug-in, their names among it."""
    start, found = home(name), hashlib.sha256()
    for file in sources(name):
        content = file.read_bytes()
        found.update(f"{file.relative_to(start.parent).as_posix()}\0{len(content)}\0".encode(errors="surrogateescape"))
        found.update(content)
    return found.hexdigest()


def place(error: BaseException, files: Iterable[Path]) -> str | None:
    """`FILE, line N, in FUNCTION`: the last place in one of these files that an error came through."""
    known, found = {file.resolve() for file in files}, None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if Path(frame.f_code.co_filename).resolve() in known:
            found = f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
    return found


def place_in_plugins(error: BaseException) -> str | None:
    """The place in a plug-in where an error arose, None where it came through none."""
    return place(error, [file for name in loaded if name in sys.modules for file in sources(name)])


def place_in(cls: type, error: BaseException) -> str:
    """The place in the file of a callable class where an error arose, else where it defines what is called."""
    called = cls.__call__
    try:
        file, line = inspect.getfile(called), inspect.getsourcelines(called)[1]
    except (TypeError, OSError):  # it is in no file
        return cls.__qualname__
    return place(error, [Path(file)]) or f"{file}, line {line}"
