"""The same as `dlref train`; made to be started by torchrun: torchrun --nproc-per-node 2 scripts/train.py model=mlp."""

import sys

from dlref.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
