"""dlref doctor: what this machine has, and a remedy for what is missing."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlref.cli.main import take_flags

HELP = "usage: dlref doctor      checks versions, device, compiler, data sets and the runs folder; exit code 1 if one fails"


def main(arguments: Sequence[str]) -> int:
    if take_flags(arguments, {}, HELP) is None:
        return 0
    failed = False
    for good, what, remedy in findings():
        print(
            f"{ {True: 'ok  ', False: 'FAIL', None: 'note'}[good] }  {what}" + (f"\n      {remedy}" if remedy else "")
        )
        failed |= good is False
    return int(failed)


def findings() -> Iterator[tuple[bool | None, str, str]]:
    """Whether it is fine (None: worth knowing), what was found, and what to do about it."""
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
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++"))), None) or os.environ.get("CXX")
    yield (
        (True if compiler else None),
        f"C++ compiler: {compiler or 'none'}",
        "" if compiler else "trainer.compile=true needs one: install g++",
    )
    yield None, f"processor: {processor()}, {os.cpu_count()} cores", ""
    yield from data_sets()
    yield from runs()


def torch_and_device(found: dict[str, str]) -> Iterator[tuple[bool | None, str, str]]:
    import torch

    from dlref.training import devices

    yield True, f"torch {torch.__version__}, {torch.get_num_threads()} threads", ""
    device = devices.choose_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no CUDA"
    yield True, f"device {device} ({name}), precision auto is {devices.resolve('auto', device)}", ""
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        yield (
            False,
            "there is a GPU, but this torch cannot use it",
            "install a CUDA build: pip install --force-reinstall torch",
        )


def torchtext(version: str) -> Iterator[tuple[bool | None, str, str]]:
    from dlref.data.text import Tokenizer
    from dlref.errors import ConfigError

    try:
        Tokenizer("english")("It works.")
    except ConfigError as error:
        yield False, f"torchtext {version}", str(error)
    else:
        good = version == "0.6.0"
        yield good, f"torchtext {version}", "" if good else "pip install torchtext==0.6.0"


def data_sets() -> Iterator[tuple[bool | None, str, str]]:
    from dlref.data.download import data_root, sha256
    from dlref.data.images import FILES

    root = data_root(None)
    for name, files in {"mnist": FILES}.items():
        there = [file for file in files if (root / file.name).is_file()]
        wrong = [file.name for file in there if sha256(root / file.name) != file.sha256]
        if wrong:
            yield False, f"data {name}: {', '.join(wrong)} under {root} is damaged", "remove it; it is downloaded again"
        elif len(there) < len(files):
            yield (
                None,
                f"data {name}: {len(there)} of {len(files)} files under {root}",
                "the rest is downloaded on first use; DLREF_DATA names another folder",
            )
        else:
            yield True, f"data {name}: complete under {root}", ""


def runs() -> Iterator[tuple[bool | None, str, str]]:
    folder = Path("runs")
    try:
        with tempfile.NamedTemporaryFile(dir=folder if folder.is_dir() else Path(), prefix=".dlref"):
            pass
    except OSError as error:
        yield False, f"runs cannot be written to {folder.absolute()}: {error}", "change folder, or set run_dir="
        return
    free = shutil.disk_usage(folder if folder.is_dir() else Path()).free / 2**30
    yield free > 1 or None, f"runs go to {folder.absolute()}, {free:.1f} GiB free", "" if free > 1 else "make room"
