"""dlref translate: the translations of lines by a trained model, in their order."""

import codecs
import contextlib
import itertools
import sys
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlref.cli.arguments import Parser, add_loading, add_run, number, whole
from dlref.cli.compose import load_plugins
from dlref.cli.loading import load
from dlref.errors import CheckpointError, ConfigError, DataError

READ_AHEAD = 4096  # lines, so that those of about one length are translated together


def add_arguments(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        default=[],
        help="UTF-8 text, plain or .gz, one sentence a line; default: standard input",
    )
    parser.add_argument(
        "--beam", metavar="N", type=whole(1), default=1, help="beam size; 1 is greedy decoding; default 1"
    )
    parser.add_argument(
        "--penalty",
        metavar="ALPHA",
        type=number,
        help="exponent of the length penalty (Wu et al. 2016); 0 for none; default 0.6",
    )
    parser.add_argument(
        "--length-limit",
        metavar="N",
        type=whole(1),
        help="most tokens of a translation; default twice those of the line and ten",
    )
    parser.add_argument(
        "--batch",
        metavar="N",
        type=whole(1),
        default=256,
        help="sequences decoded together; fewer need less memory; default 256",
    )
    parser.add_argument(
        "--unknown", action="store_true", help="allow <unk>, which stands for every word outside the vocabulary"
    )
    add_loading(parser)
    parser.epilog = """examples:
  dlref translate RUN < lines.de > lines.en
  dlref translate RUN a.de b.de --beam 5"""


def main(arguments: Namespace) -> int:
    settings = {
        "beam": arguments.beam,
        "max_len": arguments.length_limit,
        "batch_size": arguments.batch,
        "unknown": arguments.unknown,
    }
    if arguments.penalty is not None:
        settings["length_penalty"] = arguments.penalty
    translate(arguments.run, arguments.files, settings, load_plugins(arguments.plugins), arguments.device)
    return 0


def translate(run: str, files: Sequence[str], settings: dict[str, Any], plugins: Sequence[str], device: str) -> None:
    from dlref.decoding.beam_search import check_beam

    check_beam(settings["beam"], settings.get("length_penalty", 0.0))
    import torch

    from dlref.data.text.line_encoder import LineEncoder
    from dlref.decoding.translate import translate_lines
    from dlref.interfaces import Seq2SeqDecoder, declares
    from dlref.training.checkpoint import find
    from dlref.training.devices import explained

    net = load(run, plugins, device)
    if threads := find(run).manifest["config"].get("threads"):  # a small network is slower with more
        torch.set_num_threads(threads)
    description = net.description
    if not declares(net, Seq2SeqDecoder) or not {"source", "target"} <= set(description):
        raise CheckpointError(f"{run} is no translator; dlref train model=seq2seq or transformer makes one")
    source, target = (LineEncoder.described(description[side]) for side in ("source", "target"))
    lines = read(files)
    interactive = not files and sys.stdin is not None and sys.stdin.isatty()
    with explained():
        while chunk := [*itertools.islice(lines, 1 if interactive else READ_AHEAD)]:
            print("\n".join(translate_lines(net, source, target, chunk, **settings)), flush=True)


def read(files: Sequence[str]) -> Iterator[str]:
    """The lines of all files, or of standard input, each as soon as it arrives."""
    from dlref.data.text.text_files import open_text

    if not files and sys.stdin is None:
        raise ConfigError("standard input is closed; dlref translate RUN FILE reads a file")
    for name in files or ["standard input"]:
        try:
            with open_text(Path(name)) if files else contextlib.nullcontext(sys.stdin.buffer) as file:
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
