"""dlref predict: a trained model, a file, and what it says of it."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from dlref.cli.main import main
from dlref.data.supervised.glyphs import Glyphs
from tests.conftest import SMALL

Train = Callable[..., tuple[int, str]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    rows = [f"{a},{b},{3 * a - b + 10},{'high' if a > b else 'low'},{int(a > 5)}" for a in range(10) for b in range(10)]
    path.write_text("\n".join(["a,b,sum,which,large", *rows]))
    return path


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


@pytest.mark.parametrize(
    ("task", "target"), [("regression", "sum"), ("classification", "which"), ("multilabel", "large")]
)
def test_a_table_is_answered_row_by_row(
    task: str, target: str, table: Path, tmp_path: Path, train: Train,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    settings = [f"data.file={table}", f"data.targets=[{target}]", "data.inputs=[a,b]", f"data.task={task}"]
    settings += [f"objective={task}", "network.widths=[30]", "trainer.max_steps=600", "trainer.log_every=600"]
    code, errors = train("model=mlp", "data=table", *settings, "optimizer.lr=1e-2", f"run_dir={run}")
    assert code == 0, errors
    (tmp_path / "new.csv").write_text("b,a\n3,8\n6,2\n")  # other order, no targets
    assert main(["predict", str(run), str(tmp_path / "new.csv")]) == 0
    rows = said(capsys)
    if task == "regression":
        assert [float(row["sum"]) for row in rows] == pytest.approx([31, 10], abs=1.5)
    elif task == "classification":
        assert [row["which"] for row in rows] == ["high", "low"]
        assert all(0.5 < float(row["probability"]) <= 1 for row in rows)
    else:
        assert [float(row["large"]) > 0.5 for row in rows] == [True, False]


def test_a_row_with_a_missing_value_has_an_empty_answer(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where rows with one were left out of training; every other row keeps its place."""
    run, file, new = tmp_path / "run", tmp_path / "rows.csv", tmp_path / "new.csv"
    file.write_text(
        "x;share\n" + "\n".join(f"{i % 5},5;{'small' if i % 5 < 2 else 'big'}" for i in range(50)) + "\n;big"
    )
    settings = ["data.targets=[share]", "data.task=classification", "data.missing=drop", "data.decimal=comma"]
    settings += ["network.widths=[9]", "trainer.max_steps=300", "optimizer.lr=1e-2", "reports=null"]
    code, errors = train("model=mlp", "data=table", f"data.file={file}", *settings, f"run_dir={run}")
    assert code == 0, errors
    assert "  x: numbers from 0.5 to 4.5; 1 missing\n" in errors
    assert "  target share: 2 categories: big (30), small (20)\n" in errors
    assert "  1 of 51 rows are dropped for a missing value\n" in errors
    new.write_text("x\n4.5\n\n0.5\n")
    assert main(["predict", str(run), str(new)]) == 3
    assert "'4.5' in column 'x' is not a number; set --decimal=point to read decimal points" in capsys.readouterr().err
    assert main(["predict", str(run), str(new), "--decimal", "maybe"]) == 2
    capsys.readouterr()
    assert main(["predict", str(run), str(new), "--decimal=point"]) == 0
    out, errors = capsys.readouterr()
    assert f"{new}: a value is missing in 1 of 3 rows; their predictions are empty" in errors
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["share"] for row in rows] == ["big", "", "small"]
    assert [bool(row["probability"]) for row in rows] == [True, False, True]


def test_a_picture_is_answered_as_the_images_of_training_are(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    code, errors = train("model=cnn", "data.samples=1500", "trainer.max_steps=200", f"run_dir={run}")
    assert code == 0, errors
    images, digits = Glyphs(samples=1500).split("test")
    for i in range(20):
        Image.fromarray(images[i].numpy()).save(tmp_path / f"{i}.png")
        Image.fromarray(255 - images[i].numpy()).convert("RGB").save(tmp_path / f"dark-{i}.png")
    assert main(["predict", str(run), *(str(tmp_path / f"{i}.png") for i in range(20))]) == 0
    light = said(capsys)
    assert main(["predict", str(run), *(str(tmp_path / f"dark-{i}.png") for i in range(20)), "--invert"]) == 0
    assert [(row["class"], row["probability"]) for row in said(capsys)] == [
        (row["class"], row["probability"]) for row in light
    ]
    right = sum(int(row["class"]) == digit for row, digit in zip(light, digits.tolist(), strict=False))
    assert right >= 15
    assert (
        main(["predict", str(run), *(str(tmp_path / f"dark-{i}.png") for i in range(3)), str(tmp_path / "0.png")]) == 0
    )
    assert capsys.readouterr().err.splitlines() == [
        "3 pictures, of mode RGB: converted to gray",
        "3 pictures, with light corners, dark in the training images: try with --invert",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "RUN, FILE is missing"),
        (["RUN", "none.csv"], 3, "none.csv cannot be read as an image"),
        (["RUN", "invrt=true"], 2, "did you mean --invert?"),
        (["RUN", "x.png", "--decimal=maybe"], 2, "choose from comma, point"),
        (["nowhere", "x.png"], 4, "nowhere"),
    ],
)
def test_a_wrong_command_is_one_sentence(
    arguments: list[str], code: int, words: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(*SMALL["cnn"], "trainer.max_steps=2", f"run_dir={run}")
    assert main(["predict", *(str(run) if a == "RUN" else a for a in arguments)]) == code
    assert words in capsys.readouterr().err


def test_a_model_of_something_else_is_refused(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(*SMALL["dqn"], "trainer.max_steps=2", f"run_dir={run}")
    assert main(["predict", str(run), "x.csv"]) == 4
    assert "is no model of tables or images" in capsys.readouterr().err


def test_answers_are_those_of_the_network(train: Train, tmp_path: Path) -> None:
    import dlref
    from dlref.data.supervised.images import read_image

    run = tmp_path / "run"
    train(*SMALL["cnn"], "trainer.max_steps=2", f"run_dir={run}")
    image = Glyphs(samples=50).split("test")[0][0]
    Image.fromarray(image.numpy()).save(tmp_path / "one.png")
    net = dlref.load(run)
    pixels = read_image(tmp_path / "one.png", net.description, invert=False)  # type: ignore[arg-type]
    torch.testing.assert_close(net(pixels), net(image[None].float() / 255))
