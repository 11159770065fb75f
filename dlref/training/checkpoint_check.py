"""A trial, before and after the first step, whether a checkpoint of this training can be written and read back.

A plug-in may describe or keep anything, and a checkpoint holds only tensors and plain values. The first save would be too
late to find out.
"""

import contextlib
import functools
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlref.errors import ConfigError, brief
from dlref.plugins import place_in_plugins
from dlref.training import devices, distributed, state
from dlref.training.checkpoint import check_manifest, is_weight, loaded, require_whole
from dlref.training.closed_form import ClosedForm
from dlref.training.trainer import Trainer

PLAIN = "numbers, text, true, false, None, and lists and dictionaries of these"


def require_savable(trainer: Trainer | ClosedForm, manifest: Callable[[], dict[str, Any]], begun: bool) -> None:
    """Raise ConfigError, on every rank, naming the part that gives a checkpoint what it does not hold.

    Before the first step the manifest is tried, and whether modules load what they give; once training has `begun`, what
    optimizer, objective and data keep from step to step. Nothing is written, and random numbers stay as they are.
    """
    failure: Exception | None = None
    with devices.forked_random(trainer.device):
        try:
            if not begun:
                try_manifest(manifest(), type(trainer.data).__name__)
            if isinstance(trainer, Trainer):
                try_states(trainer, begun)
        except Exception as error:  # which one a part of the user's own raises is anybody's guess
            failure = error
    if not distributed.all_succeeded(failure is None, trainer.device):
        raise failure or ConfigError("a checkpoint could not be saved on another rank; see what that one says")


def try_manifest(manifest: dict[str, Any], data: str) -> None:
    require_plain(manifest["sizes"], f"sizes of data {data}")
    require_plain(manifest["data"], f"describe() of data {data}")
    try:
        check_manifest(json.loads(json.dumps({"step": 0, "files": {}} | manifest)))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"sizes or describe() of data {data} are not those of a checkpoint: {brief(error)}"
        ) from error


def try_states(trainer: Trainer, begun: bool) -> None:
    objective, data = trainer.objective, trainer.data
    own, evaluated, shared = (
        type(objective).__name__,
        state.weights(trainer.eval_objective),
        state.shared_state(trainer),
    )
    if not all(map(is_weight, evaluated.items())):
        raise ConfigError(f"state_dict() of objective {own} gives something other than tensors by name")
    require_storable([evaluated, state.buffers(objective)], f"state_dict() of objective {own}")
    require_storable(state.carried(objective), f"get_extra_state() of objective {own}, or of its network,")
    require_storable(shared["optimizer"], f"state_dict() of optimizer {type(trainer.optimizer).__name__}")
    kept = None
    with contextlib.suppress(*[] if begun else [Exception]):  # before its first batch it may have none
        kept = data.state_dict()
    require_storable(kept, f"state_dict() of data {type(data).__name__}")
    if not begun:
        require_loadable(objective)


def require_plain(value: Any, name: str) -> None:
    """Raise ConfigError for what JSON does not hold."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        odd = first_odd(value, lambda one: isinstance(one, str | int | float | None)) or brief(error)
        raise ConfigError(
            f"{name} holds {odd}; a checkpoint takes {PLAIN} (tolist() makes them of tensors and arrays)"
        ) from None


def require_storable(content: Any, name: str) -> None:
    """Raise ConfigError for what torch.save does not store, or what is not read back as data."""
    try:
        require_whole(content)
        file = io.BytesIO()
        torch.save(without_numbers(content), file)
        loaded(file)
    except Exception as error:
        place = place_in_plugins(error)
        odd = first_odd(content, lambda one: isinstance(one, str | int | float | complex | Tensor | None))
        reason = f"holds {odd}" if odd else f"cannot be stored ({type(error).__name__}: {brief(error)})"
        raise ConfigError(
            f"{name} {reason}{f' at {place}' if place else ''}; a checkpoint takes tensors and plain values"
        ) from error


def require_loadable(objective: nn.Module) -> None:
    """Raise ConfigError for modules that do not take their own state: a resumed run gives it to them."""
    try:
        objective.load_state_dict(objective.state_dict())
    except Exception as error:
        place = place_in_plugins(error)
        at = f", {place}" if place else ""
        raise ConfigError(
            f"objective {type(objective).__name__} or its network does not load the state_dict() that it gives ({brief(error)}"
            f"{at}); write load_state_dict or set_extra_state to match"
        ) from error


def without_numbers(content: Any) -> Any:
    """The same nest of plain values with empty tensors; what is neither is left as it is, and stored whole."""
    kind = type(content)
    if kind is Tensor and content.layout is torch.strided and content.device.type != "meta" and not vars(content):
        return empty(content.dtype)
    if kind in (list, tuple):
        return kind(map(without_numbers, content))
    if kind is dict:
        return {key: without_numbers(value) for key, value in content.items()}
    return content


@functools.cache
def empty(dtype: torch.dtype) -> Tensor:
    """One for all, which a file then holds once."""
    return torch.empty(0, dtype=dtype)


def first_odd(value: Any, is_fine: Callable[[Any], bool], path: str = "") -> str | None:
    """`a Tensor at 'mean'`: the first value in a nest that is not fine, and where."""
    if isinstance(value, Mapping | list | tuple):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        found = (first_odd(part, is_fine, f"{path}.{key}" if path else str(key)) for key, part in parts)
        return next(filter(None, found), None)
    if is_fine(value):
        return None
    where = f" at '{brief(path)}'" if path else ""
    return f"{brief(repr(value), 40)} of type {type(value).__name__}{where}"
