"""dlref doctor: each thing that may be wrong with a machine, brought about, with what is said and the exit code."""

import hashlib
import importlib
import pkgutil
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import pytest
import torch

import dlref.data
import dlref.reports
from dlref import hardware
from dlref.cli.commands import doctor
from dlref.cli.main import main
from dlref.data.download import RemoteFile
from dlref.data.supervised import images
from dlref.data.text import text_files
from dlref.data.text.parallel_corpora import ParallelFiles
from tests.conftest import POSIX, accelerators, needs_linux, needs_posix

CONTENT = b"as published"
SETS = ["mnist", "ptb", "tiny_shakespeare", "text8", "multi30k", "word_similarity"]


class Said(NamedTuple):
    """The exit code, and of each finding its grade, what it says, and the remedy or nothing."""

    code: int
    findings: list[tuple[str, str, str]]

    def about(self, text: str) -> list[tuple[str, str, str]]:
        return [finding for finding in self.findings if text in finding[1]]

    def of(self, text: str) -> tuple[str, str, str]:
        """The only finding that says this."""
        (found,) = self.about(text)
        return found


@pytest.fixture
def diagnosis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], Said]:
    """`dlref doctor` where nothing lies yet: data in `data`, encoded texts in `texts`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLREF_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DLREF_CACHE", str(tmp_path / "texts"))
    for name in ("DLREF_OFFLINE", "CXX", "CUDA_VISIBLE_DEVICES", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)

    def run() -> Said:
        code, findings = main(["doctor"]), list[tuple[str, str, str]]()
        for line in capsys.readouterr().out.splitlines():
            if line.startswith("      "):
                assert not findings[-1][2], f"a remedy has one line: {line}"
                findings[-1] = (*findings[-1][:2], line.strip())
            else:
                grade, _, what = line.partition("  ")
                findings.append((grade, what.strip(), ""))
        assert (code == 1) == any(grade == "FAIL" for grade, _, _ in findings)
        assert all(remedy for grade, _, remedy in findings if grade == "FAIL")
        return Said(code, findings)

    return run


def program(folder: Path, name: str, script: str) -> None:
    if not POSIX:
        pytest.skip("the test makes a program of a shell script")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_sound_machine(diagnosis: Callable[[], Said], tmp_path: Path) -> None:
    assert diagnosis().code == 0
    assert list(tmp_path.iterdir()) == []


CARD = "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1234)'"


@pytest.mark.parametrize(
    ("built_for", "visible", "grade", "remedy"),
    [
        (None, None, "FAIL", "pip install --force-reinstall torch"),
        ("12.9", None, "FAIL", "update NVIDIA's driver to one for CUDA 12.9"),
        ("12.9", "", "note", "unset CUDA_VISIBLE_DEVICES"),
        (None, "", "FAIL", "pip install --force-reinstall torch"),
    ],
)
def test_torch_that_cannot_use_the_gpu_beside_it(
    built_for: str | None, visible: str | None, grade: str, remedy: str, diagnosis: Callable[[], Said],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    program(tmp_path / "bin", "nvidia-smi", CARD)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    accelerators(monkeypatch, None)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    said = diagnosis()
    found = said.of("GPU 0: NVIDIA H100, ")
    assert found[0] == grade
    assert remedy in found[2]
    assert said.code == (grade == "FAIL")


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'"])
def test_a_driver_without_a_gpu_is_no_finding(
    script: str, diagnosis: Callable[[], Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "nvidia-smi", script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    accelerators(monkeypatch, None)
    said = diagnosis()
    assert said.code == 0
    assert not said.about("GPU")


def torchtext_as_if(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch, code: str | None = None) -> None:
    """This version stands before the real one, and its package if there is any `code`."""
    about = folder / f"torchtext-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torchtext\nVersion: {version}\n")
    if code is not None:
        (folder / "torchtext").mkdir()
        (folder / "torchtext" / "__init__.py").write_text(code)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchtext"]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


CANNOT_LOAD = "raise OSError('libtorchtext.so: undefined symbol: _ZN5torch3jit17parseSchemaOrNameE')"


def test_torchtext_that_cannot_load(
    diagnosis: Callable[[], Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchtext_as_if(tmp_path / "site", "0.18.0", monkeypatch, CANNOT_LOAD)
    said = diagnosis()
    assert said.code == 1
    grade, _, remedy = said.of("torchtext 0.18.0")
    assert grade == "FAIL"
    assert "undefined symbol" in remedy
    assert remedy.endswith("run: pip install torchtext==0.6.0")


def test_another_torchtext(diagnosis: Callable[[], Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchtext_as_if(tmp_path / "site", "0.5.0", monkeypatch)
    said = diagnosis()
    assert said.of("torchtext 0.5.0") == ("FAIL", "torchtext 0.5.0", "pip install torchtext==0.6.0")
    assert said.code == 1


@pytest.mark.parametrize(
    ("native", "said"),
    [
        (True, "precision auto is bf16 for networks with large matrix products (AMX multiplies bfloat16 natively)"),
        (False, "precision auto is float32 (AVX2 has no bfloat16 instructions; bf16 would be emulated)"),
    ],
)
def test_the_instruction_set_and_what_auto_picks_because_of_it(
    native: bool, said: str, diagnosis: Callable[[], Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerators(monkeypatch, None)
    monkeypatch.setattr(hardware, "instruction_set", lambda: "AMX" if native else "AVX2")
    found = diagnosis()
    assert said in found.of("device cpu")[1]
    assert found.of("processor: ")[1].endswith(", AMX" if native else ", AVX2")


def test_what_limits_the_instruction_set_is_named(
    diagnosis: Callable[[], Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerators(monkeypatch, None)
    assert "limits it" not in diagnosis().of("device cpu")[1]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "; ONEDNN_MAX_CPU_ISA=AVX2 limits it)" in diagnosis().of("device cpu")[1]


def test_an_accelerator_that_stays_idle_is_a_note(
    diagnosis: Callable[[], Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerators(monkeypatch, "xpu")
    assert diagnosis().of("xpu:0 is available but not used")[::2] == ("note", "set device=xpu to use it")


@needs_posix
def test_a_machine_without_a_compiler(
    diagnosis: Callable[[], Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CXX", raising=False)
    said = diagnosis()
    assert said.code == 0  # nothing but trainer.compile=true needs one
    assert said.of("C++ compiler: none")[::2] == (
        "note",
        "trainer.compile=true needs one: install g++, or set CXX to yours",
    )

    program(tmp_path / "bin", "clang++", "exit 0")
    assert diagnosis().of("C++ compiler")[:2] == ("ok", f"C++ compiler: {tmp_path / 'bin' / 'clang++'}")
    monkeypatch.setenv("CXX", "icpx -O2")
    assert diagnosis().of("C++ compiler")[:2] == ("note", "C++ compiler: none, though CXX names icpx")
    program(tmp_path / "bin", "icpx", "exit 0")
    assert diagnosis().of("C++ compiler")[:2] == ("ok", f"C++ compiler: {tmp_path / 'bin' / 'icpx'}")


@pytest.mark.parametrize("what", ["file", pytest.param("read-only file system", marks=needs_linux)])
def test_a_runs_folder_that_cannot_be_written(what: str, diagnosis: Callable[[], Said], tmp_path: Path) -> None:
    if what == "file":
        (tmp_path / "runs").write_bytes(b"")
    else:
        (tmp_path / "runs").symlink_to("/proc")  # which not even root can write
    said = diagnosis()
    assert said.code == 1
    grade, finding, remedy = said.of("runs cannot be written")
    assert grade == "FAIL"
    assert str(tmp_path / "runs") in finding
    assert "set run_dir=" in remedy


@pytest.mark.parametrize(
    ("free", "grade", "room"),
    [
        (5 * 2**30, "ok", "5.0 GiB"),
        (2**30, "ok", "1.0 GiB"),
        (900 * 2**20, "note", "900 MiB"),
        (50 * 2**20, "note", "50 MiB"),
        (40 * 2**20, "FAIL", "40 MiB"),
        (0, "FAIL", "0 MiB"),
    ],
)
def test_a_disk_that_is_nearly_full(
    free: int, grade: str, room: str, diagnosis: Callable[[], Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    asked = []
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: asked.append(Path(path)) or shutil._ntuple_diskusage(9, 9, free)
    )
    said = diagnosis()
    found = said.of("runs go to")
    assert (found[0], found[1].split(", ")[-1]) == (grade, f"{room} free")
    assert bool(found[2]) == (grade != "ok")
    assert said.code == (grade == "FAIL")
    assert [path.resolve() for path in asked] == [tmp_path / "runs"]
    assert list((tmp_path / "runs").iterdir()) == []


def remote_files() -> Iterator[RemoteFile]:
    """Every one that a module of the package holds by itself, in a list or in a dictionary."""
    for package in (dlref.data, dlref.reports):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(found.name)).values():
                held = [value] if isinstance(value, RemoteFile) else value if isinstance(value, list | dict) else []
                held = held.values() if isinstance(held, dict) else held
                yield from (file for file in held if isinstance(file, RemoteFile))


def test_it_knows_all_that_can_be_downloaded() -> None:
    assert set(SETS) == {file.name.split("/")[0] for file in remote_files()}
    assert {file.name for file in remote_files()} == {file.name for file in doctor.known_files()}


def test_missing_data_sets_are_no_failure(diagnosis: Callable[[], Said], monkeypatch: pytest.MonkeyPatch) -> None:
    said = diagnosis()
    assert said.code == 0
    for name in SETS:
        grade, what, remedy = said.of(f"data {name}:")
        assert grade == "note"
        assert ": 0 of " in what
        assert "downloaded on first use" in remedy

    monkeypatch.setenv("DLREF_OFFLINE", "1")
    said = diagnosis()
    assert all("by hand" in said.of(f"data {name}:")[2] for name in SETS)


@pytest.mark.parametrize("name", SETS)
def test_a_damaged_file_of_any_data_set(name: str, diagnosis: Callable[[], Said], tmp_path: Path) -> None:
    file = [file for file in doctor.known_files() if file.name.startswith(f"{name}/")][-1]
    path = tmp_path / "data" / file.name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no")
    said = diagnosis()
    assert said.code == 1
    assert said.of("is damaged") == ("FAIL", f"data {name}: {path} is damaged", f"rm {path}; it is downloaded again")
    carried_out(said.of("is damaged")[2])
    assert diagnosis().code == 0


def carried_out(remedy: str) -> None:
    """The command with which a remedy begins or ends."""
    command = remedy[remedy.index("rm ") :].partition(";")[0]
    subprocess.run(["/bin/sh", "-c", command], check=True)


@pytest.fixture
def two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """MNIST, as if it were two small files, none of which is there; and their folder, which has a blank."""
    monkeypatch.setenv("DLREF_DATA", str(tmp_path / "my data"))
    digest = hashlib.sha256(CONTENT).hexdigest()
    files = [RemoteFile(f"mnist/{name}", digest, ["http://127.0.0.1:9/none"]) for name in ("one", "other")]
    monkeypatch.setattr(images, "FILES", files)
    (tmp_path / "my data" / "mnist").mkdir(parents=True)
    return [tmp_path / "my data" / file.name for file in files]


def test_half_a_data_set_and_a_whole_one(diagnosis: Callable[[], Said], two_files: list[Path]) -> None:
    two_files[0].write_bytes(CONTENT)
    grade, what, remedy = diagnosis().of("data mnist:")
    assert (grade, what.split(" under")[0]) == ("note", "data mnist: 1 of 2 files")
    assert remedy.startswith("the rest is downloaded")

    two_files[1].write_bytes(CONTENT)
    assert diagnosis().of("data mnist:")[:2] == ("ok", f"data mnist: complete under {two_files[0].parents[1]}")


def test_a_download_that_has_stopped(diagnosis: Callable[[], Said], two_files: list[Path]) -> None:
    part = two_files[0].with_name("one.part")
    part.write_bytes(CONTENT[:5])
    said = diagnosis()
    assert said.code == 0
    grade, what, remedy = said.of("the download")
    assert (grade, what) == ("note", f"data mnist: the download {part} has stopped after 5 bytes")
    assert remedy.endswith(f"or rm {shlex.quote(str(part))}")

    with filelock.FileLock(two_files[0].with_name("one.lock")):  # another process is at it
        assert not diagnosis().about("the download")
    carried_out(remedy)
    assert not part.exists()


def test_a_data_set_that_cannot_be_read(
    diagnosis: Callable[[], Said], two_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    two_files[0].write_bytes(CONTENT)
    monkeypatch.setattr("dlref.data.download.sha256", refused)
    said = diagnosis()
    assert said.code == 1
    grade, what, remedy = said.of("data mnist:")
    assert grade == "FAIL"
    assert "Permission denied" in what
    assert "DLREF_DATA" in remedy


@pytest.fixture
def encoded(diagnosis: Callable[[], Said], tmp_path: Path) -> Path:
    """The folder of a text of English words, encoded."""
    (tmp_path / "novel.txt").write_text("It was a dark night.\n" * 20)
    text_files.encode({"train": tmp_path / "novel.txt"}, "english")
    (folder,) = (path for path in (tmp_path / "texts").iterdir() if path.is_dir())
    return folder


def about_json_says(folder: Path, text: str) -> None:
    (folder / "about.json").write_text(text)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut off": lambda folder: (folder / "train.int32").write_bytes(b"1234"),
    "a split gone": lambda folder: (folder / "train.int32").unlink(),
    "nothing said": lambda folder: (folder / "about.json").unlink(),
    "half said": lambda folder: about_json_says(folder, '{"words": ['),
    "nonsense": lambda folder: about_json_says(folder, "[]"),
    "words that are none": lambda folder: about_json_says(
        folder, '{"lengths": {}, "tokenizer": {"level": "words", "model": null}, "words": [1, 2]}'
    ),
}


def test_whole_encoded_texts_are_counted(encoded: Path, diagnosis: Callable[[], Said]) -> None:
    said = diagnosis()
    assert said.of("encoded text") == ("ok", f"encoded texts: 1 under {encoded.parent}", "")
    assert said.code == 0


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_encoded_text(how: str, encoded: Path, diagnosis: Callable[[], Said]) -> None:
    DAMAGE[how](encoded)
    said = diagnosis()
    assert said.of("is damaged") == (
        "note",
        f"encoded text {encoded} is damaged",
        f"rm -r {encoded}; what is needed is made again",
    )
    assert said.of("encoded texts: 0")
    assert said.code == 0
    carried_out(said.of("is damaged")[2])
    assert not diagnosis().about("is damaged")


@pytest.mark.parametrize("level", ["english", "bpe"])
def test_encoded_pairs_are_texts_too(level: Any, diagnosis: Callable[[], Said], tmp_path: Path) -> None:
    for name in ("a.de", "a.en"):
        (tmp_path / name).write_text("It was a dark night.\n" * 20)
    ParallelFiles([tmp_path / "a.de", tmp_path / "a.en"], level=level, bpe_vocab_size=30)
    assert diagnosis().of("encoded text")[1].startswith("encoded texts: 1")
    (array,) = (tmp_path / "texts").rglob("train.target.ids.npy")
    array.write_bytes(array.read_bytes()[:-4])
    assert diagnosis().of("is damaged")[1] == f"encoded text {array.parent} is damaged"


def test_an_encoded_text_of_an_older_format(
    encoded: Path, diagnosis: Callable[[], Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "FORMAT", text_files.FORMAT + 1)
    said = diagnosis()
    grade, _, remedy = said.of(f"{encoded} is of format 1, and runs make and read 2")
    assert grade == "note"
    assert said.code == 0
    carried_out(remedy)
    assert not encoded.exists()


def test_an_unfinished_encoded_text(encoded: Path, diagnosis: Callable[[], Said]) -> None:
    unfinished = encoded.rename(encoded.with_suffix(".part"))
    said = diagnosis()
    assert said.code == 0
    grade, _, remedy = said.of(f"{unfinished} is unfinished")
    assert grade == "note"
    with filelock.FileLock(encoded.with_suffix(".lock")):  # its run is at it
        assert not diagnosis().about("is unfinished")
    carried_out(remedy)
    assert not unfinished.exists()


def test_what_is_no_encoded_text_is_left_alone(encoded: Path, diagnosis: Callable[[], Said]) -> None:
    for name in ("photographs", "photographs.part", "0123"):
        (encoded.parent / name).mkdir()
    said = diagnosis()
    assert len(said.about("encoded text")) == 1
    assert not said.about("photographs")


def test_without_torchtext_encoded_texts_are_not_called_damaged(
    encoded: Path, diagnosis: Callable[[], Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchtext_as_if(tmp_path / "site", "0.18.0", monkeypatch, CANNOT_LOAD)
    said = diagnosis()
    assert said.of("torchtext 0.18.0")[0] == "FAIL"
    assert said.of("encoded text")[1].startswith("encoded texts: 1")
