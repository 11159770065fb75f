"""Where the answer is known: Q-learning in a table and with two states, and a text of known entropy."""

import json
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dlref import load
from dlref.cli.main import main
from dlref.data.rl.experience import Experience
from dlref.data.text.markov_chain import MarkovChain
from dlref.interfaces import Shard
from dlref.training.checkpoint import Checkpoints
from tests.conftest import first

Train = Callable[..., tuple[int, str]]


class Values(nn.Module):
    """Acts by a table that the test writes."""

    def __init__(self, states: int, actions: int) -> None:
        super().__init__()
        self.q = nn.Buffer(torch.zeros(states, actions, dtype=torch.float64))

    def forward(self, states: Tensor) -> Tensor:
        return self.q[states.argmax(1)]


def test_the_textbook_update_of_a_table_is_a_step_of_the_trainer(train: Train, tmp_path: Path) -> None:
    """Q(s, a) ← Q(s, a) + α (r + γ max Q(s', ·) - Q(s, a)), to the last bit, on the transitions as they come."""
    rate, discount, steps = 0.25, 0.9, 400  # a power of two, so that fused multiply-add rounds as the textbook does
    settings = {
        "env": "CliffWalking-v1",
        "env_steps_per_update": 1,
        "batch_size": 1,
        "buffer_size": 1,
        "learning_starts": 1,
        "exploration_steps": 300,
    }
    typed = [f"data.{name}={value}" for name, value in settings.items()]
    typed += [
        "data.episodes=1",
        f"objective.discount={discount}",
        "objective.target_update_interval=1",
        f"optimizer.lr={rate}",
        "schedule=constant",
    ]
    typed += [
        f"trainer.max_steps={steps}",
        "trainer.precision=float64",
        "trainer.monitor=null",
        "trainer.eval_every=null",
    ]
    # Of a reward of -100 the Huber loss would clip the error, which the textbook does not.
    assert train("model=q_table", *typed, "objective.huber_delta=1000", f"run_dir={tmp_path / 'run'}")[0] == 0
    last = Checkpoints(tmp_path / "run" / "checkpoints").newest("step")
    assert last is not None
    data: Any = Experience(**settings, final_epsilon=0.1)
    hand = Values(48, 4)
    for batch in islice(data.train_batches(hand, Shard(), 0), steps):
        s, a, after = int(batch.states.argmax()), int(batch.actions), int(batch.next_states.argmax())
        future = 0.0 if batch.terminated else discount * float(hand.q[after].max())
        hand.q[s, a] += rate * (float(batch.rewards) + future - float(hand.q[s, a]))
    assert torch.equal(last.read("weights.pt")["net.values"], hand.q)
    assert np.count_nonzero(hand.q) > 50


class TwoCells(gymnasium.Env[Any, Any]):
    """The third book's: right of the left cell lies an apple that grows again, walls cost 1. It never terminates."""

    observation_space = gymnasium.spaces.Box(0, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell = 0
        return np.eye(2, dtype=np.float32)[0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = -1.0 if action == self.cell else float(action)
        self.cell = int(action)
        return np.eye(2, dtype=np.float32)[self.cell], reward, False, False, {}


gymnasium.register("TwoCells-v0", TwoCells, max_episode_steps=7)


VARIANTS = {"plain": [], "double and dueling": ["objective.double=true", "network.dueling=true"]}


@pytest.mark.parametrize("variant", first("plain", of=VARIANTS))
def test_values_in_closed_form_are_learned_to_a_thousandth(variant: str, train: Train, tmp_path: Path) -> None:
    """The best way goes to and fro: V(left) = 1 + 0.9 V(right), V(right) = 0.9 V(left). The time limit of 7 steps cuts
    no bootstrap, or the values would be smaller."""
    typed = [
        "model=dqn",
        "data=play",
        "data.env=TwoCells-v0",
        "data.final_epsilon=1",
        "data.batch_size=32",
        "data.episodes=1",
    ]
    typed += ["network.widths=[16]", "objective.discount=0.9", "objective.tau=0.1", "optimizer.lr=1e-2"]
    typed += ["trainer.max_steps=2500", "trainer.monitor=null", "trainer.eval_every=null", "trainer.precision=float64"]
    assert train(*typed, *VARIANTS[variant], f"run_dir={tmp_path / 'run'}")[0] == 0
    left = 1 / (1 - 0.81)
    right = 0.9 * left
    expected = torch.tensor([[-1 + 0.9 * left, 1 + 0.9 * right], [0 + 0.9 * left, -1 + 0.9 * right]])
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "run")(torch.eye(2).double()).float(), expected, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_markov_chain_is_learned_to_its_entropy(cell: str, train: Train, tmp_path: Path) -> None:
    """Within 1 % of the perplexity that no model can beat; below it no farther than the test text itself is, at random."""
    run, data = tmp_path / "run", MarkovChain()
    typed = ["model=lstm_lm", "data=markov_chain", f"network.cell={cell}", "network.width=64", "network.tied=false"]
    typed += ["network.dropout=0", "optimizer.lr=1e-2", "data.batch_size=50", "trainer.max_steps=600", "reports=null"]
    assert train(*typed, "trainer.monitor=null", "trainer.eval_every=null", "threads=1", f"run_dir={run}")[0] == 0
    assert main(["evaluate", str(run), "data.eval_batch_size=50"]) == 0
    found = json.loads((run / "evaluation.json").read_text())["metrics"]["perplexity"]
    text, probabilities = data.split("test") - 2, data.transitions
    # The chain's own surprise at this very text, whose mean is the entropy.
    best = float(-probabilities[text[:-1], text[1:]].log().mean())
    assert math.exp(best) * 0.999 < found < math.exp(data.entropy) * 1.01
    assert best == pytest.approx(data.entropy, abs=0.02)
