"""Snapshots of an environment's state, and a check that a restored environment equals the original."""

import collections
import contextlib
import copy
import hashlib
import logging
import pickle
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

LIBRARIES = ("builtins", "gymnasium", "typing", "abc")  # their classes and modules hold no state of an environment
VARIABLES = (bool, int, float, str, list, dict, set, collections.deque, np.ndarray, np.random.Generator,
             np.random.RandomState, random.Random)  # fmt: skip


def snapshot(env: Any) -> dict[str, Any] | None:
    """The state of an environment if it consists of plain numbers (classic control, toy text), else None.

    Its fingerprint covers everything that the environment may hold, so that `restore` detects state that is not in the
    numbers.
    """
    inner = env.unwrapped
    try:
        state = getattr(inner, "state", getattr(inner, "s", None))  # the names in gymnasium's own environments
        if state is None or not is_plain(state):
            return None
        return {
            "values": plain_values(inner),
            "wrappers": [plain_values(layer) for layer in wrappers(env)],
            "random": {name: each.bit_generator.state for name, each in generators(inner).items()},
            "fingerprint": fingerprint(env),
        }
    except Exception:  # a dtype that torch lacks, or an error of the user's object when its attributes are read
        return None


def restore(env: Any, saved: dict[str, Any]) -> bool:
    """Restore a snapshot in an environment of the same kind; whether it then equals the original.

    Lists, other objects, class and module variables are not restored: if a step changed them, the fingerprints differ.
    """
    inner = env.unwrapped
    try:
        set_generators(env, saved["random"])  # first: this creates np_random, whose seed is one of the values
        for layer, values in zip([*wrappers(env), inner], [*saved["wrappers"], saved["values"]], strict=True):
            vars(layer).update({name: from_tensors(value) for name, value in values.items()})
        return fingerprint(env) == saved["fingerprint"]
    except Exception:  # see snapshot
        return False


def set_generators(env: Any, states: dict[str, Any]) -> None:
    """Set the states of an environment's random generators."""
    for name, each in generators(env.unwrapped).items():
        each.bit_generator.state = states[name]


def generators(inner: Any) -> dict[str, np.random.Generator]:
    """The random generators of an environment: gymnasium's `np_random`, its other attributes, and those of its spaces."""
    found = {"np_random": inner.np_random}
    found |= {name: value for name, value in vars(inner).items() if isinstance(value, np.random.Generator)}
    return found | {name: space.np_random for name, space in spaces_of(inner).items()}


def spaces_of(inner: Any) -> dict[str, Any]:
    """The spaces of an environment by attribute name; the observation and action space may be class attributes."""
    from gymnasium import Space

    values = {name: getattr(inner, name, None) for name in (*vars(inner), "observation_space", "action_space")}
    return {name: value for name, value in values.items() if isinstance(value, Space)}


def wrappers(env: Any) -> Iterator[Any]:
    """The wrappers around an environment, outermost first."""
    while env is not env.unwrapped:
        yield env
        env = env.env


def plain_values(layer: Any) -> dict[str, Any]:
    return {name: to_tensors(value) for name, value in vars(layer).items() if is_plain(value)}


def is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype == bool or np.issubdtype(value.dtype, np.number)
    return isinstance(value, bool | int | float | None)


def to_tensors(value: Any) -> Any:
    """A value for a checkpoint: NumPy arrays and numbers become tensors."""
    if isinstance(value, tuple):
        return tuple(map(to_tensors, value))
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray | np.generic) else value


def from_tensors(value: Any) -> Any:
    """The inverse of `to_tensors`."""
    if isinstance(value, tuple):
        return tuple(map(from_tensors, value))
    return value.numpy().copy()[()] if isinstance(value, torch.Tensor) else value  # [()] makes a scalar of shape []


def fingerprint(env: Any) -> str:
    """A hash, equal in all processes, of an environment's and its wrappers' attributes and its class and module variables.

    Raises an exception for objects whose contents cannot be read: a simulator in C, an open file, a lock.
    """
    inner, digest = env.unwrapped, Fingerprint()
    own = [
        {name: value for name, value in vars(layer).items() if name not in ("env", "_cached_spec")}
        for layer in (*wrappers(env), inner)
    ]
    parts = [digest(own)]
    for namespace in namespaces(env):
        for name, value in variables(namespace).items():
            parts += [name.encode(), digest(value)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def namespaces(env: Any) -> list[Any]:
    """The classes of an environment and their modules, except those of libraries."""
    classes = [cls for cls in type(env.unwrapped).__mro__ if cls.__module__.partition(".")[0] not in LIBRARIES]
    modules = [sys.modules[cls.__module__] for cls in classes if cls.__module__ in sys.modules]
    return [*dict.fromkeys([*classes, *modules])]


def variables(namespace: Any) -> dict[str, Any]:
    """The variables of a class or module that a step may change."""
    return {n: value for n, value in vars(namespace).items() if isinstance(value, VARIABLES) and not n.startswith("__")}


@contextlib.contextmanager
def variables_restored(env: Any) -> Iterator[None]:
    """A context manager that restores an environment's class and module variables at its end.

    Objects are restored in place, since others may refer to them. Objects that cannot be copied stay changed.
    """
    saved, names_before = [], {namespace: set(variables(namespace)) for namespace in namespaces(env)}
    found = [(namespace, name, value) for namespace in names_before for name, value in variables(namespace).items()]
    # A copy refers to other variables' objects, not to copies of them: each of those is restored by itself.
    objects = {id(value): value for *_, value in found if not isinstance(value, str | int | float)}
    for namespace, name, value in found:
        with contextlib.suppress(Exception):  # a user's object that cannot be copied or read
            others = {key: other for key, other in objects.items() if other is not value}
            saved.append((namespace, name, value, copy.deepcopy(value, others), Fingerprint()(value)))
    try:
        yield
    finally:
        for namespace, names in names_before.items():
            for name in variables(namespace).keys() - names:  # created in the context
                delattr(namespace, name)
        for namespace, name, value, copied, digest in saved:
            with contextlib.suppress(Exception):
                if Fingerprint()(value) != digest:
                    restore_contents(value, copied)
            if vars(namespace).get(name) is not value:
                setattr(namespace, name, value)


def restore_contents(value: Any, copied: Any) -> None:
    """Set the contents of a mutable object to those of its copy."""
    match value:
        case list():
            value[:] = copied
        case np.ndarray():
            value[...] = copied
        case dict() | set():
            value.clear()
            value.update(copied)
        case collections.deque():
            value.clear()
            value.extend(copied)
        case np.random.Generator():
            value.bit_generator.state = copied.bit_generator.state
        case np.random.RandomState():
            value.set_state(copied.get_state())
        case random.Random():
            value.setstate(copied.getstate())


class Fingerprint:
    """Hashes values by their contents, recursively, as pickle would reduce them; remembers the hashes of objects."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Any, bytes]] = {}  # with the value, so that its id is not reused

    def __call__(self, value: Any) -> bytes:
        if id(value) not in self.seen:
            self.seen[id(value)] = value, b"a value that contains itself"
            parts = [type(value).__qualname__.encode(), *self.parts(value)]
            self.seen[id(value)] = value, hashlib.sha256(b"".join(parts)).digest()
        return self.seen[id(value)][1]

    def parts(self, value: Any) -> Iterator[bytes]:
        match value:
            case None | bool() | int() | float() | complex() | str() | bytes():
                yield repr(value).encode()
            case torch.Tensor():
                yield self(value.detach().cpu().numpy())
            case np.ndarray() | np.generic() if not value.dtype.hasobject:
                yield f"{value.dtype.str} {value.shape}".encode()
                yield value.tobytes()
            case np.ndarray() | tuple() | list() | collections.deque():
                yield from map(self, value)
            case set() | frozenset():
                yield from sorted(map(self, value))
            case dict():
                yield from sorted(
                    self(name) + self(each) for name, each in value.items()
                )  # the order of attributes does not count
            case np.random.Generator():
                yield self(value.bit_generator.state)  # without its seed sequence
            case np.random.RandomState():
                yield self(value.get_state(legacy=False))
            case type() | types.ModuleType():
                yield value.__name__.encode()
            case logging.Logger():
                yield value.name.encode()
            case types.FunctionType():
                yield value.__qualname__.encode()
                cells = [cell.cell_contents for cell in value.__closure__ or ()]
                yield from map(self, (cells, value.__defaults__, value.__kwdefaults__, vars(value)))
            case types.MethodType() | types.BuiltinFunctionType():
                yield value.__qualname__.encode()
                yield self(value.__self__)
            case _:
                reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
                for part in (reduced,) if isinstance(reduced, str) else reduced:
                    yield self(list(part) if isinstance(part, Iterator) else part)
                yield self(getattr(value, "__dict__", None))
