"""Assembles an experiment from a config: data, network, objective, reports, optimizer and schedule."""

import contextlib
import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dlref.config_check import OPTIONAL, check_section, needed, resolve
from dlref.errors import ConfigError, brief
from dlref.interfaces import Data, HasOutputLayer, undelivered
from dlref.objectives import Objective
from dlref.objectives.batches import require_suitable
from dlref.optimizers.schedules import Schedule
from dlref.plugins import place_in_plugins
from dlref.reports import Report
from dlref.training import devices, memory

MOST_PARTS = 20_000  # layers and parameters of a network: with a mistyped number of layers it would never be built


@dataclass
class Model:
    """What an evaluation takes."""

    data: Data
    objective: Objective[Any]
    reports: dict[str, Report]


def build(config: Mapping[str, Any], device: torch.device, plugins: Sequence[str] = ()) -> Model:
    """Data, network and objective, on the device and in the precision of a checked config; random weights by its seed."""
    data: Data = make(config["data"], "data", plugins, seed=config["seed"])
    require_delivered("data", data)
    torch.manual_seed(config["seed"])
    net = make_network(config, data.sizes, plugins, device)
    objective: Objective[Any] = make(config["objective"], "objective", plugins, net=net)
    require_suitable(objective, data)
    dtype = weights_dtype(config)
    if device.type == "mps":  # which has no float64, not even for buffers
        if dtype is not None:
            raise ConfigError("device=mps has no float64; set trainer.precision=float32, or device=cpu")
        dtype = torch.float32
    objective = objective.to(device, dtype)
    reports = {name: section for name, section in (config.get("reports") or {}).items() if section is not None}
    return Model(data, objective, {name: make(section, "reports", plugins) for name, section in reports.items()})


def weights_dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """The type of all weights of a run in float64; None for other precisions, which keep each weight in its own type."""
    return torch.float64 if config["trainer"].get("precision") == "float64" else None


def build_optimizer(
    config: Mapping[str, Any], objective: Objective[Any], plugins: Sequence[str] = ()
) -> tuple[torch.optim.Optimizer, Schedule]:
    """Optimizer and learning-rate schedule for the trainable parameters of an objective."""
    for group in OPTIONAL:
        check_section(group, config.get(group), group, plugins)
    trained = [p for p in objective.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError(
            f"network {type(objective.net).__name__} has no trainable parameters; choose another one, or an objective that "
            "fits it in closed form"
        )
    # Biases and the scales of norms are not decayed, as in the papers that use weight decay.
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    params = [group for group in groups if group["params"]] if config["optimizer"].get("weight_decay") else trained
    supplied = {"params": params, "tables": tables(objective.net)}
    optimizer: torch.optim.Optimizer = make(config["optimizer"], "optimizer", plugins, **supplied)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            f"optimizer {config['optimizer']['_target_']} evaluates the loss itself; choose a first-order one"
        )
    schedule: Schedule = make(config["schedule"], "schedule", plugins)
    return optimizer, schedule


def tables(net: nn.Module) -> list[torch.Tensor]:
    """Embeddings and output layer, with a row of weights for each token or class, which some optimizers treat differently."""
    embeddings = [layer.weight for layer in net.modules() if isinstance(layer, nn.Embedding)]
    return embeddings + ([net.out.weight] if isinstance(net, HasOutputLayer) else [])


def make_network(
    config: Mapping[str, Any], sizes: Mapping[str, int], plugins: Sequence[str] = (), device: torch.device | None = None
) -> nn.Module:
    """The network with the sizes that its constructor asks for and the config does not set.

    Raises ResourceError, before anything is allocated, where there is no memory to train it on `device`, or, without one,
    for its weights alone.
    """
    check_section("network", config.get("network"), "network", plugins)
    layers = config["network"].get("layers")  # a list with something for each would fill the memory before one is built
    if isinstance(layers, int) and layers > MOST_PARTS:
        raise ConfigError(f"network.layers is {layers}; it takes at most {MOST_PARTS:,}")
    cls = resolve(config["network"]["_target_"], "network", plugins)
    parameters = inspect.signature(cls).parameters
    missing = [name for name in parameters if name not in {*config["network"], *sizes} and needed(parameters[name])]
    if missing:
        raise ConfigError(
            f"network {cls.__name__} needs {', '.join(missing)}, and neither network.{missing[0]} is set nor does the data "
            f"give it (it gives {', '.join(map(brief, sizes))}); choose data that suits the model"
        )
    for name in [name for name in sizes if name in config["network"]]:
        if config["network"][name] != sizes[name]:
            set_to = config["network"][name]
            raise ConfigError(f"network.{name} is {set_to!r:.100}, the data have {sizes[name]}; leave it out")
    wanted = {name: size for name, size in sizes.items() if name in parameters and name not in config["network"]}

    def network() -> nn.Module:
        with limited(cls):
            net: nn.Module = make(config["network"], "network", plugins, **wanted)
            return net

    with torch.random.fork_rng(devices=[]):  # the weights are the same whether or not it was tried before
        memory.require_memory(network, device)
    with devices.explained():
        net = network()
    require_delivered("network", net)
    return net


def require_delivered(group: str, part: object) -> None:
    """Raise ConfigError for an object that lacks what its class declares by an interface."""
    if absent := undelivered(part):
        raise ConfigError(
            f"{group} {type(part).__name__} lacks {', '.join(absent)}, which its interfaces ask for; add what "
            "dlref/interfaces.py says of them, or do not inherit these"
        )


@contextlib.contextmanager
def limited(cls: type) -> Iterator[None]:
    """A context in which no network of more than `MOST_PARTS` is built."""
    from torch.nn.modules import module

    parts = itertools.count(1)

    def one_more(*_: Any) -> None:
        if next(parts) > MOST_PARTS:
            raise ConfigError(f"network {cls.__name__} has more than {MOST_PARTS:,} parts; choose fewer layers")

    hooks = [module.register_module_module_registration_hook(one_more)]
    hooks += [module.register_module_parameter_registration_hook(one_more)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def make(section: Mapping[str, Any], group: str, plugins: Sequence[str], /, **supplied: Any) -> Any:
    """Call the class that the section's `_target_` names; what it finds wrong with its values becomes a ConfigError."""
    cls = resolve(section["_target_"], group, plugins)
    given = {name: value for name, value in section.items() if name != "_target_"}
    accepted = inspect.signature(cls).parameters
    try:
        return cls(**given, **{name: value for name, value in supplied.items() if name in accepted})
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        place = place_in_plugins(error)
        at = f" ({place})" if place else ""
        raise ConfigError(f"{group} {cls.__name__}{at} refuses its settings: {brief(error, 400)}") from error
    except RuntimeError as error:  # torch's optimizers say so where two settings exclude each other
        if group != "optimizer":
            raise
        raise ConfigError(f"{group} {cls.__name__} refuses its settings: {brief(error, 400)}") from error
