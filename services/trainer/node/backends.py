"""What this node can train with, and the program of each."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.trainer.backends.tools import Tool, missing
from services.trainer.node.engine import ENGINE

BUILTIN = "builtin"
"""The engine, which every node has."""

_PROGRAM = (sys.executable, "-P", "-m", "services.trainer.backends")
_log = structlog.get_logger()


@dataclass(frozen=True)
class Backends:
    """`…_python` is the interpreter that has the tool; without one it is looked for in the node's
    own."""

    unsloth_python: Path | None = None
    axolotl_python: Path | None = None

    def installed(self) -> tuple[str, ...]:
        """The backends whose jobs can be trained here. Asks each interpreter, which takes a
        moment."""
        found = [BUILTIN]
        for tool in Tool:
            reason = missing(tool, self._python(tool))
            if reason is None:
                found.append(tool.value)
            elif self._told(tool) is not None:
                _log.warning("node.backend_missing", backend=tool.value, error=reason)
        return tuple(found)

    def program(self, backend: str) -> Sequence[str]:
        """What to start with a job file. Of a backend that is not known here it is one that says
        so, as a fault of the job."""
        if backend == BUILTIN:
            return ENGINE
        known = backend in list(Tool)
        python = ("--python", self._python(Tool(backend))) if known else ()
        return (*_PROGRAM, *python, backend)

    def _python(self, tool: Tool) -> str:
        return str(self._told(tool) or sys.executable)

    def _told(self, tool: Tool) -> Path | None:
        match tool:
            case Tool.UNSLOTH:
                return self.unsloth_python
            case Tool.AXOLOTL:
                return self.axolotl_python
