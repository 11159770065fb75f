"""Two processes at the same global batch train what one process trains."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dlref.cli.main import main
from dlref.training.checkpoint import Checkpoints
from tests.conftest import SMALL, first, meeting, start
from tests.faults.processes import Child

# A data set of transitions that are there from the start, so that what is learned from them can be compared.
TRANSITIONS = """
import torch
from dlref.data import generator
from dlref.data.rl.episodes import Episode
from dlref.data.rl.experience import Transitions
from dlref.hardware import device_and_dtype

class Recorded:
    unit, sizes, batches_per_epoch = "steps", {"inputs": 3, "outputs": 4}, 1.0
    def __init__(self, batch_size: int, seed: int): self.batch_size, self.seed = batch_size, seed
    def units_per_batch(self, ranks): return self.batch_size
    def has(self, split): return split == "eval"
    def describe(self): return {}
    def state_dict(self): return {}
    def load_state_dict(self, state): pass
    def batches(self, split, net, shard): yield Episode(float(shard.rank), 1)
    def train_batches(self, net, shard, first_batch):
        number, (device, dtype) = first_batch, device_and_dtype(net)
        while True:
            draw, size = generator(self.seed, number), self.batch_size - number % 3  # ragged
            rows, number = shard.share(0, size), number + 1
            states, then = torch.randn(2, size, 3, generator=draw, dtype=torch.float64)
            actions, rewards = torch.randint(4, (size,), generator=draw), torch.randn(size, generator=draw, dtype=torch.float64)
            over = torch.rand(size, generator=draw) < 0.3
            parts = (states, actions, rewards[:, None], torch.ones(size).long(), then, over)
            yield Transitions(*(part[rows] for part in parts))
"""
MODELS = {
    "mlp": ["model=mlp", "network.widths=[9,7]", "data.batch_size=5", "data.points=13"],
    "lstm_lm": [
        "model=lstm_lm",
        "network.width=8",
        "network.dropout=0",
        "data.batch_size=5",
        "data.seq_len=100",
        "data.min_freq=30",
    ],
    "gru": [
        *("model=lstm_lm", "network.cell=gru", "network.width=8", "network.tied=false", "network.dropout=0"),
        *("objective.ar=1", "objective.tar=1"),
        *("data=markov_chain", "data.tokens=2000", "data.batch_size=5", "data.seq_len=40", "data.order=rotated"),
    ],
    "seq2seq": [
        *(
            "model=seq2seq",
            "network.width=6",
            "network.hidden=8",
            "network.bidirectional=false",
            "objective.label_smoothing=0.1",
        ),
        *("data.size=150", "data.eval_size=20", "data.test_size=20", "data.batch_size=15"),
    ],
    "transformer": [
        *(
            "model=transformer",
            "network.width=8",
            "network.layers=1",
            "network.heads=2",
            "objective.label_smoothing=0.1",
        ),
        *("data.size=150", "data.eval_size=20", "data.test_size=20", "data.batch_size=15"),
    ],
    "transformer_lm": [
        *("model=transformer_lm", "network.width=8", "network.heads=2", "network.dropout=0"),
        *("data.batch_size=5", "data.seq_len=30", "data.min_freq=30", "data.eval_stride=20"),
    ],
    # Nothing is drawn: with such a power of frequency all noise is the most frequent word.
    "word2vec": [
        "model=word2vec",
        "network.width=6",
        "data.batch_size=5",
        "data.seq_len=100",
        "data.min_freq=30",
        "objective.unk_id=null",
        "objective.ns_exponent=70",
        "objective.subsample=null",
        "objective.dynamic_window=false",
        "trainer.max_epochs=null",
    ],
    "dqn": [
        "model=dqn",
        "network.widths=[9,7]",
        "data=recorded",
        "data.batch_size=7",
        "objective.target_update_interval=3",
    ],
}


@pytest.mark.parametrize("model", first("word2vec", "dqn", of=MODELS))
def test_two_ranks_with_accumulation_are_one_process(model: str, child: Callable[..., Child], tmp_path: Path) -> None:
    """Twenty steps in float64, with batches that divide neither by the ranks nor by the pass."""
    plugin = tmp_path / "recorded.py"
    plugin.write_text(TRANSITIONS)
    settings = [
        *MODELS[model],
        "trainer.precision=float64",
        "trainer.accumulate=2",
        "trainer.max_steps=20",
        "reports=null",
    ]
    settings += ["trainer.monitor=null", "trainer.eval_every=10", "trainer.clip_norm=0.5", "device=cpu", "threads=1"]
    if model == "dqn":
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "recorded.yaml").write_text("_target_: recorded.Recorded\n")
        settings += [f"plugins={plugin}", "--config-dir", str(tmp_path)]
    assert main(["train", *settings, f"run_dir={tmp_path / 'one'}"]) == 0
    line, met = ["train", *settings, f"run_dir={tmp_path / 'two'}"], meeting()
    for rank in [child(*line, **met, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]:
        code, said = rank.ended()
        assert code == 0, said
    one, two = (Checkpoints(tmp_path / name / "checkpoints").newest("step") for name in ("one", "two"))
    assert one is not None
    assert two is not None
    weights, others = one.read("weights.pt"), two.read("weights.pt")
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=0, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")
    if model not in ("lstm_lm", "gru", "dqn"):  # whose evaluation carries a state, or is each rank's own episodes
        assert two.manifest["metrics"] == pytest.approx(one.manifest["metrics"], rel=1e-12)


@pytest.mark.slow
def test_two_ranks_are_two_processes_of_any_system(tmp_path: Path) -> None:
    """As a launcher starts them: not forked, and with nothing imported before."""
    line = ["train", *SMALL["mlp"], "~reports", "device=cpu", "threads=1", "trainer.max_steps=3"]
    met = os.environ | meeting()
    ranks = [start(*line, f"run_dir={tmp_path}", env=met | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    for rank in ranks:
        said = rank.communicate(timeout=300)[1]
        assert rank.returncode == 0, said
    last = Checkpoints(tmp_path / "checkpoints").newest("step")
    assert last is not None
    assert (last.step, last.manifest["ranks"]) == (3, 2)
