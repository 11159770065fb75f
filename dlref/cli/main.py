"""The command `dlref`: finds the sub-command, and turns what goes wrong into one sentence and an exit code."""

import atexit
import contextlib
import csv
import importlib
import io
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TextIO

from dlref import filesystem, plugins, signals
from dlref.errors import ConfigError, DlrefError, brief, did_you_mean

COMMANDS = {
    "train": "train a model, or go on with a run: model=… experiment=… key=value …, resume=RUN",
    "evaluate": "loss, figures and pictures of a trained model: RUN_OR_CHECKPOINT [split=test]",
    "predict": "what a trained model says of a table or of pictures: RUN FILE…",
    "generate": "text that a trained language model writes: RUN [--prompt TEXT] [--temperature 1] …",
    "translate": "lines that a trained model translates: RUN [--beam 1] < LINES > TRANSLATIONS",
    "neighbors": "words that are alike: RUN king queen, or RUN king - man + woman",
    "play": "greedy episodes of a model that learned from play: RUN [--episodes N] [--video FILE.gif]",
    "study": "a demonstration of the books, with its table and pictures: NAME [key=value …]",
    "search": "train with settings drawn at random, and keep a table: key=log(LOW,HIGH) …",
    "compare": "a table of runs, mean ± deviation over their seeds: RUN…",
    "list": "the models, experiments and data sets there are",
    "doctor": "what this machine has, and what is missing",
    "completion": 'shell completion: eval "$(dlref completion)"',
}

TRACEBACK = "DLREF_TRACEBACK"  # set, it has the whole traceback of what fails in a plug-in
logger = logging.getLogger("dlref")


class Printer(logging.Handler):
    """Sentences on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def say(message: str) -> None:
    """A line on standard error; where nobody listens any more, or its disk is full, the work goes on without."""
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
    speak()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return explained(lambda: print(usage(), flush=True) or 0)
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"dlref {version('dlref')}")
        return 0
    with signals.unwinding():
        return explained(lambda: run(arguments[0], arguments[1:]))


def speak() -> None:
    """Have this process say its sentences on standard error; of several ranks only the first says more than errors."""
    prepare_streams()
    if not logger.handlers:
        logger.addHandler(Printer())
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


def as_text(typed: str, what: str) -> str:
    """Text as it was typed, in whatever locale; raises ConfigError for bytes that are not UTF-8."""
    try:
        return typed.encode(errors="surrogateescape").decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{what} holds bytes that are not UTF-8; type it as UTF-8") from None


def in_shell(text: str) -> str:
    """A word as it is typed in this system's shell."""
    return subprocess.list2cmdline([text]) if filesystem.WINDOWS else shlex.quote(text)


def run(name: str, arguments: list[str]) -> int:
    if name not in COMMANDS:
        raise ConfigError(f"there is no command '{name}'{did_you_mean(name, COMMANDS)}")
    return importlib.import_module(f"dlref.cli.commands.{name}").main(arguments)


def explained(action: Callable[[], int]) -> int:
    """The exit code of an action, and one sentence where it fails."""
    try:
        return signals.until_received(action)
    except DlrefError as error:
        say(f"dlref: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("dlref: interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # dlref list | head
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return 0
    except Exception as error:
        place = plugins.place_in_plugins(error)
        if place is None or os.environ.get(TRACEBACK):
            raise
        say(f"dlref: {place}: {type(error).__name__}: {brief(error, 400)}; {TRACEBACK}=1 shows the whole traceback")
        return 1


def usage() -> str:
    lines = [f"  {name:<11} {what}" for name, what in COMMANDS.items()]
    example = "  dlref train model=mlp network.widths=[200] optimizer.lr=1e-2"
    return "\n".join(["usage: dlref COMMAND …", "", *lines, "", "for example", example, "  dlref train --help"])


def take_flags(arguments: Sequence[str], with_value: dict[str, Any], help_text: str) -> list[str] | None:
    """Move `--flag VALUE` and `--flag=VALUE` into `with_value` (a list collects, a bool notes); the rest, or None for help."""
    rest, waiting = [], iter(arguments)
    for argument in waiting:
        flag, equals, value = argument.partition("=")
        if argument in ("-h", "--help"):
            print(help_text)
            return None
        if flag in with_value:
            if isinstance(with_value[flag], bool):
                if equals:
                    raise ConfigError(f"{argument}: {flag} takes no value; leave it out to have it off")
                with_value[flag] = True
                continue
            found = value if equals else next(waiting, None)
            if found is None:
                raise ConfigError(f"{flag} needs a value")
            with_value[flag].append(found)
        elif argument.startswith("-"):
            raise ConfigError(f"there is no option {argument}{did_you_mean(argument, with_value)}")
        else:
            rest.append(argument)
    return rest


def require_no_settings(command: str, words: Sequence[str], flags: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ConfigError for `key=value` that is none of the `known` and no file, where a command takes flags."""
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key in known or os.path.exists(word):
            continue
        flag = f"--{key.replace('_', '-')}"
        way = f"; write {flag} {value}" if flag in flags else did_you_mean(key, known)
        raise ConfigError(f"there is no file {brief(word)}, and {brief(key)} is not a setting of {command}{way}")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows of cells, the first of them the names, in columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """The same for rows by name, numbers to four digits."""
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    print_table([list(rows[0]), *cells])


def write_rows(rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    """Rows by name, all of the same names, as CSV."""
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
