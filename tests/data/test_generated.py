"""Generated data: gates and digits."""

import torch

from dlref.data.supervised.gates import OUTPUTS, Gate
from dlref.data.supervised.glyphs import Glyphs


def test_a_gate_is_its_truth_table() -> None:
    rules = {
        "and": lambda a, b: a and b,
        "nand": lambda a, b: not (a and b),
        "or": lambda a, b: a or b,
        "xor": lambda a, b: a != b,
    }
    for gate in OUTPUTS:
        inputs, targets = Gate(gate).split("train")
        assert sorted(inputs.tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert targets.flatten().tolist() == [float(rules[gate](a == 1, b == 1)) for a, b in inputs.tolist()]


def test_glyphs_resemble_the_mean_image_of_their_digit() -> None:
    """Without noise most images are nearer to the mean image of their digit than to that of any other."""
    data = Glyphs(samples=3000, noise=0.0)
    images, digits = data.split("train")
    assert images.dtype == torch.uint8
    means = torch.stack([images[digits == d].float().mean(dim=0) for d in range(10)])
    test, truth = data.split("test")
    nearest = torch.cdist(test.float().flatten(1), means.flatten(1)).argmin(dim=1)
    assert float((nearest == truth).float().mean()) > 0.6
    assert not torch.equal(images[:600], test)


def test_glyphs_lie_within_the_image() -> None:
    images, _ = Glyphs(samples=2000, noise=0.0).split("train")
    border = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], dim=1)
    assert float((border.max(dim=1).values < 128).float().mean()) > 0.95
    assert float(images.flatten(1).max(dim=1).values.float().mean()) > 200
