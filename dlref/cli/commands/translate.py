"""dlref translate: what a trained model makes of lines, in their order."""

import codecs
import contextlib
import itertools
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlref.cli.commands.generate import number
from dlref.cli.commands.play import whole
from dlref.cli.compose import load_plugins, plugin_files
from dlref.cli.loading import load
from dlref.cli.main import require_no_settings, take_flags
from dlref.errors import CheckpointError, ConfigError, DataError

HELP = """usage: dlref translate RUN_OR_CHECKPOINT [FILE…] [--beam 1] [--penalty 0.6] [--length-limit N] [--batch 256]
                       [--unknown] [--device cpu] [plugins=my.py] < LINES > TRANSLATIONS

  FILE…             UTF-8 text, plain or .gz, to translate, each line to a line; without, what comes by standard input
  --beam 1          how many sequences are followed at a time; 1 takes the likeliest token always
  --penalty 0.6     how much a beam prefers long translations; 0 for not at all
  --length-limit N  most tokens that a line becomes, at most the network's context; without, twice those it has and ten
  --batch 256       lines at a time; fewer need less memory
  --unknown         lets the model write <unk>, which is every word that its vocabulary lacks
  --device cpu      or cuda, cuda:N, mps, auto: where to compute"""
LINES = 4096  # are read ahead, so that those of about one length are translated together


def main(arguments: Sequence[str]) -> int:
    flags: dict[str, Any] = {f"--{name}": [] for name in ("beam", "penalty", "length-limit", "batch")}
    flags |= {"--unknown": False, "--device": []}
    rest = take_flags(arguments, flags, HELP)
    if rest is None:
        return 0
    require_no_settings("translate", rest[1:], flags, ["plugins"])
    names = [argument for argument in rest if not argument.startswith("plugins=")]
    if not names:
        raise ConfigError("dlref translate takes a run or checkpoint: dlref translate RUN < LINES")
    settings: dict[str, Any] = {
        "beam": whole(flags, "--beam", 1, 1),
        "limit": whole(flags, "--length-limit", 1, 1) if flags["--length-limit"] else None,
        "batch": whole(flags, "--batch", 256, 1),
        "unknown": flags["--unknown"],
    }
    if flags["--penalty"]:
        settings["penalty"] = number(flags, "--penalty", None)
    translate(names[0], names[1:], settings, load_plugins(plugin_files(rest)), flags["--device"])
    return 0


def translate(
    run: str, files: Sequence[str], settings: dict[str, Any], plugins: Sequence[str], device: Sequence[str]
) -> None:
    from dlref.decoding.sampling import check_beam

    check_beam(settings["beam"], settings.get("penalty", 0.0))
    import torch

    from dlref.data.text.line_encoder import Side
    from dlref.reports.translation_quality import translated
    from dlref.training.checkpoint import find
    from dlref.training.devices import explained

    net = load(run, plugins, device)
    if threads := find(run).manifest["config"].get("threads"):  # a small network is slower with more
        torch.set_num_threads(threads)
    about = net.description
    if not {"source", "target"} <= set(about):
        raise CheckpointError(f"{run} is no translator; dlref train model=seq2seq or transformer makes one")
    source, target = (Side.described(about[side]) for side in ("source", "target"))
    lines = read(files)
    # Who types a line waits for its translation.
    most = 1 if not files and sys.stdin is not None and sys.stdin.isatty() else LINES
    with explained():
        while part := [*itertools.islice(lines, most)]:
            print("\n".join(translated(net, source, target, part, **settings)), flush=True)


def read(files: Sequence[str]) -> Iterator[str]:
    """The lines of all files, or of standard input, each as soon as it is there."""
    from dlref.data.text.text_files import opened

    if not files and sys.stdin is None:
        raise ConfigError("standard input is closed; dlref translate RUN FILE reads a file")
    for name in files or ["standard input"]:
        try:
            with opened(Path(name)) if files else contextlib.nullcontext(sys.stdin.buffer) as file:
                for count, line in enumerate(file, start=1):
                    try:
                        text = line.removeprefix(codecs.BOM_UTF8 if count == 1 else b"").decode().strip()
                    except UnicodeDecodeError:
                        raise DataError(f"line {count} of {name} holds bytes that are not UTF-8; convert it") from None
                    if "\0" in text:
                        raise DataError(f"line {count} of {name} holds a NUL byte; convert it to UTF-8 text")
                    yield text
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise DataError(f"{name} cannot be read ({getattr(error, 'strerror', None) or error})") from None
