"""ONNX Runtime computes the same from an exported network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dlref.data.supervised.glyphs import Glyphs
from dlref.interfaces import Shard
from dlref.models.cnn import CNN
from dlref.models.mlp import MLP
from dlref.models.strided_cnn import StridedCNN
from tests.crosschecks.conftest import Agree
from tests.crosschecks.rows import crosscheck

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(400, 10, [30, 20], "tanh", norm="layer"),
    "cnn": lambda: CNN(20, 20, 10, [[8, 8], [12]], [30]),
    "cnn with batch norm": lambda: CNN(20, 20, 10, [[8]], [30], kernel=5, padding="valid", norm="batch", init="he"),
    "strided and dueling": lambda: StridedCNN(20, 20, 10, [(8, 4, 2), (12, 3, 1)], [30], dueling=True),
}


@crosscheck(
    "MLP and CNN: outputs of the exported network",
    "onnxruntime, onnx, onnxscript",
    "`torch.onnx.export`; generated digits, float32; after three updates, which change batch norm's statistics",
)
@pytest.mark.parametrize("name", NETWORKS)
def test_export(name: str, tmp_path: Path, agree: Agree) -> None:
    net: Any = NETWORKS[name]()
    images = next(Glyphs(samples=40, batch_size=8).train_batches(net, Shard(), 0)).inputs
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()
    net.eval()
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (images,), path, input_names=["images"], verbose=False)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {"images": images.numpy()})
    agree(net(images), found, rtol=1e-5)  # sums of up to 400 products in float32
