"""IDX files: what is written is read, what is broken is named, and MNIST is what was published."""

import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from dlref.data.supervised.images import IDX, MNIST, mean_and_std, moved, read_idx, read_image
from dlref.errors import DataError
from dlref.interfaces import Shard


def write_idx(path: Path, array: Tensor) -> None:
    raw = (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.to(torch.uint8).numpy().tobytes()
    )
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    for prefix, count, end in (("train", 30, ".gz"), ("t10k", 11, "")):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{end}", torch.randint(256, (count, 4, 5), generator=draw))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{end}", torch.randint(3, (count,), generator=draw))
    return tmp_path


def test_a_folder_of_four_files_is_normalised_by_its_training_pixels(folder: Path) -> None:
    data = IDX(folder, eval_size=6, batch_size=24)
    assert {split: len(rows) for split, (rows, _) in data.splits.items()} == {"train": 24, "eval": 6, "test": 11}
    assert data.sizes == {"inputs": 20, "outputs": 3, "rows": 4, "columns": 5}
    batch = next(data.train_batches(torch.nn.Linear(1, 1, dtype=torch.float64), Shard(), 0))
    assert batch.inputs.shape == (24, 4, 5)
    torch.testing.assert_close(batch.inputs.mean(), torch.tensor(0.0, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(batch.inputs.std(correction=0), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("white", [1, 2, 255])
def test_pixels_of_any_contrast_are_normalised(white: int, tmp_path: Path) -> None:
    """Black and white may be 0 and 1; no standard deviation is too small for what it divides."""
    images = torch.zeros(10, 4, 5)
    images[:, 0] = white
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", torch.arange(10) % 2)
    data = IDX(tmp_path, eval_size=2)
    assert data.mean == pytest.approx(white / 4)
    assert data.deviation == pytest.approx(white * math.sqrt(3 / 16))


@pytest.mark.parametrize("white", [1, 15, 16, 255])
def test_a_picture_has_the_gray_levels_of_training(white: int, tmp_path: Path) -> None:
    """White pixels of a picture are what white is in the training images, of a few bits or of eight."""
    images = torch.zeros(10, 4, 5)
    images[:, 0, 1:] = white
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", torch.arange(10) % 2)
    data, notes = IDX(tmp_path, eval_size=2), {}
    Image.fromarray((images[0] * (255 / white)).byte().numpy()).save(tmp_path / "white.png")
    found = read_image(tmp_path / "white.png", data.describe(), False, notes)
    torch.testing.assert_close(found[0], data.prepare(images[0], torch.float32))
    assert [note for note in notes if "as in training" in note] == (
        [f"of mode L: scaled to 0 to {white}, as in training"] if white < 255 else []
    )


@pytest.mark.parametrize(
    ("level", "odd", "std"), [(0, 0, 1.0), (255, 0, 1.0), (254, 1, math.sqrt(1 / 200 * 199 / 200))]
)
def test_only_pixels_that_are_all_alike_are_not_scaled(level: int, odd: int, std: float) -> None:
    images = torch.full((10, 4, 5), level, dtype=torch.uint8)
    images[0, 0, 0] += odd
    assert mean_and_std(images) == (pytest.approx(level + odd / 200), pytest.approx(std, rel=1e-9))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw[:3], "not an IDX file"),
        (lambda raw: b"\x00\x00\x0d\x03" + raw[4:], "not an IDX file"),
        (lambda raw: raw[:-1], "bytes after its header"),
        (lambda raw: raw + b"\x00", "bytes after its header"),
        (lambda raw: b"", "not an IDX file"),
    ],
)
@pytest.mark.faults
def test_fault_17_a_damaged_file_is_named(damage: Callable[[bytes], bytes], said: str, folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=said) as raised:
        read_idx(path, 3)
    assert str(path) in str(raised.value)


@pytest.mark.faults
@pytest.mark.parametrize("keep", [0, 5, 20, -1])
def test_fault_17_a_truncated_gzip_is_named(keep: int, folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="train-images"):
        IDX(folder, eval_size=1)


@pytest.mark.faults
def test_fault_17_test_labels_that_training_never_had_are_refused(folder: Path) -> None:
    write_idx(folder / "t10k-labels-idx1-ubyte", torch.full((11,), 9))
    with pytest.raises(DataError, match="t10k labels go up to 9, those to train on only to 2"):
        IDX(folder, eval_size=1)


def test_arrays_of_other_dimensions_are_named(folder: Path) -> None:
    write_idx(folder / "t10k-images-idx3-ubyte", torch.zeros(11, 4, 5, 3))
    with pytest.raises(
        DataError, match=r"t10k-images.* has 4 dimensions, and 3 are read: gray images .* without channels"
    ):
        IDX(folder, eval_size=1)
    write_idx(folder / "t10k-images-idx3-ubyte", torch.zeros(11, 20))
    with pytest.raises(DataError, match="has 2 dimensions, and 3 are read"):
        IDX(folder, eval_size=1)
    write_idx(folder / "t10k-images-idx3-ubyte", torch.zeros(11, 4, 5))
    write_idx(folder / "t10k-labels-idx1-ubyte", torch.zeros(11, 3))
    with pytest.raises(DataError, match=r"t10k-labels.* has 2 dimensions, and 1 are read: a label for each image"):
        IDX(folder, eval_size=1)


def test_images_without_their_labels_are_refused(folder: Path) -> None:
    write_idx(folder / "t10k-labels-idx1-ubyte", torch.zeros(10))
    with pytest.raises(DataError, match="11 t10k images and 10 labels"):
        IDX(folder, eval_size=1)


def test_an_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="four IDX files"):
        IDX(tmp_path)


@pytest.mark.data
def test_mnist_is_found_by_hash_and_is_what_was_published(datasets: Path) -> None:
    data = MNIST(datasets)
    assert {split: tuple(rows.shape) for split, (rows, _) in data.splits.items()} == {
        "train": (55000, 28, 28),
        "eval": (5000, 28, 28),
        "test": (10000, 28, 28),
    }
    assert all(rows.dtype == torch.uint8 for rows, _ in data.splits.values())
    assert torch.bincount(data.splits["test"][1]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.mean == pytest.approx(33.3, abs=0.2)  # 0.1307 × 255, as everybody uses
    assert data.deviation == pytest.approx(78.6, abs=0.2)


def test_permuted_pixels_are_the_same_ones_in_another_order_for_all_images(folder: Path) -> None:
    plain, one, other = (IDX(folder, eval_size=6, permutation=p) for p in (None, 1, 2))
    for split in ("train", "eval", "test"):
        images, moved = plain.split(split)[0].flatten(1), one.split(split)[0].flatten(1)
        assert torch.equal(images.sort(dim=1).values, moved.sort(dim=1).values)
    order = [int((one.split("train")[0].flatten(1) == column[:, None]).all(dim=0).nonzero()[0, 0])
             for column in plain.split("train")[0].flatten(1).T]  # fmt: skip
    assert torch.equal(one.split("test")[0].flatten(1)[:, order], plain.split("test")[0].flatten(1))
    assert not torch.equal(one.split("train")[0], other.split("train")[0])
    assert (one.mean, one.deviation) == (plain.mean, plain.deviation)


def test_an_image_moves_to_the_right_and_down_and_turns_against_the_clock() -> None:
    images = torch.zeros(3, 7, 9, dtype=torch.uint8)
    images[:, 2, 6] = 200  # two right of the middle, one above it
    zero, one = torch.zeros(3), torch.ones(3)
    turns = torch.tensor([0.0, 90.0, 0.0])
    shifts = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    found = moved(images, turns, torch.tensor([1.0, 1.0, 2.0]), shifts)
    assert found[0].argmax() == 4 * 9 + 7
    assert found[1].argmax() == 1 * 9 + 3  # which was two right and one above is now one left and two above
    torch.testing.assert_close(moved(images, zero, one, torch.zeros(3, 2)), images.float(), atol=1e-3, rtol=0)
    assert found[2].argmax() == 1 * 9 + 8  # twice as far from the middle


def test_variation_is_of_training_alone_and_the_same_on_any_number_of_ranks(folder: Path) -> None:
    still, varied = (IDX(folder, eval_size=6, batch_size=5, shift=s) for s in (0.0, 1.5))
    net = torch.nn.Linear(1, 1)

    def batch(data: IDX, *shards: Shard) -> torch.Tensor:
        return torch.cat([next(data.train_batches(net, shard, 2)).inputs for shard in shards])

    assert not torch.equal(batch(still, Shard()), batch(varied, Shard()))
    assert torch.equal(batch(varied, Shard()), batch(varied, Shard(0, 2), Shard(1, 2)))
    for one, other in zip(still.batches("test", net, Shard()), varied.batches("test", net, Shard()), strict=True):
        assert torch.equal(one.inputs, other.inputs)
