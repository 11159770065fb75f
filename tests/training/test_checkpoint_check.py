"""What a checkpoint does not hold is found before the first step, or right after it, and not at the first save."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dlref.errors import ConfigError
from dlref.training import checkpoint_check
from tests.conftest import MODELS, SMALL

Train = Callable[..., tuple[int, str]]
HEAD = """
import numpy as np, torch
from dlref.data.supervised.spiral import Spiral
from dlref.models.mlp import MLP
from dlref.objectives.supervised import Classification
"""
DATA = "class Mine(Spiral):\n    def __init__(self, points: int = 20, batch_size: int = 8, seed: int = 0):\n"
DATA += "        super().__init__(points=points, batch_size=batch_size, seed=seed)\n"
NET = "class Net(MLP):\n    def __init__(self, inputs: int, outputs: int):\n        super().__init__(inputs, outputs, [4])\n"
PARTS = {
    "a tensor in a description": (
        DATA + "    def describe(self): return {'means': [1.0, torch.zeros(3)]}\n",
        "describe() of data Mine holds tensor([0., 0., 0.]) of type Tensor at 'means.1'",
    ),
    "a key that is no text": (
        DATA + "    def describe(self): return {(1, 2): 3}\n",
        "describe() of data Mine holds keys must be str",
    ),
    "no description": (DATA + "    def describe(self): return [1]\n", "data is [1]"),
    "a size of NumPy": (
        DATA + "    @property\n    def sizes(self): return {'inputs': 2, 'outputs': np.int64(3)}\n",
        "sizes of data Mine holds np.int64(3) of type int64 at 'outputs'",
    ),
    "an array in the state of data": (
        DATA + "    def state_dict(self): return {'order': np.arange(3)}\n",
        "state_dict() of data Mine holds array([0, 1, 2]) of type ndarray at 'order'",
    ),
    "a state of data that comes with the first batch": (
        DATA + "    def train_batches(self, net, shard, first_batch):\n        self.file = open(__file__)\n"
        "        yield from super().train_batches(net, shard, first_batch)\n"
        "    def state_dict(self): return {'file': self.file}\n",
        "state_dict() of data Mine holds <_io.TextIOWrapper",
    ),
    "a buffer that repeats one number": (
        NET + "        self.register_buffer('mask', torch.ones(1).expand(9))\n",
        "state_dict() of objective Classification cannot be stored (ValueError: a tensor has more elements",
    ),
    "an extra state of anything": (
        NET + "    def get_extra_state(self): return {1, object}\n    def set_extra_state(self, state): pass\n",
        "get_extra_state() of objective Classification, or of its network, holds",
    ),
    "an extra state that is not taken back": (
        NET + "    def get_extra_state(self): return 3\n",
        "does not load the state_dict() that it gives",
    ),
    "an optimizer with a function in its state": (
        "class Odd(torch.optim.SGD):\n    def __init__(self, params, lr: float = 0.1): super().__init__(params, lr)\n"
        "    def step(self, closure=None):\n        super().step()\n"
        "        for p in self.param_groups[0]['params']: self.state[p]['how'] = print\n",
        "state_dict() of optimizer Odd holds <built-in function print> of type builtin_function_or_method at 'state.0.how'",
    ),
}
GROUPS = {
    "class Mine": ["data._target_={}.Mine"],
    "class Net": ["network._target_={}.Net", "~network.widths"],
}
GROUPS |= {"class Odd": ["optimizer=sgd", "optimizer._target_={}.Odd"]}


@pytest.mark.parametrize("case", PARTS)
def test_a_part_that_no_checkpoint_holds_is_named_before_anything_is_lost(
    case: str, train: Train, tmp_path: Path
) -> None:
    source, expected = PARTS[case]
    name = f"trial_{list(PARTS).index(case)}"
    (tmp_path / f"{name}.py").write_text(HEAD + source)
    chosen = next(settings for kind, settings in GROUPS.items() if kind in source)
    line = ["model=mlp", "~reports", *(text.format(name) for text in chosen), f"plugins={tmp_path / f'{name}.py'}"]
    code, said = train(*line, "trainer.max_steps=9", "trainer.log_every=2", f"run_dir={tmp_path / 'run'}")
    assert code == 2, said
    assert expected in said
    assert "Traceback" not in said
    assert "step      2" not in said


@pytest.mark.parametrize("model", MODELS)
def test_a_trial_leaves_random_numbers_and_weights_as_they_are(
    model: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []

    def tried(trainer: object, *arguments: object) -> None:
        before = (
            torch.get_rng_state(),
            [w.clone() for w in trainer.objective.state_dict().values() if torch.is_tensor(w)],
        )  # type: ignore[attr-defined]
        original(trainer, *arguments)
        after = (
            torch.get_rng_state(),
            [w.clone() for w in trainer.objective.state_dict().values() if torch.is_tensor(w)],
        )  # type: ignore[attr-defined]
        states.append((before, after))

    original = checkpoint_check.require_savable
    monkeypatch.setattr(checkpoint_check, "require_savable", tried)
    code, said = train(*SMALL[model], "~reports", "trainer.max_steps=3", f"run_dir={tmp_path / 'run'}")
    assert code == 0, said
    assert len(states) == 2
    for before, after in states:
        assert torch.equal(before[0], after[0])
        assert all(map(torch.equal, before[1], after[1]))


def test_tensors_are_tried_without_their_numbers() -> None:
    large = {"a": torch.empty(2**40, device="meta"), "b": [torch.zeros(2**20), (torch.ones(3), 4)]}
    tried = checkpoint_check.without_numbers(large)
    assert tried["a"] is large["a"]
    assert [tried["b"][0].numel(), tried["b"][1][0].numel(), tried["b"][1][1]] == [0, 0, 4]
    checkpoint_check.require_storable({"x": torch.zeros(3), "y": [1, "two", None, (True, 3j)]}, "this")
    for odd in (np.zeros(3), np.float32(1), print, torch.zeros(1).expand(2)):
        with pytest.raises(ConfigError, match="this"):
            checkpoint_check.require_storable({"x": [odd]}, "this")
