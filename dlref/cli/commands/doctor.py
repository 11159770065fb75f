"""dlref doctor: what this machine has, and a remedy for what is missing."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from dlref import filesystem
from dlref.cli.arguments import Parser, in_shell

if TYPE_CHECKING:
    import torch

    from dlref.data.download import RemoteFile

Finding = tuple[bool | None, str, str]  # whether it is fine (None: worth knowing), what was found, what to do about it


def add_arguments(parser: Parser) -> None:
    parser.epilog = "Exit code 1 if a check fails."


def main(_: Namespace) -> int:
    failed = False
    for good, what, remedy in findings():
        print(
            f"{ {True: 'ok  ', False: 'FAIL', None: 'note'}[good] }  {what}" + (f"\n      {remedy}" if remedy else "")
        )
        failed |= good is False
    return int(failed)


def findings() -> Iterator[Finding]:
    from dlref import hardware
    from dlref.training.memory import cores
    from dlref.training.run import processor, versions

    found = versions()
    yield (
        sys.version_info[:2] in [(3, 11), (3, 12), (3, 13)],
        f"Python {found['python']}",
        "" if sys.version_info[:2] < (3, 14) else "use Python 3.11 to 3.13",
    )
    yield from torch_and_device(found)
    yield from torchtext(found["torchtext"])
    for name in ("gymnasium", "hydra-core", "numpy"):
        missing = found[name] == "not installed"
        yield not missing, f"{name} {found[name]}", f"pip install {name}" if missing else ""
    yield compiler()
    yield None, f"processor: {processor()}, {counted(**cores())}, {hardware.instruction_set()}", ""
    yield from data_sets()
    yield from encoded_texts()
    yield runs()


def counted(physical_cores: int | None, cores: int | None) -> str:
    """`4 cores`, or `2 cores, 4 hardware threads` where they differ."""
    if physical_cores in (None, cores):
        return f"{cores or 'an unknown number of'} cores"
    return f"{physical_cores} cores, {cores} hardware threads"


def torch_and_device(found: dict[str, str]) -> Iterator[Finding]:
    import torch

    from dlref.training.devices import choose_device, device_name, idle_accelerator
    from dlref.training.precision import resolve

    yield True, f"torch {torch.__version__}, {torch.get_num_threads()} threads", ""
    device = choose_device("auto")
    yield (
        True,
        f"device {device} ({device_name(device) or 'no CUDA'}), precision auto is {resolve('auto', device)}{reason(device)}",
        "",
    )
    if idle := idle_accelerator(device):
        yield None, f"{idle} is available but not used", f"set device={idle.partition(':')[0]} to use it"
    if device.type == "cuda" or not (card := gpu()):
        return
    if torch.version.cuda is None:
        remedy = "pip install --force-reinstall torch, in the build that https://pytorch.org/get-started names for CUDA"
        yield False, f"{card}, but this torch is built without CUDA", remedy
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield None, f"{card}, which CUDA_VISIBLE_DEVICES hides", "unset CUDA_VISIBLE_DEVICES to use it"
    else:
        remedy = f"update NVIDIA's driver to one for CUDA {torch.version.cuda}, or install torch for an older CUDA"
        yield False, f"{card}, but this torch cannot use it", remedy


def reason(device: "torch.device") -> str:
    """Why `precision=auto` is what it is."""
    from dlref.hardware import LIMITS, instruction_set, multiplies_bf16

    if device.type != "cpu":
        return ""
    limited = "".join(f"; {name}={os.environ[name]} limits it" for name in LIMITS if name in os.environ)
    if multiplies_bf16(device):
        return f" for networks with large matrix products ({instruction_set()} multiplies bfloat16 natively{limited})"
    return f" ({instruction_set()} has no bfloat16 instructions; bf16 would be emulated{limited})"


def gpu() -> str:
    """The first card that NVIDIA's driver knows, or nothing; asked without torch, which may be what is wrong."""
    try:
        command = ["nvidia-smi", "--list-gpus"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return next((line.partition(" (UUID")[0] for line in listed.splitlines() if line.startswith("GPU ")), "")


def torchtext(version: str) -> Iterator[Finding]:
    from dlref.data.text.tokenizer import Tokenizer
    from dlref.errors import ConfigError

    try:
        Tokenizer("english")("It works.")
    except ConfigError as error:
        yield False, f"torchtext {version}", str(error)
    else:
        good = version == "0.6.0"
        yield good, f"torchtext {version}", "" if good else "pip install torchtext==0.6.0"


def compiler() -> Finding:
    from dlref.training.devices import compilers, cpp_compiler

    if found := cpp_compiler():
        return True, f"C++ compiler: {found}", ""
    missing = f"none, though CXX names {compilers()[0]}" if os.environ.get("CXX") else "none"
    wanted = "Visual Studio Build Tools" if compilers() == ["cl"] else compilers()[0]
    return None, f"C++ compiler: {missing}", f"trainer.compile=true needs one: install {wanted}, or set CXX to yours"


def known_files() -> "list[RemoteFile]":
    """All files that dlref can download."""
    from dlref.data.supervised import images
    from dlref.data.text import corpora, parallel_corpora
    from dlref.reports import word_vector_quality

    texts = [*corpora.PTB_FILES.values(), corpora.SHAKESPEARE, corpora.TEXT8, *parallel_corpora.FILES.values()]
    return [*images.FILES, *texts, *word_vector_quality.PAIRS.values(), word_vector_quality.QUESTIONS]


def data_sets() -> Iterator[Finding]:
    from dlref.data.download import data_root

    root, sets = data_root(None), dict[str, list["RemoteFile"]]()
    for file in known_files():
        sets.setdefault(file.name.split("/")[0], []).append(file)
    for name, files in sets.items():
        try:
            yield from data_set(name, files, root)
        except OSError as error:
            yield False, f"data {name}: {error}", "make it readable, or set DLREF_DATA to another folder"


def data_set(name: str, files: "Sequence[RemoteFile]", root: Path) -> Iterator[Finding]:
    from dlref.data.download import offline, part_path, sha256

    there = [file for file in files if (root / file.name).is_file()]
    wrong = [file for file in there if sha256(root / file.name) != file.sha256]
    for file in wrong:
        yield (
            False,
            f"data {name}: {root / file.name} is damaged",
            f"{remove(root / file.name)}; it is downloaded again",
        )
    if len(there) < len(files):
        rest = "it" if not there else "the rest"
        remedy = f"{rest} is downloaded on first use; DLREF_DATA names another folder"
        if offline():
            remedy = f"DLREF_OFFLINE is set: put {rest} there by hand, or unset it"
        yield None, f"data {name}: {len(there)} of {len(files)} files under {root}", remedy
    elif not wrong:
        yield True, f"data {name}: complete under {root}", ""
    for path in (root / file.name for file in files):
        part = part_path(path)
        if part.is_file() and not is_locked(path.with_name(path.name + ".lock")):
            unfinished = f"data {name}: the download {part} has stopped after {part.stat().st_size:,} bytes"
            yield None, unfinished, f"the next run that needs it resumes it, or {remove(part)}"


def encoded_texts() -> Iterator[Finding]:
    from dlref.data.text.token_cache import cache_folder

    home, complete = cache_folder(), 0
    for folder in sorted(home.glob("*")):
        if not re.fullmatch(r"[0-9a-f]{32}(\.part)?", folder.name):
            continue  # it may be anybody's
        if wrong := defect(folder):
            yield None, f"encoded text {folder} {wrong}", f"{remove(folder)}; what is needed is made again"
        else:
            complete += 1
    yield True, f"encoded texts: {complete} under {home}", ""


def defect(folder: Path) -> str:
    """Why no run will use an encoded text, or nothing."""
    from dlref.data.text import encoded_pairs, text_files
    from dlref.data.text.tokenizer import english
    from dlref.errors import ConfigError, DlrefError

    if folder.suffix == ".part":
        return "" if is_locked(folder.with_suffix(".lock")) else "is unfinished: its run was killed"
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if (found := about.get("format", 1)) != text_files.FORMAT:  # the first one was not written down
            return f"is of format {found}, and runs make and read {text_files.FORMAT}"
        of_pairs = "source" in about
        if (about["source"] if of_pairs else about)["tokenizer"]["level"] == "english":
            english()
        return "" if (encoded_pairs.load if of_pairs else text_files.load)(folder) else "is damaged"
    except ConfigError:
        return ""  # torchtext does not load, which is a finding of its own
    except (DlrefError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return "is damaged"


def is_locked(lock: Path) -> bool:
    """Whether a process holds this lock."""
    try:
        if lock.is_file():
            filelock.FileLock(lock).acquire(blocking=False).lock.release()
    except OSError:  # filelock.Timeout is one
        return True
    return False


def remove(path: Path) -> str:
    if filesystem.WINDOWS:  # whose shells have different commands for it
        return f"remove the {'folder' if path.is_dir() else 'file'} {path}"
    return f"rm {'-r ' * path.is_dir()}{in_shell(str(path))}"


def runs() -> Finding:
    folder = Path("runs")
    where = folder if folder.exists() or folder.is_symlink() else Path()
    try:
        with tempfile.TemporaryFile(dir=where, prefix=".dlref") as file:
            file.write(bytes(4096))
        free = shutil.disk_usage(where).free / 2**20
    except OSError as error:
        return False, f"runs cannot be written to {folder.absolute()}: {error}", "change folder, or set run_dir="
    room = f"{free / 2**10:.1f} GiB" if free >= 1024 else f"{free:.0f} MiB"
    good = True if free >= 1024 else None if free >= 50 else False
    remedy = "" if good else "make room, or set run_dir= to a folder on another disk"
    return good, f"runs go to {folder.absolute()}, {room} free", remedy
