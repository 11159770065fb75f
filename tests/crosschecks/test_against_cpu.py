"""A GPU computes in float32 what the CPU computes: totals and gradients of every model. Without a GPU nothing is compared."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dlref.build import build
from dlref.cli.compose import compose
from dlref.interfaces import Shard
from dlref.metrics import Totals
from dlref.objectives import Objective
from tests.conftest import SMALL

MODELS = SMALL | {
    "ladder": [
        "model=ladder",
        "network.widths=[12,8]",
        "network.noise=0",
        "network.input_noise=0",
        "data.samples=100",
        "data.batch_size=20",
    ],
    "perceptron": ["model=perceptron"],
    "q_table": ["model=q_table", "data.learning_starts=40", "data.buffer_size=40", "data.episodes=2"],
    "dqn of images": [
        "model=dqn",
        "network._target_=dlref.models.strided_cnn.StridedCNN",
        "data.env=ALE/Pong-v5",
        "data.batch_size=4",
        "data.learning_starts=8",
        "data.buffer_size=8",
    ],
}


def without_dropout(model: str) -> list[str]:
    """Its settings; each device draws what is dropped from a stream of its own."""
    return [s.partition("=")[0] + "=0" if "dropout" in s else s for s in MODELS[model]]


def moved(part: Any, device: torch.device) -> Any:
    """A batch whose tensors are on the device; the batches that were prefetched with it are left out."""
    if isinstance(part, Tensor):
        return part.to(device)
    if hasattr(part, "prefetched"):
        part = part._replace(prefetched=None)
    if isinstance(part, tuple):
        values = [moved(value, device) for value in part]
        return type(part)(*values) if hasattr(part, "_fields") else tuple(values)
    return part


def learned(objective: Objective, batch: Any) -> tuple[Totals, dict[str, Tensor]]:
    torch.manual_seed(3)
    totals = objective(batch)
    torch.as_tensor(totals["loss"].total).backward()
    gradients = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    return totals, {name: (g.to_dense() if g.is_sparse else g).cpu() for name, g in gradients.items()}


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_computes_what_a_cpu_computes(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "ALE" in str(MODELS[model]):
        pytest.importorskip("ale_py")
    for name in ("rand", "randint"):  # of word2vec: drawn on the CPU for both
        draw = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, device=None, draw=draw, **k: draw(*a, **k).to(device or "cpu"))
    settings = ["trainer.precision=float32", "~reports", "device=cpu"]
    built = build(compose([*without_dropout(model), *settings]), torch.device("cpu"))
    net, gpu = built.objective.net, torch.device("cuda")
    objective = built.objective.train()
    objective.fit(built.data.batches("train", net, Shard()) if built.data.has("train") else ())
    batch = next(iter(built.data.train_batches(net, Shard(), 0)))
    other = copy.deepcopy(objective).to(gpu)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        theirs, their_gradients = learned(other, moved(batch, gpu))
    ours, our_gradients = learned(objective, batch)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert theirs[name].value == pytest.approx(ours[name].value, rel=1e-5, abs=1e-6, nan_ok=True), name
    assert our_gradients.keys() == their_gradients.keys()
    assert our_gradients, "nothing is learned"
    for name, gradient in our_gradients.items():
        # Sums of a few thousand terms in another order: 1e-4 of the largest entry is some hundred roundings.
        difference = float((gradient - their_gradients[name]).abs().max())
        assert difference <= 1e-4 * float(gradient.abs().max()) + 1e-7, name
