"""The training programs that Anneal knows, and whether an interpreter has them. Holds no torch."""

import subprocess
from enum import StrEnum

_LIMIT_S = 60
_HAS = """
import importlib.util, sys
sys.path = [folder for folder in sys.path if folder]  # not the working directory
sys.exit(importlib.util.find_spec(sys.argv[1]) is None)
"""


class Tool(StrEnum):
    """The values are the programs' Python packages, and the backend's words in job files."""

    UNSLOTH = "unsloth"
    AXOLOTL = "axolotl"


def missing(tool: Tool, python: str) -> str | None:
    """Why this interpreter cannot run the tool, in words; None if it has it.

    The package is looked for, not imported: that would take seconds, and a GPU's memory.
    """
    try:
        answer = subprocess.run(
            [python, "-c", _HAS, tool.value],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{python} cannot be run: {error}"
    return None if answer.returncode == 0 else f"{python} has no package {tool.value}"
