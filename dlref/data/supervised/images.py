"""Images with labels in the IDX format of MNIST: the published files, or any folder of four such files."""

import contextlib
import gzip
import math
import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlref.data import generator
from dlref.data.download import RemoteFile, data_root, fetch
from dlref.data.safe_io import room, taken
from dlref.data.supervised.grayscale import to_gray
from dlref.data.supervised.in_memory import Supervised
from dlref.errors import ConfigError, DataError, brief
from dlref.interfaces import HeldOut

if TYPE_CHECKING:
    from PIL import Image

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MOST_PIXELS = 2**26  # of an image that a network reads
FEW_BITS = (1, 3, 7, 15, 16)  # what white is in images of few gray levels; it is 255 in all others
FAINT = 32  # gray levels from its darkest to its lightest pixel, below which a picture shows next to nothing
PICTURES = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # of which none runs another program, as EPS does
FILES = [RemoteFile(f"mnist/{name}", digest, [f"{m}/{name}" for m in MIRRORS]) for name, digest in SHA256.items()]


class IDX(Supervised, HeldOut):
    """A folder of `train-images…`, `train-labels…`, `t10k-images…` and `t10k-labels…` in IDX, gzipped or not.

    Pixels stay uint8 until a batch is made, which is then normalised by the mean and deviation of the training pixels.
    The last `eval_size` training images are the `eval` split; `t10k` is `test`. A number as `permutation` puts the
    pixels of all images into one random order, which that number decides: what neighbours are is then hidden. Training
    images may be turned by up to `turn` degrees, scaled by up to the share `zoom` and moved by up to `shift` pixels.
    """

    split_settings = ("eval_size",)

    def __init__(
        self,
        folder: Path,
        eval_size: int = 5000,
        permutation: int | None = None,
        turn: float = 0.0,
        zoom: float = 0.0,
        shift: float = 0.0,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        if zoom >= 1 or (permutation is not None and (turn or zoom or shift)):
            raise ConfigError(f"data.zoom {zoom} is a share below 1, and permuted pixels cannot be turned or moved")
        self.turn, self.zoom, self.shift = turn, zoom, shift
        images, labels = read_pair(Path(folder), "train")
        if eval_size >= len(images):
            raise ConfigError(f"data.eval_size {eval_size} leaves nothing of {len(images)} training images")
        cut = len(images) - eval_size
        self.splits = {
            "train": (images[:cut], labels[:cut]),
            "eval": (images[cut:], labels[cut:]),
            "test": read_pair(Path(folder), "t10k"),
        }
        sides = [" × ".join(map(str, self.splits[split][0].shape[1:])) for split in ("train", "test")]
        if sides[0] != sides[1]:
            raise DataError(f"{folder}: the t10k images are of {sides[1]} pixels, those to train on of {sides[0]}")
        self.permutation = permutation
        if permutation is not None:
            self.splits = {split: (shuffled(rows, permutation), y) for split, (rows, y) in self.splits.items()}
        most = int(labels.max())
        if (beyond := int(self.splits["test"][1].max())) > most:
            raise DataError(f"{folder}: the t10k labels go up to {beyond}, those to train on only to {most}")
        self.classes = [str(c) for c in range(most + 1)]
        self.mean, self.deviation = mean_and_std(images[:cut])

    def prepare(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        return inputs.to(dtype).sub_(self.mean).div_(self.deviation)

    def vary(self, rows: Tensor, start: int, mine: slice) -> Tensor:
        if not (self.turn or self.zoom or self.shift):
            return rows
        # Drawn for the whole batch, so that each image varies alike whichever rank it falls to.
        draw = 2 * torch.rand(self.batch_size, 4, generator=generator(self.seed, 1, start)) - 1
        draw = draw[mine.start - start : mine.stop - start].to(rows.device)
        return moved(rows, self.turn * draw[:, 0], 1 + self.zoom * draw[:, 1], self.shift * draw[:, 2:])

    def describe(self) -> dict[str, Any]:
        images = self.splits["train"][0]
        about = {"reads": "image", "shape": list(images.shape[1:]), "mean": self.mean, "deviation": self.deviation}
        about |= {"corner": float(images[:, 0, 0].float().mean()), "permutation": self.permutation}
        if (white := int(images.max())) in FEW_BITS:
            about["white"] = white
        return super().describe() | about


class MNIST(IDX):
    """LeCun et al. 1998: 60,000 + 10,000 handwritten digits of 28 × 28, as published, found by hash or downloaded."""

    def __init__(
        self,
        root: Path | None = None,
        eval_size: int = 5000,
        permutation: int | None = None,
        turn: float = 0.0,
        zoom: float = 0.0,
        shift: float = 0.0,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        paths = [fetch(file, data_root(root)) for file in FILES]
        super().__init__(paths[0].parent, eval_size, permutation, turn, zoom, shift, batch_size, seed)


def mean_and_std(images: Tensor) -> tuple[float, float]:
    """Of all pixels of uint8 images; the standard deviation is 1 where they are all alike."""
    counts = torch.bincount(images.flatten(), minlength=256)
    values = torch.arange(256).double()
    frequencies = counts.double() / images.numel()
    mean = float(frequencies @ values)
    std = math.sqrt(float(frequencies @ (values - mean) ** 2))
    return mean, std if int((counts > 0).sum()) > 1 else 1.0


def moved(images: Tensor, degrees: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
    """Each of the images [B, Y, X] turned, enlarged and moved by [B, 2] pixels to the right and down, float32, black around.

    Each place of the new image asks where it comes from, in units of half the side as `grid_sample` has them.
    """
    angle, half = degrees.deg2rad(), torch.tensor(images.shape[:0:-1], device=images.device) / 2
    turn = (
        torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2) / zoom[:, None, None]
    )
    turn = turn * half / half[:, None]  # of pixels, where sides differ
    matrix = torch.cat([turn, -(turn @ (shift / half)[:, :, None])], dim=2)
    places = F.affine_grid(matrix, [len(images), 1, *images.shape[1:]], align_corners=False)
    return F.grid_sample(images[:, None].float(), places, align_corners=False).squeeze(1)


def shuffled(images: Tensor, permutation: int) -> Tensor:
    """The pixels of each image [N, rows, columns] in the order that this number decides."""
    flat = images.flatten(1)
    return flat[:, torch.randperm(flat.shape[1], generator=generator(permutation))].view_as(images)


def read_image(
    path: Path, description: Mapping[str, Any], invert: bool, notes: dict[str, list[Path]] | None = None
) -> Tensor:
    """A picture as a network that was trained on images reads it: gray, of its size, normalized; [1, rows, columns].

    Raises DataError where it cannot be read, ValueError where the description makes no sense. A picture on a light
    background is inverted with `invert`, as MNIST's are light on dark. `notes` collects what was done to the pictures and
    what looks wrong with them, each with the paths that it holds for.
    """
    from PIL import ImageOps

    rows, columns = description["shape"]
    if not 0 < rows * columns <= MOST_PIXELS:
        raise ValueError(f"images of {rows} × {columns} pixels")
    image, mode, steps = open_gray(path)
    if image.size != (columns, rows):
        bordered = " with a border" if image.width * rows != image.height * columns else ""
        steps.append(f"resized to {columns} × {rows}{bordered}")
        image = ImageOps.pad(image, (columns, rows), color=int(np.array(image)[0, 0]))
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    white = description.get("white", 255)
    if white not in (*FEW_BITS, 255):
        raise ValueError(f"white {white!r}")
    if white != 255:
        steps.append(f"scaled to 0 to {white}, as in training")
    if invert:
        steps.append("inverted")
        pixels = 255 - pixels
    found = [f"of mode {mode}: {', '.join(steps)}"] if steps else []
    corner = float(pixels[[0, 0, -1, -1], [0, -1, 0, -1]].median())
    if abs(corner - (usual := description.get("corner", corner * white / 255) * 255 / white)) > 128:
        here, there = ("light", "dark") if corner > usual else ("dark", "light")
        found.append(
            f"with {here} corners, {there} in the training images: try {'without' if invert else 'with'} --invert"
        )
    if float(pixels.max() - pixels.min()) < FAINT:
        found.append("of nearly one gray level, in which there is little to recognize")
    if notes is not None:
        for note in found:
            notes.setdefault(note, []).append(path)
    inputs = (pixels[None] * (white / 255) - description["mean"]) / description["deviation"]
    return inputs if description.get("permutation") is None else shuffled(inputs, description["permutation"])


def open_gray(path: Path) -> tuple["Image.Image", str, list[str]]:
    """The picture in 8-bit gray, the mode that it is stored in, and what was done to it; raises DataError."""
    from PIL import ExifTags, Image, ImageOps

    if not os.path.isfile(path):  # of a pipe or a device there may be no end
        raise DataError(f"{path} cannot be read as an image (it is no file)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which tell of what is wrong inside
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=PICTURES) as opened:
                mode, orientation = opened.mode, opened.getexif().get(ExifTags.Base.Orientation)
                image, steps = to_gray(ImageOps.exif_transpose(opened))
                if orientation in range(2, 9):
                    steps.insert(0, "turned as its EXIF orientation says")
                with contextlib.suppress(Exception):  # a later frame may be broken, which is not used
                    if getattr(opened, "is_animated", False):
                        steps.insert(0, "only its first frame read")
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # which one a crafted file raises is anybody's guess
        kinds = f"{', '.join(PICTURES[:-1])} or {PICTURES[-1]}"
        raise DataError(f"{path} cannot be read as an image ({brief(error)}); bring a whole {kinds}") from None
    return image, mode, steps


def read_pair(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, rows, columns] and labels int64 [N]; raises DataError where they do not belong together."""
    images = read_idx(find(folder, f"{prefix}-images"), 3)
    labels = read_idx(find(folder, f"{prefix}-labels"), 1)
    if len(images) != len(labels):
        raise DataError(
            f"{folder} has {len(images)} {prefix} images and {len(labels)} labels; it takes as many of both"
        )
    return images, labels.long()


def find(folder: Path, prefix: str) -> Path:
    found = [path for path in sorted(folder.glob(f"{prefix}*")) if path.is_file()] if os.path.isdir(folder) else []
    if not found:
        raise DataError(f"{folder} has no file {prefix}-idx*-ubyte or .gz; data.folder needs four IDX files")
    return found[0]


def read_idx(path: Path, dimensions: int) -> Tensor:
    """An IDX file of unsigned bytes: two zero bytes, type 8, the number of dimensions, each as big-endian u32, data."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            header = file.read(4 + 4 * dimensions)
            if header[:3] == bytes([0, 0, 8]) and header[3:4] and header[3] != dimensions:
                what = (
                    "a label for each image"
                    if dimensions == 1
                    else "gray images [images, rows, columns], without channels"
                )
                raise DataError(f"{path} has {header[3]} dimensions, and {dimensions} are read: {what}; convert it")
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
                raise DataError(
                    f"{path} is not an IDX file of unsigned bytes in {dimensions} dimensions; it begins {header[:4].hex()}"
                )
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size, words = math.prod(shape), " × ".join(map(str, shape))
            most = room(path)
            if not 0 < size <= most:
                raise DataError(
                    f"{path} announces {words} bytes after its header, and 1 to {most:,} are read; bring it unpacked if "
                    "so many are meant"
                )
            raw = taken(file, size + 1)  # one more than there should be
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({brief(error)}); fetch it again") from None
    if len(raw) != size:
        raise DataError(f"{path} does not hold the {words} bytes after its header that it announces; fetch it again")
    return torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(shape))
