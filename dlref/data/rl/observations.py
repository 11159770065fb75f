"""Observations of a gymnasium space as a network reads them, checked against the space."""

import math
import operator
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from dlref.errors import brief

ROUNDING = 1e-4  # of a bound, or in absolute terms: float32 and float64 differ by less
FEW = 24  # numbers that Python adds up faster than NumPy
NO_REWARDS = np.zeros(0, np.float32)


class WrongObservation(Exception):
    """Two arguments: what an environment gave, and why it should not."""


class Observations:
    """Turns what an environment gives into arrays of `shape` and `dtype`.

    Pictures stay uint8 (what a network is given of them is divided by 255): 8 bits with bounds 0 and 255, in two or more
    dimensions. Those with the channels last, as of shape [96, 96, 3], get them first, as networks read planes. Other arrays
    become float32 whatever their type, with the values that they have; a single number is a
    vector of one. Discrete observations become one-hot vectors.
    Raises ValueError for a space of another kind, WrongObservation for what does not belong to it.
    """

    def __init__(self, space: Any, bounded: bool = True) -> None:
        from gymnasium import spaces

        self.space, self.is_discrete = space, isinstance(space, spaces.Discrete)
        self.bounds: tuple[np.ndarray, np.ndarray] | None = None
        if self.is_discrete:
            self.shape: tuple[int, ...] = (int(space.n),)
            self.dtype: Any = np.float32
            self.is_whole = True  # so that there is nothing to check in what was read
            self.is_channels_last = False
            return
        if not isinstance(space, spaces.Box) or not math.prod(space.shape) or space.dtype.kind not in "fiu":
            raise ValueError(f"{space} is neither an array nor discrete")
        self.is_channels_last = has_channels_last(space.shape)
        self.shape = self.arranged(np.empty(space.shape or (1,), bool)).shape
        self.given_dtype, self.given_shape = space.dtype, space.shape  # which the space computes each time
        is_byte = space.dtype == np.uint8 and not space.low.any() and bool((space.high == 255).all())
        self.dtype = np.uint8 if is_byte and len(self.shape) > 1 else np.float32
        self.is_whole = self.dtype == np.uint8
        low, high = (
            self.arranged(np.asarray(bound, np.float64).reshape(space.shape or (1,)))
            for bound in (space.low, space.high)
        )
        if bounded and not is_byte and (np.isfinite(low).any() or np.isfinite(high).any()):
            self.bounds = low - ROUNDING * np.maximum(1, abs(low)), high + ROUNDING * np.maximum(1, abs(high))

    def arranged(self, array: np.ndarray) -> np.ndarray:
        """Observations [..., rows, columns, channels] with the channels first; others as they are."""
        return np.moveaxis(array, -1, -3) if self.is_channels_last else array

    def one(self, observation: Any) -> Any:
        """A single observation, which fits a row of an array of `shape` and `dtype`."""
        if self.is_discrete:
            return self.one_hot(np.array([observation]))[0]
        # NumPy has one object for each plain type; to compare two types by their values takes longer.
        is_plain = type(observation) is np.ndarray and observation.dtype is self.given_dtype
        if is_plain and observation.shape == self.given_shape:
            return self.arranged(observation)
        return self.converted(observation)

    def several(self, observations: np.ndarray) -> np.ndarray:
        """Those of an environment in vectorized form, [N, ...]."""
        if self.is_discrete:
            return self.one_hot(observations)
        array = self.arranged(np.asarray(observations, self.dtype))
        return array if array.ndim > 1 else array[:, None]

    def one_hot(self, numbers: np.ndarray) -> np.ndarray:
        rows = np.zeros((len(numbers), *self.shape), np.float32)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            place = operator.index(number) - int(self.space.start)
            if not 0 <= place < len(row):
                raise WrongObservation(f"the observation {number}", f"which is outside of its space {self.space}")
            row[place] = 1
        return rows

    def converted(self, observation: Any) -> np.ndarray:
        """An observation of another type than its space, where its values are of the space's type."""
        try:
            array = np.asarray(observation)
        except ValueError:  # lists of several lengths
            raise WrongObservation(f"the observation {brief(observation, 60)}", "which is no array") from None
        if array.shape != self.space.shape:
            raise WrongObservation(f"an observation of shape {array.shape}", f"and its space has {self.space.shape}")
        is_number = array.dtype.kind in "fiub"
        with np.errstate(all="ignore"):
            cast = array.astype(self.space.dtype) if is_number else array
        if not is_number or (cast.dtype.kind in "iu" and not (cast == array).all()):
            raise WrongObservation(
                f"an observation of type {array.dtype}, {brief(array, 60)},", f"and its space has {self.space.dtype}"
            )
        return self.arranged(cast.reshape(self.space.shape or (1,)))

    def check(self, rows: np.ndarray, rewards: np.ndarray = NO_REWARDS) -> None:
        """Raise WrongObservation for a number that is not finite or, where it is `bounded`, an observation outside its space.

        All are added up or multiplied, in one function and in the shortest time: the result is finite only if they are.
        """
        if self.is_whole:
            total = rewards.dot(rewards)
        else:
            flat = rows.ravel("K")  # in the order that they lie in, so that nothing is copied
            few = len(flat) <= FEW
            total = sum(flat.tolist()) + sum(rewards.tolist()) if few else flat.dot(flat) + rewards.dot(rewards)
        if not math.isfinite(total):  # a product may overflow
            if (wrong := ~np.isfinite(rewards)).any():
                raise WrongObservation(f"reward {rewards[wrong][0]}", "which is not finite")
            if (wrong := ~np.isfinite(rows)).any():
                self.refuse(rows, wrong, "which is not finite")
        if self.bounds is not None:
            wrong = (rows < self.bounds[0]) | (rows > self.bounds[1])
            if wrong.any():
                self.refuse(rows, wrong, f"which is outside of its space {brief(self.space)}")

    def refuse(self, rows: np.ndarray, wrong: np.ndarray, why: str) -> NoReturn:
        """Raise WrongObservation for the first wrong value."""
        place = tuple(np.argwhere(wrong)[0].tolist())
        index = list(place[1:])
        if self.is_channels_last:  # the environment's own index, not that of the array with the channels first
            index = [*index[1:], index[0]]
        raise WrongObservation(f"{rows[place]} at {index} of an observation", why)


def has_channels_last(shape: Sequence[int]) -> bool:
    """Whether an array is most likely [rows, columns, channels]: gray, in color or in color with transparency."""
    channels = (1, 3, 4)
    return len(shape) == 3 and shape[2] in channels and shape[0] not in channels
