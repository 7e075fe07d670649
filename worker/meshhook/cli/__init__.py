"""The command line `meshhook`."""

import sys


def main() -> None:
    """Run the command that the arguments of the program name, and exit with its code."""
    from meshhook.cli.app import run

    sys.exit(run(sys.argv[1:]))
