"""Resuming a run: from which checkpoint, with which of its settings, and whether it is still the same training."""

import json
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dlref.cli.arguments import in_shell
from dlref.cli.compose import LIMITS, compose, configured, differences, first_line, flatten, one_limit, split_key
from dlref.cli.recorded import (
    checked,
    command_line,
    found_again,
    in_shell_all,
    say_used,
    typed_again,
    untyped,
    within,
)
from dlref.cli.values import spell
from dlref.errors import CheckpointError, ConfigError, UnknownNameError, brief

BITS = (
    "threads",
    "git_commit",
    "versions.torch",
    "hardware.cpu",
    "hardware.instructions",
    "hardware.gpu",
)  # on which the last bits of sums depend
logger = logging.getLogger("dlref")

INTERPOLATED = re.compile(r"(?<!\\)(?:\\\\)*\$\{")  # what OmegaConf resolves


class Start(NamedTuple):
    """Where a training begins."""

    checkpoint: Any = None  # to resume from
    folder: Path | None = None  # of the run that it is of
    seen: Sequence[str] = ()  # the checkpoints that there were


def to_resume(typed: Mapping[str, str | None]) -> Start:
    """The checkpoint that `resume` asks for, if any; `run_dir` may name no other folder than its run's."""
    from dlref.training.checkpoint import MANIFEST, Checkpoints, followed, open_checkpoint
    from dlref.training.run import require_unused

    wish, named = typed.get("resume"), typed.get("run_dir")
    if wish is None:
        return Start()
    if wish == "auto":
        if named is None:
            raise ConfigError("resume=auto resumes the run in run_dir, which is not set; add run_dir=DIR")
        folder = Path(os.path.expanduser(named))
    else:
        folder = followed(Path(os.path.expanduser(wish)))
        one = (folder / MANIFEST).is_file()
        home = folder.resolve().parents[1] if one else folder
        if named is not None and Path(os.path.expanduser(named)).resolve() != home.resolve():
            raise ConfigError(
                f"resume={wish} continues in that run's own directory, not in run_dir={named}; leave run_dir out, or copy the "
                "run there and resume the copy"
            )
        if one:
            seen = steps_in(home)  # before it is opened: another process may save meanwhile
            try:
                return Start(open_checkpoint(folder.resolve()), home, seen)
            except CheckpointError:
                require_unused(home)
                raise
        if not folder.is_dir():
            raise CheckpointError(f"resume={wish} is not a run directory; dlref train names it when it starts")
    seen = steps_in(folder)
    found = Checkpoints(folder / "checkpoints").newest("step")
    if found is None and (wish != "auto" or seen):
        require_unused(folder)
        raise CheckpointError(f"{folder} has no whole checkpoint to resume from; start a new run in another run_dir")
    return Start(found, folder, seen)


def steps_in(run: Path) -> list[str]:
    from dlref.training.checkpoint import Checkpoints

    return [path.name for path in Checkpoints(run / "checkpoints").numbered("step")]


def resumed(
    checkpoint: Any, overrides: Sequence[str], config_dirs: Sequence[str], plugins: Sequence[str], recorded: bool
) -> tuple[Any, list[str], dict[str, Any]]:
    """The checkpoint with its config normalized, all overrides of the run, and the config that it resumes with.

    The config is the recorded one, whatever defaults and YAMLs say today, except for what `overrides` change: the values
    that are typed, and those that differ between what is composed without and with them, as where a group is switched.
    """
    from dlref.config_check import TOP, normalized, path_settings

    saved = started_with(checkpoint, overrides, config_dirs, recorded)
    checkpoint = checked(checkpoint, plugins)
    old, then = checkpoint.manifest["config"], composed_again(checkpoint, saved, config_dirs, plugins)
    every = [*reusable(checkpoint, saved, then, overrides, config_dirs, plugins, recorded), *overrides]
    now = configured(every, config_dirs, plugins)
    free = {key for key, _ in map(split_key, overrides) if "." in key or key in TOP}
    free |= LIMITS if free & LIMITS else set()
    free = free.union(*(path_settings(config, plugins) for config in (old, then, now)))
    return checkpoint, every, normalized(kept(old, then, now, free), plugins)


def kept(
    old: Mapping[str, Any], then: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str], path: str = ""
) -> dict[str, Any]:
    """The settings `now`, with the value of `old` for each that is not `free` and is the same as `then`.

    A section whose class has changed is taken whole.
    """
    if now.get("_target_") != then.get("_target_"):
        return dict(now)
    absent: Any = object()
    found = {}
    for name in {**now, **old}:
        key = f"{path}{name}"
        was, before, value = (config.get(name, absent) for config in (old, then, now))
        if not within(key, free):
            if isinstance(was, Mapping) and isinstance(before, Mapping) and isinstance(value, Mapping):
                value = kept(was, before, value, free, f"{key}.")
            elif before == value:
                value = was
        if value is not absent:
            found[name] = value
    return found


def started_with(checkpoint: Any, overrides: Sequence[str], config_dirs: Sequence[str], recorded: bool) -> list[str]:
    """The overrides that a checkpoint's run was started with.

    Raises CheckpointError where they are not plain, and ConfigError, with the whole command, where they name code.
    """
    saved, given = list(checkpoint.manifest["overrides"]), {split_key(text)[0] for text in overrides}
    if any(
        not isinstance(text, str) or INTERPOLATED.search(text) or split_key(text)[0].startswith("hydra")
        for text in saved
    ):
        raise CheckpointError(f"{checkpoint.path} holds overrides that are not plain values; it is not resumed")
    if code := [text for text in saved if split_key(text)[0] == "plugins" and "plugins" not in given]:
        command = command_line("train", overrides, config_dirs, recorded)
        raise ConfigError(
            f"this run was started with {brief(code[-1])}, code that a checkpoint may not bring: if you trust it, type "
            f"{in_shell_all([*command, code[-1]])}"
        )
    return saved


def composed_again(
    checkpoint: Any, saved: Sequence[str], config_dirs: Sequence[str], plugins: Sequence[str]
) -> dict[str, Any]:
    """The config that a checkpoint's overrides make today; raises CheckpointError where they make none."""
    from dlref.config_check import normalized
    from dlref.training.checkpoint import as_data

    with as_data(checkpoint):
        try:
            composed = compose([text for text in saved if split_key(text)[0] != "resume"], config_dirs, plugins)
        except UnknownNameError:
            raise
        except ConfigError as error:
            raise CheckpointError(
                f"what {checkpoint.path} was started with no longer composes: {error}; if a --config-dir was named then, "
                "name it again"
            ) from None
        one_limit(composed, saved)
        return normalized(composed, plugins)


def reusable(
    checkpoint: Any,
    saved: Sequence[str],
    then: Mapping[str, Any],
    overrides: Sequence[str],
    config_dirs: Sequence[str],
    plugins: Sequence[str],
    recorded: bool,
) -> list[str]:
    """The overrides as first typed, which make the config `then`, less those that only a command line may set.

    Those that are typed again are left out too. A checkpoint is data: it may choose among settings, but names no files
    except those of data that are found again, if `recorded` ones may be read. Raises ConfigError with the command that
    names the others.
    """
    from dlref.config_check import at, path_settings

    given, paths = {split_key(text)[0] for text in overrides}, path_settings(then, plugins)
    again, missing = [], {}
    for key in dict.fromkeys(split_key(text)[0] for text in saved):
        if key in ("run_dir", "resume", "plugins") or not within(key, paths) or within(key, given):
            continue
        if path := untyped(key, at(then, key), given):
            of_data = recorded and key.startswith("data.")
            found = found_again(path, checkpoint.manifest.get("cwd")) if of_data else None
            if found is None:
                missing[key] = path
                continue
            say_used(key, path := found)
        again.append(f"{key}={spell(path)}")
    if missing:
        command = command_line("train", overrides, config_dirs, recorded)
        raise ConfigError(f"this run was started with {typed_again(command, missing, recorded)}")
    if given & LIMITS:  # one that is typed now takes the place of all that were
        given |= LIMITS
    return [text for text in saved if not within(split_key(text)[0], given | paths)] + again


def take_up(checkpoint: Any, trainer: Any, config: dict[str, Any], facts: dict[str, Any], paths: set[str]) -> None:
    """Restore the state of a checkpoint into a trainer; raises CheckpointError where that cannot be."""
    from dlref.training.progress import Progress
    from dlref.training.state import load_weights, restore

    other_data = has_other_data(checkpoint, trainer, config, facts, paths)
    changed = overrides_that_differ(checkpoint.manifest["config"], config)
    try:
        evaluated = checkpoint.read("weights.pt")
        if trainer.objective.closed_form:  # it was fitted and evaluated before it was saved
            load_weights(trainer.objective, evaluated, str(checkpoint.path))
            trainer.progress = Progress(step=checkpoint.step, evaluated=checkpoint.step)
            return
        shared = checkpoint.read("training.pt")
        own = checkpoint.read(f"rank-{trainer.shard.rank}.pt")
        if other_data:  # which start again
            own |= {"carried": {}, "data": None}
        restore(trainer, evaluated, shared, own, str(checkpoint.path))
    except CheckpointError as error:
        raise CheckpointError(f"{error}{changed}") from None
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)[:120]}"
        raise CheckpointError(
            f"{checkpoint.path} does not hold what this dlref resumes from ({reason}){changed}; "
            f"{checkpoint.use_its_dlref}start a new run"
        ) from error
    then = checkpoint.manifest["config"]["trainer"].get("monitor")
    if then != trainer.config.monitor and trainer.progress.best is not None:
        if "trainer.monitor" not in [split_key(text)[0] for text in facts["overrides"]]:
            typed = [in_shell(f"trainer.monitor={name or 'null'}") for name in (then, trainer.config.monitor)]
            raise CheckpointError(
                f"{checkpoint.path} kept the best weights by trainer.monitor '{then}', and the config now has "
                f"'{trainer.config.monitor}'; add {typed[0]} to resume with it, or {typed[1]} to start again with the best"
            )
        # Its best value is of another metric, which nothing may ever surpass.
        trainer.progress.best, trainer.progress.since_best = None, 0
        logger.info("what is best starts again, with %s instead of %s", trainer.config.monitor, then)


def has_other_data(
    checkpoint: Any, trainer: Any, config: dict[str, Any], facts: dict[str, Any], paths: set[str]
) -> bool:
    """Whether the run resumes with other data, which then start again.

    Refuses to resume something else. Logs what was changed on purpose, and what may change the last bits of the results.
    """
    from dlref.training.run import warn_of_other_plugins

    manifest, data, shard = checkpoint.manifest, trainer.data, trainer.shard
    changes = differences(manifest["config"], config)
    changes = {key: change for key, change in changes.items() if not within(key, paths | {"name", "goal"})}
    if manifest["ranks"] != shard.ranks:
        raise CheckpointError(
            f"{checkpoint.path} was trained by {manifest['ranks']} ranks and this is {shard.ranks}; start as many"
        )
    settings = flatten(manifest["config"]) | flatten(config)
    switches = {key for key in settings if key == "optimizer._target_" or isinstance(settings[key], bool)}
    if other := [f"{k} {v}" for k, v in changes.items() if k in switches and k.startswith("optimizer.")]:
        raise CheckpointError(f"{checkpoint.path} is of another optimizer ({', '.join(other)}); resume with that one")
    if trainer.objective.closed_form:
        parts = ("network", "objective", "data", "seed")
        if fitted := [f"{key} {change}" for key, change in changes.items() if key.partition(".")[0] in parts]:
            raise CheckpointError(
                f"{checkpoint.path} was fitted in closed form with other settings ({', '.join(fitted)}) and is not fitted "
                "again; leave them out, or train in another run_dir"
            )
    data_changes = [f"{key} {change}" for key, change in changes.items() if key == "seed" or key.startswith("data.")]
    sizes, here = {name: data.sizes.get(name) for name in manifest["sizes"]}, data.describe()
    if not data_changes:
        checkpoint.require_described(here)
    if not data_changes and [manifest["sizes"], manifest["data"]] != json.loads(json.dumps([sizes, here])):
        data_changes = ["its files or its vocabulary"]
    if data_changes and not trainer.config.allow_other_data:
        raise CheckpointError(
            f"{checkpoint.path} was trained on other data ({', '.join(data_changes)}); add trainer.allow_other_data=true to "
            "resume with these"
        )
    for key, change in changes.items():
        logger.info("resuming with %s: %s", key, change)
    if data_changes:
        logger.info(
            "the data start again: nothing that was carried or stored of the others is kept, but what was fitted to them "
            "before training (counts of words, principal components) stays"
        )
    warn_of_other_plugins(manifest, list(facts["plugins"]))
    then, now = flatten(manifest), flatten(facts)
    for name in BITS:
        if name in then and then[name] != now.get(name):  # an older checkpoint may not name it
            logger.warning(
                "%s was %s and is %s: the rest of this run is not bit-exact", name, then.get(name), now.get(name)
            )
    return bool(data_changes)


def overrides_that_differ(old: dict[str, Any], new: dict[str, Any]) -> str:
    changes = [f"{k} {v}" for k, v in differences(old, new).items() if k.split(".")[0] in ("network", "objective")]
    return f"; settings that differ: {', '.join(changes)}" if changes else ""
