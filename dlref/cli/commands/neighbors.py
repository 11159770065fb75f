"""dlref neighbors: nearest neighbors of a word, or of a sum of words, by cosine similarity of trained vectors."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref.cli.arguments import Parser, add_loading, add_run, text, whole
from dlref.cli.compose import load_plugins
from dlref.cli.loading import load
from dlref.cli.main import print_table
from dlref.errors import CheckpointError, ConfigError, did_you_mean


def add_arguments(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "words",
        metavar="WORD",
        nargs="*",
        default=[],
        type=text,
        help="a word, or all together a sum: king - man + woman",
    )
    parser.add_argument(
        "--count", metavar="N", type=whole(1), default=10, help="how many neighbors of each; default 10"
    )
    parser.add_argument(
        "--export",
        metavar="FILE",
        type=Path,
        help="write all vectors in word2vec.c's format: binary where FILE ends in .bin, else text",
    )
    add_loading(parser)
    parser.epilog = """RUN may be a file of vectors in word2vec's format: .txt, .vec or .bin.

examples:
  dlref neighbors RUN king queen
  dlref neighbors RUN king - man + woman --count 3
  dlref neighbors RUN --export vectors.bin"""


def main(arguments: Namespace) -> int:
    if not arguments.words and not arguments.export:
        raise ConfigError("dlref neighbors takes a run or a file of vectors, and words: dlref neighbors RUN king queen")
    sums = parse_sums(arguments.words)
    words, vectors = read_or_load(arguments.run, load_plugins(arguments.plugins), arguments.device)

    from dlref.reports.word_vector_quality import NormalizedVectors

    normalized = NormalizedVectors(words, vectors)
    for plus, minus in sums:
        for word in [*plus, *minus]:
            if word not in normalized.ids:
                raise ConfigError(f"'{word}' is not among the {len(words)} words{did_you_mean(word, words)}")
        title = " + ".join(plus) + "".join(f" - {word}" for word in minus)
        nearest = normalized.most_similar(plus, minus, arguments.count)
        print_table([(title, ""), *((f"  {word}", f"{similarity:.3f}") for word, similarity in nearest)])
    if arguments.export:
        from dlref.data.text.word2vec_format import write_vectors

        write_vectors(arguments.export, words, vectors.cpu())
        print(f"{len(words):,} vectors written to {arguments.export}")
    return 0


def parse_sums(names: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Each word by itself; or, where a sign is among them, one sum: the words that are added and those subtracted."""
    if not {"+", "-"} & set(names):
        return [([name], []) for name in names]
    plus: list[str] = []
    minus: list[str] = []
    terms, word_expected = plus, True
    for name in names:
        if (name in ("+", "-")) == word_expected:
            raise ConfigError(f"'{' '.join(names)}' is no sum of words; write as king - man + woman")
        if word_expected:
            terms.append(name)
        else:
            terms = plus if name == "+" else minus
        word_expected = not word_expected
    if word_expected:
        raise ConfigError(f"'{' '.join(names)}' ends with a sign; write as king - man + woman")
    return [(plus, minus)]


def read_or_load(name: str, plugins: Sequence[str], device: str) -> tuple[list[str], Any]:
    """Words and vectors [V, D] of a run, or of a file of them."""
    from dlref.data.text.word2vec_format import read_vectors
    from dlref.interfaces import WordVectors, declares

    if Path(name).is_file():
        return read_vectors(Path(name))
    net = load(name, plugins, device)
    words = net.description.get("vocabulary")
    if not declares(net, WordVectors) or not isinstance(words, list) or len(words) != len(net.vectors()):
        raise CheckpointError(f"{name} holds no vectors of words; dlref train model=word2vec makes some")
    return words, net.vectors()
