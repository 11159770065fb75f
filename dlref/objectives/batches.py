"""Which data suit an objective: those whose batches have every attribute that it reads."""

import inspect
import typing
from typing import Any, TypeVar

from dlref.errors import ConfigError
from dlref.interfaces import Data
from dlref.objectives import Objective


def read_by(objective: type[Objective[Any]]) -> type | None:
    """The type argument of an objective class: `TokenBatch` of `class Mine(Objective[TokenBatch])`; None where it has none."""
    for cls in objective.__mro__:
        for base in vars(cls).get("__orig_bases__", ()):
            origin, arguments = typing.get_origin(base), typing.get_args(base)
            if isinstance(origin, type) and issubclass(origin, Objective) and not isinstance(arguments[0], TypeVar):
                return known(arguments[0])
    return None


def given_by(data: type) -> type | None:
    """The type of training batches that a data class annotates; None where it does not."""
    try:
        (batch,) = typing.get_args(typing.get_type_hints(data.train_batches)["return"])  # type: ignore[attr-defined]
    except (AttributeError, KeyError, NameError, TypeError, ValueError):
        return None
    return known(batch)


def known(batch: Any) -> type | None:
    return batch if isinstance(batch, type) and batch is not Any else None


def fields(batch: type) -> list[str]:
    return [name for base in batch.__mro__ for name in inspect.get_annotations(base)]


def require_suitable(objective: Objective[Any], data: Data) -> None:
    """Raise ConfigError where batches of the data lack an attribute that the objective reads, as far as both name types."""
    wanted, given = read_by(type(objective)), given_by(type(data))
    if wanted is None or given is None:
        return
    if lacking := [name for name in fields(wanted) if name not in (*fields(given), *dir(given))]:
        raise ConfigError(
            f"objective {type(objective).__name__} reads {', '.join(lacking)} of a batch, and data {type(data).__name__} give "
            f"{', '.join(fields(given))}; choose data that suit it, or another objective"
        )
