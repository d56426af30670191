"""The `anneal` command."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command with the process's arguments, and exits."""
    from anneal.cli.root import run

    sys.exit(run(sys.argv[1:]))
