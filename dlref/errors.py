"""What can go wrong by a user's choice or the world's doing: one sentence each, and the exit code of the process."""

import difflib
from collections.abc import Iterable

from dlref.renamed import RENAMED


class DlrefError(Exception):
    """The message is one sentence: what was wrong, the values, the way out."""

    exit_code = 1


class ConfigError(DlrefError):
    """The command line or a config."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A setting, an option or a class that this version of dlref does not have; an earlier one may have had it."""


class DataError(DlrefError):
    """A data set: missing, broken, or not what its reader expects."""

    exit_code = 3


class CheckpointError(DlrefError):
    """A checkpoint: missing, broken, or of another model or data set."""

    exit_code = 4


class DivergedError(DlrefError):
    """A loss or a gradient that is not finite."""

    exit_code = 5


class ResourceError(DlrefError):
    """Memory, disk, a lost rank, or an operation that this machine has no kernel for."""

    exit_code = 6


class LostRankError(ResourceError):
    """Another rank has gone, and with it the work that was under way between them."""


def brief(said: object, most: int = 160) -> str:
    """A message or typed text on one line of at most so many printable characters, whatever a broken file has put into it."""
    text = " ".join(str(said)[: 2 * most].split())
    if not text and isinstance(said, Exception):
        text = type(said).__name__
    return "".join(character if character.isprintable() else "?" for character in text[:most])


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean 'lr'?`, or the choices where nothing is near and they are few, or nothing.

    With a prefix such as `optimizer.` the names are those of its section: `; did you mean 'optimizer.lr'?`. A name that
    has been renamed means the new one.
    """
    choices = sorted(set(known))
    near = [choice for choice in choices if f"{prefix}{choice}" in RENAMED.get(f"{prefix}{name}", ())]
    if not near:
        near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if not near:  # Forgotten groups are common too: `lr` for `optimizer.lr`.
        near = [choice for choice in choices if choice.rpartition(".")[2] == name.rpartition(".")[2]]
    if near:
        return f"; did you mean '{prefix}{near[0]}'?"
    return f"; choose from {', '.join(choices)}" if 0 < len(choices) <= 24 else ""
