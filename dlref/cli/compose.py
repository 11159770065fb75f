"""From what was typed to one plain dictionary: Hydra's grammar and composition, and our words when it does not fit."""

import importlib.util
import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlref import plugins, signals
from dlref.cli.values import elements, escaped, grammar, in_quotes, is_sweep, read, require_decoded, spell, unescaped
from dlref.errors import ConfigError, UnknownNameError, brief, did_you_mean
from dlref.renamed import RENAMED

LIMITS = {"trainer.max_steps", "trainer.max_epochs", "trainer.max_seconds"}
KEY = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*", re.ASCII)


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


def require_text(overrides: Sequence[str]) -> None:
    """Raise ConfigError for control characters, and for undecodable bytes in a key; a path may have such bytes."""
    for override in overrides:
        require_decoded(override.partition("=")[0])
        if {unicodedata.category(character) for character in override} & {"Cc", "Zl", "Zp"}:
            raise ConfigError(f"{override!r:.200} is not key=value in characters that can be printed")


def is_hydras(override: str) -> bool:
    """Whether Hydra itself reads it: what is deleted, and its own settings and groups, as hydra/launcher."""
    return override.startswith("~") or bool(re.match(r"\+*hydra\b", override))


def sweep_override(override: str, known: Mapping[str, list[str]]) -> str:
    """An override as Hydra sweeps over it: each value a text between quotes, which its job reads as a single run would."""
    key, value = require_key(override)
    if is_hydras(override) or key in known:
        return override
    return f"++{key}={value if is_sweep(value) else ','.join(in_quotes(escaped(part)) for part in elements(value))}"


def job_override(override: str) -> str:
    """An override of a job of a sweep, as it would be typed for a single run."""
    value = override.partition("=")[2]
    if override.startswith("~") or not (value.startswith(("'", '"')) or "\\" in value):
        return override.lstrip("+")
    parsed = grammar().parse_override(override)
    typed = unescaped(parsed.value()) if value.startswith(("'", '"')) else spell(parsed.value())
    return f"{parsed.key_or_group}={typed}"


def typed_places(overrides: Sequence[str]) -> dict[str, str | None]:
    """`resume` and `run_dir` as typed, before anything is composed; None for null."""
    keys = ("resume", "run_dir")
    return {key: typed_value(text, Path | None) for text in overrides for key in keys if split_key(text)[0] == key}


def typed_value(override: str, hint: Any = Any) -> Any:
    """The value of an override for a command that composes nothing; raises ConfigError where `${…}` cannot be resolved."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    require_text([override])
    try:
        value = OmegaConf.create({"value": read(split_key(override)[1], hint)})
        return plain(value)["value"]
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"{brief(override, 400)} does not fit: {first_line(error)[:400]}") from None


def configured(
    overrides: Sequence[str], config_dirs: Sequence[str] = (), plugins: Sequence[str] = ()
) -> dict[str, Any]:
    """The config of a run with these overrides: composed, checked, and with every default filled in."""
    from dlref.config_check import normalized  # which imports torch

    config = compose(overrides, config_dirs, plugins)
    one_limit(config, overrides)
    return normalized(config, plugins)


def compose(overrides: Sequence[str], config_dirs: Sequence[str] = (), plugins: Sequence[str] = ()) -> dict[str, Any]:
    """The config that these overrides make; raises ConfigError, in one sentence, where they do not.

    Hydra composes the groups. A value is set in what it has composed, where the class that takes it is known.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import MissingConfigException
    from omegaconf import OmegaConf

    require_text(overrides)
    folders = [configs_folder(), *(config_dir(name) for name in config_dirs)]
    known = groups(folders)
    choices, values = searched(folders[1:]), []
    for override in overrides:
        key, value = require_key(override)
        if key in known and value not in known[key] and (key, value) != ("experiment", "null"):
            refusal = UnknownNameError if f"{key}={value}" in RENAMED else ConfigError
            raise refusal(f"there is no {key} '{value}'{did_you_mean(value, known[key], f'{key}=')}")
        if is_hydras(override):
            choices.append(override)
        elif key in known:
            choices.append(f"{key}={value}")
        else:
            values.append((key, value))
    instance = GlobalHydra.instance()
    sweeping, instance.hydra = instance.hydra, None  # a job of a sweep composes too
    try:
        with initialize_config_dir(str(folders[0]), version_base="1.3"):
            composed = hydra_compose("train", choices, return_hydra_config=True)
        chosen = composed.hydra.runtime.choices
        # A class decides what its other settings are.
        for key, text in sorted(values, key=lambda value: not value[0].endswith("._target_")):
            OmegaConf.update(composed, key, read(text, hint(composed, key, plugins)), force_add=True)
        config = plain(composed)
    except MissingConfigException as error:
        raise ConfigError(f"a config is missing: {first_line(error)}") from None
    except ConfigError:
        raise
    except Exception as error:  # Hydra's and OmegaConf's own, and what else their parsers raise
        raise ConfigError(
            f"the command line does not fit: {first_line(error)[:400]} (typed: {' '.join(overrides)[:400]})"
        ) from None
    finally:
        instance.hydra = sweeping
    config["name"] = config.get("name") or chosen["experiment"] or chosen["model"]
    return config


def require_key(override: str) -> tuple[str, str]:
    """Key and value of an override; raises ConfigError where there is no key."""
    if "=" not in override and not override.startswith("~"):
        raise ConfigError(f"'{override}' is not key=value; write as in trainer.max_steps=100, and commands before keys")
    key, value = split_key(override)
    if not is_hydras(override) and not KEY.fullmatch(key):
        raise ConfigError(f"'{override}' begins with no name of a setting; write as in trainer.max_steps=100")
    return key, value


def hint(config: Mapping[str, Any], key: str, plugins: Sequence[str]) -> Any:
    from dlref.config_check import hint  # which imports torch

    return hint(config, key, plugins)


def resolved(overrides: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """The same overrides with the values that `${…}` has in this config, so that a resumed run has them too."""
    from dlref.config_check import at  # which imports torch

    found = []
    for override in overrides:
        key, _ = split_key(override)
        value = at(config, key) if "${" in override and not is_hydras(override) else None
        found.append(override if value is None else f"{key}={spell(value)}")
    return found


def searched(folders: Sequence[Path]) -> list[str]:
    """What tells Hydra to look for configs in these folders too."""
    return [f"hydra.searchpath={spell([f'file://{folder.as_posix()}' for folder in folders])}"] if folders else []


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
    typed = LIMITS & {split_key(text)[0] for text in overrides}
    if typed and isinstance(config.get("trainer"), dict):
        config["trainer"] |= {key.rpartition(".")[2]: None for key in sorted(LIMITS - typed)}


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
    """Run the module; modules of its folder may be imported by name, if no other module has it."""
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
    values = [typed_value(text, list[Path] | Path) for text in overrides if split_key(text)[0] == "plugins"]
    named = values[-1] if values else []
    return [name for name in ([named] if isinstance(named, str) else named) if name]


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
