"""Tables: what is learned of a column, what is refused, and that training and prediction read alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlref.data.tables import Table, read_inputs, read_out, read_table
from dlref.errors import ConfigError, DataError

ROWS = "\n".join(
    ["size,colour,price,kind", *(f"{i},{'red' if i % 3 else 'blue'},{2 * i + 1},{'abc'[i % 3]}" for i in range(40))]
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    return path


def test_numbers_are_normalised_by_the_training_rows_alone(file: Path) -> None:
    data = Table(file, ["price"], "numbers", inputs=["size"], eval_share=0.2, test_share=0.3)
    assert {split: len(rows) for split, (rows, _) in data.splits.items()} == {"train": 20, "eval": 8, "test": 12}
    inputs, targets = data.split("train")
    for numbers in (inputs, targets):
        torch.testing.assert_close(numbers.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
        torch.testing.assert_close(numbers.std(correction=0), torch.tensor(1.0))
    about = data.describe()
    every = torch.cat([rows for rows, _ in data.splits.values()])[:, 0] * about["columns"][0]["deviation"]
    assert sorted((every + about["columns"][0]["mean"]).round().tolist()) == list(range(40))


def test_text_becomes_an_input_for_each_of_its_values(file: Path) -> None:
    data = Table(file, ["kind"], "classes")
    assert data.sizes == {"inputs": 1 + 2 + 1, "outputs": 3}
    assert data.classes == ["a", "b", "c"]
    inputs, targets = data.split("train")
    blue = inputs[:, 1] == 1
    assert torch.equal(inputs[:, 1] + inputs[:, 2], torch.ones(len(inputs)))
    assert torch.equal(targets == 0, blue)  # every third row


@pytest.mark.parametrize("spelled", [("1", "0"), ("true", "False"), ("Yes", "no"), ("1.0", "0")])
def test_labels_are_read_in_several_spellings(spelled: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("x,here,there\n" + "\n".join(f"{i},{spelled[i % 2]},{spelled[i // 20]}" for i in range(40)))
    data = Table(path, ["here", "there"], "labels")
    inputs, targets = data.split("train")
    about = data.columns[0]
    number = (inputs[:, 0] * about["deviation"] + about["mean"]).round().long()
    assert torch.equal(targets, torch.stack([number % 2 == 0, number < 20], dim=1).float())


def test_npz_is_read_as_csv_is(file: Path, tmp_path: Path) -> None:
    columns = {
        name: cells if cells.dtype.kind == "f" else cells.astype(str) for name, cells in read_table(file).items()
    }
    np.savez(tmp_path / "rows.npz", **columns)
    one, two = (Table(path, ["price"], "numbers") for path in (file, tmp_path / "rows.npz"))
    assert one.describe() == two.describe()
    assert torch.equal(one.split("test")[0], two.split("test")[0])


def test_an_array_of_several_columns_has_their_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", pixels=np.arange(12).reshape(6, 2), y=np.arange(6))
    assert list(read_table(tmp_path / "rows.npz")) == ["pixels.0", "pixels.1", "y"]


def test_other_separators_a_mark_at_the_start_and_windows_ends_of_line_are_understood(
    file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_bytes(b"\xef\xbb\xbf" + ROWS.replace(",", ";").replace("\n", "\r\n").encode())
    for name, cells in read_table(other).items():
        assert np.array_equal(cells, read_table(file)[name])


def test_test_rows_may_have_a_file_of_their_own(file: Path, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("\n".join(ROWS.split("\n")[:6]))
    data = Table(file, ["price"], "numbers", test_file=tmp_path / "test.csv")
    assert {split: len(rows) for split, (rows, _) in data.splits.items()} == {"train": 36, "eval": 4, "test": 5}


def test_prediction_reads_rows_as_training_did_and_answers_in_their_units(file: Path) -> None:
    data = Table(file, ["price"], "numbers", eval_share=0.0, test_share=0.0)
    about: dict[str, Any] = data.describe()
    rows = read_inputs(file, about)
    inputs, targets = data.split("train")
    assert sorted(rows.tolist()) == sorted(inputs.tolist())
    prices = [float(row["price"]) for row in read_out(targets, about)]
    assert sorted(prices) == [2 * i + 1 for i in range(40)]


def test_text_that_looks_like_a_number_is_read_as_in_training(tmp_path: Path) -> None:
    file, other, array = tmp_path / "sizes.csv", tmp_path / "new.csv", tmp_path / "new.npz"
    file.write_text("size,y\n" + "\n".join(f"{size},{size}" for size in ["S", "42", "M", "007"] * 5))
    other.write_text("size,y\n42,42\n007,007\n42,42\n")
    data = Table(file, ["y"], "classes", test_file=other)
    about = data.describe()
    assert about["columns"] == [{"name": "size", "values": ["007", "42", "M", "S"]}]
    expected = torch.eye(4)[[1, 0, 1]]
    inputs, classes = data.split("test")
    assert torch.equal(inputs, expected)
    assert torch.equal(read_inputs(other, about), expected)
    assert classes.tolist() == [1, 0, 1]
    np.savez(array, size=np.array([42.0]))
    with pytest.raises(DataError, match="column 'size' holds numbers; the training rows had text"):
        read_inputs(array, about)
    mixed = "size,y\n42,1\n42,1\nS,0\n"  # most of them are numbers
    other.write_text(mixed)
    assert torch.equal(read_inputs(other, about), torch.eye(4)[[1, 1, 3]])
    with pytest.raises(DataError, match="'S' in column 'size' is not a number"):
        read_table(other)


BROKEN: list[tuple[bytes, str]] = [
    (b"", "holds no rows"),
    (b"x,y\n", "holds no rows"),
    (b"x,y\n1,2\n3\n", "line 3: 1 cells under 2 names"),
    (b"x,x\n1,2\n", "line 1: "),
    (b"x,y\n1,2\n3,none\n4,5\n", "line 3: 'none' in column 'y' is not a number"),
    (b"x,y\n1,2\n3,nan\n4,5\n", "line 3: nan in column 'y' is not a finite number"),
    (b"x,y\n1,2\n3,inf\n4,5\n", "line 3: inf in column 'y'"),
    (b"x,y\n1,2\n\xff\xfe,3\n", "is not UTF-8"),
    (b'x,y\n1,2\n"3,4\n', "line 3"),
    (b"x,y\n1,2\n3,\x004\n5,6\n", "line 3"),
    (b"x,z\n1,2\n3,4\n", "has no column y"),
    (b"x,y\n1,2\n", "leave none"),
]


@pytest.mark.faults
@pytest.mark.parametrize(("content", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_fault_17_a_broken_csv_is_named_with_its_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        Table(path, ["y"], "numbers", eval_share=0.5, test_share=0.5)
    assert str(path) in str(error.value)
    assert said in str(error.value)


@pytest.mark.faults
def test_fault_17_a_line_of_a_megabyte_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("x,y\n" + "a" * 1_000_000 + ",2\nb,3\n")
    with pytest.raises(DataError, match=r"long\.csv, line 2"):
        Table(path, ["y"], "numbers")


@pytest.mark.faults
@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_fault_17_a_truncated_npz_is_named(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.arange(50), y=np.arange(50))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"rows\.npz cannot be read as NPZ"):
        Table(path, ["y"], "numbers")


@pytest.mark.faults
def test_fault_17_an_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.array([{}, []], dtype=object))
    with pytest.raises(DataError, match="cannot be read as NPZ"):
        read_table(path)


def test_what_does_not_suit_the_kind_is_refused(file: Path, tmp_path: Path) -> None:
    for targets, kind, error in (
        (["colour"], "numbers", DataError),
        (["price"], "labels", DataError),
        (["price", "kind"], "classes", ConfigError),
        ([], "numbers", ConfigError),
    ):
        with pytest.raises(error, match=r"colour|label|one column"):
            Table(file, targets, kind)  # type: ignore[arg-type]
    (tmp_path / "test.csv").write_text("size,colour,price,kind\n1,red,2,d\n")
    with pytest.raises(DataError, match="'d' in column 'kind' is no class"):
        Table(file, ["kind"], "classes", test_file=tmp_path / "test.csv")
