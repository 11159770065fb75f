"""Data: where batches come from. A data set tells a network its sizes and knows nothing of models or training."""

import torch


def generator(*numbers: int) -> torch.Generator:
    """A random generator that is a function of whole numbers (seed, pass, rank …) and unrelated for different ones."""
    state = 0
    for number in numbers:  # a step of splitmix64 for each number
        state = (state + int(number) + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state % 2**63)
