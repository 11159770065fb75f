"""dlref train: compose, build or restore, train, and leave a run directory that says what happened."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref.cli.configs import (
    compose,
    configs_folder,
    differences,
    first_line,
    flatten,
    groups,
    load_plugins,
    one_limit,
    plugin_files,
    spelled_for_hydra,
    split_key,
)
from dlref.cli.main import explained, take_flags
from dlref.errors import CheckpointError, ConfigError

HELP = """usage: dlref train [model=NAME] [experiment=NAME] [key=value …] [-m] [--cfg job] [--config-dir DIR]

  model=mlp data=mnist          select whole systems and exchange their parts; dlref list names them
  network.widths=[200,100]      a setting of the network, optimizer, data, objective, schedule or trainer
  seed=1 device=cuda threads=2  what every run has
  run_dir=DIR                   where to write; default runs/<name>/<time>-<random>
  resume=RUN  or  resume=auto   go on with a run, bit for bit; auto: in run_dir if it holds a checkpoint
  plugins=my.py                 classes of your own, for _target_
  -m seed=0,1,2                 several runs, by Hydra's launchers
  --cfg job                     print the config and stop
  --config-dir DIR              a folder of your own with model/ experiment/ data/ …"""

logger = logging.getLogger("dlref")


def main(arguments: Sequence[str]) -> int:
    flags: dict[str, Any] = {"--config-dir": [], "--cfg": [], "-m": False, "--multirun": False}
    overrides = take_flags(arguments, flags, HELP)
    if overrides is None:
        return 0
    if flags["-m"] or flags["--multirun"]:
        return sweep(overrides, flags["--config-dir"])
    if flags["--cfg"]:
        import yaml

        config = compose(overrides, flags["--config-dir"])
        one_limit(config, overrides)
        print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")
        return 0
    return train(overrides, flags["--config-dir"])


def sweep(overrides: Sequence[str], config_dirs: Sequence[str]) -> int:
    """Hand `-m` to Hydra: its grammar of sweeps, and whichever launcher is selected."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    @hydra.main(config_path=str(configs_folder()), config_name="train", version_base="1.3")
    def job(_: Any) -> None:
        typed = [text for text in HydraConfig.get().overrides.task if split_key(text)[0] != "hydra"]
        if code := explained(lambda: train(typed, config_dirs)):
            sys.exit(code)  # which ends the sweep

    folders = [configs_folder(), *map(Path, config_dirs)]
    extra = [f"--config-dir={Path(name).resolve()}" for name in config_dirs]
    sys.argv = ["dlref train", "-m", *extra, *spelled_for_hydra(overrides, groups(folders))]
    job()
    return 0


def train(overrides: list[str], config_dirs: Sequence[str] = ()) -> int:
    """One run; the exit code."""
    from dlref.training import distributed

    rank, local_rank, ranks = distributed.launched(os.environ)
    typed = {key: value.strip("'\"") for key, value in map(split_key, overrides)}
    checkpoint, folder = to_resume(typed)
    plugins = load_plugins(plugin_files(overrides))
    if checkpoint is not None:
        overrides = [*reusable(checkpoint, overrides, config_dirs, plugins), *overrides]
    config = compose(overrides, config_dirs)
    one_limit(config, overrides)

    from dlref import build
    from dlref.data import Shard
    from dlref.training import devices

    build.check(config, plugins)
    device = devices.choose_device(config["device"], local_rank)
    with distributed.group(ranks, device), devices.explained():
        return run(config, overrides, plugins, checkpoint, folder, Shard(rank, ranks), device)


def to_resume(typed: dict[str, str]) -> tuple[Any, Path | None]:
    """The checkpoint to go on from, if any, and its run's folder."""
    from dlref.training.checkpoint import MANIFEST, Checkpoints, open_checkpoint

    wish = typed.get("resume", "null")
    if wish == "null":
        return None, None
    if wish == "auto":
        if typed.get("run_dir", "null") == "null":
            raise ConfigError("resume=auto goes on in run_dir, which is not set; add run_dir=DIR")
        folder = Path(typed["run_dir"]).expanduser()
    else:
        folder = Path(wish).expanduser()
        if (folder / MANIFEST).is_file():
            return open_checkpoint(folder.resolve()), folder.resolve().parents[1]
        if not folder.is_dir():
            raise CheckpointError(f"resume={wish} is not a run directory; dlref train names it when it starts")
    checkpoints = Checkpoints(folder / "checkpoints")
    found = checkpoints.newest("step")
    if found is None and (wish != "auto" or checkpoints.numbered("step")):
        raise CheckpointError(f"{folder} has no whole checkpoint to go on from; begin anew in another run_dir")
    return found, folder


def reusable(
    checkpoint: Any, overrides: Sequence[str], config_dirs: Sequence[str], plugins: Sequence[str]
) -> list[str]:
    """The overrides as first typed, less those that only a command line may set and those typed again.

    A checkpoint is data: it may choose among settings, but it names no file and no code. Raises ConfigError naming the
    plug-ins and paths that have to be typed again.
    """
    from dlref import build
    from dlref.training.checkpoint import as_data

    saved, given = list(checkpoint.manifest["overrides"]), {split_key(text)[0] for text in overrides}
    if any(not isinstance(text, str) or "${" in text or split_key(text)[0].startswith("hydra") for text in saved):
        raise CheckpointError(f"{checkpoint.path} holds overrides that are not plain values; it is not resumed")
    keys = {split_key(text)[0] for text in saved}
    again = sorted(keys & {"plugins"} - given)
    with as_data(checkpoint):
        if not again:
            # Composed without being built, only to learn which settings are paths.
            composed = compose([text for text in saved if split_key(text)[0] != "resume"], config_dirs)
            paths = build.path_settings(composed, plugins)
            again = sorted(keys & paths - given - {"run_dir", "resume"})
    if again:
        raise ConfigError(
            f"this run was started with {', '.join(again)}, which a checkpoint may not set; type it again"
        )
    return [text for text in saved if split_key(text)[0] not in given | paths]


def run(
    config: dict[str, Any],
    overrides: list[str],
    plugins: list[str],
    checkpoint: Any,
    folder: Path | None,
    shard: Any,
    device: Any,
) -> int:
    """Everything between a checked config and the last line; every rank runs it, rank 0 writes."""
    import torch

    from dlref import build
    from dlref.cli.reporting import run_reports
    from dlref.training import distributed
    from dlref.training.checkpoint import Checkpoints
    from dlref.training.log import Log
    from dlref.training.run import RunFolder, about, new_folder, peak_memory
    from dlref.training.state import own_state, restore, shared_state, weights

    if config["threads"]:
        torch.set_num_threads(config["threads"])
    home, failure = None, None
    if shard.rank == 0:
        try:
            home = open_run(folder, config, checkpoint, RunFolder, new_folder)
        except ConfigError as error:
            failure = str(error)
    failure = distributed.from_first(failure)
    if failure:
        raise ConfigError(failure)
    folder = Path(distributed.from_first(str(home.path) if home else ""))
    try:
        model = build.build(config, device, plugins)
        objective, data = model.objective, model.data
        optimizer, schedule, trainer = build.build_trainer(config, objective, plugins)
        trainer.limit_steps(lambda: data.batches_per_pass)
        trainer.prepare(objective, data, optimizer, schedule, shard, device)
        torch.manual_seed(config["seed"] * 1_000_003 + shard.rank)  # dropout differs by rank; the weights do not
        checkpoints = Checkpoints(folder / "checkpoints", shard.rank, device)
        facts = about(device, overrides)
        if checkpoint is not None:
            paths = build.path_settings(config, plugins)
            other_data = compare(checkpoint, config, data, trainer.allow_other_data, facts, paths, shard)
            changed = overrides_that_differ(checkpoint.manifest["config"], config)
            try:
                shown, shared = checkpoint.read("weights.pt"), checkpoint.read("training.pt")
                own = checkpoint.read(f"rank-{shard.rank}.pt")
                restore(trainer, shown, shared, own | {"carried": {}, "data": None} if other_data else own, str(checkpoint.path))
            except CheckpointError as error:
                raise CheckpointError(f"{error}{changed}") from None
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                reason = f"{type(error).__name__}: {first_line(error)[:120]}"
                raise CheckpointError(
                    f"{checkpoint.path} does not hold what this dlref resumes from ({reason}){changed}; resume with the one "
                    f"that wrote it, {checkpoint.manifest['versions'].get('dlref')}, or begin anew"
                ) from error
        if trainer.ended() and trainer.progress.evaluated == trainer.progress.step:
            logger.info("%s is finished at step %d; raise trainer.max_steps to train on", folder, trainer.progress.step)
            return 0
        if home:
            checkpoints.forget_after(trainer.progress.step)
            import yaml

            home.write("config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
            home.record(**facts, ranks=shard.ranks, resumed_at=trainer.progress.step or None, finished=False)
            introduce(config, objective, data, trainer, folder)
        log = Log(folder if home else None, trainer.progress.step, trainer.max_steps)

        def save(kind: str) -> None:
            manifest = {
                "kind": kind,
                "config": config,
                "overrides": overrides,
                "sizes": data.sizes,
                "data": data.describe(),
            }
            manifest |= {"metrics": trainer.progress.figures, "ranks": shard.ranks}
            manifest |= {name: facts[name] for name in ("versions", "git_commit", "threads")}
            common = {"weights.pt": weights(trainer.shown)}
            if kind == "best":
                checkpoints.save("best", trainer.progress.step, manifest, {}, common)
            else:
                common["training.pt"] = shared_state(trainer)
                checkpoints.save(
                    "step", trainer.progress.step, manifest, {f"rank-{shard.rank}.pt": own_state(trainer)}, common
                )
            log.flush()

        def report(net: Any, step: int) -> dict[str, float]:
            figures: dict[str, float] = {}
            if home and (cheap := {name: r for name, r in model.reports.items() if r.while_training}):
                figures, pictures, texts = run_reports(cheap, net, data, "eval", device)
                for name, picture in pictures.items():
                    log.picture(f"eval/{name}", picture, step)
                for name, text in texts.items():
                    log.text(f"eval/{name}", text, step)
            return distributed.from_first(figures)

        try:
            signal = trainer.fit(log, save, report)
            if home:
                results = {f"eval/{name}": value for name, value in trainer.progress.figures.items()}
                log.settings({k: v for k, v in flatten(config).items() if v is not None}, results)
        finally:
            log.close()
        if home:
            progress = trainer.progress
            speed = data.units_per_batch(shard.ranks) * trainer.accumulate * progress.step / max(progress.seconds, 1e-9)
            home.record(
                step=progress.step,
                seconds=round(progress.seconds, 2),
                **{f"{data.unit}_per_second": round(speed, 1)},
                **peak_memory(device),
                metrics=progress.figures,
                finished=trainer.ended(),
                repeatable_bit_for_bit=trainer.max_seconds is None and not trainer.compile and device.type == "cpu",
            )
            logger.info("%.1f s of training; written to %s", progress.seconds, folder)
            again = f"dlref train resume={folder}" if signal and not trainer.ended() else f"dlref evaluate {folder}"
            logger.info(
                "next: %s  ·  tensorboard --logdir %s", again, folder.parent.parent if not config["run_dir"] else folder
            )
        return 128 + signal if signal else 0
    finally:
        if home:
            home.release()


def open_run(folder: Path | None, config: dict[str, Any], checkpoint: Any, RunFolder: Any, new_folder: Any) -> Any:
    """This run's directory, locked: the one to go on in, the one that was named, or a new one."""
    if folder is None and config["run_dir"]:
        folder = Path(config["run_dir"]).expanduser()
    home = RunFolder(folder or new_folder(Path("runs") / config["name"]))
    if checkpoint is None and (home.path / "checkpoints").exists() and config["resume"] != "auto":
        home.release()
        raise ConfigError(f"{home.path} already holds a run; go on with resume={home.path}, or choose another run_dir=")
    if checkpoint is None:  # left by a life that ended before its first checkpoint
        for old in [
            *home.path.glob("events.out.tfevents.*"),
            *home.path.glob("metrics.jsonl"),
            *home.path.glob(".*.json*.*"),
        ]:
            old.unlink()
    return home


def compare(
    checkpoint: Any,
    config: dict[str, Any],
    data: Any,
    other_data: bool,
    facts: dict[str, Any],
    paths: set[str],
    shard: Any,
) -> bool:
    """Refuse to go on as something else; say what was changed on purpose, and what may cost the last bits.

    Whether it goes on with other data, which then begin anew.
    """
    manifest = checkpoint.manifest
    changes = {k: v for k, v in differences(manifest["config"], config).items() if k not in paths | {"name", "goal"}}
    if manifest["ranks"] != shard.ranks:
        raise CheckpointError(
            f"{checkpoint.path} was trained by {manifest['ranks']} ranks and this is {shard.ranks}; start as many"
        )
    optimizer = manifest["config"].get("optimizer", {}) | config["optimizer"]
    switches = {f"optimizer.{k}" for k, v in optimizer.items() if k == "_target_" or isinstance(v, bool)}
    if other := [f"{key} {changes[key]}" for key in sorted(switches & changes.keys())]:
        raise CheckpointError(
            f"{checkpoint.path} is of another optimizer ({', '.join(other)}); resume with that one"
        )
    data_changes = [f"{key} {change}" for key, change in changes.items() if key == "seed" or key.startswith("data.")]
    if not data_changes and [manifest["sizes"], manifest["data"]] != json.loads(
        json.dumps([data.sizes, data.describe()])
    ):
        data_changes = ["its files or its vocabulary"]
    if data_changes and not other_data:
        raise CheckpointError(
            f"{checkpoint.path} was trained on other data ({', '.join(data_changes)}); add trainer.allow_other_data=true to "
            "go on with these"
        )
    for key, change in changes.items():
        logger.info("resuming with %s: %s", key, change)
    if data_changes:
        logger.info("the data begin anew: nothing that was carried or stored of the others is taken over")
    for name in ("threads", "torch", "git_commit"):
        then, now = (said["versions"].get(name) if name == "torch" else said.get(name) for said in (manifest, facts))
        if then != now:
            logger.warning("%s was %s and is %s: the rest of this run is not bit-exact", name, then, now)
    return bool(data_changes)


def overrides_that_differ(old: dict[str, Any], new: dict[str, Any]) -> str:
    changes = [f"{k} {v}" for k, v in differences(old, new).items() if k.split(".")[0] in ("network", "objective")]
    return f"; settings that differ: {', '.join(changes)}" if changes else ""


def introduce(config: dict[str, Any], objective: Any, data: Any, trainer: Any, folder: Path) -> None:
    """What is about to happen, in a few lines."""
    from dlref.training import devices

    parameters = sum(p.numel() for p in objective.net.parameters())
    limits = [
        f"{trainer.max_steps:,} steps" if trainer.max_steps else "",
        f"{trainer.max_seconds:g} s" if trainer.max_seconds else "",
    ]
    sizes = ", ".join(f"{name} {size:,}" for name, size in data.sizes.items())
    precision = devices.resolve(trainer.precision, trainer.device)
    logger.info("%s: %s, %s parameters", config["name"], type(objective.net).__name__, f"{parameters:,}")
    logger.info("data %s (%s), seed %d", type(data).__name__, sizes, config["seed"])
    logger.info("%s, %s, %s", trainer.device, precision, " or ".join(limit for limit in limits if limit))
    if config["goal"]:
        logger.info("to reach: %s", config["goal"])
    if trainer.max_seconds:
        logger.info("limited by seconds, so another run of it does not repeat bit for bit")
    logger.info("writing to %s", folder)
