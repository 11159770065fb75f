"""IDX files: intact ones are read, broken ones are refused by name, and MNIST is as published."""

import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from dlref.data.supervised.images import IDX, MNIST, affine, mean_and_std, read_idx, read_image
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


def test_a_folder_of_four_files_is_normalized_by_its_training_pixels(folder: Path) -> None:
    data = IDX(folder, eval_size=6, batch_size=24)
    assert {split: len(rows) for split, (rows, _) in data.splits.items()} == {"train": 24, "eval": 6, "test": 11}
    assert data.sizes == {"inputs": 20, "outputs": 3, "rows": 4, "columns": 5}
    batch = next(data.train_batches(torch.nn.Linear(1, 1, dtype=torch.float64), Shard(), 0))
    assert batch.inputs.shape == (24, 4, 5)
    torch.testing.assert_close(batch.inputs.mean(), torch.tensor(0.0, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(batch.inputs.std(correction=0), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("white", [1, 2, 255])
def test_pixels_of_any_contrast_are_normalized(white: int, tmp_path: Path) -> None:
    """Black and white may be 0 and 1; a small standard deviation is no special case."""
    images = torch.zeros(10, 4, 5)
    images[:, 0] = white
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", torch.arange(10) % 2)
    data = IDX(tmp_path, eval_size=2)
    assert data.mean == pytest.approx(white / 4)
    assert data.std == pytest.approx(white * math.sqrt(3 / 16))


@pytest.mark.parametrize("white", [1, 15, 16, 255])
def test_an_image_file_is_scaled_to_the_gray_levels_of_training(white: int, tmp_path: Path) -> None:
    """White of a file is the white level of the training images, of a few bits or of eight."""
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
def test_only_constant_pixels_have_a_standard_deviation_of_1(level: int, odd: int, std: float) -> None:
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
def test_fault_17_test_labels_beyond_the_training_labels_are_refused(folder: Path) -> None:
    write_idx(folder / "t10k-labels-idx1-ubyte", torch.full((11,), 9))
    with pytest.raises(DataError, match="t10k labels go up to 9, the training labels only to 2"):
        IDX(folder, eval_size=1)


def test_arrays_of_other_dimensions_are_refused(folder: Path) -> None:
    write_idx(folder / "t10k-images-idx3-ubyte", torch.zeros(11, 4, 5, 3))
    with pytest.raises(DataError, match=r"t10k-images.* has 4 dimensions; it takes 3, gray images .* without channels"):
        IDX(folder, eval_size=1)
    write_idx(folder / "t10k-images-idx3-ubyte", torch.zeros(11, 20))
    with pytest.raises(DataError, match="has 2 dimensions; it takes 3"):
        IDX(folder, eval_size=1)
    write_idx(folder / "t10k-images-idx3-ubyte", torch.zeros(11, 4, 5))
    write_idx(folder / "t10k-labels-idx1-ubyte", torch.zeros(11, 3))
    with pytest.raises(DataError, match=r"t10k-labels.* has 2 dimensions; it takes 1, one label per image"):
        IDX(folder, eval_size=1)


def test_images_without_their_labels_are_refused(folder: Path) -> None:
    write_idx(folder / "t10k-labels-idx1-ubyte", torch.zeros(10))
    with pytest.raises(DataError, match="11 t10k images and 10 labels"):
        IDX(folder, eval_size=1)


def test_an_empty_folder_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="four IDX files"):
        IDX(tmp_path)


@pytest.mark.data
def test_mnist_is_as_published(datasets: Path) -> None:
    data = MNIST(datasets)
    assert {split: tuple(rows.shape) for split, (rows, _) in data.splits.items()} == {
        "train": (55000, 28, 28),
        "eval": (5000, 28, 28),
        "test": (10000, 28, 28),
    }
    assert all(rows.dtype == torch.uint8 for rows, _ in data.splits.values())
    assert torch.bincount(data.splits["test"][1]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.mean == pytest.approx(33.3, abs=0.2)  # 0.1307 × 255, the usual constant
    assert data.std == pytest.approx(78.6, abs=0.2)


def test_one_permutation_reorders_the_pixels_of_all_images(folder: Path) -> None:
    plain, one, other = (IDX(folder, eval_size=6, permutation=p) for p in (None, 1, 2))
    for split in ("train", "eval", "test"):
        images, permuted = plain.split(split)[0].flatten(1), one.split(split)[0].flatten(1)
        assert torch.equal(images.sort(dim=1).values, permuted.sort(dim=1).values)
    order = [int((one.split("train")[0].flatten(1) == column[:, None]).all(dim=0).nonzero()[0, 0])
             for column in plain.split("train")[0].flatten(1).T]  # fmt: skip
    assert torch.equal(one.split("test")[0].flatten(1)[:, order], plain.split("test")[0].flatten(1))
    assert not torch.equal(one.split("train")[0], other.split("train")[0])
    assert (one.mean, one.std) == (plain.mean, plain.std)


def test_an_affine_map_rotates_counterclockwise_and_translates_right_and_down() -> None:
    images = torch.zeros(3, 7, 9, dtype=torch.uint8)
    images[:, 2, 6] = 200  # two right of the center, one above it
    degrees, scale = torch.tensor([0.0, 90.0, 0.0]), torch.tensor([1.0, 1.0, 2.0])
    translation = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    found = affine(images, degrees, translation, scale)
    assert found[0].argmax() == 4 * 9 + 7
    assert found[1].argmax() == 1 * 9 + 3  # two right and one above has become one left and two above
    assert found[2].argmax() == 1 * 9 + 8  # twice as far from the center
    identity = affine(images, torch.zeros(3), torch.zeros(3, 2), torch.ones(3))
    torch.testing.assert_close(identity, images.float(), atol=1e-3, rtol=0)


def test_settings_of_augmentation_mean_what_they_mean_in_torchvision(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Degrees from -d to d; translations up to fractions of width and height; factors from the lowest to the highest."""
    sampled: list[Tensor] = []

    def record(images: Tensor, *arguments: Tensor) -> Tensor:
        sampled.append(torch.cat([part.view(len(images), -1) for part in arguments], dim=1))
        return images

    monkeypatch.setattr("dlref.data.supervised.images.affine", record)
    data = IDX(folder, eval_size=6, batch_size=2000, degrees=30.0, translate=(0.2, 0.5), scale=(0.8, 1.6))
    next(data.train_batches(torch.nn.Linear(1, 1), Shard(), 0))
    low, high = sampled[0].amin(0), sampled[0].amax(0)  # images of 4 rows and 5 columns
    torch.testing.assert_close(low, torch.tensor([-30.0, -1.0, -2.0, 0.8]), rtol=0.02, atol=0)
    torch.testing.assert_close(high, torch.tensor([30.0, 1.0, 2.0, 1.6]), rtol=0.02, atol=0)


def test_only_training_is_augmented_and_alike_on_any_number_of_ranks(folder: Path) -> None:
    plain, augmented = (IDX(folder, eval_size=6, batch_size=5, translate=(t, t)) for t in (0.0, 0.3))
    net = torch.nn.Linear(1, 1)

    def batch(data: IDX, *shards: Shard) -> torch.Tensor:
        return torch.cat([next(data.train_batches(net, shard, 2)).inputs for shard in shards])

    assert not torch.equal(batch(plain, Shard()), batch(augmented, Shard()))
    assert torch.equal(batch(augmented, Shard()), batch(augmented, Shard(0, 2), Shard(1, 2)))
    for one, other in zip(plain.batches("test", net, Shard()), augmented.batches("test", net, Shard()), strict=True):
        assert torch.equal(one.inputs, other.inputs)
