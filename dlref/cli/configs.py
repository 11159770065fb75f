"""From what was typed to one plain dictionary: Hydra's grammar and composition, and our words when it does not fit."""

import importlib.util
import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlref import filesystem, plugins, signals
from dlref.errors import ConfigError, brief, did_you_mean

IN_YAML = {byte: byte + 0x100000 for byte in range(0xDC80, 0xDD00)}  # -> letters of nobody (plane 16)
WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def configs_folder() -> Path:
    """The checkout's `configs/`, if this is one (an editable install also has a stale copy), else the wheel's."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    return checkout / "configs" if (checkout / "pyproject.toml").is_file() else package / "configs"


def groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The options of each config group, by name of the group."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def split_key(override: str) -> tuple[str, str]:
    """`++a.b=c` -> (`a.b`, `c`)."""
    key, _, value = override.partition("=")
    return key.lstrip("+~").strip(), value


def spelled_for_hydra(overrides: Sequence[str], known: Mapping[str, list[str]]) -> list[str]:
    """`a.b=c` sets a value whether or not a YAML already has that key; `check` then knows which keys there are."""
    spelled = []
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise ConfigError(
                f"'{override}' is not key=value; write as in trainer.max_steps=100, and commands before keys"
            )
        key, value = split_key(override)
        if key in known and not override.startswith("~"):
            spelled.append(f"{key}={value}")
        else:
            # Hydra's own groups, as hydra/launcher, are chosen as they are typed.
            spelled.append(override if override.startswith(("~", "hydra/")) else f"++{key}={value}")
    return spelled


def require_text(overrides: Sequence[str]) -> None:
    """Raise ConfigError for control characters, of which neither a setting nor a sentence about one has any."""
    for override in overrides:
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in override):
            raise ConfigError(f"{override!r:.200} is not key=value in letters that can be printed")


def quoted(override: str) -> str:
    """Between quotes, where it is a path or holds letters that Hydra's grammar does not know."""
    key, value = split_key(override)
    named = key in ("run_dir", "resume") and value != "null"
    a_path = "/" in value or not value.isascii() or named or is_windows_path(override)
    if override.startswith("~") or not a_path or value[:1] in ("", "'", '"', "[", "{"):
        return override
    return f"{key}={in_quotes(value)}"


def in_quotes(text: str) -> str:
    """Quote text for Hydra's grammar: only backslashes before a quote are doubled."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


def is_windows_path(override: str) -> bool:
    """Whether the value is a path with a drive letter or of a server; on Windows, also any other with a backslash.

    Elsewhere a backslash is what Hydra's grammar escapes with.
    """
    value = split_key(override)[1]
    return bool(WINDOWS_PATH.match(value)) or (filesystem.WINDOWS and "\\" in value)


def quoted_for_yaml(value: str) -> str:
    """A path, in which YAML would read ` #` as a comment and `: ` as a mapping, as a YAML string; others as they are."""
    a_path = "/" in value or is_windows_path(f"={value}")
    if not a_path or value[:1] in ("'", '"', "[", "{"):
        return value
    return "'{}'".format(value.replace("'", "''"))


def escaped_for_yaml(text: str) -> str:
    """Text whose bytes that are no UTF-8, as a file's name may have them, are letters that YAML takes."""
    return text.translate(IN_YAML)


def unescaped(value: Any) -> Any:
    """What YAML made of such text, with these bytes again."""
    if isinstance(value, str):
        return value.translate({letter: byte for byte, letter in IN_YAML.items()})
    if isinstance(value, list):
        return [unescaped(one) for one in value]
    return {key: unescaped(one) for key, one in value.items()} if isinstance(value, dict) else value


def compose(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, Any]:
    """The config that these overrides make; raises ConfigError, in one sentence, where they do not."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import MissingConfigException

    require_text(overrides)
    folders = [configs_folder(), *(config_dir(name) for name in config_dirs)]
    known = groups(folders)
    spelled = spelled_for_hydra([o if split_key(o)[0] in known else quoted(o) for o in overrides], known)
    spelled += searched(folders[1:])
    for override in spelled:
        key, value = split_key(override)
        if key in known and value not in known[key] and (key, value) != ("experiment", "null"):
            raise ConfigError(f"there is no {key} '{value}'{did_you_mean(value, known[key])}")
    instance = GlobalHydra.instance()
    sweeping, instance.hydra = instance.hydra, None  # a job of a sweep composes too
    try:
        with initialize_config_dir(str(folders[0]), version_base="1.3"):
            composed = hydra_compose("train", spelled, return_hydra_config=True)
            config, choices = plain(composed), composed.hydra.runtime.choices
    except MissingConfigException as error:
        raise ConfigError(f"a config is missing: {first_line(error)}") from None
    except Exception as error:  # Hydra's and OmegaConf's own, and what else their parsers raise
        raise ConfigError(
            f"the command line does not fit: {first_line(error)[:400]} (typed: {' '.join(overrides)[:400]})"
        ) from None
    finally:
        instance.hydra = sweeping
    config["name"] = config.get("name") or choices["experiment"] or choices["model"]
    return config


def searched(folders: Sequence[Path]) -> list[str]:
    """What tells Hydra to look for configs in these folders too."""
    names = [in_quotes(f"file://{folder.as_posix()}") for folder in folders]
    return [f"hydra.searchpath=[{','.join(names)}]"] if folders else []


def plain(composed: Any) -> dict[str, Any]:
    """As plain values, interpolations resolved, without Hydra's own section."""
    from omegaconf import OmegaConf

    container = OmegaConf.to_container(
        OmegaConf.masked_copy(composed, [k for k in composed if k != "hydra"]), resolve=True
    )
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def config_dir(name: str) -> Path:
    folder = os.path.expanduser(name)
    if not os.path.isdir(folder):
        raise ConfigError(f"--config-dir {name} is not a folder")
    return Path(folder).resolve()


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def one_limit(config: dict[str, Any], overrides: Sequence[str]) -> None:
    """A limit that was typed replaces those of the YAMLs."""
    limits = ("max_steps", "passes", "max_seconds")
    typed = {key.rpartition(".")[2] for key, _ in map(split_key, overrides) if key in [f"trainer.{n}" for n in limits]}
    if typed:
        config["trainer"] |= {name: None for name in limits if name not in typed}


def load_plugins(files: Sequence[str]) -> list[str]:
    """Import each file or package of the user's own as a module named after it; the names, which a `_target_` may then use."""
    names = []
    for file in files:
        path = Path(os.path.expanduser(file))
        if os.path.isfile(
            path / "__init__.py"
        ):  # os.path answers "no" where pathlib raises: for names that are too long
            path /= "__init__.py"
        there = os.path.isfile(path)
        path = path.resolve() if there else path
        is_package = path.name == "__init__.py"
        name = path.parent.name if is_package else path.stem
        taken = name in sys.modules and not loaded_from(name, path)
        if not there or path.suffix != ".py" or not name.isidentifier() or taken:
            raise ConfigError(
                f"plugins={file} must be a Python file, or a folder with __init__.py, whose name is a module name not yet taken"
            )
        if name not in sys.modules:
            import_plugin(file, name, path, is_package)
        plugins.loaded.add(name)
        names.append(name)
    return names


def import_plugin(file: str, name: str, path: Path, is_package: bool) -> None:
    """Run the module; what lies beside it may be imported by its name, if no other module has it."""
    inner = [str(path.parent)] if is_package else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inner)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parents[is_package])
    if folder not in sys.path:
        sys.path.append(folder)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file's own
        if signals.received:
            raise
        place = plugins.place(error, plugins.sources(name))
        for one in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
            del sys.modules[one]
        at = f" ({place})" if place else ""
        raise ConfigError(f"plugins={file} does not load: {type(error).__name__}: {brief(error, 400)}{at}") from error


def plugin_files(overrides: Sequence[str]) -> list[str]:
    """The files that `plugins=a.py` or `plugins=[a.py,b.py]` names, before anything is composed."""
    named = [text for text in overrides if split_key(text)[0] == "plugins"]
    require_text(named)
    values = [split_key(text)[1] for text in named]
    return [name.strip(" '\"") for name in values[-1].strip("[]").split(",") if name.strip()] if values else []


def loaded_from(name: str, path: Path) -> bool:
    return Path(getattr(sys.modules[name], "__file__", None) or "").resolve() == path


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{a: {b: c}} -> {a.b: c}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """The settings that differ: dotted key -> `old → new`."""
    a, b = flatten(old), flatten(new)
    return {key: f"{a.get(key)} → {b.get(key)}" for key in sorted(a | b) if a.get(key) != b.get(key)}
