"""Generated digits: the ten glyphs of a 5 × 7 font, scaled, rotated, translated and noisy."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlref.data import generator
from dlref.data.supervised.in_memory import InMemory
from dlref.errors import ConfigError

FONT = """
.###.  ..#..  .###.  .###.  ...#.  #####  .###.  #####  .###.  .###.
#...#  .##..  #...#  #...#  ..##.  #....  #....  ....#  #...#  #...#
#..##  ..#..  ....#  ....#  .#.#.  ####.  #....  ...#.  #...#  #...#
#.#.#  ..#..  ...#.  ..##.  #..#.  ....#  ####.  ..#..  .###.  .####
##..#  ..#..  ..#..  ....#  #####  ....#  #...#  ..#..  #...#  ....#
#...#  ..#..  .#...  #...#  ...#.  #...#  #...#  .#...  #...#  ....#
.###.  .###.  #####  .###.  ...#.  .###.  .###.  .#...  .###.  .###.
"""


class Glyphs(InMemory):
    """Gray images of 20 × 20 pixels: `samples` for training, a fifth as many for `eval` and for `test`, generated from `seed`.

    Each shows one of ten digits of 5 × 7 points, scaled to 1.3 to 2.1 pixels per point, rotated by up to 0.3 radians,
    translated by up to 2 pixels, with normal noise of standard deviation `noise` (1 is the range from black to white).
    """

    def __init__(self, samples: int = 5000, noise: float = 0.2, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        if samples < 5:
            raise ConfigError(f"data.samples is {samples}; it takes 5 or more, so that eval and test have one")
        self.classes = [str(digit) for digit in range(10)]
        self.splits = {}
        for number, split in enumerate(("train", "eval", "test")):
            count = samples if split == "train" else samples // 5
            self.splits[split] = render(count, noise, generator(seed, number))

    def prepare(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        return inputs.to(dtype).div_(255)

    def describe(self) -> dict[str, Any]:
        shape = list(self.splits["train"][0].shape[1:])
        return super().describe() | {"reads": "image", "shape": shape, "mean": 0.0, "std": 255.0, "corner": 0.0}


def render(count: int, noise: float, source: torch.Generator, size: int = 20) -> tuple[Tensor, Tensor]:
    """Images uint8 [count, size, size] and their digits [count]."""
    glyphs = torch.tensor([[[c == "#" for c in part] for part in row.split()] for row in FONT.split("\n") if row])
    glyphs = glyphs.float().transpose(0, 1)[:, None]  # [7, 10, 5] -> [10, 1, 7, 5]
    digits = torch.randint(10, (count,), generator=source)
    scale = 1.3 + 0.8 * torch.rand(count, generator=source)
    angle = 0.6 * torch.rand(count, generator=source) - 0.3
    translation = 4 * torch.rand(count, 2, generator=source) - 2
    # The inverse map, from pixels to positions in the glyph: -1 to 1 from edge to edge, as in grid_sample.
    rotation = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], dim=1).view(count, 2, 2)
    extent = scale[:, None, None] * torch.tensor([[5.0], [7.0]])  # pixels across
    matrix = torch.cat([rotation * size / extent, -2 * (rotation @ translation[:, :, None]) / extent], dim=2)
    grid = F.affine_grid(matrix, [count, 1, size, size], align_corners=False)
    images = F.grid_sample(glyphs[digits], grid, align_corners=False).squeeze(1)
    images = images + noise * torch.randn(images.shape, generator=source)
    return images.clamp(0, 1).mul(255).round().to(torch.uint8), digits
