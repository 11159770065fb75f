"""Data sets, which yield batches and determine the sizes of a network; independent of models and training."""

import torch


def generator(*numbers: int) -> torch.Generator:
    """A random generator seeded by a hash of integers (seed, epoch, rank …)."""
    state = 0
    for number in numbers:  # a step of splitmix64 for each number
        state = (state + int(number) + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state % 2**63)
