"""Labeled images in the IDX format of MNIST: the published files, or any folder of four such files."""

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
from dlref.data.safe_io import max_unpacked_size, read_up_to
from dlref.data.supervised.grayscale import to_gray
from dlref.data.supervised.in_memory import InMemory
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
MAX_PIXELS = 2**26  # of a network's input image
FEW_BITS = (1, 3, 7, 15, 16)  # the white level of images of few gray levels; 255 in all others
LOW_CONTRAST = 32  # gray levels between the darkest and the lightest pixel, below which an image is nearly blank
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # none of which runs another program, as EPS does
FILES = [RemoteFile(f"mnist/{name}", digest, [f"{m}/{name}" for m in MIRRORS]) for name, digest in SHA256.items()]


class IDX(InMemory, HeldOut):
    """A folder of `train-images…`, `train-labels…`, `t10k-images…` and `t10k-labels…` in IDX, gzipped or not.

    Pixels are stored as uint8; batches are normalized by the mean and standard deviation of the training pixels. The last
    `eval_size` training images are the `eval` split, `t10k` is `test`. `permutation`, a seed, puts the pixels of all images
    into one random order (permuted MNIST). Training images are augmented by random affine maps, with the arguments of
    torchvision's RandomAffine: rotated by -`degrees` to `degrees`, translated by up to the fractions `translate` of width
    and height, scaled by factors from `scale[0]` to `scale[1]`; here with bilinear interpolation and by parts of pixels.
    """

    split_settings = ("eval_size",)

    def __init__(
        self,
        folder: Path,
        eval_size: int = 5000,
        permutation: int | None = None,
        degrees: float = 0.0,
        translate: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.degrees, self.translate, self.scale = degrees, tuple(translate), tuple(scale)
        self.augmented = degrees != 0 or any(self.translate) or self.scale != (1.0, 1.0)
        if not 0 < scale[0] <= scale[1]:
            raise ConfigError(
                f"data.scale is {list(scale)}; it takes a lowest and a highest factor above 0, as [0.9,1.1]"
            )
        if not all(0 <= fraction <= 1 for fraction in translate):
            raise ConfigError(
                f"data.translate is {list(translate)}; it takes fractions from 0 to 1 of width and height, as [0.1,0.1]"
            )
        if permutation is not None and self.augmented:
            raise ConfigError(
                "permuted pixels cannot be rotated, translated or scaled; leave out data.permutation, or data.degrees, "
                "data.translate and data.scale"
            )
        images, labels = read_pair(Path(folder), "train")
        if eval_size >= len(images):
            raise ConfigError(f"data.eval_size {eval_size} leaves nothing of {len(images)} training images")
        cut = len(images) - eval_size
        self.splits = {
            "train": (images[:cut], labels[:cut]),
            "eval": (images[cut:], labels[cut:]),
            "test": read_pair(Path(folder), "t10k"),
        }
        shapes = [" × ".join(map(str, self.splits[split][0].shape[1:])) for split in ("train", "test")]
        if shapes[0] != shapes[1]:
            raise DataError(f"{folder}: the t10k images have {shapes[1]} pixels, the training images {shapes[0]}")
        self.permutation = permutation
        if permutation is not None:
            self.splits = {split: (permuted(rows, permutation), y) for split, (rows, y) in self.splits.items()}
        largest, largest_test = int(labels.max()), int(self.splits["test"][1].max())
        if largest_test > largest:
            raise DataError(f"{folder}: the t10k labels go up to {largest_test}, the training labels only to {largest}")
        self.classes = [str(c) for c in range(largest + 1)]
        self.mean, self.std = mean_and_std(images[:cut])

    def prepare(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        return inputs.to(dtype).sub_(self.mean).div_(self.std)

    def augment(self, rows: Tensor, batch_start: int, shard_rows: slice) -> Tensor:
        if not self.augmented:
            return rows
        # Sampled for the whole batch, so that an image is augmented alike whichever rank it falls to.
        uniform = 2 * torch.rand(self.batch_size, 4, generator=generator(self.seed, 1, batch_start)) - 1
        uniform = uniform[shard_rows.start - batch_start : shard_rows.stop - batch_start].to(rows.device)
        (low, high), (height, width) = self.scale, rows.shape[1:]
        most = torch.tensor([self.translate[0] * width, self.translate[1] * height], device=rows.device)
        scale = (low + high) / 2 + (high - low) / 2 * uniform[:, 1]
        return affine(rows, self.degrees * uniform[:, 0], most * uniform[:, 2:], scale)

    def describe(self) -> dict[str, Any]:
        images = self.splits["train"][0]
        description = {"reads": "image", "shape": list(images.shape[1:]), "mean": self.mean, "std": self.std}
        description |= {"corner": float(images[:, 0, 0].float().mean()), "permutation": self.permutation}
        if (white := int(images.max())) in FEW_BITS:
            description["white"] = white
        return super().describe() | description


class MNIST(IDX):
    """MNIST (LeCun et al. 1998): 60,000 + 10,000 handwritten digits of 28 × 28 pixels, checked by hash or downloaded."""

    def __init__(
        self,
        root: Path | None = None,
        eval_size: int = 5000,
        permutation: int | None = None,
        degrees: float = 0.0,
        translate: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        paths = [fetch(file, data_root(root)) for file in FILES]
        super().__init__(paths[0].parent, eval_size, permutation, degrees, translate, scale, batch_size, seed)


def mean_and_std(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all pixels of uint8 images; the latter is 1 where all pixels are equal."""
    counts = torch.bincount(images.flatten(), minlength=256)
    values = torch.arange(256).double()
    frequencies = counts.double() / images.numel()
    mean = float(frequencies @ values)
    std = math.sqrt(float(frequencies @ (values - mean) ** 2))
    return mean, std if int((counts > 0).sum()) > 1 else 1.0


def affine(images: Tensor, degrees: Tensor, translation: Tensor, scale: Tensor) -> Tensor:
    """Images [B, Y, X] rotated counterclockwise by `degrees` [B], scaled by `scale` [B] and translated, float32, filled with 0.

    `translation` [B, 2] is in pixels to the right and down. Samples bilinearly.
    """
    # The inverse map, from output to input positions, in units of half the width and height as in affine_grid.
    angle, half = degrees.deg2rad(), torch.tensor(images.shape[:0:-1], device=images.device) / 2
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    rotation = rotation / scale[:, None, None]
    rotation = rotation * half / half[:, None]  # in pixels, where width and height differ
    matrix = torch.cat([rotation, -(rotation @ (translation / half)[:, :, None])], dim=2)
    grid = F.affine_grid(matrix, [len(images), 1, *images.shape[1:]], align_corners=False)
    return F.grid_sample(images[:, None].float(), grid, align_corners=False).squeeze(1)


def permuted(images: Tensor, permutation: int) -> Tensor:
    """The pixels of images [N, rows, columns] in the random order of the seed `permutation`, the same for each image."""
    flat = images.flatten(1)
    return flat[:, torch.randperm(flat.shape[1], generator=generator(permutation))].view_as(images)


def read_image(
    path: Path, description: Mapping[str, Any], invert: bool, notes: dict[str, list[Path]] | None = None
) -> Tensor:
    """An image file as network input [1, rows, columns]: gray, resized and normalized as the training images are.

    `invert` turns dark on light into light on dark, as in MNIST. `notes` collects the conversions and the warnings, each
    with the paths that it holds for. Raises DataError for a file that cannot be read, ValueError for a senseless description.
    """
    from PIL import ImageOps

    rows, columns = description["shape"]
    if not 0 < rows * columns <= MAX_PIXELS:
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
    remarks = [f"of mode {mode}: {', '.join(steps)}"] if steps else []
    corner = float(pixels[[0, 0, -1, -1], [0, -1, 0, -1]].median())
    if abs(corner - (usual := description.get("corner", corner * white / 255) * 255 / white)) > 128:
        this, training = ("light", "dark") if corner > usual else ("dark", "light")
        flag = f"{'without' if invert else 'with'} --invert"
        remarks.append(f"with {this} corners, {training} in the training images: try {flag}")
    if float(pixels.max() - pixels.min()) < LOW_CONTRAST:
        remarks.append("nearly blank: almost one gray level")
    if notes is not None:
        for remark in remarks:
            notes.setdefault(remark, []).append(path)
    inputs = (pixels[None] * (white / 255) - description["mean"]) / description["std"]
    return inputs if description.get("permutation") is None else permuted(inputs, description["permutation"])


def open_gray(path: Path) -> tuple["Image.Image", str, list[str]]:
    """An image file in 8-bit gray, its stored mode, and the conversion steps; raises DataError."""
    from PIL import ExifTags, Image, ImageOps

    if not os.path.isfile(path):  # a pipe or a device may never end
        raise DataError(f"{path} cannot be read as an image (it is no file)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the content of the file
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                mode, orientation = opened.mode, opened.getexif().get(ExifTags.Base.Orientation)
                image, steps = to_gray(ImageOps.exif_transpose(opened))
                if orientation in range(2, 9):
                    steps.insert(0, "rotated by its EXIF orientation")
                with contextlib.suppress(Exception):  # a later frame, which is not used, may be broken
                    if getattr(opened, "is_animated", False):
                        steps.insert(0, "only its first frame read")
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # a crafted file may raise any
        formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise DataError(f"{path} cannot be read as an image ({brief(error)}); bring an intact {formats}") from None
    return image, mode, steps


def read_pair(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, rows, columns] and labels int64 [N]; raises DataError where their numbers differ."""
    images = read_idx(find(folder, f"{prefix}-images"), 3)
    labels = read_idx(find(folder, f"{prefix}-labels"), 1)
    if len(images) != len(labels):
        raise DataError(
            f"{folder} has {len(images)} {prefix} images and {len(labels)} labels; it takes one label per image"
        )
    return images, labels.long()


def find(folder: Path, prefix: str) -> Path:
    found = [path for path in sorted(folder.glob(f"{prefix}*")) if path.is_file()] if os.path.isdir(folder) else []
    if not found:
        raise DataError(f"{folder} has no file {prefix}-idx*-ubyte or .gz; data.folder needs four IDX files")
    return found[0]


def read_idx(path: Path, dimensions: int) -> Tensor:
    """An IDX file of unsigned bytes: two zero bytes, type 8, the number of dimensions, each size as big-endian u32, data."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            header = file.read(4 + 4 * dimensions)
            if header[:3] == bytes([0, 0, 8]) and header[3:4] and header[3] != dimensions:
                expected = (
                    "one label per image"
                    if dimensions == 1
                    else "gray images [images, rows, columns], without channels"
                )
                raise DataError(
                    f"{path} has {header[3]} dimensions; it takes {dimensions}, {expected}: convert the file"
                )
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
                raise DataError(
                    f"{path} is not an IDX file of unsigned bytes in {dimensions} dimensions; it starts with {header[:4].hex()}"
                )
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size, shape_text = math.prod(shape), " × ".join(map(str, shape))
            limit = max_unpacked_size(path)
            if not 0 < size <= limit:
                raise DataError(
                    f"{path} announces {shape_text} bytes after its header; it takes 1 to {limit:,}, so unpack the file if "
                    "the size is right"
                )
            raw = read_up_to(file, size + 1)  # one more than there should be
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({brief(error)}); fetch it again") from None
    if len(raw) != size:
        raise DataError(
            f"{path} does not hold the {shape_text} bytes after its header that it announces; fetch it again"
        )
    return torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(shape))
