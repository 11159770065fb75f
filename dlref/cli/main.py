"""The command `dlref`: finds the sub-command, and turns what goes wrong into one sentence and an exit code."""

import atexit
import contextlib
import csv
import importlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TextIO

from dlref import filesystem, plugins, signals
from dlref.cli.arguments import COMMANDS, command_parser
from dlref.errors import ConfigError, DlrefError, brief, did_you_mean

USAGE = """dlref COMMAND --help describes a command. What a config holds is set by key=value, everything else by flags:

  dlref train model=mlp network.widths=[200] optimizer.lr=1e-2
  dlref evaluate RUN --split eval device=cpu"""
TRACEBACK = "DLREF_TRACEBACK"  # set, it has the whole traceback of what fails in a plug-in
logger = logging.getLogger("dlref")


class StderrHandler(logging.Handler):
    """Writes log records to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        write_error(self.format(record))


def write_error(message: str) -> None:
    """Write a line to standard error, above a progress bar if there is one; a closed pipe or a full disk is ignored."""
    bar = sys.modules.get("tqdm")
    try:
        if bar is not None:
            bar.tqdm.write(message, file=sys.stderr)
        else:
            print(message, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    configure_logging()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return exit_code_of(lambda: print(usage(), flush=True) or 0)
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"dlref {version('dlref')}")
        return 0
    with signals.unwinding():
        return exit_code_of(lambda: run(arguments[0], arguments[1:]))


def configure_logging() -> None:
    """Log to standard error; of several ranks only the first logs more than errors."""
    prepare_streams()
    if not logger.handlers:
        logger.addHandler(StderrHandler())
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)


def prepare_streams() -> None:
    """Have standard output and error take any text: what an encoding lacks is escaped instead of raised."""
    for descriptor in range(3):  # or the first files that are opened would be taken for what is closed
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # a program without a console, as pythonw.exe starts one
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # Windows gives a file or a pipe its old code page; what is read is UTF-8, so this is too.
            is_ours = filesystem.WINDOWS and not stream.isatty() and not os.environ.get("PYTHONIOENCODING")
            with contextlib.suppress(OSError, ValueError):  # it is full, closed, or nobody listens any more
                stream.reconfigure(encoding="utf-8" if is_ours else None, errors="backslashreplace")


def run(name: str, words: Sequence[str]) -> int:
    """The exit code of a command with these words after its name."""
    if name not in COMMANDS:
        raise ConfigError(f"there is no command '{brief(name)}'{did_you_mean(name, COMMANDS)}")
    try:
        arguments = command_parser(name).parse(words)
    except ConfigError as error:
        write_error(f"dlref {name}: {error}")
        return error.exit_code
    return 0 if arguments is None else importlib.import_module(f"dlref.cli.commands.{name}").main(arguments)


def exit_code_of(action: Callable[[], int]) -> int:
    """The exit code of an action, which writes one sentence to standard error where it fails."""
    try:
        return signals.until_received(action)
    except DlrefError as error:
        write_error(f"dlref: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        write_error("dlref: interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # dlref list | head
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return 0
    except Exception as error:
        place = plugins.place_in_plugins(error)
        if place is None or os.environ.get(TRACEBACK):
            raise
        write_error(
            f"dlref: {place}: {type(error).__name__}: {brief(error, 400)}; {TRACEBACK}=1 shows the whole traceback"
        )
        return 1


def usage() -> str:
    """The output of `dlref --help`."""
    lines = [f"  {name:<11} {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: dlref COMMAND …", "", "commands:", *lines, "", USAGE])


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, the first of them the column names, in columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """`print_table` of rows by name, numbers to four digits."""
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    print_table([list(rows[0]), *cells])


def write_rows(rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    """Write rows by name, all of the same names, as CSV."""
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def entry() -> None:
    """The console script, and the scripts folder's."""
    try:
        code = main()
    except SystemExit as stop:  # a signal outside of training
        code = stop.code if isinstance(stop.code, int) else 1
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process without Python's finalization, once everything that was registered for its end is done.

    Finalization kills daemon threads, and one that computes in torch at that moment aborts the process; the destructors of
    a process group can wait for ever; and freeing what torch has loaded takes a second or two.
    """
    threading._shutdown()  # type: ignore[attr-defined] # or pools of a launcher's processes would wait for work
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed, or none
            stream.flush()
    os._exit(code)
