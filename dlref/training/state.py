"""The state of training in plain values and tensors; restored from it, a run continues bit for bit."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from dlref.errors import CheckpointError
from dlref.metrics import Mean
from dlref.training import devices
from dlref.training.precision import LossScale
from dlref.training.progress import Progress
from dlref.training.trainer import Trainer

EXTRA = "_extra_state"  # torch's key for what a module's get_extra_state returns


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, without the state that is carried from batch to batch."""
    return {name: value for name, value in module.state_dict().items() if not name.endswith(EXTRA)}


def carried(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in module.state_dict().items() if name.endswith(EXTRA)}


def load_weights(module: nn.Module, saved: Mapping[str, Any], where: str) -> None:
    """Load weights into a module of the same shapes; raises CheckpointError naming what differs.

    A buffer of shape (0,) takes a saved one of any length: it is a table that a closed-form fit fills.
    """
    if not isinstance(saved, Mapping) or not all(isinstance(value, Tensor) for value in saved.values()):
        raise CheckpointError(f"{where} holds something other than weights by name")
    own = weights(module)
    shape = lambda value: "×".join(map(str, value.shape)) or "scalar"  # noqa: E731
    wrong = [
        f"{n} is {shape(saved[n])} there, {shape(own[n])} here"
        for n in own
        if n in saved and saved[n].shape != own[n].shape and (own[n].shape != (0,) or saved[n].ndim != 1)
    ]
    wrong += [f"{n} is only here" for n in own if n not in saved] + [
        f"{n} is only there" for n in saved if n not in own
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{where} is of another network: {', '.join(wrong[:3])}{more}")
    module.load_state_dict(dict(saved) | carried(module))


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """Persistent buffers, such as running statistics."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {name: value for name, value in weights(module).items() if name not in parameters}


def shared_state(trainer: Trainer) -> dict[str, Any]:
    """The state that all ranks have in common, besides the weights that are evaluated."""
    average = trainer.average
    return {
        "progress": asdict(trainer.progress),
        "window": {name: list(mean) for name, mean in trainer.window.totals.items()},
        "last": trainer.window.last,
        "optimizer": trainer.optimizer.state_dict(),
        "trained": weights(trainer.objective) if average else None,  # the evaluated weights are averages then
        "averaged": int(average.n_averaged) if average else None,
        "loss_scale": asdict(trainer.loss_scale) if trainer.loss_scale else None,
    }


def own_state(trainer: Trainer) -> dict[str, Any]:
    """The state of this rank: carried hidden states, buffers, random number generators, and data."""
    return {
        "buffers": buffers(trainer.objective) if trainer.shard.rank else {},  # those of rank 0 are with the weights
        "carried": carried(trainer.objective),
        "data": trainer.data.state_dict(),
        "random": torch.get_rng_state(),
        f"{trainer.device.type}_random": devices.random_state(trainer.device),
    }


def restore(
    trainer: Trainer, evaluated: Mapping[str, Tensor], shared: Mapping[str, Any], own: Mapping[str, Any], where: str
) -> None:
    """Restore `shared_state`, `own_state` and the weights that are evaluated; `where` names the checkpoint in errors."""
    load_weights(trainer.objective, shared["trained"] or evaluated, where)
    trainer.objective.load_state_dict(trainer.objective.state_dict() | own["carried"] | own.get("buffers", {}))
    if trainer.average:
        load_weights(trainer.average.module, evaluated, where)
        trainer.average.n_averaged.fill_(shared["averaged"] or 0)
    progress = dict(shared["progress"])
    trainer.progress = Progress(**progress | {"logged": tuple(progress["logged"])})
    trainer.window.totals = {name: Mean(*mean) for name, mean in shared["window"].items()}
    trainer.window.last = dict(shared.get("last", {}))
    load_optimizer(trainer.optimizer, shared["optimizer"], where)
    if trainer.loss_scale and shared.get("loss_scale"):
        trainer.loss_scale = LossScale(**shared["loss_scale"])
    if own["data"] is not None:  # other data start from their beginning
        trainer.data.load_state_dict(own["data"])
    torch.set_rng_state(own["random"])
    devices.set_random_state(trainer.device, own.get(f"{trainer.device.type}_random"))


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Any, where: str) -> None:
    """Load the state of an optimizer; its hyperparameters stay those of the config, which may have been changed on purpose.

    The learning rate is that of the last step; the trainer sets it at each step, from the config's.
    """
    from_state = ("params", "lr")
    configured = [
        {name: value for name, value in group.items() if name not in from_state} for group in optimizer.param_groups
    ]
    try:
        optimizer.load_state_dict(saved)
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{where} is of another optimizer ({error}); resume with the one it was trained with"
        ) from None
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        group.update(values)
