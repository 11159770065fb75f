"""Prefetching: the batches of all updates until the next environment step are read from the replay buffer at once.

The plain equivalent of `batches.take(count, read)` is `read(rows)` of the batch's own rows. One batch takes as long to read
as several together, if they are small.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from dlref.data.rl.experience import Transitions


class PrefetchedBatches:
    """Sampled rows of the replay buffer, of which the first `used` have been returned in batches."""

    def __init__(self, rows: np.ndarray | Tensor, used: int = 0, td_errors: Tensor | None = None) -> None:
        self.rows, self.used = np.asarray(rows), used
        self.td_errors = td_errors  # of all rows, filled in by the objective; None without priorities
        self.transitions: Any = None  # Transitions of all rows, once they were read
        self.batches: list[tuple[Any, ...]] = []  # their fields, batch by batch
        self.targets: Tensor | None = None  # of all rows: a cache of the objective

    def is_used_up(self) -> bool:
        return self.used == len(self.rows)

    def take(self, count: int, read: Callable[[np.ndarray], "Transitions"], *statistics: Any) -> "Transitions":
        """The transitions of the next `count` rows, with statistics of the environment steps before them."""
        if self.transitions is None:
            self.transitions = read(self.rows)
            if (weights := self.transitions.weights) is not None:
                restored = self.td_errors
                self.td_errors = torch.zeros_like(weights) if restored is None else restored.to(weights.device)
                self.transitions = self.transitions._replace(td_errors=self.td_errors)
            columns = [
                [None] * (len(self.rows) // count) if column is None else column.split(count)
                for column in self.transitions[:8]
            ]
            self.batches = list(zip(*columns, strict=True))
        part = slice(self.used, self.used + count)
        self.used = part.stop
        return type(self.transitions)(*self.batches[part.start // count], self, part, *statistics)

    def state_dict(self) -> dict[str, Any]:
        """Arguments of a new object that returns the batches that are left."""
        return {"rows": torch.from_numpy(self.rows), "used": self.used, "td_errors": self.td_errors}
