"""Systems that are not Linux: each facility that they lack is taken away here, and everything works without it."""

import ast
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import yaml

from dlref import filesystem
from dlref.cli import compose
from dlref.cli.arguments import in_shell
from dlref.cli.commands import doctor
from dlref.cli.main import main, prepare_streams
from dlref.data.text.text_files import encode
from dlref.training import checkpoint, memory
from dlref.training.checkpoint import Checkpoints, find, pointed
from tests.conftest import ROOT, SMALL, needs_linux, needs_posix
from tests.faults.processes import refusal
from tests.training.test_resume import assert_same, everything, logged

pytestmark = pytest.mark.faults
Train = Callable[..., tuple[int, str]]
MLP = [
    *SMALL["mlp"],
    "schedule=constant",
    "~reports",
    "trainer.save_every=2",
    "trainer.eval_every=2",
    "trainer.monitor=eval/nll min",
]
POSIX_ONLY = ("resource", "fcntl", "pwd", "grp", "termios")
WITHOUT_MODULES = f"""
import sys
import psutil  # whose part for Linux imports resource; that for Windows does not
sys.modules |= dict.fromkeys({POSIX_ONLY})
import importlib, json, pkgutil
import dlref
for module in pkgutil.walk_packages(dlref.__path__, "dlref."):
    importlib.import_module(module.name)
from dlref.cli.main import main
for line in json.loads(sys.argv[1]):
    if code := main(line):
        sys.exit(code)
"""


def test_without_the_modules_of_posix_everything_is_imported_trained_resumed_and_evaluated(
    train: Train, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    settings = ["train", "device=cpu", "threads=1", *MLP]
    lines = [
        [*settings, f"run_dir={run}", "trainer.max_steps=3"],
        ["train", "threads=1", f"resume={run}", "trainer.max_steps=5"],
        ["evaluate", str(run / "checkpoints" / "last")],
    ]
    command = [sys.executable, "-c", WITHOUT_MODULES, json.dumps(lines)]
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert train(*MLP, f"run_dir={whole}", "trainer.max_steps=5")[0] == 0
    assert_same(everything(run), everything(whole))
    assert 50 < json.loads((run / "run.json").read_text())["memory_mib"] < 50_000


def no_link(*_: Any, **__: Any) -> None:
    error = OSError(errno.EPERM, "A required privilege is not held by the client")
    error.winerror = 1314  # type: ignore[attr-defined]
    raise error


@needs_posix
def test_without_links_a_run_has_pointer_files_and_resumes_bit_for_bit(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train(*MLP, f"run_dir={whole}", "trainer.max_steps=6")[0] == 0
    assert (whole / "checkpoints" / "last").is_symlink()
    monkeypatch.setattr(os, "symlink", no_link)
    last = run / "checkpoints" / "last"
    for steps, resume in ((2, []), (4, [f"resume={last}"]), (6, [f"resume={run}"])):
        where = resume or [*MLP, f"run_dir={run}"]
        assert train(*where, f"trainer.max_steps={steps}")[0] == 0
        assert last.read_bytes() == f"step-{steps:08d}\n".encode()
    assert_same(everything(run), everything(whole))
    assert logged(run) == logged(whole)
    best = run / "checkpoints" / "best"
    assert best.is_file()
    assert find(best).path == pointed(best)
    assert find(best).manifest["kind"] == "best"
    assert main(["evaluate", str(last)]) == 0
    assert json.loads((run / "evaluation.json").read_text())["checkpoint"] == "step-00000006"
    monkeypatch.undo()  # and back on a system with links
    assert train(f"resume={run}", "trainer.max_steps=8")[0] == 0
    assert last.resolve().name == "step-00000008"
    assert last.is_symlink()


def test_a_pointer_file_leads_to_the_checkpoint_that_it_names_as_a_link_does(trap: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(trap / "outside" / "checkpoints", checkpoints, symlinks=True)
    for content in (b"step-00000002", b"step-00000002\n", b"step-00000002\r\n"):  # as git, we and editors write it
        (checkpoints / "last").unlink()
        (checkpoints / "last").write_bytes(content)
        assert find(checkpoints / "last").step == 2
    assert Checkpoints(checkpoints).newest("step") == find(checkpoints / "step-00000004")


def test_on_windows_no_link_is_made_where_one_could_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be replaced in one step there."""
    monkeypatch.setattr(filesystem, "WINDOWS", True)
    (tmp_path / "step-00000001").mkdir()
    Checkpoints(tmp_path).point(tmp_path / "last", tmp_path / "step-00000001")
    assert (tmp_path / "last").read_bytes() == b"step-00000001\n"
    assert not (tmp_path / "last").is_symlink()


@needs_posix
def test_a_copy_of_a_run_with_folders_for_links_resumes_bit_for_bit(train: Train, tmp_path: Path) -> None:
    run, copy, whole = (tmp_path / name for name in ("run", "copy", "whole"))
    assert train(*MLP, f"run_dir={run}", "trainer.max_steps=4")[0] == 0
    assert train(*MLP, f"run_dir={whole}", "trainer.max_steps=6")[0] == 0
    shutil.copytree(run, copy)
    last = copy / "checkpoints" / "last"
    assert last.is_dir()
    assert not last.is_symlink()
    assert find(last).step == 4
    assert train(f"resume={copy}", "trainer.max_steps=6")[0] == 0
    assert_same(everything(copy), everything(whole))
    assert last.is_symlink()
    assert find(last).step == 6
    assert sorted(path.name for path in (copy / "checkpoints").glob(".*")) == []


@needs_posix
def test_a_folder_for_a_link_that_is_of_a_later_step_goes_when_an_earlier_one_is_resumed(
    train: Train, tmp_path: Path
) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    assert train(*MLP, f"run_dir={run}", "trainer.max_steps=4")[0] == 0
    shutil.copytree(run, copy)
    checkpoints = Checkpoints(copy / "checkpoints")
    checkpoints.forget_after(4)
    assert find(copy / "checkpoints" / "last").step == 4
    checkpoints.forget_after(2)
    assert find(copy / "checkpoints" / "last").step == 2


@needs_posix
def test_where_only_the_folder_last_was_copied_it_is_resumed(train: Train, tmp_path: Path) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    assert train(*MLP, f"run_dir={run}", "trainer.max_steps=4")[0] == 0
    shutil.copytree(run / "checkpoints" / "last", copy / "checkpoints" / "last")
    assert train(f"resume={copy}", "trainer.max_steps=6")[0] == 0
    assert train(f"resume={run}", "trainer.max_steps=6")[0] == 0
    assert_same(everything(copy), everything(run))


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run `inside`, of two steps, and next to it a checkpoint of another one, to which nothing may lead."""
    folder = tmp_path_factory.mktemp("trap")
    settings = ["train", "device=cpu", "threads=1", *MLP]
    assert main([*settings, f"run_dir={folder / 'inside'}", "trainer.max_steps=2"]) == 0
    assert main([*settings, f"run_dir={folder / 'outside'}", "trainer.max_steps=4"]) == 0
    shutil.copytree(folder / "outside" / "checkpoints" / "step-00000004", folder / "inside" / "step-00000004")
    return folder


POINTS = {
    "up": b"../step-00000004",
    "up with backslashes": b"..\\step-00000004",
    "in and up": b"step-00000002/../../step-00000004",
    "another run": b"../../outside/checkpoints/step-00000004",
    "absolute": b"TRAP/outside/checkpoints/step-00000004",
    "a drive": b"C:\\outside\\step-00000004",
    "a stream": b"step-00000002:hidden",
    "nothing": b"",
    "white space": b" \n",
    "itself": b"last",
    "gone": b"step-00000004",
    "the other kind": b"best-00000002",
    "two lines": b"step-00000002\n../step-00000004",
    "binary": bytes(range(256)),
    "NUL": b"step-00000002\0",
    "huge": b"step-00000002" * 2**20,
    "digits": b"step-" + b"9" * 4000,
    "other digits": "step-٠٠٠٠٠٠٠٢".encode(),
    "UTF-16": "step-00000004".encode("utf-16"),
}


@pytest.mark.parametrize("content", POINTS.values(), ids=POINTS.keys())
def test_whatever_a_pointer_file_holds_it_leads_nowhere_else(
    content: bytes, trap: Path, tmp_path: Path, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(trap, tmp_path / "trap", symlinks=True)
    run = tmp_path / "trap" / "inside"
    last = run / "checkpoints" / "last"
    last.unlink()
    last.write_bytes(content.replace(b"TRAP", str(tmp_path / "trap").encode()))
    assert pointed(last) is None
    assert find(last).path == run / "checkpoints" / "step-00000002"
    assert f"{last} does not name a checkpoint that is there" in caplog.text
    code, said = train(f"resume={last}")
    assert code == 4
    assert "is not a run directory" in refusal(said)
    assert train(f"resume={run}", "trainer.max_steps=3")[0] == 0
    assert find(last).path == run / "checkpoints" / "step-00000003"


@needs_posix
def test_a_pipe_for_a_pointer_file_is_not_waited_for(trap: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last")
    assert pointed(tmp_path / "last") is None
    shutil.copytree(trap / "inside" / "checkpoints" / "step-00000002", tmp_path / "step-00000002")
    assert find(tmp_path / "last").step == 2


@needs_posix
def test_a_folder_that_cannot_be_opened_is_not_synchronized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, asked = os.open, list[Path]()

    def refuse_folders(path: Any, *arguments: Any, **named: Any) -> int:
        if os.path.isdir(path):
            asked.append(Path(path))
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse_folders)
    checkpoint.sync_folder(tmp_path)
    assert asked == [tmp_path]
    monkeypatch.setattr(filesystem, "WINDOWS", True)
    checkpoint.sync_folder(tmp_path)
    assert asked == [tmp_path]


def in_use(path: Any) -> bool:
    """Whether this process has a file, or any file below a folder, open or memory-mapped."""
    real = os.path.realpath(path)
    opened = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path)]
    mapped = [line.split(maxsplit=5)[-1].rstrip("\n") for line in open("/proc/self/maps")]  # noqa: SIM115
    return any(name == real or name.startswith(f"{real}{os.sep}") for name in [*opened, *mapped])


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """File operations refuse what those of Windows refuse."""
    original = {name: getattr(os, name) for name in ("open", "unlink", "remove", "rename", "replace")}

    def refused(why: str, path: Any) -> PermissionError:
        return PermissionError(errno.EACCES, why, str(path))

    def open_no_folder(path: Any, *arguments: Any, dir_fd: Any = None, **named: Any) -> int:
        # rmtree alone opens folders, as descriptors that Windows' own does without.
        if dir_fd is None and os.path.isdir(path) and sys._getframe(1).f_globals["__name__"] != "shutil":
            raise refused("a folder is no file", path)
        return original["open"](path, *arguments, dir_fd=dir_fd, **named)

    def remove(path: Any, *, dir_fd: int | None = None) -> None:
        whole = path if dir_fd is None else os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        by_filelock = os.path.basename(whole).startswith(".filelock")  # whose part for Linux tries what a disk can do
        if not os.path.islink(whole) and not by_filelock and in_use(whole):
            raise refused("The process cannot access the file because it is being used", whole)
        original["unlink"](path, dir_fd=dir_fd)

    def rename(source: Any, target: Any) -> None:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "it is there already", str(target))
        replace(source, target)

    def replace(source: Any, target: Any) -> None:
        if os.path.isdir(target) or in_use(source) or in_use(target):
            raise refused("it is a folder, or being used", target)
        original["replace"](source, target)

    monkeypatch.setattr(filesystem, "WINDOWS", True)
    monkeypatch.setattr(filesystem, "BUSY", 0.1)
    monkeypatch.setattr(os, "open", open_no_folder)
    monkeypatch.setattr(os, "symlink", no_link)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "unlink", remove)
    monkeypatch.setattr(os, "remove", remove)
    yield
    monkeypatch.undo()


@needs_linux
def test_where_files_in_use_and_folders_are_refused_a_run_is_the_same(
    train: Train, windows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    for steps in (4, 6):
        where = [f"resume={run}"] if run.exists() else [*MLP, f"run_dir={run}"]
        assert train(*where, f"trainer.max_steps={steps}")[0] == 0
    assert main(["evaluate", str(run)]) == 0
    monkeypatch.undo()
    assert train(*MLP, f"run_dir={whole}", "trainer.max_steps=6")[0] == 0
    assert_same(everything(run), everything(whole))
    assert logged(run)[:-1] == logged(whole)  # the last line is of the evaluation


@needs_linux
def test_metrics_that_another_program_reads_are_written_over(train: Train, windows: None, tmp_path: Path) -> None:
    """The lines after the checkpoint go, as they do where a file that is open can be replaced."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    settings = [*MLP, "trainer.log_every=1"]
    assert train(*settings, f"run_dir={whole}", "trainer.max_steps=6")[0] == 0
    assert train(*settings, f"run_dir={run}", "trainer.max_steps=4")[0] == 0
    with open(run / "metrics.jsonl", encoding="utf-8") as reader:
        assert reader.readline()
        code, said = train(f"resume={run / 'checkpoints' / 'step-00000002'}", "trainer.max_steps=6")
    assert code == 0
    assert "cannot be written" not in said
    assert logged(run) == logged(whole)


@needs_linux
def test_a_text_is_encoded_without_removing_what_is_memory_mapped(
    windows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLREF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").write_text("one two three two\n" * 500, encoding="utf-8")
    first = encode({"train": tmp_path / "text"}, "words", held_out={"eval": 0.1})
    assert not [path.name for path in (tmp_path / "cache").rglob("*") if path.suffix == ".part"]
    again = encode({"train": tmp_path / "text"}, "words", held_out={"eval": 0.1})
    for split in ("train", "eval"):
        assert torch.equal(first.splits[split], again.splits[split])
    ids = torch.cat([first.splits["train"], first.splits["eval"]])
    assert " ".join(first.vocabulary.lookup_tokens(ids[:5].tolist())).startswith("one two three two")


@needs_posix
def test_a_rename_that_a_scanner_holds_up_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, refusals = os.replace, [3]

    def busy(source: Any, target: Any) -> None:
        refusals[0] -= 1
        if refusals[0] >= 0:
            raise PermissionError(errno.EACCES, "it is being used", str(target))
        original(source, target)

    (tmp_path / "one").touch()
    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(PermissionError):  # elsewhere a refusal stays one
        filesystem.move(tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr(filesystem, "WINDOWS", True)
    filesystem.move(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").exists()
    refusals[0] = 10**9
    monkeypatch.setattr(filesystem, "BUSY", 0.1)
    with pytest.raises(PermissionError):
        filesystem.move(tmp_path / "two", tmp_path / "three")


def test_what_a_later_save_left_and_cannot_be_removed_is_named(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert train(*MLP, f"run_dir={run}", "trainer.max_steps=4")[0] == 0

    def refuse(path: Any, **_: Any) -> None:
        raise PermissionError(errno.EACCES, "it is being used", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    code, said = train(f"resume={run / 'checkpoints' / 'step-00000002'}", "trainer.max_steps=6")
    assert code == 6
    assert "step-00000004" in refusal(said)
    assert "close the program that has it open" in refusal(said)


def test_the_peak_is_the_systems_own_or_what_is_used_now(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    exact = memory.peak_memory(cpu)["memory_mib"]
    monkeypatch.setitem(sys.modules, "resource", None)
    now = memory.peak_memory(cpu)["memory_mib"]
    assert 50 < now < 50_000
    assert now <= exact * 1.05
    used = SimpleNamespace(rss=3 * 2**20, peak_wset=7 * 2**20)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: used))
    assert memory.peak_memory(cpu) == {"memory_mib": 7.0}
    del used.peak_wset
    assert memory.peak_memory(cpu) == {"memory_mib": 3.0}


def test_free_memory_is_the_systems_or_the_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)  # macOS and Windows have none
    assert 2**20 < memory.free_memory(cpu) < 2**50
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5000))
    assert memory.free_memory(cpu) == 5000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory(cpu) == 5000
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.free_memory(cpu) == 2000
    monkeypatch.setattr(psutil, "virtual_memory", lambda: (_ for _ in ()).throw(psutil.AccessDenied()))
    assert memory.free_memory(cpu) == 2000
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "none")
    assert memory.free_memory(cpu) == float("inf")


def test_free_memory_of_another_accelerator_is_known_where_torch_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = torch.device("meta")
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (700, 900), raising=False)
    assert memory.free_memory(meta) == 700

    def cannot_tell(_: Any) -> None:
        raise RuntimeError("not implemented for this backend")

    monkeypatch.setattr(torch.accelerator, "get_memory_info", cannot_tell, raising=False)
    assert memory.free_memory(meta) == float("inf")
    monkeypatch.delattr(torch.accelerator, "get_memory_info")
    assert memory.free_memory(meta) == float("inf")


def test_cores_are_counted_where_the_system_does_not_say_which_are_physical(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8 if logical else None)
    assert memory.cores() == {"physical_cores": None, "cores": 8}
    assert doctor.counted(**memory.cores()) == "8 cores"
    assert doctor.counted(4, 8) == "4 cores, 8 hardware threads"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["list"], ["nonsense…"]])
def test_where_output_is_ascii_other_characters_are_escaped(arguments: list[str]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "dlref", *arguments]
    ended = subprocess.run(command, capture_output=True, timeout=60, env=environment, cwd=ROOT)
    assert ended.returncode == 2 * (arguments == ["nonsense…"]), ended.stderr
    said = (ended.stdout + ended.stderr).decode("ascii")
    assert "Traceback" not in said
    assert "\\u2026" in said


def test_without_a_console_nothing_is_said_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["list", "experiment"]) == 0
    assert main(["nonsense"]) == 2
    assert not sys.stderr.isatty()


@pytest.mark.parametrize("chosen", [False, True])
def test_what_windows_writes_to_a_file_is_utf_8_unless_chosen_otherwise(
    chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", newline="\n"))
    monkeypatch.setattr(filesystem, "WINDOWS", True)
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    if chosen:
        monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    prepare_streams()
    print("ä → 你", flush=True)
    assert written.getvalue() == (b"\xe4 \\u2192 \\u4f60\n" if chosen else "ä → 你\n".encode())


PATHS = [
    r"C:\runs\x",
    r"C:\a b.csv",
    r"c:\it's here\a.csv",
    r"D:\a=b,c[1]{2}(3)\x.csv",
    r"D:\100% of it\ #1 & 2.csv",
    "C:\\folder\\",
    "C:/mixed up\\x.csv",
    r"\\server\share\a.csv",
    r"\\?\C:\long\a.csv",
    r"C:\Datensätze\größe.csv",
    r"C:\new\table\u1234.csv",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_with_a_drive_letter_arrives_as_it_was_typed(path: str) -> None:
    keys = ["run_dir", "resume", "plugins", "data.file"]
    composed = compose.flatten(compose.compose(["model=mlp", *(f"{key}={path}" for key in keys)]))
    assert [composed[key] for key in keys] == [path] * len(keys)
    assert compose.typed_value(f"data.file={path}", Path) == path


@needs_posix
def test_a_backslash_is_a_path_on_windows_and_escapes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    relative = "data.file=tables\\a\\(1),b.csv"
    assert compose.compose(["model=mlp", "name=a\\,b"])["name"] == "a,b"
    monkeypatch.setattr(filesystem, "WINDOWS", True)
    assert compose.compose(["model=mlp", relative])["data"]["file"] == relative.partition("=")[2]


@pytest.mark.slow
def test_a_sweep_over_a_path_with_a_drive_letter_trains_with_it(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "dlref", "train", "-m", "model=mlp", "device=cpu", *MLP[1:], r"goal=\\server\x (1)"]
    ended = subprocess.run(
        [*line, "trainer.max_steps=1", "seed=0"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    [config] = (tmp_path / "runs").rglob("config.yaml")
    assert yaml.safe_load(config.read_text(encoding="utf-8"))["goal"] == r"\\server\x (1)"


@needs_posix
def test_a_folder_of_configs_is_found_behind_odd_characters(tmp_path: Path) -> None:
    folder = tmp_path / "it's mine, C:\\(1)"
    (folder / "model").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "model" / "mlp.yaml", folder / "model" / "my_mlp.yaml")
    assert compose.compose(["model=my_mlp"], [str(folder)])["name"] == "my_mlp"
    of_windows: Any = PureWindowsPath(r"C:\my configs")
    assert compose.searched([of_windows]) == ["hydra.searchpath=['file://C:/my configs']"]


@needs_posix
def test_a_remedy_is_a_command_only_where_the_shell_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b").mkdir()
    assert doctor.remove(tmp_path / "a b") == f"rm -r '{tmp_path / 'a b'}'"
    assert in_shell("runs/a b") == "'runs/a b'"
    monkeypatch.setattr(filesystem, "WINDOWS", True)
    assert doctor.remove(tmp_path / "a b") == f"remove the folder {tmp_path / 'a b'}"
    assert doctor.remove(tmp_path / "file") == f"remove the file {tmp_path / 'file'}"
    assert in_shell(r"runs\a b") == r'"runs\a b"'


def test_a_name_from_elsewhere_is_a_name_of_a_file_everywhere() -> None:
    assert filesystem.file_name('eval_de→en: "a/b\\c" <x>|?*\n.png') == "eval_de→en_ _a_b_c_ _x_____.png"


@pytest.mark.parametrize(
    "line", ["data=table data.task=regression data.targets=[y] data.file={}", "data=text data.train={}"]
)
def test_a_home_that_nobody_knows_is_a_file_that_is_not_there(line: str, train: Train) -> None:
    code, said = train("model=mlp", *line.format("~nobody_of_this_name/a.csv").split())
    assert code == 3, said
    refusal(said)


def sources() -> list[Path]:
    scripts = [path for path in (ROOT / "scripts").rglob("*.py") if "peers" not in path.parts]
    return [*(ROOT / "dlref").rglob("*.py"), *scripts]


def test_no_text_is_read_by_the_systems_encoding_and_no_module_of_posix_at_import() -> None:
    wrong = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [(path, node.lineno) for name in named if name.partition(".")[0] in POSIX_ONLY]
        for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
            reads_text = isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text")
            if isinstance(call.func, ast.Name) and call.func.id == "open":
                mode = call.args[1] if len(call.args) > 1 else ast.Constant("r")
                reads_text = isinstance(mode, ast.Constant) and "b" not in mode.value
            if reads_text and "encoding" not in {keyword.arg for keyword in call.keywords}:
                wrong.append((path, call.lineno))
    assert not wrong
