"""dlref generate: text that a trained language model generates, printed token by token."""

import logging
from argparse import Namespace
from typing import Any

from dlref.cli.arguments import Parser, add_loading, add_run, number, text, whole
from dlref.cli.compose import load_plugins
from dlref.cli.loading import load
from dlref.errors import CheckpointError, brief

MAX_NAMED = 10  # unknown words

logger = logging.getLogger("dlref")


def add_arguments(parser: Parser) -> None:
    add_run(parser)
    parser.add_argument(
        "--prompt", metavar="TEXT", type=text, default="", help="the text to continue; default: a new line begins"
    )
    parser.add_argument(
        "--length",
        metavar="N",
        type=whole(1),
        default=100,
        help="tokens to generate: words, characters or subwords, as in training; default 100",
    )
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=number,
        default=1.0,
        help="divides the logits; 0 is greedy decoding; default 1",
    )
    parser.add_argument("--top-k", metavar="K", type=whole(1), help="sample from the K most probable tokens only")
    parser.add_argument(
        "--top-p",
        metavar="P",
        type=number,
        help="sample from the fewest most probable tokens whose probabilities sum to P",
    )
    parser.add_argument("--seed", metavar="N", type=whole(0), default=0, help="of the sampling; default 0")
    parser.add_argument(
        "--count",
        metavar="N",
        type=whole(1),
        default=1,
        help="texts to generate, separated by an empty line; default 1",
    )
    parser.add_argument(
        "--unknown", action="store_true", help="allow <unk>, which stands for every word outside the vocabulary"
    )
    add_loading(parser)
    parser.epilog = """examples:
  dlref generate RUN --prompt "the function returns" --temperature 0.8
  dlref generate RUN --top-k 40 --length 300 --seed 7 --count 3"""


def main(arguments: Namespace) -> int:
    sampling = {name: getattr(arguments, name) for name in ("length", "temperature", "top_k", "top_p")}
    from dlref.decoding.sampling import check_sampling

    check_sampling(**sampling)
    net = load(arguments.run, load_plugins(arguments.plugins), arguments.device)
    generate(arguments.run, net, arguments.prompt, arguments.seed, arguments.count, arguments.unknown, sampling)
    return 0


def generate(run: str, net: Any, prompt: str, seed: int, count: int, unknown: bool, sampling: dict[str, Any]) -> None:
    from dlref.data import generator
    from dlref.data.text.tokenizer import Tokenizer, Vocabulary
    from dlref.decoding.text import generate_text
    from dlref.interfaces import FixedContext, TextDecoder, declares

    description = net.description
    if not declares(net, TextDecoder) or not {"tokenizer", "vocabulary"} <= set(description):
        raise CheckpointError(f"{run} is no language model; dlref train model=lstm_lm or transformer_lm makes one")
    tokenizer, vocabulary = Tokenizer.described(description["tokenizer"]), Vocabulary(description["vocabulary"])
    tokens = tokenizer(prompt)
    if declares(net, FixedContext) and len(tokens) > net.context:
        message = "the prompt has %s tokens, and the network's context is %s; the first tokens are ignored"
        logger.warning(message, f"{len(tokens):,}", f"{net.context:,}")
    if unknown_words := [repr(brief(word, 40)) for word in dict.fromkeys(tokens) if word not in vocabulary]:
        more = len(unknown_words) - MAX_NAMED
        named = ", ".join(unknown_words[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
        logger.warning("the vocabulary of %d lacks %s, read as <unk>", len(vocabulary), named)
    for index in range(count):
        if index:
            print()
        random = generator(seed, index)
        for string in generate_text(net, tokenizer, vocabulary, prompt, unknown, generator=random, **sampling):
            print(string, end="", flush=True)
        print()
