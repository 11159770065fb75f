"""The same as `dlref evaluate`."""

import sys

from dlref.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
