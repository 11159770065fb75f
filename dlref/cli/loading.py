"""A trained network, where a command was told to compute with it."""

from collections.abc import Sequence
from typing import Any


def load(run: str, plugins: Sequence[str], device: Sequence[str]) -> Any:
    """`dlref.load`, on the last `device` that was typed, else on the CPU; raises ConfigError for one that is not there."""
    import torch

    import dlref
    from dlref.training.devices import choose_device, explained

    place = choose_device(device[-1] if device else "cpu")
    with explained():
        return dlref.load(run, plugins).to(place, torch.float32 if place.type == "mps" else None)
