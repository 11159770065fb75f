"""Freezing an environment between two of its steps, and proof that the thawed one is the same."""

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

LIBRARIES = ("builtins", "gymnasium", "typing", "abc")  # whose modules keep nothing that a step changes
VARIABLES = (bool, int, float, str, list, dict, set, collections.deque, np.ndarray, np.random.Generator,
             np.random.RandomState, random.Random)  # fmt: skip


def freeze(env: Any) -> dict[str, Any] | None:
    """The state of an environment, where it is plain numbers (classic control, tables); else None.

    Besides the numbers it has a fingerprint of everything that the environment may remember, by which `thaw` knows
    whether the numbers were all.
    """
    inner = env.unwrapped
    try:
        state = getattr(inner, "state", getattr(inner, "s", None))  # as gymnasium's own environments call it
        if state is None or not is_plain(state):
            return None
        return {
            "values": plain_values(inner),
            "wrappers": [plain_values(layer) for layer in wrappers(env)],
            "random": {name: each.bit_generator.state for name, each in generators(inner).items()},
            "fingerprint": fingerprint(env),
        }
    except Exception:  # a type that torch lacks, or whatever an object of the user's raises when it is looked at
        return None


def thaw(env: Any, frozen: dict[str, Any]) -> bool:
    """Put an environment of the same kind where the frozen one stood; whether it then equals that one in everything.

    What it keeps in lists, other objects, its class or its module is not restored, and differs if a step changed it.
    """
    inner = env.unwrapped
    try:
        set_generators(env, frozen["random"])  # made only now, with a seed of their own that is one of the values
        for layer, values in zip([*wrappers(env), inner], [*frozen["wrappers"], frozen["values"]], strict=True):
            vars(layer).update({name: unpacked(value) for name, value in values.items()})
        return fingerprint(env) == frozen["fingerprint"]
    except Exception:  # see freeze
        return False


def set_generators(env: Any, states: dict[str, Any]) -> None:
    """Put the generators of an environment where those of a frozen one stood."""
    for name, each in generators(env.unwrapped).items():
        each.bit_generator.state = states[name]


def generators(inner: Any) -> dict[str, np.random.Generator]:
    """What an environment may draw random numbers from: its own, gymnasium's among them, and those of its spaces."""
    found = {"np_random": inner.np_random}
    found |= {name: value for name, value in vars(inner).items() if isinstance(value, np.random.Generator)}
    return found | {name: space.np_random for name, space in spaces_of(inner).items()}


def spaces_of(inner: Any) -> dict[str, Any]:
    """The spaces of an environment by the names of its attributes; those of actions and observations may be its class's."""
    from gymnasium import Space

    values = {name: getattr(inner, name, None) for name in (*vars(inner), "observation_space", "action_space")}
    return {name: value for name, value in values.items() if isinstance(value, Space)}


def wrappers(env: Any) -> Iterator[Any]:
    """The layers around an environment, from outside."""
    while env is not env.unwrapped:
        yield env
        env = env.env


def plain_values(layer: Any) -> dict[str, Any]:
    return {name: packed(value) for name, value in vars(layer).items() if is_plain(value)}


def is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype == bool or np.issubdtype(value.dtype, np.number)
    return isinstance(value, bool | int | float | None)


def packed(value: Any) -> Any:
    """As a checkpoint may hold it: NumPy's arrays and numbers become tensors."""
    if isinstance(value, tuple):
        return tuple(map(packed, value))
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray | np.generic) else value


def unpacked(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(unpacked, value))
    return value.numpy().copy()[()] if isinstance(value, torch.Tensor) else value  # [()] is a number where it was one


def fingerprint(env: Any) -> str:
    """A hash, equal in all processes, of all attributes of an environment and its wrappers, its classes' and its modules'.

    Raises an exception where something has no value that can be read: a simulator in C, an open file, a lock.
    """
    inner, read = env.unwrapped, Fingerprint()
    own = [
        {name: value for name, value in vars(layer).items() if name not in ("env", "_cached_spec")}
        for layer in (*wrappers(env), inner)
    ]
    parts = [read(own)]
    for place in places(env):
        for name, value in variables(place).items():
            parts += [name.encode(), read(value)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def places(env: Any) -> list[Any]:
    """The classes of an environment and their modules, but for those of libraries."""
    classes = [cls for cls in type(env.unwrapped).__mro__ if cls.__module__.partition(".")[0] not in LIBRARIES]
    modules = [sys.modules[cls.__module__] for cls in classes if cls.__module__ in sys.modules]
    return [*dict.fromkeys([*classes, *modules])]


def variables(place: Any) -> dict[str, Any]:
    """The variables of a class or a module that a step may change."""
    return {n: value for n, value in vars(place).items() if isinstance(value, VARIABLES) and not n.startswith("__")}


@contextlib.contextmanager
def variables_kept(env: Any) -> Iterator[None]:
    """A context that ends with the class and module variables of an environment as they were.

    Each object remains the one that it was, since others may hold it too. What cannot be copied stays changed.
    """
    before, there = [], {place: set(variables(place)) for place in places(env)}
    found = [(place, name, value) for place in there for name, value in variables(place).items()]
    # Copies of what holds another variable hold that one itself: it is put back in its own turn.
    shared = {id(value): value for *_, value in found if not isinstance(value, str | int | float)}
    for place, name, value in found:
        with contextlib.suppress(Exception):  # an object of the user's that cannot be copied or read
            others = {key: other for key, other in shared.items() if other is not value}
            before.append((place, name, value, copy.deepcopy(value, others), Fingerprint()(value)))
    try:
        yield
    finally:
        for place, names in there.items():
            for name in variables(place).keys() - names:  # which the context has made
                delattr(place, name)
        for place, name, value, copied, read in before:
            with contextlib.suppress(Exception):
                if Fingerprint()(value) != read:
                    put_back(value, copied)
            if vars(place).get(name) is not value:
                setattr(place, name, value)


def put_back(value: Any, copied: Any) -> None:
    """Give an object that may be changed the contents that a copy of it has."""
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
    """Hashes values by their contents, of any depth, as pickle would take them apart; knows those that it has seen."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Any, bytes]] = {}  # the value too, so that no other one is given its id

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
                yield from sorted(self(name) + self(each) for name, each in value.items())  # attributes have no order
            case np.random.Generator():
                yield self(value.bit_generator.state)  # without the seeds that led to it
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
                taken_apart = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
                for part in (taken_apart,) if isinstance(taken_apart, str) else taken_apart:
                    yield self(list(part) if isinstance(part, Iterator) else part)
                yield self(getattr(value, "__dict__", None))
