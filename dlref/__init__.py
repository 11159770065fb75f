"""The classic deep-learning models, written once in PyTorch: readable, proven, reproducible."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn


def load(run: "str | Path", plugins: "Sequence[str]" = ()) -> "nn.Module":
    """The trained network of a run or checkpoint, in evaluation mode, on the CPU, in float64 if it was trained in it.

    `plugins` names imported modules of your own that the network may come from.
    Its attribute `description` holds what using it needs: vocabulary, normalization, names of classes.
    Raises CheckpointError for anything but a whole checkpoint.
    """
    from dlref.build import make_network, weights_dtype  # imported here, so that `dlref --help` need not wait for torch
    from dlref.training.checkpoint import as_data, find
    from dlref.training.run import warn_of_other_plugins
    from dlref.training.state import load_weights

    checkpoint = find(run)
    warn_of_other_plugins(checkpoint.manifest, plugins)
    with as_data(checkpoint):
        config = checkpoint.manifest["config"]
        net = make_network(config, checkpoint.manifest["sizes"], plugins).to(dtype=weights_dtype(config))
    saved = checkpoint.read("weights.pt")
    load_weights(
        net, {k.removeprefix("net."): v for k, v in saved.items() if k.startswith("net.")}, str(checkpoint.path)
    )
    net.description = checkpoint.describes()  # type: ignore[assignment]
    return net.eval()
