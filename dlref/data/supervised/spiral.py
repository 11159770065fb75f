"""The spiral of *Deep Learning from Scratch 2*: classes that are not linearly separable, generated."""

import torch

from dlref.data import generator
from dlref.data.supervised.in_memory import InMemory
from dlref.errors import ConfigError


class Spiral(InMemory):
    """Points in the plane on `classes` interleaved arms, `points` per arm and split, generated from `seed`.

    A point of class c has radius r in (0, 1] and angle 4 c + 4 r + `noise` z in radians, with standard normal z
    (*Deep Learning from Scratch 2*, section 1.4.1). The arms meet at the center, so no classifier is right about every point.
    """

    def __init__(
        self, points: int = 1000, classes: int = 3, noise: float = 0.2, batch_size: int = 64, seed: int = 0
    ) -> None:
        super().__init__(batch_size, seed)
        if points < 1 or classes < 2:
            raise ConfigError(
                f"a spiral of {classes} classes × {points} points; it takes 2 classes and 1 point or more"
            )
        self.classes = [f"arm {c}" for c in range(classes)]
        self.splits = {}
        for number, split in enumerate(("train", "eval", "test")):
            source = generator(seed, number)
            arm = torch.arange(classes).repeat_interleave(points)
            radius = 1 - torch.rand(len(arm), generator=source)
            angle = 4 * arm + 4 * radius + noise * torch.randn(len(arm), generator=source)
            coordinates = torch.stack([radius * angle.sin(), radius * angle.cos()], dim=1)
            self.splits[split] = (coordinates, arm)
