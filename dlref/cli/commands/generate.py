"""dlref generate: text that a trained language model writes, shown as it comes."""

import logging
from collections.abc import Sequence
from typing import Any

from dlref.cli.commands.play import whole
from dlref.cli.compose import load_plugins, plugin_files
from dlref.cli.loading import load
from dlref.cli.main import as_text, require_no_settings, take_flags
from dlref.errors import CheckpointError, ConfigError, brief

HELP = """usage: dlref generate RUN_OR_CHECKPOINT [--prompt TEXT] [--length 100] [--temperature 1] [--top-k K] [--top-p P]
                      [--seed 0] [--count 1] [--unknown] [--device cpu] [plugins=my.py]

  --prompt TEXT    what the text begins with, printed as the model reads it; without, a new line begins
  --length 100     how many tokens follow: words, characters or pieces of words, as the model has learned them
  --temperature 1  lower for likelier text, 0 for the likeliest token always
  --top-k K        draws from the K likeliest tokens only
  --top-p P        draws from the likeliest tokens that together have the share P
  --seed 0         another one, another text
  --count 1        how many texts, with an empty line between them
  --unknown        lets the model write <unk>, which is every word that its vocabulary lacks
  --device cpu     or cuda, cuda:N, mps, auto: where to compute"""
MOST = 10  # unknown words that are named

logger = logging.getLogger("dlref")


def main(arguments: Sequence[str]) -> int:
    flags: dict[str, Any] = {f"--{name}": [] for name in ("prompt", "length", "seed", "count")}
    flags |= {"--temperature": [], "--top-k": [], "--top-p": [], "--unknown": False, "--device": []}
    rest = take_flags(arguments, flags, HELP)
    if rest is None:
        return 0
    require_no_settings("generate", rest[1:], flags, ["plugins"])
    runs = [a for a in rest if not a.startswith("plugins=")]
    if len(runs) != 1:
        raise ConfigError("dlref generate takes one run or checkpoint: dlref generate RUN --prompt TEXT")
    prompt = as_text(flags["--prompt"][-1], "--prompt") if flags["--prompt"] else ""
    settings: dict[str, Any] = {
        "length": whole(flags, "--length", 100, 1),
        "temperature": number(flags, "--temperature", 1.0),
        "top_k": whole(flags, "--top-k", 1, 1) if flags["--top-k"] else None,
        "top_p": number(flags, "--top-p", None),
    }
    seed, count = whole(flags, "--seed", 0, 0), whole(flags, "--count", 1, 1)
    from dlref.decoding.sampling import check

    check(**settings)
    net = load(runs[0], load_plugins(plugin_files(rest)), flags["--device"])
    generate(runs[0], net, prompt, seed, count, flags["--unknown"], settings)
    return 0


def number(flags: dict[str, Any], flag: str, default: float | None) -> float | None:
    if not flags[flag]:
        return default
    try:
        return float(flags[flag][-1])
    except ValueError:
        raise ConfigError(f"{flag} is {flags[flag][-1]}; it takes a number") from None


def generate(run: str, net: Any, prompt: str, seed: int, count: int, unknown: bool, settings: dict[str, Any]) -> None:
    from dlref.data import generator
    from dlref.data.text.tokenizer import Tokenizer, Vocabulary
    from dlref.interfaces import FixedContext, TextDecoder, declares
    from dlref.reports.samples import written

    about = net.description
    if not declares(net, TextDecoder) or not {"tokenizer", "vocabulary"} <= set(about):
        raise CheckpointError(f"{run} is no language model; dlref train model=lstm_lm or transformer_lm makes one")
    tokenizer, vocabulary = Tokenizer.described(about["tokenizer"]), Vocabulary(about["vocabulary"])
    tokens = tokenizer(prompt)
    if declares(net, FixedContext) and len(tokens) > net.context:
        told = "the prompt has %s tokens, and the network sees %s at most; of what comes first it knows nothing"
        logger.warning(told, f"{len(tokens):,}", f"{net.context:,}")
    if lacking := [repr(brief(word, 40)) for word in dict.fromkeys(tokens) if word not in vocabulary]:
        named = ", ".join(lacking[:MOST]) + (f" and {len(lacking) - MOST} more" if len(lacking) > MOST else "")
        logger.warning("the vocabulary of %d lacks %s, read as <unk>", len(vocabulary), named)
    for text in range(count):
        if text:
            print()
        draw = generator(seed, text)
        for piece in written(net, tokenizer, vocabulary, prompt, unknown, generator=draw, **settings):
            print(piece, end="", flush=True)
        print()
