"""`python -m dlref` is `dlref`."""

from dlref.cli.main import entry

if __name__ == "__main__":
    entry()
