"""dlref completion: the script by which a shell completes dlref's command lines."""

import os
from argparse import Namespace
from pathlib import PurePath

from dlref.cli.arguments import Parser
from dlref.cli.completion import complete

SCRIPTS = {
    "bash": """_dlref() {
    COMPREPLY=($(dlref completion --words "${COMP_LINE:0:$COMP_POINT}" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}
complete -o default -F _dlref dlref""",
    "zsh": """(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_dlref() {
    local -a found
    found=(${(f)"$(dlref completion --words "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)"})
    (( $#found )) || { _files; return }
    compadd -S '' -- ${(M)found:#*[=.]}
    compadd -- ${found:#*[=.]}
}
compdef _dlref dlref""",
    "fish": """function __dlref_words
    set -l found (dlref completion --words (commandline -cp | string collect) 2>/dev/null)
    test -n "$found" && string join -- \\n $found || __fish_complete_path (commandline -ct)
end
complete -c dlref -f -a '(__dlref_words)'""",
}


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "shell",
        metavar="SHELL",
        nargs="?",
        choices=SCRIPTS,
        help="bash, zsh or fish; default: that of $SHELL, else bash",
    )
    parser.add_argument(
        "--words", metavar="LINE", help="print what the last, unfinished word of a command line may become"
    )
    parser.epilog = """examples:
  eval "$(dlref completion bash)"      in ~/.bashrc
  eval "$(dlref completion zsh)"       in ~/.zshrc
  dlref completion fish | source       in ~/.config/fish/config.fish"""


def main(arguments: Namespace) -> int:
    if arguments.words is not None:
        print("\n".join(complete(arguments.words)))
    else:
        own = PurePath(os.environ.get("SHELL", "")).name
        print(SCRIPTS[arguments.shell or (own if own in SCRIPTS else "bash")])
    return 0
