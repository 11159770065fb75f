"""An old name is refused with the new one."""

import functools
import inspect

import pytest

from dlref import config_check
from dlref.cli.compose import compose, configs_folder, groups
from dlref.errors import ConfigError, did_you_mean
from dlref.renamed import RENAMED

OPTIONS = groups([configs_folder()])
PAIRS = [(old, new) for old, each in RENAMED.items() for new in each]


@functools.cache
def offered() -> dict[str, str]:
    """An option of a group that has it, for each setting and each report."""
    found = dict[str, str]()
    for group in ("model", "data", "objective", "optimizer"):
        for name in OPTIONS[group]:
            config = compose([f"{group}={name}"])
            parts = {part: config[part] for part in config_check.BASES if part != "reports" and config.get(part)}
            parts |= {f"reports.{report}": section for report, section in config["reports"].items()}
            for path, section in parts.items():
                cls = config_check.resolve(section["_target_"], path.partition(".")[0])
                taken = [f"{path}.{setting}" for setting in inspect.signature(cls).parameters]
                found |= dict.fromkeys([path, *taken], f"{group}={name}")
            found |= {
                f"trainer.{setting}": f"{group}={name}" for setting in config_check.defaults(config_check.TrainerConfig)
            }
        found |= {f"{group}={name}": f"{group}={name}" for name in OPTIONS[group]}
    return found


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_an_old_name_is_refused_with_the_new_one(old: str, new: str) -> None:
    if new.startswith("dlref."):
        part = {"models": "network", "objectives": "objective"}.get(kind := new.split(".")[1], kind)
        assert config_check.resolve(new, part)
        line = [f"{'reports.one' if part == 'reports' else part}._target_={old}"]
    else:
        line = [offered()[new], old if "=" in old else f"{old}=null"]
    with pytest.raises(ConfigError) as refused:
        config_check.check(compose(line))
    assert str(refused.value).endswith(f"; did you mean '{new}'?")


def test_an_old_name_means_the_new_one_only_where_there_is_one() -> None:
    assert did_you_mean("length", ["seq_len", "lengths"], "data.") == "; did you mean 'data.seq_len'?"
    assert did_you_mean("length", ["rollout_steps"], "data.") == "; did you mean 'data.rollout_steps'?"
    assert did_you_mean("length", ["lengths", "width"], "data.") == "; did you mean 'data.lengths'?"
    assert did_you_mean("data.length", ["data.seq_len"]) == "; did you mean 'data.seq_len'?"


def test_no_new_name_is_an_old_one() -> None:
    """`data.shift` and the like mean one thing in one version."""
    assert not RENAMED.keys() & {new for _, new in PAIRS}
