"""Vectors where TensorBoard's projector finds them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector import ProjectorConfig
from torch import Tensor

from dlref.training.checkpoint import write_whole

LIST = "projector_config.pbtxt"  # the name that the projector looks for


def project(folder: Path, tag: str, vectors: Tensor, labels: Sequence[str], step: int) -> None:
    """Write vectors [N, D] and their labels, and list them beside those of other tags and steps, which torch's
    `add_embedding` would forget."""
    config = ProjectorConfig()
    try:
        text_format.Parse((folder / LIST).read_text(encoding="utf-8"), config)
    except (FileNotFoundError, ValueError, text_format.ParseError):  # a list that cannot be read is made again
        config = ProjectorConfig()
    name = f"{tag}:{step}"
    others = [listed for listed in config.embeddings if listed.tensor_name != name]
    del config.embeddings[:]
    config.embeddings.extend(others)
    files = [f"projector/{tag.replace('/', '_')}_{step}.{what}.tsv" for what in ("vectors", "labels")]
    (folder / "projector").mkdir(exist_ok=True)
    np.savetxt(folder / files[0], vectors.numpy(), fmt="%.7g", delimiter="\t")
    # Each label stands in a line of its own, which white space would break and an empty one would miss.
    write_whole(folder / files[1], "".join(("_".join(label.split()) or "␣") + "\n" for label in labels))
    config.embeddings.add(tensor_name=name, tensor_path=files[0], metadata_path=files[1])
    write_whole(folder / LIST, text_format.MessageToString(config))
