"""Environments that break gymnasium's API, or keep state in unusual places."""

import itertools
import random
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

COUNTER = [0]  # of this module
ZEROS = object()


class Simulators:
    """Simulators by number, as a C library keeps them."""

    def __init__(self) -> None:
        self.steps = {0: 0}

    def add(self) -> int:
        self.steps[len(self.steps)] = 0
        return len(self.steps) - 1

    def __getitem__(self, number: int) -> int:
        return self.steps[number]

    def __setitem__(self, number: int, steps: int) -> None:
        self.steps[number] = steps


SIMULATORS = Simulators()
numbers = itertools.count()


def registered(made: Callable[..., Any], **settings: Any) -> str:
    """The name under which gymnasium makes it."""
    name = f"Odd{next(numbers)}-v0"
    gymnasium.register(name, made, **settings)
    return name


class Scripted(gymnasium.Env[Any, Any]):
    """Returns these observations, one per step, after zeros or `first`."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: Any, observations: list[Any], first: Any) -> None:
        self.observation_space, self.observations, self.t = space, observations, 0
        self.begins = np.zeros(space.shape, space.dtype) if first is ZEROS else first

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.begins, {}

    def step(self, action: int) -> Any:
        self.t += 1
        return self.observations[self.t - 1], 1.0, False, False, {}


def scripted(space: Any, *observations: Any, first: Any = ZEROS) -> str:
    return registered(lambda **_: Scripted(space, list(observations), first))


class Counting(gymnasium.Env[Any, Any]):
    """Its reward is the number of steps so far, kept in `place`, in addition to a `state` of plain numbers."""

    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    shared: ClassVar[list[int]] = [0]

    def __init__(self, place: str) -> None:
        self.place, self.state = place, np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = np.zeros(1, np.float32)
        self.steps, self.array, self.list, self.inner = 0, np.zeros(2), [0], {"deep": [{"deeper": 0}]}
        self.own, self.count = np.random.default_rng(5), itertools.count(1)
        if self.place == "global, at reset":
            self.steps = random.random()
        if self.place == "simulator":
            self.number = SIMULATORS.add()
        if self.place == "generator":
            self.generator = (n for n in range(1, 1000))
        closed = 0

        def add() -> int:
            nonlocal closed
            closed += 1
            return closed

        self.closure = add
        return self.state, {}

    def counted(self) -> float:
        match self.place:
            case "steps" | "global, at reset":
                self.steps += 1
                return self.steps
            case "array":
                self.array[1] += 1
                return float(self.array[1])
            case "list":
                self.list[0] += 1
                return self.list[0]
            case "list, shown late":
                self.list[0] += 1
                return float(self.list[0] > 100)
            case "inner":
                self.inner["deep"][0]["deeper"] += 1
                return self.inner["deep"][0]["deeper"]
            case "class":
                self.shared[0] += 1
                return self.shared[0]
            case "module":
                COUNTER[0] += 1
                return COUNTER[0]
            case "own":
                return self.own.random()
            case "simulator":
                SIMULATORS[self.number] += 1  # the number of a simulator that is no attribute
                return SIMULATORS[self.number]
            case "space":
                return float(self.observation_space.sample()[0])
            case "np_random":
                return self.np_random.random()
            case "global":
                return random.random() + np.random.random()
            case "count":
                return next(self.count)
            case "generator":
                return next(self.generator)
            case _:
                return self.closure()

    def step(self, action: int) -> Any:
        return self.state, float(self.counted()), False, False, {}


class Rendered(Counting):
    """Its render returns, or raises, `image`; its episodes end after three steps."""

    def __init__(self, image: Any) -> None:
        super().__init__("steps")
        self.image = image

    def step(self, action: int) -> Any:
        observation, reward, *_ = super().step(action)
        return observation, reward, self.steps == 3, False, {}

    def render(self) -> Any:
        if isinstance(self.image, Exception):
            raise self.image
        return self.image
