"""dlref neighbors: the words nearest to a word, or to a sum of words, by trained vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlref.cli.compose import load_plugins, plugin_files
from dlref.cli.loading import load
from dlref.cli.main import as_text, print_table, take_flags
from dlref.errors import CheckpointError, ConfigError, did_you_mean

HELP = """usage: dlref neighbors RUN_OR_CHECKPOINT_OR_FILE WORD… [--count 10] [--export FILE] [--device cpu]

  WORD…              the words nearest to each of them
  king - man + woman the words nearest to this sum
  --count 10         how many
  --export FILE      writes all vectors as word2vec.c does: binary where FILE ends with .bin, else text
  --device cpu       or cuda, cuda:N, mps, auto: where to compute

  a FILE in word2vec's format, .txt, .vec or .bin, may stand for a run"""


def main(arguments: Sequence[str]) -> int:
    flags: dict[str, Any] = {"--count": [], "--export": [], "--device": []}
    signs = {"+": "\0plus", "-": "\0minus"}  # a minus alone is no option
    rest = take_flags([signs.get(argument, argument) for argument in arguments], flags, HELP)
    if rest is None:
        return 0
    back = {code: sign for sign, code in signs.items()}
    plugins = load_plugins(plugin_files([argument for argument in rest if argument.startswith("plugins=")]))
    names = [back.get(argument, argument) for argument in rest if not argument.startswith("plugins=")]
    count = flags["--count"][-1] if flags["--count"] else "10"
    if not count.isdigit() or not int(count):
        raise ConfigError(f"--count {count} is no number from 1 on")
    if not names or (len(names) < 2 and not flags["--export"]):
        raise ConfigError("dlref neighbors takes a run or a file of vectors, and words: dlref neighbors RUN king queen")
    words, vectors = vectors_of(names[0], plugins, flags["--device"])

    from dlref.reports.word_similarity import Words

    known = Words(words, vectors)
    for plus, minus in asked([as_text(word, "a word") for word in names[1:]]):
        for word in [*plus, *minus]:
            if word not in known.ids:
                raise ConfigError(f"'{word}' is not among the {len(words)} words{did_you_mean(word, words)}")
        title = " + ".join(plus) + "".join(f" - {word}" for word in minus)
        near = [(f"  {word}", f"{alike:.3f}") for word, alike in known.nearest(plus, minus, int(count))]
        print_table([(title, ""), *near])
    if flags["--export"]:
        from dlref.data.text.word2vec_format import write_vectors

        write_vectors(Path(flags["--export"][-1]), words, vectors.cpu())
        print(f"{len(words):,} vectors written to {flags['--export'][-1]}")
    return 0


def asked(names: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """What to look for, each the words of a sum and those taken from it: all together where a sign is among them."""
    if not {"+", "-"} & set(names):
        return [([name], []) for name in names]
    plus: list[str] = []
    minus: list[str] = []
    side, wanted = plus, True  # a word comes next, or a sign
    for name in names:
        if (name in "+-") == wanted:
            raise ConfigError(f"'{' '.join(names)}' is no sum of words; write as king - man + woman")
        if wanted:
            side.append(name)
        else:
            side = plus if name == "+" else minus
        wanted = not wanted
    if wanted:
        raise ConfigError(f"'{' '.join(names)}' ends with a sign; write as king - man + woman")
    return [(plus, minus)]


def vectors_of(name: str, plugins: Sequence[str], device: Sequence[str]) -> tuple[list[str], Any]:
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
