"""Validates a config and fills in its defaults: what each `_target_` may name, and what each setting may be.

A config is a plain dictionary here. It may come from a checkpoint that somebody else made, so nothing in it is trusted: a
`_target_` names a class of dlref, of torch.optim or of a plug-in named on the command line, or it is refused.
"""

import contextlib
import importlib
import inspect
import json
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dlref.data.supervised.table_columns import na_text
from dlref.errors import ConfigError, UnknownNameError, brief, did_you_mean
from dlref.interfaces import Data
from dlref.objectives import Objective
from dlref.optimizers.schedules import Schedule
from dlref.renamed import RENAMED
from dlref.reports import Report
from dlref.training.config import TrainerConfig

HOMES = ("dlref", "torch.optim")
BASES: dict[str, Any] = {
    "data": Data,
    "network": nn.Module,
    "objective": Objective,
    "optimizer": torch.optim.Optimizer,
    "schedule": Schedule,
    "reports": Report,
}
DATA = {name for name in [*vars(Data), *Data.__annotations__] if not name.startswith("_")}  # what data have
MOST_THREADS = 4096
SUPPLIED = {"data": {"seed"}, "objective": {"net"}, "optimizer": {"params", "tables"}}  # by build, never by a config
# The sizes that dlref's data give to a network; which of them one data set gives is known once it is built.
SIZES = {"inputs", "outputs", "in_channels", "rows", "columns", "context"}
SIZES |= {"vocab_size", "source_vocab_size", "target_vocab_size"}
OPTIONAL = ("optimizer", "schedule")  # not set for an objective in closed form
TOP: dict[str, Any] = {
    "name": str | None,
    "goal": str | None,
    "seed": int,
    "device": str,
    "threads": int | None,
    "run_dir": Path | None,
    "resume": Path | None,
    "plugins": list[Path] | Path,
}


def normalized(config: Mapping[str, Any], plugins: Sequence[str] = ()) -> dict[str, Any]:
    """The config with every default filled in and codes as text, so that equal settings are equal values.

    Raises ConfigError where `check` does.
    """
    check(config, plugins)
    return with_codes_as_text(with_defaults(config, plugins), plugins)


def with_defaults(
    config: Mapping[str, Any], plugins: Sequence[str] = (), sizes: Collection[str] | None = None
) -> dict[str, Any]:
    """The config with the defaults of the constructors that its sections name, and of the trainer's.

    `sizes` names what the data give to the network, which is known once they are built. Before, no default of a name in
    `SIZES` is filled in, and none of the network for data of a plug-in, which may give any.
    """
    supplied = SUPPLIED | {"network": SIZES if sizes is None else {*sizes}}

    def completed(section: Mapping[str, Any], group: str) -> dict[str, Any]:
        own = defaults(resolve(section["_target_"], group, plugins))
        own = {name: value for name, value in own.items() if name not in supplied.get(group, ())}
        return {"_target_": section["_target_"]} | own | dict(section)

    found = dict(config)
    for group in BASES:
        if section := config.get(group):
            found[group] = (
                {name: report and completed(report, group) for name, report in section.items()}
                if group == "reports"
                else completed(section, group)
            )
    if sizes is None and not within(config["data"]["_target_"], HOMES):
        found["network"] = config["network"]
    found["trainer"] = defaults(TrainerConfig) | config["trainer"]
    return found


def without_defaults(section: Mapping[str, Any], path: str, plugins: Sequence[str]) -> dict[str, Any]:
    """The settings of a section that are not the defaults of its class."""
    own = defaults(resolve(section["_target_"], path.partition(".")[0], plugins))
    return {name: value for name, value in section.items() if name not in own or value != own[name]}


def defaults(cls: type) -> dict[str, Any]:
    """The defaults of a constructor that are plain values, by name, as a config holds them: a tuple is a list."""
    found = {name: p.default for name, p in inspect.signature(cls).parameters.items() if p.default is not p.empty}
    return {name: as_plain(value) for name, value in found.items() if is_plain(value)}


def is_plain(value: Any) -> bool:
    """Whether a config can hold it: null, true or false, text, a finite number, or a list or mapping of such values."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, Mapping):
        return all(type(key) is str and is_plain(one) for key, one in value.items())
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))


def as_plain(value: Any) -> Any:
    """The same with lists for tuples."""
    if isinstance(value, Mapping):
        return {key: as_plain(one) for key, one in value.items()}
    return [as_plain(one) for one in value] if isinstance(value, list | tuple) else value


def needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind in (
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    )


def resolve(target: Any, group: str, plugins: Sequence[str] = ()) -> type:
    """The class that a `_target_` names, if a config of this group may name it; else ConfigError, and nothing is called.

    Only modules are imported, so `torch.optim.optimizer.torch.os.system` is not reached attribute by attribute, and a
    class must be at home where it was found to be. A plug-in may also name classes that it has imported: its author is
    the user.
    """
    homes = (*HOMES, *plugins)
    refused = f"{group}._target_ {target!r:.100} is refused"
    module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    parts = [*module.split("."), name]
    is_named = all(part.isidentifier() and part != "__main__" for part in parts)  # which an import would run
    if not is_named or not within(module, homes):
        raise ConfigError(
            f"{refused}: it names no class of {', '.join(homes)}; a module of your own is named by plugins=FILE.py"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        refusal = UnknownNameError if within(module, HOMES) else ConfigError
        raise refusal(f"{refused}: {error}{did_you_mean(target, RENAMED.get(target, ()))}") from None
    if not inspect.isclass(found) or not (within(found.__module__, homes) or within(module, plugins)):
        raise ConfigError(f"{refused}: that is not a class for {group}")
    if BASES[group] is Data:
        if lacking := [name for name in sorted(DATA) if not hasattr(found, name)]:
            raise ConfigError(f"{refused}: for data {found.__name__} lacks {', '.join(lacking)}; see docs/own_model.md")
    elif not issubclass(found, BASES[group]) or found is BASES[group]:
        raise ConfigError(f"{refused}: that is not a class for {group}")
    return found


def within(name: str, homes: Sequence[str]) -> bool:
    """Whether a module is one of these, or a part of one."""
    return any(name == home or name.startswith(f"{home}.") for home in homes)


def check(config: Mapping[str, Any], plugins: Sequence[str] = ()) -> None:
    """Refuse, in one sentence, a key that nothing reads, a value of the wrong type, and a number that makes no sense.

    What a constructor refuses by itself is found when the part is made; only the trainer's settings are tried here.
    """
    groups = {name for name in BASES if name != "network"} | {"model", "experiment", "network", "trainer"}
    for key, value in config.items():
        if key in TOP:
            check_value(key, value, TOP[key])
        elif key not in [*BASES, "trainer"]:
            known = [name for name in settings(config, groups, plugins) if name != key]
            raise ConfigError(f"'{brief(key)}' is not a setting{did_you_mean(str(key), known)}")
    if missing := [key for key in TOP if key not in config]:
        raise ConfigError(f"{', '.join(missing)} is missing; every config has it")
    for group in BASES:
        section = config.get(group)
        if group == "reports":
            check_reports(section, plugins)
        elif group in OPTIONAL and section is None:
            objective = resolve(config["objective"]["_target_"], "objective", plugins)
            if not objective.closed_form:  # type: ignore[attr-defined] # it is an Objective
                raise ConfigError(
                    f"{group} is not set, and objective {objective.__name__} is trained by gradient steps; choose one with "
                    f"{group}=NAME (dlref list {group})"
                )
        else:
            check_section(group, section, group, plugins)
    if not 0 <= (config["threads"] or 0) <= MOST_THREADS:
        raise ConfigError(
            f"threads is {config['threads']}; it takes 1 to {MOST_THREADS}, or null for as many as torch takes"
        )
    if not isinstance(config.get("trainer"), Mapping):
        raise ConfigError(f"trainer is {config.get('trainer')!r:.100}; it takes settings by name")
    check_arguments("trainer", config["trainer"], TrainerConfig)
    TrainerConfig(**config["trainer"])


def check_reports(reports: Any, plugins: Sequence[str]) -> None:
    if reports is None:
        return
    if not isinstance(reports, Mapping):
        raise ConfigError(f"reports is {reports!r:.100}; it takes reports by name, each with a _target_")
    for name, section in reports.items():
        if "." in str(name):  # which would be taken for a setting of another one
            raise ConfigError(f"reports has the name {brief(name)}; it takes names without a dot")
        if set(RENAMED.get(f"reports.{name}", ())) & {f"reports.{known}" for known in reports}:
            raise UnknownNameError(f"reports.{name} is not a report{did_you_mean(name, map(str, reports), 'reports.')}")
        if section is not None:  # null leaves a report out
            check_section(f"reports.{brief(name)}", section, "reports", plugins)


def settings(config: Mapping[str, Any], groups: set[str], plugins: Sequence[str]) -> list[str]:
    """Everything that may be typed, for suggestions."""
    names = [*TOP, *groups]
    for group in [*BASES, "trainer"]:
        section = config.get(group)
        if group != "reports" and isinstance(section, Mapping):
            cls = TrainerConfig if group == "trainer" else resolve(section.get("_target_"), group, plugins)
            names += [f"{group}.{name}" for name in inspect.signature(cls).parameters]
    return names


def check_section(path: str, section: Any, group: str, plugins: Sequence[str]) -> None:
    if not isinstance(section, Mapping) or "_target_" not in section:
        raise ConfigError(f"{path} has no _target_; choose a model= or an experiment= that sets it (dlref list)")
    arguments = {name: value for name, value in section.items() if name != "_target_"}
    cls, supplied = resolve(section["_target_"], group, plugins), SUPPLIED.get(group, set())
    if group != "network":  # to which the data give the sizes that are not set
        unset = [name for name, p in inspect.signature(cls).parameters.items() if needed(p) and name not in supplied]
        arguments = dict.fromkeys(unset, "???") | arguments
    check_arguments(path, arguments, cls, supplied)


def check_arguments(path: str, given: Mapping[str, Any], cls: type, supplied: Collection[str] = ()) -> None:
    parameters = {name: p for name, p in inspect.signature(cls).parameters.items() if name not in supplied}
    hints, own, is_ours = type_hints(cls), defaults(cls), within(cls.__module__, HOMES)
    for name in given:  # before a value that is missing, which may be the one of this setting
        if name not in parameters:
            meant = did_you_mean(str(name), parameters, f"{path}.")
            refusal = UnknownNameError if is_ours else ConfigError
            raise refusal(f"{path}.{brief(name)} is not a setting of {cls.__name__}{meant}")
    for name, value in given.items():
        is_default = name in own and repr(value) == repr(own[name])  # which, in a plug-in, its type may not allow
        if not is_default:
            check_value(f"{path}.{name}", value, hints.get(name, Any), is_ours)


def type_hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError):  # a library's own spelling
        return {}


def at(config: Mapping[str, Any], key: str) -> Any:
    """The value of `a.b.c` in nested sections; None where there is none."""
    found: Any = config
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def hint(config: Mapping[str, Any], key: str, plugins: Sequence[str] = ()) -> Any:
    """What the class that takes a setting says of its type; Any where that is not known."""
    if key in TOP:
        return TOP[key]
    section, _, name = key.rpartition(".")
    if section == "trainer":
        return type_hints(TrainerConfig).get(name, Any)
    found = at(config, section)
    try:
        target = found["_target_"] if isinstance(found, Mapping) and "_target_" in found else None
        return type_hints(resolve(target, section.partition(".")[0], plugins)).get(name, Any)
    except (ConfigError, LookupError):  # which the check of the whole config explains
        return Any


def with_codes_as_text(config: Mapping[str, Any], plugins: Sequence[str] = ()) -> dict[str, Any]:
    """The config in which a list that takes text or numbers holds text, so that -999, -999.0 and '-999' are one value."""
    found = dict(config)
    for group, section in config.items():
        if isinstance(section, Mapping):
            lists = {name: value for name, value in section.items() if isinstance(value, list)}
            codes = {name: value for name, value in lists.items() if is_codes(hint(config, f"{group}.{name}", plugins))}
            text = {
                name: [na_text(v) if type(v) in (str, int, float) else v for v in value]
                for name, value in codes.items()
            }
            found[group] = {**section, **text}
    return found


def is_codes(hint: Any) -> bool:
    """Whether a list of text or numbers may stand where a signature says `hint`."""
    return any(is_list(option) and (str | float) in typing.get_args(option) for option in options_of(hint))


def check_value(path: str, value: Any, hint: Any, no_negatives: bool = True) -> None:
    if value == "???":
        raise ConfigError(f"{path} has no value; set {path}=…, which takes {spelled(hint)}")
    for number in leaves(value):
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f"{path} is {number}; it takes a finite number")
        if no_negatives and isinstance(number, (int, float)) and number < 0 and not takes_text(hint):
            raise ConfigError(f"{path} is {number}; it takes no negative number")
        if isinstance(number, int) and number >= 2**63:
            raise ConfigError(f"{path} is {number}; it takes a number below 2**63")
    if not matches(value, hint):
        raise ConfigError(f"{path} is {value!r:.200}; it takes {spelled(hint)}{as_list(path, value, hint)}")


def leaves(value: Any) -> Iterator[Any]:
    """What lists and mappings hold in the end, however deep they lie in each other."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list | Mapping):
            waiting += one.values() if isinstance(one, Mapping) else one
        else:
            yield one


def matches(value: Any, hint: Any) -> bool:
    """Whether a plain value may stand where a signature says `hint`; what is not understood is let through."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple and Ellipsis not in arguments:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(matches, value, arguments))
    if is_list(hint):
        return isinstance(value, list) and all(matches(item, next(iter(arguments), Any)) for item in value)
    plain: dict[Any, Any] = {
        bool: bool,
        int: int,
        float: (int, float),
        str: str,
        Path: str,
        type(None): type(None),
        torch.Tensor: (),
    }
    if hint not in plain:
        return True
    return isinstance(value, plain[hint]) and (hint is bool or not isinstance(value, bool))


def is_list(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return inspect.isclass(origin) and issubclass(origin, Sequence)


def options_of(hint: Any) -> list[Any]:
    """The parts of a union, without tensors, which no config holds; of any other hint itself."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if is_union else (hint,)
    return [option for option in options if option is not torch.Tensor] or [hint]


def spelled(hint: Any, many: bool = False) -> str:
    """What a setting takes, in words; `many` of it, in a list."""
    options = options_of(hint)
    if len(options) > 1:
        return " or ".join(spelled(option, many) for option in options)
    if typing.get_origin(options[0]) is Literal:
        return " or ".join(str(choice) for choice in typing.get_args(options[0]))
    if is_list(options[0]):
        items = [item for item in typing.get_args(options[0]) if item is not ...] or [Any]
        if len(set(items)) > 1:
            return f"{'lists' if many else 'a list'} of {', '.join(map(spelled, items))}"
        count = f"{len(items)} " if len(items) > 1 else ""
        return f"{'lists' if many else 'a list'} of {count}{spelled(items[0], many=True)}"
    names = {
        Any: ("a value", "values"),
        bool: ("true or false", "true or false"),
        int: ("a whole number", "whole numbers"),
        float: ("a number", "numbers"),
        str: ("text", "text"),
        Path: ("a path", "paths"),
        type(None): ("null", "null"),
    }
    if options[0] in names:
        return names[options[0]][many]
    if inspect.isclass(options[0]):
        return f"a {options[0].__name__}"
    return str(options[0]).replace("collections.abc.", "")


def as_list(path: str, value: Any, hint: Any) -> str:
    """The end of a sentence about a value that would fit as a list: how that is typed."""
    lists = [[value]]
    if isinstance(value, str):
        lists.append(value.split(","))
        with contextlib.suppress(ValueError, RecursionError):
            lists.append(json.loads(f"[{value}]"))
    fits = any(matches(one, hint) for one in lists)
    return f", as {path}=[{brief(value)}]" if fits else ""


def path_settings(config: Mapping[str, Any], plugins: Sequence[str] = ()) -> set[str]:
    """The settings that name a place on this machine: the command line sets them, and a checkpoint at most those of data."""
    found = {key for key, hint in TOP.items() if holds_path(hint)}
    sections = {group: config.get(group) for group in BASES if group != "reports"}
    sections |= {f"reports.{name}": section for name, section in (config.get("reports") or {}).items()}
    for path, section in sections.items():
        if isinstance(section, Mapping) and "_target_" in section:
            hints = type_hints(resolve(section["_target_"], path.partition(".")[0], plugins))
            found |= {f"{path}.{name}" for name, hint in hints.items() if holds_path(hint)}
    return found


def takes_text(hint: Any) -> bool:
    """Whether text may stand for it, or for a part of it; a number there is a code, not an amount."""
    parts = typing.get_args(hint)
    is_mapping = inspect.isclass(origin := typing.get_origin(hint)) and issubclass(origin, Mapping)
    return hint is str or any(map(takes_text, parts[1:] if is_mapping else parts))


def holds_path(hint: Any) -> bool:
    """Whether a path may stand for it, or for a part of it."""
    return hint is Path or any(map(holds_path, typing.get_args(hint)))
