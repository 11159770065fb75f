"""The command line of each command: `key=value` sets what a config holds, everything else is a positional or a flag.

A command file defines `add_arguments(parser)`, which must import neither torch nor Hydra, and `main(arguments)`.
"""

import argparse
import difflib
import importlib
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dlref import filesystem
from dlref.errors import ConfigError, brief, did_you_mean

COMMANDS = {
    "train": "train a model, or resume a run",
    "evaluate": "the loss, metrics and plots of a trained model",
    "predict": "what a trained model predicts for the rows of a table, or for images",
    "generate": "generate text with a trained language model",
    "translate": "translate lines with a trained model",
    "neighbors": "the words nearest to a word or to a sum of words, by trained vectors",
    "play": "run a trained agent in its environment, without exploration",
    "study": "a demonstration of the books, with its table and figures",
    "search": "train with randomly sampled settings, and keep a table",
    "compare": "a table of runs, with mean ± standard deviation over seeds",
    "list": "the models, experiments and data sets",
    "doctor": "check this machine: versions, device, compiler, data sets, room for runs",
    "completion": "print the script that completes dlref's command lines in a shell",
}
Settings = Callable[[Sequence[str]], Collection[str]]  # the keys that may be set, given the words of the command line


class Parser(argparse.ArgumentParser):
    """The parser of one command: flags may stand anywhere, and an error is a ConfigError of one sentence."""

    settings: Settings | None = None

    def add_settings(self, keys: Settings, help: str) -> None:
        """Take `key=value …` as `arguments.settings`; `keys` may be set."""
        self.settings = keys
        self.add_argument("settings", metavar="key=value", nargs="*", default=[], help=help)

    def parse(self, words: Sequence[str]) -> argparse.Namespace | None:
        """The arguments; None where `--help` was asked for and has been printed. Raises ConfigError.

        Flags are found here, so that a value may begin with `-`. Words after `--` are positionals as they are.
        """
        flags: list[str] = []
        positionals: list[str] = []
        waiting = iter(words)
        for word in waiting:
            if word in ("-h", "--help"):
                print(self.format_help(), end="", flush=True)
                return None
            if word == "--":
                positionals += waiting
            elif re.match(r"--|-[^\W\d]", word):  # not a lone minus, nor a negative number
                flags.append(self.flag_of(word, waiting, words))
            else:
                self.require_no_flag(word)
                positionals.append(word)
        try:
            arguments, left = self.parse_known_args([*flags, "--", *positionals] if positionals else flags)
        except argparse.ArgumentError as error:
            if error.argument_name is None:
                self.error(error.message)
            raise ConfigError(f"{error.argument_name} {error.message}") from None
        if left := [word for word in left if word != "--"]:
            raise ConfigError(f"'{brief(left[0])}' is more than {self.prog} takes; write {self.form()}")
        return arguments

    def flag_of(self, word: str, waiting: Iterator[str], words: Sequence[str]) -> str:
        """`--flag` or `--flag=VALUE`, the value being the next word if it is not in this one."""
        name, equals, value = word.partition("=")
        action = self.flags().get(name)
        if action is None:
            key, known = name.lstrip("-").replace("-", "_"), self.settings(words) if self.settings else ()
            key = next((one for one in known if key in (one, one.rpartition(".")[2])), key)
            group, dot, _ = key.partition(".")
            if key in known or (dot and any(one.startswith(f"{group}.") for one in known)):
                typed = f"{key}={value if equals else next(waiting, 'VALUE')}"
                raise ConfigError(f"{brief(name)} is a setting: {in_shell(brief(typed))}")
            raise ConfigError(f"there is no flag {brief(name)}{did_you_mean(name, self.flags())}")
        if action.nargs == 0:
            if equals:
                raise ConfigError(f"{name} takes no value; leave it out to have it off")
            return name
        following = value if equals else next(waiting, None)
        if following is None:
            raise ConfigError(f"{name} needs a value")
        return f"{name}={following}"

    def require_no_flag(self, word: str) -> None:
        """Raise ConfigError for a flag that is typed as `key=value`; a file may have such a name."""
        key, equals, value = word.partition("=")
        if not equals or os.path.exists(word):
            return
        flags = {flag[2:]: action for flag, action in self.flags().items() if flag.startswith("--")}
        name = key.replace("_", "-")
        near = difflib.get_close_matches(name, flags, n=1, cutoff=1 if self.settings else 0.8)
        if not near:
            return
        form = f"--{near[0]}" if flags[near[0]].nargs == 0 else f"--{near[0]} {in_shell(brief(value))}"
        if near[0] == name:
            raise ConfigError(f"{brief(word)} is a flag here: {form}")
        raise ConfigError(f"there is no file {brief(word)}; did you mean {form}?")

    def flags(self) -> dict[str, argparse.Action]:
        return self._option_string_actions

    def positionals(self) -> list[argparse.Action]:
        return [action for action in self._actions if not action.option_strings]

    def form(self) -> str:
        """`dlref predict RUN FILE …`"""
        words = [f"{action.metavar}{' …' * (action.nargs in ('*', '+'))}" for action in self.positionals()]
        return " ".join([self.prog, *words])

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = did_you_mean(str(value), map(str, action.choices))
            if not action.option_strings:
                raise ConfigError(f"there is no {str(action.metavar).lower()} '{brief(value)}'{choices}")
            raise argparse.ArgumentError(action, f"is '{brief(value)}'{choices}")

    def error(self, message: str) -> NoReturn:
        missing = message.partition("are required: ")[2]
        raise ConfigError(f"{missing} is missing; write {self.form()}" if missing else message)


def command_parser(name: str) -> Parser:
    """The parser of a command."""
    parser = Parser(
        prog=f"dlref {name}",
        description=f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    importlib.import_module(f"dlref.cli.commands.{name}").add_arguments(parser)
    return parser


def add_run(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run directory, whose best checkpoint is taken, or a checkpoint")


def add_loading(parser: Parser) -> None:
    """`--device` and `--plugins`, for a command that loads a trained network and composes no config."""
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:N, mps or auto")
    parser.add_argument(
        "--plugins",
        metavar="FILE",
        action="append",
        default=[],
        help="your own code, if the model was trained with it; repeatable",
    )


def add_config_dir(parser: Parser) -> None:
    parser.add_argument(
        "--config-dir",
        metavar="DIR",
        action="append",
        default=[],
        help="a folder of your own with model/ experiment/ data/ …; repeatable",
    )


def whole(least: int) -> Callable[[str], int]:
    """The type of a flag that takes a whole number from `least`."""

    def read(typed: str) -> int:
        if not (typed.isascii() and typed.isdecimal() and len(typed) < 20) or int(typed) < least:
            raise argparse.ArgumentTypeError(f"is '{brief(typed)}'; it takes a whole number from {least}")
        return int(typed)

    return read


def number(typed: str) -> float:
    """The type of a flag that takes a number."""
    try:
        return float(typed)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is '{brief(typed)}'; it takes a number") from None


def text(typed: str) -> str:
    """The type of a text, as it was typed in whatever locale."""
    try:
        return typed.encode(errors="surrogateescape").decode()
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError("holds bytes that are not UTF-8; type it as UTF-8") from None


def file_ending(*endings: str) -> Callable[[str], Path]:
    """The type of a file to be written, whose name has one of these endings."""

    def read(typed: str) -> Path:
        path = Path(os.path.expanduser(typed))
        if path.suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(
                f"is '{brief(typed)}'; it takes a file that ends in {' or '.join(endings)}"
            )
        return path

    return read


def in_shell(text: str) -> str:
    """A word as it is typed in this system's shell."""
    return subprocess.list2cmdline([text]) if filesystem.WINDOWS else shlex.quote(text)
