"""Files and command lines that are broken, lie about themselves, or mean harm: each is read, or refused in a sentence.

No reader raises anything else, goes on without end, takes memory for what a header announces, or executes anything.
"""

import base64
import codecs
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import dlref
from dlref import build, config_check
from dlref.cli.arguments import COMMANDS
from dlref.cli.commands.evaluate import evaluate
from dlref.cli.commands.predict import predict
from dlref.cli.compose import compose, load_plugins, one_limit, plugin_files
from dlref.cli.main import main
from dlref.data import safe_io
from dlref.data.supervised import table_files
from dlref.data.supervised.images import FORMATS, IDX, read_idx, read_image
from dlref.data.supervised.tables import Table, read_inputs, read_table
from dlref.data.text import text_files
from dlref.data.text.generated_pairs import read_pairs
from dlref.data.text.parallel_corpora import ParallelFiles
from dlref.data.text.text_files import encode, text_chunks
from dlref.data.text.tokenizer import Tokenizer, Vocabulary, learn_bpe
from dlref.data.text.word2vec_format import read_vectors, write_vectors
from dlref.errors import CheckpointError, ConfigError, DataError, ResourceError
from dlref.training.checkpoint import Checkpoints, find, manifest_digest, open_checkpoint
from tests.conftest import SMALL, needs_posix
from tests.faults.hostile import Call, assert_refused, bomb, idx, misspoken, npy, refusal_of, saved, spoilt, zipped
from tests.faults.test_broken_checkpoints import hashes_of

pytestmark = pytest.mark.faults
FILES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # each example writes its own over the last one's
many, some, few = (settings(max_examples=count, suppress_health_check=FILES) for count in (150, 60, 25))
LEVELS = ["words", "english", "characters", "bpe"]
TASKS = ["regression", "classification", "multilabel"]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def all_of(path: Path) -> list[str]:
    return list(text_chunks(path))


def encoded(path: Path, level: Any = "words") -> Any:
    return encode({"train": path}, level, bpe_vocab_size=40, held_out={"eval": 0.1})


# Images

PIXELS = bytes(range(60)) * 2
IMAGES, LABELS = idx([6, 4, 5], PIXELS), idx([6], bytes([0, 1, 2, 0, 1, 2]))
FOUR = {"train-images": IMAGES, "train-labels": LABELS, "t10k-images": IMAGES, "t10k-labels": LABELS}


def folder_of(home: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        written(home / name, content)
    return home


@many
@given(st.sampled_from(["", ".gz"]), st.data())
def test_fault_17_any_bytes_for_a_folder_of_images(tmp_path: Path, end: str, data: st.DataObject) -> None:
    """Spoilt before they are compressed, or after."""
    for name, content in FOUR.items():
        content = data.draw(spoilt([IMAGES, LABELS])) if data.draw(st.booleans()) else content
        content = packed(content) if end else content
        written(
            tmp_path / f"{name}{end}", data.draw(spoilt([content])) if end and data.draw(st.booleans()) else content
        )
    refusal_of(lambda: IDX(tmp_path, eval_size=1).describe())


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    "shape",
    [
        *((2**31 - 1, 2**31 - 1, 2**31 - 1), (2**32 - 1, 2**32 - 1, 2**32 - 1), (2**32 - 1, 1, 1), (6, 4, 2**20)),
        *((0, 4, 5), (6, 0, 5), (2**32 - 1, 2**32 - 1, 0), (6, 4, 4), (6, 4, 6)),
    ],
)
def test_fault_17_sizes_that_a_header_of_images_makes_up(tmp_path: Path, shape: tuple[int, ...], end: str) -> None:
    content = idx(shape, PIXELS if all(shape) else b"")
    path = written(tmp_path / f"images{end}", packed(content) if end else content)
    assert_refused("after its header", read_idx, path, 3)


def test_fault_17_images_that_unpack_to_more_than_they_announce(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "images.gz", packed(idx([6, 4, 5], bytes(2**26))))
    assert_refused("after its header", read_idx, path, 3)
    written(path, packed(idx([2**20, 4, 5], bytes(20 * 2**20))))
    assert len(read_idx(path, 3)) == 2**20
    monkeypatch.setattr(safe_io, "SMALL", 2**20)
    assert_refused("unpack the file if the size is right", read_idx, path, 3)


def test_fault_17_what_else_is_said_of_a_folder_of_images(tmp_path: Path) -> None:
    folder_of(tmp_path, FOUR)
    for said, wrong in (
        ("data.eval_size 6 leaves nothing of 6", {"eval_size": 6}),
        (r"data.scale is [0.0, 2.0]; it takes a lowest", {"eval_size": 1, "scale": [0.0, 2.0]}),
        (r"data.translate is [0.1, 1.5]; it takes fractions", {"eval_size": 1, "translate": [0.1, 1.5]}),
        ("permuted pixels cannot be rotated", {"eval_size": 1, "permutation": 3, "degrees": 5.0}),
    ):
        assert_refused(said, lambda wrong=wrong: IDX(tmp_path, **wrong), kinds=[ConfigError])  # type: ignore[misc]
    written(tmp_path / "t10k-images", idx([6, 5, 4], PIXELS))
    assert_refused("the t10k images have 5 × 4 pixels, the training images 4 × 5", IDX, tmp_path, 1)


def picture(kind: str, size: tuple[int, int] = (9, 7)) -> bytes:
    file = io.BytesIO()
    Image.frombytes("L", size, bytes(i % 251 for i in range(size[0] * size[1]))).save(file, kind)
    return file.getvalue()


ABOUT = {"shape": [4, 5], "mean": 100.0, "std": 50.0, "corner": 0.0}
DRAWN = [picture(kind) for kind in FORMATS]


def seen(path: Path) -> torch.Tensor:
    return read_image(path, ABOUT, invert=False)


@many
@given(spoilt(DRAWN), st.sampled_from(["a.png", "a.jpg", "a"]))
def test_fault_17_any_bytes_for_a_picture(tmp_path: Path, content: bytes, name: str) -> None:
    path = written(tmp_path / name, content)

    def read() -> None:
        pixels = seen(path)
        assert pixels.shape == (1, 4, 5)
        assert pixels.isfinite().all()

    refusal_of(read)


@pytest.mark.parametrize("side", [10**6, 10**4])  # what Pillow refuses, and what it only warns of
def test_fault_17_a_picture_of_a_few_bytes_and_a_million_pixels_a_side(tmp_path: Path, side: int) -> None:
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    honest = picture("PNG")
    path = written(tmp_path / "large.png", honest[:12] + head + struct.pack(">I", zlib.crc32(head)) + honest[33:])
    assert_refused("pixels; make it smaller", seen, path)


@needs_posix
def test_fault_09_a_picture_that_is_a_program_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript, if that is there."""
    written(tmp_path / "gs", f"#!/bin/sh\ntouch {tmp_path / 'exploded'}\n".encode()).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    lines = ["%!PS-Adobe-3.0 EPSF-3.0", "%%BoundingBox: 0 0 9 9", "%%EndComments", "showpage", "%%EOF", ""]
    assert_refused("cannot be read as an image", seen, written(tmp_path / "a.png", "\n".join(lines).encode()))
    assert not (tmp_path / "exploded").exists()


# Any file


@needs_posix
def test_fault_17_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe into which nobody writes, a device without an end, and a folder."""
    pipe = tmp_path / "train-images.gz"
    os.mkfifo(pipe)
    assert_refused("has no file train-images", IDX, tmp_path)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        for said, read in (
            ("cannot be read as an image", seen),
            ("is not a file", read_table),
            ("cannot be read", encoded),
            ("cut off or damaged", all_of),
            ("cannot be read", read_vectors),
            ("is not a file", lambda path: ParallelFiles([path, path])),
        ):
            assert_refused(said, read, path)
    os.mkfifo(tmp_path / "manifest.json")
    assert_refused("manifest.json is missing", find, tmp_path, kinds=[CheckpointError])


@pytest.mark.parametrize("name", ["a" * 300, "a" * 5000, "a\0b", "\udcff"], ids=["long", "longer", "NUL", "not UTF-8"])
def test_fault_17_a_name_that_no_file_can_have(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def pair(path: Path) -> None:
        ParallelFiles([path, path])

    for read in (IDX, seen, read_table, encoded, all_of, pair, read_pairs, read_vectors):
        with pytest.raises(DataError):
            read(Path(name))
    with pytest.raises(CheckpointError):
        find(name)
    with pytest.raises(ConfigError):
        load_plugins([name])
    with pytest.raises(ConfigError):
        compose(["model=mlp"], [name])


# Tables

CSV = [b"x,colour,y\n1,red,2\n2,blue,0.5\n3,red,-1e3\n4,red,0\n5,blue,1\n6,red,1\n", b"x\ty\n0\t0\n1\t1\n" * 3]
CSV += [
    b'\xef\xbb\xbfx;y\r\n1;"a;\r\nb"\r\n2;yes\r\n3;no\r\n',
    b"y\n1\n0\n",
    b"x,y\n1,true\n2,false\n3,True\n4,FALSE\n",
]
X, Y = npy("(6, 2)", "'<f4'", bytes(48)), npy("(6,)", "'|u1'", bytes([0, 1] * 3), version=2)
NPZ = [zipped({"x.npy": X, "y.npy": Y}), saved(x=np.arange(6.0, dtype=">f4"), y=np.array([True, False] * 3))]
NPZ += [saved(x=np.arange(6.0), pixels=np.arange(12, dtype=np.int16).reshape(6, 2), y=np.array(list("ababab")))]
ROWS = npy("(6,)", "'<f8'", bytes(48))


def read_as_table(path: Path, task: Any = "regression") -> None:
    data = Table(path, ["y"], task, eval_share=0.2, test_share=0.2)
    for split in filter(data.has, ("train", "eval", "test")):
        assert all(part.isfinite().all() for part in data.split(split))
    assert read_inputs(path, data.describe()).isfinite().all()


@many
@given(spoilt(CSV), st.sampled_from(TASKS))
def test_fault_17_any_bytes_for_a_csv(tmp_path: Path, content: bytes, task: str) -> None:
    path = written(tmp_path / "a.csv", content)
    refusal_of(lambda: read_as_table(path, task))


@many
@given(spoilt(NPZ), spoilt([X, Y]), st.booleans(), st.sampled_from(TASKS))
def test_fault_17_any_bytes_for_an_npz(tmp_path: Path, whole: bytes, array: bytes, inside: bool, task: str) -> None:
    """Of the archive, or of an array in one that is whole."""
    path = written(tmp_path / "a.npz", zipped({"x.npy": array, "y.npy": Y}) if inside else whole)
    refusal_of(lambda: read_as_table(path, task))


SAID_OF_CSV = {
    b'x,y,"a\nb\x1b[2J"\n1,2,3\n': "1 usable rows",
    b'"a\nb\x1b[2J"\n1\n': "no column y; it has a b?[2J",
    b"x,y\n1,2\n2,\0\n": "line 3, holds a NUL byte",
    b"\0x,y\n1,2\n": "line 1, holds a NUL byte",
    b"x,y,x\n1,2,3\n": "has 2 columns called 'x'",
    b"x,y\n1,1e308\n2,-1e308\n3,1e308\n4,1\n": "column 'y' has numbers too large",
    b"x,y\n1e308,1\n1e308,1\n1e308,2\n1e308,2\n": "column 'x' has numbers too large",
    b"y\n1\n2\n3\n4\n": "no column besides those of data.targets",
    b'x,y\n1,"' + b"a" * 140_000 + b'"\n': "line 2: field larger than field limit",
    b'x,y\n1,2\n2,"a\nb\r\n\x1b[2J"\n3,4\n4,5\n': "line 3: 'a b ?[2J' in column 'y' is not a number",
    b"x,y\n" + b"".join(b"t%d,1\n" % i for i in range(2000)): "column 'x' has 1200 categories; it takes up to 1,000",
}


@pytest.mark.parametrize("content", SAID_OF_CSV, ids=SAID_OF_CSV.values())
def test_fault_17_what_is_said_of_a_csv(content: bytes, tmp_path: Path) -> None:
    assert_refused(SAID_OF_CSV[content], read_as_table, written(tmp_path / "a.csv", content))


def test_fault_17_one_long_cell_does_not_make_the_others_long(tmp_path: Path) -> None:
    """All three columns would take a gigabyte as texts of one width."""
    content = b"x,text,y\n" + b"".join(b"%d,a,1\n" % i for i in range(3000)) + b"1," + b"b" * 100_000 + b",2\n"
    path = written(tmp_path / "a.csv", content)
    assert refusal_of(lambda: Table(path, ["y"], "regression")) is None
    assert_refused("no column z", Table, path, ["z"], "regression")


def test_fault_17_a_csv_that_cannot_be_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "open", lambda *_, **__: BrokenDisk(CSV[0]), raising=False)
    assert_refused("Input/output error", read_table, written(tmp_path / "a.csv", CSV[0]))


@pytest.mark.parametrize("end", ["csv", "npz", "png", "zip"])
def test_fault_20_memory_that_runs_out_in_a_reader_is_not_said_to_be_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    def run_out(*_: Any, **__: Any) -> Any:
        raise MemoryError

    for name in ("dlref.data.supervised.table_files.read_up_to", "PIL.Image.open", "zipfile.ZipFile.infolist"):
        monkeypatch.setattr(name, run_out)
    content = {"csv": CSV[0], "npz": saved(x=np.ones(3)), "png": picture("PNG"), "zip": zipped({"a": b"a"})}[end]
    read = {"png": seen, "zip": all_of}.get(end, read_table)
    with pytest.raises(MemoryError):
        read(written(tmp_path / f"a.{end}", content))


class BrokenDisk(io.BytesIO):
    """A file that gives its content, and no end of it."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(size) or broken_disk()

    read1 = read


def broken_disk(*_: Any, **__: Any) -> Any:
    raise OSError(5, "Input/output error")


def test_fault_17_rows_that_the_training_table_did_not_have(tmp_path: Path) -> None:
    about = Table(written(tmp_path / "a.csv", CSV[0]), ["y"], "regression", eval_share=0.0, test_share=0.0).describe()
    path = tmp_path / "b.csv"
    for content, said in (
        (
            b"x,colour\nred,red\n",
            "line 2: 'red' in column 'x' is not a number; correct it, since this column was numeric",
        ),
        (b"x,colour\n1e300,red\n", "1e+300 in column 'x' is too far from the training rows"),
        (b"colour\nred\n", "has no column x"),
    ):
        assert_refused(said, read_inputs, written(path, content), about)
    rows = read_inputs(written(path, b"x,colour\n1,1\n2,\x1b[2J\n"), about)
    assert torch.equal(rows[:, 1:], torch.zeros(2, 2))


LYING = {
    "more rows": npy("(2147483647,)", "'<f8'", bytes(48)),
    "more rows than numbers have": npy(f"({2**70},)", "'<f8'", bytes(48)),
    "more columns": npy("(6, 2147483647)", "'<f8'", bytes(48)),
    "columns without end": npy("(1, 1000000)", "'|u1'", bytes(10**6)),
    "a negative number": npy("(-6,)", "'<f8'", bytes(48)),
    "two negative numbers": npy("(-2, -3)", "'<f8'", bytes(48)),
    "no rows": npy("(0, 2147483647)", "'<f8'"),
    "a number alone": npy("()", "'<f8'", bytes(8)),
    "three dimensions": npy("(1, 2, 3)", "'<f8'", bytes(48)),
    "texts of no letters": npy("(1099511627776,)", "'<U0'"),
    "texts of many letters": npy("(6,)", "'<U2147483'", bytes(48)),
    "letters that are none": npy("(2,)", "'<U1'", struct.pack("<II", 0x110000, 65)),
    "halves of letters": npy("(2,)", "'>U1'", struct.pack(">II", 0xD800, 65)),
    "arrays for cells": npy("(1,)", "'(1000000,1000000)f8'", bytes(48)),
    "named parts": npy("(1,)", "[('a', '<f8'), ('b', '<f8')]", bytes(16)),
    "complex numbers": npy("(3,)", "'<c16'", bytes(48)),
    "dates": npy("(6,)", "'<M8[s]'", bytes(48)),
    "objects": npy("(6,)", "'|O'", pickle.dumps(list(range(6)))),
    "a long header": b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"(" * 50_000,
    "a nested header": npy("(" * 3000, "'<f8'", bytes(48)),
    "an unknown version": npy("(6,)", "'<f8'", bytes(48), version=9),
    "keys of several kinds": b"\x93NUMPY\1\0" + struct.pack("<H", 30) + b"{1: 2, 'a': 3}".ljust(30),
    "a call": b"\x93NUMPY\1\0" + struct.pack("<H", 40) + b"__import__('os').system('true')".ljust(40),
    "too little": npy("(6,)", "'<f8'", bytes(47)),
    "too much": npy("(6,)", "'<f8'", bytes(49)),
    "a picture": picture("PNG"),
    "nothing": b"",
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("what", LYING)
def test_fault_17_arrays_that_are_not_what_they_say(tmp_path: Path, what: str, method: int) -> None:
    path = written(tmp_path / "a.npz", zipped({"x.npy": LYING[what], "y.npy": ROWS}, method))
    assert_refused("a.npz cannot be read as NPZ", read_table, path)


SAID_OF_NPZ: list[tuple[str, dict[str, bytes], int]] = [
    ("2 columns called 'x'", {"x.npy": ROWS, "x": ROWS}, zipfile.ZIP_DEFLATED),
    ("2 columns called 'x.0'", {"x.0.npy": ROWS, "x.npy": npy("(6, 1)", "'<f8'", bytes(48))}, zipfile.ZIP_DEFLATED),
    (
        "column 'x' has 6 rows and column 'y' 1",
        {"x.npy": ROWS, "y.npy": npy("(1,)", "'|u1'", b"1")},
        zipfile.ZIP_DEFLATED,
    ),
    ("has no rows", {}, zipfile.ZIP_DEFLATED),
    ("another method than deflate", {"x.npy": ROWS}, zipfile.ZIP_BZIP2),
    ("another method than deflate", {"x.npy": ROWS}, zipfile.ZIP_LZMA),
]


@pytest.mark.parametrize(("said", "members", "method"), SAID_OF_NPZ, ids=[said for said, *_ in SAID_OF_NPZ])
def test_fault_17_what_is_said_of_an_npz(said: str, members: dict[str, bytes], method: int, tmp_path: Path) -> None:
    assert_refused(said, read_table, written(tmp_path / "a.npz", zipped(members, method)))


def test_fault_17_an_array_alone_is_no_npz(tmp_path: Path) -> None:
    assert_refused("cannot be read as NPZ", read_table, written(tmp_path / "a.npz", ROWS))


@pytest.mark.parametrize(
    "name", ["../../etc/x.npy", "/x.npy", "", "a\nb\x1b[2J.npy", "\u202e.npy", "x" * 60_000], ids=range(6)
)
def test_fault_14_names_in_an_archive_are_names_of_columns(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", zipped({name: ROWS}))
    assert list(read_table(path)) == [name.removesuffix(".npy")]
    assert_refused("has no column y", Table, path, ["y"], "numbers")
    assert os.listdir(tmp_path) == ["a.npz"]


def announcing(archive: bytes, size: int) -> bytes:
    """An archive whose directory says that its last member is so large."""
    place = archive.rfind(b"PK\1\2") + 20
    return archive[:place] + struct.pack("<II", size, size) + archive[place + 8 :]


def test_fault_14_members_that_announce_more_than_there_is(tmp_path: Path) -> None:
    for size in (2**31 - 1, 2**32 - 2):
        table = announcing(zipped({"x.npy": ROWS}, zipfile.ZIP_STORED), size)
        assert_refused("announces more than there is", read_table, written(tmp_path / "a.npz", table))
        text = announcing(zipped({"a": b"a" * 100}, zipfile.ZIP_STORED), size)
        assert_refused("announces more than there is", all_of, written(tmp_path / "a.zip", text))


@pytest.mark.slow
def test_fault_17_what_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of a compressed file: a large plain one is large."""
    table = written(tmp_path / "a.npz", zipped({"x.npy": npy(f"({2**21},)", "'<f8'", bytes(2**24))}))
    assert len(read_table(table)["x"].cells) == 2**21
    monkeypatch.setattr(safe_io, "SMALL", 2**20)
    assert_refused("unpacks to 16,777,216 bytes", read_table, table)
    column = npy(f"({2**15},)", "'<f8'", bytes(2**18))
    assert len(read_table(written(table, zipped({"0.npy": column, "1.npy": column})))) == 2
    table = written(table, zipped({f"{i}.npy": column for i in range(5)}))  # which are too much together
    assert_refused("array 4.npy unpacks to 262,144 bytes", read_table, table)
    content = b"a \n" * 2**20
    for name, whole in (("a.gz", packed(content)), ("a.zip", zipped({"a": content}))):
        assert_refused("unpacks to more than 1,048,576 bytes", all_of, written(tmp_path / name, whole), most=2**24)
    assert sum(map(len, text_chunks(written(tmp_path / "a.txt", content)))) == len(content)
    vectors = packed(b"9999999 1\n" + b"a 0\n" * 2**19)
    most = 2**27  # for the words that were read until then
    assert_refused("unpacks to more than 1,", read_vectors, written(tmp_path / "a.txt.gz", vectors), most=most)


def test_fault_09_objects_in_a_table_are_not_unpickled(tmp_path: Path) -> None:
    path, marker, objects = tmp_path / "a.npz", tmp_path / "exploded", np.empty(2, dtype=object)
    objects[:] = [bomb(marker), 1]
    pickled, honest = pickle.dumps(bomb(marker)), npy("(2,)", "'<f8'", bytes(16))
    for content in (
        zipped({"x.npy": pickled, "y.npy": honest}),
        zipped({"x.npy": npy("(2,)", "'|O'", pickled), "y.npy": honest}),
        zipped({"x.npy": npy("(2,)", "[('a', '|O')]", pickled), "y.npy": honest}),
        saved(x=objects, y=np.arange(2)),
        pickled,
    ):
        assert_refused("cannot be read as NPZ", read_as_table, written(path, content))
    assert not marker.exists()
    np.load(path, allow_pickle=True)
    assert marker.exists(), "the bomb is one"


# Texts

TEXT = [b"The cat, the dog .\n\n the <unk> cow\n" * 9, "Füße ▁ naïve\r\n“x” 中中\n".encode() * 5]
PACKED = [*map(packed, TEXT), *(zipped({"a": text}) for text in TEXT), zipped({"a": TEXT[0]}, zipfile.ZIP_STORED)]


@many
@given(st.data(), st.sampled_from([("a.txt", TEXT), ("a.txt.gz", PACKED), ("a.zip", PACKED)]))
def test_fault_17_any_bytes_for_a_text(tmp_path: Path, data: st.DataObject, named: tuple[str, list[bytes]]) -> None:
    path = written(tmp_path / named[0], data.draw(spoilt(named[1])))

    def read() -> None:
        text = "".join(text_chunks(path))
        assert text.encode().decode() == text
        assert "\0" not in text

    refusal_of(read)


@some
@given(spoilt(TEXT), st.sampled_from(LEVELS))
def test_fault_17_any_text_is_encoded_or_refused(tmp_path: Path, content: bytes, level: str) -> None:
    path = written(tmp_path / "a.txt", content)

    def read() -> None:
        found = encoded(path, level)
        assert all(ids.max() < len(found.vocabulary) for ids in found.splits.values() if len(ids))

    refusal_of(read, DataError, *([ConfigError] if level == "bpe" else []))  # the number of pieces is a setting


@some
@given(st.data(), st.sampled_from(LEVELS), st.booleans())
def test_fault_17_any_two_texts_for_pairs(tmp_path: Path, data: st.DataObject, level: Any, lowercase: bool) -> None:
    files = [written(tmp_path / name, data.draw(spoilt(TEXT))) for name in ("a.de", "a.en")]
    if data.draw(st.booleans()):  # as many lines of both
        files[1].write_bytes(b"\n".join(files[0].read_bytes().split(b"\n")[::-1]))

    def read() -> None:
        pairs = ParallelFiles(files, level=level, min_freq=1, bpe_vocab_size=60, lowercase=lowercase, batch_size=4)
        for split in filter(pairs.has, ("train", "eval", "test")):
            for source, _ in pairs.texts(split):
                pairs.source.decode(pairs.source.encode([source])[0][0])

    refusal_of(read, DataError, *([ConfigError] if level == "bpe" else []))


def test_fault_17_texts_of_nothing_and_files_that_lack_their_other_side(tmp_path: Path) -> None:
    blank = written(tmp_path / "blank.txt", b" \n\n\t\n")
    assert_refused("holds no text", encode, {"train": blank}, "bpe")
    assert_refused("holds no text", ParallelFiles, [blank, blank])
    assert_refused("names 1 files; it takes two", ParallelFiles, [blank], kinds=[ConfigError])


def test_fault_17_a_text_that_cannot_be_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.txt", TEXT[0])
    monkeypatch.setattr(text_files, "open_text", lambda _: BrokenDisk(TEXT[0]))
    assert_refused("is cut off or damaged ([Errno 5] Input/output error)", encode, {"train": path}, "words")
    monkeypatch.setattr(text_files, "sha256", broken_disk)
    assert_refused("cannot be read (Input/output error)", encode, {"train": path}, "words")


SAID_OF_ZIP: list[tuple[str, dict[str, bytes], int]] = [
    ("another method than deflate", {"a": b"a" * 100}, zipfile.ZIP_BZIP2),
    ("another method than deflate", {"a": b"a" * 100}, zipfile.ZIP_LZMA),
    ("holds 2 files", {"a": b"a", "": b""}, zipfile.ZIP_DEFLATED),
    ("holds 0 files", {}, zipfile.ZIP_DEFLATED),
    ("not UTF-8", {"a\n/../../b": b"\xff"}, zipfile.ZIP_DEFLATED),
]


@pytest.mark.parametrize(("said", "members", "method"), SAID_OF_ZIP)
def test_fault_14_archives_that_are_no_text(said: str, members: dict[str, bytes], method: int, tmp_path: Path) -> None:
    assert_refused(said, all_of, written(tmp_path / "a.zip", zipped(members, method)))


def test_fault_14_an_encrypted_archive_is_named(tmp_path: Path) -> None:
    content = bytearray(zipped({"a": b"a" * 100}))
    content[content.find(b"PK\3\4") + 6] |= 1
    content[content.rfind(b"PK\1\2") + 8] |= 1
    assert_refused("encrypted", all_of, written(tmp_path / "a.zip", bytes(content)))


def test_fault_17_a_cache_that_somebody_else_has_written_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLREF_CACHE", str(tmp_path / "cache"))
    path = written(tmp_path / "a.txt", TEXT[0])
    words = encoded(path).vocabulary.words
    (about,) = (tmp_path / "cache").glob("*/about.json")
    honest = json.loads(about.read_text())
    for change in (
        {"words": ["a"]},
        {"words": 3},
        {"words": [1, 2]},
        {"tokenizer": {"level": "bpe", "model": "AAAA"}},
        {"tokenizer": {"level": "bytes", "model": None}},
        {"lengths": {"../../x": 3}},
    ):
        about.write_text(json.dumps(honest | change))
        assert encoded(path).vocabulary.words == words


NO_TOKENIZERS: list[Any] = [{}, [], None, {"level": "words"}, {"level": "lines", "model": None}]
NO_TOKENIZERS += [{"level": ["words"], "model": None}, {"level": "words", "model": "AAAA"}]
NO_TOKENIZERS += [{"level": "bpe", "model": model} for model in (None, "", "AAAA", "no base64", 3, "\ud800")]


@pytest.mark.parametrize("description", NO_TOKENIZERS, ids=repr)
def test_fault_09_what_describes_no_tokenizer_is_refused(description: Any) -> None:
    assert_refused("tokenizer is damaged", Tokenizer.described, description, kinds=[CheckpointError])


@some
@given(spoilt([learn_bpe(iter(["a few words of a language"] * 9), 20)]))
def test_fault_09_any_bytes_for_a_sentencepiece_model(content: bytes) -> None:
    description = {"level": "bpe", "model": base64.b64encode(content).decode()}
    refusal_of(lambda: Tokenizer.described(description)("a few\nwords 中"), CheckpointError)


@pytest.mark.parametrize(
    "words", [["a"], ["<unk>", "<unk>"], [["<unk>"]], ["<unk>", 3], 3, None, {"<unk>": 0}], ids=repr
)
def test_fault_18_what_is_no_vocabulary_is_refused(words: Any) -> None:
    assert_refused("a vocabulary", Vocabulary, words)


def test_fault_17_a_torchtext_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchtext.data.utils", None)
    assert_refused("pip install torchtext==0.6.0", Tokenizer, "english", kinds=[ConfigError])


# Vectors


@many
@given(st.data(), st.sampled_from(["a.txt", "a.bin", "a.txt.gz", "a.bin.gz"]))
def test_fault_17_any_bytes_for_vectors(tmp_path: Path, data: st.DataObject, name: str) -> None:
    path = tmp_path / name
    write_vectors(path, ["the", "naïve", "中"], torch.tensor([[0.5, -1e20], [1e-20, 0.0], [1.0, 2.0]]))
    path.write_bytes(data.draw(spoilt([path.read_bytes()])))

    def read() -> None:
        words, vectors = read_vectors(path)
        assert vectors.shape[0] == len(words)
        assert vectors.isfinite().all()

    refusal_of(read)


@pytest.mark.parametrize("name", ["a.txt", "a.bin", "a.bin.gz"])
@pytest.mark.parametrize(
    "head",
    ["2147483647 2", "999999999999999999 100000", "3 100000", "3 9999999999", "-1 2", "3 -2", "0 0", "³ 2", "3\x002 2"],
)
def test_fault_17_sizes_that_a_header_of_vectors_makes_up(tmp_path: Path, head: str, name: str) -> None:
    content = f"{head}\na ".encode() + bytes(8) + b"\nb 1 2\n"
    path = written(tmp_path / name, packed(content) if name.endswith("gz") else content)
    assert_refused(str(path), read_vectors, path)


# Checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of one step of networks that read a table, images and text."""
    home = tmp_path_factory.mktemp("trained")
    folder_of(home, FOUR | {"rows.csv": CSV[0], "a.txt": TEXT[0]})
    of_table = [
        "model=mlp",
        "data=table",
        f"data.file={home / 'rows.csv'}",
        "data.targets=[colour]",
        "data.task=classification",
    ]
    of_images = ["model=mlp", "data=idx", f"data.folder={home}", "data.eval_size=1"]
    of_text = ["model=lstm_lm", "network.width=4", "data=text", f"data.train={home / 'a.txt'}", "data.level=bpe"]
    lines = {
        "table": [*of_table, "network.widths=[5]"],
        "images": [*of_images, "network.widths=[5]"],
        "text": [*of_text, "data.bpe_vocab_size=30", "data.batch_size=2", "data.seq_len=3"],
    }
    for name, line in lines.items():
        settings = ["device=cpu", "threads=1", "~reports", "trainer.max_steps=1", f"run_dir={home / name}"]
        assert main(["train", *line, *settings]) == 0
    return {name: find(home / name).path for name in lines}


@pytest.fixture
def copy(trained: dict[str, Path], tmp_path: Path) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """One of these, over the one before, and what its manifest says."""

    def one(name: str) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path / "checkpoint"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trained[name], folder)
        return folder, json.loads((folder / "manifest.json").read_text())

    return one


Copy = Callable[[str], tuple[Path, dict[str, Any]]]


def say(checkpoint: Path, manifest: Any, **files: str) -> None:
    """Write a manifest that is whole, as anybody can who can write there."""
    manifest = (manifest if isinstance(manifest, dict) else {}) | {"files": hashes_of(checkpoint) | files}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"sha256": manifest_digest(manifest)}))


@many
@given(st.data())
def test_fault_07_any_bytes_for_a_manifest(trained: dict[str, Path], tmp_path: Path, data: st.DataObject) -> None:
    honest = (trained["table"] / "manifest.json").read_bytes()
    written(tmp_path / "manifest.json", data.draw(spoilt([honest, b'{"format": 1}'])))
    assert refusal_of(lambda: open_checkpoint(tmp_path), CheckpointError) is not None


@many
@given(st.data(), st.sampled_from(["table", "images", "text"]), st.sampled_from(["config", "sizes", "network", "all"]))
def test_fault_09_a_whole_manifest_that_says_anything(copy: Copy, data: st.DataObject, name: str, part: str) -> None:
    folder, honest = copy(name)
    if part == "network":
        changed = honest | {"config": honest["config"] | {"network": data.draw(misspoken(honest["config"]["network"]))}}
    else:
        changed = data.draw(misspoken(honest)) if part == "all" else honest | {part: data.draw(misspoken(honest[part]))}
    say(folder, changed)
    refusal_of(lambda: dlref.load(folder), CheckpointError, ResourceError)


MADE_UP: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("this network takes 20,480.0 GiB or more and", {"inputs": 2**40}, {}),
    ("memory", {"inputs": 2**62}, {}),
    *[(f"a size is {size!r}", {"inputs": size}, {}) for size in (-1, True, "2", 2**63, 2.0)],
    ("this network takes 1,048,576.4 GiB or more and", {}, {"widths": [2**24, 2**24]}),
    ("GiB are free", {}, {"widths": [2**31 - 1]}),
    ("no negative number", {}, {"widths": [-1]}),
    ("finite", {}, {"widths": [[float("nan")]]}),
    ("refused", {}, {"_target_": "os.system"}),
    ("refused", {}, {"_target_": "x\n" * 1000}),
    ("is not a setting", {}, {"a\nb": 1}),
]


@pytest.mark.parametrize(("said", "sizes", "network"), MADE_UP)
def test_fault_09_sizes_that_a_manifest_makes_up(
    said: str, sizes: dict[str, Any], network: dict[str, Any], copy: Copy
) -> None:
    folder, honest = copy("table")
    config = honest["config"] | {"network": honest["config"]["network"] | network}
    say(folder, honest | {"sizes": honest["sizes"] | sizes, "config": config})
    assert_refused(said, dlref.load, folder, kinds=[CheckpointError, ResourceError])


@pytest.mark.parametrize(
    ("name", "network", "said"),
    [
        ("text", {"layers": 2**31 - 1}, "it takes at most 20,000"),
        ("text", {"layers": 10_000}, "more than 20,000 parts"),
        pytest.param("table", {"widths": [1] * 30_000}, "more than 20,000 parts", marks=pytest.mark.slow),
    ],
    ids=["more than a list holds", "many", "listed"],
)
def test_fault_09_a_network_of_endless_layers_is_not_built(
    name: str, network: dict[str, Any], said: str, copy: Copy
) -> None:
    folder, honest = copy(name)
    say(folder, honest | {"config": honest["config"] | {"network": honest["config"]["network"] | network}})
    sentence = refusal_of(lambda: dlref.load(folder), CheckpointError)
    assert sentence is not None
    assert said in sentence


def test_fault_09_an_environment_that_names_a_module_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `module:Env-v0` gymnasium takes one; only `plugins=` on a command line names code."""
    run, line = tmp_path / "run", [*SMALL["dqn"], "~reports", "trainer.max_steps=1", "device=cpu"]
    assert main(["train", *line, f"run_dir={run}"]) == 0
    folder = find(run).path
    honest = json.loads((folder / "manifest.json").read_text())
    written(tmp_path / "evil_environment.py", f"open({str(tmp_path / 'exploded')!r}, 'w')".encode())
    monkeypatch.syspath_prepend(tmp_path)
    evil = {"env": "evil_environment:CartPole-v1"}
    for change in (
        {"data": honest["data"] | evil},
        {"config": honest["config"] | {"data": honest["config"]["data"] | evil}},
    ):
        say(folder, honest | change)
        for name in ("play", "evaluate"):
            code = main([name, str(folder)])
            assert code == 4 or (name, "config" in change) == ("play", True)  # which looks at the description alone
    capsys.readouterr()
    assert main(["train", *line, "data.env=evil_environment:CartPole-v1", f"run_dir={tmp_path / 'other'}"]) == 2
    assert "names a module; import it in a file that plugins= names" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()
    import evil_environment  # type: ignore[import-not-found]  # noqa: F401

    assert (tmp_path / "exploded").exists(), "the module is one"


@pytest.mark.parametrize("part", ["config", "network", "sizes", "data", "step"])
def test_fault_09_a_manifest_that_lacks_a_part(part: str, copy: Copy) -> None:
    folder, honest = copy("table")
    del (honest["config"] if part == "network" else honest)[part]
    say(folder, honest)
    assert_refused("manifest.json", dlref.load, folder, kinds=[CheckpointError])


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../weights.pt", "/etc/passwd", "a\nb", "a\0b", "\ud800", "x" * 300, "folder"]
)
def test_fault_09_files_that_a_manifest_names(name: str, copy: Copy) -> None:
    folder, honest = copy("table")
    say(folder, honest, **{name: hashlib.sha256(b"").hexdigest()})
    (folder / "folder").mkdir()
    assert_refused("use another checkpoint", open_checkpoint, folder, kinds=[CheckpointError])


def test_fault_07_what_else_is_said_of_a_checkpoint(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(trained["table"])
    assert_refused("has no training.pt; it has weights.pt", checkpoint.read, "training.pt", kinds=[CheckpointError])
    written(tmp_path / "manifest.json", json.dumps({"format": "2\n3"}).encode())
    assert_refused(r"is of format '2\n3', this dlref reads 1", open_checkpoint, tmp_path, kinds=[CheckpointError])
    monkeypatch.setattr("dlref.training.checkpoint.file_digest", broken_disk)
    assert_refused("Input/output error", open_checkpoint, trained["table"], kinds=[CheckpointError])


def test_fault_07_a_folder_that_is_numbered_oddly_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("step-²", "step-", "step-x", "best-1e3"):
        (tmp_path / name).mkdir()
    assert Checkpoints(tmp_path).newest("step") is None
    assert Checkpoints(tmp_path).newest("best") is None


@needs_posix
def test_fault_07_a_link_to_a_checkpoint_goes_without_what_it_points_at(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "step-00000009").symlink_to(trained["table"])
    (tmp_path / ".step-00000009").symlink_to(trained["table"])
    Checkpoints(tmp_path).forget_after(3)
    assert not list(tmp_path.iterdir())
    assert open_checkpoint(trained["table"]).step == 1


@needs_posix
@pytest.mark.parametrize("what", ["os.replace", "torch.save", "pathlib.Path.mkdir"])
def test_fault_10_a_save_that_fails_leaves_nothing_behind(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest: dict[str, Any] = {"config": {}, "overrides": [], "sizes": {}, "data": {}, "ranks": 1, "versions": {}}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save("step", 1, manifest, {"rank-0.pt": 1}, {"weights.pt": {}})
    with monkeypatch.context() as patched:
        patched.setattr(what, broken_disk)
        with pytest.raises(ResourceError, match="Input/output error"):
            checkpoints.save("step", 2, manifest, {"rank-0.pt": 1})
    checkpoints.save("step", 1, manifest, {"rank-0.pt": 2})  # again
    assert find(tmp_path / "checkpoints" / "last").read("rank-0.pt") == 2
    (tmp_path / "checkpoints" / "last").unlink()
    (tmp_path / "checkpoints" / "last").symlink_to("gone")
    assert find(tmp_path / "checkpoints" / "last").step == 1
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last", "step-00000001"]


def test_fault_10_a_rank_that_cannot_save_says_so_and_leaves_the_folder_to_the_first(tmp_path: Path) -> None:
    second = Checkpoints(tmp_path, rank=1)
    with pytest.raises(ResourceError, match="No such file"):  # as the first has not made the folder
        second.save("step", 1, {}, {"rank-1.pt": 1})
    (tmp_path / ".step-00000001").mkdir()
    second.save("step", 1, {}, {"rank-1.pt": 1})
    assert [path.name for path in tmp_path.rglob("*")] == [".step-00000001", "rank-1.pt"]
    Checkpoints(tmp_path).forget_after(1)
    assert not list(tmp_path.iterdir())


def changed(
    archive: bytes, method: int, change: Callable[[str, bytes], bytes], rename: Callable[[str], str] = str
) -> bytes:
    """An archive of torch's with its members changed."""
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        return zipped({rename(name): change(name, members.read(name)) for name in members.namelist()}, method)


@many
@given(st.data(), st.sampled_from(["", "data.pkl", "data/0"]))
def test_fault_09_any_bytes_for_weights(copy: Copy, tmp_path: Path, data: st.DataObject, part: str) -> None:
    """Of the file, or of a member of an archive that is whole."""
    folder, manifest = copy("table")
    honest = (folder / "weights.pt").read_bytes()
    evil = pickle.dumps({"net.a": bomb(tmp_path / "exploded")}, protocol=2)

    def spoil(name: str, content: bytes) -> bytes:
        return data.draw(spoilt([content, evil])) if name.endswith(part) else content

    written(folder / "weights.pt", changed(honest, zipfile.ZIP_STORED, spoil) if part else spoil("", honest))
    say(folder, manifest)
    refusal_of(lambda: dlref.load(folder), CheckpointError)
    assert not (tmp_path / "exploded").exists()


def torch_file(content: Any, **settings: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


def more(_: str, content: bytes) -> bytes:
    """A pickle that says 2**31 - 1 instead of 10."""
    return content.replace(b"K\n", b"J\xff\xff\xff\x7f")


TEN = {"net.a": torch.arange(10.0)}
GROWING = {
    "compressed": changed(torch_file(TEN), zipfile.ZIP_DEFLATED, lambda _, content: content),
    "of the older format": more("", torch_file(TEN, _use_new_zipfile_serialization=False)),
    "bytes out of nothing": torch_file({"net.a": Call(bytearray, 2**30)}),
    "numbers out of nothing": torch_file({"net.a": Call(torch.Tensor, 2**27)}),
    "a storage out of nothing": torch_file({"net.a": Call(torch.UntypedStorage, 2**30)}),
    "bytes that double": torch_file({"net.a": Call(codecs.encode, Call(codecs.encode, b"a", "hex"), "hex")}),
    "under a name in capitals": changed(
        torch_file({"net.a": Call(bytearray, 2**30)}), zipfile.ZIP_STORED, lambda _, part: part, str.upper
    ),
    "announced to be large": announcing(changed(torch_file(TEN), zipfile.ZIP_STORED, lambda _, part: part), 2**31),
}
NO_WEIGHTS = {
    "more numbers than there are": changed(torch_file(TEN), zipfile.ZIP_STORED, more),
    "one number for many": torch_file({"net.a": torch.zeros(1).expand(10**9)}),
    "a number": torch_file({"net.a": 3}),
    "without names": torch_file({3: torch.zeros(3)}),
    "a list": torch_file([torch.zeros(3)]),
}


@pytest.mark.parametrize("what", [*GROWING, *NO_WEIGHTS])
def test_fault_09_weights_that_are_larger_than_their_file(
    what: str, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch, which takes memory that nobody here counts, is not even asked to read those that grow."""
    folder, manifest = copy("table")
    written(folder / "weights.pt", (GROWING | NO_WEIGHTS)[what])
    say(folder, manifest)
    asked: list[Any] = []
    if what in GROWING:
        monkeypatch.setattr(torch, "load", lambda *given, **_: asked.append(given))
    assert_refused("other than tensors and plain values", dlref.load, folder, kinds=[CheckpointError])
    assert not asked


def test_fault_09_torch_is_asked_for_data_alone(trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the look at the file beforehand has let through."""
    load, asked = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *given, **how: asked.append(how) or load(*given, **how))
    dlref.load(trained["table"])
    assert [how["weights_only"] for how in asked] == [True]


def test_fault_09_plain_values_of_every_kind_are_read(copy: Copy) -> None:
    """What refusing the others must not cost."""
    folder, manifest = copy("table")
    plain = [{1}, 2j, None, True, 2**70, torch.Size([3]), torch.device("cpu"), torch.float16, (1, [2.5, "x"])]
    dtypes = ["bool", "uint8", "int16", "int64", "float16", "bfloat16", "float64", "complex64"]
    kept = {"plain": plain, "tensors": [torch.zeros(3, dtype=getattr(torch, name)) for name in dtypes]}
    kept |= {"view": [torch.arange(12.0).reshape(3, 4).T[1:, ::2]], "parameter": [torch.nn.Parameter(torch.ones(2))]}
    torch.save(kept, folder / "training.pt")
    say(folder, manifest)
    found = open_checkpoint(folder).read("training.pt")
    assert found["plain"] == plain
    for part in ("tensors", "view", "parameter"):
        assert all(map(torch.equal, found[part], kept[part]))


# What a checkpoint says of the files that its network reads


def file_for(name: str, folder: Path) -> str:
    content = {"table": CSV[0], "images": DRAWN[0]}[name]
    return str(written(folder / {"table": "a.csv", "images": "a.png"}[name], content))


@some
@given(st.data(), st.sampled_from(["table", "images"]))
def test_fault_29_a_description_that_says_anything(copy: Copy, tmp_path: Path, data: st.DataObject, name: str) -> None:
    folder, honest = copy(name)
    say(folder, honest | {"data": data.draw(misspoken(honest["data"]))})
    file = file_for(name, tmp_path)
    refusal_of(lambda: predict(str(folder), [file], False, []), CheckpointError, DataError)


SENSELESS: list[tuple[str, dict[str, Any]]] = [
    ("images", {"shape": [10**6, 10**6]}),
    ("images", {"shape": [0, 5]}),
    ("images", {"shape": "45"}),
    ("images", {"shape": [5, 4, 3]}),
    ("images", {"shape": [7, 7]}),
    ("images", {"mean": "x"}),
    ("images", {"classes": []}),
    ("images", {"permutation": "x"}),
    ("table", {"columns": []}),
    ("table", {"columns": [3]}),
    ("table", {"columns": [{"name": "x", "values": [["a"]]}]}),
    ("table", {"targets": []}),
    ("table", {"task": "regression", "targets": [{"name": "y", "std": "x"}] * 2}),
]


@pytest.mark.parametrize(("name", "said"), SENSELESS)
def test_fault_29_a_description_that_makes_no_sense(
    name: str, said: dict[str, Any], copy: Copy, tmp_path: Path
) -> None:
    folder, honest = copy(name)
    say(folder, honest | {"data": honest["data"] | said})
    given = str(folder), [file_for(name, tmp_path)], False, ()
    assert_refused("does not describe what its network reads", predict, *given, kinds=[CheckpointError])


READ = {
    "table": ["decimal", "missing", "na_values", "columns", "targets", "task", "classes", "columns 0 std"],
    "images": ["shape", "mean", "std", "classes"],
    "text": ["tokenizer level", "tokenizer model"],
}


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, places in READ.items() for place in places])
def test_fault_29_what_an_older_checkpoint_did_not_say(name: str, place: str, copy: Copy, tmp_path: Path) -> None:
    folder, manifest = copy(name)
    about, (*outer, key) = manifest["data"], place.split()
    for part in outer:
        about = about[int(part) if part.isdecimal() else part]
    del about[key]
    say(folder, manifest)
    said = f"does not say {key} of its data, which this dlref reads; "

    def generate() -> None:
        Tokenizer.described(dlref.load(folder).description["tokenizer"])  # type: ignore[index]

    def evaluate_it() -> None:
        evaluate(str(folder), [])

    if name == "text":
        assert_refused(said, generate, kinds=[CheckpointError])
    else:
        assert_refused(said, predict, str(folder), [file_for(name, tmp_path)], False, (), kinds=[CheckpointError])
    assert_refused(said, evaluate_it, kinds=[CheckpointError])


def test_fault_29_a_run_that_an_older_dlref_began_is_not_said_to_have_other_data(
    trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained["table"].parents[1], tmp_path / "run", symlinks=True)
    folder = find(run).path
    manifest = json.loads((folder / "manifest.json").read_text())
    whole = json.dumps(manifest)
    for lost in ("decimal", "std"):
        manifest = json.loads(whole)
        del (manifest["data"] if lost == "decimal" else manifest["data"]["columns"][0])[lost]
        say(folder, manifest)
        assert main(["train", f"resume={folder}", "trainer.max_steps=2"]) == 4
        assert f"does not say {lost} of its data, which this dlref reads" in capsys.readouterr().err


def test_a_column_of_another_kind_is_not_an_older_description(copy: Copy) -> None:
    folder, manifest = copy("table")
    numeric, checkpoint = manifest["data"]["columns"][0], open_checkpoint(folder)
    categories = {"name": numeric["name"], "values": ["1", "2"], "most_frequent": "1"}
    for other in (categories, numeric | {"name": "another", "more": 1}):
        checkpoint.require_described(manifest["data"] | {"columns": [other]})
    with pytest.raises(CheckpointError, match="does not say more of its data"):
        checkpoint.require_described(manifest["data"] | {"columns": [numeric | {"more": 1}]})


@pytest.mark.parametrize(
    ("commit", "said"), [("0123abcd", "; use the dlref that wrote it (commit 0123abcd), or train again"), (None, None)]
)
def test_the_commit_that_wrote_a_checkpoint_is_named_where_it_is_known(
    commit: str | None, said: str | None, copy: Copy
) -> None:
    folder, manifest = copy("table")
    say(folder, manifest | {"git_commit": commit})
    error = str(open_checkpoint(folder).of_another_version(["decimal"]))
    assert error.endswith(said or "which this dlref reads; train again")


def test_what_a_checkpoint_says_is_plain_values(copy: Copy, tmp_path: Path) -> None:
    folder, manifest = copy("table")
    description: Any = dlref.load(folder).description
    assert description == manifest["data"]
    assert description.get("nothing") is None
    torch.save(description, tmp_path / "about.pt")
    plain = torch.load(tmp_path / "about.pt", weights_only=True)
    assert plain == manifest["data"]
    nested = manifest["data"]
    for _ in range(900):
        nested["in"] = nested = {}
    say(folder, manifest)
    assert refusal_of(lambda: dlref.load(folder).description, CheckpointError)  # which asks for too much


@pytest.mark.parametrize("objective", [None, 3, {"_target_": None}, {"_target_": "os.system"}, {"a\nb": 3}], ids=repr)
def test_fault_29_an_objective_that_is_none(objective: Any, copy: Copy, tmp_path: Path) -> None:
    folder, honest = copy("table")
    section = honest["config"]["objective"] | objective if isinstance(objective, dict) else objective
    say(folder, honest | {"config": honest["config"] | {"objective": section}})
    given = str(folder), [file_for("table", tmp_path)], False, ()
    assert_refused("objective", predict, *given, kinds=[CheckpointError])


def test_fault_29_names_that_cannot_be_printed_are_spelled(
    copy: Copy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, honest = copy("images")
    say(folder, honest | {"data": honest["data"] | {"classes": ["\ud800"] * 3}})
    file = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    written(Path(file), DRAWN[0])
    assert main(["predict", str(folder), file]) == 0
    assert "caf\\udce9.png,\\ud800," in capfd.readouterr().out


# Configs and command lines


@pytest.fixture(scope="module")
def composed() -> dict[str, dict[str, Any]]:
    return {model: compose([f"model={model}"]) for model in ("mlp", "transformer_lm", "dqn")}


MODELS = st.sampled_from(["mlp", "transformer_lm", "dqn"])
SIZES = {"inputs": 2, "outputs": 3, "vocab_size": 11, "context": 7}


@many
@given(st.data(), MODELS)
def test_fault_22_a_config_that_says_anything(composed: dict[str, Any], data: st.DataObject, model: str) -> None:
    config = data.draw(misspoken(composed[model]).filter(lambda config: isinstance(config, dict)))
    refusal_of(lambda: config_check.normalized(config), ConfigError)


@pytest.mark.slow
@many
@given(st.data(), MODELS)
def test_fault_22_a_network_of_any_settings(composed: dict[str, Any], data: st.DataObject, model: str) -> None:
    config = composed[model] | {"network": data.draw(misspoken(composed[model]["network"]))}
    refusal_of(lambda: build.make_network(config, SIZES), ConfigError, ResourceError)


KEYS = ["network.widths", "optimizer.lr", "trainer.max_steps", "seed", "run_dir", "name", "data", "model", "experiment"]
KEYS += [
    "",
    "a.b",
    "~seed",
    "+a",
    "network",
    "hydra.run.dir",
    "hydra",
    "x" * 400,
    "++",
    "@",
    "a@b",
    "network..x",
    "[0]",
]
WORDS = [
    "",
    "3",
    "-1",
    "nan",
    "1e400",
    "9" * 5000,
    "abc",
    "[",
    "[1,2",
    "{a:",
    "{1: 2}",
    "${",
    "${seed}",
    "${oc.env:NO}",
]
WORDS += ["'", '"', "\\", "[" * 200 + "]" * 200, "a,b", "range(1,9)", "glob(*)", "???", "null", "true", "~", "\x1b[2J"]
WORDS += ["é中", "/tmp/x", "a=b", "#", "a: b"]


@few
@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from("==="), st.sampled_from(WORDS)), min_size=1, max_size=3)
)
def test_fault_22_any_settings_are_composed_or_refused(typed: list[tuple[str, str, str]]) -> None:
    overrides = ["".join(parts) for parts in typed]

    def read() -> None:
        config = compose(["model=mlp", *overrides])
        one_limit(config, overrides)
        config_check.check(config)

    refusal_of(read, ConfigError)


BREAKING = {
    "seed=" + "9" * 5000: "it takes a whole number",
    "network.widths=" + "[" * 3000 + "1" + "]" * 3000: "it takes a list",
    "network.unknown=" + "[" * 3000 + "1" + "]" * 3000: "does not fit",
    "network.widths={a: -3}": "does not fit",
    "x" * 400 + "=1": "is not a setting",
    "++network={1: 2}": "network.1 is not a setting",
    "network.widths=[[-3]]": "takes no negative number",
    "data.noise=[[nan]]": "takes a finite number",
    "seed={a: 99999999999999999999}": "below 2**63",
    "seed=" + "x" * 3000: "it takes a whole number",
    "model=a\nb": "can be printed",
    "network._target_=dlref.models.mlp.MLP\n": "can be printed",
    "a\u2028b=3": "can be printed",
    "\x1b[2J": "can be printed",
}


@pytest.mark.parametrize("typed", BREAKING, ids=lambda typed: repr(typed)[:30])
def test_fault_22_settings_that_break_a_parser(typed: str) -> None:
    sentence = refusal_of(lambda: config_check.check(compose(["model=mlp", typed])), ConfigError)
    assert sentence is not None
    assert BREAKING[typed] in sentence


def test_fault_22_a_path_of_nothing_is_none() -> None:
    assert not compose(["model=mlp", "run_dir="])["run_dir"]


PLUGIN = r"""
from torch import nn
class Broken(nn.Module):
    def __init__(self, inputs: int, outputs: int, rate: "nowhere.Type" = 0) -> None:
        raise RuntimeError("expected 4D input\nbut got 3D")
"""


def test_fault_22_what_else_is_said_of_a_config(composed: dict[str, Any], tmp_path: Path) -> None:
    config, kinds = composed["mlp"], [ConfigError]
    assert_refused(r"trainer is 'x\n'; it takes settings", config_check.check, config | {"trainer": "x\n"}, kinds=kinds)
    assert_refused("reports is [3]", config_check.check, config | {"reports": [3]}, kinds=kinds)
    assert_refused("'a b' is not a setting", config_check.check, config | {"a\nb": 3}, kinds=kinds)
    odd = config | {"network": config["network"] | {"inputs": "2\n"}}
    assert_refused(r"network.inputs is '2\n'; it takes a whole number", build.make_network, odd, SIZES, kinds=kinds)
    other = config | {"network": config["network"] | {"inputs": 3}}
    assert_refused("network.inputs is 3, the data have 2", build.make_network, other, SIZES, kinds=kinds)
    objective = build.make(config["objective"], "objective", (), net=torch.nn.Linear(1, 1))
    whole = config | {"optimizer": {"_target_": "torch.optim.LBFGS"}}
    assert_refused("evaluates the loss itself", build.build_optimizer, whole, objective, kinds=kinds)
    written(tmp_path / "broken_network.py", PLUGIN.encode())
    plugins = load_plugins([str(tmp_path / "broken_network.py")])
    broken = config | {"network": {"_target_": "broken_network.Broken", "rate": 3}}
    with pytest.raises(RuntimeError, match="expected 4D"):  # its author wants the traceback
        build.make_network(broken, SIZES, plugins)


def test_fault_22_plugins_that_are_no_files_of_python(tmp_path: Path) -> None:
    for name, content in (("json.py", b""), ("broken.py", b"import nowhere"), ("a-b.py", b""), ("LICENSE", b"MIT")):
        written(tmp_path / name, content)
    for name in ("LICENSE", "json.py", "a-b.py", "nowhere.py", ".", ""):
        assert_refused("must be a Python file", load_plugins, [str(tmp_path / name)], kinds=[ConfigError])
    assert_refused("does not load", load_plugins, [str(tmp_path / "broken.py")], kinds=[ConfigError])
    assert_refused("can be printed", plugin_files, ["plugins=a\nb.py"], kinds=[ConfigError])
    assert plugin_files(["a\tb.png"]) == [], "which is a file's own business"


@pytest.mark.parametrize(
    "content", [b"a: [", b"\xff\xfe", b"# @package _global_\ndefaults: [nowhere]\n", b"- a\n", b"a: *x\n", b"\0"]
)
def test_fault_22_a_folder_of_configs_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    written(tmp_path / "experiment" / "mine.yaml", content)
    assert (
        refusal_of(lambda: config_check.check(compose(["experiment=mine"], [str(tmp_path)])), ConfigError) is not None
    )


def test_fault_22_names_that_no_run_can_have(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 5000
    for line in (["evaluate", name], ["generate", name], ["translate", name], ["play", name], ["predict", name, name]):
        assert main(line) == 4
    assert main(["predict", "x", f"decimal={name}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 6


ARGUMENTS = [
    "",
    "=",
    "-",
    "--",
    "--help=3",
    "a=b",
    "x" * 200,
    "é\udcff",
    "\x1b[2J",
    "none",
    "/dev/null",
    "--count",
    "+",
]
ARGUMENTS += ["--prompt", "-1", "plugins=none.py", "plugins=", "split=x", "invert=maybe", "seed=nan", "--seed=1e9", "{"]
ARGUMENTS += [
    "'",
    "a.b=",
    "~",
    "nowhere/x",
    "--seed",
    "--plugins",
    "--device",
    "--split",
    "--metrics",
    "--over=",
    "--fast",
]
TRAINING = {"train", "search", "study"}
TELLING = {"doctor", "list", "completion"}  # which have nothing to refuse


@some
@given(st.sampled_from(sorted(set(COMMANDS) - TRAINING - TELLING)), st.lists(st.sampled_from(ARGUMENTS), max_size=4))
def test_fault_22_any_arguments_for_a_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", None)
    code = main([name, *arguments])
    said = capfd.readouterr().err
    assert code in (2, 3, 4) or (code == 0 and not said)
    assert len(said.splitlines()) == (1 if code else 0)
    assert not os.listdir(tmp_path)
