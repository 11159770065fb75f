"""CSV and NPZ files: separators, quotes, compression; and only the selected columns are parsed."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlref.data.supervised.table_files import read_table
from dlref.data.supervised.tables import Table, read_inputs
from dlref.errors import DataError


def read(tmp_path: Path, content: str) -> dict[str, list[str]]:
    path = tmp_path / "a.csv"
    path.write_text(content, encoding="utf-8", newline="")
    return {name: column.cells.tolist() for name, column in read_table(path).items()}


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ('"size, m2";price\n0;1\n', {"size, m2": ["0"], "price": ["1"]}),
        ("size, m2;price\n0;1\n", {"size, m2": ["0"], "price": ["1"]}),
        ('"a;b","c;d"\n0,1\n', {"a;b": ["0"], "c;d": ["1"]}),
        ('"two\nlines, here"\tb\n0\t1\n', {"two\nlines, here": ["0"], "b": ["1"]}),
        ("a|b\n0,5|1,5\n", {"a": ["0,5"], "b": ["1,5"]}),
        ("x;y\n0,5;1\n", {"x": ["0,5"], "y": ["1"]}),
        ("x\n3,5\n", {"x": ["3,5"]}),
        ("x\n3.5\n\n4\n\n\n", {"x": ["3.5", "", "4"]}),  # with one column an empty line is a cell
        ("\n\nx,y\n\n1,2\n  \n", {"x": ["1"], "y": ["2"]}),
        ('x, "y"\n 1 , "a,b" \n'.replace('" \n', '"\n'), {"x": ["1"], "y": ["a,b"]}),
        ("\u200bx,y\ufeff\n\u200b 1 \u2060,a\u200bb\n", {"x": ["1"], "y": ["a\u200bb"]}),
        ("\u200b \u200bx,y\n\u200b\n\u200b \u200b1,2\u2003\ufeff\n \u200b\n", {"x": ["1"], "y": ["2"]}),
        ('x,y\n"say ""yes""",2\n', {"x": ['say "yes"'], "y": ["2"]}),
    ],
)
def test_the_separator_is_the_one_that_fits_outside_of_quotes(
    content: str, columns: dict[str, list[str]], tmp_path: Path
) -> None:
    assert read(tmp_path, content) == columns


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv"])
def test_compressed_files_hold_the_same_table(pack: Callable[[bytes], bytes], name: str, tmp_path: Path) -> None:
    path, content = tmp_path / name, b"x,y\n1,a\n2,b\n" * 100
    path.write_bytes(pack(content))
    assert len(read_table(path)["y"].cells) == 299
    path.write_bytes(pack(content)[:-9])
    with pytest.raises(DataError, match=r"a\.csv.* cannot be read"):
        read_table(path)


@pytest.mark.faults
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_fault_17_a_compressed_table_that_unpacks_to_too_much(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlref.data.safe_io.SMALL", 2**15)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(pack(b"x,y\n" + b"0,0\n" * 2**18))
    with pytest.raises(DataError, match="unpacks to more than"):
        read_table(path)


def test_columns_that_are_not_selected_are_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,,twice,twice\n1,,inf,\n")
    assert read_table(path, lambda _: ["x"])["x"].cells.tolist() == ["1"]
    for names, said in ((["twice"], "has 2 columns called 'twice'"), ([""], "line 1: column 2 has no name")):
        with pytest.raises(DataError, match=said):
            read_table(path, lambda _, names=names: names)  # type: ignore[misc]
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(3), objects=np.array([{}, []], dtype=object), images=np.ones((3, 2, 2)), about="me")
    assert read_table(path, lambda _: ["x"])["x"].cells.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"array objects.npy holds object"):
        read_table(path)
    np.savez(path, y=np.arange(6), images=np.ones((6, 8, 8, 3)))
    with pytest.raises(DataError, match=r"images.npy has shape \(6, 8, 8, 3\); it takes .*: reshape it to \(6, 192\)"):
        read_table(path)
    np.savez(path, images=np.ones((2, 400, 400), bool))  # which is more columns than an array may have
    with pytest.raises(DataError, match=r"up to 100,000 columns\]: save it as one of these"):
        read_table(path)


def test_cells_of_an_array_are_written_as_in_a_csv_file(tmp_path: Path) -> None:
    arrays = {
        "whole": np.array([1.0, -0.0]),
        "single": np.array([0.1, 2.5], dtype=np.float32),
        "large": np.array([2**53, 2**53 + 1]),
        "flag": np.array([True, False]),
        "text": np.array([" 01\u200b", "\u200b \u200b1.10"]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    spelled = {name: column.texts().tolist() for name, column in read_table(tmp_path / "a.npz").items()}
    assert spelled == {
        "whole": ["1", "0"],
        "single": ["0.1", "2.5"],
        "large": ["9007199254740992", "9007199254740993"],
        "flag": ["True", "False"],
        "text": ["01", "1.10"],
    }


def test_only_training_is_advised_to_choose_other_columns(tmp_path: Path) -> None:
    """`dlref predict`, which reads the columns that the model was trained on, has none of the settings of training."""
    train, new = tmp_path / "train.csv", tmp_path / "new.csv"
    train.write_text("x,y\n" + "\n".join(f"{i},{i}" for i in range(20)))
    description = Table(train, ["y"], "regression").describe()
    for content in ("x,x\n1,2\n", "z\n1\n", "x\n", "x\none\n", "x\n?\n1\n", None):
        new.unlink(missing_ok=True) if content is None else new.write_text(content)
        with pytest.raises(DataError, match=r"new\.csv") as refused:
            read_inputs(new, description)
        assert "data." not in str(refused.value)
    new.write_text("x,x,y\n1,2,3\n")
    with pytest.raises(DataError, match=r"2 columns called 'x'; rename them, or choose others by data\.inputs="):
        Table(new, ["y"], "regression")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('x,y\n"a\nb",2\n"c\nd",3,4\n', r"line 4: 3 cells under 2 column names"),
        ('x,y\n1,2\n"3,4\n5,6\n7,8\n', r"line 3: unexpected end of data"),
        ('x,y\n\n"a\n\nb",2\n1,"2"0\n', r"line 6: "),
        ("x,y,,\n1,2,,\n", r"line 1: column 3 has no name"),
    ],
)
def test_a_row_over_several_lines_is_named_by_its_first_line(content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, content)
    path = tmp_path / "b.csv"
    path.write_text('x,y\n\n"a\n\nb",2\n1,2\n')
    assert read_table(path)["y"].positions.tolist() == [3, 6]
