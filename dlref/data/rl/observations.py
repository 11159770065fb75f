"""Conversion of observations to arrays for a network, and checks against their gymnasium space."""

import math
import operator
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from dlref.errors import brief

TOLERANCE = 1e-4  # of a bound, relative or absolute: float32 and float64 differ by less
FEW = 24  # numbers, which Python adds faster than NumPy
NO_REWARDS = np.zeros(0, np.float32)


class InvalidObservation(Exception):
    """Two arguments: what an environment returned, and why it is invalid."""


class ObservationConverter:
    """Converts observations of a Box or Discrete space to arrays of `shape` and `dtype`.

    Images stay uint8 (`as_input` divides them by 255): arrays of bytes with bounds 0 and 255 and two or more dimensions.
    Images [rows, columns, channels], as of shape [96, 96, 3], become [channels, rows, columns]. Other arrays become float32,
    a scalar a vector of one number, a Discrete observation a one-hot vector.
    Raises ValueError for another kind of space, InvalidObservation for an observation that is not in its space.
    """

    def __init__(self, space: Any, bounded: bool = True) -> None:
        from gymnasium import spaces

        self.space, self.is_discrete = space, isinstance(space, spaces.Discrete)
        self.bounds: tuple[np.ndarray, np.ndarray] | None = None
        if self.is_discrete:
            self.shape: tuple[int, ...] = (int(space.n),)
            self.dtype: Any = np.float32
            self.is_always_finite = True
            self.is_channels_last = False
            return
        if not isinstance(space, spaces.Box) or not math.prod(space.shape) or space.dtype.kind not in "fiu":
            raise ValueError(f"{space} is neither an array nor discrete")
        self.is_channels_last = has_channels_last(space.shape)
        self.shape = self.channels_first(np.empty(space.shape or (1,), bool)).shape
        self.space_dtype, self.space_shape = space.dtype, space.shape  # properties of a space are slow
        is_byte = space.dtype == np.uint8 and not space.low.any() and bool((space.high == 255).all())
        self.dtype = np.uint8 if is_byte and len(self.shape) > 1 else np.float32
        self.is_always_finite = self.dtype == np.uint8
        low, high = (
            self.channels_first(np.asarray(bound, np.float64).reshape(space.shape or (1,)))
            for bound in (space.low, space.high)
        )
        if bounded and not is_byte and (np.isfinite(low).any() or np.isfinite(high).any()):
            self.bounds = low - TOLERANCE * np.maximum(1, abs(low)), high + TOLERANCE * np.maximum(1, abs(high))

    def channels_first(self, array: np.ndarray) -> np.ndarray:
        """Move the channels of [..., rows, columns, channels] before the rows; leave other arrays as they are."""
        return np.moveaxis(array, -1, -3) if self.is_channels_last else array

    def convert(self, observation: Any) -> Any:
        """Convert a single observation; the result can be assigned to a row of an array of `shape` and `dtype`."""
        if self.is_discrete:
            return self.one_hot(np.array([observation]))[0]
        # NumPy has one object for each plain dtype, so identity suffices, which is faster than comparing.
        is_plain = type(observation) is np.ndarray and observation.dtype is self.space_dtype
        if is_plain and observation.shape == self.space_shape:
            return self.channels_first(observation)
        return self.cast(observation)

    def convert_batch(self, observations: np.ndarray) -> np.ndarray:
        """Convert the observations [N, ...] of a vector environment."""
        if self.is_discrete:
            return self.one_hot(observations)
        array = self.channels_first(np.asarray(observations, self.dtype))
        return array if array.ndim > 1 else array[:, None]

    def one_hot(self, numbers: np.ndarray) -> np.ndarray:
        rows = np.zeros((len(numbers), *self.shape), np.float32)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            index = operator.index(number) - int(self.space.start)
            if not 0 <= index < len(row):
                raise InvalidObservation(f"the observation {number}", f"which is outside of its space {self.space}")
            row[index] = 1
        return rows

    def cast(self, observation: Any) -> np.ndarray:
        """Convert an observation of another type than its space, if its values fit the space's type."""
        try:
            array = np.asarray(observation)
        except ValueError:  # lists of several lengths
            raise InvalidObservation(f"the observation {brief(observation, 60)}", "which is no array") from None
        if array.shape != self.space.shape:
            raise InvalidObservation(f"an observation of shape {array.shape}", f"and its space has {self.space.shape}")
        is_number = array.dtype.kind in "fiub"
        with np.errstate(all="ignore"):
            cast = array.astype(self.space.dtype) if is_number else array
        if not is_number or (cast.dtype.kind in "iu" and not (cast == array).all()):
            raise InvalidObservation(
                f"an observation of type {array.dtype}, {brief(array, 60)},", f"and its space has {self.space.dtype}"
            )
        return self.channels_first(cast.reshape(self.space.shape or (1,)))

    def check(self, rows: np.ndarray, rewards: np.ndarray = NO_REWARDS) -> None:
        """Raise InvalidObservation for numbers that are not finite and, if `bounded`, for observations outside their space.

        The fastest test is a sum or sum of squares, which is finite only if all terms are.
        """
        if self.is_always_finite:
            total = rewards.dot(rewards)
        else:
            flat = rows.ravel("K")  # memory order, without a copy
            is_short = len(flat) <= FEW
            total = sum(flat.tolist()) + sum(rewards.tolist()) if is_short else flat.dot(flat) + rewards.dot(rewards)
        if not math.isfinite(total):  # squares of finite numbers may overflow too
            if (wrong := ~np.isfinite(rewards)).any():
                raise InvalidObservation(f"reward {rewards[wrong][0]}", "which is not finite")
            if (wrong := ~np.isfinite(rows)).any():
                self.refuse(rows, wrong, "which is not finite")
        if self.bounds is not None:
            wrong = (rows < self.bounds[0]) | (rows > self.bounds[1])
            if wrong.any():
                self.refuse(rows, wrong, f"which is outside of its space {brief(self.space)}")

    def refuse(self, rows: np.ndarray, wrong: np.ndarray, why: str) -> NoReturn:
        """Raise InvalidObservation for the first wrong value."""
        position = tuple(np.argwhere(wrong)[0].tolist())
        index = list(position[1:])
        if self.is_channels_last:  # the index in the environment's own array
            index = [*index[1:], index[0]]
        raise InvalidObservation(f"{rows[position]} at {index} of an observation", why)


def has_channels_last(shape: Sequence[int]) -> bool:
    """Whether a shape is most likely [rows, columns, channels], with 1 (gray), 3 (RGB) or 4 (RGBA) channels."""
    channels = (1, 3, 4)
    return len(shape) == 3 and shape[2] in channels and shape[0] not in channels
