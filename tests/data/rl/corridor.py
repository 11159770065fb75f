"""Environments with known transitions."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Corridor(gymnasium.Env[Any, Any]):
    """An episode that is terminated, truncated or both at step 3, or 1; or an environment that fails."""

    observation_space = spaces.Box(-100, 100, (2,))
    action_space = spaces.Discrete(3)

    def __init__(self, end: str = "terminated", length: int = 3) -> None:
        self.end, self.length, self.position = end, length, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = 0
        return np.array([0, 1], np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position += 1
        if self.end == "raises":
            raise RuntimeError("out of coffee")
        shape = 3 if self.end == "shape" else 2
        reward = float("nan") if self.end == "nan" else float(self.position)
        over = self.position == self.length
        terminated, truncated = over and self.end in ("terminated", "both"), over and self.end in ("truncated", "both")
        return np.full(shape, self.position, np.float32), reward, terminated, truncated, {}


class Shifted(gymnasium.Env[Any, Any]):
    """Three states numbered from 5; actions 7 and 8 lead to the second and the third."""

    observation_space = spaces.Discrete(3, start=5)
    action_space = spaces.Discrete(2, start=7)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return 5, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return action - 1, 0.0, False, False, {}


for _end in ("terminated", "truncated", "both", "raises", "nan", "shape"):
    gymnasium.register(f"Corridor-{_end}-v0", Corridor, kwargs={"end": _end})
    gymnasium.register(f"Corridor-{_end}-v1", Corridor, kwargs={"end": _end, "length": 1})
gymnasium.register("Shifted-v0", Shifted)
