"""The mathematics as printed, one number at a time: slow, without tricks, and each proven equal to the fast path.

Every function takes float64 tensors, computes element by element, and is differentiable. Nothing in dlref imports these;
`tests/proofs` compares them with the code that trains.
"""

import functools
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def tensor(nested: Any) -> Tensor:
    """Lists of lists of single numbers as one tensor."""
    return torch.stack([tensor(part) for part in nested]) if isinstance(nested, list) else torch.as_tensor(nested)


def total(numbers: Iterable[Tensor]) -> Tensor:
    """The sum of single numbers."""
    return functools.reduce(operator.add, numbers)


def largest(numbers: Iterable[Tensor]) -> Tensor:
    """The largest of single numbers."""
    return functools.reduce(lambda best, number: number if number > best else best, numbers)
