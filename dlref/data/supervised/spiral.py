"""The spiral of *Deep Learning from Scratch*: classes that no straight line can part, generated."""

import torch

from dlref.data import generator
from dlref.data.supervised.in_memory import Supervised
from dlref.errors import ConfigError


class Spiral(Supervised):
    """`classes` arms of points in the plane, drawn anew for each seed.

    Along its arm a point has radius r in (0, 1] and angle 4 c + 4 r + 0.2 z for class c and normal z, in radians
    (*Deep Learning from Scratch 2*, section 1.4.1). Close to the centre the arms touch, so not every point can be told.
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
            draw = generator(seed, number)
            arm = torch.arange(classes).repeat_interleave(points)
            radius = 1 - torch.rand(len(arm), generator=draw)
            angle = 4 * arm + 4 * radius + noise * torch.randn(len(arm), generator=draw)
            plane = torch.stack([radius * angle.sin(), radius * angle.cos()], dim=1)
            self.splits[split] = (plane, arm)
