"""Loads the trained network of a command that computes with it."""

from collections.abc import Sequence
from typing import Any


def load(run: str, plugins: Sequence[str], device: str) -> Any:
    """`dlref.load`, on a device by its name; raises ConfigError for one that is not there."""
    import torch

    import dlref
    from dlref.training.devices import choose_device, explained, make_current

    place = choose_device(device)
    make_current(place)
    with explained():
        return dlref.load(run, plugins).to(place, torch.float32 if place.type == "mps" else None)
