"""Logic gates of two inputs. One unit cannot learn XOR (Minsky & Papert 1969)."""

from typing import Any, Literal

import torch

from dlref.data.supervised.in_memory import InMemory

Name = Literal["and", "nand", "or", "xor"]
OUTPUTS: dict[Name, tuple[int, ...]] = {
    "and": (0, 0, 0, 1),
    "nand": (1, 1, 1, 0),
    "or": (0, 1, 1, 1),
    "xor": (0, 1, 1, 0),
}


class Gate(InMemory):
    """Truth table of a gate: inputs 0 or 1 [4, 2], targets 0.0 or 1.0 [4, 1]. All splits hold the whole table."""

    def __init__(self, gate: Name = "and", batch_size: int = 1, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        inputs = torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
        targets = torch.tensor(OUTPUTS[gate], dtype=torch.float32)[:, None]
        self.gate, self.classes = gate, ["0", "1"]
        self.splits = dict.fromkeys(("train", "eval", "test"), (inputs, targets))

    @property
    def sizes(self) -> dict[str, int]:
        return {"inputs": 2, "outputs": 1}

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"gate": self.gate}
