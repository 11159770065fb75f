"""Values on a command line: one function reads them and one spells them, for every command.

The grammar is Hydra's. Text that it refuses is taken as it is typed, and a path always is, unless it is between quotes.
"""

import functools
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref import filesystem
from dlref.errors import ConfigError

QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
# A quote opens only where an element begins and closes only where it ends, so that `it's.txt` has none.
TOKENS = re.compile(rf"(?<![^\s,:=(\[{{])(?:{QUOTED})(?=\s*(?:[],:)}}]|$))|\\.|.", re.DOTALL)
OPENING, CLOSING = set("([{"), set(")]}")
WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")
PLAIN = re.compile(r"(?!(?:null|true|false|inf|nan)$)[A-Za-z_/][\w./-]*", re.ASCII | re.IGNORECASE)


def read(text: str, hint: Any = Any) -> Any:
    """The value that `text` stands for, where a signature says `hint`; `${…}` is left for OmegaConf to resolve.

    A path is what was typed: 007, `a #b (1).txt`. So is text, and a number, where a setting takes text.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    item = next((found for option in options if (found := item_of(option)) is not None), None)
    if item is not None and text[:1] == "[" and text[-1:] == "]":
        return [read(part, item) for part in elements(text[1:-1])] if text[1:-1].strip() else []
    value = parsed(text)
    if Path in options:
        is_null = value is None and type(None) in options
        return value if is_null or re.fullmatch(QUOTED, text, re.DOTALL) else literal(text)
    require_decoded(text)
    if hint is not Any and not isinstance(value, str):
        from dlref.config_check import matches  # which imports torch

        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if (is_number and str in options) or (not matches(value, hint) and matches(text, hint)):
            return literal(text)
    return value


def require_decoded(text: str) -> None:
    """Raise ConfigError for undecodable bytes, which only the name of a file may hold."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        encoding = sys.getfilesystemencoding()
        raise ConfigError(
            f"{text!r:.200} holds bytes that are not {encoding}; type them as {encoding}, or set PYTHONUTF8=1 if they are UTF-8"
        )


def item_of(hint: Any) -> Any:
    """What a list holds that may stand for `hint`; None where no list may."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return Any
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return arguments[0] if {*arguments[1:]} <= {arguments[0], ...} else Any
    return None


def parsed(text: str) -> Any:
    """A value by Hydra's grammar; what it refuses, or would sweep over, is text."""
    override = None if is_windows_path(text) else by_grammar(text)
    value = text if override is None or override.is_sweep_override() else override.value()
    return literal(value) if isinstance(value, str) else value


def is_sweep(text: str) -> bool:
    """Whether it is a function of Hydra's that makes several values, as range(1,4) or choice(a,b)."""
    override = by_grammar(text)
    return override is not None and override.is_sweep_override() and not getattr(override.value(), "simple_form", False)


def is_windows_path(text: str) -> bool:
    """Whether it is a path with a drive letter or of a server; on Windows, any with a backslash, which escapes elsewhere."""
    return bool(WINDOWS_PATH.match(text)) or (filesystem.WINDOWS and "\\" in text and text[:1] not in "'\"[{")


def by_grammar(text: str) -> Any:
    """As Hydra parses it; None where it refuses it."""
    try:
        return grammar().parse_override(f"key={text}")
    except Exception:  # its own, ANTLR's, and what Python raises for numbers of 5,000 digits
        return None


@functools.cache
def grammar() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def literal(text: str) -> str:
    """Text in which `${` is escaped where it begins nothing that OmegaConf could resolve."""
    if "${" not in text:
        return text
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar_parser import parse

    try:
        parse(text)
    except GrammarParseError:
        return escaped(text)
    return text


def escaped(text: str) -> str:
    """Text of which OmegaConf resolves nothing."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def unescaped(text: str) -> str:
    return re.sub(r"(\\*)\\\$\{", lambda found: found[1][: len(found[1]) // 2] + "${", text)


def elements(text: str) -> list[str]:
    """Split at the commas outside of quotes and brackets; at every comma where the brackets do not match."""
    parts, depth = [""], 0
    tokens = TOKENS.findall(text)
    if filesystem.WINDOWS:  # where a backslash escapes nothing
        tokens = [part for token in tokens for part in (token if token[0] == "\\" else [token])]
    for token in tokens:
        depth += (token in OPENING) - (token in CLOSING)
        if depth < 0:
            break
        if token == "," and not depth:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in (text.split(",") if depth else parts)]


def spell(value: Any) -> str:
    """How a plain value is typed, so that `read` and Hydra give it back."""
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else in_quotes(escaped(value))
    if isinstance(value, list):
        return f"[{','.join(map(spell, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{spell(item)}' for key, item in value.items())}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def in_quotes(text: str) -> str:
    """Between quotes of Hydra's grammar, in which only backslashes before a quote are doubled."""
    doubled = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{doubled}'"
