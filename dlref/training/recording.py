"""Types of the functions that a trainer calls to keep its results; a command gives them."""

from collections.abc import Callable

from torch import nn

Save = Callable[[str], None]  # write a checkpoint, "last" or "best"
Report = Callable[[nn.Module, int], dict[str, float]]  # run the reports on a network after a step; their metrics
Check = Callable[[], None]  # raise an error where a checkpoint could not be saved and resumed
