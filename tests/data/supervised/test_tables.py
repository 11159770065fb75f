"""Tables: statistics of columns, refused files, and that training and prediction encode rows alike."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlref.data.supervised.table_columns import Missing
from dlref.data.supervised.table_files import read_table
from dlref.data.supervised.tables import Table, prediction_rows, read_inputs
from dlref.errors import ConfigError, DataError

ROWS = "\n".join(
    ["size,color,price,kind", *(f"{i},{'red' if i % 3 else 'blue'},{2 * i + 1},{'abc'[i % 3]}" for i in range(40))]
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    return path


def test_numbers_are_standardized_by_the_training_rows_alone(file: Path) -> None:
    data = Table(file, ["price"], "regression", inputs=["size"], eval_share=0.2, test_share=0.3)
    assert {split: len(rows) for split, (rows, _) in data.splits.items()} == {"train": 20, "eval": 8, "test": 12}
    inputs, targets = data.split("train")
    for numbers in (inputs, targets):
        torch.testing.assert_close(numbers.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
        torch.testing.assert_close(numbers.std(correction=0), torch.tensor(1.0))
    about = data.describe()
    every = torch.cat([rows for rows, _ in data.splits.values()])[:, 0] * about["columns"][0]["std"]
    assert sorted((every + about["columns"][0]["mean"]).round().tolist()) == list(range(40))


def test_categories_are_one_hot_encoded(file: Path) -> None:
    data = Table(file, ["kind"], "classification")
    assert data.sizes == {"inputs": 1 + 2 + 1, "outputs": 3}
    assert data.classes == ["a", "b", "c"]
    inputs, targets = data.split("train")
    blue = inputs[:, 1] == 1
    assert torch.equal(inputs[:, 1] + inputs[:, 2], torch.ones(len(inputs)))
    assert torch.equal(targets == 0, blue)  # every third row


@pytest.mark.parametrize("spelled", [("1", "0"), ("true", "False"), ("Yes", "no"), ("1.0", "0")])
def test_booleans_are_read_in_several_notations(spelled: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("x,here,there\n" + "\n".join(f"{i},{spelled[i % 2]},{spelled[i // 20]}" for i in range(40)))
    data = Table(path, ["here", "there"], "multilabel")
    inputs, targets = data.split("train")
    about = data.input_columns[0]
    number = (inputs[:, 0] * about["std"] + about["mean"]).round().long()
    assert torch.equal(targets, torch.stack([number % 2 == 0, number < 20], dim=1).float())


def test_an_npz_file_is_read_like_a_csv_file(file: Path, tmp_path: Path) -> None:
    columns = {name: column.cells.astype(str) for name, column in read_table(file).items()}
    numbers = {name: columns[name].astype(float) for name in ("size", "price")}
    np.savez(tmp_path / "rows.npz", **columns | numbers)
    one, two = (Table(path, ["price"], "regression") for path in (file, tmp_path / "rows.npz"))
    assert one.describe() == two.describe()
    assert torch.equal(one.split("test")[0], two.split("test")[0])


def test_an_array_of_two_dimensions_becomes_numbered_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", pixels=np.arange(12).reshape(6, 2), y=np.arange(6))
    assert list(read_table(tmp_path / "rows.npz")) == ["pixels.0", "pixels.1", "y"]


def test_other_separators_a_byte_order_mark_and_windows_line_ends_are_read(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_bytes(b"\xef\xbb\xbf" + ROWS.replace(",", ";").replace("\n", "\r\n").encode())
    for name, column in read_table(other).items():
        assert np.array_equal(column.cells, read_table(file)[name].cells)


def test_test_rows_may_have_a_file_of_their_own(file: Path, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("\n".join(ROWS.split("\n")[:6]))
    data = Table(file, ["price"], "regression", test_file=tmp_path / "test.csv")
    assert {split: len(rows) for split, (rows, _) in data.splits.items()} == {"train": 36, "eval": 4, "test": 5}


def test_prediction_encodes_rows_as_training_did_and_predicts_in_their_units(file: Path) -> None:
    data = Table(file, ["price"], "regression", eval_share=0.0, test_share=0.0)
    about: dict[str, Any] = data.describe()
    rows = read_inputs(file, about)
    inputs, targets = data.split("train")
    assert sorted(rows.tolist()) == sorted(inputs.tolist())
    prices = [float(row["price"]) for row in prediction_rows(targets, about)]
    assert sorted(prices) == [2 * i + 1 for i in range(40)]


def test_text_that_looks_like_a_number_is_read_as_in_training(tmp_path: Path) -> None:
    file, other, array = tmp_path / "sizes.csv", tmp_path / "new.csv", tmp_path / "new.npz"
    file.write_text("size,y\n" + "\n".join(f"{size},{size}" for size in ["S", "42", "M", "007"] * 5))
    other.write_text("size,y\n42,42\n007,007\n42,42\n")
    with pytest.raises(
        DataError, match=r"line 2: 'S' in column 'size' is not a number, as '42' is; name the column in dat"
    ):
        Table(file, ["y"], "classification")
    data = Table(file, ["y"], "classification", categories=["size"], test_file=other)
    about = data.describe()
    assert [column["values"] for column in about["columns"]] == [["007", "42", "M", "S"]]
    expected = torch.eye(4)[[1, 0, 1]]
    inputs, classes = data.split("test")
    assert torch.equal(inputs, expected)
    assert torch.equal(read_inputs(other, about), expected)
    assert classes.tolist() == [1, 0, 1]
    np.savez(array, size=np.array([42.0, 7.0]))  # which is not 007
    assert torch.equal(read_inputs(array, about), torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 0]]))
    other.write_text("size,y\n42,1\n42,1\nS,0\n")
    assert torch.equal(read_inputs(other, about), torch.eye(4)[[1, 1, 3]])


BROKEN: list[tuple[bytes, str]] = [
    (b"", "has no rows"),
    (b"x,y\n", "has no rows"),
    (b"\n \n", "is empty"),
    (b"x,y\n1,2\n3\n", "line 3: 1 cells under 2 column names"),
    (b"x,x,y\n1,2,3\n", "2 columns called 'x'"),
    (b"x,,y\n1,2,3\n", "line 1: column 2 has no name"),
    (b"x,y\n1,2\n3,none\n4,5\n", "line 3: 'none' in column 'y' is not a number"),
    (b"x,y\n1,2\n3,nan\n4,5\n", "line 3: 'nan' in column 'y' is a missing value"),
    (b"x,y\n1,2\n3,inf\n4,5\n", "line 3: inf in column 'y'"),
    (b"x,y\n1,2\n\xff\xfe,3\n", "line 3, holds bytes that are not UTF-8"),
    (b"PK\3\4 and so on", "is a ZIP archive or a spreadsheet"),
    (b"\x1f\x8b and so on", "cannot be read"),
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
        Table(path, ["y"], "regression", eval_share=0.5, test_share=0.5)
    assert str(path) in str(error.value)
    assert said in str(error.value)


@pytest.mark.faults
def test_fault_17_a_line_of_a_megabyte_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("x,y\n" + "a" * 1_000_000 + ",2\nb,3\n")
    with pytest.raises(DataError, match=r"long\.csv, line 2"):
        Table(path, ["y"], "regression")


@pytest.mark.faults
@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_fault_17_a_truncated_npz_is_named(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.arange(50), y=np.arange(50))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"rows\.npz cannot be read as NPZ"):
        Table(path, ["y"], "regression")


@pytest.mark.faults
def test_fault_17_an_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.array([{}, []], dtype=object))
    with pytest.raises(DataError, match="cannot be read as NPZ"):
        read_table(path)


def test_targets_that_do_not_suit_the_task_are_refused(file: Path, tmp_path: Path) -> None:
    for targets, task, error in (
        (["color"], "regression", DataError),
        (["price"], "multilabel", DataError),
        (["price", "kind"], "classification", ConfigError),
        ([], "regression", ConfigError),
    ):
        with pytest.raises(error, match=r"color|boolean|one column"):
            Table(file, targets, task)  # type: ignore[arg-type]
    (tmp_path / "test.csv").write_text("size,color,price,kind\n1,red,2,d\n")
    with pytest.raises(
        DataError, match="line 2: 'd' in column 'kind' is not a class of the training rows, which have a, b, c"
    ):
        Table(file, ["kind"], "classification", test_file=tmp_path / "test.csv")


def written(path: Path, names: str, rows: Iterable[str]) -> Path:
    path.write_text("\n".join([names, *rows]))
    return path


def test_classes_and_categories_are_text_as_it_is_written(tmp_path: Path) -> None:
    releases = ["1.1", "1.10", "2.0", "01", "1"]
    rows = [f"{release},{release}" for release in releases * 8]
    file = written(tmp_path / "a.csv", "x,release", rows)
    data = Table(file, ["release"], "classification", categories=["x"])
    assert data.classes == ["01", "1", "1.1", "1.10", "2.0"]
    assert data.input_columns[0]["values"] == data.classes
    inputs, classes = data.split("train")
    assert torch.equal(inputs.argmax(dim=1), classes)
    assert prediction_rows(torch.eye(5)[4:], data.describe()) == [{"release": "2.0", "probability": "1"}]
    np.savez(tmp_path / "a.npz", x=np.array(releases * 8), release=np.array(releases * 8))
    other = Table(tmp_path / "a.npz", ["release"], "classification", test_file=file)
    assert other.describe() == data.describe()
    assert len(other.split("test")[1]) == 40


def test_numbered_classes_are_in_numerical_order(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "x,digit", [f"{i},{i % 11}" for i in range(66)])
    np.savez(tmp_path / "a.npz", x=np.arange(66), digit=np.arange(66.0) % 11)
    for path in (file, tmp_path / "a.npz"):
        assert Table(path, ["digit"], "classification").classes == [str(i) for i in range(11)]


def test_a_target_may_be_called_probability(tmp_path: Path) -> None:
    for name, beside in (("share", "probability"), ("probability", "probability_of_class")):
        file = written(tmp_path / "a.csv", f"x,{name}", [f"{i},{'ab'[i % 2]}" for i in range(20)])
        about = Table(file, [name], "classification").describe()
        assert prediction_rows(torch.tensor([[0.25, 0.75]]), about) == [{name: "b", beside: "0.75"}]


def test_a_prediction_has_the_digits_in_which_the_targets_differ(tmp_path: Path) -> None:
    rows = [f"{i},{1e8 + i / 1000:.3f},{i},0.1" for i in range(40)]
    data = Table(written(tmp_path / "a.csv", "x,far,near,constant", rows), ["far", "near", "constant"], "regression")
    inputs, targets = data.split("test")
    x = (inputs[:, 0].double() * data.input_columns[0]["std"] + data.input_columns[0]["mean"]).round().long().tolist()
    for row, i in zip(prediction_rows(targets, data.describe()), x, strict=True):
        assert (float(row["far"]), float(row["near"])) == (pytest.approx(1e8 + i / 1000, abs=1e-6, rel=0), i)
        assert row["constant"] == "0.1"


def test_a_constant_column_is_not_scaled(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "c,x,y", [f"0.1,{i % 10},{i % 7}" for i in range(60)])
    data = Table(file, ["y"], "regression")
    new = written(tmp_path / "b.csv", "x,c", ["3,0.1", "3,0.2"])
    assert read_inputs(new, data.describe())[:, 0].tolist() == pytest.approx([0, 0.1], abs=1e-6)
    assert "c: always 0.1" in data.summary()


SPARSE = ["1,red,0", "2,,1", ",blue,2", "4,red,", "5,red,4", "6,blue,5", "7,red,6", "8,red,7", "9,blue,8", "10,red,9"]


def test_a_missing_value_is_an_error_by_default(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "x,color,y", SPARSE)
    with pytest.raises(
        DataError, match=r"line 4: '' in column 'x' is a missing value; fill it in, or set data.missing=mean"
    ):
        Table(file, ["y"], "regression")
    with pytest.raises(DataError, match=r"line 5: '' in column 'y' .*or set data\.missing=drop to drop such rows"):
        Table(written(tmp_path / "b.csv", "x,y", ["1,2", "2,3", "3,4", "4,"]), ["y"], "regression")
    with pytest.raises(DataError, match=r"'NA' in column 'x' is a missing value .and 2 more in this column"):
        Table(written(file, "x,y", ["1,2", "NA,1", "na,0", "?,2"]), ["y"], "regression")


@pytest.mark.parametrize(("missing", "rows"), [("mean", 9), ("drop", 7)])
def test_missing_values_are_filled_in_or_their_rows_dropped_and_counted(
    missing: Missing, rows: int, tmp_path: Path
) -> None:
    file = written(tmp_path / "a.csv", "x,color,y", SPARSE)
    data = Table(file, ["y"], "regression", missing=missing, test_file=file)
    assert sum(len(data.split(split)[0]) for split in ("train", "eval")) == rows == len(data.split("test")[0])
    assert all(part.isfinite().all() for split in data.splits.values() for part in split)
    assert data.summary() == [
        "x: numbers from 1 to 10; 1 missing",
        f"color: 2 categories: blue ({3 if missing == 'mean' else 2}), red (5); 1 missing",
        "target y: numbers from 0 to 9; 1 missing",
        f"{10 - rows} of 10 rows are dropped for a missing value",
    ]
    new = read_inputs(written(tmp_path / "b.csv", "x,color", ["5,red", ",red", "5,?"]), data.describe())
    assert new.isnan().any(dim=1).tolist() == [False, missing == "drop", missing == "drop"]
    if missing == "mean":
        assert torch.equal(new[2], new[0])
        assert new[1].tolist() == [0, 0, 1]


def test_prediction_refuses_what_training_refuses(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "x;color;y", [f"{i},5;{'ab'[i % 2]};{i}" for i in range(20)])
    with pytest.raises(DataError, match=r"line 2: '0,5' in column 'x' is not a number; set data.decimal=comma"):
        Table(file, ["y"], "regression")
    data = Table(file, ["y"], "regression", decimal="comma")
    about = data.describe()
    assert "x: numbers from 0.5 to 19.5" in data.summary()
    for content, said in (
        ("x;color\n1,5;a\n;b", "line 3: '' in column 'x' is a missing value; the model was trained without"),
        ("x;color\n1,5;a\none;b", "line 3: 'one' in column 'x' is not a number, as '1,5' is; correct it, since"),
        ("x,color\n1.5,a", "line 2: '1.5' in column 'x' is not a number; set --decimal=point to read"),
    ):
        (tmp_path / "b.csv").write_text(content)
        with pytest.raises(DataError) as refused:
            read_inputs(tmp_path / "b.csv", about)
        assert said in str(refused.value)
    points = read_inputs(tmp_path / "b.csv", about, decimal="point")
    assert torch.equal(points, read_inputs(written(tmp_path / "c.csv", "x;color", ["1,5;a"]), about))


def test_prediction_reads_neither_other_columns_nor_targets(tmp_path: Path) -> None:
    rows = [f"{i},{'' if i % 3 else 'NA'},{2 * i},{'one' if i else ''}" for i in range(40)]
    file = written(tmp_path / "a.csv", "x,age,y,", rows)
    about = Table(file, ["y"], "regression", inputs=["x"]).describe()
    new = written(tmp_path / "b.csv", "x,age,y", ["3,inf,", "4,,text"])
    assert read_inputs(new, about).shape == (2, 1)


def test_a_class_of_one_row_is_in_the_training_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the seed; else its row may be in eval, where the network has no output for it."""
    file = written(tmp_path / "a.csv", "x,k", [f"{i},{'rare' if i == 7 else 'ab'[i % 2]}" for i in range(30)])
    moved = 0
    for seed in range(12):
        caplog.clear()
        data = Table(file, ["k"], "classification", seed=seed, eval_share=0.2, test_share=0.2)
        assert data.classes == ["a", "b", "rare"]
        assert int((data.split("train")[1] == 2).sum()) == 1
        assert sum(len(rows) for rows, _ in data.splits.values()) == 30
        moved += "'rare'" in caplog.text
    assert 0 < moved < 12


TOO_LITTLE: list[tuple[list[str], dict[str, Any], str]] = [
    (["1,a", "2,b"], {}, "2 usable rows; 1 for eval and 1 for test leave none for training: add rows"),
    (["1,a", "2,b"], {"test_share": 0.0}, "leave none for eval; add rows of these classes"),
    (["1,a", "2,a", "3,a", "4,a"], {}, "has only the class 'a'; it takes two or more"),
    (["1,a", ",b", "?,a"], {"missing": "drop"}, "1 usable rows; 1 for eval"),
    (
        ["1,", ",b", "?,a"],
        {"missing": "drop"},
        "'x' has values only in rows whose target is missing; fill in the targets",
    ),
    *[
        ([",a", ",b", "?,a"], {"missing": how}, "column 'x' has no value in any row; leave it out")
        for how in (None, "drop")
    ],
    (["1,a", ",b", "?,"], {"missing": "mean"}, "2 usable rows; 1 for eval"),
    (["1,", "2,", "3,?"], {}, "column 'k' has no value in any row; choose another by data.targets"),
    ([], {}, "has no rows"),
]


@pytest.mark.parametrize(("rows", "settings", "said"), TOO_LITTLE)
def test_a_table_with_too_little_in_it_is_refused(
    rows: list[str], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as refused:
        Table(written(tmp_path / "a.csv", "x,k", rows), ["k"], "classification", **settings)
    assert said in str(refused.value)


@pytest.mark.parametrize("missing", [None, "mean", "drop"])
def test_a_column_with_values_only_where_the_target_is_missing_is_named(
    missing: Missing | None, tmp_path: Path
) -> None:
    """It has values, so it is not said that it has none."""
    file = written(tmp_path / "a.csv", "x,age,y", [f"{i},{i if i < 5 else ''},{'' if i < 5 else i}" for i in range(20)])
    with pytest.raises(
        DataError, match=r"column 'age' has values only in rows whose target is missing; .* data.inputs="
    ):
        Table(file, ["y"], "regression", missing=missing)
    assert Table(file, ["y"], "regression", ["x"], missing="mean").sizes["inputs"] == 1


def test_where_no_row_is_complete_the_setting_missing_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "x,z,y", ["1,,1", ",2,2", "3,,3"])
    with pytest.raises(
        DataError, match=r"missing value in each of its 3 rows, so that data.missing=drop .* data.inputs="
    ):
        Table(file, ["y"], "regression", missing="drop")
    file = written(tmp_path / "a.csv", "x,z,y", ["1,,1", "2,2,", "3,,3"])
    with pytest.raises(
        DataError, match=r"missing target in each of its 3 rows, so that data.missing=mean .* data.targets="
    ):
        Table(file, ["z", "y"], "regression", missing="mean")


@pytest.mark.parametrize("color", ["", "NA"])
def test_a_column_without_values_in_the_test_file_is_filled_in_from_training(color: str, tmp_path: Path) -> None:
    rows = [f"{i},{'red' if i % 3 else 'blue'},{2 * i}" for i in range(30)]
    file = written(tmp_path / "a.csv", "x,color,y", rows)
    test = written(tmp_path / "test.csv", "x,color,y", [f",{color},4", f"?,{color},6"])
    data = Table(file, ["y"], "regression", missing="mean", test_file=test)
    assert data.input_columns[1]["values"] == ["blue", "red"]
    assert data.split("test")[0].tolist() == [[0, 0, 1], [0, 0, 1]]
    assert torch.equal(data.split("test")[0], read_inputs(test, data.describe()))
    with pytest.raises(DataError, match=r"test.csv, line 2: '' in column 'x' is a missing value"):
        Table(file, ["y"], "regression", test_file=test)
    with pytest.raises(DataError, match=r"test.csv has a missing value in each of its 2 rows"):
        Table(file, ["y"], "regression", missing="drop", test_file=test)


def test_a_text_of_na_values_can_be_read_as_a_value(tmp_path: Path) -> None:
    rows = [f"{i},{['NA', 'DE', 'FR'][i % 3]}" for i in range(30)]
    file = written(tmp_path / "a.csv", "y,country", rows)
    for targets, inputs in ((["y"], ["country"]), (["country"], ["y"])):
        with pytest.raises(DataError, match=r"'NA' in column 'country' .*; if 'NA' is a value, .* data.na_values=\[\]"):
            Table(file, targets, "classification", inputs)
    assert Table(file, ["country"], "classification", na_values=[]).classes == ["DE", "FR", "NA"]
    for cell, said in (("-", True), ("", False), ("nan", False)):
        written(file, "y,country", [f"{i},{cell}" for i in range(30)])
        with pytest.raises(DataError, match="'country' has no value in any row") as refused:
            Table(file, ["y"], "regression")
        assert (f"if '{cell}' is a value" in str(refused.value)) == said


def test_na_values_may_be_given_as_numbers(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "x,y", [f"{i if i % 2 else -999.0},{i}" for i in range(20)])
    for codes in ([-999], [-999.0], ["-999"], [np.float32(-999)]):
        data = Table(file, ["y"], "regression", missing="mean", na_values=codes)
        assert data.summary()[0] == "x: numbers from 1 to 19; 10 missing"
        assert json.loads(json.dumps(data.describe()))["na_values"] == ["-999"]


def test_a_number_of_na_values_does_not_match_longer_text_of_categories(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.csv",
        "zip,size,y",
        [f"{['0999', '999', '0123'][i % 3]},{'0999' if i % 2 else i},{i}" for i in range(30)],
    )
    data = Table(file, ["y"], "regression", categories=["zip"], missing="mean", na_values=[999])
    assert data.input_columns[0]["values"] == ["0123", "0999"]
    assert [line.rpartition("; ")[2] for line in data.summary()[:2]] == ["10 missing", "15 missing"]
    assert read_inputs(file, data.describe())[[0, 2], :2].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"inputs": ["size", "size"]}, "name 'size' twice"),
        ({"inputs": ["size", "price"]}, "name 'price' twice"),
        ({"categories": ["sizes"]}, "data.categories names 'sizes', which is not among the inputs"),
        ({"categories": ["price"]}, "which is not among the inputs"),
        ({"eval_share": 1.0}, "data.eval_share is 1.0; it takes a fraction from 0 to below 1"),
    ],
)
def test_settings_that_contradict_the_table_are_refused(settings: dict[str, Any], said: str, file: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        Table(file, ["price"], "regression", **settings)


def test_the_summary_of_many_columns_is_short(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pixels=np.random.default_rng(0).random((20, 700)), k=np.array(["yes", "no"] * 10))
    lines = Table(tmp_path / "a.npz", ["k"], "multilabel").summary()
    assert len(lines) < 25
    assert lines[-2:] == ["and 680 more inputs", "target k: true in 10 rows, false in 10"]
