"""Images with labels in the IDX format of MNIST: the published files, or any folder of four such files."""

import gzip
import logging
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlref.data.download import RemoteFile, data_root, fetch
from dlref.data.supervised import Supervised
from dlref.errors import ConfigError, DataError

logger = logging.getLogger("dlref")
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
FILES = [RemoteFile(f"mnist/{name}", digest, [f"{m}/{name}" for m in MIRRORS]) for name, digest in SHA256.items()]


class IDX(Supervised):
    """A folder of `train-images…`, `train-labels…`, `t10k-images…` and `t10k-labels…` in IDX, gzipped or not.

    Pixels stay uint8 until a batch is made, which is then normalised by the mean and deviation of the training pixels.
    The last `eval_size` training images are the `eval` split; `t10k` is `test`.
    """

    def __init__(self, folder: Path, eval_size: int = 5000, batch_size: int = 128, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        images, labels = read_pair(Path(folder), "train")
        if eval_size >= len(images):
            raise ConfigError(f"data.eval_size {eval_size} leaves nothing of {len(images)} training images")
        cut = len(images) - eval_size
        self.splits = {
            "train": (images[:cut], labels[:cut]),
            "eval": (images[cut:], labels[cut:]),
            "test": read_pair(Path(folder), "t10k"),
        }
        most = int(labels.max())
        if (beyond := int(self.splits["test"][1].max())) > most:
            raise DataError(f"{folder}: the t10k labels go up to {beyond}, those to train on only to {most}")
        self.classes = [str(c) for c in range(most + 1)]
        histogram = torch.bincount(images[:cut].flatten(), minlength=256).double() / images[:cut].numel()
        values = torch.arange(256).double()
        self.mean = float(histogram @ values)
        self.deviation = math.sqrt(max(float(histogram @ values**2) - self.mean**2, 1.0))

    def prepare(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        return inputs.to(dtype).sub_(self.mean).div_(self.deviation)

    @property
    def sizes(self) -> dict[str, int]:
        rows, columns = self.splits["train"][0].shape[1:]
        return super().sizes | {"rows": rows, "columns": columns}

    def describe(self) -> dict[str, Any]:
        images = self.splits["train"][0]
        about = {"reads": "image", "shape": list(images.shape[1:]), "mean": self.mean, "deviation": self.deviation}
        return super().describe() | about | {"corner": float(images[:, 0, 0].float().mean())}


class MNIST(IDX):
    """LeCun et al. 1998: 60,000 + 10,000 handwritten digits of 28 × 28, as published, found by hash or downloaded."""

    def __init__(self, root: Path | None = None, eval_size: int = 5000, batch_size: int = 128, seed: int = 0) -> None:
        paths = [fetch(file, data_root(root)) for file in FILES]
        super().__init__(paths[0].parent, eval_size, batch_size, seed)


def read_image(path: Path, description: Mapping[str, Any], invert: bool) -> Tensor:
    """A picture as a network that was trained on images reads it: grey, of its size, normalised; [1, rows, columns].

    Raises DataError where it cannot be read. A picture on a light ground is turned with `invert`, as MNIST's are light on
    dark; where its corners look the other way, a sentence says so.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    rows, columns = description["shape"]
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("L")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image ({error})") from None
    image = ImageOps.pad(image, (columns, rows), color=int(np.array(image)[0, 0]))
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    pixels = 255 - pixels if invert else pixels
    corner = float(pixels[[0, 0, -1, -1], [0, -1, 0, -1]].median())
    if abs(corner - description.get("corner", corner)) > 128:
        logger.warning("%s has corners of %.0f where the training images have %.0f: try invert=%s", path, corner,
                       description["corner"], str(not invert).lower())  # fmt: skip
    return (pixels[None] - description["mean"]) / description["deviation"]


def read_pair(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, rows, columns] and labels int64 [N]; raises DataError where they do not belong together."""
    images = read_idx(find(folder, f"{prefix}-images"), 3)
    labels = read_idx(find(folder, f"{prefix}-labels"), 1)
    if len(images) != len(labels) or not len(images):
        raise DataError(
            f"{folder} has {len(images)} {prefix} images and {len(labels)} labels; it takes as many of both"
        )
    return images, labels.long()


def find(folder: Path, prefix: str) -> Path:
    found = sorted(folder.glob(f"{prefix}*")) if folder.is_dir() else []
    if not found:
        raise DataError(f"{folder} has no file {prefix}-idx*-ubyte or .gz; data.folder needs four IDX files")
    return found[0]


def read_idx(path: Path, dimensions: int) -> Tensor:
    """An IDX file of unsigned bytes: two zero bytes, type 8, the number of dimensions, each as big-endian u32, data."""
    try:
        raw = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again") from None
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes in {dimensions} dimensions; it begins {raw[:4].hex()}"
        )
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    if len(raw) - header != math.prod(shape):
        raise DataError(f"{path} holds {len(raw) - header} bytes after its header, not {' × '.join(map(str, shape))}")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy())
