"""Files of vectors for TensorBoard's projector."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector import EmbeddingInfo, ProjectorConfig
from torch import Tensor

from dlref.filesystem import file_name
from dlref.training.checkpoint import write_whole

LIST = "projector_config.pbtxt"  # the name that the projector looks for


def project(folder: Path, tag: str, vectors: Tensor, labels: Sequence[str], step: int) -> None:
    """Write vectors [N, D] with their labels, and add them to the list of other tags and steps, which torch's
    `add_embedding` would drop."""
    name = f"{tag}:{step}"
    others: list[EmbeddingInfo] = []
    # A list that cannot be read is made again.
    with contextlib.suppress(FileNotFoundError, ValueError, text_format.ParseError):
        listed = text_format.Parse((folder / LIST).read_text(encoding="utf-8"), ProjectorConfig()).embeddings
        others = [other for other in listed if other.tensor_name != name]
    table, names = (f"projector/{file_name(f'{tag}_{step}.{what}.tsv')}" for what in ("vectors", "labels"))
    (folder / "projector").mkdir(exist_ok=True)
    np.savetxt(folder / table, vectors.numpy(), fmt="%.7g", delimiter="\t")
    # Each label stands in a line of its own, which white space would break and an empty one would miss.
    write_whole(folder / names, "".join(("_".join(label.split()) or "␣") + "\n" for label in labels))
    mine = EmbeddingInfo(tensor_name=name, tensor_path=table, metadata_path=names)
    write_whole(folder / LIST, text_format.MessageToString(ProjectorConfig(embeddings=[*others, mine])))
